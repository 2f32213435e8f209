/* clock.h: the coarse clock, as the kernel keeps it for everybody to read: no system call. */

struct time_of_day {
	s64 seconds;
	s64 nanoseconds;
};

COLD u64 clock_call(void)
{
	struct time_of_day now;
	s64 (*clock)(int, struct time_of_day *) = (void *)CFG->clock;
	if (!clock || clock(6 /* CLOCK_MONOTONIC_COARSE */, &now) != 0)
		return 0;
	return (u64)now.seconds - CFG->clock_base;
}

/* Seconds since tracking began. */
INLINE u64 seconds_now(void)
{
	if (likely(CFG->clock_word))
		return peek64(CFG->clock_word) - CFG->clock_base;
	return clock_call();
}

/* The same as the live map holds it. */
INLINE u64 epoch_now(void)
{
	u64 s = seconds_now();
	if (likely(s < HT_EPOCH_FINE))
		return s;
	s = HT_EPOCH_FINE + (s - HT_EPOCH_FINE) / HT_EPOCH_COARSE;
	return s < HT_EPOCH_LAST ? s : HT_EPOCH_LAST;
}
