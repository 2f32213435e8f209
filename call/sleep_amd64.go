package call

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/ptrace"
)

// The kernel remembers for each thread how long an interrupted sleep was still to last, and forgets it when the thread
// begins another (restart_block, kernel/time/hrtimer.c: sys_nanosleep). So when a thread was interrupted in such a
// sleep, a called function's sleeps are made with ppoll, which leaves that alone.

// swappedSleep is a sleep of the called function's that is a ppoll: the registers that it made its call with.
type swappedSleep struct {
	on   bool
	regs ptrace.Regs
}

// blockSleep is where in a call's block a sleep's time is, 16 bytes.
const blockSleep = blockOut

// goToSleep swaps the system call at whose entry the thread stands, if it is a sleep that would make the kernel forget.
func (s *Session) goToSleep(nr uint64) error {
	if !s.state.Regs.ForgetsTime() || s.sleep.on {
		return nil
	}
	var at mem.Addr
	var since time.Duration
	switch nr {
	case unix.SYS_NANOSLEEP:
		at = mem.Addr(s.regs.Rdi)
	case unix.SYS_CLOCK_NANOSLEEP:
		at = mem.Addr(s.regs.Rdx)
		const timerAbstime = 1
		if s.regs.Rsi&timerAbstime == 0 {
			break
		}
		var now unix.Timespec
		if err := unix.ClockGettime(int32(s.regs.Rdi), &now); err != nil {
			return nil // its error is the function's to see
		}
		since = time.Duration(now.Nano())
	default:
		return nil
	}
	b := make([]byte, 16)
	if s.plan.memory.ReadAt(b, at) != nil {
		return nil // likewise
	}
	le := binary.LittleEndian
	if since != 0 {
		left := max(0, time.Duration(le.Uint64(b))*time.Second+time.Duration(le.Uint64(b[8:]))-since)
		le.PutUint64(b, uint64(left/time.Second))
		le.PutUint64(b[8:], uint64(left%time.Second))
	}
	scratch := s.frame.at - blockFrame + blockSleep
	if err := s.plan.memory.WriteAt(b, scratch); err != nil {
		return err
	}
	s.sleep = swappedSleep{true, s.regs}
	r := s.regs
	r.OrigRax = unix.SYS_PPOLL
	r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8 = 0, 0, uint64(scratch), 0, 0
	return s.thread.SetRegs(&r)
}

// wakeUp gives the called function its registers back at the exit of a sleep that was swapped.
func (s *Session) wakeUp() error {
	if !s.sleep.on || s.regs.WillRestart() {
		return nil
	}
	s.sleep.on = false
	r, own := s.regs, &s.sleep.regs
	r.OrigRax, r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8 = own.OrigRax, own.Rdi, own.Rsi, own.Rdx, own.R10, own.R8
	return s.thread.SetRegs(&r)
}
