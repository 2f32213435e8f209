/*
 * filter.h: a process that sets itself a seccomp filter.
 *
 * The tracer has seen to the filters that were there when it came. One that is set later may kill the process for a system
 * call that only the agent makes. So the agent looks who asks for one, and makes no more system calls from there on:
 * it goes without the names of threads, and without the slots of modules that are loaded later.
 */

enum { PR_SET_SECCOMP = 22, FILTER_YIELDS = 1 << 16 };

COLD void filter_comes(void)
{
	/* Of a child that has its parent's tables the agent makes none, unless it is to get tables of its own. */
	if (LOAD(&ht_flag.tables) != HT_TABLES_OWN && !fork_follow() && !CFG->follow)
		return;
	__atomic_store_n(&T->filtered, 1, __ATOMIC_SEQ_CST);
	for (u32 i = 0; i < FILTER_YIELDS && __atomic_load_n(&ht_flag.calling, __ATOMIC_SEQ_CST); i++)
		if (T->may_yield)
			kernel_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
		else
			relax();
}

enum { RTLD_NEXT = -1 };

/* Is dlsym asked for one of the functions that may set a filter? Those handles for which it looks who its caller is say no. */
NOINLINE int sets_filters(u64 handle, u64 name)
{
	if (!handle || handle == (u64)RTLD_NEXT || !name)
		return 0;
	const struct ht_name *known = name_known((const u8 *)name);
	return known && (known->function == HT_N_PRCTL || known->function == HT_N_SYSCALL);
}

/* What it is told, as a slot would have it: nobody else would see what it does with it (ctypes). */
COLD u64 filter_symbol(u64 (*real)(u64, u64), u64 handle, u64 name)
{
	struct ht_thread *t = active() ? thread_self() : 0;
	if (!t || t->depth)
		return real(handle, name);
	depth_enter(t, __builtin_frame_address(0));
	u64 p = real(handle, name);
	t->depth = 0;
	for (u32 v = 0; v < HT_NATIVE_VARIANTS; v++)
		for (u32 f = HT_N_PRCTL; f <= HT_N_SYSCALL && p; f++)
			if (LOAD(&T->native[f][v]) == p)
				return T->stubs[f][v];
	return p;
}

INLINE void filter_look(u64 nr, u64 option)
{
	if (unlikely(nr == SYS_seccomp || (nr == SYS_prctl && (u32)option == PR_SET_SECCOMP)))
		filter_comes();
}
