/* threads.h: threads' records, and all of it with several threads at once. */

static void *nothing(void *arg)
{
	*(u32 *)arg = (u32)syscall(SYS_gettid);
	return 0;
}

/* The id of a thread that has ended. */
static u32 dead_tid(void)
{
	pthread_t thread;
	u32 tid;
	CHECK(!pthread_create(&thread, 0, nothing, &tid) && !pthread_join(thread, 0), "thread");
	while (!syscall(SYS_tgkill, getpid(), tid, 0)) /* joined a moment before the kernel is done with it */
		relax();
	return tid;
}

/* Pointers whose records all want the same slot. */
static u64 colliding(u64 slot, u32 skip)
{
	for (u64 p = 0x7f0000000000;; p += 64)
		if ((thread_hash(p) & (T->threads.entries - 1)) == slot && !skip--)
			return p;
}

static void test_threads(void)
{
	tables((struct plan){.threads = 256});
	struct ht_thread *self = thread_self();
	CHECK(self && self == thread_self() && self->pointer == thread_pointer(), "self");
	CHECK(self->tid == (u32)syscall(SYS_gettid) && self->lives == 1 && !self->depth, "tid %u", self->tid);
	CHECK(T->slots.next == 1 && ((u32 *)at(T->slots.offset))[0] == (u32)(self - thread_slots()) + 1, "slots");
	CHECK(node_at(self->root)->code == HT_CODE_ROOT && node_at(self->root)->instr == self - thread_slots(), "root");

	u64 slot = (u64)((self - thread_slots()) + 100) % 256; /* so that nobody else is near */
	struct ht_thread *added[THREAD_PROBES];
	u32 n = 0;
	for (; n < THREAD_PROBES; n++) {
		added[n] = thread_add(colliding(slot, n));
		if (!added[n])
			break;
		for (u32 k = 0; k < n; k++)
			CHECK(added[k] != added[n], "%u and %u", k, n);
	}
	CHECK(n >= THREAD_PROBES - 1, "%u records found room", n);
	CHECK(!thread_add(colliding(slot, THREAD_PROBES)), "beyond the probes, all of them alive");

	/* One of them has ended: its record serves another, with its part of the trie. */
	added[5]->tid = dead_tid();
	u32 root = added[5]->root;
	u64 pointer = colliding(slot, THREAD_PROBES);
	CHECK(thread_add(pointer) == added[5], "takeover");
	CHECK(added[5]->lives == 2 && added[5]->root == root && added[5]->pointer == pointer && added[5]->frames == 0,
	      "lives %u", added[5]->lives);
	CHECK(T->slots.next == 1 + n, "%llu slots", T->slots.next);
}

/* As long as there is a free record near by, nobody's is taken over: his thread may have ended, and another at the
 * same address may be at work with it and not have been named yet. */
static void test_threads_prefer_free(void)
{
	tables((struct plan){.threads = 256});
	struct ht_thread *a = thread_add(colliding(7, 0));
	a->tid = dead_tid();
	struct ht_thread *b = thread_add(colliding(7, 1));
	CHECK(a != b && a->lives == 1, "taken over beside a free record");
}

struct takers {
	pthread_barrier_t start, end; /* all of them are alive until all have asked */
	u64 slot;
	struct ht_thread *got[4];
	u32 number;
};

static void *taker(void *arg)
{
	struct takers *k = arg;
	u32 me = __atomic_fetch_add(&k->number, 1, __ATOMIC_RELAXED);
	pthread_barrier_wait(&k->start);
	k->got[me] = thread_add(colliding(k->slot, 200 + me));
	pthread_barrier_wait(&k->end);
	return 0;
}

/* Several threads want the record of one that ended: one gets it. */
static void test_threads_takeover_race(void)
{
	u32 tid = dead_tid();
	for (u32 round = 0; round < 150; round++) {
		tables((struct plan){.threads = THREAD_PROBES});
		for (u32 i = 0; i < THREAD_PROBES; i++)
			CHECK(thread_add(colliding(i, 0)), "fill");
		struct ht_thread *dead = &thread_slots()[below(THREAD_PROBES)];
		dead->tid = tid;
		struct takers k = {.slot = below(THREAD_PROBES)};
		pthread_barrier_init(&k.start, 0, 4);
		pthread_barrier_init(&k.end, 0, 4);
		pthread_t thread[4];
		for (u32 i = 0; i < 4; i++)
			pthread_create(&thread[i], 0, taker, &k);
		u32 winners = 0;
		for (u32 i = 0; i < 4; i++)
			pthread_join(thread[i], 0);
		for (u32 i = 0; i < 4; i++) {
			winners += k.got[i] == dead;
			CHECK(!k.got[i] || k.got[i] == dead, "a record whose thread lives");
		}
		CHECK(winners == 1 && dead->lives == 2, "round %u: %u threads took it, lives %u", round, winners, dead->lives);
		pthread_barrier_destroy(&k.start);
		pthread_barrier_destroy(&k.end);
	}
}

/* ---- all together ----------------------------------------------------------------------------------------------- */

enum { WORKERS = 4, OWN = 400, EXCHANGE = 256, WORK = 20000 };

struct world {
	u64 exchange[EXCHANGE]; /* blocks that any thread may free, address | domain */
	pthread_mutex_t gil;
};

struct worker {
	struct world *world;
	u64 base; /* of the addresses that its allocator gives out */
	u64 seed;
	u64 made, dropped;
	u8 busy[OWN];
};

/* The allocators of this test give an address a meaning: an owner and a slot in its `busy`, which any thread clears. */
enum { STRIDE = 8192 };
static struct worker *workers;

static void *busy_malloc(void *ctx, u64 size)
{
	struct worker *w = ctx;
	(void)size;
	for (;;) {
		u64 i = below(OWN);
		u8 is = 0;
		if (__atomic_compare_exchange_n(&w->busy[i], &is, 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			return (void *)(w->base + i * STRIDE);
	}
}

static void *busy_calloc(void *ctx, u64 n, u64 size) { return busy_malloc(ctx, n * size); }

static void busy_free(void *ctx, void *p)
{
	(void)ctx;
	struct worker *w = &workers[((u64)p >> 32) - 0x1000];
	STORE_RELEASE(&w->busy[((u64)p & 0xffffffff) / STRIDE], 0);
}

static void *busy_realloc(void *ctx, void *p, u64 size)
{
	if (!below(8))
		return 0;
	if (!below(4))
		return p;
	void *q = busy_malloc(ctx, size);
	busy_free(ctx, p);
	return q;
}

static void put(struct worker *w, u64 p, u32 domain)
{
	u64 was = __atomic_exchange_n(&w->world->exchange[below(EXCHANGE)], p | domain, __ATOMIC_ACQ_REL);
	if (was & ~7ull) {
		u32 d = was & 7;
		if (d != HT_RAW)
			pthread_mutex_lock(&w->world->gil);
		hooks[d].free(w, (void *)(was & ~7ull));
		if (d != HT_RAW)
			pthread_mutex_unlock(&w->world->gil);
		w->dropped++;
	}
}

static void *work(void *arg)
{
	struct worker *w = arg;
	rng = w->seed;
	struct program *p = program_new(3);
	struct script quiet = {0};
	for (u32 i = 0; i < WORK; i++) {
		u32 d = (u32)below(HT_PYTHON_DOMAINS);
		if (d != HT_RAW)
			pthread_mutex_lock(&w->world->gil);
		if (d == HT_OBJ)
			program_step(p, &quiet);
		void *b = below(2) ? hooks[d].malloc(w, below(8000)) : hooks[d].calloc(w, 3, below(8000));
		w->made++;
		if (d == HT_OBJ)
			expect_stack(p, word_node(LOAD(live_find((u64)b))));
		if (!below(4)) {
			void *q = hooks[d].realloc(w, b, below(8000));
			b = q ? q : b;
		}
		if (d != HT_RAW)
			pthread_mutex_unlock(&w->world->gil);
		put(w, (u64)b, d);
	}
	program_free(p);
	return 0;
}

/* code_replace frees code objects through the hooks; their memory stays. Other addresses go back to their owner. */
static void any_free(void *ctx, void *p)
{
	if (((u64)p >> 32) - 0x1000 < WORKERS)
		busy_free(ctx, p);
}

struct at_stat {
	u64 blocks, bytes;
};

static void add_live(const struct block *b, void *live)
{
	struct at_stat *s = (struct at_stat *)live + b->stat;
	s->blocks++;
	s->bytes += b->size;
}

/* Each stat has counted what is live, whichever threads have freed the rest. */
static void expect_stats_live(void)
{
	struct at_stat *live = calloc(T->stats.next, sizeof *live);
	each_live(add_live, live);
	for (u32 n = 1; n < T->stats.next; n++) {
		struct ht_stat *s = stat_at(n);
		const struct ht_others *o = others_of(s, 0);
		u64 blocks = s->alloc_blocks - s->freed_blocks - (o ? o->freed_blocks : 0);
		u64 bytes = s->alloc_bytes - s->freed_bytes - (o ? o->freed_bytes : 0);
		CHECK(blocks == live[n].blocks && bytes == live[n].bytes, "stat %u: %llu blocks of %llu bytes, not %llu of %llu",
		      n, blocks, bytes, live[n].blocks, live[n].bytes);
	}
	free(live);
	CHECK(T->others.next > WORKERS && T->others.next < T->others.entries, "%llu others", T->others.next);
}

static void test_concurrent(void)
{
	for (u32 kind = HT_INSTR_INDEX; kind <= HT_INSTR_POINTER; kind++) {
		tables((struct plan){.instr_kind = kind, .nodes = 1 << 21, .sample_bytes = 0});
		for (u32 d = 0; d < HT_PYTHON_DOMAINS; d++) {
			T->original[d][HT_MALLOC] = (u64)busy_malloc;
			T->original[d][HT_CALLOC] = (u64)busy_calloc;
			T->original[d][HT_REALLOC] = (u64)busy_realloc;
			T->original[d][HT_FREE] = (u64)any_free;
		}
		struct world world = {0};
		pthread_mutex_init(&world.gil, 0);
		workers = calloc(WORKERS, sizeof *workers);
		pthread_t thread[WORKERS];
		for (u64 i = 0; i < WORKERS; i++) {
			workers[i].world = &world;
			workers[i].base = (0x1000 + i) << 32;
			workers[i].seed = roll();
		}
		for (u64 i = 0; i < WORKERS; i++)
			CHECK(!pthread_create(&thread[i], 0, work, &workers[i]), "thread");
		u64 made = 0, dropped = 0;
		for (u64 i = 0; i < WORKERS; i++) {
			pthread_join(thread[i], 0);
			made += workers[i].made;
			dropped += workers[i].dropped;
		}
		u64 left = made - dropped, alloc = 0, freed = 0;
		CHECK(each_live(0, 0) == left, "%llu live, not %llu", each_live(0, 0), left);
		for (u32 d = 0; d < HT_PYTHON_DOMAINS; d++) {
			alloc += sum_counts(d).alloc_blocks;
			freed += sum_counts(d).freed_blocks;
		}
		for (u64 i = 0; i < T->threads.entries; i++) {
			struct ht_thread *t = &thread_slots()[i];
			CHECK(!t->depth && !t->lost, "thread %llu: depth %#llx, lost %llu", i, t->depth, t->lost);
			expect_trie(t);
		}
		CHECK(alloc - freed == left && alloc >= made, "%llu - %llu blocks, not %llu", alloc, freed, left);
		u64 nodes = 0;
		for (u64 n = 1; n < T->stats.next; n++)
			nodes += stat_at((u32)n)->alloc_blocks;
		CHECK(nodes == alloc, "%llu blocks at the nodes, not %llu", nodes, alloc);
		expect_stats_live();
		for (u64 i = 0; i < EXCHANGE; i++) {
			u64 b = world.exchange[i] & ~7ull;
			left -= b && LOAD(live_find(b)) >> HT_LIVE_BIT;
		}
		CHECK(left == 0, "%llu blocks are at other addresses", left);
		free(workers);
		pthread_mutex_destroy(&world.gil);
	}
}
