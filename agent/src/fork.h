/*
 * fork.h: tables of its own for a forked child that is followed.
 *
 * A child shares its parent's tables, and must not write there. Its flag page was wiped, so that each hook comes to
 * inert(), and from there to fork_follow(): the first one to come makes fresh tables somewhere else and moves them to
 * where the parent's were, in one system call, so that another thread or a signal handler finds the one or the other.
 * Blocks from before the fork belong to the parent's profile; here they are unknown.
 *
 * What is taken over never changes while hooks are in place, or is a list that only grows, so that it does not matter
 * that the parent goes on writing meanwhile, nor what its threads were doing when it forked: no lock is looked at.
 *
 * A child by vfork, or by clone without a copy of the memory, has its parent's flag page and never comes here.
 */

enum {
	MAP_READ_WRITE = 1 | 2,         /* PROT_READ | PROT_WRITE */
	MAP_FRESH = 1 | 0x20 | 0x4000,  /* MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, on both CPUs */
	MAP_UNLESS_MAPPED = 0x100000,   /* MAP_FIXED_NOREPLACE, Linux 4.17; older ones take the address for a hint */
	MOVE_HERE = 1 | 2,              /* MREMAP_MAYMOVE | MREMAP_FIXED */
	DONT_DUMP = 16,                 /* MADV_DONTDUMP */
	LAST_ERROR = 4095,
};

INLINE int failed(s64 result) { return (u64)result >= (u64)-LAST_ERROR; }

#define TAKE_OVER(field) __builtin_memcpy(&to->field, &T->field, sizeof to->field)

static void windows_take_over(struct ht_tables *to)
{
	const struct ht_window *from = &T->threads;
	u64 windows = (u64)((struct ht_window *)(T->spare + sizeof T->spare / sizeof *T->spare) - from);
	for (u64 i = 0; i < windows; i++) {
		struct ht_window *w = &to->threads + i;
		*w = from[i];
		u64 next = LOAD(&from[i].next);
		w->next = w->first;
		if (w->kept) {
			w->next = next < w->entries ? next : w->entries;
			memcpy((u8 *)to + w->offset, at(w->offset), w->next * w->kept);
		}
	}
}

/* Fills in a header, zeroed, for this process. */
static void header_take_over(struct ht_tables *to)
{
	to->magic = T->magic;
	to->fingerprint = T->fingerprint;
	to->state = HT_STATE_TRACKING;
	to->image = T->image;
	to->size = T->size;
	to->started = T->started + seconds_now() * 1000000000;
	TAKE_OVER(original);
	TAKE_OVER(config);
	to->config.pid = (u32)system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
	to->parent = T->config.pid;
	to->timeline_due = 0;
	to->timeline_step = 1;
	to->native_stacks = T->native_stacks;
	TAKE_OVER(stacks); /* before the windows, which then have what it names */
	windows_take_over(to);
	to->frame_capacity = T->frame_capacity;
	TAKE_OVER(python);
	TAKE_OVER(native);
	TAKE_OVER(stubs);
	TAKE_OVER(names);
	to->names_count = T->names_count;
	to->loader = T->loader;
	to->slots_missed = T->slots_missed;
	to->modules_looks = T->modules_looks;
	to->loader_iterate = T->loader_iterate;
	to->has_native = T->has_native;
	to->has_mapped = T->has_mapped;
	to->may_yield = T->may_yield;
	TAKE_OVER(ledger);
}

/*
 * Puts the tables at `from` into the place of those that are there. The kernel unmaps the old ones before it moves the
 * new; should it then find no memory for its own records of a mapping, there would be nothing.
 */
static int tables_move(u64 from, u64 size)
{
	u64 here = (u64)T;
	if (!failed(system_call(SYS_mremap, from, size, size, MOVE_HERE, here, 0)))
		return 1;
	s64 p = system_call(SYS_mmap, here, size, MAP_READ_WRITE, MAP_FRESH | MAP_UNLESS_MAPPED, ~0ull, 0);
	if ((u64)p == here)
		memcpy(T, (void *)from, sizeof *T);
	else if (!failed(p))
		system_call(SYS_munmap, (u64)p, size, 0, 0, 0, 0);
	system_call(SYS_munmap, from, size, 0, 0, 0, 0);
	return 0;
}

static int tables_change(void)
{
	u64 size = T->size;
	s64 fresh = system_call(SYS_mmap, 0, size, MAP_READ_WRITE, MAP_FRESH, ~0ull, 0);
	if (failed(fresh))
		return 0;
	if (failed(system_call(SYS_madvise, (u64)fresh, size, DONT_DUMP, 0, 0, 0))) {
		system_call(SYS_munmap, (u64)fresh, size, 0, 0, 0, 0);
		return 0;
	}
	header_take_over((struct ht_tables *)fresh);
	/* While the parent's are still there: it, too, wants to know. */
	__atomic_fetch_add(&T->followed, 1, __ATOMIC_RELAXED);
	if (tables_move((u64)fresh, size))
		return 1;
	__atomic_fetch_sub(&T->followed, 1, __ATOMIC_RELAXED);
	return 0;
}

/* In a forked child that is to be followed, makes it a tracked process. Returns whether the caller is in one now. */
COLD int fork_follow(void)
{
	u64 is = HT_TABLES_INHERITED;
	if (LOAD(&ht_flag.tables) != HT_TABLES_INHERITED || !CFG->follow || LOAD(&T->state) != HT_STATE_TRACKING ||
	    !__atomic_compare_exchange_n(&ht_flag.tables, &is, HT_TABLES_CHANGING, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return 0;
	if (!tables_change()) {
		__atomic_fetch_add(&T->not_followed, 1, __ATOMIC_RELAXED);
		STORE(&ht_flag.tables, HT_TABLES_LEFT);
		return 0;
	}
	struct ht_thread *t = thread_self();
	if (t && CFG->sample_bytes)
		STORE(&ht_flag.until_sample, sample_distance(t));
	is = HT_TABLES_CHANGING;
	/* A tracer that wants to take the hooks out may have been here meanwhile. */
	if (!__atomic_compare_exchange_n(&ht_flag.tables, &is, HT_TABLES_OWN, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return 0;
	STORE_RELEASE(&ht_flag.active, 1);
	return 1;
}
