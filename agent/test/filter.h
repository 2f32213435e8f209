/* filter.h: who sets a seccomp filter, and who makes no system calls from there on. */

static u64 filter_arguments[6];

static u64 real_any(REGISTER_ARGUMENTS)
{
	u64 is[] = {THE_REGISTERS};
	memcpy(filter_arguments, is, sizeof filter_arguments);
	return 4711;
}

static s64 own_pid(void) { return system_call(SYS_getpid, 0, 0, 0, 0, 0, 0); }

/* Calls that set no filter, and at last one that does. */
static void set_filter(u64 by)
{
	CHECK(ht_native_prctl_0(15, PR_SET_SECCOMP, 3, 4, 5, 6) == 4711 && filter_arguments[5] == 6, "passed on");
	CHECK(ht_native_syscall_0(SYS_gettid, PR_SET_SECCOMP, 3, 4, 5, 6) == 4711 && filter_arguments[1] == PR_SET_SECCOMP, "passed on");
	CHECK(ht_native_syscall_0(SYS_prctl, 15, 3, 4, 5, 6) == 4711 && !T->filtered, "what sets no filter is taken for one that does");
	if (by == 0)
		ht_native_prctl_0(PR_SET_SECCOMP, 2, 3, 4, 5, 6);
	else
		ht_native_syscall_0(by, PR_SET_SECCOMP, 3, 4, 5, 6);
	CHECK(filter_arguments[by != 0] == PR_SET_SECCOMP, "passed on");
}

static void filtered_grandchild(u64 unused)
{
	(void)unused;
	allocate(FORK_BASE, 3);
	CHECK(!ht_flag.active && ht_flag.tables == HT_TABLES_LEFT, "a child of a filtered process made system calls for tables of its own");
}

/* It becomes a tracked process, if that is still to be, before its filter is there. */
static void filtered_child(u64 by)
{
	u64 parent = (u64)getppid();
	set_filter(by);
	CHECK(T->filtered && ht_flag.tables == HT_TABLES_OWN && T->parent == parent, "filtered %u", T->filtered);
	CHECK(own_pid() == -38, "a system call after the filter");
	allocate(FORK_BASE, 3);
	CHECK(each_live(0, 0) == 3, "%llu live", each_live(0, 0));
	in_child(filtered_grandchild, 0);
}

static void unfollowed_child(u64 by)
{
	set_filter(by);
	CHECK(!T->filtered && ht_flag.tables == HT_TABLES_INHERITED, "a child's filter is taken for its parent's");
}

static void *calls_on(void *calls)
{
	while (own_pid() == getpid())
		__atomic_fetch_add((u64 *)calls, 1, __ATOMIC_RELAXED);
	return 0;
}

static u32 call_ended;

/* Another thread's system call that is still being made. */
static void *in_call(void *arg)
{
	for (u32 i = 0; i < 1 << 16; i++)
		relax();
	STORE(&call_ended, 1);
	__atomic_fetch_sub(&ht_flag.calling, 1, __ATOMIC_SEQ_CST);
	return arg;
}

static u64 after_calls(REGISTER_ARGUMENTS)
{
	CHECK(LOAD(&call_ended), "the filter is set while a system call is being made");
	return real_any(THE_REGISTERS);
}

static void test_filter_waits(void)
{
	tables((struct plan){0});
	T->native[HT_N_PRCTL][0] = (u64)after_calls;
	T->may_yield = 1;
	call_ended = 0;
	ht_flag.calling = 1;
	pthread_t thread;
	CHECK(!pthread_create(&thread, 0, in_call, 0), "thread");
	ht_native_prctl_0(PR_SET_SECCOMP, 2, 3, 4, 5, 6);
	pthread_join(thread, 0);
}

static void test_filter_comes(void)
{
	static const u64 by[] = {0, SYS_seccomp, SYS_prctl};
	for (u32 i = 0; i < 3; i++) {
		follow_tables(0);
		T->native[HT_N_PRCTL][0] = T->native[HT_N_SYSCALL][0] = (u64)real_any;
		T->may_yield = 1;
		in_child(filtered_child, by[i]);
		CHECK(!T->filtered && T->followed == 1 && own_pid() == getpid(), "a child's filter is taken for its parent's");
		CFG->follow = 0;
		in_child(unfollowed_child, by[i]);
		CHECK(!T->filtered, "a child's filter is taken for its parent's");
		u64 calls = 0;
		pthread_t thread;
		CHECK(!pthread_create(&thread, 0, calls_on, &calls), "thread");
		while (!LOAD(&calls))
			relax();
		set_filter(by[i]);
		CHECK(T->filtered && own_pid() == -38, "a system call after the filter");
		pthread_join(thread, 0);
		CHECK(!ht_flag.calling, "%llu are in system calls", ht_flag.calling);
	}
}
