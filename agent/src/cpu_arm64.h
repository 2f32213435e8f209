/* cpu_arm64.h: thread pointer and system calls on arm64. */

INLINE u64 thread_pointer(void)
{
	u64 v;
	__asm__("mrs %0, tpidr_el0" : "=r"(v));
	return v;
}

INLINE void relax(void) { __asm__ volatile("yield"); }

INLINE s64 system_call(s64 nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
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

/* Relocations that fill a word with a symbol's address: R_AARCH64_ABS64, R_AARCH64_GLOB_DAT, R_AARCH64_JUMP_SLOT. */
INLINE int fills_slot(u32 type) { return type == 257 || type == 1025 || type == 1026; }

enum {
	SYS_sched_yield = 124,
	SYS_tgkill = 131,
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
};
