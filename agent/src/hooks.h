/*
 * hooks.h: what stands in the allocators' function pointers.
 *
 * Order: a block is taken out of the live map before the real free, since another thread may get its address at once;
 * it is put in after the real malloc. A realloc takes the old block out before, and puts it back if the call fails.
 *
 * Depth: allocators call each other (a large object is a raw block). Only the outermost call is counted; what it calls
 * finds the depth set and passes through. See depth.h for calls that never return.
 */

/*
 * The frame of the function that the target has called, where a walk of native frames begins: the caller's frame
 * pointer, the address in the caller to return to, and behind these two the caller's stack pointer. In a function that
 * is always inlined it is the frame of whom it is inlined into.
 */
#define HOOK_FRAME ((const u64 *)__builtin_frame_address(0))

/* What one recorded block counts for: 1, or the sampling weight of its size. */
INLINE u64 weight_of(u64 size) { return CFG->sample_bytes ? sample_weight(size) : 1; }

/*
 * Does a sample point fall into the block? Blocks that may come without the GIL use up their thread's distance; the
 * others share one, in the flag page.
 */
INLINE int sample_here(struct ht_thread *t, u32 domain, u64 size)
{
	s64 *until = guarded(domain) ? &ht_flag.until_sample : &t->until_sample;
	if (!guarded(domain))
		*until -= (s64)sampled_bytes(size); /* the others did so on their way here */
	if (likely(*until >= 0))
		return 0;
	*until = sample_distance(t);
	return 1;
}

/* A block taken out of the live map. */
struct taken {
	u64 *word;
	u64 old;
	u64 size;
};

INLINE u32 stat_in(u64 word) { return (u32)(word & ((1u << HT_STACK_BITS) - 1)); }
INLINE u32 domain_of(u64 word) { return (u32)(word >> HT_DOMAIN_SHIFT & (HT_DOMAIN_SLOTS - 1)); }

COLD void code_freed(u64 *word, u64 p)
{
	__atomic_fetch_and(word, ~(1ull << HT_CODE_BIT), __ATOMIC_RELAXED);
	if (CFG->sample_bytes)
		filter_remove(p);
	code_retire(p);
}

INLINE void count_freed(struct ht_thread *t, u64 old, u64 size, u64 weight)
{
	u32 domain = domain_of(old);
	t->count[domain].freed_blocks += weight;
	t->count[domain].freed_bytes += size * weight;
	stat_free(t, stat_in(old), domain, weight, size * weight);
}

NOINLINE void sampled_freed(struct ht_thread *t, u64 old, u64 size, u64 p)
{
	filter_remove(p);
	count_freed(t, old, size, sample_weight(size));
}

/* Takes the block at p out of the map, if it is there. */
INLINE struct taken take_out(struct ht_thread *t, u64 p)
{
	struct taken k = {live_find(p), 0, 0};
	if (likely(k.word)) {
		k.old = LOAD(k.word);
		if (unlikely(k.old >> HT_CODE_BIT & 1)) {
			code_freed(k.word, p);
			k.old &= ~(1ull << HT_CODE_BIT);
		}
	}
	if (likely((s64)k.old < 0)) { /* HT_LIVE_BIT */
		STORE(k.word, 0);
		k.size = word_size(k.old, p);
		if (likely(!CFG->sample_bytes))
			count_freed(t, k.old, k.size, 1);
		else
			sampled_freed(t, k.old, k.size, p);
	} else if (!t->depth && !CFG->sample_bytes) {
		t->unseen_frees++;
	}
	return k;
}

/*
 * Blocks may be freed where we do not see it: by a pointer from dlsym, or by an allocator that is linked into its module.
 * When malloc has given their place to another, they are certainly gone: the one at p, and one before it whose size
 * would stand at p.
 */
COLD void stale_block(struct ht_thread *t, u64 p) { take_out(t, p); }

INLINE void stale_go(struct ht_thread *t, u64 p, const u64 *word)
{
	if (unlikely((s64)LOAD(word) < 0))
		stale_block(t, p);
	if (unlikely((u64)word % LEAF_BYTES == 0)) /* the word before it is elsewhere */
		return;
	u64 before = LOAD(word - 1);
	if (unlikely((s64)before < 0 && (before >> HT_SIZE_SHIFT & HT_SIZE_BIG) == HT_SIZE_BIG))
		stale_block(t, p - (1u << CFG->granule_log2));
}

/* The calling thread has allocated `size` bytes at p, which stand for `weight` blocks. */
INLINE int record_block(struct ht_thread *t, u32 domain, u64 p, u64 size, u64 weight, const u64 *fp)
{
	if (domain != HT_NATIVE) /* whose hooks have asked already */
		loader_check(t, fp);
	u32 stat = stat_at_stack(t, stack_now(t, domain, fp), domain);
	u64 epoch = epoch_now(), *word = live_word(p);
	if (likely(word) && (domain == HT_NATIVE || (T->has_native && (domain == HT_RAW || size > CFG->nested_above))))
		stale_go(t, p, word);
	if (unlikely(!stat || !word || !live_put(word, p, size, stat, domain, epoch))) {
		t->lost++;
		return 0;
	}
	t->count[domain].alloc_blocks += weight;
	t->count[domain].alloc_bytes += size * weight;
	stat_alloc(t, stat, domain, weight, size * weight, epoch);
	return 1;
}

NOINLINE void record_sampled(struct ht_thread *t, u32 domain, u64 p, u64 size, const u64 *fp)
{
	if (sample_here(t, domain, size) && record_block(t, domain, p, size, sample_weight(size), fp))
		filter_add(p);
}

INLINE void record(struct ht_thread *t, u32 domain, u64 p, u64 size, const u64 *fp)
{
	if (unlikely(CFG->sample_bytes)) {
		record_sampled(t, domain, p, size, fp);
		return;
	}
	record_block(t, domain, p, size, 1, fp);
	if (unlikely(CFG->temporary))
		t->recent[t->recent_next++ % HT_TEMPORARY_MOST] = p;
}

/* Is the block that is being freed among the last that the thread allocated? */
NOINLINE void count_temporary(struct ht_thread *t, u64 p, u64 old)
{
	for (u64 i = 1; i <= CFG->temporary; i++)
		if (t->recent[(t->recent_next - i) % HT_TEMPORARY_MOST] == p) {
			struct ht_others *o = others_of(stat_at(stat_in(old)), 1);
			if (o)
				__atomic_fetch_add(&o->temporary, 1, __ATOMIC_RELAXED);
			return; /* an older one was at the same address, and is counted */
		}
}

/* The block is still there after all. */
COLD void put_back(struct ht_thread *t, u64 p, const struct taken *k)
{
	if (!(k->old >> HT_LIVE_BIT)) {
		t->unseen_frees -= !CFG->sample_bytes;
		return;
	}
	count_freed(t, k->old, k->size, -weight_of(k->size)); /* it was not */
	if (CFG->sample_bytes)
		filter_add(p);
	STORE(k->word, k->old);
}

/* A block in a thread that has no record, or within another allocator: what is known of it must go, no more. */
COLD void pass_free(struct ht_thread *t, u64 p)
{
	if (t) {
		take_out(t, p);
		return;
	}
	u64 *word = live_find(p);
	if (!word)
		return;
	if (LOAD(word) >> HT_CODE_BIT & 1)
		code_freed(word, p);
	u64 old = LOAD(word);
	if (old >> HT_LIVE_BIT) {
		u64 size = word_size(old, p), weight = weight_of(size);
		stat_free(0, stat_in(old), domain_of(old), weight, size * weight);
		__atomic_fetch_add(&T->orphan_frees, 1, __ATOMIC_RELAXED);
		if (CFG->sample_bytes)
			filter_remove(p);
	}
	STORE(word, 0);
}

COLD void pass_malloc(struct ht_thread *t)
{
	if (!t)
		__atomic_fetch_add(&T->lost_threads, 1, __ATOMIC_RELAXED);
}

typedef void *(*malloc_function)(void *, u64);
typedef void *(*calloc_function)(void *, u64, u64);
typedef void *(*realloc_function)(void *, void *, u64);
typedef void (*free_function)(void *, void *);

#define ORIGINAL(domain, which) ((which##_function)T->original[domain][which##_slot])
enum { malloc_slot = HT_MALLOC, calloc_slot = HT_CALLOC, realloc_slot = HT_REALLOC, free_slot = HT_FREE };

/*
 * Not tracking, or a forked child that is not followed, in which the way here should not be taken often. Not never:
 * this store may come after the tracer's, who makes us active at this moment.
 */
enum { INERT_BYTES = 1 << 20 };

INLINE int inert(void)
{
	if (likely(active()))
		return 0;
	STORE(&ht_flag.until_sample, INERT_BYTES);
	return !fork_follow();
}

/* A request has failed: the bytes that sample_skips counted are none. */
COLD void unsample(u32 domain, u64 size)
{
	if (CFG->sample_bytes && guarded(domain))
		ht_flag.until_sample = (s64)((u64)ht_flag.until_sample + sampled_bytes(size));
}

/*
 * A new block holds what was there before, perhaps an object that was moved away with its reference count and type. Until
 * it is an object itself it must not look like one: no count at any of the places where an object may begin in its
 * block. The block's first line is about to be written anyway.
 */
INLINE void blank(u64 p, u64 size)
{
	if (likely(size >= 40))
		poke64(p + 32, 0);
	if (likely(size >= 32))
		poke64(p + 24, 0);
	if (likely(size >= 24))
		poke64(p + 16, 0);
	if (likely(size >= 16))
		poke64(p, 0);
}

INLINE void *hook_malloc(u32 domain, void *ctx, u64 size)
{
	malloc_function original = ORIGINAL(domain, malloc);
	if (unlikely(inert()))
		return original(ctx, size);
	struct ht_thread *t = thread_self();
	if (unlikely(!t || within(t, HOOK_FRAME))) {
		pass_malloc(t);
		return original(ctx, size);
	}
	depth_enter(t, HOOK_FRAME);
	void *p = original(ctx, size);
	if (likely(p)) {
		if (domain == HT_OBJ)
			blank((u64)p, size);
		record(t, domain, (u64)p, size, HOOK_FRAME);
	} else {
		unsample(domain, size);
	}
	t->depth = 0;
	return p;
}

INLINE void *hook_calloc(u32 domain, void *ctx, u64 n, u64 size)
{
	calloc_function original = ORIGINAL(domain, calloc);
	if (unlikely(inert()))
		return original(ctx, n, size);
	struct ht_thread *t = thread_self();
	if (unlikely(!t || within(t, HOOK_FRAME))) {
		pass_malloc(t);
		return original(ctx, n, size);
	}
	depth_enter(t, HOOK_FRAME);
	void *p = original(ctx, n, size);
	if (likely(p))
		record(t, domain, (u64)p, n * size, HOOK_FRAME); /* no overflow, or there would be no p */
	else
		unsample(domain, n * size);
	t->depth = 0;
	return p;
}

INLINE void *hook_realloc(u32 domain, void *ctx, void *p, u64 size)
{
	realloc_function original = ORIGINAL(domain, realloc);
	if (unlikely(inert()))
		return original(ctx, p, size);
	struct ht_thread *t = thread_self();
	if (unlikely(!t || within(t, HOOK_FRAME))) {
		/* Within another allocator the outer call accounts for the block; without a record nobody does. */
		if (!t && p)
			pass_free(t, (u64)p);
		pass_malloc(t);
		return original(ctx, p, size);
	}
	struct taken k = {0, 0, 0};
	if (p)
		k = take_out(t, (u64)p);
	depth_enter(t, HOOK_FRAME);
	void *q = original(ctx, p, size);
	if (likely(q)) {
		record(t, domain, (u64)q, size, HOOK_FRAME);
	} else {
		unsample(domain, size);
		if (p && size) /* for no bytes, NULL says that p was freed */
			put_back(t, (u64)p, &k);
	}
	t->depth = 0;
	return q;
}

/* A free that the allocator may pass on to another one, where it must not count as that of an unknown block. */
COLD void nesting_free(struct ht_thread *t, free_function original, void *ctx, void *p)
{
	depth_enter(t, __builtin_frame_address(0));
	original(ctx, p);
	t->depth = 0;
}

INLINE void hook_free(u32 domain, void *ctx, void *p)
{
	free_function original = ORIGINAL(domain, free);
	if (likely(active() && p)) {
		struct ht_thread *t = thread_self();
		if (likely(t && !t->depth)) {
			struct taken k = take_out(t, (u64)p);
			if (unlikely(CFG->temporary) && (s64)k.old < 0)
				count_temporary(t, (u64)p, k.old);
			if (domain == HT_RAW ? T->has_native : unlikely(k.size > CFG->nested_above || (s64)k.old >= 0)) {
				nesting_free(t, original, ctx, p);
				return;
			}
		} else {
			pass_free(t, (u64)p);
		}
	}
	original(ctx, p);
}

/* What the tracer puts into a PyMemAllocatorEx: ht_raw_malloc and so on. */
#define ENTRY __attribute__((visibility("hidden"), used))
#define HOOKS(name, domain)                                                                                         \
	ENTRY void *ht_##name##_malloc(void *ctx, u64 size) { return hook_malloc(domain, ctx, size); }              \
	ENTRY void *ht_##name##_calloc(void *ctx, u64 n, u64 size) { return hook_calloc(domain, ctx, n, size); }    \
	ENTRY void *ht_##name##_realloc(void *ctx, void *p, u64 size) { return hook_realloc(domain, ctx, p, size); } \
	ENTRY void ht_##name##_free(void *ctx, void *p) { hook_free(domain, ctx, p); }

HOOKS(raw, HT_RAW)
HOOKS(mem, HT_MEM)
HOOKS(obj, HT_OBJ)

/*
 * When sampling, these stand before them: they look whether there can be anything to do, and otherwise are gone in a
 * few instructions. An object request that will be passed on to the raw domain always goes the long way, whose depth
 * keeps it from being counted there again.
 */
INLINE int sample_skips(u64 size)
{
	s64 left = (s64)((u64)ht_flag.until_sample - sampled_bytes(size)); /* wraps for absurd sizes: see unsample */
	ht_flag.until_sample = left;
	return likely(left >= 0 && size <= CFG->nested_above);
}

INLINE int filter_skips(void *p) { return likely(!LOAD(filter_of((u64)p))); }

#define SAMPLED(name, domain)                                                                                       \
	ENTRY void *ht_##name##_malloc_sampled(void *ctx, u64 size)                                                  \
	{                                                                                                            \
		if (sample_skips(size))                                                                              \
			return ORIGINAL(domain, malloc)(ctx, size);                                                  \
		return ht_##name##_malloc(ctx, size);                                                                \
	}                                                                                                            \
	ENTRY void *ht_##name##_calloc_sampled(void *ctx, u64 n, u64 size)                                           \
	{                                                                                                            \
		if (sample_skips(n * size))                                                                          \
			return ORIGINAL(domain, calloc)(ctx, n, size);                                               \
		return ht_##name##_calloc(ctx, n, size);                                                             \
	}                                                                                                            \
	ENTRY void *ht_##name##_realloc_sampled(void *ctx, void *p, u64 size)                                        \
	{                                                                                                            \
		if (sample_skips(size) && filter_skips(p))                                                           \
			return ORIGINAL(domain, realloc)(ctx, p, size);                                              \
		return ht_##name##_realloc(ctx, p, size);                                                            \
	}

#define SAMPLED_FREE(name, domain)                                                                                  \
	ENTRY void ht_##name##_free_sampled(void *ctx, void *p)                                                      \
	{                                                                                                            \
		if (filter_skips(p)) {                                                                               \
			ORIGINAL(domain, free)(ctx, p);                                                              \
			return;                                                                                      \
		}                                                                                                    \
		ht_##name##_free(ctx, p);                                                                            \
	}

SAMPLED(mem, HT_MEM)
SAMPLED(obj, HT_OBJ)
SAMPLED_FREE(raw, HT_RAW)
SAMPLED_FREE(mem, HT_MEM)
SAMPLED_FREE(obj, HT_OBJ)
