// A program that tests act on. It says "ready", then answers each line of its input: see answer().
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct point { double x, y; };
struct pair { int first; long second; };
struct large { long values[5]; };
enum color { RED, GREEN = 5, BLUE };
typedef int (*binary)(int, int);

int counter = 41;
const char greeting[] = "hello, world";
double factor = 2.5;
struct point origin = {1.5, -2.5};
enum color paint = GREEN;
__thread int own = 7;
_Atomic unsigned word;
jmp_buf escape;

int add(int a, int b) { return a + b; }
static int subtract(int a, int b) { return a - b; }
binary operations[] = {add, subtract};
int apply(binary op, int a, int b) { return op(a, b); }
double scale(double v) { return v * factor; }
float half(float v) { return v / 2; }
long double widen(long double v) { return v * 2; }
struct point mirror(struct point p) { return (struct point){-p.x, -p.y}; }
struct pair make_pair(int a, long b) { return (struct pair){a, b}; }
struct large make_large(long base) { return (struct large){{base, base + 1, base + 2, base + 3, base + 4}}; }
long many(int a, int b, int c, int d, int e, int f, long g, long h) { return a + b + c + d + e + f + 10 * g + 100 * h; }
_Bool is_even(unsigned char v) { return v % 2 == 0; }
signed char narrow(short v) { return v; }
long sum(int n, ...)
{
	va_list ap;
	long total = 0;
	va_start(ap, n);
	for (int i = 0; i < n; i++)
		total += va_arg(ap, long);
	va_end(ap);
	return total;
}
int fail(void) { errno = ENOENT; return -1; }
void nothing(void) { counter++; }
char *say(char *out, size_t n) { snprintf(out, n, "said %d", counter); return out; }

void crash(void) { *(volatile int *)0 = 1; }
void illegal(void) { __asm__ volatile("ud2"); }
int divide(int a, int b) { return a / b; }
void stop_here(void) { __asm__ volatile("int3"); }
void leave(void) { exit(3); }
void end_thread(void) { pthread_exit(NULL); }
void jump(void) { longjmp(escape, 1); }
void forever(void) { for (;;) pause(); }
void spin(void) { for (;;) __asm__ volatile("pause"); }

// What the tests change: a function's code, one word and many.
__attribute__((noinline, aligned(64))) int constant(void) { __asm__ volatile("nop\n nop\n nop\n nop"); return 1111; }

// wait_for_byte blocks until a test writes into the pipe of the given descriptor.
static int gate[2];
__attribute__((noinline)) static void wait_for_byte(void)
{
	char c;
	while (read(gate[0], &c, 1) != 1)
		;
}

// An allocator of the program's own, which a test can have stand still in the middle.
static _Thread_local int halt;
#ifdef OWN_MALLOC
extern void *__libc_malloc(size_t);
void *malloc(size_t n)
{
	if (halt) {
		halt = 0;
		wait_for_byte();
	}
	return __libc_malloc(n);
}
#endif

static void on_signal(int signo) { (void)signo; wait_for_byte(); }

static void *in_malloc(void *arg) { halt = 1; void *volatile p = malloc(100); free(p); return arg; }
static void *in_stdio(void *arg)
{
	char line[64];
	FILE *f = fdopen(dup(gate[0]), "r");
	setvbuf(f, NULL, _IONBF, 0);
	volatile int c = fgetc(f);
	(void)c;
	(void)line;
	fclose(f);
	return arg;
}
static int each_module(struct dl_phdr_info *info, size_t n, void *data)
{
	(void)info, (void)n, (void)data;
	wait_for_byte();
	return 1;
}
static void *in_loader(void *arg) { dl_iterate_phdr(each_module, NULL); return arg; }
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static void *in_lock(void *arg) { pthread_mutex_lock(&mutex); pthread_mutex_unlock(&mutex); return arg; }
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void *in_once(void *arg) { pthread_once(&once, wait_for_byte); return arg; }
static void *in_handler(void *arg) { halt = 1; raise(SIGUSR1); halt = 0; return arg; }
static int compare(const void *a, const void *b) { (void)a, (void)b; wait_for_byte(); return 0; }
static void *in_callback(void *arg) { int two[2] = {2, 1}; qsort(two, 2, sizeof *two, compare); return arg; }
static void *in_read(void *arg) { wait_for_byte(); return arg; }
static atomic_int computing;
static void *in_busy(void *arg) { computing++; while (atomic_load(&word) != 0xdead) __asm__ volatile("pause"); return arg; }
static void *in_constant(void *arg)
{
	long changes = 0;
	int last = constant();
	computing++;
	while (atomic_load(&word) != 0xdead) {
		int now = constant();
		if (now != 1111 && now != 2222)
			abort();
		changes += now != last;
		last = now;
	}
	*(long *)arg = changes;
	return NULL;
}

static struct { const char *name; void *(*run)(void *); } states[] = {
	{"malloc", in_malloc}, {"stdio", in_stdio}, {"loader", in_loader}, {"lock", in_lock}, {"once", in_once},
	{"handler", in_handler}, {"callback", in_callback}, {"read", in_read}, {"busy", in_busy}, {"constant", in_constant},
};

static long argument;

static void enter(const char *name, int n)
{
	for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
		if (strcmp(states[i].name, name) != 0)
			continue;
		int want = computing + n;
		for (; n > 0; n--) {
			pthread_t t;
			pthread_create(&t, NULL, states[i].run, &argument);
			pthread_setname_np(t, name);
			pthread_detach(t);
		}
		if (states[i].run == in_busy || states[i].run == in_constant)
			while (computing < want)
				;
		printf("entered %s\n", name);
		return;
	}
	printf("no state %s\n", name);
}

// answer does what a line asks. "sum N" computes; "enter STATE [N]" starts threads; "open" lets one of them go on;
// "lock" and "unlock" are about what in_lock waits for.
static void answer(char *line)
{
	char name[32];
	long n = 1;
	if (sscanf(line, "sum %ld", &n) == 1) {
		long total = 0;
		for (long i = 1; i <= n; i++)
			total += i;
		printf("%ld\n", total);
	} else if (sscanf(line, "enter %31s %ld", name, &n) >= 1) {
		enter(name, n);
	} else if (strcmp(line, "open") == 0) {
		if (write(gate[1], "x", 1) == 1)
			printf("opened\n");
	} else if (strcmp(line, "lock") == 0) {
		pthread_mutex_lock(&mutex);
		printf("locked\n");
	} else if (strcmp(line, "unlock") == 0) {
		pthread_mutex_unlock(&mutex);
		printf("unlocked\n");
	} else if (strcmp(line, "call") == 0) {
		printf("%d %d %g %s\n", constant(), counter, scale(2), greeting);
	} else if (strcmp(line, "word") == 0) {
		printf("%#x %ld\n", atomic_load(&word), argument);
	} else {
		printf("what is %s?\n", line);
	}
}

// next_line reads without stdio, so that a thread that waits for input holds nothing of it.
static int next_line(char *out, size_t n)
{
	size_t used = 0;
	for (char c; used + 1 < n && read(0, &c, 1) == 1; out[used++] = c)
		if (c == '\n') {
			out[used] = 0;
			return 1;
		}
	return 0;
}

int main(void)
{
	char line[256] = "";
	volatile double v = 1;
	v = cos(v) + getpid() + strlen(line) + malloc_usable_size(NULL);
	(void)v;
	if (pipe(gate) != 0)
		return 1;
	signal(SIGUSR1, on_signal);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (setjmp(escape))
		printf("jumped\n");
	else
		printf("ready\n");
	while (next_line(line, sizeof line))
		answer(line);
	return 0;
}
