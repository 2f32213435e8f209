package call

import (
	"encoding/binary"
	"fmt"

	"github.com/heaptap/heaptap/mem"
)

// leaveSequence does what the kernel does to a thread that is preempted in a restartable sequence (rseq(2)): its
// program counter becomes the sequence's abort address. The kernel itself would not know any more: it looks when the
// thread goes on, and finds it in borrowed code.
func (s *Session) leaveSequence() error {
	const (
		fieldCs      = 8 // struct rseq: rseq_cs
		csStart      = 8 // struct rseq_cs: start_ip, post_commit_offset, abort_ip
		csSize       = 32
		csFieldBytes = 8
	)
	if s.state.Regs.InSyscall() {
		return nil // a sequence may make no system call
	}
	conf, err := s.thread.Rseq()
	if err != nil || conf.Addr == 0 {
		return err
	}
	cs, err := mem.Pointer(s.plan.memory, mem.Addr(conf.Addr)+fieldCs)
	if err != nil {
		return fmt.Errorf("thread %d: read its rseq: %w", s.Tid(), err)
	}
	if cs == 0 {
		return nil
	}
	var b [csSize]byte
	if err := s.plan.memory.ReadAt(b[:], cs); err != nil {
		return fmt.Errorf("thread %d: read its restartable sequence: %w", s.Tid(), err)
	}
	le := binary.LittleEndian
	start := le.Uint64(b[csStart:])
	length, abort := le.Uint64(b[csStart+csFieldBytes:]), le.Uint64(b[csStart+2*csFieldBytes:])
	if uint64(s.state.Regs.PC())-start < length {
		s.state.Regs.SetPC(mem.Addr(abort))
	}
	return nil
}
