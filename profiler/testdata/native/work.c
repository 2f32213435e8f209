/*
 * work.c: random calls of every allocating function, through this module's own GOT slots. The test builds it in several
 * ways, each of which makes other slots. It keeps what it holds in tables that the test reads from outside, it checks
 * what the functions returned, and it writes into what it got, so that a block that is another's is seen.
 *
 * Several threads may work on the same table: who takes a slot has it to itself, so that blocks are freed by other threads
 * than those that allocated them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SLOTS = 4096, FIELDS = 8, FIELD_PAGES = 64, LOOSE = 16, PAGE = 4096 };

/* What a page of a field is. */
enum { HOLE, ANONYMOUS, FILE_BACKED };

struct slot {
	_Atomic uint32_t taken;
	uint32_t alignment;
	void *block;
	uint64_t size;
};

struct loose {
	char *at;
	uint64_t pages;
	uint64_t file;
};

/* A reserved range in which one thread maps and unmaps, and mappings wherever the kernel put them. */
struct field {
	_Atomic uint32_t taken;
	uint32_t reserved;
	char *at; /* FIELD_PAGES */
	unsigned char page[FIELD_PAGES];
	struct loose loose[LOOSE];
};

struct work {
	struct slot slot[SLOTS];
	struct field field[FIELDS];
	_Atomic uint64_t calls, failures_wanted;
	_Atomic uint32_t wrong;
	uint32_t pad;
	char message[256];
};

/*
 * What is left out, by bits of `without`: functions that an allocator lacks, and requirements that only the C library's own
 * allocator meets (errno as before, mimalloc 2.0.9's alignment). Borrowed are the C library's functions that ask the
 * preloaded allocator, which is not that of a module with RTLD_DEEPBIND.
 */
enum { WITHOUT_PVALLOC = 1, WITHOUT_MAPPINGS = 2, WITHOUT_BLOCKS = 4, WITHOUT_NICETIES = 8, WITHOUT_BORROWED = 16 };

extern uint32_t oracle_mark(uint32_t) __attribute__((weak)); /* of what is preloaded */
extern void free_sized(void *, size_t) __attribute__((weak));
extern void free_aligned_sized(void *, size_t, size_t) __attribute__((weak));

/* Slots that are initialised data. */
static void *(*const volatile pointed_malloc)(size_t) = malloc;
static void (*const volatile pointed_free)(void *) = free;

static struct work own;

struct work *work_table(void) { return &own; }

static void wrong(struct work *w, const char *what, uint64_t a, uint64_t b)
{
	if (atomic_fetch_add(&w->wrong, 1) == 0)
		snprintf(w->message, sizeof w->message, "%s: %#llx, %#llx, errno %d", what, (unsigned long long)a,
			 (unsigned long long)b, errno);
}

static uint64_t chance(uint64_t *r)
{
	*r ^= *r << 13;
	*r ^= *r >> 7;
	*r ^= *r << 17;
	return *r;
}

static uint64_t below(uint64_t *r, uint64_t n) { return (chance(r) >> 11) % n; }

static size_t some_size(uint64_t *r)
{
	switch (below(r, 16)) {
	case 0:
		return 0;
	case 1:
	case 2:
		return below(r, 5000);
	case 3:
		return below(r, 300000); /* at times a mapping of the allocator's own */
	default:
		return 1 + below(r, 200);
	}
}

/* ---- what is in a block ---- */

static unsigned char byte_of(const void *p, uint64_t size) { return (unsigned char)(((uint64_t)p >> 4) * 31 + size); }

static void fill(struct slot *s)
{
	unsigned char *p = s->block, c = byte_of(p, s->size);
	uint64_t some = s->size < 64 ? s->size : 64;

	memset(p, c, some);
	memset(p + s->size - some, c, some);
}

static void check(struct work *w, const struct slot *s, const void *moved_to, uint64_t size)
{
	const unsigned char *p = moved_to;
	unsigned char c = byte_of(s->block, s->size);
	uint64_t some = s->size < 64 ? s->size : 64;

	for (uint64_t i = 0; i < some && i < size; i++)
		if (p[i] != c) {
			wrong(w, "a block's first bytes are another's", (uint64_t)s->block, i);
			return;
		}
	for (uint64_t i = s->size - some; i < s->size && s->size <= size; i++)
		if (p[i] != c) {
			wrong(w, "a block's last bytes are another's", (uint64_t)s->block, i);
			return;
		}
}

/* ---- blocks ---- */

#define UNTOUCHED 12345 /* errno before a call that is to leave it alone */

static void got(struct work *w, struct slot *s, void *p, uint64_t size, uint64_t alignment, uint64_t without)
{
	atomic_fetch_add(&w->calls, 1);
	if (!p) {
		wrong(w, "no block of this size and alignment", size, alignment);
		return;
	}
	if (errno != UNTOUCHED && !(without & WITHOUT_NICETIES))
		wrong(w, "errno was changed by an allocation", (uint64_t)p, size);
	if (size && (uint64_t)p % alignment != 0 && !(without & WITHOUT_NICETIES))
		wrong(w, "a block is not aligned", (uint64_t)p, alignment);
	if (malloc_usable_size(p) < size)
		wrong(w, "a block is too small", (uint64_t)p, size);
	s->block = p;
	s->size = size;
	s->alignment = (uint32_t)alignment;
	fill(s);
}

static void allocate(struct work *w, struct slot *s, uint64_t *r, uint64_t without)
{
	size_t n = some_size(r), alignment = (size_t)8 << below(r, 10), count;
	void *p = NULL;
	int e;

	errno = UNTOUCHED;
	switch (below(r, 13)) {
	case 0:
	case 1:
		got(w, s, malloc(n), n, 8, without);
		return;
	case 2:
		count = 1 + below(r, 9);
		p = calloc(count, n / count);
		n = n / count * count;
		for (size_t i = 0; p && i < n; i++)
			if (((unsigned char *)p)[i]) {
				wrong(w, "calloc's block is not zero", (uint64_t)p, i);
				break;
			}
		got(w, s, p, n, 8, without);
		return;
	case 3:
		got(w, s, realloc(NULL, n), n, 8, without);
		return;
	case 4:
		if (without & WITHOUT_BORROWED)
			return;
		count = 1 + below(r, 9);
		got(w, s, reallocarray(NULL, count, n / count), n / count * count, 8, without);
		return;
	case 5:
		e = posix_memalign(&p, alignment, n);
		if (e)
			wrong(w, "posix_memalign failed", (uint64_t)e, n);
		got(w, s, p, n, alignment, without);
		return;
	case 6:
		n = (n + alignment - 1) / alignment * alignment;
		got(w, s, aligned_alloc(alignment, n), n, alignment, without);
		return;
	case 7:
		got(w, s, memalign(alignment, n), n, alignment, without);
		return;
	case 8:
		got(w, s, valloc(n), n, PAGE, without);
		return;
	case 9:
		if (without & WITHOUT_PVALLOC)
			return;
		p = pvalloc(n);
		got(w, s, p, n, PAGE, without);
		return;
	case 10: { /* allocated by the C library itself */
		char text[64];
		if (without & WITHOUT_BORROWED)
			return;
		n = 1 + below(r, sizeof text - 1);
		memset(text, 'x', n);
		text[n - 1] = 0;
		got(w, s, strdup(text), n, 8, without);
		return;
	}
	default:
		got(w, s, pointed_malloc(n), n, 8, without);
	}
}

static void let_go(struct work *w, struct slot *s, uint64_t *r, uint64_t without)
{
	check(w, s, s->block, s->size);
	void *p = s->block;
	atomic_fetch_add(&w->calls, 1);
	s->block = NULL;
	errno = UNTOUCHED;
	switch (without & WITHOUT_BORROWED ? 2 + below(r, 2) : below(r, 5)) {
	case 0:
		if (free_sized && s->alignment <= 8) {
			free_sized(p, s->size);
			break;
		}
		/* fall through */
	case 1:
		if (free_aligned_sized && s->alignment > 8) {
			free_aligned_sized(p, s->alignment, s->size);
			break;
		}
		/* fall through */
	case 2:
		pointed_free(p);
		break;
	default:
		free(p);
	}
	if (errno != UNTOUCHED && !(without & WITHOUT_NICETIES))
		wrong(w, "errno was changed by a free", (uint64_t)p, s->size);
}

static void change(struct work *w, struct slot *s, uint64_t *r, uint64_t without)
{
	struct slot was = *s;
	size_t n = some_size(r);
	int array = below(r, 2) && !(without & WITHOUT_BORROWED);
	void *p;

	errno = UNTOUCHED;
	if (n == 0) { /* the C library frees; others give a block of no bytes */
		p = array ? reallocarray(s->block, 0, 16) : realloc(s->block, 0);
		s->block = NULL;
		if (p)
			got(w, s, p, 0, 8, without | WITHOUT_NICETIES);
		return;
	}
	p = array ? reallocarray(s->block, n, 1) : realloc(s->block, n);
	if (!p) {
		wrong(w, "realloc failed", (uint64_t)s->block, n);
		return;
	}
	check(w, &was, p, n);
	got(w, s, p, n, 8, without);
}

/* Calls that cannot be answered. The block in the slot, if there is one, stays. */
static void refuse(struct work *w, struct slot *s, uint64_t *r, uint64_t without)
{
	static volatile size_t most = SIZE_MAX, odd = 24; /* so that the compiler does not see it */
	void *p = NULL;
	int e = 0;

	atomic_fetch_add(&w->failures_wanted, 1);
	errno = 0;
	switch (below(r, 9)) {
	case 0:
		p = malloc(most / 2 + 1 + below(r, 1000));
		break;
	case 1:
		p = calloc(most / 2, 3);
		break;
	case 2:
		p = calloc(most / 4, 3);
		break;
	case 3:
		p = realloc(s->block, most / 2 + 1 + below(r, 1000));
		break;
	case 4:
		p = reallocarray(s->block, most / 2, 3);
		break;
	case 5:
		p = without & WITHOUT_BORROWED ? malloc(most) : reallocarray(s->block, most / 16, 15);
		break;
	case 6:
		p = (void *)8;
		e = posix_memalign(&p, odd, 100);
		if (e != EINVAL)
			wrong(w, "posix_memalign with a bad alignment", (uint64_t)e, odd);
		return;
	case 7:
		e = posix_memalign(&p, 64, most / 2 + 1 + below(r, 1000));
		if (e != ENOMEM)
			wrong(w, "posix_memalign of a huge block", (uint64_t)e, 0);
		return;
	default:
		p = aligned_alloc(64, most / 2 + 1);
	}
	if (p)
		wrong(w, "a call that cannot be answered was", (uint64_t)p, 0);
	else if (errno != ENOMEM && !(without & WITHOUT_NICETIES))
		wrong(w, "a call that cannot be answered has another errno", (uint64_t)errno, 0);
	if (s->block)
		check(w, s, s->block, s->size);
}

static void blocks(struct work *w, uint64_t *r, uint64_t without)
{
	struct slot *s = &w->slot[below(r, SLOTS)];
	uint32_t none = 0;

	if (!atomic_compare_exchange_strong(&s->taken, &none, 1))
		return;
	if (below(r, 20) == 0)
		refuse(w, s, r, without);
	else if (!s->block)
		allocate(w, s, r, without);
	else if (below(r, 3) == 0)
		change(w, s, r, without);
	else
		let_go(w, s, r, without);
	atomic_store(&s->taken, 0);
}

/* ---- mappings ---- */

static int open_file(void)
{
	static _Atomic int file = -1;
	int fd = atomic_load(&file), none = -1;

	if (fd >= 0)
		return fd;
	fd = (int)syscall(SYS_memfd_create, "work", 1u /* close on exec */);
	if (fd < 0 || ftruncate(fd, FIELD_PAGES * PAGE))
		return -1;
	if (!atomic_compare_exchange_strong(&file, &none, fd)) {
		close(fd);
		return none;
	}
	return fd;
}

static void *map(void *at, size_t size, int flags, int file, uint64_t *r)
{
	int prot = PROT_READ | PROT_WRITE, kinds = below(r, 3) ? MAP_PRIVATE : MAP_SHARED;

	if (file)
		return below(r, 2) ? mmap(at, size, prot, flags | kinds, open_file(), 0)
				   : mmap64(at, size, prot, flags | kinds, open_file(), PAGE);
	flags |= MAP_ANONYMOUS | kinds;
	return below(r, 2) ? mmap(at, size, prot, flags, -1, 0) : mmap64(at, size, prot, flags, -1, 0);
}

/* A size that a request for so many pages may have. */
static size_t ragged(uint64_t pages, uint64_t *r) { return pages * PAGE - (below(r, 3) ? 0 : below(r, PAGE)); }

static void refuse_mapping(struct work *w, struct field *f, uint64_t *r)
{
	void *p;
	int e = 0;

	atomic_fetch_add(&w->failures_wanted, 1);
	errno = 0;
	switch (below(r, 6)) {
	case 0:
		p = mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		e = EINVAL;
		break;
	case 1:
		p = mmap64(NULL, PAGE, PROT_READ, MAP_PRIVATE, -1, 0);
		e = EBADF;
		break;
	case 2:
		p = mmap(f->at + 1, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		e = EINVAL;
		break;
	case 3:
		p = mmap(NULL, (size_t)1 << 62, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		e = ENOMEM;
		break;
	case 4:
		p = munmap(f->at + 1, PAGE) ? MAP_FAILED : NULL;
		e = EINVAL;
		break;
	default:
		p = mremap(f->at + 1, PAGE, 2 * PAGE, MREMAP_MAYMOVE);
		e = EINVAL;
	}
	if (p != MAP_FAILED || errno != e)
		wrong(w, "a mapping that cannot be made", (uint64_t)p, (uint64_t)e);
}

/* In the field: a range of up to eight pages, all of which are mapped or all of which are not. */
static void within(struct work *w, struct field *f, uint64_t *r)
{
	uint64_t first = below(r, FIELD_PAGES), n = 1;
	int kind = f->page[first], file = (int)below(r, 2);

	while (n < 8 && first + n < FIELD_PAGES && (f->page[first + n] != HOLE) == (kind != HOLE) && below(r, 4))
		n++;
	char *at = f->at + first * PAGE;
	if (kind == HOLE) {
		/* Another thread's mapping may have come here meanwhile. */
		void *p = map(at, n * PAGE, MAP_FIXED_NOREPLACE, file, r);
		if (p == MAP_FAILED) {
			if (errno != EEXIST)
				wrong(w, "mapping into a hole", (uint64_t)at, n);
			return;
		}
		memset(f->page + first, file ? FILE_BACKED : ANONYMOUS, n);
	} else if (below(r, 2)) {
		if (map(at, ragged(n, r), MAP_FIXED, file, r) != at)
			wrong(w, "mapping over pages of ours", (uint64_t)at, n);
		memset(f->page + first, file ? FILE_BACKED : ANONYMOUS, n);
	} else {
		if (munmap(at, ragged(n, r)))
			wrong(w, "unmapping pages of ours", (uint64_t)at, n);
		memset(f->page + first, HOLE, n);
	}
}

/* Where the kernel likes: grown, shrunk, moved, cut at either end. */
static void elsewhere(struct work *w, struct field *f, uint64_t *r)
{
	struct loose *l = &f->loose[below(r, LOOSE)];
	uint64_t n = 1 + below(r, 12);
	void *p;

	if (!l->at) {
		l->file = below(r, 2);
		p = map(NULL, ragged(n, r), 0, (int)l->file, r);
		if (p == MAP_FAILED) {
			wrong(w, "mapping anywhere", n, l->file);
			return;
		}
		l->at = p;
		l->pages = n;
		return;
	}
	switch (below(r, 6)) {
	case 0: /* the first pages */
		n = l->pages > 1 ? 1 + below(r, l->pages - 1) : 1;
		if (munmap(l->at, n * PAGE))
			wrong(w, "unmapping the first pages", (uint64_t)l->at, n);
		l->at += n * PAGE;
		l->pages -= n;
		break;
	case 1: /* the last pages */
		n = l->pages > 1 ? 1 + below(r, l->pages - 1) : 1;
		if (munmap(l->at + (l->pages - n) * PAGE, n * PAGE))
			wrong(w, "unmapping the last pages", (uint64_t)l->at, n);
		l->pages -= n;
		break;
	case 2: { /* to a place that is known to be free: where something else has just been */
		p = map(NULL, n * PAGE, 0, 0, r);
		if (p == MAP_FAILED) {
			wrong(w, "mapping a place to move to", n, 0);
			return;
		}
		void *q = mremap(l->at, l->pages * PAGE, n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p);
		if (q != p)
			wrong(w, "moving to a place of ours", (uint64_t)q, (uint64_t)p);
		l->at = p;
		l->pages = n;
		return;
	}
	case 3:
		p = mremap(l->at, l->pages * PAGE, n * PAGE, 0);
		if (p == MAP_FAILED && errno != ENOMEM)
			wrong(w, "growing in place", (uint64_t)l->at, n);
		if (p != MAP_FAILED)
			l->pages = n;
		return;
	case 4:
		p = mremap(l->at, l->pages * PAGE, ragged(n, r), MREMAP_MAYMOVE);
		if (p == MAP_FAILED) {
			wrong(w, "growing, perhaps elsewhere", (uint64_t)l->at, n);
			return;
		}
		l->at = p;
		l->pages = n;
		return;
	default:
		if (munmap(l->at, ragged(l->pages, r)))
			wrong(w, "unmapping", (uint64_t)l->at, l->pages);
		l->pages = 0;
	}
	if (!l->pages)
		l->at = NULL;
}

static void mappings(struct work *w, uint64_t *r)
{
	struct field *f = &w->field[below(r, FIELDS)];
	uint32_t none = 0;

	if (!atomic_compare_exchange_strong(&f->taken, &none, 1))
		return;
	atomic_fetch_add(&w->calls, 1);
	if (!f->at) {
		f->at = mmap(NULL, FIELD_PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (f->at == MAP_FAILED) {
			f->at = NULL;
			wrong(w, "reserving a field", 0, 0);
		}
		memset(f->page, ANONYMOUS, FIELD_PAGES);
	} else if (below(r, 12) == 0) {
		refuse_mapping(w, f, r);
	} else if (below(r, 2)) {
		within(w, f, r);
	} else {
		elsewhere(w, f, r);
	}
	atomic_store(&f->taken, 0);
}

/* ---- what the test calls ---- */

/* So many random calls on a table, which may be another module's. Returns how many things have been wrong in all. */
uint32_t work_run(struct work *w, uint64_t seed, uint64_t calls, uint64_t without)
{
	uint64_t r = seed * 0x9e3779b97f4a7c15ull + 1;
	uint32_t before = oracle_mark ? oracle_mark(1) : 0;

	if (!w)
		w = &own;
	for (uint64_t i = 0; i < calls; i++) {
		if (below(&r, 8) == 0 ? !(without & WITHOUT_MAPPINGS) : !!(without & WITHOUT_BLOCKS))
			mappings(w, &r);
		else if (!(without & WITHOUT_BLOCKS))
			blocks(w, &r, without);
	}
	if (oracle_mark)
		oracle_mark(before);
	return atomic_load(&w->wrong);
}

struct order {
	struct work *w;
	uint64_t seed, calls, without;
};

static void *obey(void *order)
{
	struct order o = *(struct order *)order;

	work_run(o.w, o.seed, o.calls, o.without);
	return NULL;
}

/* The same in a thread of which Python knows nothing. */
uint32_t work_foreign(struct work *w, uint64_t seed, uint64_t calls, uint64_t without)
{
	struct order o = {w, seed, calls, without};
	pthread_t thread;

	if (pthread_create(&thread, NULL, obey, &o) || pthread_join(thread, NULL))
		wrong(&own, "starting a thread", 0, 0);
	return atomic_load(&(w ? w : &own)->wrong);
}

/* Frees all that the table holds. Nobody else works on it. */
uint32_t work_end(struct work *w, uint64_t without)
{
	uint64_t r = 1;

	if (!w)
		w = &own;
	for (int i = 0; i < SLOTS; i++)
		if (w->slot[i].block)
			let_go(w, &w->slot[i], &r, without);
	for (int i = 0; i < FIELDS; i++) {
		struct field *f = &w->field[i];
		for (int n = 0; f->at && n < FIELD_PAGES; n++)
			if (f->page[n] != HOLE)
				munmap(f->at + n * PAGE, PAGE);
		for (int n = 0; n < LOOSE; n++)
			if (f->loose[n].at)
				munmap(f->loose[n].at, f->loose[n].pages * PAGE);
		memset(f, 0, sizeof *f);
	}
	return atomic_load(&w->wrong);
}

/* The dlopen that this module calls looks where this module says (RUNPATH). */
void *work_open(const char *name, int mode)
{
	void *handle = dlopen(name, mode);

	if (!handle)
		wrong(&own, dlerror(), 0, 0);
	return handle;
}

/* The same in a new link namespace, with a C library of its own. */
void *work_open_apart(const char *name)
{
	void *handle = dlmopen(LM_ID_NEWLM, name, RTLD_NOW);

	if (!handle)
		wrong(&own, dlerror(), 0, 0);
	return handle;
}

/*
 * Blocks that are freed by way of a pointer that no slot holds, and whose places serve others at once, in other sizes.
 * Returns how many were freed so.
 */
uint64_t work_unseen(uint64_t seed, uint64_t calls)
{
	/* The program's own may be its PLT, which goes through a slot. */
	void (*hidden)(void *) = (void (*)(void *))dlsym(dlopen("libc.so.6", RTLD_LAZY), "free");
	void *kept[64] = {0};
	uint64_t r = seed * 0x9e3779b97f4a7c15ull + 1, n = 0;

	for (uint64_t i = 0; i < calls; i++) {
		void **at = &kept[below(&r, 64)];
		if (*at && below(&r, 2)) {
			hidden(*at);
			n++;
		} else {
			free(*at);
		}
		*at = malloc(below(&r, 2) ? below(&r, 100) : 4000 + below(&r, 5000));
	}
	for (int i = 0; i < 64; i++)
		free(kept[i]);
	return n;
}

#ifdef DEPENDS
uint32_t DEPENDS(struct work *w, uint64_t seed, uint64_t calls, uint64_t without);

/* The same in a module that this one needs, and that is found by this one's RUNPATH only. */
uint32_t work_below(struct work *w, uint64_t seed, uint64_t calls, uint64_t without)
{
	return DEPENDS(w, seed, calls, without);
}
#endif
