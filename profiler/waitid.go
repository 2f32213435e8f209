package profiler

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// waitInfo is the part of siginfo_t that waitid fills.
type waitInfo struct {
	signo, errno, code, _ int32
	pid, uid, status      int32
	_                     [100]byte
}

// waitid asks about a child; unix.Siginfo has no names for what it answers.
func waitid(pid int, info *waitInfo, options uintptr) error {
	const pPid = 1
	_, _, errno := unix.Syscall6(unix.SYS_WAITID, pPid, uintptr(pid), uintptr(unsafe.Pointer(info)), options, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
