/*
 * ending.h: an interpreter that ends waits for a moment, where somebody wants to look at it before its objects go.
 *
 * Py_FinalizeEx says first, in a word of its own, that it has begun: threads have been joined and exit functions called by
 * then, no object has been freed yet. The next that it does to the world outside is to take its signal handlers out, by
 * sigaction, of which a slot is hooked. It waits once, for at most a minute, and not when who asked it to is gone.
 */

enum { ENDING_STEP_NS = 200000, ENDING_STEPS = 60 * 1000 / 2 * (1000000 / ENDING_STEP_NS) }; /* slack doubles a sleep */

COLD void ending_wait(void)
{
	u32 is = HT_ENDING_NOT;
	if (!__atomic_compare_exchange_n(&T->ending, &is, HT_ENDING_WAITS, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return;
	struct {
		s64 seconds, nanoseconds;
	} step = {0, ENDING_STEP_NS};
	for (u32 i = 0; i < ENDING_STEPS && LOAD_ACQUIRE(&T->ending) == HT_ENDING_WAITS; i++) {
		if (T->ending_keeper && system_call(SYS_kill, T->ending_keeper, 0, 0, 0, 0, 0) == -3 /* ESRCH */)
			break;
		system_call(SYS_nanosleep, (u64)&step, 0, 0, 0, 0, 0);
	}
	STORE_RELEASE(&T->ending, HT_ENDING_SEEN);
}

/* Is this the interpreter's end? */
INLINE void ending_look(void)
{
	u64 word = T->ending_word;
	if (unlikely(word) && active() && peek64(word))
		ending_wait();
}
