package call

import (
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/ptrace"
)

// supported: borrowing is not implemented on arm64, and Prepare says so. What follows is never reached; it lets the
// package compile.
const supported = false

const (
	maxXState      = 1 << 10
	maxFrame       = 8 << 10
	blockedSignals = 0
	maxArgs        = 6
	caveSyscall    = 0
	caveSigreturn  = 0
	caveCall       = 0
	caveMarker     = 0
	caveShelter    = 0
)

var caveCode []byte

type components struct{}

func cpuComponents() components { return components{} }

type frame struct {
	at    mem.Addr
	bytes []byte
}

func buildFrame([]byte, mem.Addr, *ptrace.State, mem.Addr, *components) (frame, error) {
	return frame{}, ErrUnsupported
}

func syscallRegs(own *ptrace.Regs, _ cave, _ mem.Addr, _ uint64, _ *[maxArgs]uint64) ptrace.Regs {
	return *own
}

const blockOut = 1

func callPlace(f mem.Addr, _ int) (block, sp mem.Addr) { return f, f }

func callImage(b []byte, _, _ mem.Addr, _ *Args, _ uint32) []byte { return b }

func callRegs(own *ptrace.Regs, _ cave, _, _, _ mem.Addr, _ uint64, _ keptErrno, _ *Args) ptrace.Regs {
	return *own
}

func callResult([]byte) Result { return Result{} }

func sigreturnRegs(own *ptrace.Regs, _ cave, _ mem.Addr) ptrace.Regs { return *own }

func shelterRegs(own *ptrace.Regs, _ cave, _ mem.Addr) ptrace.Regs { return *own }
