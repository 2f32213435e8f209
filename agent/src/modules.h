/*
 * modules.h: the slots of modules that are loaded while nobody watches.
 *
 * The hooks of dlopen and its like only note where the thread's stack is, and jump on: the loader finds its caller's
 * return address as always, by which it knows whose RPATH to use. When the thread allocates again and has left that
 * frame, it looks at what the loader's list has that is new.
 *
 * Another thread may load or unload at the same time. So the list is looked at within dl_iterate_phdr, whose lock the
 * loader holds whenever the list changes and while it unmaps what is closed, but not while anybody's constructors run:
 * what is in the list is there to be read, and to be written to, until we are done. (musl has no such lock, and never
 * unmaps.)
 */

/* The layouts that debuggers rely on (link.h). musl's are the same. */
struct r_debug {
	s32 version;
	u32 pad;
	u64 map;
	u64 brk;
	u64 state;
	u64 base;
	u64 next; /* of another namespace; from version 2 on */
};

struct link_map {
	u64 bias;
	u64 name;
	u64 dynamic;
	u64 next;
	u64 previous;
};

struct dynamic_entry {
	s64 tag;
	u64 value;
};

struct relocation {
	u64 offset;
	u64 info;
	s64 addend;
};

struct symbol {
	u32 name;
	u8 info, other;
	u16 section;
	u64 value, size;
};

enum { DT_PLTRELSZ = 2, DT_STRTAB = 5, DT_SYMTAB = 6, DT_RELA = 7, DT_RELASZ = 8, DT_JMPREL = 23, DT_RELACOUNT = 0x6ffffff9 };
enum { DYNAMIC_MOST = 256, NAME_MOST = 32, MODULES_MOST = 8192, NAMESPACES_MOST = 64, LOOKS_MOST = 32, RELOCATIONS_MOST = 1 << 22 };
enum { STB_WEAK = 2, PROT_READ = 1, PROT_WRITE = 2 };

/* FNV-1a. */
static u64 name_hash(const u8 *name, u64 most)
{
	u64 h = 0xcbf29ce484222325ull;
	for (u64 i = 0; i < most && name[i]; i++)
		h = (h ^ name[i]) * 0x100000001b3ull;
	return h;
}

/* What is imported under a name? 0: nothing that matters. */
static const struct ht_name *name_known(const u8 *name)
{
	u64 hash = name_hash(name, NAME_MOST);
	for (u32 i = 0; i < T->names_count && i < HT_NAMES; i++)
		if (T->names[i].hash == hash)
			return &T->names[i];
	return 0;
}

/* The hook that stands before an original, or 0 when there are no more of them. */
static u64 stub_of(u32 function, u64 original)
{
	for (u32 v = 0; v < HT_NATIVE_VARIANTS; v++) {
		u64 is = LOAD(&T->native[function][v]);
		if (!is && __atomic_compare_exchange_n(&T->native[function][v], &is, original, 0, __ATOMIC_RELAXED,
		                                       __ATOMIC_RELAXED))
			is = original;
		if (is == original)
			return T->stubs[function][v];
	}
	return 0;
}

/*
 * Writes a word that the loader may have made read-only, which its page stays. Whether it has is asked of the kernel: a
 * page that another thread's loader has not finished with must not be made read-only under its hands.
 */
static int slot_write(u64 slot, u64 value)
{
	u64 page = slot & ~(u64)(PAGE - 1);
	s64 done = self_copy(SYS_process_vm_writev, &value, slot, sizeof value);
	if (done != -EFAULT)
		return done == sizeof value;
	if (system_call(SYS_mprotect, page, PAGE, PROT_READ | PROT_WRITE, 0, 0, 0) != 0)
		return 0;
	done = self_copy(SYS_process_vm_writev, &value, slot, sizeof value);
	system_call(SYS_mprotect, page, PAGE, PROT_READ, 0, 0, 0);
	return done == sizeof value;
}

/* The ledger's entry for a slot, if need be a new one. A slot that came back with a module has one. */
static struct ht_ledger *slot_entry(u64 slot)
{
	struct ht_ledger *first = (struct ht_ledger *)at(T->slots_hooked.offset);
	for (u64 i = 0; i < T->slots_hooked.next; i++)
		if (first[i].address == slot)
			return first + i;
	u64 n = T->slots_hooked.next;
	if (n == T->slots_hooked.entries)
		return 0;
	first[n].kind = HT_LEDGER_FREE;
	STORE_RELEASE(&T->slots_hooked.next, n + 1);
	return first + n;
}

/* Hooks one slot, which holds `old`, before an original. The ledger learns of it first. */
static void slot_hook(u64 slot, u32 function, u64 original, u64 old)
{
	u64 stub = active() ? stub_of(function, original) : 0;
	struct ht_ledger *l = stub ? slot_entry(slot) : 0;
	if (l) {
		STORE(&l->kind, HT_LEDGER_FREE);
		l->address = slot;
		l->old = old;
		l->new = stub;
		l->what = function;
		STORE_RELEASE(&l->kind, HT_LEDGER_SLOT);
		if (slot_write(slot, stub))
			return;
		STORE(&l->kind, HT_LEDGER_FREE);
	}
	T->slots_missed++;
}

/* A loaded module, as its dynamic section describes it. */
struct module {
	u64 bias;
	u64 strings, symbols;
	u64 tables[2], sizes[2]; /* relocations */
	u64 relative;            /* how many of the first table have no symbol */
};

static int module_read(struct module *m, const struct link_map *l)
{
	const struct dynamic_entry *d = (const struct dynamic_entry *)l->dynamic;
	*m = (struct module){.bias = l->bias};
	for (u64 i = 0; d && i < DYNAMIC_MOST; i++, d++) {
		/* glibc adds the bias to addresses in place, musl does not. */
		u64 address = d->value < l->bias ? d->value + l->bias : d->value;
		switch (d->tag) {
		case 0: return m->strings && m->symbols;
		case DT_STRTAB: m->strings = address; break;
		case DT_SYMTAB: m->symbols = address; break;
		case DT_RELA: m->tables[0] = address; break;
		case DT_JMPREL: m->tables[1] = address; break;
		case DT_RELASZ: m->sizes[0] = d->value; break;
		case DT_PLTRELSZ: m->sizes[1] = d->value; break;
		case DT_RELACOUNT: m->relative = d->value; break;
		}
	}
	return 0;
}

/* How a module is looked at. */
struct look {
	int first; /* it has just been loaded */
	int own;   /* it may be bound otherwise than the process's own scope is */
};

static int is_stub(u64 address) { return address - T->image < HT_FLAG_OFFSET; }

/*
 * One relocation of a symbol. Returns 1 when its slot is none of ours, or hooked, and 0 when it is not bound yet: then
 * only the loader knows to what it will be.
 */
static int relocation_look(const struct module *m, const struct relocation *r, int jumps, struct look how)
{
	const struct symbol *s = (const struct symbol *)m->symbols + (r->info >> 32);
	const struct ht_name *name = name_known((const u8 *)m->strings + s->name);
	u64 slot = m->bias + r->offset;
	if (!name || slot % 8)
		return 1;
	u64 value = peek64(slot);
	if (is_stub(value))
		return 1;
	if (!value)
		return s->info >> 4 == STB_WEAK;
	u32 function = name->function;
	for (u32 v = 0; v < HT_NATIVE_VARIANTS; v++)
		if (LOAD(&T->native[function][v]) == value) {
			slot_hook(slot, function, value, value);
			return 1;
		}
	/* The module's PLT lies before its data. This is its address in the file: not relocated. */
	if (value < r->offset)
		return 0;
	/* A variable of the program's, which may hold something else by now. */
	if (in_data((u32)r->info) && !how.first)
		return 1;
	/* Led back into the module's own code by way of its PLT. */
	if (value >= m->bias && value < slot && (!s->section || jumps)) {
		if (how.own || !name->usual || s->section)
			return 0;
		slot_hook(slot, function, LOAD(&T->native[function][name->usual - 1]), value);
		return 1;
	}
	slot_hook(slot, function, value, value);
	return 1;
}

/* Looks at all slots of a module; returns 0 when some were not bound yet. */
static int module_look(const struct module *m, struct look how)
{
	int all = 1;
	for (u32 k = 0; k < 2; k++) {
		const struct relocation *r = (const struct relocation *)m->tables[k];
		u64 size = r ? m->sizes[k] / sizeof *r : 0;
		for (u64 i = k ? 0 : m->relative; i < size && i < RELOCATIONS_MOST; i++)
			if (fills_slot((u32)r[i].info) && r[i].info >> 32 && !r[i].addend)
				all &= relocation_look(m, r + i, k == 1, how);
	}
	return all;
}

/* What is known of a module; a new one is to be looked at. 0: there is no room. */
static struct ht_loaded *module_known(u64 map, u64 dynamic, int own)
{
	struct ht_loaded *first = (struct ht_loaded *)at(T->modules.offset);
	u64 n = T->modules.next;
	for (u64 i = 0; i < n; i++)
		if (first[i].map == map && first[i].dynamic == dynamic)
			return first + i;
	if (n == T->modules.entries)
		return 0;
	first[n] = (struct ht_loaded){.map = map, .dynamic = dynamic, .again = 1, .own = (u16)own};
	STORE_RELEASE(&T->modules.next, n + 1);
	return first + n;
}

/* Forgets the modules that the last look has not seen: others may come to stand at their addresses. */
static void modules_sweep(u32 look)
{
	struct ht_loaded *first = (struct ht_loaded *)at(T->modules.offset);
	u64 kept = 0;
	for (u64 i = 0; i < T->modules.next; i++)
		if (first[i].look == look)
			first[kept++] = first[i];
	STORE_RELEASE(&T->modules.next, kept);
}

static void namespace_look(u64 map, u32 look, int own)
{
	for (u32 i = 0; map && i < MODULES_MOST; i++) {
		const struct link_map *l = (const struct link_map *)map;
		struct ht_loaded *known = module_known(map, l->dynamic, own);
		struct module m;
		map = l->next;
		if (!known)
			continue;
		known->look = look;
		/* What is not bound after so many looks may never be, and each costs time. */
		if (known->again && known->again <= LOOKS_MOST)
			known->again = module_read(&m, l) && !module_look(&m, (struct look){known->again == 1, known->own}) ? known->again + 1 : 0;
	}
}

/* Looks at the loader's list. It is dl_iterate_phdr's callback, of which the first call does all. */
static int loader_look(void *info, u64 size, void *thread)
{
	(void)info, (void)size, (void)thread;
	const struct r_debug *space = (const struct r_debug *)T->loader;
	u32 look = (u32)++T->modules_looks;
	for (u32 i = 0; space && i < NAMESPACES_MOST; i++) {
		namespace_look(space->map, look, i > 0 || LOAD(&T->own_scope));
		space = space->version < 2 ? 0 : (const struct r_debug *)space->next;
	}
	modules_sweep(look);
	return 1;
}

/* The thread is back from the loader. If another is looking at this moment, it does so later. */
NOINLINE void modules_look(struct ht_thread *t)
{
	u32 is = 0;
	u64 depth = t->depth;
	if (LOAD(&T->filtered))
		t->loader_stack = 0; /* nothing can be written: see filter.h */
	if (!CFG->may_write || LOAD(&T->filtered) || !T->loader_iterate || !active() ||
	    !__atomic_compare_exchange_n(&T->modules_lock, &is, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		return;
	t->loader_stack = 0;
	if (!depth)
		depth_enter(t, __builtin_frame_address(0));
	((int (*)(int (*)(void *, u64, void *), void *))T->loader_iterate)(loader_look, t);
	t->depth = depth;
	if (t->own_scope)
		__atomic_fetch_sub(&T->own_scope, 1, __ATOMIC_RELAXED);
	t->own_scope = 0;
	spin_unlock(&T->modules_lock);
}

/* Has the thread left the loader? While it is there, its return address stands where it was. Its stack may be gone. */
COLD int loader_returned(const struct ht_thread *t, const u64 *fp)
{
	u64 back = 0;
	return (u64)fp >= t->loader_stack || !read_word(&back, t->loader_stack + 8) || back != t->loader_back;
}

/* Called with each event of a thread. */
INLINE void loader_check(struct ht_thread *t, const u64 *fp)
{
	if (unlikely(t->loader_stack) && loader_returned(t, fp))
		modules_look(t);
}

/* The thread is about to call the loader. fp is the hook's frame, whose return address the loader will find. */
NOINLINE void loader_called(const u64 *fp, int own)
{
	struct ht_thread *t = active() ? thread_self() : 0;
	if (!t)
		return;
	loader_check(t, fp);
	if (own && !t->own_scope) {
		__atomic_fetch_add(&T->own_scope, 1, __ATOMIC_RELAXED);
		t->own_scope = 1;
	}
	if (t->loader_stack)
		return; /* it is in the loader's hands already */
	t->loader_back = fp[1];
	t->loader_stack = (u64)fp;
}

/*
 * The thread asks the loader for an address: mostly for one in a module that it has just loaded, whose slots are hooked
 * now, before anything in it is called.
 */
NOINLINE void loader_left(const u64 *fp)
{
	struct ht_thread *t = active() ? thread_self() : 0;
	if (t)
		loader_check(t, fp);
}
