/* native.h: mappings against an array of pages; slots of modules that come and go, laid out as a loader would. */

/* ---- mappings ----------------------------------------------------------------------------------------------------- */

enum { SPACE = 64, SPACE_BASE = 0x7e0000000000 };

/* What the functions behind the hooks answer. */
static u64 map_answer;
static int unmap_answer;

static u64 real_mmap(u64 a, u64 size, u64 prot, u64 flags, u64 fd, u64 offset)
{
	(void)a, (void)size, (void)prot, (void)flags, (void)fd, (void)offset;
	return map_answer;
}
static int real_munmap(u64 a, u64 size)
{
	(void)a, (void)size;
	return unmap_answer;
}
static u64 real_mremap(u64 a, u64 old, u64 size, u64 flags, u64 to)
{
	(void)a, (void)old, (void)size, (void)flags, (void)to;
	return map_answer;
}

static void map_functions(void)
{
	T->native[HT_N_MMAP][0] = (u64)real_mmap;
	T->native[HT_N_MUNMAP][0] = (u64)real_munmap;
	T->native[HT_N_MREMAP][0] = (u64)real_mremap;
}

/* Each page's mapping: 0 none, else domain; the tables must say the same, page by page, and so must the sums. */
static void expect_pages(const u8 *model)
{
	u8 is[SPACE] = {0};
	u64 bytes[HT_DOMAINS] = {0};
	for (u64 i = 0; i < T->mappings.next; i++) {
		const struct ht_mapping *m = mapping_at(i);
		CHECK(m->start < m->end && m->start % PAGE == 0 && m->end % PAGE == 0, "%#llx-%#llx", m->start, m->end);
		for (u64 a = m->start; a < m->end; a += PAGE) {
			u64 page = (a - SPACE_BASE) / PAGE;
			CHECK(page < SPACE && !is[page], "page %llu is mapped twice", page);
			is[page] = (u8)m->domain;
		}
	}
	for (u32 i = 0; i < SPACE; i++) {
		CHECK(is[i] == model[i], "page %u is in domain %u, not %u", i, is[i], model[i]);
		bytes[is[i]] += is[i] ? PAGE : 0;
	}
	for (u32 d = HT_MAPPED; d <= HT_FILE; d++) {
		struct ht_count c = sum_counts(d);
		CHECK(c.alloc_bytes - c.freed_bytes == bytes[d], "domain %u: %llu bytes", d, c.alloc_bytes - c.freed_bytes);
		u64 listed = 0;
		for (u64 i = 0; i < T->mappings.next; i++)
			listed += mapping_at(i)->domain == d;
		CHECK(c.alloc_blocks - c.freed_blocks == listed, "domain %u: %llu mappings", d, c.alloc_blocks - c.freed_blocks);
	}
	CHECK(live_others() == bytes[HT_MAPPED], "%llu bytes live", live_others());
}

static void test_mappings(void)
{
	tables((struct plan){0});
	map_functions();
	u8 model[SPACE] = {0};
	for (u32 step = 0; step < 30000; step++) {
		u64 page = below(SPACE), n = 1 + below(SPACE - page < 12 ? SPACE - page : 12);
		u64 a = SPACE_BASE + page * PAGE, odd = below(2) ? below(PAGE) : 0; /* sizes need not be of whole pages */
		u64 to = below(SPACE), grown = 1 + below(SPACE - to < 12 ? SPACE - to : 12);
		u32 domain = below(3) ? HT_MAPPED : HT_FILE;
		switch (below(6)) {
		case 0: /* fails */
			map_answer = -(u64)12;
			ht_native_mmap_0(0, n * PAGE, 3, MAP_ANONYMOUS, ~0ull, 0);
			ht_native_mremap_0(a, PAGE, n * PAGE, 1, 0);
			unmap_answer = -1;
			ht_native_munmap_0(a + 1, n * PAGE); /* wrong, and refused by the kernel */
			ht_native_munmap_0(a, 0);
			unmap_answer = 0;
			break;
		case 1:
		case 2: /* the kernel gives only what is free, but for MAP_FIXED */
			map_answer = a;
			ht_native_mmap_0(a, n * PAGE - odd, 3, MAP_FIXED | (domain == HT_MAPPED ? MAP_ANONYMOUS : 0), 3, 0);
			memset(model + page, (int)domain, n);
			break;
		case 3:
			CHECK(ht_native_munmap_0(a, n * PAGE - odd) == 0, "munmap");
			memset(model + page, 0, n);
			break;
		case 4: { /* moved, whole, from within one mapping */
			u64 last = page;
			while (last + 1 < SPACE && last + 1 < page + n && model[last + 1] == model[page])
				last++;
			int apart = to >= last + 1 || to + grown <= page, one = model[page] != 0;
			for (u64 i = 0; one && i < T->mappings.next; i++)
				if (mapping_at(i)->start <= a && a < mapping_at(i)->end && SPACE_BASE + last * PAGE >= mapping_at(i)->end)
					one = 0;
			if (!apart || !one)
				break;
			u8 was = model[page];
			map_answer = SPACE_BASE + to * PAGE;
			ht_native_mremap_0(a, (last + 1 - page) * PAGE, grown * PAGE, 3, map_answer);
			memset(model + page, 0, last + 1 - page);
			memset(model + to, was, grown);
			break;
		}
		default:
			continue;
		}
		expect_pages(model);
	}
}

static void test_mappings_full(void)
{
	tables((struct plan){.mappings = 4});
	map_functions();
	u8 model[SPACE] = {0};
	for (u32 i = 0; i < 6; i++) {
		map_answer = SPACE_BASE + i * 8 * PAGE;
		ht_native_mmap_0(0, 5 * PAGE, 3, MAP_ANONYMOUS, ~0ull, 0);
		if (i < 4)
			memset(model + i * 8, HT_MAPPED, 5);
	}
	expect_pages(model);
	CHECK(thread_self()->lost == 2, "%llu lost", thread_self()->lost);
	ht_native_munmap_0(SPACE_BASE + 2 * PAGE, PAGE); /* cuts in two, and there is no room for the other half */
	memset(model + 2, 0, 3);
	expect_pages(model);
	CHECK(thread_self()->lost == 3, "%llu lost", thread_self()->lost);
}

/* ---- modules ------------------------------------------------------------------------------------------------------ */

enum { WORDS = 6 };

/* A module as it lies in memory: everything that the agent reads of one. */
struct loaded {
	struct dynamic_entry dynamic[8];
	struct relocation jumps[WORDS];
	struct symbol symbols[WORDS];
	char strings[256];
	u64 slots[WORDS] __attribute__((aligned(4096)));
	char rest[4096 - WORDS * 8];
	struct link_map map;
};

static const char *const imported[WORDS] = {"malloc", "free", "strlen", "malloc", "mmap64", "calloc"};

static struct loaded *load(struct link_map *before)
{
	struct loaded *m = mmap(0, sizeof *m, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(m != MAP_FAILED, "mmap");
	u64 bias = (u64)m; /* addresses in the file are offsets; glibc has added the bias to some in place, musl has not */
	u64 add = below(2) ? bias : 0;
	u32 at = 1;
	for (u32 i = 0; i < WORDS; i++) {
		m->symbols[i].name = at;
		m->symbols[i].info = 0x12;
		strcpy(m->strings + at, imported[i]);
		at += (u32)strlen(imported[i]) + 1;
		m->jumps[i] = (struct relocation){(u64)&m->slots[i] - bias, (u64)i << 32 | (i == 3 ? 6 : 7), 0};
	}
	m->symbols[0].name = m->symbols[3].name;
	m->jumps[0].info = 4ull << 32 | 7;
	m->symbols[4] = m->symbols[0]; /* symbol 0 has no name in any module */
	m->jumps[4].info = 2ull << 32 | 7;
	struct dynamic_entry d[] = {{DT_STRTAB, (u64)m->strings - bias + add},
	                            {DT_SYMTAB, (u64)m->symbols - bias + add},
	                            {DT_JMPREL, (u64)m->jumps - bias + add},
	                            {DT_PLTRELSZ, sizeof m->jumps},
	                            {0, 0}};
	memcpy(m->dynamic, d, sizeof d);
	m->map = (struct link_map){.bias = bias, .dynamic = (u64)m->dynamic};
	if (before)
		before->next = (u64)&m->map;
	return m;
}

/* Originals of no meaning: addresses in "libc" above all modules. */
static u64 original_of(const char *name) { return 0x7fff00000000 + name_hash((const u8 *)name, NAME_MOST) % 0xffff * 16; }

static void bind_slots(struct loaded *m)
{
	for (u32 i = 0; i < WORDS; i++)
		m->slots[i] = original_of(m->strings + m->symbols[m->jumps[i].info >> 32].name);
}

static u32 hooked_in(const struct loaded *m)
{
	u32 n = 0;
	for (u32 i = 0; i < WORDS; i++) {
		int ours = m->slots[i] >= 0x5000 && m->slots[i] < 0x5000 + 0x1000;
		n += (u32)ours;
		if (!ours)
			continue;
		const char *name = m->strings + m->symbols[m->jumps[i].info >> 32].name;
		CHECK(m->slots[i] == 0x5000 + (!strcmp(name, "malloc") ? 0 : !strcmp(name, "free") ? 16 : 32), "%s is %#llx", name,
		      m->slots[i]);
		int listed = 0;
		for (u64 k = 0; k < T->slots_hooked.next; k++) {
			const struct ht_ledger *l = (struct ht_ledger *)at(T->slots_hooked.offset) + k;
			if (l->kind == HT_LEDGER_SLOT && l->address == (u64)&m->slots[i]) {
				CHECK(l->old == original_of(name) && l->new == m->slots[i], "ledger of %s", name);
				listed++;
			}
		}
		CHECK(listed == 1, "%s is listed %d times", name, listed);
	}
	return n;
}

static struct r_debug debug;

static int iterate(int (*callback)(void *, u64, void *), void *data)
{
	CHECK(T->modules_lock && thread_self()->depth, "a look without its lock, or as if it were the program's");
	return callback(0, 0, data);
}

static void slot_tables(void)
{
	tables((struct plan){0});
	struct ht_window *last = &T->leaves;
	u64 end = last->offset + (last->entries * (8 << HT_LEAF_WORDS_LOG2));
	place(&T->slots_hooked, &end, 64, sizeof(struct ht_ledger), 0);
	CFG->may_write = 1;
	T->image = 0x5000; /* of no meaning, too, but that stubs are within it */
	const struct {
		const char *name;
		u32 function;
	} hooks[] = {{"malloc", HT_N_MALLOC}, {"free", HT_N_FREE}, {"calloc", HT_N_CALLOC}};
	for (u32 i = 0; i < 3; i++) {
		T->names[i] = (struct ht_name){name_hash((const u8 *)hooks[i].name, NAME_MOST), hooks[i].function, 0};
		for (u32 v = 0; v < HT_NATIVE_VARIANTS; v++)
			T->stubs[hooks[i].function][v] = 0x5000 + i * 16 + v * 0x100;
	}
	T->names_count = 3;
	debug = (struct r_debug){.version = 1};
	T->loader = (u64)&debug;
	T->loader_iterate = (u64)iterate;
}

static void test_slots(void)
{
	slot_tables();
	struct ht_thread *t = thread_self();
	struct loaded *a = load(0), *b = load(&a->map);
	debug.map = (u64)&a->map;
	bind_slots(a);
	bind_slots(b);
	b->slots[1] = 0;                        /* not relocated yet: another thread is at it */
	b->slots[5] = (u64)b->jumps;            /* lazy: leads into its own PLT */
	CHECK(!mprotect(a->slots, 4096, PROT_READ), "mprotect"); /* RELRO */
	u32 all = hooked_in(a);
	CHECK(!all, "%u", all);
	modules_look(t);
	all = 0;
	for (u32 i = 0; i < WORDS; i++) {
		const char *name = a->strings + a->symbols[a->jumps[i].info >> 32].name;
		all += !strcmp(name, "malloc") || !strcmp(name, "free") || !strcmp(name, "calloc");
	}
	CHECK(hooked_in(a) == all && all >= 3, "%u of %u", hooked_in(a), all);
	CHECK(T->modules.next == 2 && T->slots_missed == 0, "%llu modules, %llu missed", T->modules.next, T->slots_missed);
	volatile u64 *locked = a->slots; /* it is read-only as before */
	CHECK(self_copy(SYS_process_vm_writev, (void *)locked, (u64)locked, 8) == -EFAULT, "the page can be written to");
	u32 some = hooked_in(b);
	CHECK(some < all, "%u slots of an unfinished module", some);
	u64 entries = T->slots_hooked.next;
	modules_look(t);
	CHECK(hooked_in(b) == some && T->slots_hooked.next == entries, "a second look hooks something");
	bind_slots(b);
	for (u32 i = 0; i < WORDS; i++)
		b->slots[i] = i == 1 || i == 5 ? b->slots[i] : original_of(b->strings + b->symbols[b->jumps[i].info >> 32].name);
	modules_look(t);
	CHECK(hooked_in(b) == all, "%u of %u when it is finished", hooked_in(b), all);

	/* b goes, and comes back to where it was: its slots are those of the loader, and have their ledger entries. */
	entries = T->slots_hooked.next;
	a->map.next = 0;
	modules_look(t);
	CHECK(T->modules.next == 1, "%llu modules", T->modules.next);
	bind_slots(b);
	a->map.next = (u64)&b->map;
	modules_look(t);
	CHECK(hooked_in(b) == all && T->slots_hooked.next == entries, "%u hooked, %llu entries", hooked_in(b), T->slots_hooked.next);

	/* Another libc's malloc is another variant; a fifth is not hooked, and is counted. */
	for (u32 v = 1; v <= HT_NATIVE_VARIANTS; v++) {
		struct loaded *c = load(&b->map);
		for (u32 i = 0; i < WORDS; i++)
			c->slots[i] = 0x7ffe00000000 + v * 0x10000;
		u64 missed = T->slots_missed;
		modules_look(t);
		u32 n = 0;
		for (u32 i = 0; i < WORDS; i++)
			n += c->slots[i] < 0x6000;
		CHECK(v < HT_NATIVE_VARIANTS ? n == all && T->slots_missed == missed : !n && T->slots_missed == missed + all,
		      "variant %u: %u hooked, %llu missed", v, n, T->slots_missed - missed);
	}

	b->map.next = (u64)&a->map; /* a circle */
	modules_look(t);
	CHECK(hooked_in(a) == all && hooked_in(b) == all && !T->modules_lock, "after all that");
}

/* A look is made when the thread has left the frame in which it called the loader, not before. */
static u64 frame[4];

static u64 real_dlopen(u64 file, u64 mode)
{
	(void)file, (void)mode;
	struct ht_thread *t = thread_self();
	u64 looks = T->modules_looks;
	loader_check(t, (const u64 *)(t->loader_stack - 64)); /* a constructor allocates */
	CHECK(T->modules_looks == looks && t->loader_stack, "%llu looks within the loader", T->modules_looks);
	return 7;
}

static void test_loader(void)
{
	slot_tables();
	T->native[HT_N_DLOPEN][0] = (u64)real_dlopen;
	struct ht_thread *t = thread_self();
	CHECK(ht_native_dlopen_0(1, 2) == 7 && t->loader_stack, "dlopen");
	loader_check(t, (const u64 *)(t->loader_stack + 64));
	CHECK(T->modules_looks == 1 && !t->loader_stack, "%llu looks in the caller's caller", T->modules_looks);
	frame[1] = 0x1234;
	loader_called(frame, 0);
	loader_check(t, frame - 1);
	CHECK(T->modules_looks == 1, "%llu looks while the return address stands", T->modules_looks);
	frame[1] = 0x4321; /* another call has taken its place */
	loader_check(t, frame - 1);
	CHECK(T->modules_looks == 2 && !t->loader_stack, "%llu looks in a deeper call", T->modules_looks);
	loader_called(frame, 0);
	loader_called(frame - 1, 0); /* a constructor loads something */
	CHECK(t->loader_stack == (u64)frame, "the outermost call is the one that counts");
	T->modules_lock = 1;
	loader_check(t, frame);
	CHECK(t->loader_stack == (u64)frame && T->modules_looks == 2, "who does not get the lock looks later");
	T->modules_lock = 0;
	loader_check(t, frame);
	CHECK(T->modules_looks == 3 && !t->loader_stack, "%llu looks", T->modules_looks);
}
