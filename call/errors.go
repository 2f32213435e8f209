package call

import (
	"fmt"
	"syscall"
	"time"

	"github.com/heaptap/heaptap/mem"
)

// RestoreError says that a thread could not be given back as it was: the one error that means harm to the target.
// A thread that ended meanwhile is not one.
type RestoreError struct {
	Tid int
	Err error
}

func (e *RestoreError) Error() string { return fmt.Sprintf("give back thread %d: %v", e.Tid, e.Err) }

func (e *RestoreError) Unwrap() error { return e.Err }

// FaultError says that borrowed code raised a fault; it was undone.
type FaultError struct {
	Tid    int
	Signal syscall.Signal
	PC     mem.Addr
	Addr   mem.Addr // that it touched, for SIGSEGV and SIGBUS
}

func (e *FaultError) Error() string {
	return fmt.Sprintf("borrowed code: %v at %v, touching %v", e.Signal, e.PC, e.Addr)
}

// TimeoutError says that borrowed code ran past its time limit; it was undone where it stood.
type TimeoutError struct {
	Tid   int
	Limit time.Duration
	PC    mem.Addr
	Err   error // the context's
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("borrowed code: not done after %v, at %v: %v", e.Limit, e.PC, e.Err)
}

func (e *TimeoutError) Unwrap() error { return e.Err }

// SeccompError says that the target's seccomp filters would not let a system call through, so it was not made.
type SeccompError struct{ Nr uint64 }

func (e *SeccompError) Error() string {
	return fmt.Sprintf("system call %d: the target's seccomp filter forbids it", e.Nr)
}

// NoPlaceError says that there is no memory for a first signal frame: the thread's stack is not one that is known, or
// was used to its end, and no read-only page has room either.
type NoPlaceError struct{ Tid int }

func (e *NoPlaceError) Error() string {
	return fmt.Sprintf("thread %d: no memory for a signal frame", e.Tid)
}
