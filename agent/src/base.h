/*
 * base.h: what freestanding code needs: the tables' address, atomics, system calls, memory.
 */
#ifndef HT_BASE_H
#define HT_BASE_H

#include "abi.h"

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#define COLD static __attribute__((noinline, cold))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Placed by the linker script at their offsets from the image, so that code reaches them relative to itself. */
extern struct ht_tables ht_tables __attribute__((visibility("hidden")));
extern struct ht_flag ht_flag __attribute__((visibility("hidden")));

#define T (&ht_tables)
#define CFG (&ht_tables.config)

INLINE u8 *at(u64 offset) { return (u8 *)T + offset; }

#define LOAD(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define STORE(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define LOAD_ACQUIRE(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define STORE_RELEASE(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

/* Are the hooks to do anything? Not before all are in place, nor in a forked child. */
INLINE int active(void) { return LOAD(&ht_flag.active) != 0; }

/* Hides from the compiler that a value equals one it has seen, so that the next load does not wait for the last. */
#define FORGET(v) __asm__("" : "+r"(v))

/* Bytes of the target, at an address that is known to be live. */
INLINE u64 peek64(u64 a) { return *(const volatile u64 *)a; }
INLINE u32 peek32(u64 a) { return *(const volatile u32 *)a; }
/* Of what nobody else changes meanwhile. */
INLINE u64 read64(u64 a)
{
	typedef u64 __attribute__((may_alias)) any;
	return *(const any *)a;
}
INLINE u8 peek8(u64 a) { return *(const volatile u8 *)a; }

/* Tests hand out addresses where there is no memory. */
INLINE void poke64(u64 a, u64 v)
{
#ifndef HT_HOSTED
	*(u64 *)a = v;
#else
	(void)a, (void)v;
#endif
}

#ifndef HT_HOSTED
/* The compiler may call these for assignments and clears of its own. */
__attribute__((used)) static void *memcpy(void *to, const void *from, unsigned long n)
{
	u8 *d = to;
	const u8 *s = from;
	for (; n >= 8; d += 8, s += 8, n -= 8)
		__builtin_memcpy(d, s, 8);
	for (; n; n--)
		*d++ = *s++;
	return to;
}

__attribute__((used)) static void *memset(void *to, int c, unsigned long n)
{
	for (u8 *d = to; n; n--)
		*d++ = (u8)c;
	return to;
}
#else
#include <string.h>
#endif

static int same(const u8 *a, const u8 *b, u64 n)
{
	while (n && *a == *b)
		a++, b++, n--;
	return n == 0;
}

/* Takes `count` entries of a window and returns the first, or 0, which no window hands out, when it is full. */
static u64 take(struct ht_window *w, u64 count)
{
	if (LOAD(&w->next) + count > w->entries)
		return 0;
	u64 first = __atomic_fetch_add(&w->next, count, __ATOMIC_RELAXED);
	return first + count <= w->entries ? first : 0;
}

/* Takes n zeroed bytes, 64-byte aligned. Returns their offset from the tables, or 0. */
static u64 take_bytes(u64 n)
{
	u64 first = take(&T->arena, (n + 63) & ~63ull);
	return first ? T->arena.offset + first : 0;
}

#if defined(__x86_64__)
#include "cpu_amd64.h"
#elif defined(__aarch64__)
#include "cpu_arm64.h"
#else
#error "no such CPU"
#endif

/*
 * A system call of the agent's own. There are none once the process has set a seccomp filter, which may kill it for one:
 * whoever is about to set it says so, and waits until those that are being made are done. See filter.h.
 */
NOINLINE s64 system_call(s64 nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	s64 result = -38; /* ENOSYS */
	__atomic_fetch_add(&ht_flag.calling, 1, __ATOMIC_SEQ_CST);
	if (likely(!__atomic_load_n(&T->filtered, __ATOMIC_SEQ_CST)))
		result = kernel_call(nr, a, b, c, d, e, f);
	__atomic_fetch_sub(&ht_flag.calling, 1, __ATOMIC_SEQ_CST);
	return result;
}

enum { PAGE = 4096 };

#ifndef HT_HOSTED
enum { LOCK_SPINS = 20000 };
#else
enum { LOCK_SPINS = 2000000 }; /* a sanitizer is slow, and a test wants every name */
#endif

/* struct iovec of process_vm_readv and process_vm_writev. */
struct io_vector {
	u64 base;
	u64 length;
};

/*
 * A lock is never waited for beyond a bound: its holder may be a thread that the scheduler, or a tracer, keeps from
 * running.
 */
static int spin_lock(u32 *lock)
{
	for (u32 i = 0; i < LOCK_SPINS; i++) {
		u32 is = 0;
		if (__atomic_compare_exchange_n(lock, &is, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			return 1;
		relax();
	}
	return 0;
}

static void spin_unlock(u32 *lock) { STORE_RELEASE(lock, 0); }

enum { EFAULT = 14 };

static s64 self_copy(s64 nr, const void *mine, u64 theirs, u64 size)
{
	struct io_vector here = {(u64)mine, size}, there = {theirs, size};
	return system_call(nr, (u64)system_call(SYS_getpid, 0, 0, 0, 0, 0, 0), (u64)&here, 1, (u64)&there, 1, 0);
}

/* The word at an address that may not be there. */
static int read_word(u64 *to, u64 from) { return self_copy(SYS_process_vm_readv, to, from, sizeof *to) == sizeof *to; }

#endif
