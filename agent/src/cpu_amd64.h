/* cpu_amd64.h: thread pointer and system calls on x86-64. */

/* The TCB begins with its own address on glibc and musl (ELF TLS ABI, variant II). */
INLINE u64 thread_pointer(void)
{
	u64 v;
	__asm__("mov %%fs:0, %0" : "=r"(v));
	return v;
}

/* What a call passes in registers. */
#define REGISTER_ARGUMENTS u64 a, u64 b, u64 c, u64 d, u64 e, u64 f
#define THE_REGISTERS a, b, c, d, e, f

INLINE void relax(void) { __asm__ volatile("pause"); }

INLINE s64 kernel_call(s64 nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	s64 result;
	register u64 r10 __asm__("r10") = d;
	register u64 r8 __asm__("r8") = e;
	register u64 r9 __asm__("r9") = f;
	__asm__ volatile("syscall"
	                 : "=a"(result)
	                 : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
	                 : "rcx", "r11", "memory");
	return result;
}

/*
 * A signal handler, and how it returns. It is not C since a tracer that wants to unmap it must be able to tell by a thread's
 * stack that the thread will come back: exactly while the handler that was there before runs, the address of
 * ht_signal_chained stands there, and no copy of it is left behind. The restorer is what every libc's looks like.
 */
__asm__(".pushsection .text\n"
        ".globl ht_on_signal, ht_signal_chained, ht_signal_restore\n"
        ".hidden ht_on_signal, ht_signal_chained, ht_signal_restore\n"
        ".type ht_on_signal, @function\n"
        "ht_on_signal:\n"
        "	push %rdi\n"
        "	push %rsi\n"
        "	push %rdx\n"
        "	call ht_signal_write\n"
        "	pop %rdx\n"
        "	pop %rsi\n"
        "	pop %rdi\n"
        "	test %rax, %rax\n"
        "	jz 1f\n"
        "	sub $8, %rsp\n"
        "	call *%rax\n"
        "ht_signal_chained:\n"
        "	movq $0, -8(%rsp)\n"
        "	add $8, %rsp\n"
        "1:	ret\n"
        ".size ht_on_signal, . - ht_on_signal\n"
        ".type ht_signal_restore, @function\n"
        "ht_signal_restore:\n"
        "	movq $15, %rax\n"
        "	syscall\n"
        ".size ht_signal_restore, . - ht_signal_restore\n"
        ".popsection\n");

/* Relocations that fill a word with a symbol's address: R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT. */
INLINE int fills_slot(u32 type) { return type == 1 || type == 6 || type == 7; }

/* Is the word data, which the program may change? */
INLINE int in_data(u32 type) { return type == 1; }

enum {
	SYS_read = 0,
	SYS_write = 1,
	SYS_close = 3,
	SYS_mmap = 9,
	SYS_mprotect = 10,
	SYS_munmap = 11,
	SYS_sched_yield = 24,
	SYS_mremap = 25,
	SYS_madvise = 28,
	SYS_pwrite64 = 18,
	SYS_nanosleep = 35,
	SYS_getpid = 39,
	SYS_kill = 62,
	SYS_sigaltstack = 131,
	SYS_prctl = 157,
	SYS_gettid = 186,
	SYS_clock_gettime = 228,
	SYS_tgkill = 234,
	SYS_openat = 257,
	SYS_unlinkat = 263,
	SYS_prlimit64 = 302,
	SYS_seccomp = 317,
	SYS_process_vm_readv = 310,
	SYS_process_vm_writev = 311,
};
