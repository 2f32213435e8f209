package ptrace

import (
	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
)

// Regs is the kernel's struct user_pt_regs of arm64. Injection is not supported there yet (package call refuses), so
// this has only what stopping and reading threads needs.
type Regs struct {
	X      [31]uint64
	Sp, Pc uint64
	Pstate uint64
}

const (
	ntXState      = unix.NT_PRFPREG
	ntShadowStack = unix.NT_ARM_GCS
)

// PC and SP are the program counter and the stack pointer.
func (r *Regs) PC() mem.Addr { return mem.Addr(r.Pc) }

// SP is the stack pointer.
func (r *Regs) SP() mem.Addr { return mem.Addr(r.Sp) }

// ThreadPointer is not among these registers on arm64.
func (r *Regs) ThreadPointer() mem.Addr { return 0 }

// SetPC sets the program counter.
func (r *Regs) SetPC(a mem.Addr) { r.Pc = uint64(a) }

// Substitute gives registers that hold one of certain values others, by pairs of old and new, and reports whether there was
// one.
func (r *Regs) Substitute(values map[uint64]uint64) bool {
	regs := make([]*uint64, len(r.X))
	for i := range r.X {
		regs[i] = &r.X[i]
	}
	return substitute(regs, values)
}

// InSyscall is not known from the registers alone on arm64.
func (r *Regs) InSyscall() bool { return false }

// Syscall is the register that holds a system call's number.
func (r *Regs) Syscall() uint64 { return r.X[8] }

// Result is the register that holds a system call's result.
func (r *Regs) Result() int64 { return int64(r.X[0]) }

// Cloak does nothing on arm64.
func (r *Regs) Cloak() bool { return false }

// Rewind does nothing on arm64.
func (r *Regs) Rewind() {}

// WillRestart does nothing on arm64.
func (r *Regs) WillRestart() bool { return false }
