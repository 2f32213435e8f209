/*
 * unwind.h: from a native frame to its caller's, over rows that the tracer compiled from call frame information.
 *
 * What a row's rule says is at the head of unwind/table.go, and Table.Step there is the reference of step here. Only PC,
 * SP and RBP are kept.
 *
 * No read leaves the stack: it is known to be there from the hook's own frame up to stack_end, and a walk only goes up.
 * An address in code is only looked up, never read.
 */

enum { KIND_NONE, KIND_OUTERMOST, KIND_SP, KIND_FP, KIND_FP_DEREF, KIND_SP_DEREF, KIND_PLT, KIND_SIGNAL, KIND_UNSUPPORTED };
enum { FRAME_SAME, FRAME_AT_CFA, FRAME_AT_FP, FRAME_UNKNOWN };

INLINE u32 rule_kind(u32 rule) { return rule & 15; }
INLINE u32 rule_frame(u32 rule) { return rule >> 4 & 3; }
INLINE s64 rule_frame_words(u32 rule) { return (s64)(signed char)(rule >> 6); }
INLINE s64 rule_offset(u32 rule) { return (s64)((s32)rule >> 14) * 8; }

/* A native frame while it is being unwound. */
struct cursor {
	u64 pc;
	u64 sp;
	u64 fp;
	u32 fp_known;
	u32 exact; /* pc is where a signal interrupted it; else it is an address to return to */
	u64 low;   /* what may be read of the stack: [low, high) */
	u64 high;
};

/* Tests have stacks elsewhere than where they say they are. */
#ifndef HT_STACK_WORD
#define HT_STACK_WORD(address) peek64(address)
#endif

INLINE int stack_word(const struct cursor *c, u64 address, u64 *v)
{
	if (unlikely(address < c->low || address > c->high - 8))
		return 0;
	*v = HT_STACK_WORD(address);
	return 1;
}

/* ---- where a stack ends ----------------------------------------------------------------------------------------- */

enum { PROBE_PAGES = 64, PROBE_MOST = 1 << 16 };

/* Up to where there is memory that can be read, from `from` on, in pages; at most up to `to`. */
COLD u64 readable_end(u64 from, u64 to)
{
	struct io_vector pages[PROBE_PAGES];
	u8 bytes[PROBE_PAGES];
	u64 at = from & ~(u64)(PAGE - 1);
	while (at < to) {
		u64 n = 0;
		for (; n < PROBE_PAGES && at + n * PAGE < to; n++)
			pages[n] = (struct io_vector){at + n * PAGE, 1};
		struct io_vector here = {(u64)bytes, n};
		s64 got = system_call(SYS_process_vm_readv, CFG->pid, (u64)&here, 1, (u64)pages, n, 0);
		if (got > 0)
			at += (u64)got * PAGE;
		if (got < (s64)n)
			break;
	}
	return at < to ? at : to;
}

/*
 * The end of the stack that sp is on: 0, nothing is known of it. The first thread's is known by the tracer. Another
 * thread's ends where its control block begins, which is at its thread pointer, in every libc: if all between is there
 * it stays so for as long as the thread is. Of any other stack (a coroutine's, one for signals) it is asked anew each
 * time, and not kept.
 */
COLD u64 stack_learn(struct ht_thread *t, u64 sp, u64 tp)
{
	struct ht_stacks *s = &T->stacks;
	if (sp >= s->main_low && sp < s->main_high) {
		t->stack_low = s->main_low;
		t->stack_high = s->main_high;
		return t->stack_high;
	}
	if (!s->may_read)
		return 0;
	if (sp < tp && tp - sp < (u64)PROBE_MOST * PAGE) {
		u64 known = t->stack_high == tp && sp < t->stack_low;
		u64 to = known ? t->stack_low : tp, end = readable_end(sp, to);
		if (end < to)
			return end;
		t->stack_low = sp & ~(u64)(PAGE - 1);
		t->stack_high = tp;
		return tp;
	}
	return readable_end(sp, sp + (u64)PROBE_PAGES * PAGE);
}

INLINE int stack_known(const struct ht_thread *t, u64 sp) { return sp >= t->stack_low && sp < t->stack_high; }

INLINE u64 stack_end(struct ht_thread *t, u64 sp)
{
	return likely(stack_known(t, sp)) ? t->stack_high : stack_learn(t, sp, t->pointer);
}

/* ---- rules ------------------------------------------------------------------------------------------------------ */

INLINE struct ht_module *modules_of(const struct ht_modules *all) { return (struct ht_module *)(all + 1); }

enum { NO_MODULE = 0xffff };

/* The module that has the code at an address. */
static u32 module_find(const struct ht_modules *all, u64 pc)
{
	const struct ht_module *m = modules_of(all);
	u32 low = 0, high = all->count;
	while (low < high) {
		u32 middle = (low + high) / 2;
		if (m[middle].start <= pc)
			low = middle + 1;
		else
			high = middle;
	}
	return low && pc < m[low - 1].end ? low - 1 : NO_MODULE;
}

static u32 rule_find(const struct ht_modules *all, u32 module, u64 pc)
{
	if (module == NO_MODULE)
		return KIND_NONE;
	const struct ht_module *m = &modules_of(all)[module];
	const struct ht_row *rows = (const struct ht_row *)at(m->rows);
	u64 place = pc - m->start;
	u32 low = 0, high = m->row_count;
	while (low < high) {
		u32 middle = low + (high - low) / 2;
		if (rows[middle].start <= place)
			low = middle + 1;
		else
			high = middle;
	}
	return low && place >> 32 == 0 ? rows[low - 1].rule : KIND_NONE;
}

/* Rule and module of a frame's code: rule << 32 | module << 16 | generation. */
COLD u64 place_find(const struct ht_modules *all, u64 pc, int exact)
{
	u32 module = module_find(all, pc - !exact), rule = rule_find(all, module, pc - !exact);
	if (!exact && rule_kind(rule) != KIND_SIGNAL) {
		/* Nothing calls rt_sigreturn: what stands before it does not matter. */
		u32 there = module_find(all, pc), other = rule_find(all, there, pc);
		if (rule_kind(other) == KIND_SIGNAL)
			rule = other, module = there;
	}
	return (u64)rule << 32 | module << 16 | (all->generation & 0xffff);
}

/* The same of an address to return to, which is looked up again and again. */
INLINE u64 place_of(const struct ht_modules *all, u64 pc)
{
	struct ht_place *p = (struct ht_place *)at(T->places.offset) +
	                     (pc * 0x9e3779b97f4a7c15ull >> (64 - HT_PLACES_LOG2));
	u64 value = LOAD(&p->value);
	if (likely((LOAD(&p->check) ^ value) == pc && ((value ^ all->generation) & 0xffff) == 0))
		return value;
	value = place_find(all, pc, 0);
	STORE(&p->value, value);
	STORE(&p->check, pc ^ value);
	return value;
}

INLINE u32 place_rule(u64 place) { return (u32)(place >> 32); }
INLINE u32 place_module(u64 place) { return place >> 16 & 0xffff; }

/* ---- steps ------------------------------------------------------------------------------------------------------ */

enum { STEP_ENDS, STEP_FAILS, STEP_CALLER, STEP_INTERRUPTED };

/* Where a ucontext has what was interrupted (arch/x86/include/uapi/asm/sigcontext.h). */
enum { CONTEXT_FP = 40 + 10 * 8, CONTEXT_SP = 40 + 15 * 8, CONTEXT_PC = 40 + 16 * 8 };

COLD int step_signal(struct cursor *c)
{
	u64 sp, fp, pc;
	if (!stack_word(c, c->sp + CONTEXT_FP, &fp) || !stack_word(c, c->sp + CONTEXT_SP, &sp) ||
	    !stack_word(c, c->sp + CONTEXT_PC, &pc))
		return STEP_FAILS;
	c->pc = pc;
	c->sp = sp;
	c->fp = fp;
	c->fp_known = c->exact = 1;
	return STEP_INTERRUPTED;
}

/* Makes of a frame its caller's, by the frame's rule. Of one that fails the cursor is as it was. */
INLINE int step(struct cursor *c, u32 rule)
{
	u64 cfa = (u64)rule_offset(rule);
	switch (rule_kind(rule)) {
	case KIND_SP:
		cfa += c->sp;
		break;
	case KIND_FP:
	case KIND_FP_DEREF:
		if (!c->fp_known)
			return STEP_FAILS;
		cfa += c->fp;
		if (rule_kind(rule) == KIND_FP_DEREF && !stack_word(c, cfa, &cfa))
			return STEP_FAILS;
		break;
	case KIND_SP_DEREF:
		if (!stack_word(c, c->sp + cfa, &cfa))
			return STEP_FAILS;
		cfa += 8;
		break;
	case KIND_PLT:
		cfa = c->sp + ((c->pc & 15) >= cfa / 8 ? 16 : 8);
		break;
	case KIND_SIGNAL:
		return step_signal(c);
	case KIND_OUTERMOST:
		return STEP_ENDS;
	default:
		return STEP_FAILS;
	}
	u64 pc, fp = c->fp;
	u32 known = c->fp_known;
	if (!stack_word(c, cfa - 8, &pc))
		return STEP_FAILS;
	switch (rule_frame(rule)) {
	case FRAME_AT_CFA:
		known = (u32)stack_word(c, cfa + (u64)(rule_frame_words(rule) * 8), &fp);
		break;
	case FRAME_AT_FP:
		if (known)
			known = (u32)stack_word(c, fp + (u64)(rule_frame_words(rule) * 8), &fp);
		break;
	case FRAME_UNKNOWN:
		known = 0;
		break;
	}
	if (!pc)
		return STEP_ENDS;
	if (cfa <= c->sp)
		return STEP_FAILS;
	c->pc = pc;
	c->sp = cfa;
	c->fp = fp;
	c->fp_known = known;
	c->exact = 0;
	return STEP_CALLER;
}
