/* stats.h: counts by stack, the peak and the timeline, against a model that remembers everything. */

enum { MODEL_STATS = 1 << 16 };

struct model {
	struct {
		u64 blocks, bytes;
	} live[MODEL_STATS], peak[MODEL_STATS];
	u64 bytes, most, epoch;
};

static void model_change(struct model *m, u32 stat, u64 blocks, u64 bytes)
{
	CHECK(stat < MODEL_STATS, "stat %u", stat);
	m->live[stat].blocks += blocks;
	m->live[stat].bytes += bytes;
	m->bytes += bytes;
	if (m->bytes > m->most) {
		m->most = m->bytes;
		m->epoch = epoch_now();
		memcpy(m->peak, m->live, T->stats.next * sizeof *m->peak);
	}
}

static void expect_model(const struct model *m)
{
	CHECK(T->live + live_others() == m->bytes, "%llu live, not %llu", T->live + live_others(), m->bytes);
	CHECK(T->peak_bytes == m->most && (!m->most || T->peak_epoch == m->epoch), "peak of %llu at %u, not %llu at %llu",
	      T->peak_bytes, T->peak_epoch, m->most, m->epoch);
	for (u32 n = 1; n < T->stats.next && n < MODEL_STATS; n++) {
		struct ht_stat *s = stat_at(n);
		const struct ht_others *o = others_of(s, 0);
		u64 blocks = s->alloc_blocks - s->freed_blocks - (o ? o->freed_blocks : 0);
		u64 bytes = s->alloc_bytes - s->freed_bytes - (o ? o->freed_bytes : 0);
		CHECK(blocks == m->live[n].blocks && bytes == m->live[n].bytes, "stat %u: %llu blocks, not %llu", n, blocks,
		      m->live[n].blocks);
		if (!T->rising && s->peak == (u32)T->peak)
			blocks = s->peak_blocks, bytes = s->peak_bytes;
		CHECK(blocks == m->peak[n].blocks && bytes == m->peak[n].bytes,
		      "stat %u at the peak: %llu blocks of %llu bytes, not %llu of %llu", n, blocks, bytes,
		      m->peak[n].blocks, m->peak[n].bytes);
	}
}

/* Tides of allocation of many sizes and stacks, in all domains, with reallocs that move, stay and fail. */
static void test_peak(void)
{
	static struct model m;
	static struct place p[PLACES];
	static u64 clock;
	memset(&m, 0, sizeof m);
	tables((struct plan){0});
	scripted();
	make_places(p);
	CFG->clock_word = (u64)&clock;
	struct program *run = program_new(3);
	u64 tide = 50;
	for (u32 step = 0; step < 40000; step++) {
		if (!below(400))
			tide = below(100);
		clock += !below(50);
		struct script s = {0};
		if (!below(8))
			program_step(run, &s); /* it frees code objects, which come from elsewhere */
		struct place *b = &p[below(PLACES)];
		const struct hooks *h = &hooks[b->domain];
		u64 *word = live_find(b->address);
		u32 stat = word ? word_stat(LOAD(word)) : 0;
		u64 size = below(8) ? below(2000) : below(1 << 20);
		if (!b->live && below(100) < tide) {
			b->domain = (u32)below(HT_PYTHON_DOMAINS);
			s.next = b->address;
			hooks[b->domain].malloc(&s, size);
			b->live = 1, b->size = size;
			model_change(&m, word_stat(LOAD(live_find(b->address))), 1, size);
		} else if (b->live && !below(4)) {
			s.next = below(3) ? b->address : 0;
			h->realloc(&s, (void *)b->address, size + 1);
			model_change(&m, stat, -1ull, -b->size);
			if (s.next) {
				b->size = size + 1;
				stat = word_stat(LOAD(live_find(b->address)));
			}
			model_change(&m, stat, 1, b->size);
		} else if (b->live && below(100) >= tide) {
			h->free(&s, (void *)b->address);
			model_change(&m, stat, -1ull, -b->size);
			b->live = 0;
		}
		if (!below(50))
			expect_model(&m);
	}
	expect_model(&m);
	program_free(run);
}

/* Points come in order, say what was live, and are thinned out instead of ever filling up. */
static void test_timeline(void)
{
	static u64 clock;
	tables((struct plan){0});
	scripted();
	clock = 0;
	CFG->clock_word = (u64)&clock;
	T->timeline_step = 1;
	struct ht_point *points = (struct ht_point *)at(T->timeline.offset);
	struct script s = {0};
	for (u64 i = 0; i < 5000; i++) {
		s.next = 0x7f0000000000 + i * 64;
		hooks[HT_OBJ].malloc(&s, 10);
		clock += 1 + !below(3);
	}
	u64 n = T->timeline.next;
	CHECK(n >= T->timeline.entries / 2 - 1 && n <= T->timeline.entries, "%llu points of %llu", n, T->timeline.entries);
	CHECK(points[0].epoch == 0 && points[0].bytes == 10, "begins at %u with %llu", points[0].epoch, points[0].bytes);
	for (u64 i = 1; i < n; i++)
		CHECK(points[i].epoch > points[i - 1].epoch && points[i].bytes > points[i - 1].bytes &&
		              points[i].epoch - points[i - 1].epoch <= 2 * T->timeline_step,
		      "point %llu: %u s %llu bytes after %u s %llu bytes", i, points[i].epoch, points[i].bytes,
		      points[i - 1].epoch, points[i - 1].bytes);
	CHECK(clock - points[n - 1].epoch <= 2 * T->timeline_step, "ends at %u of %llu", points[n - 1].epoch, clock);
}

/* What is freed within so many allocations of its thread, and what is not. */
static void test_temporary(void)
{
	for (u32 within = 0; within <= HT_TEMPORARY_MOST; within++) {
		tables((struct plan){0});
		scripted();
		CFG->temporary = within;
		struct script s = {0};
		u64 want = 0, a = 0x7f0000000000;
		for (u64 i = 0; i < 2000; i++) {
			u64 later = below(2 * HT_TEMPORARY_MOST), mine = a;
			for (u64 k = 0; k <= later; k++, a += 64) {
				s.next = a;
				hooks[1 + below(2)].malloc(&s, 10);
			}
			hooks[HT_OBJ].free(&s, (void *)mine);
			hooks[HT_OBJ].free(&s, (void *)mine); /* not there any more */
			want += later < within;
		}
		for (u64 i = 0; i < 1000; i++, want += within > 0) { /* one address, again and again */
			s.next = a;
			hooks[HT_OBJ].malloc(&s, 10);
			hooks[HT_OBJ].free(&s, (void *)a);
		}
		const struct ht_others *o = others_of(stat_at(node_at(thread_self()->root)->stat), 0);
		CHECK((o ? o->temporary : 0) == want, "%llu within %u, not %llu", o ? o->temporary : 0, within, want);
	}
}
