package call

import (
	"fmt"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/ptrace"
)

// RestoreError says that a thread could not be given back as it was: the one error that means harm to the target.
// A thread that ended meanwhile is not one.
type RestoreError struct {
	Tid int
	Err error
}

func (e *RestoreError) Error() string { return fmt.Sprintf("give back thread %d: %v", e.Tid, e.Err) }

func (e *RestoreError) Unwrap() error { return e.Err }

// FaultError says that borrowed code raised a fault, or SIGABRT. The thread is as it was before; what the code has
// written or locked stays so.
type FaultError struct {
	Tid    int
	Signal syscall.Signal
	PC     mem.Addr
	Addr   mem.Addr    // that it touched, for SIGSEGV and SIGBUS
	Regs   ptrace.Regs // at the fault; the code's stack is there until its Session ends
}

func (e *FaultError) Error() string {
	return fmt.Sprintf("borrowed code: %v at %v, touching %v", e.Signal, e.PC, e.Addr)
}

// TimeoutError says that borrowed code ran past its time limit and was abandoned where it stood. The thread is as it
// was before; what the code has written or locked stays so.
type TimeoutError struct {
	Tid   int
	Limit time.Duration
	PC    mem.Addr
	Regs  ptrace.Regs // where it stood; the code's stack is there until its Session ends
	Err   error       // the context's
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

// ExitedError says that a called function was about to end its thread or the process, or to execute another program.
// The system call was not made and the thread is as it was before, unless Ended. What the function did first stays done:
// exit(3) has run the exit handlers.
type ExitedError struct {
	Tid    int
	Nr     uint64 // of the system call: exit, exit_group, execve or execveat
	Status int    // of exit and exit_group
	// Ended: it was pthread_exit, and the thread has ended. When that is noticed the C library no longer counts it among
	// its threads, and would end the process with the last but one if it went on.
	Ended bool
	Regs  ptrace.Regs
}

func (e *ExitedError) Error() string {
	switch {
	case e.Ended:
		return fmt.Sprintf("borrowed code: has ended thread %d", e.Tid)
	case e.Nr == unix.SYS_EXIT:
		return fmt.Sprintf("borrowed code: was about to end thread %d (status %d)", e.Tid, e.Status)
	case e.Nr == unix.SYS_EXIT_GROUP:
		return fmt.Sprintf("borrowed code: was about to end the process (status %d)", e.Status)
	}
	return "borrowed code: was about to execute another program"
}

// LongjmpError says that a called function did not return but jumped out of the call, into code of the thread's own.
// That code has run since, so nothing can be undone: the thread goes on from there, with its own signal mask, and not
// from where it was interrupted.
type LongjmpError struct {
	Tid    int
	PC, SP mem.Addr // where it was when that was noticed
}

func (e *LongjmpError) Error() string {
	return fmt.Sprintf("borrowed code: left the call without returning; thread %d goes on at %v", e.Tid, e.PC)
}

// BusyError says that no thread was at a safe point within the time limit. Nothing was borrowed.
type BusyError struct {
	Limit   time.Duration
	Threads []BusyThread // as they were seen last
}

// BusyThread is a thread that Options.Busy had something against.
type BusyThread struct {
	Tid int
	Why string
}

func (e *BusyError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "no safe point within %v", e.Limit)
	for i, t := range e.Threads {
		if i == 3 && len(e.Threads) > 4 {
			fmt.Fprintf(&b, ", and %d more", len(e.Threads)-i)
			break
		}
		fmt.Fprintf(&b, "; thread %d is %s", t.Tid, t.Why)
	}
	return b.String()
}
