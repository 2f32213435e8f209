// Functions to be called in a running program: with all kinds of arguments and results, and such that go wrong. Its
// second thread computes and compares, inside a setjmp; the first answers "check" with "rounds N bad N jumped N exits N"
// once two more rounds have been made.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <unwind.h>

struct pair { long a, b; };
struct reals { double a, b; };
struct mixed { long a; double b; };
struct large { long v[5]; };

long ints(long a, long b, long c, long d, long e, long f, long g, long h, long i) {
	return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i;
}
double reals(double a, double b, double c, double d, double e, double f, double g, double h, double i, int n, float x) {
	return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i + n + x;
}
long double extended(long double x, double y) { return x * y; }
double variadic(int n, ...) {
	va_list l;
	va_start(l, n);
	double sum = 0;
	for (int i = 0; i < n; i++)
		sum += va_arg(l, int) * va_arg(l, double);
	va_end(l);
	return sum;
}
struct pair two_ints(long x) { return (struct pair){x + 1, x + 2}; }
struct reals two_reals(double x) { return (struct reals){x + 1, x + 2}; }
struct mixed int_and_real(long x) { return (struct mixed){x + 1, x + 0.5}; }
struct large in_memory(struct large l) {
	for (int i = 0; i < 5; i++)
		l.v[i] *= 2;
	return l;
}
int *where_errno(void) { return &errno; }
int fails(int e) {
	errno = e;
	return -1;
}
long self(void) { return syscall(SYS_gettid); }

// entered describes the state at its entry: the stack pointer's low bits, flags, MXCSR, x87 control and tag words.
__attribute__((naked)) long entered(uint64_t *out) {
	asm volatile(
		"mov %rsp, (%rdi); pushfq; popq 8(%rdi); stmxcsr 16(%rdi)\n"
		"sub $40, %rsp; fnstenv 8(%rsp); mov 8(%rsp), %rax; mov %rax, 24(%rdi)\n"
		"mov 16(%rsp), %rax; mov %rax, 32(%rdi); add $40, %rsp\n"
		"mov %rbp, %rax; ret\n");
}
// trashes leaves everything that a function may change changed, and x87 registers full.
__attribute__((naked)) long trashes(void) {
	asm volatile(
		"fld1; fldpi; fldl2t; fldlg2\n"
		"pcmpeqd %xmm0, %xmm0; pcmpeqd %xmm7, %xmm7; pcmpeqd %xmm15, %xmm15\n"
		"mov $-1, %rax; mov %rax, %rcx; mov %rax, %rsi; mov %rax, %rdi; mov %rax, %r8; mov %rax, %r9; mov %rax, %r10\n"
		"mov %rax, %r11; mov $77, %eax; stc; ret\n");
}
// deep uses about n KiB of stack.
long deep(long n) {
	volatile char pad[1000];
	memset((char *)pad, n, sizeof pad);
	return n ? deep(n - 1) + 1 + 0 * pad[n % 1000] : 0;
}

static jmp_buf env;
static sigjmp_buf sigenv;
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
static volatile long exits;
static pthread_key_t key;

int go_segv(void) { return *(volatile int *)16; }
int go_wild(void) { return ((int (*)(void))0x10)(); }
int go_ill(void) { __builtin_trap(); }
int go_fpe(void) {
	volatile int zero = 0;
	return 7 / zero;
}
int go_bus(void) {
	int fd = memfd_create("bus", 0);
	volatile char *p = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
	return p[0];
}
int go_abort(void) { abort(); }
#ifdef __GLIBC__
static struct _Unwind_Exception exception;
int go_throw(void) { // what a C++ throw does that nobody catches
	int r = _Unwind_RaiseException(&exception);
	if (r != _URC_END_OF_STACK)
		return r;
	abort();
}
#endif
int go_trap(void) { asm volatile("int3"); return 0; }
int go_raise(void) { return raise(SIGSEGV); }
long go_overflow(long n) {
	volatile char pad[1000];
	pad[n % 1000] = 1;
	return go_overflow(n + 1) + pad[0];
}
int go_exit(void) { exit(3); }
int go__exit(void) { _exit(4); }
int go_exit_thread(void) { return syscall(SYS_exit, 5); }
int go_pthread_exit(void) { pthread_exit(0); }
int go_longjmp(void) { longjmp(env, 1); }
int go_siglongjmp(void) { siglongjmp(sigenv, 1); }
int go_execve(void) { return execl("/bin/false", "false", (char *)0); }
int go_wait(void) {
	pause();
	return 1;
}
int go_lock(void) { return pthread_mutex_lock(&held); }
int go_spin(void) {
	for (;;)
		;
}
int go_calls(void) { // stands at the entry or exit of a system call mostly
	for (;;)
		syscall(SYS_getppid);
}
void go_until(volatile long *flag) {
	while (!*flag)
		;
}
int go_unblock(void) { // lets signals in
	sigset_t s;
	sigemptyset(&s);
	return pthread_sigmask(SIG_SETMASK, &s, 0);
}
int go_fork(void) { return fork(); }
int go_vfork(void) { return syscall(SYS_vfork); }
int go_reap(int pid) {
	int st = -1;
	return waitpid(pid, &st, 0) == pid ? st : -1;
}
int go_system(const char *s) { return system(s); }
int go_sleep(int ms) { return usleep(1000 * ms); }
static void *noop(void *p) { return p; }
int go_thread(void) {
	pthread_t t;
	return pthread_create(&t, 0, noop, 0) || pthread_join(t, 0);
}

static volatile unsigned long rounds, bad, jumped;
static unsigned long first_sum;

__attribute__((noinline)) static unsigned long compute(int n) {
	volatile unsigned long pad[64];
	double x = n, y = 0;
	unsigned long sum = n;
	for (int i = 0; i < 64; i++)
		pad[i] = sum = sum * 6364136223846793005u + 1;
	for (int i = 0; i < 20000; i++)
		x = x * 0.999 + i, y += x / 3;
	if (n)
		sum += compute(n - 1);
	for (int i = 0; i < 64; i++)
		sum ^= pad[i];
	return sum + (unsigned long)y;
}

static void *worker(void *p) {
	static int one;
	pthread_setspecific(key, &one);
	if (setjmp(env) || sigsetjmp(sigenv, 1))
		jumped++;
	for (;;) {
		unsigned long sum = compute(20);
		if (!first_sum)
			first_sum = sum;
		bad += sum != first_sum;
		rounds++;
		syscall(SYS_getppid);
	}
	return p;
}

static void at_exit(void) { exits++; }
static void at_thread_exit(void *p) { exits++; }

static volatile long handled;
static void on_usr1(int sig) { handled++; }

static void say(const char *s) {
	if (write(1, s, strlen(s)) < 0)
		_exit(3);
}

int main(void) {
	signal(SIGUSR1, on_usr1);
	pthread_mutex_lock(&held);
	pthread_key_create(&key, at_thread_exit);
	atexit(at_exit);
	pthread_t t;
	pthread_create(&t, 0, worker, 0);
	say("ready\n");
	char line[100];
	unsigned long last = 0;
	while (read(0, line, sizeof line) > 0) { // not stdio, which is not the same after a call of exit
		if (!strncmp(line, "ping", 4)) {
			say("ok\n");
			continue;
		}
		while (rounds < last + 2)
			usleep(100);
		last = rounds;
		snprintf(line, sizeof line, "rounds %lu bad %lu jumped %lu exits %ld\n", rounds, bad, jumped, exits);
		say(line);
	}
	_exit(bad != 0);
}
