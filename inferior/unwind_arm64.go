package inferior

import (
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/ptrace"
	"github.com/heaptap/heaptap/unwind"
)

// unwindRegs are a stopped thread's registers, of which only x86-64's are unwound.
func unwindRegs(_ *ptrace.Regs, pc, sp mem.Addr) unwind.Regs { return unwind.Regs{PC: pc, SP: sp} }
