/* code.h: the code table. */

static struct program_code *codes_new(u64 n)
{
	struct program_code *c = aligned_alloc(16, (sizeof *c * n + 15) & ~15ull);
	memset(c, 0, sizeof *c * n);
	for (u64 i = 0; i < n; i++)
		code_becomes(&c[i], (u32)i);
	return c;
}

static u32 number_of(struct program_code *c) { return code_number((u64)&c->code); }

/* Many codes: both tables grow, each is found by its address; equal content shares a record. */
static void test_codes(void)
{
	enum { N = 5000 };
	tables((struct plan){0});
	struct program_code *a = codes_new(N), *b = codes_new(N);
	static u32 number[N];
	for (u32 i = 0; i < N; i++) {
		number[i] = number_of(&a[i]);
		CHECK(number[i] == HT_CODE_FIRST + i, "code %u is %u", i, number[i]);
		CHECK(number_of(&b[i]) == number[i], "equal content has another record");
	}
	for (u32 i = 0; i < N; i++) {
		CHECK(code_find((u64)&a[i].code) == number[i] && code_find((u64)&b[i].code) == number[i], "code %u by address", i);
		CHECK(*live_find((u64)&a[i].code) >> HT_CODE_BIT & 1, "code %u is not marked", i);
	}
	CHECK(T->codes.next == HT_CODE_FIRST + N, "%llu records", T->codes.next);
	/* Each part of the content counts. */
	struct program_code *c = codes_new(6);
	for (u32 i = 1; i < 6; i++)
		code_becomes(&c[i], 0);
	c[1].code.first_traceable++;
	c[2].lines.data[0]++;
	c[3].name.length--;
	c[4].file.ascii[0]++;
	c[5].qualname.ascii[0]++;
	for (u32 i = 1; i < 6; i++)
		CHECK(number_of(&c[i]) == HT_CODE_FIRST + N + i - 1, "variant %u is %u", i, number_of(&c[i]));
	free(a);
	free(b);
	free(c);
}

/* Addresses are used again and again: their slots too, so that the tables stop growing. */
static void test_codes_reused(void)
{
	enum { N = 200 };
	tables((struct plan){0});
	scripted();
	struct script s = {0};
	struct program_code *c = codes_new(N);
	u64 grown = 0;
	for (u32 round = 0; round < 300; round++) {
		for (u32 i = 0; i < N; i++) {
			u32 n = number_of(&c[i]);
			CHECK(code_record(n)->first_line == c[i].code.first_line, "round %u: code %u", round, i);
		}
		if (round == 20)
			grown = T->arena.next;
		u32 generation = T->code_generation;
		for (u32 i = 0; i < N; i++) {
			ht_obj_free(&s, &c[i].code);
			CHECK(!code_find((u64)&c[i].code) && !(*live_find((u64)&c[i].code) >> HT_CODE_BIT), "retired");
			code_becomes(&c[i], (i * 7 + round * 13) % N); /* not its own any more */
		}
		CHECK(T->code_generation == generation + N, "generation");
	}
	CHECK(T->arena.next == grown, "the arena grew by %llu bytes", T->arena.next - grown);
	CHECK(T->codes.next == HT_CODE_FIRST + N, "%llu records", T->codes.next);
	free(c);
}

/* Few live at a time, each elsewhere: what retired entries fill is cleared again, in the same two tables. */
static void test_codes_moving(void)
{
	enum { N = 4000, LIVE = 60 };
	tables((struct plan){0});
	scripted();
	struct script s = {0};
	struct program_code *c = codes_new(N);
	for (u32 i = 0; i < N; i++)
		code_becomes(&c[i], i % 50);
	u64 grown = 0;
	for (u32 i = 0; i < 10 * N; i++) {
		CHECK(code_record(number_of(&c[i % N]))->first_line == c[i % N].code.first_line, "code %u", i);
		if (i >= LIVE)
			ht_obj_free(&s, &c[(i - LIVE) % N].code);
		for (u32 k = i < LIVE ? 0 : i - LIVE + 1; k <= i; k += 7)
			CHECK(code_find((u64)&c[k % N].code), "code %u of %u", k, i);
		u64 table = T->code_slots, used = 0;
		for (u64 k = 0; i % 100 == 0 && k < 1ull << (table & 0xff); k++)
			used += ((struct ht_code_slot *)at(table >> 8))[k].address != 0;
		CHECK(i % 100 || used == T->code_slots_used, "%llu slots used, %llu counted", used, T->code_slots_used);
		if (i == N)
			grown = T->arena.next;
	}
	CHECK(T->arena.next == grown, "the arena grew by %llu bytes", T->arena.next - grown);
	free(c);
}

/* With the lock held by a thread that does not run: no name, no wait, and nothing wrong afterwards. */
static void test_codes_locked(void)
{
	tables((struct plan){0});
	scripted();
	struct script s = {0};
	struct program_code *c = codes_new(2);
	u32 first = number_of(&c[0]);
	CHECK(code_lock(), "lock");
	CHECK(number_of(&c[0]) == first, "what is known is found without the lock");
	CHECK(number_of(&c[1]) == HT_CODE_UNKNOWN, "a number without the lock");
	ht_obj_free(&s, &c[0].code);
	CHECK(T->code_flush == 1, "a retirement was forgotten");
	code_becomes(&c[0], 77);
	CHECK(number_of(&c[0]) == HT_CODE_UNKNOWN, "the old name of a new code object");
	code_unlock();
	u32 now = number_of(&c[0]);
	CHECK(now != first && code_record(now)->first_line == 78, "code %u", now);
	CHECK(T->code_flush == 0 && code_find((u64)&c[0].code) == now, "flushed");
	CHECK(number_of(&c[1]) >= HT_CODE_FIRST, "the other");

	/* A walk's thread flushes too. */
	struct program *p = program_new(0);
	struct ht_thread *t = thread_self();
	for (u32 i = 0; i < 6; i++)
		push(p);
	link_frames(p);
	expect_stack(p, stack_now(t, HT_MEM, 0));
	T->code_flush = 1;
	T->code_generation++;
	expect_stack(p, stack_now(t, HT_MEM, 0));
	CHECK(!T->code_flush && t->code_generation == T->code_generation, "walk_forget");
	program_free(p);
	free(c);
}

static void test_codes_full(void)
{
	enum { N = 40 };
	tables((struct plan){.codes = HT_CODE_FIRST + 10});
	struct program_code *c = codes_new(N);
	for (u32 i = 0; i < N; i++)
		CHECK(number_of(&c[i]) == (i < 10 ? HT_CODE_FIRST + i : HT_CODE_UNKNOWN), "code %u", i);
	for (u32 i = 0; i < N; i++)
		CHECK(number_of(&c[i]) == (i < 10 ? HT_CODE_FIRST + i : HT_CODE_UNKNOWN), "code %u again", i);

	/* An arena that holds the hash tables and a few strings. */
	tables((struct plan){.arena = 64 + (4ull << CODE_SLOTS_LOG2) + (16ull << CODE_SLOTS_LOG2) + 64 * 10});
	for (u32 i = 0; i < N; i++) {
		struct ht_code *r = code_record(number_of(&c[i]));
		CHECK(r->name.kind == (r->name.offset != 0) && r->first_line == c[i].code.first_line, "code %u", i);
	}
	CHECK(code_record(number_of(&c[0]))->name.kind == 1 && code_record(number_of(&c[N - 1]))->name.kind == 0, "names");
	free(c);
}

/* All forms of strings, and none. */
static void test_strings(void)
{
	tables((struct plan){0});
	static struct program_code c[6];
	static u8 wide[STR_MAX * 4 + 400];
	for (u32 i = 0; i < sizeof wide; i++)
		wide[i] = (u8)roll();
	for (u32 i = 0; i < 6; i++)
		code_becomes(&c[i], i);
	c[0].name.state = 2 << STR_KIND_SHIFT | 1 << STR_COMPACT_BIT;
	c[0].name.length = 10;
	c[1].name.state = 4 << STR_KIND_SHIFT;
	c[1].name.pointer = (u64)wide;
	c[1].name.length = STR_MAX + 100;
	c[2].name.state = 0;
	c[3].code.name = 0;
	c[4].name.length = 0;
	c[5].name.state = 1 << STR_KIND_SHIFT;
	c[5].name.pointer = (u64)wide;
	c[5].name.length = STR_MAX;
	static const struct {
		u32 length, kind, cut;
	} want[] = {{10, 2, 0}, {STR_MAX, 4, 1}, {0, 0, 0}, {0, 0, 0}, {0, 1, 0}, {STR_MAX, 1, 0}};
	const void *data[] = {(u8 *)c[0].name.ascii + 8, wide, 0, 0, 0, wide};
	for (u32 i = 0; i < 6; i++) {
		struct ht_blob b = code_record(number_of(&c[i]))->name;
		CHECK(b.length == want[i].length && b.kind == want[i].kind && b.cut == want[i].cut, "string %u: %u of kind %u", i,
		      b.length, b.kind);
		CHECK(!data[i] || !memcmp(at(b.offset), data[i], (u64)b.length * b.kind), "string %u", i);
	}
}
