package ptrace

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/proc"
)

// StopKind is why a thread is stopped.
type StopKind uint8

// The kinds of stop.
const (
	Event   StopKind = iota + 1 // what Interrupt asked for, or a job's stop; also where a new thread begins
	Syscall                     // entry to or exit from a system call
	Signal                      // about to take Stop.Signal, which is only delivered by resuming with it
	Clone                       // has created the thread that EventMessage names
	Fork                        // likewise, a process
	Vfork                       // likewise, a process for whose exec or end it will wait
	Exec                        // has executed another program
	Exited                      // ended; Stop.Code is the status, or the signal where Stop.Killed
	Unasked                     // an event that was not asked for; resume
)

// Stop is what Wait saw. It has not been consumed: the kernel keeps it until the thread is resumed.
type Stop struct {
	Kind   StopKind
	Signal syscall.Signal // of a Signal stop, or the job's stop signal of an Event (SIGTRAP for none)
	Code   int
	Killed bool // Exited by a signal
}

// String says what happened, for errors.
func (s Stop) String() string {
	switch s.Kind {
	case Event:
		return fmt.Sprintf("event stop (%v)", s.Signal)
	case Syscall:
		return "system call stop"
	case Signal:
		return fmt.Sprintf("signal stop (%v)", s.Signal)
	case Clone:
		return "clone event"
	case Fork:
		return "fork event"
	case Vfork:
		return "vfork event"
	case Exec:
		return "exec event"
	case Exited:
		return "exit"
	}
	return fmt.Sprintf("event %#x", s.Code)
}

// waitInfo is the part of siginfo_t that waitid fills.
type waitInfo struct {
	signo, errno, code, _ int32
	pid, uid, status      int32
	_                     [100]byte
}

const (
	cldExited  = 1
	cldKilled  = 2
	cldDumped  = 3
	cldTrapped = 4
	pWaitPid   = 1 // P_PID
)

// Wait waits until the thread stops or ends. When ctx ends first it gives up with an error that wraps [ErrDeadline] and
// the context's; the thread then still runs, and stays seized. A thread that had ended is an Exited stop and is no
// longer traced.
func (t *Thread) Wait(ctx context.Context) (Stop, error) {
	s, err := t.poll(unix.WNOHANG)
	switch {
	case err != nil || s.Kind != 0:
	case unix.Gettid() != t.tracer.tid: // an OS thread that forked the target may ask, too, but would wait for ever
		err = ErrWrongThread
	case t.pidfd > 0:
		s, err = t.block(ctx)
	default:
		s, err = t.watch(ctx)
	}
	return s, t.fail("wait for", err)
}

// Expect prepares for waiting with as little delay as possible, for a thread that will be waited for often: the tracer
// then sleeps in waitid itself, which hands the processor over directly. (Measured for one borrowed system call: 60
// microseconds, against 70 to 180.) waitid has no time limit, and the runtime's signal handlers make the kernel restart
// it; but a restarted one looks anew at whether its pidfd is non-blocking, and so can be ended. Kernels before 6.9 have
// no pidfd of a thread: then Wait does without.
func (t *Thread) Expect() {
	if fd, err := unix.PidfdOpen(t.Tid, unix.PIDFD_THREAD); err == nil {
		t.pidfd = fd
		t.tracer.files = append(t.tracer.files, fd)
	}
}

// block waits in waitid.
func (t *Thread) block(ctx context.Context) (Stop, error) {
	ended := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(ended)
		unix.FcntlInt(uintptr(t.pidfd), unix.F_SETFL, unix.O_NONBLOCK)
		unix.Tgkill(os.Getpid(), t.tracer.tid, unix.SIGURG)
	})
	defer func() {
		if !cancel() {
			<-ended
			unix.FcntlInt(uintptr(t.pidfd), unix.F_SETFL, 0)
		}
	}()
	for {
		s, err := t.poll(0)
		if err == unix.EAGAIN {
			return Stop{}, fmt.Errorf("%w: %w", ErrDeadline, ctx.Err())
		}
		if err != nil || s.Kind != 0 {
			return s, err
		}
	}
}

// watch asks again and again. Between two questions it sleeps in rt_sigtimedwait for SIGCHLD, which the kernel sends to
// the very OS thread that traces, so that a stop mostly ends the sleep.
func (t *Thread) watch(ctx context.Context) (Stop, error) {
	for nap := firstNap; ; nap = min(2*nap, longestNap) {
		t.tracer.awaitChild(nap)
		if s, err := t.poll(unix.WNOHANG); err != nil || s.Kind != 0 {
			return s, err
		}
		if ctx.Err() != nil {
			return Stop{}, fmt.Errorf("%w: %w", ErrDeadline, ctx.Err())
		}
	}
}

const (
	firstNap   = 50 * time.Microsecond
	longestNap = 2 * time.Millisecond
)

// poll asks once. With WNOHANG, a zero Stop means that the thread runs; without, it waits, and a zero Stop means to ask
// again.
func (t *Thread) poll(wait uintptr) (Stop, error) {
	t.info = waitInfo{}
	options := unix.WSTOPPED | unix.WEXITED | unix.WNOWAIT | unix.WALL | unix.WNOTHREAD | wait
	var errno syscall.Errno
	if wait == unix.WNOHANG {
		_, _, errno = unix.RawSyscall6(unix.SYS_WAITID, pWaitPid, uintptr(t.Tid),
			uintptr(unsafe.Pointer(&t.info)), options, 0, 0)
	} else { // not raw: while this sleeps, others may need the processor
		_, _, errno = unix.Syscall6(unix.SYS_WAITID, unix.P_PIDFD, uintptr(t.pidfd),
			uintptr(unsafe.Pointer(&t.info)), options, 0, 0)
	}
	switch {
	case errno == unix.EINTR:
		return Stop{}, nil
	case errno == unix.ECHILD && unix.Gettid() != t.tracer.tid:
		return Stop{}, ErrWrongThread
	case errno == unix.ECHILD:
		return Stop{}, ErrGone
	case errno != 0:
		return Stop{}, errno
	case t.info.pid == 0:
		return Stop{}, nil
	}
	return t.classify(), nil
}

func (t *Thread) classify() Stop {
	status := int(t.info.status)
	switch t.info.code {
	case cldExited, cldKilled, cldDumped:
		killed := t.info.code != cldExited
		t.reap()
		return Stop{Kind: Exited, Code: status, Killed: killed}
	}
	sig := syscall.Signal(status & 0xff)
	switch event := status >> 8; {
	case event == unix.PTRACE_EVENT_STOP:
		return Stop{Kind: Event, Signal: sig, Code: status}
	case event == unix.PTRACE_EVENT_CLONE:
		return Stop{Kind: Clone, Signal: sig, Code: status}
	case event == unix.PTRACE_EVENT_FORK:
		return Stop{Kind: Fork, Signal: sig, Code: status}
	case event == unix.PTRACE_EVENT_VFORK:
		return Stop{Kind: Vfork, Signal: sig, Code: status}
	case event == unix.PTRACE_EVENT_EXEC:
		return Stop{Kind: Exec, Signal: sig, Code: status}
	case event != 0:
		return Stop{Kind: Unasked, Signal: sig, Code: status}
	case sig == unix.SIGTRAP|0x80:
		return Stop{Kind: Syscall, Code: status}
	}
	return Stop{Kind: Signal, Signal: sig, Code: status}
}

// reap takes the status of a thread that has ended, so that its zombie goes (or goes to its real parent). A process that
// this program has started itself would be gone for good then (wait_task_zombie, kernel/exit.c: it is not handed on to a
// parent that is of the tracer's own process), so its status is left for whoever waits for it.
func (t *Thread) reap() {
	if p, err := proc.Open(t.Tid); err == nil {
		if st, err := p.Stat(t.Tid); err == nil && st.Ppid == os.Getpid() {
			return
		}
	}
	options := uintptr(unix.WEXITED | unix.WNOHANG | unix.WALL)
	unix.RawSyscall6(unix.SYS_WAITID, pWaitPid, uintptr(t.Tid), 0, options, 0, 0)
}

// Stop interrupts a running thread and waits until it is stopped. Signals that are delivered first are let through: the
// thread is then stopped where its handler begins.
//
// Where the stop has made a system call answer EINTR, that is mended at once ([Regs.Cloak]), so that the thread goes on
// well whoever lets it go, be it the kernel because we are dead.
func (t *Thread) Stop(ctx context.Context) (Stop, error) {
	if err := t.Interrupt(); err != nil {
		return Stop{}, err
	}
	return t.Settle(ctx)
}

// Settle waits for the stop that [Thread.Interrupt] has asked for, or that a new thread begins with. Any other stop
// that comes first takes the request with it (the kernel clears it), so it is made again before the thread goes on.
func (t *Thread) Settle(ctx context.Context) (Stop, error) {
	for {
		s, err := t.Wait(ctx)
		if err != nil {
			return s, err
		}
		var sig syscall.Signal
		switch s.Kind {
		case Event, Syscall:
			return s, t.cloak()
		case Clone:
			// Within the system call, which is still to write its result: not a place where registers can be borrowed.
		case Exited:
			return s, t.fail("stop", ErrGone)
		case Signal:
			sig = s.Signal
		}
		if err := t.Interrupt(); err != nil {
			return s, err
		}
		if err := t.Resume(false, sig); err != nil {
			return s, err
		}
	}
}

// cloak mends the registers of a thread that has just stopped. Registers that cannot be read (a 32-bit thread's) are
// left alone.
func (t *Thread) cloak() error {
	if err := t.Regs(&t.regs); err != nil || !t.regs.Cloak() {
		return nil
	}
	return t.SetRegs(&t.regs)
}
