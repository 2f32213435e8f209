/* walk.h: stacks, against a naive walk of the whole chain at every allocation. */

enum { CODES = 24, POOL = 400, DEEPEST = 120, STACKS = 3 };

/* A code object with its strings; `version` changes when its block is used again for another one. */
struct program_code {
	struct code code;
	struct str file, name, qualname;
	struct bytes lines;
	u32 version, users;
};

/* What one thread of the target runs. */
struct program {
	struct tstate tstate;
	struct program_code *codes;
	struct frame pool[POOL];
	u8 used[POOL];
	u32 stack[STACKS][DEEPEST]; /* several, as greenlets have: root first */
	u32 depth[STACKS];
	u32 on; /* the current one */
	u32 generators; /* of 8: how many frames come from anywhere in the pool */
};

static void code_becomes(struct program_code *c, u32 number)
{
	char text[NAME_SIZE];
	c->code = (struct code){.type = (u64)&code_type, .file = (u64)&c->file, .name = (u64)&c->name,
	                        .qualname = (u64)&c->qualname, .lines = (u64)&c->lines,
	                        .first_line = (s32)number + 1, .first_traceable = (s32)(number % 4)};
	str_ascii(&c->file, "program.py");
	snprintf(text, sizeof text, "f%u", number);
	str_ascii(&c->name, text);
	snprintf(text, sizeof text, "C.f%u.%u", number, c->version);
	str_ascii(&c->qualname, text);
	c->lines = (struct bytes){.length = 1 + number % 20};
}

static struct program *program_new(u32 generators)
{
	struct program *p = calloc(1, sizeof *p);
	p->codes = aligned_alloc(16, (sizeof *p->codes * CODES + 15) & ~15ull);
	memset(p->codes, 0, sizeof *p->codes * CODES);
	for (u32 i = 0; i < CODES; i++)
		code_becomes(&p->codes[i], i);
	p->generators = generators;
	static u64 ids;
	p->tstate.id = __atomic_add_fetch(&ids, 1, __ATOMIC_RELAXED);
	p->tstate.thread_id = thread_pointer();
	current = &p->tstate;
	return p;
}

static struct program_code *code_of(const struct frame *f)
{
	return (struct program_code *)((f->code & ~3ull) - offsetof(struct program_code, code));
}

static void set_instr(struct frame *f)
{
	u64 at = below(CODE_BODY / 2);
	if (CFG->instr_kind == HT_INSTR_POINTER)
		f->instr = (f->code & ~3ull) + offsetof(struct code, body) + at * 2;
	else
		f->instr = below(1 << 16) << 32 | at; /* the upper half is some other field */
}

static void link_frames(struct program *p)
{
	u32 *s = p->stack[p->on], n = p->depth[p->on];
	p->tstate.frame = n ? (u64)&p->pool[s[n - 1]] : 0;
}

static void frame_drop(struct program *p, u32 slot)
{
	struct frame *f = &p->pool[slot];
	if (f->owner != OWNER_SHIM)
		code_of(f)->users--;
	p->used[slot] = 0;
}

static void push(struct program *p)
{
	u32 *s = p->stack[p->on], *n = &p->depth[p->on];
	if (*n == DEEPEST)
		return;
	u32 slot = *n && below(8) >= p->generators ? (s[*n - 1] + 1) % POOL : (u32)below(POOL);
	while (p->used[slot])
		slot = (slot + 1) % POOL;
	p->used[slot] = 1;
	struct frame *f = &p->pool[slot];
	/* An address is a generator's, or the thread's own stack's: the walk relies on it where code and instruction agree. */
	f->owner = below(10) ? slot % 4 ? OWNER_THREAD : OWNER_GENERATOR : OWNER_SHIM;
	if (f->owner == OWNER_SHIM) {
		f->code = below(2) ? 0 : (u64)&p->tstate; /* no code object */
		f->instr = roll();
	} else {
		struct program_code *c = &p->codes[below(CODES)];
		c->users++;
		f->code = (u64)&c->code | (below(2) ? 1 : 0); /* a tagged reference */
		set_instr(f);
	}
	f->previous = *n ? (u64)&p->pool[s[*n - 1]] : 0;
	s[(*n)++] = slot;
}

static void pop(struct program *p)
{
	if (p->depth[p->on])
		frame_drop(p, p->stack[p->on][--p->depth[p->on]]);
}

/* The outermost frame goes, or another comes before it. */
static void change_end(struct program *p)
{
	u32 *s = p->stack[p->on], *n = &p->depth[p->on];
	if (*n && below(2)) {
		frame_drop(p, s[0]);
		memmove(s, s + 1, --*n * sizeof *s);
		if (*n)
			p->pool[s[0]].previous = 0;
	} else if (*n && *n < DEEPEST) {
		u32 keep = *n;
		push(p);
		u32 fresh = s[keep];
		memmove(s + 1, s, keep * sizeof *s);
		s[0] = fresh;
		p->pool[fresh].previous = 0;
		p->pool[s[1]].previous = (u64)&p->pool[fresh];
	}
}

/* The middle of the chain changes place: a generator is now driven by another caller. */
static void rehang(struct program *p)
{
	u32 *s = p->stack[p->on], n = p->depth[p->on];
	if (n < 3)
		return;
	u32 i = 1 + (u32)below(n - 1), drop = 1 + (u32)below(i);
	for (u32 k = i - drop; k < i; k++)
		frame_drop(p, s[k]);
	memmove(s + i - drop, s + i, (n - i) * sizeof *s);
	p->depth[p->on] = n - drop;
	p->pool[s[i - drop]].previous = i > drop ? (u64)&p->pool[s[i - drop - 1]] : 0;
}

/* Its code objects are freed as the interpreter does it: another program may get their memory. */
static void program_free(struct program *p)
{
	struct script s = {0};
	for (u32 i = 0; i < CODES; i++)
		ht_obj_free(&s, &p->codes[i].code);
	current = 0;
	free(p->codes);
	free(p);
}

static void code_replace(struct program *p, struct script *s)
{
	struct program_code *c = &p->codes[below(CODES)];
	if (c->users)
		return;
	ht_obj_free(s, &c->code);
	c->version++;
	code_becomes(c, below(2) ? (u32)(c - p->codes) : (u32)below(1000));
}

static void program_step(struct program *p, struct script *s)
{
	switch (below(16)) {
	case 0 ... 4:
		push(p);
		break;
	case 5 ... 8:
		pop(p);
		break;
	case 9 ... 11:
		if (p->depth[p->on]) {
			struct frame *f = &p->pool[p->stack[p->on][p->depth[p->on] - 1]];
			if (f->owner != OWNER_SHIM)
				set_instr(f);
		}
		break;
	case 12:
		for (u64 n = below(40); n; n--)
			push(p);
		break;
	case 13:
		for (u64 n = below(40); n; n--)
			pop(p);
		break;
	case 14:
		if (!below(4))
			p->on = (u32)below(STACKS);
		else if (!below(4))
			change_end(p);
		else if (!below(4))
			rehang(p);
		break;
	default:
		code_replace(p, s);
	}
	link_frames(p);
}

static int blob_is(const struct ht_blob *b, const struct str *s)
{
	return b->length == s->length && b->kind == 1 && !b->cut && !memcmp(at(b->offset), s->ascii, b->length);
}

/* Is `node` the current stack of the program, as a naive walk sees it? */
static void expect_stack(struct program *p, u32 node)
{
	u64 seen = 0;
	for (u64 f = p->tstate.frame; f; f = ((struct frame *)f)->previous) {
		struct frame *is = (struct frame *)f;
		if (++seen == T->frame_capacity && is->previous) {
			CHECK(node_at(node)->code == HT_CODE_CUT, "code %u at the cut", node_at(node)->code);
			node = node_at(node)->parent;
			break;
		}
		if (is->owner == OWNER_SHIM)
			continue;
		struct program_code *c = code_of(is);
		u64 instr = is->instr & 0xffffffff;
		if (CFG->instr_kind == HT_INSTR_POINTER) {
			instr = is->instr - (u64)c->code.body;
			if (is->owner != OWNER_GENERATOR && (s64)instr < c->code.first_traceable * 2)
				continue;
		}
		struct ht_node *n = node_at(node);
		CHECK(n->code >= HT_CODE_FIRST, "code %u at depth %llu", n->code, seen);
		struct ht_code *r = code_record(n->code);
		CHECK(blob_is(&r->qualname, &c->qualname) && blob_is(&r->name, &c->name) && r->first_line == c->code.first_line,
		      "frame %llu is %.*s, not %s", seen, (int)r->qualname.length, (char *)at(r->qualname.offset),
		      (char *)c->qualname.ascii);
		CHECK(n->instr == (s32)instr, "frame %llu: instruction %d, not %llu", seen, n->instr, instr);
		CHECK(n->parent < node, "parent %u of %u", n->parent, node);
		node = n->parent;
	}
	CHECK(node == thread_self()->root && node_at(node)->code == HT_CODE_ROOT, "ends at %u", node);
}

/* No two nodes of a thread are the same, and each can be found. */
static void expect_trie(struct ht_thread *t)
{
	u32 count = 0;
	for (u32 b = 0; t->buckets && b <= t->bucket_mask; b++)
		for (u32 n = ((u32 *)at(t->buckets))[b]; n; n = node_at(n)->next) {
			struct ht_node *node = node_at(n);
			u32 before = t->node_count;
			CHECK(node_child(t, node->parent, node->code, node->instr) == n && before == t->node_count,
			      "node %u is there twice", n);
			count++;
		}
	CHECK(count == t->node_count, "%u nodes in the buckets, not %u", count, t->node_count);
}

static void run_program(u32 kind, u32 generators, u64 capacity, u32 steps)
{
	tables((struct plan){.instr_kind = kind, .frame_capacity = capacity, .nodes = 1 << 21});
	scripted();
	struct program *p = program_new(generators);
	struct script s = {.next = 0x7f0000000040};
	for (u32 i = 0; i < steps; i++) {
		program_step(p, &s);
		for (u64 more = below(3); more; more--)
			program_step(p, &s);
		ht_obj_malloc(&s, 32);
		expect_stack(p, word_node(LOAD(live_find(s.next))));
		ht_obj_free(&s, (void *)s.next);
	}
	u64 blocks = 0;
	for (u64 n = 1; n < T->stats.next; n++)
		blocks += stat_at((u32)n)->alloc_blocks;
	CHECK(blocks == steps, "%llu blocks at the nodes, not %u", blocks, steps);
	expect_trie(thread_self());
	program_free(p);
}

static void test_walk(void)
{
	for (u32 kind = HT_INSTR_INDEX; kind <= HT_INSTR_POINTER; kind++)
		for (u32 generators = 0; generators <= 8; generators += 4)
			run_program(kind, generators, 256, 6000);
}

static void test_walk_deep(void)
{
	for (u32 kind = HT_INSTR_INDEX; kind <= HT_INSTR_POINTER; kind++) {
		run_program(kind, 2, 20, 5000);
		run_program(kind, 2, 70, 5000);
	}
}

/* Interning alone: random stacks against a list of those that were seen. */
static void test_nodes(void)
{
	enum { SEEN = 3000 };
	static struct {
		u32 parent, code, node;
		s32 instr;
	} seen[SEEN];
	tables((struct plan){0});
	struct ht_thread *t = thread_self();
	u32 n = 0;
	for (u32 i = 0; i < 20000; i++) {
		u32 parent = n && below(8) ? seen[below(n)].node : t->root, code = 4 + (u32)below(5);
		s32 instr = (s32)below(4) - 1;
		u32 k = 0;
		while (k < n && !(seen[k].parent == parent && seen[k].code == code && seen[k].instr == instr))
			k++;
		if (k == SEEN)
			continue;
		u32 node = node_child(t, parent, code, instr);
		if (k < n) {
			CHECK(node == seen[k].node, "%u, was %u", node, seen[k].node);
			continue;
		}
		for (u32 j = 0; j < n; j++)
			CHECK(seen[j].node != node, "node %u again", node);
		seen[n].parent = parent, seen[n].code = code, seen[n].instr = instr, seen[n++].node = node;
	}
	CHECK(n == SEEN && t->node_count == SEEN, "%u nodes, %u counted", n, t->node_count);
	expect_trie(t);
}

/* Without room for a node, or for larger buckets, stacks are told as far as they can be. */
static void test_nodes_full(void)
{
	tables((struct plan){.nodes = 2 * NODE_BATCH});
	struct ht_thread *t = thread_self();
	u32 deep = t->root;
	for (s32 i = 0; i < 200; i++)
		deep = node_child(t, deep, 4, i);
	CHECK(t->node_count == NODE_BATCH - 1 && node_at(deep)->instr == NODE_BATCH - 2, "%u nodes", t->node_count);

	tables((struct plan){.arena = 64 + BUCKETS_FIRST * 4});
	t = thread_self();
	for (s32 i = 0; i < 2000; i++)
		CHECK(node_child(t, t->root, 4, i) != t->root, "node %d", i);
	expect_trie(t);

	tables((struct plan){.arena = 64});
	t = thread_self();
	CHECK(node_child(t, t->root, 4, 1) == t->root, "a node without buckets");
}

/* A thread state that changes makes the kept walk void; a thread without one has the root's stack. */
static void test_walk_tstate(void)
{
	tables((struct plan){0});
	scripted();
	struct program *p = program_new(0);
	struct ht_thread *t = thread_self();
	for (u32 i = 0; i < 5; i++)
		push(p);
	link_frames(p);
	expect_stack(p, stack_now(t, HT_MEM, 0));
	u32 kept = t->frames, lives = t->lives;
	CHECK(kept == 5, "%u frames kept", kept);
	p->tstate.id++;
	expect_stack(p, stack_now(t, HT_MEM, 0));
	CHECK(t->lives == lives + 1, "the record serves %u threads", t->lives);
	p->tstate.thread_id++; /* another thread holds the GIL; this one has no state */
	struct tstate *own = current;
	struct tstate theirs = {.frame = own->frame, .thread_id = 1};
	static __thread struct tstate *none;
	CFG->current_tstate = (u64)&none - thread_pointer();
	none = &theirs;
	current = 0;
	CHECK(stack_now(t, HT_MEM, 0) == t->root, "the stack of another thread");
	current = own;
	expect_stack(p, stack_now(t, HT_MEM, 0));
	program_free(p);
}
