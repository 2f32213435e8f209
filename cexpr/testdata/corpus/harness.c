#include "harness.h"

struct harness_call harness_call;
struct harness_result harness_result;
unsigned char harness_scratch[1 << 20] __attribute__((aligned(64)));

void *memcpy(void *to, const void *from, harness_word n)
{
	for (harness_word i = 0; i < n; i++)
		((volatile unsigned char *)to)[i] = ((const unsigned char *)from)[i];
	return to;
}

void *memset(void *to, int c, harness_word n)
{
	for (harness_word i = 0; i < n; i++)
		((volatile unsigned char *)to)[i] = c;
	return to;
}

static long raw(long number, long a, const void *b, long c)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

/* Here a debugger stops it. */
__attribute__((noinline)) void harness_ready(void)
{
	__asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) static void make_the_call(void)
{
	__asm__ volatile(
		"push %%rbp\n"
		"mov %%rsp, %%rbp\n"
		"and $-64, %%rsp\n"
		"fninit\n"
		"lea harness_call(%%rip), %%rbx\n"
		"mov 192(%%rbx), %%rcx\n" /* stack_bytes */
		"sub %%rcx, %%rsp\n"
		"lea 200(%%rbx), %%rsi\n"
		"mov %%rsp, %%rdi\n"
		"rep movsb\n"
		"movups 56(%%rbx), %%xmm0\n"
		"movups 72(%%rbx), %%xmm1\n"
		"movups 88(%%rbx), %%xmm2\n"
		"movups 104(%%rbx), %%xmm3\n"
		"movups 120(%%rbx), %%xmm4\n"
		"movups 136(%%rbx), %%xmm5\n"
		"movups 152(%%rbx), %%xmm6\n"
		"movups 168(%%rbx), %%xmm7\n"
		"mov 184(%%rbx), %%rax\n"
		"mov 8(%%rbx), %%rdi\n"
		"mov 16(%%rbx), %%rsi\n"
		"mov 24(%%rbx), %%rdx\n"
		"mov 32(%%rbx), %%rcx\n"
		"mov 40(%%rbx), %%r8\n"
		"mov 48(%%rbx), %%r9\n"
		"mov (%%rbx), %%r11\n"
		"call *%%r11\n"
		"lea harness_result(%%rip), %%rbx\n"
		"mov %%rax, (%%rbx)\n"
		"mov %%rdx, 8(%%rbx)\n"
		"movups %%xmm0, 16(%%rbx)\n"
		"movups %%xmm1, 32(%%rbx)\n"
		"fstpt 48(%%rbx)\n" /* an empty register stores a NaN */
		"fstpt 64(%%rbx)\n"
		"fninit\n"
		"mov %%rbp, %%rsp\n"
		"pop %%rbp\n"
		::: "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc",
		"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
		"xmm14", "xmm15");
}

static int transfer(long number, int fd, void *at, long n)
{
	for (long done = 0; done < n;) {
		long got = raw(number, fd, (char *)at + done, n - done);
		if (got <= 0)
			return 0;
		done += got;
	}
	return 1;
}

void corpus_fill(void) __attribute__((weak));

void harness_main(void)
{
	if (corpus_fill)
		corpus_fill();
	harness_ready();
	while (transfer(0, 0, &harness_call, 200) && harness_call.stack_bytes <= sizeof harness_call.stack &&
	       transfer(0, 0, harness_call.stack, harness_call.stack_bytes)) {
		make_the_call();
		transfer(1, 1, &harness_result, sizeof harness_result);
	}
	raw(60, 0, 0, 0);
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tand $-16, %rsp\n\tcall harness_main\n\thlt\n");
