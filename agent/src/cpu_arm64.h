/* cpu_arm64.h: thread pointer and system calls on arm64. */

INLINE u64 thread_pointer(void)
{
	u64 v;
	__asm__("mrs %0, tpidr_el0" : "=r"(v));
	return v;
}

/* What a call passes in registers. */
#define REGISTER_ARGUMENTS u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h
#define THE_REGISTERS a, b, c, d, e, f, g, h

INLINE void relax(void) { __asm__ volatile("yield"); }

INLINE s64 kernel_call(s64 nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	register s64 x8 __asm__("x8") = nr;
	register u64 x0 __asm__("x0") = a;
	register u64 x1 __asm__("x1") = b;
	register u64 x2 __asm__("x2") = c;
	register u64 x3 __asm__("x3") = d;
	register u64 x4 __asm__("x4") = e;
	register u64 x5 __asm__("x5") = f;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return (s64)x0;
}

/* See cpu_amd64.h. */
__asm__(".pushsection .text\n"
        ".globl ht_on_signal, ht_signal_chained, ht_signal_restore\n"
        ".hidden ht_on_signal, ht_signal_chained, ht_signal_restore\n"
        ".type ht_on_signal, %function\n"
        "ht_on_signal:\n"
        "	stp x29, x30, [sp, #-48]!\n"
        "	stp x0, x1, [sp, #16]\n"
        "	str x2, [sp, #32]\n"
        "	mov x29, sp\n"
        "	bl ht_signal_write\n"
        "	mov x3, x0\n"
        "	ldp x0, x1, [sp, #16]\n"
        "	ldr x2, [sp, #32]\n"
        "	cbz x3, ht_signal_chained\n"
        "	blr x3\n"
        "ht_signal_chained:\n"
        "	ldp x29, x30, [sp], #48\n"
        "	ret\n"
        ".size ht_on_signal, . - ht_on_signal\n"
        ".type ht_signal_restore, %function\n"
        "ht_signal_restore:\n"
        "	mov x8, #139\n"
        "	svc 0\n"
        ".size ht_signal_restore, . - ht_signal_restore\n"
        ".popsection\n");

/* Relocations that fill a word with a symbol's address: R_AARCH64_ABS64, R_AARCH64_GLOB_DAT, R_AARCH64_JUMP_SLOT. */
INLINE int fills_slot(u32 type) { return type == 257 || type == 1025 || type == 1026; }

/* Is the word data, which the program may change? */
INLINE int in_data(u32 type) { return type == 257; }

enum {
	SYS_unlinkat = 35,
	SYS_openat = 56,
	SYS_close = 57,
	SYS_read = 63,
	SYS_write = 64,
	SYS_pwrite64 = 68,
	SYS_clock_gettime = 113,
	SYS_prlimit64 = 261,
	SYS_nanosleep = 101,
	SYS_sched_yield = 124,
	SYS_kill = 129,
	SYS_tgkill = 131,
	SYS_sigaltstack = 132,
	SYS_prctl = 167,
	SYS_getpid = 172,
	SYS_gettid = 178,
	SYS_munmap = 215,
	SYS_mremap = 216,
	SYS_mmap = 222,
	SYS_mprotect = 226,
	SYS_madvise = 233,
	SYS_process_vm_readv = 270,
	SYS_process_vm_writev = 271,
	SYS_seccomp = 277,
};
