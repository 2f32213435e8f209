/*
 * depth.h: is the thread still in the call that its record says it is in?
 *
 * A call may be left otherwise than by its return: a signal's handler jumps out of it, or ends the thread. Nobody then
 * takes the depth back, and nothing that the thread allocates would be counted again. So depth is where the frame of the
 * hook is that has made the call, and a hook that finds it set looks whether that frame can still be there. It is gone:
 *
 *   - where another hook has its frame at the same place,
 *   - where its return address is not what it was: as long as the frame is there nobody writes to it,
 *   - where the stack that it was on is no longer that deep.
 *
 * The last is certain only for a hook on that very stack. One that a signal's handler has called may be on another, at any
 * address; the kernel knows whether the thread is on its signal stack.
 */

/* Each so many times a nested hook, further down the stack as it should be, asks all the same. */
enum { DOUBTS = 64 };

enum { SIGNAL_STACK_USED = 1 /* SS_ONSTACK */, STACK_MOST = 64 << 20 };

static int on_signal_stack(void)
{
	struct {
		u64 sp;
		u32 flags, pad;
		u64 size;
	} is;
	return system_call(SYS_sigaltstack, 0, (u64)&is, 0, 0, 0, 0) != 0 || is.flags & SIGNAL_STACK_USED;
}

static int depth_gone(const struct ht_thread *t, u64 fp)
{
	u64 frame = t->depth, back = 0;
	if (fp == frame)
		return 1;
	if (!CFG->may_look)
		return 0;
	s64 got = self_copy(SYS_process_vm_readv, &back, frame + 8, sizeof back);
	if (got != sizeof back)
		return got == -EFAULT;
	if (back != t->depth_back)
		return 1;
	return fp > frame && fp - frame < STACK_MOST && !on_signal_stack() && readable_end(frame, fp) == fp;
}

COLD int depth_holds(struct ht_thread *t, u64 fp)
{
	if (!depth_gone(t, fp))
		return 1;
	/* What it was doing may be half done. */
	t->frames = t->natives = 0;
	t->depth = 0;
	return 0;
}

/* Is the thread, which has called a hook, within an allocator? */
INLINE int within(struct ht_thread *t, const u64 *fp)
{
	if (likely(!t->depth))
		return 0;
	if (likely((u64)fp < t->depth && ++t->nested % DOUBTS))
		return 1;
	return depth_holds(t, (u64)fp);
}
