/*
 * oracle.c: a counting allocator to be preloaded. It passes each call on to the next library's function and keeps, in a
 * mapping of its own, what is live: each block by its address, and each page range of a mapping. The test reads that
 * from outside, while the process stands still; struct oracle in native_oracle_test.go is the same as here.
 *
 * A block is taken out before it is really freed, and put in after it was really allocated, so that two threads never
 * hold the same address here. Mappings are changed under one lock, which is held during the system call. What an
 * allocator does within one of its functions is its own affair, and is not counted.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/mman.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAP_FAILED ((void *)-1) /* without sys/mman.h, whose declarations are other than the definitions here */
#define EXPORT __attribute__((visibility("default")))

enum { SHARDS = 64, PER_SHARD = 1 << 12, RANGES = 1 << 14, PAGE = 4096 };

struct block {
	uint64_t address; /* 0: free */
	uint64_t size;    /* as requested */
	uint64_t caller;  /* return address of the call */
	uint32_t era;     /* in which it was allocated */
	uint32_t mark;    /* what the calling thread said it is: oracle_mark */
};

struct range {
	uint64_t start, end;
	uint64_t caller;
	uint32_t era;
	uint32_t mark;
	uint64_t file; /* 1: backed by a file */
};

struct oracle {
	uint64_t era; /* the test adds to it */
	uint64_t lost;
	uint64_t unknown_frees; /* of blocks that are not here */
	uint64_t ranges;
	_Atomic uint32_t lock[SHARDS];
	_Atomic uint32_t ranges_lock;
	uint32_t pad;
	struct range range[RANGES];
	struct block block[SHARDS][PER_SHARD];
};

static _Atomic(struct oracle *) table;
static __thread int depth __attribute__((tls_model("initial-exec")));
static __thread uint32_t mark __attribute__((tls_model("initial-exec")));

static void lock(_Atomic uint32_t *l)
{
	uint32_t none;

	while (none = 0, !atomic_compare_exchange_weak(l, &none, 1))
		sched_yield();
}

static void unlock(_Atomic uint32_t *l) { atomic_store(l, 0); }

static struct oracle *oracle(void)
{
	struct oracle *o = atomic_load(&table), *none = NULL;

	if (o)
		return o;
	long a = syscall(SYS_mmap, 0, sizeof *o, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (a == -1)
		__builtin_trap();
	o = (struct oracle *)a;
	if (!atomic_compare_exchange_strong(&table, &none, o)) {
		syscall(SYS_munmap, o, sizeof *o);
		o = none;
	}
	return o;
}

EXPORT struct oracle *oracle_table(void) { return oracle(); }

/* What the calling thread allocates from now on is the workload's own. */
EXPORT uint32_t oracle_mark(uint32_t value)
{
	uint32_t before = mark;

	mark = value;
	return before;
}

/* ---- blocks ---- */

static uint32_t hash(uint64_t a) { return (uint32_t)((a >> 3) * 0x9e3779b97f4a7c15ull >> 40); }

/* Where the address stands in its shard, or the free place for it; PER_SHARD: full. */
static uint32_t place(struct block *shard, uint64_t a)
{
	uint32_t i = hash(a) / SHARDS % PER_SHARD;

	for (int n = 0; n < PER_SHARD; n++, i = (i + 1) % PER_SHARD)
		if (!shard[i].address || shard[i].address == a)
			return i;
	return PER_SHARD;
}

static void put(const struct block *b)
{
	struct oracle *o = oracle();
	uint32_t s = hash(b->address) % SHARDS;

	lock(&o->lock[s]);
	uint32_t i = place(o->block[s], b->address);
	if (i == PER_SHARD || o->block[s][i].address)
		atomic_fetch_add((_Atomic uint64_t *)&o->lost, 1); /* full, or an address that is live already */
	else
		o->block[s][i] = *b;
	unlock(&o->lock[s]);
}

static int take(uint64_t a, struct block *b)
{
	struct oracle *o = oracle();
	uint32_t s = hash(a) % SHARDS;
	struct block *shard = o->block[s];

	lock(&o->lock[s]);
	uint32_t i = place(shard, a);
	int found = i != PER_SHARD && shard[i].address;
	if (found) {
		*b = shard[i];
		/* Close the gap, so that those behind it are still found. */
		for (uint32_t j = (i + 1) % PER_SHARD; shard[j].address; j = (j + 1) % PER_SHARD) {
			uint32_t home = hash(shard[j].address) / SHARDS % PER_SHARD;
			if ((j - home) % PER_SHARD >= (j - i) % PER_SHARD) {
				shard[i] = shard[j];
				i = j;
			}
		}
		shard[i].address = 0;
	} else if (!depth) {
		atomic_fetch_add((_Atomic uint64_t *)&o->unknown_frees, 1);
	}
	unlock(&o->lock[s]);
	return found;
}

static void added(void *p, size_t size, void *caller)
{
	struct oracle *o = oracle();

	if (p)
		put(&(struct block){(uint64_t)p, size, (uint64_t)caller, (uint32_t)o->era, mark});
}

/* ---- the next library's functions ---- */

static struct {
	_Atomic(void *) malloc, calloc, realloc, reallocarray, free, posix_memalign, aligned_alloc, memalign, valloc, pvalloc,
		mmap, mmap64, munmap, mremap, free_sized, free_aligned_sized;
} next;

/* What dlsym itself asks for while it looks for the first functions. Never freed, and all zero. */
static _Alignas(16) char early[1 << 16];
static _Atomic size_t early_used;

static void *early_block(size_t size)
{
	size_t at = atomic_fetch_add(&early_used, (size + 31) & ~(size_t)15);

	if (at + size + 16 > sizeof early)
		__builtin_trap();
	return early + at;
}

static int is_early(void *p) { return (char *)p >= early && (char *)p < early + sizeof early; }

static __thread int resolving __attribute__((tls_model("initial-exec")));

static void *resolve(_Atomic(void *) *f, const char *name)
{
	void *p = atomic_load(f);

	if (!p) {
		resolving++;
		p = dlsym(RTLD_NEXT, name);
		resolving--;
		atomic_store(f, p);
	}
	return p;
}

#define NEXT(name) ((__typeof__(name) *)resolve(&next.name, #name))
#define CALLER __builtin_return_address(0)

EXPORT void *malloc(size_t);
EXPORT void *calloc(size_t, size_t);
EXPORT void *realloc(void *, size_t);
EXPORT void *reallocarray(void *, size_t, size_t);
EXPORT void free(void *);
EXPORT int posix_memalign(void **, size_t, size_t);
EXPORT void *aligned_alloc(size_t, size_t);
EXPORT void *memalign(size_t, size_t);
EXPORT void *valloc(size_t);
EXPORT void *pvalloc(size_t);
EXPORT void free_sized(void *, size_t);
EXPORT void free_aligned_sized(void *, size_t, size_t);
EXPORT void *mmap(void *, size_t, int, int, int, off_t);
EXPORT void *mmap64(void *, size_t, int, int, int, off_t);
EXPORT int munmap(void *, size_t);
EXPORT void *mremap(void *, size_t, size_t, int, ...);

/* One allocation: `call` within the allocator, then what came of it is put in. */
#define ALLOCATE(size, call)                          \
	({                                            \
		depth++;                              \
		void *p_ = (call);                    \
		depth--;                              \
		if (!depth)                           \
			added(p_, (size), CALLER);    \
		p_;                                   \
	})

void *malloc(size_t size)
{
	if (resolving)
		return early_block(size);
	return ALLOCATE(size, NEXT(malloc)(size));
}

void *calloc(size_t n, size_t size)
{
	if (resolving)
		return early_block(n * size);
	return ALLOCATE(n * size, NEXT(calloc)(n, size));
}

static void *change(void *p, size_t size, void *(*call)(void *, size_t, size_t), size_t n, void *caller)
{
	struct block b;

	if (is_early(p)) {
		void *q = malloc(size);
		if (q)
			memcpy(q, p, size < (size_t)(early + sizeof early - (char *)p) ? size : (size_t)(early + sizeof early - (char *)p));
		return q;
	}
	int known = p && !depth && take((uint64_t)p, &b);
	depth++;
	void *q = call(p, n, size);
	depth--;
	if (depth)
		return q;
	if (q)
		added(q, n * size, caller);
	else if (known && n * size != 0)
		put(&b); /* for no bytes, NULL says that p was freed */
	return q;
}

static void *call_realloc(void *p, size_t n, size_t size)
{
	(void)n;
	return NEXT(realloc)(p, size);
}

static void *call_reallocarray(void *p, size_t n, size_t size) { return NEXT(reallocarray)(p, n, size); }

void *realloc(void *p, size_t size) { return resolving ? early_block(size) : change(p, size, call_realloc, 1, CALLER); }

void *reallocarray(void *p, size_t n, size_t size)
{
	struct block b;
	size_t all;

	if (!__builtin_mul_overflow(n, size, &all))
		return change(p, size, call_reallocarray, n, CALLER);
	if (p && !depth && take((uint64_t)p, &b))
		put(&b); /* it stays, whatever n * size has come to */
	return NEXT(reallocarray)(p, n, size);
}

static void release(void *p)
{
	struct block b;

	if (!p || is_early(p))
		return;
	if (!depth)
		take((uint64_t)p, &b);
	depth++;
	NEXT(free)(p);
	depth--;
}

void free(void *p) { release(p); }

/* C23's, which the C library may not have: they are free, as it says. */
void free_sized(void *p, size_t size)
{
	(void)size;
	release(p);
}

void free_aligned_sized(void *p, size_t alignment, size_t size)
{
	(void)alignment;
	(void)size;
	release(p);
}

int posix_memalign(void **p, size_t alignment, size_t size)
{
	depth++;
	int e = NEXT(posix_memalign)(p, alignment, size);
	depth--;
	if (!e && !depth)
		added(*p, size, CALLER);
	return e;
}

void *aligned_alloc(size_t a, size_t size) { return ALLOCATE(size, NEXT(aligned_alloc)(a, size)); }
void *memalign(size_t a, size_t size) { return ALLOCATE(size, NEXT(memalign)(a, size)); }
void *valloc(size_t size) { return ALLOCATE(size, NEXT(valloc)(size)); }
void *pvalloc(size_t size) { return ALLOCATE(size, NEXT(pvalloc)(size)); }

/* ---- mappings ---- */

static uint64_t pages(uint64_t size) { return (size + PAGE - 1) & ~(uint64_t)(PAGE - 1); }

static void add_range(struct oracle *o, struct range r)
{
	if (o->ranges == RANGES)
		o->lost++;
	else
		o->range[o->ranges++] = r;
}

/* Whatever is in [start, end) is no more. */
static void cut(struct oracle *o, uint64_t start, uint64_t end)
{
	for (uint64_t i = 0; i < o->ranges; i++) {
		struct range *r = &o->range[i], tail = *r;
		if (r->end <= start || r->start >= end)
			continue;
		if (r->start < start && r->end > end) {
			tail.start = end;
			r->end = start;
			add_range(o, tail);
		} else if (r->start < start) {
			r->end = start;
		} else if (r->end > end) {
			r->start = end;
		} else {
			*r = o->range[--o->ranges];
			i--;
		}
	}
}

/* The range that a page is in. */
static struct range *range_at(struct oracle *o, uint64_t a)
{
	for (uint64_t i = 0; i < o->ranges; i++)
		if (o->range[i].start <= a && a < o->range[i].end)
			return &o->range[i];
	return NULL;
}

static void mapped(struct oracle *o, void *p, size_t size, int flags, void *caller)
{
	uint64_t start = (uint64_t)p, end = start + pages(size);

	if (p == MAP_FAILED)
		return;
	if (flags & MAP_FIXED)
		cut(o, start, end);
	add_range(o, (struct range){start, end, (uint64_t)caller, (uint32_t)o->era, mark, !(flags & MAP_ANONYMOUS)});
}

#define MAP(name)                                                                           \
	void *name(void *at, size_t size, int prot, int flags, int fd, off_t offset)        \
	{                                                                                   \
		struct oracle *o = oracle();                                                \
		__typeof__(mmap) *real = NEXT(name);                                        \
		if (depth)                                                                  \
			return real(at, size, prot, flags, fd, offset);                     \
		lock(&o->ranges_lock);                                                      \
		depth++;                                                                    \
		void *p = real(at, size, prot, flags, fd, offset);                          \
		depth--;                                                                    \
		int e = errno;                                                              \
		mapped(o, p, size, flags, CALLER);                                          \
		unlock(&o->ranges_lock);                                                    \
		errno = e;                                                                  \
		return p;                                                                   \
	}

MAP(mmap)
MAP(mmap64)

int munmap(void *p, size_t size)
{
	struct oracle *o = oracle();
	int (*real)(void *, size_t) = NEXT(munmap);

	if (depth)
		return real(p, size);
	lock(&o->ranges_lock);
	depth++;
	int failed = real(p, size);
	depth--;
	int e = errno;
	if (!failed)
		cut(o, (uint64_t)p, (uint64_t)p + pages(size));
	unlock(&o->ranges_lock);
	errno = e;
	return failed;
}

void *mremap(void *old, size_t old_size, size_t size, int flags, ...)
{
	va_list more;
	struct oracle *o = oracle();
	void *(*real)(void *, size_t, size_t, int, ...) = NEXT(mremap);

	va_start(more, flags);
	void *to = flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) ? va_arg(more, void *) : NULL;
	va_end(more);
	if (depth)
		return real(old, old_size, size, flags, to);
	lock(&o->ranges_lock);
	depth++;
	void *p = real(old, old_size, size, flags, to);
	depth--;
	int e = errno;
	if (p != MAP_FAILED) {
		struct range *was = range_at(o, (uint64_t)old), r = {0};
		if (was)
			r = *was;
		else
			r.file = 1; /* who knows */
		/* The era stays: what was mapped before is not known to be a file's or not, and so not tracked when it grows. */
		if (old_size && !(flags & MREMAP_DONTUNMAP))
			cut(o, (uint64_t)old, (uint64_t)old + pages(old_size));
		cut(o, (uint64_t)p, (uint64_t)p + pages(size));
		r.start = (uint64_t)p;
		r.end = r.start + pages(size);
		r.caller = (uint64_t)CALLER;
		r.mark = mark;
		add_range(o, r);
	}
	unlock(&o->ranges_lock);
	errno = e;
	return p;
}
