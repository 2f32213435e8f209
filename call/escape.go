package call

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/ptrace"
)

// A called function may try not to come back: end the thread or the process, execute another program, or jump out of
// the call. The first three are system calls, and are not made. A jump is not seen itself; but where the stack pointer
// is on the thread's own stack at a system call, the program's code has been running since, and what it did cannot be
// told from what it should. So the thread goes on from there.
//
// Only pthread_exit is more than a jump: it unwinds, jumps to where the thread began, destroys the thread's data, and
// ends the thread. So a thread that has left is followed for a while. When it is about to end, it may: the C library has
// taken it out of its books. When it is about to end the process, as the last thread does, its stack is put back as it
// was, and it goes on from where it was interrupted.
const (
	followCalls = 64
	followTime  = 100 * time.Millisecond
	// maxOwnStack bounds how much of a thread's own stack is remembered, for a pthread_exit.
	maxOwnStack = 1 << 20
	redZone     = 128
)

var errLeft = errors.New("the thread has left the call and is not borrowed any more")

// ownStack is a borrowed thread's own stack.
type ownStack struct {
	noted bool
	at    region // all of it, as far as is known
	saved saved  // from the interrupted frame to the outermost
}

// noteStack remembers the thread's own stack before the first call.
func (s *Session) noteStack() {
	if s.own.noted {
		return
	}
	s.own.noted = true
	sp := s.state.Regs.SP()
	m, ok := findMapping(s.plan.maps, sp)
	if stack := s.plan.stack; !ok && sp < stack.Start && sp+maxOwnStack > stack.Start {
		m, ok = stack, true // it has grown
	}
	if !ok {
		return
	}
	s.own.at = region{min(m.Start, sp-maxOwnStack), m.End}
	if from := sp - redZone; m.End-from <= maxOwnStack {
		b := make([]byte, m.End-from)
		if s.plan.memory.ReadAt(b, from) == nil {
			s.own.saved = saved{from, b}
		}
	}
}

// hasLeft reports whether the thread, which was calling a function when it stopped with s.regs, is on its own stack.
func (s *Session) hasLeft() bool {
	sp := s.regs.SP()
	return s.calling && s.own.at.contains(sp) && !s.memory.contains(sp)
}

// watch looks at a system call that the called function makes, at whose entry or exit the thread stands.
func (s *Session) watch(ctx context.Context) error {
	if !s.calling {
		return nil
	}
	info, err := s.thread.SyscallInfo()
	if err != nil {
		return err
	}
	if info.Op != ptrace.SyscallEntry {
		return s.wakeUp()
	}
	nr, arg := info.Values[0], info.Values[1]
	switch {
	case s.hasLeft():
		return s.follow(ctx, nr, arg)
	case ends(nr):
		return s.refuse(&ExitedError{Tid: s.Tid(), Nr: nr, Status: int(int32(arg)), Regs: s.regs})
	case s.plan.deadly(info):
		return s.refuse(&SeccompError{nr})
	}
	return s.goToSleep(nr)
}

// ends reports whether a system call ends a thread, a process or its program.
func ends(nr uint64) bool {
	switch nr {
	case unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_EXECVE, unix.SYS_EXECVEAT:
		return true
	}
	return false
}

// refuse ends a call at the entry of a system call that is not to be made.
func (s *Session) refuse(cause error) error {
	s.point("call/refused", "system call not made")
	return errors.Join(cause, s.park())
}

// follow goes with a thread that has left the call, to see whether it is about to end. It stands at the entry of the
// system call nr.
func (s *Session) follow(ctx context.Context, nr, arg uint64) error {
	ctx, cancel := context.WithTimeout(ctx, followTime)
	defer cancel()
	if err := s.thread.SetOptions(s.baseOptions()); err != nil { // its children are its own affair again
		return err
	}
	for range followCalls {
		ee := &ExitedError{Tid: s.Tid(), Nr: nr, Status: int(int32(arg)), Regs: s.regs}
		if nr == unix.SYS_EXIT {
			s.left, ee.Ended = true, true
			return ee
		}
		if ends(nr) && s.own.saved.bytes != nil {
			if err := s.plan.memory.WriteAt(s.own.saved.bytes, s.own.saved.at); err != nil {
				return errors.Join(ee, err)
			}
			return s.refuse(ee)
		}
		var err error
		nr, arg, err = s.nextCall(ctx)
		if errors.Is(err, ptrace.ErrDeadline) {
			grace, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			if _, err := s.thread.Stop(grace); err != nil {
				s.lost = fmt.Errorf("thread has left the call and does not stop: %w", err)
				return s.lost
			}
			break
		}
		if err != nil {
			return err
		}
	}
	return s.leave()
}

// nextCall lets a thread that has left run to its next system call, and signals through.
func (s *Session) nextCall(ctx context.Context) (nr, arg uint64, err error) {
	for sig := syscall.Signal(0); ; {
		if err := s.thread.Resume(true, sig); err != nil {
			return 0, 0, err
		}
		stop, err := s.thread.Wait(ctx)
		if err != nil {
			return 0, 0, err
		}
		sig = 0
		switch stop.Kind {
		case ptrace.Exited:
			return 0, 0, ptrace.ErrGone
		case ptrace.Signal:
			sig = stop.Signal
		case ptrace.Syscall:
			info, err := s.thread.SyscallInfo()
			if err != nil {
				return 0, 0, err
			}
			if info.Op == ptrace.SyscallEntry {
				return info.Values[0], info.Values[1], s.thread.Regs(&s.regs)
			}
		}
	}
}

// leave gives up a thread that has left the call.
func (s *Session) leave() error {
	if err := s.thread.Regs(&s.regs); err != nil {
		return err
	}
	s.left = true
	s.point("call/left", "thread has left the call")
	return &LongjmpError{Tid: s.Tid(), PC: s.regs.PC(), SP: s.regs.SP()}
}

// letGo lets a thread go on that has left the call. Its signal mask is its own again, unless it has set another since.
// The record stays, so that the next tracer looks whether it has really left before it gives the memory back.
func (s *Session) letGo() error {
	return errors.Join(s.unblock(s.thread), s.thread.Detach(0))
}

// deadly reports whether the target's seccomp filters kill it, or send it a signal, for the system call at whose entry
// a thread stands.
func (pl *Plan) deadly(call *ptrace.SyscallInfo) bool {
	if pl.seccomp.mode == 0 || !pl.seccomp.known {
		return false
	}
	nr, args := call.Values[0], call.Values[1:]
	if pl.seccomp.mode == 1 {
		allowed, _ := pl.Allowed(nr, args...)
		return !allowed
	}
	data := seccompData(nr, call.PC, args)
	for _, f := range pl.seccomp.filters {
		action, err := runFilter(f, data)
		if err != nil {
			return true
		}
		switch action & seccompActionFull {
		case seccompKillProcess, seccompKillThread, seccompTrap:
			return true
		}
	}
	return false
}
