package inferior

import (
	"fmt"
	"strings"
)

// syscallRun is the names of system calls with consecutive numbers.
type syscallRun struct {
	first uint64
	names string
}

// SyscallName is the name of a system call, "system call N" where it has none here.
func SyscallName(nr uint64) string {
	for _, run := range syscallRuns {
		if nr < run.first {
			break
		}
		if names := strings.Fields(run.names); nr-run.first < uint64(len(names)) {
			return names[nr-run.first]
		}
	}
	return fmt.Sprintf("system call %d", nr)
}
