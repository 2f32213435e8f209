/* cpu_amd64.h: thread pointer and system calls on x86-64. */

/* The TCB begins with its own address on glibc and musl (ELF TLS ABI, variant II). */
INLINE u64 thread_pointer(void)
{
	u64 v;
	__asm__("mov %%fs:0, %0" : "=r"(v));
	return v;
}

INLINE void relax(void) { __asm__ volatile("pause"); }

INLINE s64 system_call(s64 nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
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

/* Relocations that fill a word with a symbol's address: R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT. */
INLINE int fills_slot(u32 type) { return type == 1 || type == 6 || type == 7; }

enum {
	SYS_mmap = 9,
	SYS_mprotect = 10,
	SYS_munmap = 11,
	SYS_sched_yield = 24,
	SYS_mremap = 25,
	SYS_madvise = 28,
	SYS_getpid = 39,
	SYS_prctl = 157,
	SYS_gettid = 186,
	SYS_tgkill = 234,
	SYS_process_vm_readv = 310,
	SYS_process_vm_writev = 311,
};
