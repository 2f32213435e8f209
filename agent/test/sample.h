/* sample.h: sampling, against floating point. */

static void test_sample_distance(void)
{
	static const u64 rates[] = {1, 16, 1000, 512 << 10, 100000000};
	enum { DRAWS = 1000000 };
	for (u32 r = 0; r < sizeof rates / sizeof *rates; r++) {
		tables((struct plan){.sample_bytes = rates[r]});
		struct ht_thread *t = thread_self();
		t->random = roll();
		double mean = 0, beyond = 0, rate = (double)rates[r];
		for (u32 i = 0; i < DRAWS; i++) {
			s64 d = sample_distance(t);
			CHECK(d >= 0, "%lld", d);
			mean += (double)d / DRAWS;
			beyond += (double)d >= 2 * rate;
		}
		/* The whole part of an exponential is geometric: P(d >= k) = exp(-k / rate). */
		double q = exp(-1 / rate), want = q / (1 - q), sigma = sqrt(q) / (1 - q) / 1000;
		CHECK(fabs(mean - want) < 5 * sigma, "rate %g: mean %g, not %g", rate, mean, want);
		double p = exp(-2);
		CHECK(fabs(beyond / DRAWS - p) < 5 * sqrt(p * (1 - p) / DRAWS), "rate %g: %g beyond", rate, beyond / DRAWS);
	}
}

static void test_sample_weight(void)
{
	static const u64 rates[] = {1, 7, 1000, 512 << 10, 10000000, 1ull << 30};
	for (u32 r = 0; r < sizeof rates / sizeof *rates; r++) {
		tables((struct plan){.sample_bytes = rates[r]});
		for (u32 i = 0; i < 100000; i++) {
			u64 size = i < 1000 ? i : roll() >> (24 + below(40));
			double x = (double)(size + !size) / (double)rates[r];
			double want = 1 / -expm1(-x), is = (double)sample_weight(size) / (1 << HT_SCALE_BITS);
			/* The unit of x is 2^-32, of the weight 2^-10. */
			double allowed = want * (1e-5 + 2 / (x * 4294967296.0)) + 1.0 / (1 << HT_SCALE_BITS);
			CHECK(fabs(is - want) <= allowed, "rate %llu, %llu bytes: %g, not %g", rates[r], size, is, want);
		}
	}
}

/* The whole way: what is recorded, weighed, is what was allocated. */
static void test_sample_unbiased(void)
{
	static const u64 rates[] = {8, 100, 20000};
	for (u32 r = 0; r < sizeof rates / sizeof *rates; r++)
		for (u32 d = 0; d < HT_PYTHON_DOMAINS; d++) {
			tables((struct plan){.sample_bytes = rates[r]});
			scripted();
			ht_flag.until_sample = 0;
			double blocks = 0, bytes = 0, variance = 0;
			for (u32 i = 0; i < 400000; i++) {
				struct script s = {.next = 0x7f0000000000 + below(4096) * 16384};
				u64 size = below(rates[r] < 10 ? 12 : below(4) ? 60 : 3000);
				double e = exp(-(double)(size + !size) / (double)rates[r]);
				sampled[d].malloc(&s, size);
				sampled[d].free(&s, (void *)s.next);
				blocks++;
				bytes += (double)size;
				variance += (double)size * (double)size * e / (1 - e);
			}
			struct ht_count c = sum_counts(d);
			double is = (double)c.alloc_bytes / (1 << HT_SCALE_BITS);
			/* Beside chance: weights are whole 2^-10ths, rounded down. */
			CHECK(fabs(is - bytes) < 5 * sqrt(variance) + bytes / 1024, "rate %llu, domain %u: %g bytes, not %g", rates[r],
			      d, is, bytes);
			CHECK(c.alloc_bytes == c.freed_bytes && c.alloc_blocks == c.freed_blocks, "not all freed");
			CHECK(each_live(0, 0) == 0, "%llu live", each_live(0, 0));
			u64 filter = 0;
			for (u32 i = 0; i < 1 << HT_FILTER_LOG2; i++)
				filter += at(T->filter.offset)[i];
			CHECK(filter == 0, "%llu left in the filter", filter);
		}
}

/* A request that fails, however large, is no allocation: it uses up nothing. */
static void test_sample_failed(void)
{
	tables((struct plan){.sample_bytes = 1000});
	scripted();
	struct script fails = {.next = 0}, s = {.next = 0x7f0000001000};
	for (u32 d = HT_MEM; d < HT_PYTHON_DOMAINS; d++) {
		ht_flag.until_sample = 500;
		sampled[d].malloc(&fails, (1ull << 63) - 1);
		sampled[d].calloc(&fails, 1ull << 40, 1ull << 22);
		sampled[d].realloc(&fails, (void *)s.next, 1ull << 62);
		CHECK(ht_flag.until_sample == 500, "domain %u: until %lld", d, ht_flag.until_sample);
	}
	u64 before = sum_counts(HT_OBJ).alloc_blocks;
	for (u32 i = 0; i < 2000; i++)
		sampled[HT_OBJ].malloc(&s, 100);
	CHECK(sum_counts(HT_OBJ).alloc_blocks > before, "sampling has stopped");
}

/* Whoever came by before tracking was active must not keep it from beginning. */
static void test_sample_begins(void)
{
	tables((struct plan){.sample_bytes = 1000});
	scripted();
	struct script s = {.next = 0x7f0000001000};
	ht_flag.active = 0;
	ht_flag.until_sample = 0;
	for (u32 i = 0; i < 10; i++)
		sampled[HT_OBJ].malloc(&s, 100);
	ht_flag.active = 1; /* and his store of the distance came after the tracer's */
	for (u32 i = 0; i < 100000; i++)
		sampled[HT_OBJ].malloc(&s, 100);
	CHECK(sum_counts(HT_OBJ).alloc_blocks > 0, "nothing was sampled");
	/* A large object is counted once, in its own domain. */
	for (u32 i = 0; i < 1000; i++)
		sampled[HT_OBJ].malloc(&s, 5000);
	CHECK(sum_counts(HT_RAW).alloc_blocks == 0, "counted in the raw domain too");
}

static void test_filter(void)
{
	tables((struct plan){0});
	u64 a = 0x7f0000001000;
	for (u32 i = 0; i < HT_FILTER_FULL - 1; i++)
		filter_add(a);
	CHECK(*filter_of(a) == HT_FILTER_FULL - 1, "%u", *filter_of(a));
	filter_remove(a);
	CHECK(*filter_of(a) == HT_FILTER_FULL - 2, "%u", *filter_of(a));
	for (u32 i = 0; i < 5; i++)
		filter_add(a);
	CHECK(*filter_of(a) == HT_FILTER_FULL, "%u", *filter_of(a));
	filter_remove(a);
	CHECK(*filter_of(a) == HT_FILTER_FULL, "a full counter does not know how many: %u", *filter_of(a));
	u64 b = a;
	while (filter_of(b) == filter_of(a))
		b += 16;
	filter_remove(b);
	CHECK(*filter_of(b) == 0, "below zero: %u", *filter_of(b));
}

/* Code objects freed while sampling are seen although nobody sampled them, also by threads without a record. */
static void test_sample_codes(void)
{
	tables((struct plan){.sample_bytes = 1ull << 40});
	scripted();
	ht_flag.until_sample = 1ll << 40;
	struct script s = {0};
	struct program_code *c = codes_new(3);
	for (u32 i = 0; i < 3; i++)
		CHECK(number_of(&c[i]) >= HT_CODE_FIRST && *filter_of((u64)&c[i].code), "code %u", i);
	sampled[HT_OBJ].free(&s, &c[0].code);
	CHECK(!code_find((u64)&c[0].code), "retired");
	for (u64 i = 0; i < T->threads.entries; i++)
		thread_slots()[i].pointer = 0x1000 + i;
	CHECK(live_set((u64)&c[1].code + 0x10000, 10, 1, HT_OBJ, 0), "set");
	filter_add((u64)&c[1].code + 0x10000);
	sampled[HT_OBJ].free(&s, &c[1].code);
	sampled[HT_OBJ].free(&s, (u8 *)&c[1].code + 0x10000);
	sampled[HT_OBJ].free(&s, &c[2].code);
	u64 filter = 0;
	for (u32 i = 0; i < 1 << HT_FILTER_LOG2; i++)
		filter += at(T->filter.offset)[i];
	CHECK(filter == 0 && !code_find((u64)&c[1].code), "%llu left in the filter", filter);
	free(c);
}
