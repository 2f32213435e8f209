/*
 * hybrid.h: the calling thread's stack with its native frames, Python's in the place of the interpreter's evaluations.
 *
 * Up to 3.10 each Python frame has an evaluation of its own, a call of the interpreter's evaluation function. Since, a
 * call from Python to Python stays in the same one: what it evaluates are the frames up to one that says so, or up to a
 * shim, which stands in the evaluation's native frame and so tells that frame, too.
 *
 * A thread keeps its last walk, outermost frame first: for each native frame the slot on the stack that held the address
 * to return to. The next walk unwinds from the innermost frame outwards until it finds itself in a frame of the last
 * one, with the same address in the same slot and as many Python frames outside of it. From equal registers and equal
 * memory the same steps follow; so the frames outside of it are the same if the slots they were read from hold what they
 * held. These are compared without waiting for one another. Only nodes of what is new, or has Python frames in its place
 * that have changed, are looked up again.
 *
 * Where unwinding ends before the thread's first function, the Python frames that are left stand outside of what was
 * found, and a cut between says so.
 */

enum {
	NATIVE_EVALUATES = 1, /* Python frames stand in its place */
	NATIVE_FP_USED = 2,   /* its RBP is what it or one outside of it is found by */
	NATIVE_FP_SAVED = 4,  /* its caller's RBP is such, and is in memory: `saved` */
	NATIVE_READS = 8,     /* its rule reads more of the stack than that */
	NATIVE_EXACT = 16,    /* pc is where a signal interrupted it */
};

INLINE struct ht_native_frame *natives_of(const struct ht_thread *t)
{
	return (struct ht_native_frame *)at(t->natives_at);
}

/* node_child, with a guess. */
INLINE u32 node_again(struct ht_thread *t, u32 guess, u32 parent, u32 code, s32 instr)
{
	struct ht_node *n = node_at(guess);
	if (likely(n->parent == parent && n->code == code && n->instr == instr && guess))
		return guess;
	return node_child(t, parent, code, instr);
}

/* Looks up the node of a Python frame whose caller's is given. */
INLINE u32 python_node(struct ht_thread *t, struct ht_frame *f, u32 parent)
{
	u32 code = f->code_number;
	if (code == HT_CODE_CUT)
		return f->node = node_again(t, f->node, parent, HT_CODE_CUT, HT_CUT_DEPTH);
	if (code == HT_CODE_NONE || code == CODE_SHIM)
		return parent;
	return f->node = node_again(t, f->node, parent, code, frame_place(f));
}

/* The outermost of the Python frames, of `count`, that belong to the innermost's evaluation. */
INLINE u64 entry_of(const struct ht_frame *c, u64 count)
{
	u64 i = count - 1;
	switch (T->stacks.entry_kind) {
	case HT_ENTRY_FLAG:
		while (i && !peek8(c[i].frame + T->stacks.entry_flag))
			i--;
		break;
	case HT_ENTRY_SHIM:
		while (i && c[i].code_number != CODE_SHIM)
			i--;
		break;
	}
	return i;
}

/*
 * Is a native frame, of which the stack from sp to its CFA is part, that of the evaluation whose outermost Python frame
 * is given?
 */
INLINE int evaluates(const struct cursor *c, u64 pc, u64 cfa, const struct ht_frame *entry)
{
	if (T->stacks.entry_kind == HT_ENTRY_SHIM)
		return entry->code_number == CODE_SHIM && entry->frame >= c->low && entry->frame < cfa;
	for (u32 i = 0; i < HT_EVALUATIONS; i++) {
		u64 start = T->stacks.evaluation[i][0];
		if (!start)
			break;
		if (pc - 1 >= start && pc - 1 < T->stacks.evaluation[i][1])
			return 1;
	}
	return 0;
}

/* The same for a frame whose rule reads what others don't. */
COLD int native_reads(const struct ht_modules *all, const struct ht_native_frame *f, const struct cursor *c)
{
	u32 rule = place_rule(place_of(all, f->pc));
	u64 v;
	if (rule_kind(rule) == KIND_FP_DEREF &&
	    (!stack_word(c, f->fp + (u64)rule_offset(rule), &v) || v - 8 != f[-1].slot))
		return 0;
	if (rule_kind(rule) == KIND_SP_DEREF &&
	    (!stack_word(c, f->slot + 8 + (u64)rule_offset(rule), &v) || v != f[-1].slot))
		return 0;
	return rule_frame(rule) != FRAME_AT_FP ||
	       (stack_word(c, f->fp + (u64)(rule_frame_words(rule) * 8), &v) && v == f[-1].fp);
}

/* Does what the frames outside of n[i] were read from hold what it held? Else the frame whose caller is another. */
INLINE u64 natives_hold(const struct ht_modules *all, const struct ht_native_frame *n, u64 i, const struct cursor *c)
{
	for (const struct ht_native_frame *f = n + i; f != n; f--) {
		u64 slot = f[-1].slot, pc, fp;
		FORGET(slot);
		if (unlikely(!stack_word(c, slot, &pc) || pc != f[-1].pc))
			return (u64)(f - n);
		if (unlikely(f->flags & NATIVE_FP_SAVED) &&
		    (!stack_word(c, slot + (u64)(f->saved * 8), &fp) || fp != f[-1].fp))
			return (u64)(f - n);
		if (unlikely(f->flags & NATIVE_READS) && !native_reads(all, f, c))
			return (u64)(f - n);
	}
	return 0;
}

/* The node of a native frame itself. */
INLINE u32 native_node(struct ht_thread *t, const struct ht_modules *all, const struct ht_native_frame *f, u32 guess, u32 parent)
{
	u64 place = f->flags & NATIVE_EXACT ? place_find(all, f->pc, 1) : place_of(all, f->pc);
	int exact = f->flags & NATIVE_EXACT || rule_kind(place_rule(place)) == KIND_SIGNAL;
	const struct ht_module *m = &modules_of(all)[place_module(place)];
	return node_again(t, guess, parent, HT_CODE_OBJECT | m->object, (s32)(f->pc - !exact - m->bias));
}

/* Notes what the new frames n[from … to) are found by. */
static void natives_mark(const struct ht_modules *all, struct ht_native_frame *n, u64 from, u64 to)
{
	for (u64 i = from; i < to; i++) {
		struct ht_native_frame *f = &n[i];
		u32 rule = place_rule(place_of(all, f->pc)), kind = rule_kind(rule), frame = rule_frame(rule);
		int wanted = i && n[i - 1].flags & NATIVE_FP_USED; /* by its caller */
		f->flags &= NATIVE_EVALUATES | NATIVE_EXACT;
		if (kind == KIND_FP || kind == KIND_FP_DEREF || frame == FRAME_AT_FP || (wanted && frame == FRAME_SAME))
			f->flags |= NATIVE_FP_USED;
		if (kind == KIND_FP_DEREF || kind == KIND_SP_DEREF || frame == FRAME_AT_FP)
			f->flags |= NATIVE_READS;
		if (wanted && frame == FRAME_AT_CFA) {
			f->flags |= NATIVE_FP_SAVED;
			f->saved = (s8)(rule_frame_words(rule) + 1); /* the slot is at CFA - 8 */
		}
	}
}

INLINE int invisible(const struct ht_frame *f) { return f->code_number < HT_CODE_CUT; }

/*
 * The node of the innermost of the Python frames from … to, which are one evaluation's, in a native frame whose caller's
 * node is given. Those before `sure` are as they were when they had their nodes, one below the other.
 */
INLINE u32 evaluation_node(struct ht_thread *t, struct ht_frame *c, u64 from, u64 to, u64 sure, u32 parent)
{
	u64 i = from;
	while (i < sure && invisible(&c[i]))
		i++;
	if (i < sure && c[i].node && node_at(c[i].node)->parent == parent) {
		i = sure;
		u64 last = sure - 1;
		while (invisible(&c[last]))
			last--;
		parent = c[last].node;
	}
	for (; i < to; i++)
		parent = python_node(t, &c[i], parent);
	return parent;
}

/* Native frames as they are unwound: they wait in the workspace, innermost first. */
struct native_walk {
	const struct ht_modules *all;
	struct chain python;
	struct ht_native_frame *n; /* the last walk, outermost first */
	struct ht_native_frame *fresh;
	u64 kept; /* of n */
	u64 count; /* fresh ones */
	u64 left;  /* Python frames outside of the last of them */
	u32 end;   /* 0: at the first function; HT_CUT_… + 1 */
	u32 met;   /* n[0 … met) is outside of the last of them, unchanged */
	u32 keep;  /* it can be kept */
};

enum { SIGNALS_MOST = 4 };

/* Unwinds from the hook's caller outwards until the last walk is met. */
INLINE void natives_walk(struct ht_thread *t, struct native_walk *k, const u64 *hook)
{
	struct cursor c = {.pc = hook[1], .sp = (u64)(hook + 2), .fp = hook[0], .fp_known = 1, .low = (u64)hook};
	struct ht_frame *python = k->python.c;
	u64 p = k->python.count, entry = p ? entry_of(python, p) : 0, capacity = T->stacks.capacity;
	u32 signals = 0;
	s64 i = (s64)k->kept - 1;
	k->end = HT_CUT_NATIVE + 1;
	if (k->all)
		c.high = stack_end(t, c.sp);
	k->keep = (u32)stack_known(t, c.sp);
	while (c.high) {
		u64 slot = c.sp - 8;
		while (i >= 0 && k->n[i].slot < slot)
			i--;
		const struct ht_native_frame *meets = &k->n[i];
		if (i >= 0 && meets->slot == slot && meets->pc == c.pc && meets->python == p &&
		    p <= k->python.changed + k->python.same && (u64)i + 1 + k->count <= capacity &&
		    (!(meets->flags & NATIVE_FP_USED) || (c.fp_known && meets->fp == c.fp))) {
			u64 differs = natives_hold(k->all, k->n, (u64)i, &c);
			if (likely(!differs)) {
				k->met = (u32)i + 1;
				return;
			}
			i = (s64)differs - 1;
		}
		u64 place = c.exact ? place_find(k->all, c.pc, 1) : place_of(k->all, c.pc);
		if (unlikely(k->count == capacity))
			k->end = HT_CUT_DEPTH + 1;
		if (unlikely(k->count == capacity || place_module(place) == NO_MODULE))
			break;
		struct ht_native_frame *f = &k->fresh[k->count++];
		f->slot = slot;
		f->pc = c.pc;
		f->fp = c.fp;
		f->python = (u16)p;
		f->flags = c.exact ? NATIVE_EXACT : 0;
		int how = step(&c, place_rule(place));
		if (p && how == STEP_CALLER && evaluates(&c, f->pc, c.sp, &python[entry])) {
			f->flags |= NATIVE_EVALUATES;
			p = entry;
			entry = p ? entry_of(python, p) : 0;
		}
		if (unlikely(how == STEP_INTERRUPTED)) {
			/* On whatever stack: nothing of it is kept. */
			k->keep = 0;
			i = -1;
			c.low = c.sp;
			c.high = ++signals > SIGNALS_MOST ? 0 : stack_end(t, c.sp);
		} else if (unlikely(how != STEP_CALLER)) {
			k->end = how == STEP_ENDS ? 0 : k->end;
			break;
		}
	}
	k->left = p;
	k->met = 0;
}

/* The calling thread's stack, of whose thread state, if it has one, ts is the address. */
NOINLINE u32 hybrid(struct ht_thread *t, u64 ts, const u64 *hook)
{
	struct native_walk k = {.n = natives_of(t)};
	struct ht_frame *c = frames_of(t);
	k.fresh = k.n + T->stacks.capacity;
	if (ts) {
		u64 frame = current_frame(ts);
		k.python = walk_again(t, c, frame, 1);
		if (unlikely(!k.python.count))
			k.python = walk_whole(t, c, frame, 1);
	}
	u64 published = LOAD_ACQUIRE(&T->stacks.modules);
	if (likely(published)) {
		k.all = (const struct ht_modules *)at(published);
		k.kept = t->native_generation == k.all->generation ? t->natives : 0;
	}
	natives_walk(t, &k, hook);

	struct ht_native_frame *n = k.n;
	u64 changed = k.python.changed, met = k.met, first = met;
	if (met)
		k.left = t->native_left;
	else
		t->native_end = k.end;
	while (first && n[first - 1].python > changed)
		first--;
	if (!first) {
		u32 base = evaluation_node(t, c, 0, k.left, 0, t->root);
		if (t->native_end)
			base = node_again(t, t->native_base, base, HT_CODE_CUT, (s32)t->native_end - 1);
		t->native_base = base;
		t->native_left = (u32)k.left;
	}
	u64 count = met + k.count, from = first ? n[first - 1].python : k.left;
	u32 parent = first ? n[first - 1].node : t->native_base;
	for (u64 i = first; i < count; i++) {
		struct ht_native_frame *f = &n[i];
		u32 guess = f->node;
		/* What is in place of a frame that was here before, seen from outside, has the nodes it had. */
		u64 sure = i <= met && i < k.kept && f->flags & NATIVE_EVALUATES ? f->python : 0;
		if (sure > changed)
			sure = changed;
		if (i >= met)
			*f = k.fresh[count - 1 - i];
		if (sure > f->python)
			sure = f->python;
		u32 caller = parent;
		if (f->flags & NATIVE_EVALUATES)
			parent = evaluation_node(t, c, from, f->python, sure, parent);
		if (parent == caller) /* also where no Python frame is complete, as while the first makes its cells */
			parent = native_node(t, k.all, f, guess, parent);
		f->node = parent;
		from = f->python;
	}
	natives_mark(k.all, n, met, count);
	t->natives = k.keep && t->native_end != HT_CUT_DEPTH + 1 ? (u32)count : 0;
	t->native_generation = k.all ? k.all->generation : 0;
	return parent;
}

/* The calling thread's stack. fp is the hook's own frame. */
INLINE u32 stack_now(struct ht_thread *t, u32 domain, const u64 *fp)
{
	u64 ts = tstate_now(t, domain);
	if (unlikely(T->native_stacks))
		return hybrid(t, ts, fp);
	return likely(ts) ? walk(t, current_frame(ts)) : t->root;
}
