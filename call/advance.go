package call

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/ptrace"
)

// advance lets the thread run until it has made the system call that ends at the address behind, within the time
// limit. Other system calls on the way are the borrowed code's own. s.regs are then the registers at that point.
func (s *Session) advance(behind mem.Addr, enteredPoint, donePoint string) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.plan.opts.Timeout)
	defer cancel()
	entered := false
	for sig := syscall.Signal(0); ; {
		if err := s.thread.Resume(true, sig); err != nil {
			return err
		}
		stop, err := s.thread.Wait(ctx)
		if errors.Is(err, ptrace.ErrDeadline) {
			return s.abandon(err)
		}
		if err != nil {
			return err
		}
		sig = 0
		switch stop.Kind {
		case ptrace.Exited:
			return fmt.Errorf("thread %d, while borrowed: %w", s.Tid(), ptrace.ErrGone)
		case ptrace.Signal:
			if sig, err = s.takeSignal(stop.Signal); err != nil {
				return err
			}
		case ptrace.Clone, ptrace.Fork, ptrace.Vfork:
			if err := s.freeChild(ctx, stop.Kind); err != nil {
				return err
			}
		case ptrace.Event:
			if err := s.mend(); err != nil {
				return err
			}
		case ptrace.Syscall:
			if err := s.thread.Regs(&s.regs); err != nil {
				return err
			}
			if s.regs.PC() != behind {
				entered = false
				if err := s.watch(ctx); err != nil {
					return err
				}
				continue
			}
			if !entered {
				entered = true
				s.point(enteredPoint, "system call entered")
				continue
			}
			if s.regs.WillRestart() {
				entered = false
				continue
			}
			s.point(donePoint, "system call done")
			return nil
		}
	}
}

// mend has a system call that only a stop made answer EINTR, the job's for one, be made again.
func (s *Session) mend() error {
	if err := s.thread.Regs(&s.regs); err != nil || !s.regs.Cloak() {
		return err
	}
	return s.thread.SetRegs(&s.regs)
}

// takeSignal decides about a signal that is about to be delivered to borrowed code. A fault of the code's own is an
// error, and the thread is made ready to restore itself; everything else came from outside and goes through: a stop
// signal stops the job (the borrowed thread alone still runs), a fault signal that somebody sent is theirs.
func (s *Session) takeSignal(sig syscall.Signal) (syscall.Signal, error) {
	foreign, err := s.foreign(sig)
	if err != nil {
		return 0, err
	}
	if foreign {
		return sig, nil
	}
	if err := s.thread.Regs(&s.regs); err != nil {
		return 0, err
	}
	if s.hasLeft() {
		return sig, nil // the program's own code has raised it
	}
	fe := &FaultError{Tid: s.Tid(), Signal: sig, PC: s.regs.PC(), Regs: s.regs}
	if (sig == unix.SIGSEGV || sig == unix.SIGBUS) && s.signal.Code > 0 {
		fe.Addr = mem.Addr(s.signal.Addr)
	}
	s.point("call/faulted", "fault")
	return 0, errors.Join(error(fe), s.park())
}

// abandon takes the thread out of borrowed code that ran past its limit.
func (s *Session) abandon(cause error) error {
	grace, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.halt(grace); err != nil {
		s.lost = fmt.Errorf("borrowed code does not stop; the thread goes back by itself when it does: %w", err)
		return s.lost
	}
	if err := s.thread.Regs(&s.regs); err != nil {
		return err
	}
	s.point("call/abandoned", "time limit")
	if s.hasLeft() {
		return s.leave()
	}
	te := &TimeoutError{Tid: s.Tid(), Limit: s.plan.opts.Timeout, PC: s.regs.PC(), Regs: s.regs, Err: cause}
	return errors.Join(te, s.park())
}

// halt stops a thread that runs borrowed code, anywhere. Signals from outside go through, a fault does not.
func (s *Session) halt(ctx context.Context) error {
	for {
		if err := s.thread.Interrupt(); err != nil {
			return err
		}
		stop, err := s.thread.Wait(ctx)
		if err != nil {
			return err
		}
		switch stop.Kind {
		case ptrace.Exited:
			return ptrace.ErrGone
		case ptrace.Signal:
			foreign, err := s.foreign(stop.Signal)
			if err != nil || !foreign {
				return err
			}
			if err := s.thread.Resume(true, stop.Signal); err != nil {
				return err
			}
		case ptrace.Clone, ptrace.Fork, ptrace.Vfork: // in a system call that is still to write its result
			if err := s.freeChild(ctx, stop.Kind); err != nil {
				return err
			}
			if err := s.thread.Resume(true, 0); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// foreign reports whether the signal at whose delivery the thread stands came from outside, and is not a fault of the
// code that it runs: neither raised by the processor nor, like abort's, by the code itself.
func (s *Session) foreign(sig syscall.Signal) (bool, error) {
	if blockedSignals&(1<<(sig-1)) != 0 && sig != unix.SIGABRT {
		return true, nil
	}
	var err error
	if s.signal, err = s.thread.SignalInfo(); err != nil {
		return true, err
	}
	if s.signal.Code > 0 {
		return false, nil
	}
	return !s.calling || s.signal.Pid == 0 || int(s.signal.Pid) != s.plan.innerID(s.plan.process.Pid), nil
}

// park gives a thread that was torn out of borrowed code registers with which it restores itself. Where it stands at
// the entry of a system call, that is not made; and it is moved to its exit, since registers given back at the entry
// would be taken for those of a call to make.
func (s *Session) park() error {
	info, err := s.thread.SyscallInfo()
	if err != nil {
		return err
	}
	entry := info.Op == ptrace.SyscallEntry
	regs := sigreturnRegs(&s.state.Regs, s.plan.cave, s.frame.at)
	if err := s.thread.SetRegs(&regs); err != nil {
		return err
	}
	s.point("call/parked", "call undone")
	if entry {
		if err := s.passEntry(); err != nil {
			return err
		}
	}
	if !s.calling {
		return nil
	}
	return s.restoreErrno()
}

// passEntry moves the thread from the entry of a system call that is not made to its exit.
func (s *Session) passEntry() error {
	grace, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for sig := syscall.Signal(0); ; {
		if err := s.thread.Resume(true, sig); err != nil {
			return err
		}
		stop, err := s.thread.Wait(grace)
		if err != nil {
			return err
		}
		sig = 0
		switch stop.Kind {
		case ptrace.Exited:
			return ptrace.ErrGone
		case ptrace.Signal:
			sig = stop.Signal
		case ptrace.Syscall:
			return nil
		}
	}
}
