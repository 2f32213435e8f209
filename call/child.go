package call

import (
	"context"
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/ptrace"
)

// A process that a called function makes has the thread's signal mask, which blocks everything during a call, and hands it
// on to what it executes. So it is seized where it begins, given the thread's own mask, and let go. A vfork's child, which
// is what posix_spawn and system make, sets its parent's mask itself before it executes something: it is let go when it has.
// The thread stands meanwhile, as vfork has it.

// traceChildren has the kernel stop the children that the thread makes.
func (s *Session) traceChildren() error {
	if s.tracing {
		return nil
	}
	s.tracing = true
	return s.thread.SetOptions(s.baseOptions() | ptrace.TraceFork | ptrace.TraceVfork)
}

// baseOptions are those that the thread was seized with.
func (s *Session) baseOptions() ptrace.Option {
	if s.world != nil {
		return ptrace.TraceClone
	}
	return 0
}

// freeChild lets the thread or process go that the borrowed thread has just made. One that has ended already is none.
func (s *Session) freeChild(ctx context.Context, kind ptrace.StopKind) error {
	tid, err := s.thread.EventMessage()
	if err != nil {
		return err
	}
	child := s.thread.Adopt(int(tid))
	if _, err = child.Settle(ctx); err == nil {
		switch kind {
		case ptrace.Fork:
			err = s.unblock(child)
		case ptrace.Vfork:
			err = s.untilExec(ctx, child)
		}
	}
	if err == nil {
		s.point("call/child", "child let go")
		err = child.Detach(0)
	}
	if errors.Is(err, ptrace.ErrGone) {
		return nil
	}
	return err
}

// untilExec lets a vfork's child run until it has executed another program.
func (s *Session) untilExec(ctx context.Context, child *ptrace.Thread) error {
	if err := child.SetOptions(ptrace.TraceExec); err != nil {
		return err
	}
	for sig := syscall.Signal(0); ; {
		if err := child.Resume(false, sig); err != nil {
			return err
		}
		stop, err := child.Wait(ctx)
		if err != nil {
			return err
		}
		sig = 0
		switch stop.Kind {
		case ptrace.Exited:
			return ptrace.ErrGone
		case ptrace.Signal:
			sig = stop.Signal
		case ptrace.Exec:
			return s.unblock(child)
		}
	}
}

// unblock gives a stopped thread the mask that the borrowed thread will have again, if it has the one of a call.
func (s *Session) unblock(th *ptrace.Thread) error {
	const unblockable = 1<<(unix.SIGKILL-1) | 1<<(unix.SIGSTOP-1)
	mask, err := th.SigMask()
	if err != nil || mask|unblockable != blockedSignals|unblockable {
		return err
	}
	return th.SetSigMask(s.state.Mask)
}
