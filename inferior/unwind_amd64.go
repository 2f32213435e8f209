package inferior

import (
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/ptrace"
	"github.com/heaptap/heaptap/unwind"
)

// unwindRegs are a stopped thread's registers as the unwinder numbers them. pc and sp are given beside, since they are
// known also of a thread whose registers cannot be read.
func unwindRegs(r *ptrace.Regs, pc, sp mem.Addr) unwind.Regs {
	u := unwind.Regs{PC: pc, SP: sp}
	if r.PC() != pc {
		return u
	}
	for number, v := range map[int]uint64{
		unwind.RAX: r.Rax, unwind.RBX: r.Rbx, unwind.RCX: r.Rcx, unwind.RDX: r.Rdx, unwind.RSI: r.Rsi,
		unwind.RDI: r.Rdi, unwind.RBP: r.Rbp, unwind.R8: r.R8, unwind.R9: r.R9, unwind.R10: r.R10, unwind.R11: r.R11,
		unwind.R12: r.R12, unwind.R13: r.R13, unwind.R14: r.R14, unwind.R15: r.R15,
	} {
		u.Set(number, v)
	}
	return u
}
