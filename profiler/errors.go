package profiler

import (
	"errors"
	"fmt"
)

// Errors on which callers branch; the command line turns each into a hint. Process errors (gone, reused, zombie) come
// from package proc, interpreter errors from package cpython, refusals of ptrace from package ptrace, all wrapped.
var (
	// ErrNotTracked: no agent of heaptap is mapped in the process.
	ErrNotTracked = errors.New("process is not tracked")
	// ErrBusy: another heaptap works on this target right now.
	ErrBusy = errors.New("another heaptap is at work on this process")
)

// OtherVersionError says that the agent in the target was put there by a heaptap with different tables.
type OtherVersionError struct {
	Pid        int
	Have, Want uint64 // fingerprints of the tables' layout
}

func (e *OtherVersionError) Error() string {
	return fmt.Sprintf("process %d is tracked by another version of heaptap (tables %016x, this one reads %016x)", e.Pid, e.Have, e.Want)
}

// RestoreError says that something borrowed from the target could not be given back. It wins over every other error.
type RestoreError struct {
	Pid  int
	What string
	Err  error
}

func (e *RestoreError) Error() string {
	return fmt.Sprintf("process %d was not fully restored: %s: %v", e.Pid, e.What, e.Err)
}

func (e *RestoreError) Unwrap() error { return e.Err }

// ErrIncomplete: an attach or detach was cut short, and its agent is still in the process.
var ErrIncomplete = errors.New("an earlier attach or detach was cut short")

// AddressSpaceError says that the process's limit on its address space (RLIMIT_AS) leaves no room for the tables.
type AddressSpaceError struct {
	Pid         int
	Limit, Used uint64 // bytes
}

func (e *AddressSpaceError) Error() string {
	return fmt.Sprintf("process %d may use %d MiB of address space and uses %d: no room for the tables", e.Pid, e.Limit>>20, e.Used>>20)
}

// SeccompError says that the process's seccomp filter forbids a system call that cannot be done without.
type SeccompError struct {
	Pid  int
	Call string
}

func (e *SeccompError) Error() string {
	return fmt.Sprintf("process %d may not call %s: its seccomp filter forbids it", e.Pid, e.Call)
}
