package profiler

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// follow tells the agent to follow forked children, where the target may make the system calls that this takes. It
// returns what a user should know.
func (pl *placing) follow() []string {
	for nr, name := range map[uint64]string{
		unix.SYS_MMAP: "mmap", unix.SYS_MREMAP: "mremap", unix.SYS_MADVISE: "madvise", unix.SYS_MUNMAP: "munmap",
		unix.SYS_GETPID: "getpid",
	} {
		if ok, known := pl.plan.Allowed(nr); !ok || !known {
			return []string{fmt.Sprintf("forked children are not followed: the process's seccomp filter may not let %s through", name)}
		}
	}
	pl.header.Config.Follow = 1
	return nil
}
