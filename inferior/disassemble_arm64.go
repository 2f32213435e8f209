package inferior

import (
	"fmt"

	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/mem"
)

func disassembleStub() []Instruction { return nil }

// Disassemble is not built for arm64.
func Disassemble(_ mem.Reader, at mem.Addr, _ int, _ func(mem.Addr) Location) ([]Instruction, error) {
	return nil, fmt.Errorf("disassemble code at %v: %w", at, call.ErrUnsupported)
}
