/*
 * walk.h: the Python stack of the calling thread, as a node of the stack trie.
 *
 * A thread keeps its last walk, outermost frame first. The next walk looks where the current frame meets it, then
 * checks the frames below that point: link, code and instruction of each against what was seen. The check takes the
 * frames' addresses from the kept walk and only compares them with the links read from the target, so that its loads
 * do not wait for each other; it never follows an address that the live chain has not confirmed. Only what changed is
 * looked up in the trie again.
 */

enum { MEET_WINDOW = 12, MEET_FRESH = 64 };

INLINE u64 frame_code(u64 frame) { return peek64(frame + CFG->frame_code) & CFG->code_mask; }
INLINE u64 frame_instr(u64 frame) { return peek64(frame + CFG->frame_instr) & CFG->instr_mask; }
INLINE u64 frame_previous(u64 frame) { return peek64(frame + CFG->frame_previous); }

/* Is this a frame of Python code, and not a shim of the interpreter's own? */
INLINE int frame_is_python(u64 frame, u64 code, u8 *owner)
{
	*owner = 0;
	if (CFG->frame_owner >= 0) {
		*owner = peek8(frame + (u32)CFG->frame_owner);
		if (*owner >= CFG->owner_skip)
			return 0;
	}
	return code && peek64(code + CFG->object_type) == CFG->code_type;
}

/* Where a frame is in its code, as a node has it. */
INLINE s32 frame_place(const struct ht_frame *f)
{
	return (s32)(CFG->instr_kind == HT_INSTR_POINTER ? f->instr - f->code - CFG->code_bytes : f->instr);
}

/* Has the frame, whose code number is known, begun? The interpreter hides it, too, until then. */
INLINE int frame_complete(const struct ht_frame *f, u8 owner)
{
	return CFG->instr_kind != HT_INSTR_POINTER || CFG->code_first_traceable < 0 || owner == CFG->owner_generator ||
	       f->code_number < HT_CODE_FIRST || frame_place(f) >= code_record(f->code_number)->first_traceable;
}

/*
 * Fills in the node of c[i], whose frame, code and instr are set, and whose caller's node is right. Its code number is
 * either right or HT_CODE_NONE.
 */
INLINE void frame_intern(struct ht_thread *t, struct ht_frame *c, u64 i)
{
	struct ht_frame *f = &c[i];
	u32 parent = i ? c[i - 1].node : t->root;
	u8 owner;
	f->node = parent;
	if (!frame_is_python(f->frame, f->code, &owner)) {
		f->code_number = HT_CODE_NONE;
		return;
	}
	if (f->code_number < HT_CODE_FIRST)
		f->code_number = code_number(f->code);
	if (frame_complete(f, owner))
		f->node = node_child(t, parent, f->code_number, frame_place(f));
}

/*
 * The frames of a walk from the root, in c[0 … count). What has changed in them since the last walk begins at `changed`,
 * and `same` tells whether that one is still the same frame, at another instruction.
 */
struct chain {
	struct ht_frame *c;
	u64 count;
	u64 changed;
	u32 same;
};

enum { CODE_SHIM = HT_CODE_ROOT }; /* a frame's code number when native frames are walked too */

/* Finds what is to be known of c[i] for a walk of native frames, in which its node depends on theirs. */
INLINE void frame_note(struct ht_frame *c, u64 i)
{
	struct ht_frame *f = &c[i];
	u8 owner;
	if (!frame_is_python(f->frame, f->code, &owner)) {
		f->code_number = CFG->frame_owner >= 0 && owner >= CFG->owner_skip ? CODE_SHIM : HT_CODE_NONE;
		return;
	}
	if (f->code_number < HT_CODE_FIRST)
		f->code_number = code_number(f->code);
	if (!frame_complete(f, owner))
		f->code_number = HT_CODE_NONE;
}

/* What a walk does with a frame that is new or has changed. */
INLINE void frame_take(struct ht_thread *t, struct ht_frame *c, u64 i, int native)
{
	if (native)
		frame_note(c, i);
	else
		frame_intern(t, c, i);
}

/* The whole chain from `frame` on into the workspace, then against the last walk from the root. */
INLINE struct chain walk_whole(struct ht_thread *t, struct ht_frame *c, u64 frame, int native)
{
	u64 capacity = T->frame_capacity, n = 0;
	struct ht_frame *w = c + capacity;
	for (; frame && n < capacity; frame = frame_previous(frame), n++) {
		w[n].frame = frame;
		w[n].code = frame_code(frame);
		w[n].instr = frame_instr(frame);
	}
	int cut = frame != 0;
	u64 kept = cut ? 0 : t->frames, i = 0;
	if (kept > n)
		kept = n;
	while (i < kept && c[i].frame == w[n - 1 - i].frame && c[i].code == w[n - 1 - i].code &&
	       c[i].instr == w[n - 1 - i].instr)
		i++;
	struct chain found = {c, n, i, i < kept && c[i].frame == w[n - 1 - i].frame && c[i].code == w[n - 1 - i].code};
	if (cut && n) {
		/* Deeper than can be kept: its outermost frames are one node. */
		c[0] = w[n - 1];
		c[0].code_number = HT_CODE_CUT;
		c[0].node = node_child(t, t->root, HT_CODE_CUT, HT_CUT_DEPTH);
		i = 1;
	}
	for (; i < n; i++) {
		u32 number = i < kept && c[i].code == w[n - 1 - i].code ? c[i].code_number : HT_CODE_NONE;
		c[i] = w[n - 1 - i];
		c[i].code_number = number;
		frame_take(t, c, i, native);
	}
	t->frames = cut ? 0 : (u32)n; /* a cut walk cannot be compared from the root */
	return found;
}

NOINLINE u32 walk_all(struct ht_thread *t, struct ht_frame *c, u64 frame)
{
	u64 n = walk_whole(t, c, frame, 0).count;
	return n ? c[n - 1].node : t->root;
}

/* After code objects were freed, what the last walk says of their addresses may be wrong. */
COLD void walk_forget(struct ht_thread *t, u32 generation)
{
	t->frames = 0;
	t->code_generation = generation;
	if (LOAD(&T->code_flush) && code_lock()) {
		slots_reserve();
		code_unlock();
	}
}

enum { CHAIN_DIFFERS = -1 };

/*
 * Compares c[i] and the frames below it with the target, takes over what changed in code and instruction, and returns
 * the outermost that did (i + 1: none), or CHAIN_DIFFERS when the frames are others. An instruction's address says
 * which code object it is in; `with_code` is for indices, which do not.
 */
INLINE s64 check_chain(struct ht_frame *c, u64 i, int with_code)
{
	u32 instr_at = CFG->frame_instr, previous_at = CFG->frame_previous;
	u64 instr_mask = with_code ? CFG->instr_mask : ~0ull;
	s64 changed = (s64)i + 1;
	for (struct ht_frame *f = c + i;; f--) {
		u64 p = f->frame;
		FORGET(p);
		u64 instr = read64(p + instr_at) & instr_mask, previous = read64(p + previous_at);
		if (unlikely(instr != f->instr || (with_code && frame_code(p) != f->code))) {
			u64 code = frame_code(p);
			if (code != f->code)
				f->code_number = HT_CODE_NONE;
			f->code = code;
			f->instr = instr;
			changed = f - c;
		}
		if (f == c)
			return previous ? CHAIN_DIFFERS : changed;
		if (unlikely(previous != f[-1].frame))
			return CHAIN_DIFFERS;
	}
}

INLINE struct ht_frame *frames_of(const struct ht_thread *t)
{
	return (struct ht_frame *)at(t->frames_at);
}

/*
 * Brings the last walk up to the chain with `frame` as its innermost frame. Where it cannot, nothing but a walk of
 * everything can: count is 0 then.
 */
INLINE struct chain walk_again(struct ht_thread *t, struct ht_frame *c, u64 frame, int native)
{
	const struct chain none = {c, 0, 0, 0};
	u32 generation = LOAD(&T->code_generation);
	if (unlikely(generation != t->code_generation))
		walk_forget(t, generation);
	u64 n = t->frames;
	if (unlikely(!n || !frame))
		return none;

	/* Where does the current chain meet the last walk? New frames wait in the workspace, innermost first. */
	struct ht_frame *fresh = c + T->frame_capacity;
	u64 m = 0, i = n - 1, f = frame;
	for (;;) {
		u64 window = i + 1 < MEET_WINDOW ? i + 1 : MEET_WINDOW, k = 0;
		while (k < window && c[i - k].frame != f)
			k++;
		if (k < window) {
			i -= k;
			break;
		}
		if (!f || m == MEET_FRESH)
			return none;
		fresh[m++].frame = f;
		f = frame_previous(f);
	}

	/* c[i] is on the live chain. `changed` is the outermost frame whose node must be looked up again. */
	s64 changed = CFG->instr_kind == HT_INSTR_POINTER ? check_chain(c, i, 0) : check_chain(c, i, 1);
	if (unlikely(changed == CHAIN_DIFFERS))
		return none;
	if (unlikely(i + 1 + m > T->frame_capacity))
		return none;
	t->frames = (u32)(i + 1);
	struct chain found = {c, 0, (u64)changed, (u64)changed <= i && c[changed].code_number >= HT_CODE_FIRST};
	for (u64 k = (u64)changed; k <= i; k++)
		frame_take(t, c, k, native);
	while (m) {
		struct ht_frame *to = &c[++i];
		u64 p = fresh[--m].frame;
		u64 code = frame_code(p);
		if (i >= n || to->code != code)
			to->code_number = HT_CODE_NONE;
		to->frame = p;
		to->code = code;
		to->instr = frame_instr(p);
		frame_take(t, c, i, native);
	}
	found.count = i + 1;
	t->frames = (u32)found.count;
	return found;
}

/* The node of the thread's stack with `frame` as its innermost frame. */
INLINE u32 walk(struct ht_thread *t, u64 frame)
{
	struct ht_frame *c = frames_of(t);
	u64 n = walk_again(t, c, frame, 0).count;
	return likely(n) ? c[n - 1].node : walk_all(t, c, frame);
}

INLINE u64 call0(u64 function) { return ((u64(*)(void))function)(); }

/*
 * The thread state that belongs to the calling thread, or 0. Who holds the GIL is looked up where the interpreter looks
 * itself. A raw block may be allocated without it, when that variable may name another thread's state, which can be
 * freed while we look at it: then the thread's own state is asked for. Where each thread has a variable of its own, what
 * that names is the thread's, and 0 without the GIL.
 */
INLINE u64 own_tstate(u32 domain)
{
	u64 ts;
	if (unlikely(!guarded(domain))) {
		if (CFG->tstate_kind == HT_TSTATE_LOCAL && likely(ts = peek64(thread_pointer() + CFG->current_tstate)))
			return ts;
		return call0(CFG->this_tstate);
	}
	if (likely(CFG->tstate_kind == HT_TSTATE_VARIABLE))
		ts = peek64(CFG->current_tstate);
	else if (CFG->tstate_kind == HT_TSTATE_LOCAL)
		ts = peek64(thread_pointer() + CFG->current_tstate);
	else
		ts = call0(CFG->current_tstate);
	if (likely(ts && peek64(ts + CFG->tstate_thread_id) == thread_pointer()))
		return ts;
	return call0(CFG->this_tstate);
}

INLINE u64 current_frame(u64 ts)
{
	u64 f = peek64(ts + CFG->tstate_frame);
	return CFG->cframe_frame < 0 ? f : f ? peek64(f + (u32)CFG->cframe_frame) : 0;
}

/* The thread state that the calling thread's frames are in, or 0. */
INLINE u64 tstate_now(struct ht_thread *t, u32 domain)
{
	u64 ts = own_tstate(domain);
	if (unlikely(!ts))
		return 0;
	u64 id = CFG->tstate_id >= 0 ? peek64(ts + (u32)CFG->tstate_id) : 0;
	if (unlikely(ts != t->tstate || id != t->tstate_id)) {
		t->frames = 0;
		if (t->tstate)
			thread_named(t); /* perhaps a new thread at an old one's address */
		t->tstate = ts;
		t->tstate_id = id;
	}
	return ts;
}
