package ptrace

import (
	"bytes"
	"fmt"

	"github.com/heaptap/heaptap/internal/fault"
)

// State is all of a stopped thread that borrowing it changes.
type State struct {
	Regs   Regs
	Mask   uint64
	XState []byte // nil: was not touched
}

// Save reads the thread's state; buf takes the extended state and must have room for it.
func (t *Thread) Save(buf []byte) (State, error) {
	var s State
	if err := t.Regs(&s.Regs); err != nil {
		return s, err
	}
	var err error
	if s.Mask, err = t.SigMask(); err != nil {
		return s, err
	}
	n, err := t.XState(buf)
	if err == nil && n == len(buf) {
		err = t.fail("read extended state of", fmt.Errorf("it is larger than %d bytes", len(buf)))
	}
	s.XState = buf[:n]
	return s, err
}

// Restore gives a stopped thread its state back and verifies it. The order is the protocol: extended state, mask,
// interrupt, registers. The mask is only ever blocked while registers are set that end in restoring it, so it comes
// before them; the interrupt makes the kernel decide about an interrupted system call even when the thread stands at
// the exit of another one. scratch is working space as large as the buffer given to Save.
func (t *Thread) Restore(s *State, scratch []byte) error {
	if s.XState != nil {
		if err := t.SetXState(s.XState); err != nil {
			return err
		}
		fault.Point("ptrace/xstate-restored")
	}
	if err := t.SetSigMask(s.Mask); err != nil {
		return err
	}
	fault.Point("ptrace/mask-restored")
	if err := t.Interrupt(); err != nil {
		return err
	}
	fault.Point("ptrace/interrupted")
	if err := t.SetRegs(&s.Regs); err != nil {
		return err
	}
	fault.Point("ptrace/regs-restored")
	return t.verify(s, scratch)
}

func (t *Thread) verify(s *State, scratch []byte) error {
	if err := t.Regs(&t.regs); err != nil {
		return err
	}
	if t.regs != s.Regs {
		return t.fail("restore", fmt.Errorf("registers are not what was written"))
	}
	mask, err := t.SigMask()
	if err != nil {
		return err
	}
	if mask != s.Mask {
		return t.fail("restore", fmt.Errorf("signal mask is %#x, was %#x", mask, s.Mask))
	}
	if s.XState == nil {
		return nil
	}
	n, err := t.XState(scratch)
	if err != nil {
		return err
	}
	if !bytes.Equal(scratch[:n], s.XState) {
		return t.fail("restore", fmt.Errorf("extended state is not what was written"))
	}
	return nil
}
