/*
 * fixture.h: tables to test on, and a make-believe interpreter: frames, code objects and strings whose layout is told
 * to the agent as the tracer tells it a real one.
 *
 * The agent's sources come first: they declare names that the system's headers define as macros. The linker places
 * ht_tables and ht_flag (--defsym), as the linker script does in the image.
 */
#include "../src/agent.c"

#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- checks and randomness -------------------------------------------------------------------------------------- */

static u64 seed;
static const char *test_name;

#define CHECK(cond, ...)                                                                                           \
	do {                                                                                                       \
		if (!(cond)) {                                                                                     \
			fprintf(stderr, "%s:%d: %s (seed %llu): not %s: ", __FILE__, __LINE__, test_name, seed,    \
			        #cond);                                                                            \
			fprintf(stderr, __VA_ARGS__);                                                              \
			fprintf(stderr, "\n");                                                                     \
			exit(1);                                                                                   \
		}                                                                                                  \
	} while (0)

static __thread u64 rng;

static u64 roll(void)
{
	u64 z = rng += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static u64 below(u64 n) { return roll() % n; }

/* ---- the make-believe interpreter ------------------------------------------------------------------------------- */

enum { OWNER_THREAD, OWNER_GENERATOR, OWNER_SHIM };
enum { CODE_BODY = 64, NAME_SIZE = 48 };

struct str {
	u64 refs, type, length;
	u32 state, pad;
	u64 ascii[NAME_SIZE / 8]; /* and compact, 8 bytes further on */
	u64 pointer;
};

struct bytes {
	u64 refs, type, length;
	u8 data[NAME_SIZE];
};

struct code {
	u64 refs, type, file, name, qualname, lines;
	s32 first_line, first_traceable;
	u8 body[CODE_BODY];
} __attribute__((aligned(16)));

struct frame {
	u64 previous, code, instr;
	u8 owner;
};

struct tstate {
	u64 frame, thread_id, id;
};

static __thread struct tstate *current;
static u64 code_type;

static u64 this_tstate(void) { return (u64)current; }

enum { STR_KIND_SHIFT = 2, STR_COMPACT_BIT = 5, STR_ASCII_BIT = 6 };

static void str_ascii(struct str *s, const char *text)
{
	*s = (struct str){.length = strlen(text), .state = 1 << STR_KIND_SHIFT | 1 << STR_COMPACT_BIT | 1 << STR_ASCII_BIT};
	memcpy(s->ascii, text, s->length);
}

static struct ht_config config_of_fixture(u32 granule_log2, u32 instr_kind, u64 sample_bytes)
{
	struct ht_config c = {
		.current_tstate = (u64)&current - thread_pointer(),
		.tstate_kind = HT_TSTATE_LOCAL,
		.this_tstate = (u64)this_tstate,
		.code_type = (u64)&code_type,
		.sample_bytes = sample_bytes,
		.code_mask = ~3ull,
		.instr_mask = instr_kind == HT_INSTR_POINTER ? ~0ull : 0xffffffff,
		.granule_log2 = granule_log2,
		.nested_above = 512,
		.tstate_frame = offsetof(struct tstate, frame),
		.cframe_frame = -1,
		.tstate_thread_id = offsetof(struct tstate, thread_id),
		.tstate_id = offsetof(struct tstate, id),
		.frame_previous = offsetof(struct frame, previous),
		.frame_code = offsetof(struct frame, code),
		.frame_instr = offsetof(struct frame, instr),
		.frame_owner = offsetof(struct frame, owner),
		.owner_generator = OWNER_GENERATOR,
		.owner_skip = OWNER_SHIM,
		.instr_kind = instr_kind,
		.code_file = offsetof(struct code, file),
		.code_name = offsetof(struct code, name),
		.code_qualname = offsetof(struct code, qualname),
		.code_first_traceable = offsetof(struct code, first_traceable),
		.code_first_line = offsetof(struct code, first_line),
		.code_lines = offsetof(struct code, lines),
		.code_bytes = offsetof(struct code, body),
		.str_length = offsetof(struct str, length),
		.str_state = offsetof(struct str, state),
		.str_kind_shift = STR_KIND_SHIFT,
		.str_compact_bit = STR_COMPACT_BIT,
		.str_ascii_bit = STR_ASCII_BIT,
		.str_ascii_data = offsetof(struct str, ascii),
		.str_compact_data = offsetof(struct str, ascii) + 8,
		.str_pointer_data = offsetof(struct str, pointer),
		.bytes_length = offsetof(struct bytes, length),
		.bytes_data = offsetof(struct bytes, data),
		.object_type = offsetof(struct code, type),
		.may_gettid = 1,
		.may_tgkill = 1,
		.may_prctl = 1,
		.pid = (u32)getpid(),
	};
	return c;
}

/* ---- tables ------------------------------------------------------------------------------------------------------- */

struct plan {
	u32 granule_log2, instr_kind;
	u64 sample_bytes;
	u64 threads, frame_capacity, nodes, codes, arena, mids, leaves, mappings;
	int shared; /* with forked children, as a target's are */
};

enum { REGION_SIZE = 1 << 29 };

static void place(struct ht_window *w, u64 *at, u64 entries, u64 size, u64 first)
{
	*w = (struct ht_window){.offset = *at, .entries = entries, .next = first, .first = (u32)first};
	*at += (entries * size + 4095) & ~4095ull;
	CHECK(*at <= REGION_SIZE, "windows of %llu bytes", *at);
}

static void fresh_memory(void *at, u64 size, int kind)
{
	void *p = mmap(at, size, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
	CHECK(p == at, "mmap %p", at);
}

/* Fresh tables, active. What `p` leaves 0 gets a size that no test fills by chance. */
static void tables(struct plan p)
{
	fresh_memory(T, REGION_SIZE, p.shared ? MAP_SHARED : MAP_PRIVATE);
	fresh_memory(&ht_flag, 4096, MAP_PRIVATE);
	CHECK(!madvise(&ht_flag, 4096, MADV_WIPEONFORK), "wipe on fork");
	p.granule_log2 += p.granule_log2 ? 0 : 4;
	u64 at = (sizeof *T + 4095) & ~4095ull;
	T->magic = HT_MAGIC;
	T->state = HT_STATE_TRACKING;
	T->size = REGION_SIZE;
	T->frame_capacity = p.frame_capacity ? p.frame_capacity : 256;
	T->config = config_of_fixture(p.granule_log2, p.instr_kind, p.sample_bytes);
	u64 threads = p.threads ? p.threads : 256;
	place(&T->threads, &at, threads, sizeof(struct ht_thread), 0);
	place(&T->slots, &at, threads, 4, 0);
	place(&T->frames, &at, threads, 2 * T->frame_capacity * sizeof(struct ht_frame), 0);
	u64 nodes = p.nodes ? p.nodes : 1 << 20;
	place(&T->nodes, &at, nodes, sizeof(struct ht_node), NODE_BATCH);
	place(&T->stats, &at, nodes, sizeof(struct ht_stat), 1);
	place(&T->others, &at, nodes / 8, sizeof(struct ht_others), 1);
	place(&T->timeline, &at, 256, sizeof(struct ht_point), 0);
	place(&T->mappings, &at, p.mappings ? p.mappings : 1 << 10, sizeof(struct ht_mapping), 0);
	place(&T->modules, &at, 64, sizeof(struct ht_loaded), 0);
	place(&T->codes, &at, p.codes ? p.codes : 1 << 16, sizeof(struct ht_code), HT_CODE_FIRST);
	place(&T->arena, &at, p.arena ? p.arena : 1 << 26, 1, 64);
	place(&T->filter, &at, 1 << HT_FILTER_LOG2, 1, 0);
	place(&T->root, &at, 1ull << (HT_ADDRESS_BITS - HT_LEAF_WORDS_LOG2 - HT_MID_ENTRIES_LOG2 - p.granule_log2), 4, 0);
	place(&T->mids, &at, p.mids ? p.mids : 1 << 9, 4 << HT_MID_ENTRIES_LOG2, 1);
	u64 leaves = p.leaves ? p.leaves : 1 << 15;
	place(&T->bases, &at, leaves, 8, 1);
	place(&T->leaves, &at, leaves, 8 << HT_LEAF_WORDS_LOG2, 1);
	ht_flag.tables = HT_TABLES_OWN;
	ht_flag.active = 1;
}

static u32 word_stat(u64 w) { return (u32)(w & ((1u << HT_STACK_BITS) - 1)); }
static u32 word_node(u64 w) { return stat_at(word_stat(w))->node; }

/* A live block as a reader sees it, found by looking at every word of every leaf. */
struct block {
	u64 address, size, epoch;
	u32 stat, domain;
};

static int live_set(u64 address, u64 size, u32 stat, u32 domain, u64 epoch)
{
	u64 *word = live_word(address);
	return word && live_put(word, address, size, stat, domain, epoch);
}

static u64 each_live(void (*visit)(const struct block *, void *), void *arg)
{
	u64 n = 0;
	u64 *bases = (u64 *)at(T->bases.offset);
	for (u64 leaf = 1; leaf < T->leaves.next && leaf < T->leaves.entries; leaf++)
		for (u64 i = 0; i < 1 << HT_LEAF_WORDS_LOG2; i++) {
			u64 w = LOAD(leaf_words((u32)leaf) + i);
			if (!(w >> HT_LIVE_BIT))
				continue;
			struct block b = {.address = bases[leaf] + (i << CFG->granule_log2),
			                  .epoch = w >> HT_EPOCH_SHIFT & HT_EPOCH_LAST,
			                  .stat = word_stat(w),
			                  .domain = (u32)(w >> HT_DOMAIN_SHIFT & 7)};
			b.size = word_size(w, b.address);
			n++;
			if (visit)
				visit(&b, arg);
		}
	return n;
}

static struct ht_count sum_counts(u32 domain)
{
	struct ht_count sum = {0};
	for (u64 i = 0; i < T->threads.entries; i++) {
		struct ht_count *c = &thread_slots()[i].count[domain];
		sum.alloc_blocks += c->alloc_blocks;
		sum.alloc_bytes += c->alloc_bytes;
		sum.freed_blocks += c->freed_blocks;
		sum.freed_bytes += c->freed_bytes;
	}
	return sum;
}

/* What is live in the domains that the GIL does not guard, with what threads have not told yet. */
static u64 live_others(void)
{
	u64 sum = T->live_other;
	for (u64 i = 0; i < T->threads.entries; i++)
		sum += thread_slots()[i].live_other;
	return sum;
}

/* ---- allocators behind the hooks ---------------------------------------------------------------------------------- */

/*
 * They hand out the addresses that the test has put into `next`: the agent never looks into a block. An object larger
 * than nested_above is passed on to the raw domain, hooks included, as pymalloc does.
 */
struct script {
	u64 next;   /* what malloc, calloc and realloc return */
	u64 freed;  /* the last address that was given back */
	u32 calls;  /* of any function, nested ones too */
	u64 large;  /* address that the raw domain owns for the object domain */
	int passed; /* `next` has been passed on */
};

static void *raw_malloc(void *ctx, u64 size)
{
	struct script *s = ctx;
	(void)size;
	s->calls++;
	return (void *)s->next;
}

static void *raw_calloc(void *ctx, u64 n, u64 size) { return raw_malloc(ctx, n * size); }

static void *raw_realloc(void *ctx, void *p, u64 size)
{
	(void)p;
	return raw_malloc(ctx, size);
}

static void raw_free(void *ctx, void *p)
{
	struct script *s = ctx;
	s->calls++;
	s->freed = (u64)p;
}

static void *obj_malloc(void *ctx, u64 size)
{
	return size > CFG->nested_above ? ht_raw_malloc(ctx, size) : raw_malloc(ctx, size);
}

static void *obj_calloc(void *ctx, u64 n, u64 size)
{
	return n * size > CFG->nested_above ? ht_raw_calloc(ctx, n, size) : raw_calloc(ctx, n, size);
}

/* Which addresses are pymalloc's own does not matter here: by size, as if every block kept its kind. */
static void *obj_realloc(void *ctx, void *p, u64 size)
{
	return size > CFG->nested_above ? ht_raw_realloc(ctx, p, size) : raw_realloc(ctx, p, size);
}

static void obj_free(void *ctx, void *p)
{
	if ((u64)p == ((struct script *)ctx)->large)
		ht_raw_free(ctx, p);
	else
		raw_free(ctx, p);
}

static void scripted(void)
{
	for (u32 d = 0; d < HT_PYTHON_DOMAINS; d++) {
		T->original[d][HT_MALLOC] = (u64)(d == HT_RAW ? raw_malloc : obj_malloc);
		T->original[d][HT_CALLOC] = (u64)(d == HT_RAW ? raw_calloc : obj_calloc);
		T->original[d][HT_REALLOC] = (u64)(d == HT_RAW ? raw_realloc : obj_realloc);
		T->original[d][HT_FREE] = (u64)(d == HT_RAW ? raw_free : obj_free);
	}
}

struct hooks {
	void *(*malloc)(void *, u64);
	void *(*calloc)(void *, u64, u64);
	void *(*realloc)(void *, void *, u64);
	void (*free)(void *, void *);
};

static const struct hooks hooks[HT_PYTHON_DOMAINS] = {
	{ht_raw_malloc, ht_raw_calloc, ht_raw_realloc, ht_raw_free},
	{ht_mem_malloc, ht_mem_calloc, ht_mem_realloc, ht_mem_free},
	{ht_obj_malloc, ht_obj_calloc, ht_obj_realloc, ht_obj_free},
};

static const struct hooks sampled[HT_PYTHON_DOMAINS] = {
	{ht_raw_malloc, ht_raw_calloc, ht_raw_realloc, ht_raw_free_sampled},
	{ht_mem_malloc_sampled, ht_mem_calloc_sampled, ht_mem_realloc_sampled, ht_mem_free_sampled},
	{ht_obj_malloc_sampled, ht_obj_calloc_sampled, ht_obj_realloc_sampled, ht_obj_free_sampled},
};
