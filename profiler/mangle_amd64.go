package profiler

import "math/bits"

// mangled is what glibc keeps in the place of a pointer that it will call (PTR_MANGLE in sysdeps/unix/sysv/linux/x86_64/
// pointer_guard.h): in the list of what is to be done at exit, and in a jmp_buf, where the frame pointer is one as well.
func mangled(pointer, guard uint64) uint64 { return bits.RotateLeft64(pointer^guard, 0x11) }
