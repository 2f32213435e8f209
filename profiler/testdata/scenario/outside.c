/*
 * What the programs of the scenario tests do outside Python. Loaded with ctypes, as PyDLL where the GIL is to be kept
 * and as CDLL where it is to be given away. It is built once for all interpreters: CPython's functions are declared
 * here as the stable ABI has them, and come from the process.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *PyMem_RawMalloc(size_t), *PyMem_RawCalloc(size_t, size_t), *PyMem_RawRealloc(void *, size_t);
extern void *PyMem_Malloc(size_t), *PyMem_Calloc(size_t, size_t), *PyMem_Realloc(void *, size_t);
extern void *PyObject_Malloc(size_t), *PyObject_Calloc(size_t, size_t), *PyObject_Realloc(void *, size_t);
extern void PyMem_RawFree(void *), PyMem_Free(void *), PyObject_Free(void *);
extern int PyGILState_Ensure(void);
extern void PyGILState_Release(int);
extern void *PyObject_CallObject(void *, void *);
extern void Py_DecRef(void *);
extern int Py_FinalizeEx(void);

/* In the order of FUNCTIONS in programs.py. */
enum function {
	RAW_MALLOC, RAW_CALLOC, RAW_REALLOC, MEM_MALLOC, MEM_CALLOC, MEM_REALLOC, OBJ_MALLOC, OBJ_CALLOC, OBJ_REALLOC,
	MALLOC, CALLOC, REALLOC, REALLOCARRAY, POSIX_MEMALIGN, ALIGNED_ALLOC, MEMALIGN, VALLOC, PVALLOC, MMAP,
};

void *allocate(enum function what, size_t size)
{
	void *p = NULL;

	switch (what) {
	case RAW_MALLOC: return PyMem_RawMalloc(size);
	case RAW_CALLOC: return PyMem_RawCalloc(1, size);
	case RAW_REALLOC: return PyMem_RawRealloc(PyMem_RawMalloc(8), size);
	case MEM_MALLOC: return PyMem_Malloc(size);
	case MEM_CALLOC: return PyMem_Calloc(size, 1);
	case MEM_REALLOC: return PyMem_Realloc(PyMem_Malloc(8), size);
	case OBJ_MALLOC: return PyObject_Malloc(size);
	case OBJ_CALLOC: return PyObject_Calloc(1, size);
	case OBJ_REALLOC: return PyObject_Realloc(PyObject_Malloc(8), size);
	case MALLOC: return malloc(size);
	case CALLOC: return calloc(1, size);
	case REALLOC: return realloc(malloc(8), size);
	case REALLOCARRAY: return reallocarray(NULL, size, 1);
	case POSIX_MEMALIGN: return posix_memalign(&p, 256, size) ? NULL : p;
	case ALIGNED_ALLOC: return aligned_alloc(64, size);
	case MEMALIGN: return memalign(1024, size);
	case VALLOC: return valloc(size);
	case PVALLOC: return pvalloc(size);
	case MMAP:
		p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		return p == MAP_FAILED ? NULL : p;
	}
	return NULL;
}

void release(enum function what, void *p, size_t size)
{
	if (what <= RAW_REALLOC)
		PyMem_RawFree(p);
	else if (what <= MEM_REALLOC)
		PyMem_Free(p);
	else if (what <= OBJ_REALLOC)
		PyObject_Free(p);
	else if (what < MMAP)
		free(p);
	else
		munmap(p, size);
}

void *resize(enum function what, void *p, size_t size)
{
	return what <= RAW_REALLOC ? PyMem_RawRealloc(p, size) : realloc(p, size);
}

/*
 * Plays a score: a capital letter allocates a block, the small one frees it. Nothing else is allocated in between, which
 * no Python code could promise.
 */
static void *notes[26];

void play(const char *score, enum function what, size_t size)
{
	for (; *score; score++)
		if (*score <= 'Z')
			notes[*score - 'A'] = allocate(what, size);
		else
			release(what, notes[*score - 'a'], size);
}

/* Threads that are not Python's. */

struct work {
	enum function what;
	size_t size;
	int times;
};

static void *do_work(void *argument)
{
	struct work *w = argument;

	for (int i = 0; i < w->times; i++)
		if (!allocate(w->what, w->size))
			abort();
	return NULL;
}

void in_threads(int threads, enum function what, size_t size, int times)
{
	struct work w = {what, size, times};
	pthread_t t[threads];

	for (int i = 0; i < threads; i++)
		if (pthread_create(&t[i], NULL, do_work, &w))
			abort();
	for (int i = 0; i < threads; i++)
		pthread_join(t[i], NULL);
}

static void *call_back(void *callable)
{
	int state = PyGILState_Ensure();
	void *result = PyObject_CallObject(callable, NULL);

	if (!result)
		abort();
	Py_DecRef(result);
	PyGILState_Release(state);
	return NULL;
}

/* Calls a Python function in a thread that Python has not seen before. The caller must not hold the GIL. */
void in_foreign_thread(void *callable)
{
	pthread_t t;

	if (pthread_create(&t, NULL, call_back, callable))
		abort();
	pthread_join(t, NULL);
}

/* A block that a thread allocates when it ends, in the destructor of a key; and one in the destructor's second round. */

struct last {
	struct work work;
	int rounds;
};

static pthread_key_t ends;

static void at_end(void *argument)
{
	struct last *l = argument;

	if (!allocate(l->work.what, l->work.size))
		abort();
	if (--l->rounds)
		pthread_setspecific(ends, l);
}

__attribute__((constructor)) static void make_key(void)
{
	if (pthread_key_create(&ends, at_end))
		abort();
}

void at_thread_end(enum function what, size_t size)
{
	static struct last lasts[16];
	static int used;
	struct last *l = &lasts[__atomic_fetch_add(&used, 1, __ATOMIC_RELAXED)];

	*l = (struct last){{what, size, 1}, 2};
	pthread_setspecific(ends, l);
}

static void *end_now(void *argument)
{
	struct work *w = argument;

	at_thread_end(w->what, w->size);
	return NULL;
}

void in_ending_thread(enum function what, size_t size)
{
	struct work w = {what, size, 1};
	pthread_t t;

	if (pthread_create(&t, NULL, end_now, &w))
		abort();
	pthread_join(t, NULL);
}

static void hear(int from)
{
	char c;

	while (read(from, &c, 1) != 1)
		if (errno != EINTR)
			abort();
}

static void say(int to)
{
	while (write(to, "", 1) != 1)
		if (errno != EINTR)
			abort();
}

/* Says that it waits, until there is a byte to read; allocates, says so, and waits again. */
void wait_and_allocate(int from, int to, enum function what, size_t size)
{
	say(to);
	hear(from);
	if (!allocate(what, size))
		abort();
	say(to);
	hear(from);
}

void end_at_once(int code, int finalize)
{
	if (finalize)
		Py_FinalizeEx();
	_exit(code);
}

/*
 * Pages that are mapped and given back in parts. A score is read in threes: "+BD" maps the pages B to D, "-CE" gives C to
 * E back, which need not be what was mapped in one piece. It tells how often a call failed. In between the place is kept,
 * so that nobody else gets what is in it: by system calls, which no hook sees.
 */
static char *pages;
static const size_t page = 4096;

int keep_pages(void)
{
	long p = syscall(SYS_mmap, pages, 26 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | (pages ? MAP_FIXED : 0), -1, 0L);

	if (p != -1)
		pages = (char *)p;
	return p == -1;
}

int map_and_unmap(const char *score)
{
	int failed = 0;

	for (; *score; score += 3) {
		char *from = pages + (score[1] - 'A') * page;
		size_t length = (size_t)(score[2] - score[1] + 1) * page;

		if (*score == '-')
			failed += munmap(from, length) != 0;
		else
			failed += mmap(from, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != from;
	}
	return failed;
}

/* Loads a library without the GIL, in a thread that is not Python's, and has it allocate. */
struct loading {
	const char *path;
	const char *function;
	size_t size;
	int failed;
};

static void *load_now(void *argument)
{
	struct loading *l = argument;
	void *library = dlopen(l->path, RTLD_NOW | RTLD_LOCAL);
	void *(*function)(size_t) = NULL;

	if (library)
		*(void **)&function = dlsym(library, l->function);
	l->failed = !function || !function(l->size);
	return NULL;
}

int load_in_thread(const char *path, const char *function, size_t size)
{
	struct loading l = {path, function, size, 0};
	pthread_t t;

	if (pthread_create(&t, NULL, load_now, &l))
		return 1;
	pthread_join(t, NULL);
	return l.failed;
}
