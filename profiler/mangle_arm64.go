package profiler

// mangled is what glibc keeps in the place of a pointer that it will call (PTR_MANGLE in sysdeps/unix/sysv/linux/aarch64/
// pointer_guard.h).
func mangled(pointer, guard uint64) uint64 { return pointer ^ guard }
