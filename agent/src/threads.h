/*
 * threads.h: a thread's record, found by its thread pointer.
 *
 * Open addressing over a table that never grows. A slot once taken keeps its record for ever; a thread that comes
 * later may take over the slot of one that has ended, together with its part of the stack trie, so that a program
 * that makes threads without end does not make the tables grow.
 */

INLINE struct ht_thread *thread_slots(void) { return (struct ht_thread *)at(T->threads.offset); }

INLINE u64 thread_hash(u64 pointer)
{
	/* Fibonacci hashing: thread pointers differ by whole stacks. */
	return pointer * 0x9e3779b97f4a7c15ull >> 40;
}

enum { THREAD_PROBES = 64 };

COLD void thread_named(struct ht_thread *t)
{
	s64 tid = CFG->may_gettid ? system_call(SYS_gettid, 0, 0, 0, 0, 0, 0) : 0;
	STORE(&t->tid, tid > 0 ? (u32)tid : 0);
	if (CFG->may_prctl)
		system_call(SYS_prctl, 16 /* PR_GET_NAME */, (u64)t->name, 0, 0, 0, 0);
	t->lives++;
}

/* Is the record's thread at its end, and is it for us to have the record? Of several who ask, one hears yes. */
static int thread_taken_over(struct ht_thread *t)
{
	u32 tid = LOAD(&t->tid);
	return CFG->may_tgkill && CFG->may_gettid && tid &&
	       system_call(SYS_tgkill, CFG->pid, tid, 0, 0, 0, 0) == -3 /* ESRCH */ &&
	       __atomic_compare_exchange_n(&t->tid, &tid, 0, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/*
 * A record for the thread: a free one, or, where none is in reach, that of a thread that has ended. Free ones first,
 * since another thread may have come to life at the ended one's address, and be at work with its record without having
 * been named yet.
 */
static struct ht_thread *thread_claim(u64 pointer)
{
	u64 mask = T->threads.entries - 1, h = thread_hash(pointer);
	for (u64 i = 0; i < THREAD_PROBES; i++) {
		struct ht_thread *s = &thread_slots()[(h + i) & mask];
		u64 is = 0;
		if (__atomic_compare_exchange_n(&s->pointer, &is, pointer, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			return s;
	}
	for (u64 i = 0; i < THREAD_PROBES; i++) {
		struct ht_thread *s = &thread_slots()[(h + i) & mask];
		if (thread_taken_over(s)) {
			STORE_RELEASE(&s->pointer, pointer);
			return s;
		}
	}
	return 0;
}

/* What the thread calls is not to be counted, until depth is 0 again or the hook's frame is gone: see depth.h. */
INLINE void depth_enter(struct ht_thread *t, const u64 *fp)
{
	STORE(&t->depth_back, fp[1]);
	STORE(&t->depth, (u64)fp);
}

COLD struct ht_thread *thread_add(u64 pointer)
{
	struct ht_thread *t = thread_claim(pointer);
	if (!t)
		return 0;
	u64 n = (u64)(t - thread_slots());
	t->frames_at = T->frames.offset + n * 2 * T->frame_capacity * sizeof(struct ht_frame);
	t->natives_at = T->natives.offset + n * 2 * T->stacks.capacity * sizeof(struct ht_native_frame);
	depth_enter(t, __builtin_frame_address(0)); /* what a signal handler allocates meanwhile is nested */
	t->tstate = 0;
	t->frames = 0;
	t->loader_stack = t->stack_high = 0;
	t->natives = 0;
	thread_named(t);
	if (t->lives == 1) {
		u64 i = __atomic_fetch_add(&T->slots.next, 1, __ATOMIC_RELAXED);
		if (i < T->slots.entries)
			STORE((u32 *)at(T->slots.offset) + i, (u32)(t - thread_slots()) + 1);
		t->random = (pointer ^ (u64)t * 0xd1342543de82ef95ull) + CFG->pid * 0x9e3779b97f4a7c15ull;
		if (CFG->sample_bytes)
			t->until_sample = sample_distance(t);
		t->root = node_new(t);
		if (t->root) {
			struct ht_node *n = (struct ht_node *)at(T->nodes.offset) + t->root;
			n->code = HT_CODE_ROOT;
			n->instr = (s32)(t - thread_slots());
		}
	}
	t->depth = 0;
	return t;
}

/* The calling thread's record, or 0 when the table is full. */
INLINE struct ht_thread *thread_self(void)
{
	u64 pointer = thread_pointer(), mask = T->threads.entries - 1, h = thread_hash(pointer);
	struct ht_thread *t = &thread_slots()[h & mask];
	if (likely(LOAD(&t->pointer) == pointer))
		return t;
	for (u64 i = 1; i < THREAD_PROBES; i++) {
		t = &thread_slots()[(h + i) & mask];
		if (LOAD(&t->pointer) == pointer)
			return t;
		if (LOAD(&t->pointer) == 0)
			break;
	}
	return thread_add(pointer);
}
