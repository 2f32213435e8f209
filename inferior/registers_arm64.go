package inferior

import (
	"fmt"

	"github.com/heaptap/heaptap/ptrace"
)

// general holds the registers of the kernel's struct user_pt_regs.
var general = makeGeneral()

func makeGeneral() []part {
	var out []part
	for n := range 31 {
		out = append(out, part{fmt.Sprintf("x%d", n), General, func(r *ptrace.Regs) *uint64 { return &r.X[n] }, 0, 64, false})
	}
	return append(out,
		part{"sp", General, func(r *ptrace.Regs) *uint64 { return &r.Sp }, 0, 64, false},
		part{"pc", General, func(r *ptrace.Regs) *uint64 { return &r.Pc }, 0, 64, false},
		part{"pstate", General, func(r *ptrace.Regs) *uint64 { return &r.Pstate }, 0, 64, false})
}

// parts holds what else general registers are called.
var parts []part

func leaveSyscall(*ptrace.Regs) {}

func extended([]byte, string) (Register, bool) { return Register{}, false }

func allExtended([]byte) []Register { return nil }

// Flags names the bits that are set; on arm64 none is named.
func Flags(uint64) []string { return nil }
