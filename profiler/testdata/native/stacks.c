/*
 * stacks.c: blocks allocated below random chains of calls, each with the stack as libgcc's unwinder has it at the very
 * call. Frames of all kinds: small, large, of a size known at run time only, realigned, called back from libc, from Python.
 */
#define _GNU_SOURCE
#include <execinfo.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { NOTES = 8192, DEPTH = 400 };

static struct note {
	void *block;
	long frames;
	void *pc[DEPTH];
} notes[NOTES];
static int count;

static unsigned long long state;
static int (*python)(int);

static unsigned roll(unsigned n)
{
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)(state >> 33) % n;
}

static int chain(int depth);

__attribute__((noinline)) static int grab(void)
{
	struct note *n = &notes[count++ % NOTES];
	n->frames = backtrace(n->pc, DEPTH);
	switch (roll(4)) {
	case 0: n->block = calloc(3, 8 + roll(2000)); break;
	case 1: n->block = realloc(malloc(1 + roll(90)), 100 + roll(6000)); break;
	default: n->block = malloc(1 + roll(9000));
	}
	__asm__ volatile("" ::: "memory");
	return n->block != 0;
}

__attribute__((noinline)) static int small(int depth)
{
	int r = chain(depth - 1);
	__asm__ volatile("" ::: "memory");
	return r + 1;
}

__attribute__((noinline)) static int large(int depth)
{
	volatile char room[5000];
	room[depth] = 1;
	return chain(depth - 1) + room[depth];
}

__attribute__((noinline)) static int sized(int depth)
{
	char *room = __builtin_alloca(16 + roll(700));
	room[depth] = 1;
	__asm__ volatile("" : : "r"(room) : "memory");
	return chain(depth - 1) + room[depth];
}

__attribute__((noinline)) static int realigned(int depth)
{
	volatile char room[256] __attribute__((aligned(128)));
	room[depth] = 1;
	char *more = __builtin_alloca(16 + roll(100));
	__asm__ volatile("" : : "r"(more) : "memory");
	return chain(depth - 1) + room[depth];
}

static int sorting;
static int compare(const void *a, const void *b)
{
	int depth = sorting;
	sorting = 0;
	if (depth)
		chain(depth - 1);
	return *(const int *)a - *(const int *)b;
}

__attribute__((noinline)) static int called_back(int depth)
{
	int v[] = {3, 1, 2};
	sorting = depth;
	qsort(v, 3, sizeof *v, compare);
	return v[0];
}

static int signalled;
static void on_signal(int number)
{
	(void)number;
	chain(signalled - 1);
}

__attribute__((noinline)) static int interrupted(int depth)
{
	signalled = depth;
	raise(SIGUSR2);
	return 1;
}

__attribute__((noinline)) static int chain(int depth)
{
	if (depth <= 0)
		return grab();
	switch (roll(python ? 8 : 6)) {
	case 0: return large(depth) + 1;
	case 1: return sized(depth) + 1;
	case 2: return realigned(depth) + 1;
	case 3: return called_back(depth) + 1;
	case 4: return depth < 3 ? interrupted(depth) + 1 : small(depth) + 1;
	case 6: return python(depth - 1) + 1;
	default: return small(depth) + 1;
	}
}

int stacks_chain(int depth) { return chain(depth); }

int stacks_run(unsigned long long seed, int blocks, int (*back)(int))
{
	struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_NODEFER};
	sigaction(SIGUSR2, &a, 0);
	state = seed;
	python = back;
	for (int i = 0; i < blocks; i++)
		chain((int)roll(14));
	return count;
}

void *stacks_notes(void) { return notes; }
