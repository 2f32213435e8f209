/*
 * live.h: the live map, a radix over addresses with one word for each granule.
 *
 * A block's word is written by whoever allocated the block and cleared by whoever frees it, before the allocator can
 * hand the address out again; so plain stores are enough. Only the tree itself grows under compare-and-swap.
 */

INLINE u64 *leaf_words(u32 leaf) { return (u64 *)at(T->leaves.offset) + ((u64)leaf << HT_LEAF_WORDS_LOG2); }

/*
 * An address as granules. What lies within a granule comes to the top bits, so that an address that is not aligned lies
 * beyond the root table, as one of more than HT_ADDRESS_BITS does: one comparison refuses both.
 */
INLINE u64 granule_of(u64 address)
{
	u32 n = CFG->granule_log2;
	return address >> n | address << (64 - n);
}

INLINE u64 root_index(u64 g) { return g >> (HT_LEAF_WORDS_LOG2 + HT_MID_ENTRIES_LOG2); }

INLINE u32 *root_entry(u64 g) { return (u32 *)at(T->root.offset) + root_index(g); }

INLINE u32 *mid_entry(u32 mid, u64 g)
{
	u64 i = g >> HT_LEAF_WORDS_LOG2 & ((1 << HT_MID_ENTRIES_LOG2) - 1);
	return (u32 *)at(T->mids.offset) + ((u64)mid << HT_MID_ENTRIES_LOG2) + i;
}

INLINE u64 *leaf_word(u32 leaf, u64 g) { return leaf_words(leaf) + (g & ((1 << HT_LEAF_WORDS_LOG2) - 1)); }

/* The word of an address, or 0 where none was ever needed. */
INLINE u64 *live_find(u64 address)
{
	u64 g = granule_of(address);
	if (unlikely(root_index(g) >= T->root.entries))
		return 0;
	u32 mid = LOAD(root_entry(g));
	if (unlikely(!mid))
		return 0;
	u32 leaf = LOAD(mid_entry(mid, g));
	return likely(leaf) ? leaf_word(leaf, g) : 0;
}

enum { LEAF_BYTES = 8 << HT_LEAF_WORDS_LOG2 };

/* Puts `fresh` where an entry of the tree is still 0; returns what stands there afterwards. */
static u32 grow(u32 *entry, u32 fresh)
{
	u32 is = 0;
	if (__atomic_compare_exchange_n(entry, &is, fresh, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
		return fresh;
	return is;
}

COLD u64 *live_make(u64 address)
{
	u64 g = granule_of(address);
	if (root_index(g) >= T->root.entries)
		return 0;
	u32 *entry = root_entry(g);
	u32 mid = LOAD(entry);
	if (!mid) {
		u32 fresh = (u32)take(&T->mids, 1);
		if (!fresh)
			return 0;
		mid = grow(entry, fresh);
	}
	entry = mid_entry(mid, g);
	u32 leaf = LOAD(entry);
	if (!leaf) {
		u32 fresh = (u32)take(&T->leaves, 1);
		if (!fresh)
			return 0;
		u64 *base = (u64 *)at(T->bases.offset) + fresh;
		STORE(base, g >> HT_LEAF_WORDS_LOG2 << (HT_LEAF_WORDS_LOG2 + CFG->granule_log2));
		leaf = grow(entry, fresh);
		if (leaf != fresh)
			STORE(base, 0); /* another thread was first: this leaf stays empty */
	}
	return leaf_word(leaf, g);
}

/* The word of an address that is about to hold a block, or 0 when the tables are full or the address is odd. */
INLINE u64 *live_word(u64 address)
{
	u64 *word = live_find(address);
	return likely(word) ? word : live_make(address);
}

INLINE u64 word_size(u64 word, u64 address)
{
	u64 size = word >> HT_SIZE_SHIFT & HT_SIZE_BIG;
	if (likely(size != HT_SIZE_BIG))
		return size;
	u64 *next = live_find(address + (1u << CFG->granule_log2));
	return next ? LOAD(next) : size;
}

/* Says that a block of `size` bytes now stands at address, whose word is given. Returns 0 when there is no room for it. */
INLINE int live_put(u64 *word, u64 address, u64 size, u32 stat, u32 domain, u64 epoch)
{
	u64 short_size = size;
	if (unlikely(size >= HT_SIZE_BIG)) {
		u64 *next = live_word(address + (1u << CFG->granule_log2));
		if (!next)
			return 0;
		STORE(next, size & ~(1ull << HT_LIVE_BIT));
		short_size = HT_SIZE_BIG;
	}
	STORE_RELEASE(word, 1ull << HT_LIVE_BIT | (u64)domain << HT_DOMAIN_SHIFT | epoch << HT_EPOCH_SHIFT |
	                      short_size << HT_SIZE_SHIFT | stat);
	return 1;
}

/*
 * Addresses of sampled blocks and of known code objects are counted by hash; see HT_FILTER_LOG2. Blocks that are
 * neighbours have counters that are, so that a busy pool's stay in the cache.
 */
INLINE u8 *filter_of(u64 address)
{
	return at(T->filter.offset) + ((address >> 4 ^ address >> (4 + HT_FILTER_LOG2)) & ((1 << HT_FILTER_LOG2) - 1));
}

static void filter_change(u64 address, int by)
{
	u8 *f = filter_of(address), is = LOAD(f);
	while (is != HT_FILTER_FULL && !(by < 0 && is == 0) &&
	       !__atomic_compare_exchange_n(f, &is, (u8)(is + by), 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

static void filter_add(u64 address) { filter_change(address, 1); }
static void filter_remove(u64 address) { filter_change(address, -1); }
