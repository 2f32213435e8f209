/* live.h: the live map and the hooks that keep it, against arrays. */

enum { PLACES = 600 };

/* An address that a block may stand at, and what the model says of it. */
struct place {
	u64 address;
	u64 size;
	u32 live, stat, domain;
	u64 epoch;
};

/*
 * Addresses where the map's parts meet, and some anywhere. Each with the room of two granules. None in the first leaf,
 * which readers take for an unused one; no system maps memory there.
 */
static void make_places(struct place *p)
{
	u64 granule = 1ull << CFG->granule_log2, leaf = granule << HT_LEAF_WORDS_LOG2;
	u64 mid = leaf << HT_MID_ENTRIES_LOG2, top = 1ull << HT_ADDRESS_BITS;
	for (u32 i = 0; i < PLACES; i++) {
		u64 a;
		switch (i % 6) {
		case 0: a = (2 + below(64)) * leaf - granule * below(4); break;
		case 1: a = (1 + below(200)) * mid - granule * below(4); break;
		case 2: a = 0x7f0000000000 + below(1 << 16) * granule; break;
		case 3: a = top - granule * (2 + below(4096)); break;
		case 4: a = leaf + granule * below(4096); break;
		default: a = below(256) * mid * 7 + below(1 << 12) * granule;
		}
		int near = a < leaf;
		for (u32 k = 0; k < i; k++)
			near |= a + granule >= p[k].address && p[k].address + granule >= a;
		if (near)
			i--;
		else
			p[i] = (struct place){.address = a};
	}
}

static u64 some_size(void)
{
	switch (below(5)) {
	case 0: return 0;
	case 1: return HT_SIZE_BIG - 2 + below(4);
	case 2: return 1ull << below(HT_ADDRESS_BITS);
	default: return below(700);
	}
}

static void expect_places(const struct place *p)
{
	u64 live = 0;
	for (u32 i = 0; i < PLACES; i++) {
		u64 *w = live_find(p[i].address), is = w ? LOAD(w) : 0;
		live += p[i].live;
		CHECK((is >> HT_LIVE_BIT) == p[i].live, "%#llx: word %#llx", p[i].address, is);
		if (!p[i].live)
			continue;
		CHECK(word_size(is, p[i].address) == p[i].size, "%#llx: %llu of %llu bytes", p[i].address,
		      word_size(is, p[i].address), p[i].size);
		CHECK(word_stat(is) == p[i].stat && (is >> HT_DOMAIN_SHIFT & 7) == p[i].domain &&
		              (is >> HT_EPOCH_SHIFT & HT_EPOCH_LAST) == p[i].epoch,
		      "%#llx: word %#llx", p[i].address, is);
	}
	CHECK(each_live(0, 0) == live, "%llu live in the leaves, not %llu", each_live(0, 0), live);
}

static void test_live_map(void)
{
	for (u32 granule = 3; granule <= 4; granule++) {
		tables((struct plan){.granule_log2 = granule});
		static struct place p[PLACES];
		make_places(p);
		for (u32 step = 0; step < 20000; step++) {
			struct place *b = &p[below(PLACES)];
			if (b->live) {
				STORE(live_find(b->address), 0);
				b->live = 0;
				continue;
			}
			*b = (struct place){b->address, some_size(), 1, (u32)below(1 << HT_STACK_BITS), (u32)below(HT_PYTHON_DOMAINS),
			                    below(HT_EPOCH_LAST + 1ull)};
			CHECK(live_set(b->address, b->size, b->stat, b->domain, b->epoch), "%#llx", b->address);
			if (step % 1000 == 0)
				expect_places(p);
		}
		expect_places(p);
	}
}

/* Addresses that no block of this allocator can have are refused, and do not touch their neighbours. */
static void test_live_odd(void)
{
	for (u32 granule = 3; granule <= 4; granule++) {
		tables((struct plan){.granule_log2 = granule});
		u64 top = 1ull << HT_ADDRESS_BITS, good = 0x7f0000000000;
		CHECK(live_set(good, 10, 1, 0, 0), "a good one");
		u64 odd[] = {top, top + 16, top | good, ~15ull, 1ull << 63, good + 1, good + (1u << granule) / 2, good + 4};
		for (u32 i = 0; i < sizeof odd / sizeof *odd; i++) {
			CHECK(!live_set(odd[i], 10, 1, 0, 0), "%#llx was taken", odd[i]);
			CHECK(!live_find(odd[i]), "%#llx was found", odd[i]);
		}
		CHECK(each_live(0, 0) == 1, "%llu live", each_live(0, 0));
		/* The last granule has no next one for a big size. */
		u64 last = top - (1u << granule);
		CHECK(live_set(last, 10, 1, 0, 0), "last");
		STORE(live_find(last), 0);
		CHECK(!live_set(last, HT_SIZE_BIG, 1, 0, 0), "big at the last granule");
		CHECK(each_live(0, 0) == 1, "%llu live", each_live(0, 0));
	}
}

static void test_live_full(void)
{
	tables((struct plan){.mids = 3, .leaves = 4}); /* the first of each is never used */
	u64 leaf = 16 << HT_LEAF_WORDS_LOG2, mid = leaf << HT_MID_ENTRIES_LOG2;
	CHECK(live_set(mid, 1, 1, 0, 0) && live_set(2 * mid, 1, 1, 0, 0), "two mids, two leaves");
	CHECK(!live_set(3 * mid, 1, 1, 0, 0), "a third mid");
	CHECK(!live_set(mid + leaf - 16, HT_SIZE_BIG, 1, 0, 0) == 0, "big over a leaf's border: a third leaf");
	CHECK(!live_set(2 * mid + leaf, 1, 1, 0, 0), "a fourth leaf");
	CHECK(!live_set(2 * mid + leaf - 16, HT_SIZE_BIG, 1, 0, 0), "big over a leaf's border");
	CHECK(each_live(0, 0) == 3, "%llu live", each_live(0, 0));
	/* The hooks count what they cannot note, and go on. */
	scripted();
	struct script s = {.next = 5 * mid};
	CHECK(ht_raw_malloc(&s, 10) == (void *)s.next, "malloc");
	CHECK(thread_self()->lost == 1 && sum_counts(HT_RAW).alloc_blocks == 0, "lost %llu", thread_self()->lost);
	ht_raw_free(&s, (void *)s.next);
	CHECK(s.freed == s.next && thread_self()->unseen_frees == 1, "freed");
}

struct totals {
	struct ht_count count[HT_PYTHON_DOMAINS];
	u64 unseen;
};

static void note_alloc(struct totals *m, struct place *b, u32 domain, u64 size)
{
	b->live = 1;
	b->size = size;
	b->domain = domain;
	m->count[domain].alloc_blocks++;
	m->count[domain].alloc_bytes += size;
}

static void note_free(struct totals *m, struct place *b)
{
	if (!b->live) {
		m->unseen++;
		return;
	}
	m->count[b->domain].freed_blocks++;
	m->count[b->domain].freed_bytes += b->size;
	b->live = 0;
}

/* Random calls of all hooks: moved, in place and failed reallocs, failed requests, blocks of which the agent never heard. */
static void test_hooks(void)
{
	for (u32 granule = 3; granule <= 4; granule++) {
		tables((struct plan){.granule_log2 = granule});
		scripted();
		static struct place p[PLACES];
		static u32 theirs[PLACES]; /* allocated as the allocator sees it, live or never seen */
		memset(theirs, 0, sizeof theirs);
		make_places(p);
		struct totals m = {0};
		u64 words[] = {0, 0}; /* unchanged by what fails */
		for (u32 step = 0; step < 60000; step++) {
			u32 i = (u32)below(PLACES), d = (u32)below(HT_PYTHON_DOMAINS);
			struct place *b = &p[i], *to;
			struct script s = {0};
			u64 size = some_size();
			int fails = !below(8);
			do
				to = &p[below(PLACES)];
			while (theirs[to - p]);
			u64 spare = !below(3) && theirs[i] ? b->address : to->address;
			if (!theirs[i]) {
				if (!below(10)) { /* allocated while nobody looked */
					theirs[i] = 1 + d;
					continue;
				}
				s.next = fails ? 0 : b->address;
				int clear = below(2);
				size &= ~(u64)clear;
				void *q = clear ? hooks[d].calloc(&s, 2, size / 2) : hooks[d].malloc(&s, size);
				CHECK(q == (void *)s.next, "malloc");
				if (q) {
					note_alloc(&m, b, d, size);
					theirs[i] = 1 + d;
				}
			} else if (below(2)) {
				d = theirs[i] - 1;
				s.large = d != HT_RAW && (b->live ? b->size > CFG->nested_above : below(2)) ? b->address : 0;
				hooks[d].free(&s, (void *)b->address);
				CHECK(s.freed == b->address, "free");
				note_free(&m, b);
				theirs[i] = 0;
			} else {
				d = theirs[i] - 1;
				words[0] = live_find(b->address) ? LOAD(live_find(b->address)) : 0;
				s.next = fails && size ? 0 : spare;
				void *q = hooks[d].realloc(&s, (void *)b->address, size);
				CHECK(q == (void *)s.next, "realloc");
				if (q) {
					note_free(&m, b);
					theirs[i] = 0;
					struct place *now = spare == b->address ? b : to;
					note_alloc(&m, now, d, size);
					theirs[now - p] = 1 + d;
				} else {
					words[1] = live_find(b->address) ? LOAD(live_find(b->address)) : 0;
					CHECK(words[0] == words[1], "a failed realloc changed %#llx to %#llx", words[0], words[1]);
				}
			}
			CHECK(thread_self()->depth == 0, "depth %#llx", thread_self()->depth);
			CHECK(thread_self()->unseen_frees == m.unseen, "step %u: %llu unseen frees, not %llu", step,
			      thread_self()->unseen_frees, m.unseen);
		}
		u32 root = thread_self()->root, raw = node_child(thread_self(), root, HT_CODE_DOMAIN, HT_RAW);
		for (u32 i = 0; i < PLACES; i++) /* fields that the model does not follow here */
			if (p[i].live)
				p[i].stat = node_at(p[i].domain == HT_RAW ? raw : root)->stat, p[i].epoch = 0;
		expect_places(p);
		for (u32 d = 0; d < HT_PYTHON_DOMAINS; d++) {
			struct ht_count is = sum_counts(d), want = m.count[d];
			CHECK(!memcmp(&is, &want, sizeof is), "domain %u: %llu %llu %llu %llu, not %llu %llu %llu %llu", d,
			      is.alloc_blocks, is.alloc_bytes, is.freed_blocks, is.freed_bytes, want.alloc_blocks,
			      want.alloc_bytes, want.freed_blocks, want.freed_bytes);
		}
	}
}

/* realloc(NULL) is malloc; realloc(p, 0) keeps a block of no bytes; NULL for it means freed, as in C before C23. */
static void test_realloc_ends(void)
{
	tables((struct plan){0});
	scripted();
	u64 a = 0x7f0000001000, b = a + 0x100;
	struct script s = {.next = a};
	CHECK(ht_mem_realloc(&s, 0, 10) == (void *)a, "realloc(NULL, 10)");
	CHECK(each_live(0, 0) == 1 && thread_self()->unseen_frees == 0, "after realloc(NULL)");
	s.next = b;
	CHECK(ht_mem_realloc(&s, (void *)a, 0) == (void *)b, "realloc(p, 0)");
	CHECK(each_live(0, 0) == 1 && word_size(LOAD(live_find(b)), b) == 0 && !LOAD(live_find(a)), "after realloc(p, 0)");
	s.next = 0;
	CHECK(!ht_mem_realloc(&s, (void *)b, 100), "realloc fails");
	CHECK(each_live(0, 0) == 1, "a failed realloc keeps its block");
	CHECK(!ht_mem_realloc(&s, (void *)b, 0), "realloc(p, 0) frees");
	CHECK(each_live(0, 0) == 0, "realloc(p, 0) returned NULL: the block is gone");
	struct ht_count c = sum_counts(HT_MEM);
	CHECK(c.alloc_blocks == 2 && c.freed_blocks == 2 && c.alloc_bytes == 10 && c.freed_bytes == 10, "%llu %llu",
	      c.alloc_bytes, c.freed_bytes);
	ht_mem_free(&s, 0);
	CHECK(thread_self()->unseen_frees == 0, "free(NULL) is no free");
}

/* Not active: straight through, nothing written but the distance to the next look. */
static void test_inert(void)
{
	tables((struct plan){0});
	scripted();
	ht_flag.active = 0;
	struct script s = {.next = 0x7f0000001000};
	for (u32 d = 0; d < HT_PYTHON_DOMAINS; d++) {
		hooks[d].malloc(&s, 10);
		hooks[d].calloc(&s, 1, 10);
		hooks[d].realloc(&s, (void *)s.next, 20);
		hooks[d].free(&s, (void *)s.next);
	}
	CHECK(s.calls == 12 && T->threads.next == 0 && T->slots.next == 0 && each_live(0, 0) == 0, "%u calls", s.calls);
}

/* A thread for which there is no record: its blocks are not noted, what it frees goes. */
static void test_no_record(void)
{
	tables((struct plan){.threads = THREAD_PROBES});
	scripted();
	u64 a = 0x7f0000001000;
	struct script s = {.next = a};
	for (u64 i = 0; i < THREAD_PROBES; i++)
		thread_slots()[i].pointer = 0x1000 + i;
	CHECK(!thread_self(), "a record in a full table");
	CHECK(live_set(a, 10, 1, HT_RAW, 0) && live_set(a + 64, 10, 1, HT_RAW, 0), "set");
	ht_raw_free(&s, (void *)a);
	CHECK(s.freed == a && !LOAD(live_find(a)) && T->orphan_frees == 1, "orphan");
	s.next = a;
	ht_raw_malloc(&s, 10);
	ht_raw_realloc(&s, (void *)(a + 64), 10);
	CHECK(each_live(0, 0) == 0 && T->lost_threads == 2 && T->orphan_frees == 2, "%llu lost, %llu orphans",
	      T->lost_threads, T->orphan_frees);
}

static void test_epochs(void)
{
	static u64 word;
	static const u64 table[][2] = {
		{0, 0}, {1, 1}, {HT_EPOCH_FINE - 1, HT_EPOCH_FINE - 1}, {HT_EPOCH_FINE, HT_EPOCH_FINE},
		{HT_EPOCH_FINE + HT_EPOCH_COARSE - 1, HT_EPOCH_FINE}, {HT_EPOCH_FINE + HT_EPOCH_COARSE, HT_EPOCH_FINE + 1},
		{HT_EPOCH_FINE + (u64)HT_EPOCH_COARSE * 1000 + 3, HT_EPOCH_FINE + 1000},
		{HT_EPOCH_FINE + (u64)HT_EPOCH_COARSE * HT_EPOCH_FINE * 2, HT_EPOCH_LAST}, {1ull << 60, HT_EPOCH_LAST},
	};
	tables((struct plan){0});
	CHECK(epoch_now() == 0, "no clock: %llu", epoch_now());
	CFG->clock_word = (u64)&word;
	CFG->clock_base = 12345;
	for (u32 i = 0; i < sizeof table / sizeof *table; i++) {
		word = table[i][0] + 12345;
		CHECK(epoch_now() == table[i][1], "%llu s: %llu", table[i][0], epoch_now());
	}
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	CFG->clock_word = 0;
	CFG->clock = (u64)clock_gettime;
	CFG->clock_base = (u64)now.tv_sec - 77;
	CHECK(epoch_now() >= 77 && epoch_now() < 97, "%llu by the function", epoch_now());
}
