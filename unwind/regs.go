package unwind

import (
	"fmt"

	"github.com/heaptap/heaptap/mem"
)

// Registers is how many registers are kept, by their DWARF numbers (System V ABI for x86-64, figure 3.36).
const Registers = 17

// DWARF numbers of x86-64's registers.
const (
	RAX = iota
	RDX
	RCX
	RBX
	RSI
	RDI
	RBP
	RSP
	R8
	R9
	R10
	R11
	R12
	R13
	R14
	R15
	RIP // the return address column
)

// Regs are a frame's registers. The zero value knows PC and SP only.
type Regs struct {
	PC, SP mem.Addr
	// Return tells that PC is where a call will return to: the call is the instruction before it. Of a stopped thread's
	// own registers, and of a frame that a signal interrupted, it is false.
	Return bool
	// Signal tells that a signal interrupted this frame, which is a caller's. Its callee is rt_sigreturn, of How Signal.
	Signal bool

	r     [Registers]uint64
	known uint32 // bit N for register N
}

// Register returns a register by its DWARF number, and whether its value is known in this frame. RSP and RIP are SP
// and PC.
func (r *Regs) Register(n int) (uint64, bool) {
	switch {
	case n == RSP:
		return uint64(r.SP), true
	case n == RIP:
		return uint64(r.PC), true
	case n < 0 || n >= Registers:
		return 0, false
	}
	return r.r[n], r.known&(1<<n) != 0
}

// Set makes the value of a register known, by its DWARF number; RSP and RIP are SP and PC. A number that is no
// register's does nothing.
func (r *Regs) Set(n int, v uint64) {
	switch {
	case n == RSP:
		r.SP = mem.Addr(v)
	case n == RIP:
		r.PC = mem.Addr(v)
	case n >= 0 && n < Registers:
		r.r[n], r.known = v, r.known|1<<n
	}
}

// Forget makes a register unknown. PC and SP always are known.
func (r *Regs) Forget(n int) {
	if n >= 0 && n < Registers {
		r.r[n], r.known = 0, r.known&^(1<<n)
	}
}

// Lookup is the address by which to name the function and line of the frame: PC, or the call before it.
func (r *Regs) Lookup() mem.Addr {
	if r.Return {
		return r.PC - 1
	}
	return r.PC
}

// String gives PC and SP.
func (r *Regs) String() string { return fmt.Sprintf("pc %v sp %v", r.PC, r.SP) }

// keep forgets all registers but those whose bits are set.
func (r *Regs) keep(mask uint32) {
	for n := range r.r {
		if mask&(1<<n) == 0 {
			r.Forget(n)
		}
	}
}
