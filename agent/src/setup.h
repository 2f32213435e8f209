/*
 * setup.h: run once in a borrowed thread, on the scratch region's stack, before anything is hooked. The image is mapped
 * and filled by then, within a reservation of the whole memory map; this puts the other parts in their places. Every system call is one that the tracer has found to be let through.
 */

enum {
	PROT_RW = 3,
	MAP_SHARED = 1,
	MAP_PRIVATE = 2,
	MAP_FIXED = 0x10,
	MAP_ANONYMOUS = 0x20,
	MAP_NORESERVE = 0x4000,
	MADV_WIPEONFORK = 18,
	MADV_DONTDUMP = 16,
	MFD_CLOEXEC = 1,
	MFD_NOEXEC_SEAL = 8,
};

/*
 * Maps the flag page and the tables of `size` bytes (shared memory from memfd_create, or, with
 * memfd = 0, anonymous). Returns 0, or -errno << 8 | the step that failed.
 */
ENTRY s64 ht_setup(u64 size, u64 memfd)
{
	static const char name[] = "heaptap";
	u64 flag = (u64)&ht_flag, tables = (u64)T;
	s64 r;

	/* The tables first: by their name a later heaptap finds what was left half done. */
	s64 fd = -1;
	u64 flags = MAP_SHARED | MAP_FIXED | MAP_NORESERVE;
	if (memfd) {
		fd = system_call(SYS_memfd_create, (u64)name, MFD_CLOEXEC | MFD_NOEXEC_SEAL, 0, 0, 0, 0);
		if (fd == -22 /* EINVAL: Linux before 6.3 */)
			fd = system_call(SYS_memfd_create, (u64)name, MFD_CLOEXEC, 0, 0, 0, 0);
		if (fd < 0)
			return fd * 256 - 1;
		r = system_call(SYS_ftruncate, (u64)fd, size, 0, 0, 0, 0);
		if (r < 0) {
			system_call(SYS_close, (u64)fd, 0, 0, 0, 0, 0);
			return r * 256 - 2;
		}
	} else {
		flags |= MAP_ANONYMOUS;
	}
	r = system_call(SYS_mmap, tables, size, PROT_RW, flags, (u64)fd, 0);
	if (memfd)
		system_call(SYS_close, (u64)fd, 0, 0, 0, 0, 0);
	if (r < 0)
		return r * 256 - 3;
	r = system_call(SYS_mmap, flag, 4096, PROT_RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1ull, 0);
	if (r < 0)
		return r * 256 - 4;
	r = system_call(SYS_madvise, flag, 4096, MADV_WIPEONFORK, 0, 0, 0);
	if (r < 0)
		return r * 256 - 5;
	system_call(SYS_madvise, tables, size, MADV_DONTDUMP, 0, 0, 0);
	return 0;
}
