/*
 * fill.h: tables for the Go reader. The header in the file was planned by the Go side, with the sample distance that it
 * wants; here a make-believe target fills them, and says on standard output what it did:
 *
 *	block ADDRESS SIZE DOMAIN EPOCH NODE
 *	stack NODE [QUALNAME@INSTR]...    innermost first, of each block's node
 *	unseen N                          frees of blocks that were never seen
 */
#include <fcntl.h>

static u64 fill_clock;

static void print_block(const struct block *b, void *arg)
{
	(void)arg;
	printf("block %#llx %llu %u %llu %u\n", b->address, b->size, b->domain, b->epoch, stat_at(b->stat)->node);
}

static void fill(const char *path)
{
	int fd = open(path, O_RDWR);
	u64 size = (u64)lseek(fd, 0, SEEK_END);
	CHECK(fd >= 0 && size > 4096, "%s", path);
	void *p = mmap(T, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	CHECK(p == T && T->size == size, "map %s", path);
	fresh_memory(&ht_flag, 4096, MAP_PRIVATE);
	T->config = config_of_fixture(T->config.granule_log2, T->config.instr_kind, T->config.sample_bytes);
	CFG->clock_word = (u64)&fill_clock;
	ht_flag.active = 1;
	scripted();
	static struct place places[PLACES];
	make_places(places);
	struct program *run = program_new(3);
	u64 unseen = 0;
	static char *stacks[1 << 16];
	for (u32 i = 0; i < 8000; i++) {
		struct script s = {0};
		struct place *b = &places[below(PLACES)];
		program_step(run, &s);
		unseen += s.calls; /* code objects, which it has from elsewhere */
		fill_clock += !below(10);
		if (b->live) {
			hooks[b->domain].free(&s, (void *)b->address);
			b->live = 0;
			continue;
		}
		if (!below(20)) {
			ht_raw_free(&s, (void *)b->address);
			unseen++;
			continue;
		}
		*b = (struct place){.address = b->address, .size = some_size(), .live = 1, .domain = (u32)below(HT_PYTHON_DOMAINS)};
		s.next = b->address;
		sampled[b->domain].malloc(&s, b->size);
		u64 *word = live_find(b->address), w = word ? LOAD(word) : 0;
		b->live = w >> HT_LIVE_BIT; /* not where sampling passes over it, or there is no room */
		if (!b->live)
			continue;
		u32 node = word_node(w);
		CHECK(node < sizeof stacks / sizeof *stacks, "node %u", node);
		if (stacks[node])
			continue;
		unsigned long length;
		FILE *out = open_memstream(&stacks[node], &length);
		for (u64 f = run->tstate.frame; f; f = ((struct frame *)f)->previous) {
			struct frame *is = (struct frame *)f;
			if (is->owner == OWNER_SHIM)
				continue;
			struct program_code *c = code_of(is);
			s64 instr = (s64)(is->instr & 0xffffffff);
			if (CFG->instr_kind == HT_INSTR_POINTER) {
				instr = (s64)(is->instr - (u64)c->code.body);
				if (is->owner != OWNER_GENERATOR && instr < c->code.first_traceable * 2)
					continue;
			}
			fprintf(out, " %s@%lld", (char *)c->qualname.ascii, instr);
		}
		fclose(out);
	}
	each_live(print_block, 0);
	for (u32 n = 0; n < sizeof stacks / sizeof *stacks; n++)
		if (stacks[n]) {
			printf("stack %u%s\n", n, stacks[n]);
			free(stacks[n]);
		}
	program_free(run);
	printf("unseen %llu\n", unseen + CODES);
	munmap(T, size);
}
