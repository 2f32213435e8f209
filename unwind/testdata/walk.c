// A program whose stacks are worth walking: recursion, callbacks from libc, signal handlers on both kinds of stack, leaf
// functions, large and realigned frames, alloca, longjmp, first calls through the PLT, the vDSO. It prints a checksum.
#define _GNU_SOURCE
#include <alloca.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t sum;
static jmp_buf back;
static int repeat = 1;

__attribute__((noinline)) static uint64_t leaf(uint64_t x) { return x * 2862933555777941757u + 3037000493u; }

__attribute__((noinline)) static uint64_t deep(int n, uint64_t x) {
	if (n == 0)
		return leaf(x);
	return leaf(deep(n - 1, x + n)) ^ n;
}

__attribute__((noinline)) static uint64_t large(uint64_t x) {
	volatile char room[70000];
	room[x % sizeof room] = 1;
	return leaf(x) + room[(x + 1) % sizeof room] + deep(2, x);
}

__attribute__((noinline)) static uint64_t realigned(uint64_t x, int n) {
	volatile uint64_t row[8] __attribute__((aligned(64)));
	char *more = alloca(n);
	memset(more, 1, n);
	for (int i = 0; i < 8; i++)
		row[i] = leaf(x + i);
	return row[x & 7] + more[n - 1] + deep(1, x);
}

static int compare(const void *a, const void *b) {
	uint64_t x = leaf(*(const uint64_t *)a), y = leaf(*(const uint64_t *)b);
	return x < y ? -1 : x > y;
}

__attribute__((noinline)) static uint64_t sorted(uint64_t x) {
	uint64_t v[12];
	for (int i = 0; i < 12; i++)
		v[i] = leaf(x ^ i);
	qsort(v, 12, sizeof v[0], compare);
	return v[3];
}

static void handler(int sig) {
	sum += deep(3, sig);
	if (sig == SIGUSR1)
		raise(SIGUSR2); // nested, on the alternate stack that this one is on or not on
}

__attribute__((noinline)) static void jumps(int n) {
	if (n == 0)
		longjmp(back, 1);
	jumps(n - 1);
	sum++;
}

static void prepare(int sig, int flags) {
	struct sigaction a = {.sa_handler = handler, .sa_flags = flags};
	sigaction(sig, &a, 0);
}

static void work(uint64_t x) {
	sum += deep(12, x);
	sum += large(x);
	sum += realigned(x, 100);
	sum += sorted(x);
	if (setjmp(back) == 0)
		jumps(4);
	raise(SIGUSR1);
	raise(SIGUSR2);
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	clock_gettime(CLOCK_REALTIME, &now);
	char text[100];
	snprintf(text, sizeof text, "%s %g %p", "text", (double)x, (void *)&repeat);
	sum += strlen(text);
	free(realloc(malloc(100), 5000));
	getppid();
}

int main(int argc, char **argv) {
	if (argc > 1)
		repeat = atoi(argv[1]);
	static char alternate[65536];
	stack_t s = {.ss_sp = alternate, .ss_size = sizeof alternate};
	sigaltstack(&s, 0);
	prepare(SIGUSR1, SA_ONSTACK);
	prepare(SIGUSR2, 0);
	for (int i = 0; i < repeat; i++)
		work(i);
	return 0;
}
