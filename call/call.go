// Package call borrows a thread of a running process: for a system call, for a call of any C function, or only to hold
// it still. Whatever it borrows is given back on every path, also when this process is killed.
//
// [Prepare] does all that can be done beforehand, [Plan.Borrow] stops a thread and hands a [Session] to a function, whose
// methods act in that thread: [Session.Syscall], [Session.Call], [Session.Map]. [Options] say which thread and when.
//
// # The protocol
//
// A borrowed thread must be able to restore itself, because its tracer may be killed between any two instructions. So
// the thread is never in a state that only a tracer could mend: it either has its own registers, or registers that,
// executed by themselves, end in rt_sigreturn(2) over a complete signal frame with everything it had.
//
//	before      place a "cave" in the target: a few instructions in the unused tail of an executable page
//	            (system call; rt_sigreturn; call a function), and a record of which thread is borrowed
//	stop        SEIZE, INTERRUPT, wait without consuming the stop
//	save        registers, extended state, signal mask; a restartable sequence resumes at its abort address
//	record      write into the cave: this thread, and the memory its frame and stack will have
//	frame       write the signal frame: a return address (the cave's rt_sigreturn), the saved state
//	commit      SETREGSET: program counter in the cave, stack pointer at the frame. From this one call on
//	            the thread completes by itself; before it nothing has changed
//	mask        block all signals but faults; the frame has the true mask and restores it
//	run         PTRACE_SYSCALL from stop to stop: one system call, or a function and then a marker system call
//	            at which we take over, so that rt_sigreturn, which would end an interrupted sleep with EINTR,
//	            only ever runs when we are dead. More commits may follow
//	give back   extended state, mask, INTERRUPT, the thread's raw registers, in this order; all read back and
//	            compared; frame memory and record cleared; detach. The kernel then decides itself whether an
//	            interrupted system call restarts; where it would have answered EINTR only because of the stop,
//	            it is told to decide anew
//
// A function is called like that: with its arguments in registers and below the frame, on an arena that was mapped for
// it by borrowed system calls (memory.go), with all signals held. It is watched from system call to system call, since it
// may try not to come back (escape.go); the processes that it makes are let go with the thread's mask (child.go).
//
// Nothing is ever written to the part of a stack that is in use. Frames live in memory given by [Session.UseMemory], or
// until then in pages of the thread's own stack that were never touched; where a thread has none, in the unused tail
// of a read-only page. No signal handler could run there in the instants between commit and mask: then the commit is a
// detour through the cave's shelter, which stays on the thread's stack until it has blocked signals, and so is the way
// back while the mask is restored.
//
// A tracer that was killed in the middle leaves its record. The next one finds it and first lets that thread finish,
// since two frames in one place would destroy each other; then it gives back what the other had mapped.
//
// doc/safety.md says what was tested, how often, and what cannot be undone.
package call

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// Options say which thread to borrow, when, and how.
type Options struct {
	// Timeout bounds the wait for a thread to stop and for a safe point, and each system call and call in it. 0 means
	// 10 seconds.
	Timeout time.Duration
	// Tid is the thread to borrow; 0 chooses the one least disturbed by it among those that Name admits.
	Tid int
	// Name is the name of the thread to borrow, where Tid is 0 and this is not empty.
	Name string

	// When is the instant to borrow a thread at. Safe needs Busy; without, it is Now.
	When When
	// Busy says why a stopped thread should not be borrowed where it stands ("in malloc"), "" if it may be. It runs with
	// the thread held, on the tracer's goroutine. Where it says why, the thread runs on for a short while and is looked at
	// again, and others are tried, until Timeout: then Borrow fails with a *[BusyError].
	Busy func(StoppedThread) (why string, err error)
	// Entry is the function of When Entry, EntrySize how many bytes its code has. A thread inside it is found by looking,
	// some hundred times a second, not by a breakpoint: of a function in which threads are rarely none may be found.
	Entry     mem.Addr
	EntrySize uint64
	// StopAll holds all other threads for as long as one is borrowed. None of them may be busy then, since a lock that a
	// stopped thread holds is held for ever.
	StopAll bool

	// Keep leaves what Session.Map gave to the process for good.
	Keep bool
	// Trace is told each step, with the thread held. nil: nobody is.
	Trace func(Step)
}

// When is the instant at which a thread may be borrowed.
type When uint8

// The values of When.
const (
	Safe  When = iota // where Busy says nothing against it
	Now               // wherever it stands
	Entry             // in the code of the function Options.Entry, whatever Busy says
)

const defaultTimeout = 10 * time.Second

func (o Options) orDefault() Options {
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	return o
}

// Plan is everything that could be prepared before stopping anything. It is good for many borrowings, one at a time,
// and for the program that the process ran when it was prepared: after an exec, borrowing fails with [ErrChanged].
type Plan struct {
	process  *proc.Process
	opts     Options
	memory   *proc.Mem
	cave     cave
	maps     []proc.Mapping
	stack    proc.Mapping // the first thread's
	shelf    mem.Addr     // dead bytes of a readable page with room for a frame, for threads without a usable stack; or 0
	left     region       // what a killed tracer had mapped for functions, or 0
	seccomp  seccompState
	features components
}

// Errors on which callers branch. They come wrapped, with the process.
var (
	ErrChanged     = errors.New("process has executed another program")
	ErrUnsupported = errors.New("not supported on this processor")
	ErrNoThread    = errors.New("no thread could be stopped")
)

// Prepare does all that can be done before stopping anything: it finds room for the cave and writes it, reads the
// mappings, and evaluates seccomp filters (for which alone it stops a thread, shortly, where there are any).
func Prepare(p *proc.Process, opts Options) (*Plan, error) {
	if !supported {
		return nil, fmt.Errorf("prepare process %d: %w", p.Pid, ErrUnsupported)
	}
	pl := &Plan{process: p, opts: opts.orDefault(), features: cpuComponents()}
	if err := pl.prepare(); err != nil {
		return nil, fmt.Errorf("prepare process %d: %w", p.Pid, err)
	}
	return pl, nil
}

// Settle lets a thread finish that a tracer, killed since, had borrowed: after it, what that tracer began is done or
// undone. It touches nothing where none was left, and writes nothing to a process in which none was ever borrowed.
func Settle(ctx context.Context, p *proc.Process, opts Options) error {
	if !supported {
		return nil
	}
	pl := &Plan{process: p, opts: opts.orDefault()}
	tails, err := pl.look()
	if err != nil {
		return fmt.Errorf("settle process %d: %w", p.Pid, err)
	}
	var ok bool
	if pl.cave, ok = findCave(pl.memory, tails); !ok {
		return nil
	}
	if err := pl.finishOrphan(ctx, &Report{}); err != nil {
		return fmt.Errorf("settle process %d: %w", p.Pid, err)
	}
	return nil
}

func (pl *Plan) prepare() error {
	tails, err := pl.look()
	if err != nil {
		return err
	}
	if pl.cave, err = placeCave(pl.memory, tails); err != nil {
		return err
	}
	pl.shelf = findShelf(tails, pl.cave)
	return pl.readSeccomp()
}

// look reads the mappings and finds the pages' tails.
func (pl *Plan) look() ([]tail, error) {
	var err error
	if pl.memory, err = pl.process.Mem(); err != nil {
		return nil, err
	}
	if pl.maps, err = pl.process.Maps(); err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(pl.maps, func(m proc.Mapping) bool { return m.Path == "[stack]" }); i >= 0 {
		pl.stack = pl.maps[i]
	}
	auxv, err := pl.process.Auxv()
	if err != nil {
		return nil, err
	}
	return findTails(pl.memory, pl.maps, auxv), nil
}

// Report says what borrowing cost and what was odd.
type Report struct {
	Tid     int           // the thread that was borrowed; 0 for Freeze
	Threads int           // how many were stopped
	Pause   time.Duration // the longest that any thread was held, from the request to stop to its release
	Notes   []string
}

// Borrow stops one thread, runs fn with it, gives everything back on every path and verifies that. fn runs on a
// goroutine of its own, which must make all calls of the Session. The target's other threads go on.
//
// The error is fn's, unless the thread could not be given back: then it is a *[RestoreError].
func (pl *Plan) Borrow(ctx context.Context, fn func(*Session) error) (Report, error) {
	report, err := pl.borrow(ctx, fn)
	if err != nil {
		err = fmt.Errorf("borrow thread of process %d: %w", pl.process.Pid, err)
	}
	return report, err
}

// BorrowAll is Borrow with every thread of the process stopped. fn sees where each of them stands, and may change
// where it goes on ([Session.Redirect]).
func (pl *Plan) BorrowAll(ctx context.Context, fn func(*Session, []StoppedThread) error) (Report, error) {
	report, err := pl.borrowAll(ctx, fn)
	if err != nil {
		err = fmt.Errorf("borrow all threads of process %d: %w", pl.process.Pid, err)
	}
	return report, err
}

// Freeze stops every thread while fn runs, runs nothing in the target, and lets them go.
func (pl *Plan) Freeze(ctx context.Context, fn func() error) (Report, error) {
	report, err := pl.freeze(ctx, fn)
	if err != nil {
		err = fmt.Errorf("freeze process %d: %w", pl.process.Pid, err)
	}
	return report, err
}
