/*
 * mappings.h: memory that the target has mapped. It may be given back in parts, so that a list of ranges is kept, not
 * words of the live map. Mappings are few and rare: the list is searched from end to end, under a lock that is not
 * waited for beyond a bound: a second or so, since its holder may be kept from running by many others.
 */

INLINE struct ht_mapping *mapping_at(u64 i) { return (struct ht_mapping *)at(T->mappings.offset) + i; }

enum { LOCK_YIELDS = 1 << 20 };

static int mappings_lock(void)
{
	int got = spin_lock(&T->mappings_lock);
	for (u32 i = 0; !got && T->may_yield && !LOAD(&T->filtered) && !LOAD(&T->mappings_stuck) && i < LOCK_YIELDS; i++) {
		u32 is = 0;
		system_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
		got = __atomic_compare_exchange_n(&T->mappings_lock, &is, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
	}
	/* Whoever has it left by longjmp, or was killed: nobody waits for long again. */
	STORE(&T->mappings_stuck, !got);
	return got;
}

static u64 pages(u64 bytes) { return (bytes + PAGE - 1) & ~(u64)(PAGE - 1); }

/* What a mapping counts for: every one is recorded, also when sampling. */
INLINE u64 unscaled(u64 n) { return CFG->sample_bytes ? n << HT_SCALE_BITS : n; }

static void mapping_made(struct ht_thread *t, const struct ht_mapping *m, u64 blocks, u64 bytes)
{
	struct ht_count *c = &t->count[m->domain];
	c->alloc_blocks += unscaled(blocks);
	c->alloc_bytes += unscaled(bytes);
	stat_alloc(t, m->stat, m->domain, unscaled(blocks), unscaled(bytes), m->epoch);
}

static void mapping_gone(struct ht_thread *t, const struct ht_mapping *m, u64 blocks, u64 bytes)
{
	struct ht_count *c = &t->count[m->domain];
	c->freed_blocks += unscaled(blocks);
	c->freed_bytes += unscaled(bytes);
	stat_free(t, m->stat, m->domain, unscaled(blocks), unscaled(bytes));
}

/* Under the lock. */
static int mapping_put(const struct ht_mapping *m)
{
	u64 n = T->mappings.next;
	if (n == T->mappings.entries)
		return 0;
	*mapping_at(n) = *m;
	STORE_RELEASE(&T->mappings.next, n + 1);
	return 1;
}

NOINLINE void mapping_add(struct ht_thread *t, u64 start, u64 size, u32 domain, const u64 *fp)
{
	u32 stat = stat_at_stack(t, stack_now(t, domain, fp), domain);
	struct ht_mapping m = {start, start + pages(size), stat, (u32)epoch_now(), domain, 0};
	if (!stat || !mappings_lock()) {
		t->lost++;
		return;
	}
	if (mapping_put(&m))
		mapping_made(t, &m, 1, m.end - m.start);
	else
		t->lost++;
	spin_unlock(&T->mappings_lock);
}

/* The domain of the mapping that an address is in, or 0. */
static u32 mapping_domain(u64 address)
{
	u32 domain = 0;
	if (!mappings_lock())
		return 0;
	for (u64 i = 0; i < T->mappings.next && !domain; i++)
		if (address - mapping_at(i)->start < mapping_at(i)->end - mapping_at(i)->start)
			domain = mapping_at(i)->domain;
	spin_unlock(&T->mappings_lock);
	return domain;
}

/*
 * What is left of the i-th mapping without [start, end). Of one that is cut in two, the end becomes a mapping of its
 * own. Returns 0 when nothing is left, and another stands in its place. Under the lock.
 */
static int mapping_cut(struct ht_thread *t, u64 i, u64 start, u64 end)
{
	struct ht_mapping *m = mapping_at(i), was = *m, rest = was;
	u64 from = was.start > start ? was.start : start, to = was.end < end ? was.end : end;
	rest.start = to;
	if (from > was.start && to < was.end) {
		mapping_gone(t, &was, 0, to - from);
		if (mapping_put(&rest)) {
			mapping_gone(t, &was, (u64)-1, 0); /* there is one more, which nobody has made */
		} else { /* there is no room for it */
			mapping_gone(t, &was, 0, was.end - to);
			t->lost++;
		}
		m->end = from;
		return 1;
	}
	if (from > was.start) {
		mapping_gone(t, &was, 0, to - from);
		m->end = from;
		return 1;
	}
	if (to < was.end) {
		mapping_gone(t, &was, 0, to - from);
		m->start = to;
		return 1;
	}
	mapping_gone(t, &was, 1, to - from);
	u64 last = T->mappings.next - 1;
	*m = *mapping_at(last);
	STORE_RELEASE(&T->mappings.next, last);
	return 0;
}

/* What was taken out before a call that may fail. */
enum { PARTS = 8 };
struct parts {
	u64 n;
	struct ht_mapping part[PARTS];
};

static void part_taken(struct ht_thread *t, struct parts *parts, const struct ht_mapping *m, u64 start, u64 end)
{
	if (parts->n == PARTS) {
		t->lost++; /* if the call fails */
		return;
	}
	struct ht_mapping *p = &parts->part[parts->n++];
	*p = *m;
	p->start = m->start > start ? m->start : start;
	p->end = m->end < end ? m->end : end;
}

/*
 * [start, start + size) is no longer what it was: what is known there goes, parts of mappings stay. What went is noted in
 * parts, if there are any.
 */
NOINLINE void mapping_remove(struct ht_thread *t, u64 start, u64 size, struct parts *parts)
{
	u64 end = start + pages(size);
	if (!LOAD(&T->mappings.next) || end < start)
		return;
	if (!mappings_lock()) {
		t->lost++;
		return;
	}
	for (u64 i = 0; i < T->mappings.next;) {
		const struct ht_mapping *m = mapping_at(i);
		if (m->end <= start || m->start >= end) {
			i++;
			continue;
		}
		if (parts)
			part_taken(t, parts, m, start, end);
		i += (u64)mapping_cut(t, i, start, end);
	}
	spin_unlock(&T->mappings_lock);
}

/* The call that was to take the parts away has failed: they are there as before, where they were in the middle of a
 * mapping as one of their own. */
COLD void parts_put_back(struct ht_thread *t, const struct parts *parts)
{
	if (!parts->n)
		return;
	if (!mappings_lock()) {
		t->lost += parts->n;
		return;
	}
	for (u32 i = 0; i < parts->n; i++)
		if (mapping_put(&parts->part[i]))
			mapping_gone(t, &parts->part[i], (u64)-1, parts->part[i].start - parts->part[i].end); /* it was not */
		else
			t->lost++;
	spin_unlock(&T->mappings_lock);
}
