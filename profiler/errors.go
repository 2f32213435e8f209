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
