// A thread that loads a random value into every register it has (general, flags, x87, SSE, AVX, AVX-512 by XRSTOR, the
// red zone), spins, and compares. The first thread answers "check" with "checks N bad M" once at least one more check
// has been made since the last question.
#define _GNU_SOURCE
#include <cpuid.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

enum { gprs = 16, red = 16, image_size = 16384 };

struct state {
	uint64_t gpr[gprs]; // rax rbx rcx rdx rsi rdi rbp r8-r15, flags
	uint64_t red[red];
};

struct state want, got;
uint64_t spins, keep_rsp;
unsigned char want_x[image_size] __attribute__((aligned(64)));
unsigned char got_x[image_size] __attribute__((aligned(64)));
static volatile unsigned long checks, bad;
static volatile unsigned long handled;

// Between the two images nothing but this code touches the registers.
__attribute__((naked, noinline)) static void load_spin_store(void) {
	asm volatile(
		"push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
		"mov %rsp, keep_rsp(%rip)\n"
		"mov $-1, %eax; mov $-1, %edx\n"
		"xrstor64 want_x(%rip)\n"
		".set i, 0\n"
		".rept 16\n"
		"mov want+128+i(%rip), %rax; mov %rax, -128+i(%rsp)\n"
		".set i, i+8\n"
		".endr\n"
		"sub $128, %rsp; pushq want+120(%rip); popfq; lea 128(%rsp), %rsp\n"
		"mov want+0(%rip), %rax; mov want+8(%rip), %rbx; mov want+24(%rip), %rdx\n"
		"mov want+32(%rip), %rsi; mov want+40(%rip), %rdi; mov want+48(%rip), %rbp\n"
		"mov want+56(%rip), %r8; mov want+64(%rip), %r9; mov want+72(%rip), %r10\n"
		"mov want+80(%rip), %r11; mov want+88(%rip), %r12; mov want+96(%rip), %r13\n"
		"mov want+104(%rip), %r14; mov want+112(%rip), %r15\n"
		"mov spins(%rip), %rcx\n"
		"1: loop 1b\n"
		"mov want+16(%rip), %rcx\n"
		".rept 8000\n nop\n .endr\n"
		"mov %rax, got+0(%rip); mov %rbx, got+8(%rip); mov %rcx, got+16(%rip); mov %rdx, got+24(%rip)\n"
		"mov %rsi, got+32(%rip); mov %rdi, got+40(%rip); mov %rbp, got+48(%rip)\n"
		"mov %r8, got+56(%rip); mov %r9, got+64(%rip); mov %r10, got+72(%rip)\n"
		"mov %r11, got+80(%rip); mov %r12, got+88(%rip); mov %r13, got+96(%rip)\n"
		"mov %r14, got+104(%rip); mov %r15, got+112(%rip)\n"
		".set i, 0\n"
		".rept 16\n"
		"mov -128+i(%rsp), %rax; mov %rax, got+128+i(%rip)\n"
		".set i, i+8\n"
		".endr\n"
		"lea -128(%rsp), %rsp; pushfq; popq got+120(%rip); lea 128(%rsp), %rsp; cld\n"
		"mov $-1, %eax; mov $-1, %edx\n"
		"xsave64 got_x(%rip)\n"
		"fninit\n"
		"cmp %rsp, keep_rsp(%rip); je 2f; ud2; 2:\n"
		"pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
		"ret\n");
}

static uint64_t rnd(void) {
	static uint64_t x = 88172645463325252u;
	x ^= x << 13, x ^= x >> 7, x ^= x << 17;
	return x;
}

static void fill(unsigned char *p, size_t n) {
	for (size_t i = 0; i < n; i++)
		p[i] = rnd();
}

// fill_component fills the part of the image that feature i has, where the processor and kernel have it.
static void fill_component(int i, uint64_t xcr0) {
	unsigned size, offset, c, d;
	if (!(xcr0 >> i & 1))
		return;
	__cpuid_count(13, i, size, offset, c, d);
	fill(want_x + offset, size);
}

static void new_values(void) {
	unsigned lo, hi;
	asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	uint64_t xcr0 = lo | (uint64_t)hi << 32;
	memset(want_x, 0, sizeof want_x);
	asm volatile("xsave64 %0" : "+m"(want_x) : "a"(-1), "d"(-1));
	uint64_t use = 7; // x87, SSE, AVX
	for (int st = 0; st < 8; st++) { // valid x87 values: the explicit integer bit is set
		fill(want_x + 32 + 16 * st, 8);
		want_x[32 + 16 * st + 7] |= 0x80;
		want_x[32 + 16 * st + 8] = 0xff;
		want_x[32 + 16 * st + 9] = 0x3f;
	}
	want_x[4] = 0xff; // all x87 registers in use
	*(uint16_t *)(want_x + 2) = rnd() % 8 << 11;
	*(uint16_t *)(want_x + 0) = 0x037f & ~0x0300; // single precision
	*(uint32_t *)(want_x + 24) = 0x1f80 | (rnd() % 4) << 13;
	fill(want_x + 160, 256); // xmm
	fill_component(2, xcr0);
	for (int i = 5; i <= 7; i++)
		fill_component(i, xcr0);
	use |= xcr0 & 0xe0;
	*(uint64_t *)(want_x + 512) = use;
	*(uint64_t *)(want_x + 520) = 0;
	fill((unsigned char *)&want, sizeof want);
	want.gpr[15] = 0x202 | (rnd() & (0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x400 | 0x800)); // all but the trap flag
}

// differs compares what XRSTOR was given with what XSAVE found, but for the last instruction and data pointers.
static int differs(void) {
	if (memcmp(&want, &got, sizeof want))
		return 1;
	if (memcmp(want_x, got_x, 5) || memcmp(want_x + 24, got_x + 24, 4) || memcmp(want_x + 160, got_x + 160, 256))
		return 2;
	for (int st = 0; st < 8; st++)
		if (memcmp(want_x + 32 + 16 * st, got_x + 32 + 16 * st, 10))
			return 3;
	uint64_t use = *(uint64_t *)(want_x + 512);
	if ((*(uint64_t *)(got_x + 512) & use) != use)
		return 4;
	for (int i = 2; i < 8; i++) {
		unsigned size, offset, c, d;
		if (!(use >> i & 1))
			continue;
		__cpuid_count(13, i, size, offset, c, d);
		if (memcmp(want_x + offset, got_x + offset, size))
			return 10 + i;
	}
	return 0;
}

static int alternate;

static void *checker(void *p) {
	static char altstack[64 << 10];
	stack_t ss = {.ss_sp = altstack, .ss_size = sizeof altstack};
	if (alternate)
		sigaltstack(&ss, 0);
	for (;;) {
		new_values();
		memset(got_x, 0, sizeof got_x);
		spins = 2000 + rnd() % 20000;
		load_spin_store();
		int d = differs();
		if (d) {
			if (!bad++) {
				fprintf(stderr, "regs: difference %d at check %lu\n", d, checks);
				for (int i = 0; i < gprs; i++)
					if (want.gpr[i] != got.gpr[i])
						fprintf(stderr, "gpr %d: want %lx got %lx\n", i, want.gpr[i], got.gpr[i]);
				for (int i = 0; i < red; i++)
					if (want.red[i] != got.red[i])
						fprintf(stderr, "red zone %d: want %lx got %lx\n", i, want.red[i], got.red[i]);
			}
		}
		checks++;
	}
	return p;
}

static void on_alarm(int sig) { handled++; }

// check_in_handler has the checker inside a signal handler, on the alternate stack.
static void in_handler(int sig) { checker(0); }
static void *check_in_handler(void *p) {
	static char altstack[64 << 10];
	stack_t ss = {.ss_sp = altstack, .ss_size = sizeof altstack};
	struct sigaction sa = {.sa_handler = in_handler, .sa_flags = SA_ONSTACK};
	sigaltstack(&ss, 0);
	sigaction(SIGUSR1, &sa, 0);
	raise(SIGUSR1);
	return p;
}

int main(int argc, char **argv) {
	// "storm": a signal every half millisecond, on the checker's stack; "altstack": on another; "handler": no signals, but
	// the checker itself is in the handler of one, on an alternate stack.
	int handler = argc > 1 && !strcmp(argv[1], "handler");
	int storm = argc > 1 && !handler;
	alternate = argc > 1 && !strcmp(argv[1], "altstack");
	sigset_t alarm;
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	pthread_t t;
	pthread_create(&t, 0, handler ? check_in_handler : checker, 0);
	if (storm) {
		// SA_NODEFER: the checker's signal mask is the same inside the handler and outside.
		struct sigaction sa = {.sa_handler = on_alarm,
			.sa_flags = SA_RESTART | SA_NODEFER | (alternate ? SA_ONSTACK : 0)};
		sigaction(SIGALRM, &sa, 0);
		pthread_sigmask(SIG_BLOCK, &alarm, 0); // the checker takes them
		struct itimerval it = {{0, 500}, {0, 500}};
		setitimer(ITIMER_REAL, &it, 0);
	}
	puts("ready");
	fflush(stdout);
	char line[100];
	unsigned long last = 0;
	while (fgets(line, sizeof line, stdin)) {
		while (checks < last + 2)
			usleep(100);
		last = checks;
		printf("checks %lu bad %lu handled %lu\n", checks, bad, handled);
		fflush(stdout);
	}
	_exit(bad != 0);
}
