/* fork.h: tables of its own for a forked child. */
#include <sys/resource.h>
#include <sys/wait.h>

enum { FORK_BASE = 0x7f0000001000, FORK_SIZE = 40, FORK_LISTED = 5 };

/* Shared tables that are to be followed, in the middle of everything: a thread within an allocator, locks held. */
static void follow_tables(u64 sample_bytes)
{
	tables((struct plan){.shared = 1, .sample_bytes = sample_bytes});
	scripted();
	CFG->follow = 1;
	/* A list that children begin with, behind the fixture's windows. */
	struct ht_window *last = &T->leaves;
	u64 end = last->offset + (last->entries * (8 << HT_LEAF_WORDS_LOG2));
	place(&T->slots_hooked, &end, 128, sizeof(struct ht_ledger), 0);
	T->slots_hooked.kept = sizeof(struct ht_ledger);
	T->slots_hooked.next = FORK_LISTED;
	struct ht_ledger *list = (struct ht_ledger *)at(T->slots_hooked.offset);
	for (u32 i = 0; i < FORK_LISTED; i++)
		list[i].address = i + 1;
	T->ledger[3].address = 77;
}

static void allocate(u64 address, u32 blocks)
{
	for (u32 i = 0; i < blocks; i++) {
		struct script s = {.next = address + i * 64};
		(CFG->sample_bytes ? sampled : hooks)[HT_OBJ].malloc(&s, FORK_SIZE);
		CHECK(s.calls == 1, "%u calls", s.calls);
	}
}

/* The process has seen so many allocations and nothing else. */
static void expect_own(u32 blocks, u64 parent)
{
	struct ht_count c = sum_counts(HT_OBJ);
	CHECK(ht_flag.active && ht_flag.tables == HT_TABLES_OWN, "flag %llu, %llu", ht_flag.active, ht_flag.tables);
	CHECK(c.alloc_blocks == blocks && c.alloc_bytes == blocks * FORK_SIZE, "%llu blocks of %u", c.alloc_blocks, blocks);
	CHECK(each_live(0, 0) == blocks && T->live == blocks * FORK_SIZE, "%llu live", T->live);
	CHECK(CFG->pid == (u32)getpid() && T->parent == parent && T->owner == 0, "pid %u", CFG->pid);
	CHECK(T->followed == 0 && T->not_followed == 0, "%llu followed", T->followed);
	CHECK(T->magic == HT_MAGIC && T->state == HT_STATE_TRACKING && T->size == REGION_SIZE, "header");
	CHECK(!T->code_lock && !T->modules_lock && !T->mappings_lock, "locks");
	CHECK(T->slots_hooked.next == FORK_LISTED && T->ledger[3].address == 77, "%llu listed", T->slots_hooked.next);
	for (u32 i = 0; i < FORK_LISTED; i++)
		CHECK(((struct ht_ledger *)at(T->slots_hooked.offset))[i].address == i + 1, "listed %u", i);
	CHECK(T->slots.next == 1 && thread_self()->depth == 0 && thread_self()->tid == (u32)getpid(), "%llu threads", T->slots.next);
}

/* Runs the function in a forked child, to its end. */
static void in_child(void (*run)(u64), u64 arg)
{
	pid_t child = fork();
	CHECK(child >= 0, "fork");
	if (!child) {
		run(arg);
		_exit(0);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0, "child ended with %#x", status);
}

static void grandchild(u64 parent)
{
	CHECK(!ht_flag.active && ht_flag.tables == HT_TABLES_INHERITED, "flag %llu, %llu", ht_flag.active, ht_flag.tables);
	struct script s = {0};
	hooks[HT_OBJ].free(&s, (void *)FORK_BASE); /* its parent's */
	CHECK(s.freed == FORK_BASE && !ht_flag.active, "a free changes nothing");
	allocate(FORK_BASE + (1 << 20), 7);
	expect_own(7, parent);
	hooks[HT_OBJ].free(&s, (void *)FORK_BASE);
	CHECK(thread_self()->unseen_frees == 1 && each_live(0, 0) == 7, "%llu unseen", thread_self()->unseen_frees);
}

static u64 parents_random;

static void child(u64 parent)
{
	allocate(FORK_BASE + 32, 11);
	expect_own(11, parent);
	CHECK(thread_self()->random != parents_random, "the parent's samples");
	T->modules_lock = 1;
	for (u32 i = 1; i <= 3; i++) {
		in_child(grandchild, (u64)getpid());
		CHECK(T->followed == i && each_live(0, 0) == 11, "%llu followed", T->followed);
	}
}

static void test_fork(void)
{
	follow_tables(0);
	allocate(FORK_BASE, 100);
	thread_self()->depth = 1;
	parents_random = thread_self()->random;
	T->code_lock = T->modules_lock = T->mappings_lock = 1;
	in_child(child, (u64)getpid());
	thread_self()->depth = 0;
	struct ht_count c = sum_counts(HT_OBJ);
	CHECK(T->followed == 1 && c.alloc_blocks == 100 && c.freed_blocks == 0 && each_live(0, 0) == 100, "%llu followed",
	      T->followed);
}

enum { FORK_THREADS = 4, FORK_BLOCKS = 500 };

static pthread_barrier_t fork_start;

static void *allocating(void *arg)
{
	pthread_barrier_wait(&fork_start);
	for (u32 i = 0; i < FORK_BLOCKS; i++) {
		struct script s = {.next = FORK_BASE + ((u64)arg << 20) + i * 64};
		hooks[HT_RAW].malloc(&s, FORK_SIZE);
		CHECK(s.calls == 1, "%u calls", s.calls);
	}
	return 0;
}

/* Several threads of a child come to their first hook at the same time: one sets up, what the others do till then is lost. */
static void racing_child(u64 unused)
{
	(void)unused;
	pthread_t threads[FORK_THREADS];
	pthread_barrier_init(&fork_start, 0, FORK_THREADS);
	for (u64 i = 0; i < FORK_THREADS; i++)
		CHECK(!pthread_create(&threads[i], 0, allocating, (void *)i), "thread");
	for (u64 i = 0; i < FORK_THREADS; i++)
		pthread_join(threads[i], 0);
	struct ht_count c = sum_counts(HT_RAW);
	CHECK(c.alloc_blocks >= FORK_BLOCKS && c.alloc_blocks <= FORK_THREADS * FORK_BLOCKS, "%llu blocks", c.alloc_blocks);
	CHECK(each_live(0, 0) == c.alloc_blocks && live_others() == c.alloc_bytes, "%llu live", live_others());
	CHECK(ht_flag.active && ht_flag.tables == HT_TABLES_OWN, "flag");
}

static void test_fork_races(void)
{
	follow_tables(0);
	for (u64 i = 1; i <= 50; i++) {
		in_child(racing_child, 0);
		CHECK(T->followed == i && T->not_followed == 0 && each_live(0, 0) == 0, "%llu followed", T->followed);
	}
}

static void quiet_child(u64 tables)
{
	allocate(FORK_BASE, 3);
	CHECK(!ht_flag.active && ht_flag.tables == tables && ht_flag.until_sample > 0, "flag %llu", ht_flag.tables);
}

static void cramped_child(u64 limit)
{
	struct rlimit l = {limit, limit};
	CHECK(!setrlimit(RLIMIT_AS, &l), "limit");
	quiet_child(HT_TABLES_LEFT);
}

/* Told to be left alone by a tracer that is about to take the hooks out. */
static void left_child(u64 tables)
{
	ht_flag.tables = tables;
	quiet_child(tables);
}

/* Children that are not to be followed, or cannot be. */
static void test_fork_quiet(void)
{
	follow_tables(512);
	in_child(cramped_child, 1 << 20);
	CHECK(T->not_followed == 1 && T->followed == 0 && T->slots.next == 0, "%llu not followed", T->not_followed);
	in_child(left_child, HT_TABLES_LEFT);
	in_child(left_child, HT_TABLES_CHANGING);
	CFG->follow = 0;
	in_child(quiet_child, HT_TABLES_INHERITED);
	CFG->follow = 1;
	u64 states[] = {HT_STATE_HOOKING, HT_STATE_UNHOOKING, HT_STATE_PASSIVE};
	for (u32 i = 0; i < 3; i++) {
		T->state = states[i];
		in_child(quiet_child, HT_TABLES_INHERITED);
	}
	CHECK(T->not_followed == 1 && T->followed == 0 && T->slots.next == 0, "%llu followed", T->followed);
	/* And not in the process itself, before it is active and after. */
	T->state = HT_STATE_TRACKING;
	ht_flag.active = 0;
	ht_flag.until_sample = 0;
	quiet_child(HT_TABLES_OWN);
}
