/*
 * native.h: what stands in GOT slots: malloc and its family, mmap and its family, and the loader's functions.
 *
 * A hook does not know whose slot it was called through, and a process may have several functions of one name. So each
 * function has a few variants of its hook, one for each original. They are small; what is large is called.
 *
 * The calls of libc's own are not seen, but for those that it makes through slots of its own; and what an allocator
 * maps for itself within a call that is counted is its container, and not counted.
 */

#define REAL(function, v, type) ((type)LOAD(&T->native[function][v]))

/* The calling thread, if what it does now is to be recorded. */
INLINE struct ht_thread *native_thread(const u64 *fp)
{
	if (unlikely(inert()))
		return 0;
	struct ht_thread *t = thread_self();
	if (unlikely(!t || within(t, fp))) {
		pass_malloc(t);
		return 0;
	}
	loader_check(t, fp);
	return t;
}

/* The same; it is within an allocator from here on. */
NOINLINE struct ht_thread *native_enter(const u64 *fp)
{
	struct ht_thread *t = native_thread(fp);
	if (likely(t))
		depth_enter(t, fp);
	return t;
}

/* The outcome of a call that allocates. */
NOINLINE void *native_made(struct ht_thread *t, void *p, u64 size, const u64 *fp)
{
	if (likely(p))
		record(t, HT_NATIVE, (u64)p, size, fp);
	t->depth = 0;
	return p;
}

/* What follows a call that is given our frame, which a jump would have given up before. */
#define KEEP_FRAME __asm__ volatile("")

typedef void *(*native_malloc_function)(u64);
typedef void *(*native_calloc_function)(u64, u64);

/*
 * These two are called so much more often than the others that each is one piece, written so that the compiler sees which
 * way is taken.
 */
#define NATIVE_MAKES_HERE(call, size)                                                                               \
	if (unlikely(inert()))                                                                                       \
		return call;                                                                                         \
	struct ht_thread *t = thread_self();                                                                         \
	if (unlikely(!t || within(t, fp))) {                                                                         \
		pass_malloc(t);                                                                                      \
		return call;                                                                                         \
	}                                                                                                            \
	loader_check(t, fp);                                                                                         \
	depth_enter(t, fp);                                                                                          \
	void *p = call;                                                                                              \
	if (likely(p))                                                                                               \
		record(t, HT_NATIVE, (u64)p, size, fp);                                                              \
	t->depth = 0;                                                                                                \
	return p

NOINLINE void *native_malloc_recorded(u64 size, native_malloc_function real, const u64 *fp)
{
	NATIVE_MAKES_HERE(real(size), size);
}

NOINLINE void *native_calloc_recorded(u64 n, u64 size, native_calloc_function real, const u64 *fp)
{
	NATIVE_MAKES_HERE(real(n, size), n * size);
}

INLINE void *native_malloc(u64 size, u32 v)
{
	void *p = native_malloc_recorded(size, REAL(HT_N_MALLOC, v, native_malloc_function), HOOK_FRAME);
	KEEP_FRAME;
	return p;
}

INLINE void *native_calloc(u64 n, u64 size, u32 v)
{
	void *p = native_calloc_recorded(n, size, REAL(HT_N_CALLOC, v, native_calloc_function), HOOK_FRAME);
	KEEP_FRAME;
	return p;
}

/* The same for each function that allocates: straight on when nothing is to be recorded. */
#define NATIVE_MAKES(call, size)                                                                                    \
	const u64 *fp = HOOK_FRAME;                                                                                  \
	struct ht_thread *t = native_enter(fp);                                                                      \
	if (unlikely(!t))                                                                                            \
		return call;                                                                                         \
	void *p = native_made(t, call, size, fp);                                                                    \
	KEEP_FRAME;                                                                                                  \
	return p

INLINE void *native_aligned_alloc(u64 alignment, u64 size, u32 v)
{
	void *(*real)(u64, u64) = REAL(HT_N_ALIGNED_ALLOC, v, void *(*)(u64, u64));
	NATIVE_MAKES(real(alignment, size), size);
}

INLINE void *native_valloc(u64 size, u32 v)
{
	void *(*real)(u64) = REAL(HT_N_VALLOC, v, void *(*)(u64));
	NATIVE_MAKES(real(size), size);
}

INLINE void *native_pvalloc(u64 size, u32 v)
{
	void *(*real)(u64) = REAL(HT_N_PVALLOC, v, void *(*)(u64));
	NATIVE_MAKES(real(size), size);
}

INLINE int native_posix_memalign(void **out, u64 alignment, u64 size, u32 v)
{
	int (*real)(void **, u64, u64) = REAL(HT_N_POSIX_MEMALIGN, v, int (*)(void **, u64, u64));
	const u64 *fp = HOOK_FRAME;
	struct ht_thread *t = native_enter(fp);
	if (unlikely(!t))
		return real(out, alignment, size);
	int error = real(out, alignment, size);
	native_made(t, error ? 0 : *out, size, fp);
	return error;
}

/* The block is out of the map before the call, and back when it fails; see hook_realloc. */
NOINLINE struct ht_thread *native_resizes(u64 p, struct taken *k, const u64 *fp)
{
	struct ht_thread *t = native_thread(fp);
	if (unlikely(!t)) {
		if (p && active() && !thread_self())
			pass_free(0, p);
		return 0;
	}
	if (p)
		*k = take_out(t, p);
	depth_enter(t, fp);
	return t;
}

NOINLINE void *native_resized(struct ht_thread *t, u64 p, const struct taken *k, void *q, u64 size, const u64 *fp)
{
	if (unlikely(!q) && p && size) /* for no bytes, NULL says that p was freed */
		put_back(t, p, k);
	return native_made(t, q, size, fp);
}

INLINE void *native_realloc(u64 p, u64 size, u32 v)
{
	void *(*real)(u64, u64) = REAL(HT_N_REALLOC, v, void *(*)(u64, u64));
	const u64 *fp = HOOK_FRAME;
	struct taken k = {0, 0, 0};
	struct ht_thread *t = native_resizes(p, &k, fp);
	if (unlikely(!t))
		return real(p, size);
	void *q = native_resized(t, p, &k, real(p, size), size, fp);
	KEEP_FRAME;
	return q;
}

INLINE void *native_reallocarray(u64 p, u64 n, u64 size, u32 v)
{
	void *(*real)(u64, u64, u64) = REAL(HT_N_REALLOCARRAY, v, void *(*)(u64, u64, u64));
	const u64 *fp = HOOK_FRAME;
	struct taken k = {0, 0, 0};
	struct ht_thread *t = native_resizes(p, &k, fp);
	if (unlikely(!t))
		return real(p, n, size);
	void *q = real(p, n, size);
	/* What is too large is a failure, whatever it wraps to. */
	q = native_resized(t, p, &k, q, q || !n || !size ? n * size : 1, fp);
	KEEP_FRAME;
	return q;
}

/* The block at p is about to be freed. */
NOINLINE void native_frees(u64 p)
{
	if (unlikely(!p) || (CFG->sample_bytes && filter_skips((void *)p)) || unlikely(!active()))
		return;
	struct ht_thread *t = thread_self();
	if (unlikely(!t || t->depth)) {
		pass_free(t, p);
		return;
	}
	struct taken k = take_out(t, p);
	if (unlikely(CFG->temporary) && (s64)k.old < 0)
		count_temporary(t, p, k.old);
}

INLINE void native_free(u64 p, u32 v)
{
	native_frees(p);
	REAL(HT_N_FREE, v, void (*)(u64))(p);
}

INLINE void native_free_sized(u64 p, u64 size, u32 v)
{
	native_frees(p);
	REAL(HT_N_FREE_SIZED, v, void (*)(u64, u64))(p, size);
}

INLINE void native_free_aligned_sized(u64 p, u64 alignment, u64 size, u32 v)
{
	native_frees(p);
	REAL(HT_N_FREE_ALIGNED_SIZED, v, void (*)(u64, u64, u64))(p, alignment, size);
}

/* ---- mappings --------------------------------------------------------------------------------------------------- */

enum { ERRORS = 4096, MAP_FIXED = 0x10, MAP_ANONYMOUS = 0x20, MREMAP_DONTUNMAP = 4 };

INLINE int mapped(u64 p) { return p < -(u64)ERRORS; }

INLINE u64 native_mmap(u64 a, u64 size, u64 prot, u64 flags, u64 fd, u64 offset, u32 v)
{
	u64 (*real)(u64, u64, u64, u64, u64, u64) = REAL(HT_N_MMAP, v, u64(*)(u64, u64, u64, u64, u64, u64));
	const u64 *fp = HOOK_FRAME;
	struct ht_thread *t = native_enter(fp);
	if (unlikely(!t))
		return real(a, size, prot, flags, fd, offset);
	u64 p = real(a, size, prot, flags, fd, offset);
	if (mapped(p)) {
		/* It has taken the place of what was there; what is known there otherwise, was unmapped where we do not see it. */
		mapping_remove(t, p, size, 0);
		mapping_add(t, p, size, flags & MAP_ANONYMOUS ? HT_MAPPED : HT_FILE, fp);
	}
	t->depth = 0;
	return p;
}

/*
 * What is unmapped goes first, since another thread may get the addresses at once. The call fails for arguments that
 * are wrong: those are asked for first.
 */
INLINE int native_munmap(u64 a, u64 size, u32 v)
{
	int (*real)(u64, u64) = REAL(HT_N_MUNMAP, v, int (*)(u64, u64));
	struct ht_thread *t = native_enter(HOOK_FRAME);
	if (likely(t)) {
		if (size && a % PAGE == 0)
			mapping_remove(t, a, size, 0);
		t->depth = 0;
	}
	return real(a, size);
}

INLINE u64 native_mremap(u64 a, u64 old, u64 size, u64 flags, u64 to, u32 v)
{
	u64 (*real)(u64, u64, u64, u64, u64) = REAL(HT_N_MREMAP, v, u64(*)(u64, u64, u64, u64, u64));
	const u64 *fp = HOOK_FRAME;
	struct ht_thread *t = native_enter(fp);
	if (unlikely(!t))
		return real(a, old, size, flags, to);
	/* As munmap. What is to be moved is the mapping at the first address, whatever else there is of it. */
	struct parts parts = {0};
	u32 domain = mapping_domain(a);
	if (old && a % PAGE == 0 && !(flags & MREMAP_DONTUNMAP))
		mapping_remove(t, a, old, &parts);
	u64 p = real(a, old, size, flags, to);
	if (mapped(p)) {
		mapping_remove(t, p, size, 0); /* what a fixed one took the place of */
		if (domain)
			mapping_add(t, p, size, domain, fp);
	} else {
		parts_put_back(t, &parts);
	}
	t->depth = 0;
	return p;
}

/* ---- the loader ------------------------------------------------------------------------------------------------- */

enum { RTLD_DEEPBIND = 8 };

/* Nothing of ours is on the stack when a module is loaded: these end in a jump, which a test holds them to. */

INLINE u64 native_dlopen(u64 file, u64 mode, u32 v)
{
	loader_called(HOOK_FRAME, !!(mode & RTLD_DEEPBIND));
	return REAL(HT_N_DLOPEN, v, u64(*)(u64, u64))(file, mode);
}

INLINE u64 native_dlmopen(u64 space, u64 file, u64 mode, u32 v)
{
	loader_called(HOOK_FRAME, !!(mode & RTLD_DEEPBIND));
	return REAL(HT_N_DLMOPEN, v, u64(*)(u64, u64, u64))(space, file, mode);
}

INLINE int native_dlclose(u64 handle, u32 v)
{
	loader_called(HOOK_FRAME, 0);
	return REAL(HT_N_DLCLOSE, v, int (*)(u64))(handle);
}

INLINE u64 native_dlsym(u64 handle, u64 name, u32 v)
{
	u64 (*real)(u64, u64) = REAL(HT_N_DLSYM, v, u64(*)(u64, u64));
	loader_left(HOOK_FRAME);
	if (unlikely(sets_filters(handle, name)))
		return filter_symbol(real, handle, name);
	return real(handle, name);
}

INLINE u64 native_dlvsym(u64 handle, u64 name, u64 version, u32 v)
{
	loader_left(HOOK_FRAME);
	return REAL(HT_N_DLVSYM, v, u64(*)(u64, u64, u64))(handle, name, version);
}

/* ---- the interpreter's end --------------------------------------------------------------------------------------- */

INLINE int native_sigaction(int signal, u64 to, u64 from, u32 v)
{
	ending_look();
	return REAL(HT_N_SIGACTION, v, int (*)(int, u64, u64))(signal, to, from);
}

/* ---- a seccomp filter -------------------------------------------------------------------------------------------- */

/*
 * How many arguments they have depends on the first. What registers hold is passed on, and what the stack holds is not
 * touched, since it may be no argument: these end in a jump, too.
 */
typedef u64 (*any_function)(REGISTER_ARGUMENTS);

INLINE u64 native_prctl(REGISTER_ARGUMENTS, u32 v)
{
	filter_look(SYS_prctl, a);
	return REAL(HT_N_PRCTL, v, any_function)(THE_REGISTERS);
}

INLINE u64 native_syscall(REGISTER_ARGUMENTS, u32 v)
{
	filter_look(a, b);
	return REAL(HT_N_SYSCALL, v, any_function)(THE_REGISTERS);
}

/* ---- what slots hold: ht_native_malloc_0 and so on -------------------------------------------------------------- */

#define VARIANTS(m) m(0) m(1) m(2) m(3)

#define STUBS(v)                                                                                                    \
	ENTRY void *ht_native_malloc_##v(u64 n) { return native_malloc(n, v); }                                      \
	ENTRY void *ht_native_calloc_##v(u64 n, u64 size) { return native_calloc(n, size, v); }                      \
	ENTRY void *ht_native_realloc_##v(u64 p, u64 n) { return native_realloc(p, n, v); }                          \
	ENTRY void *ht_native_reallocarray_##v(u64 p, u64 n, u64 size) { return native_reallocarray(p, n, size, v); } \
	ENTRY void ht_native_free_##v(u64 p) { native_free(p, v); }                                                  \
	ENTRY int ht_native_posix_memalign_##v(void **p, u64 a, u64 n) { return native_posix_memalign(p, a, n, v); } \
	ENTRY void *ht_native_aligned_alloc_##v(u64 a, u64 n) { return native_aligned_alloc(a, n, v); }              \
	ENTRY void *ht_native_valloc_##v(u64 n) { return native_valloc(n, v); }                                      \
	ENTRY void *ht_native_pvalloc_##v(u64 n) { return native_pvalloc(n, v); }                                    \
	ENTRY void ht_native_free_sized_##v(u64 p, u64 n) { native_free_sized(p, n, v); }                            \
	ENTRY void ht_native_free_aligned_sized_##v(u64 p, u64 a, u64 n) { native_free_aligned_sized(p, a, n, v); }  \
	ENTRY u64 ht_native_mmap_##v(u64 a, u64 n, u64 prot, u64 flags, u64 fd, u64 offset)                          \
	{                                                                                                            \
		return native_mmap(a, n, prot, flags, fd, offset, v);                                                \
	}                                                                                                            \
	ENTRY int ht_native_munmap_##v(u64 a, u64 n) { return native_munmap(a, n, v); }                              \
	ENTRY u64 ht_native_mremap_##v(u64 a, u64 old, u64 n, u64 flags, u64 to)                                     \
	{                                                                                                            \
		return native_mremap(a, old, n, flags, to, v);                                                       \
	}                                                                                                            \
	ENTRY u64 ht_native_dlopen_##v(u64 file, u64 mode) { return native_dlopen(file, mode, v); }                  \
	ENTRY u64 ht_native_dlmopen_##v(u64 space, u64 file, u64 mode) { return native_dlmopen(space, file, mode, v); } \
	ENTRY int ht_native_dlclose_##v(u64 handle) { return native_dlclose(handle, v); }                            \
	ENTRY u64 ht_native_dlsym_##v(u64 handle, u64 name) { return native_dlsym(handle, name, v); }                \
	ENTRY u64 ht_native_dlvsym_##v(u64 handle, u64 name, u64 version) { return native_dlvsym(handle, name, version, v); } \
	ENTRY int ht_native_sigaction_##v(int signal, u64 to, u64 from) { return native_sigaction(signal, to, from, v); } \
	ENTRY u64 ht_native_prctl_##v(REGISTER_ARGUMENTS) { return native_prctl(THE_REGISTERS, v); }                  \
	ENTRY u64 ht_native_syscall_##v(REGISTER_ARGUMENTS) { return native_syscall(THE_REGISTERS, v); }

VARIANTS(STUBS)
