/*
 * stats.h: what is allocated and freed at each stack, and which of it stood there at the peak.
 *
 * The peak costs no list of blocks: a stat that is changed for the first time after the peak notes first what it was.
 * One that was not changed since is what it was.
 *
 * Objects and buffers are guarded by the GIL, and written plainly. Other blocks may come and go without it: they have
 * nodes of their own (HT_CODE_DOMAIN). What is allocated at such a node is counted by the thread whose node it is, and so
 * is what it frees of it, plainly; what others free of it, they count apart, atomically. Mapped files are counted by
 * stack, and in no sum: their memory is the page cache's.
 *
 * How much of these blocks is live in all, a thread tells the others when it has changed by some kilobytes: so the peak
 * of a program of several threads is that of a moment close by.
 */

INLINE int guarded(u32 domain) { return domain == HT_MEM || domain == HT_OBJ; }

INLINE struct ht_stat *stat_at(u32 stat) { return (struct ht_stat *)at(T->stats.offset) + stat; }

COLD u32 stat_new(struct ht_thread *t, u32 node)
{
	u32 stat = (u32)take(&T->stats, 1);
	if (stat) {
		stat_at(stat)->node = node;
		stat_at(stat)->owner = t->root;
		node_at(node)->stat = stat;
	}
	return stat;
}

/* The stat of a node of the calling thread's, or 0 when the table is full. */
INLINE u32 stat_of(struct ht_thread *t, u32 node)
{
	u32 stat = node_at(node)->stat;
	return likely(stat) ? stat : stat_new(t, node);
}

/*
 * The stat of a domain's blocks at a stack of the calling thread's. Those that the GIL does not guard have a node of their
 * own below the stack's.
 */
INLINE u32 stat_at_stack(struct ht_thread *t, u32 node, u32 domain)
{
	if (likely(guarded(domain)))
		return stat_of(t, node);
	struct ht_memo *m = domain == HT_RAW ? &t->memo[0] : domain == HT_NATIVE ? &t->memo[1] : 0;
	if (likely(m && m->node == node && m->stat))
		return m->stat;
	u32 stat = stat_of(t, node_child(t, node, HT_CODE_DOMAIN, (s32)domain));
	if (m)
		*m = (struct ht_memo){node, stat};
	return stat;
}

/* A stat's ht_others, or 0: none is wanted, or there is no room. Of two threads that make it at one time, one's is lost. */
static struct ht_others *others_of(struct ht_stat *s, int wanted)
{
	u32 n = LOAD(&s->others);
	if (!n && wanted) {
		u32 fresh = (u32)take(&T->others, 1);
		if (fresh && __atomic_compare_exchange_n(&s->others, &n, fresh, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			n = fresh;
	}
	return n ? (struct ht_others *)at(T->others.offset) + n : 0;
}

INLINE void stat_keep(struct ht_stat *s, u64 other_blocks, u64 other_bytes)
{
	STORE(&s->peak_blocks, LOAD(&s->alloc_blocks) - LOAD(&s->freed_blocks) - other_blocks);
	STORE(&s->peak_bytes, LOAD(&s->alloc_bytes) - LOAD(&s->freed_bytes) - other_bytes);
}

/* The stat is about to be changed. */
INLINE void stat_touch(struct ht_stat *s)
{
	u32 peak = (u32)LOAD(&T->peak);
	if (likely(s->peak == peak))
		return;
	stat_keep(s, 0, 0);
	s->peak = peak;
}

COLD void stat_keep_shared(struct ht_stat *s, u32 is, u32 peak)
{
	const struct ht_others *o = others_of(s, 0);
	if (__atomic_compare_exchange_n(&s->peak, &is, peak, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		stat_keep(s, o ? LOAD(&o->freed_blocks) : 0, o ? LOAD(&o->freed_bytes) : 0);
}

INLINE void stat_touch_shared(struct ht_stat *s)
{
	u32 peak = (u32)LOAD(&T->peak), is = LOAD(&s->peak);
	if (unlikely(is != peak))
		stat_keep_shared(s, is, peak);
}

enum { LIVE_BATCH = 16384 };

/* So many more bytes are live, perhaps less than none. Returns how many are, as far as the thread knows. */
INLINE u64 live_changes(struct ht_thread *t, u64 bytes)
{
	if (unlikely(!t))
		return __atomic_add_fetch(&T->live_other, bytes, __ATOMIC_RELAXED) + LOAD(&T->live);
	u64 own = t->live_other + bytes;
	if (unlikely(own + LIVE_BATCH > 2 * LIVE_BATCH)) { /* beyond it on either side */
		__atomic_fetch_add(&T->live_other, own, __ATOMIC_RELAXED);
		own = 0;
	}
	STORE(&t->live_other, own);
	return LOAD(&T->live_other) + own + LOAD(&T->live);
}

/* The timeline is full: every second point stays, and new ones come half as often. */
COLD void timeline_thin(struct ht_point *points)
{
	u64 n = T->timeline.next / 2;
	for (u64 i = 0; i < n; i++)
		points[i] = points[2 * i];
	STORE(&T->timeline.next, n);
	T->timeline_step *= 2;
}

COLD void timeline_add(u64 epoch)
{
	struct ht_point *points = (struct ht_point *)at(T->timeline.offset);
	if (T->timeline.next >= T->timeline.entries)
		timeline_thin(points);
	u64 i = T->timeline.next;
	points[i].epoch = (u32)epoch;
	points[i].bytes = T->live + LOAD(&T->live_other);
	STORE(&T->timeline.next, i + 1);
	T->timeline_due = epoch + T->timeline_step;
}

/* What is live has grown to `bytes`. */
INLINE void peak_rises(u64 bytes, u64 epoch)
{
	if (bytes > LOAD(&T->peak_bytes)) {
		STORE(&T->peak_bytes, bytes);
		STORE(&T->peak_epoch, (u32)epoch);
		STORE(&T->rising, 1);
	}
}

/* Something is about to be freed. */
INLINE void peak_ends(void)
{
	if (LOAD(&T->rising)) {
		STORE(&T->rising, 0);
		STORE(&T->peak, LOAD(&T->peak) + 1);
	}
}

/* A stat of the calling thread's own: nobody else writes what was allocated. */
INLINE void stat_alloc_own(struct ht_thread *t, struct ht_stat *s, u32 domain, u64 blocks, u64 bytes, u64 epoch)
{
	stat_touch_shared(s);
	STORE(&s->alloc_blocks, s->alloc_blocks + blocks);
	STORE(&s->alloc_bytes, s->alloc_bytes + bytes);
	if (domain != HT_FILE)
		peak_rises(live_changes(t, bytes), epoch);
}

/* Not the calling thread's: any may be here. Without room for it, what the thread whose it is frees just now is missed. */
COLD void stat_freed_by_other(struct ht_stat *s, u64 blocks, u64 bytes)
{
	struct ht_others *o = others_of(s, 1);
	__atomic_fetch_add(o ? &o->freed_blocks : &s->freed_blocks, blocks, __ATOMIC_RELAXED);
	__atomic_fetch_add(o ? &o->freed_bytes : &s->freed_bytes, bytes, __ATOMIC_RELAXED);
}

INLINE void stat_free_shared(struct ht_thread *t, struct ht_stat *s, u32 domain, u64 blocks, u64 bytes)
{
	if (LOAD(&T->rising) && __atomic_exchange_n(&T->rising, 0, __ATOMIC_RELAXED))
		__atomic_fetch_add(&T->peak, 1, __ATOMIC_RELAXED);
	stat_touch_shared(s);
	if (likely(t && s->owner == t->root)) {
		STORE(&s->freed_blocks, s->freed_blocks + blocks);
		STORE(&s->freed_bytes, s->freed_bytes + bytes);
	} else {
		stat_freed_by_other(s, blocks, bytes);
	}
	if (domain != HT_FILE)
		live_changes(t, -bytes);
}

/* Blocks of `bytes` in all have been allocated at a stack of the thread's. */
INLINE void stat_alloc(struct ht_thread *t, u32 stat, u32 domain, u64 blocks, u64 bytes, u64 epoch)
{
	struct ht_stat *s = stat_at(stat);
	if (unlikely(!guarded(domain))) {
		stat_alloc_own(t, s, domain, blocks, bytes, epoch);
		return;
	}
	stat_touch(s);
	s->alloc_blocks += blocks;
	s->alloc_bytes += bytes;
	u64 live = LOAD(&T->live) + bytes;
	STORE(&T->live, live);
	peak_rises(live + LOAD(&T->live_other) + t->live_other, epoch);
	if (unlikely(epoch >= T->timeline_due))
		timeline_add(epoch);
}

/*
 * Blocks that were allocated there are being freed, by a thread that may have no record; a negative number of them: are
 * there after all.
 */
INLINE void stat_free(struct ht_thread *t, u32 stat, u32 domain, u64 blocks, u64 bytes)
{
	struct ht_stat *s = stat_at(stat);
	if (unlikely(!guarded(domain))) {
		stat_free_shared(t, s, domain, blocks, bytes);
		return;
	}
	peak_ends();
	stat_touch(s);
	s->freed_blocks += blocks;
	s->freed_bytes += bytes;
	STORE(&T->live, LOAD(&T->live) - bytes);
}
