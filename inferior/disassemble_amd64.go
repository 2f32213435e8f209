package inferior

import (
	"golang.org/x/arch/x86/x86asm"

	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/mem"
)

const longestInstruction = 15

// disassemble decodes at most limit instructions of code at an address. symbol names addresses; it may be nil.
func disassemble(code []byte, at mem.Addr, limit int, symbol func(uint64) (string, uint64)) []Instruction {
	var out []Instruction
	for len(code) > 0 && len(out) < limit {
		inst, err := x86asm.Decode(code, 64)
		if err != nil || inst.Len == 0 {
			// Instructions that the decoder does not know, such as AVX: a byte at a time until it knows one again.
			out = append(out, Instruction{Addr: at, Bytes: code[:1], Text: "(bad)"})
			code, at = code[1:], at+1
			continue
		}
		out = append(out, Instruction{Addr: at, Bytes: code[:inst.Len], Text: x86asm.GNUSyntax(inst, uint64(at), symbol)})
		code, at = code[inst.Len:], at+mem.Addr(inst.Len)
	}
	return out
}

// disassembleStub lists the code that a borrowed thread executes around a call.
func disassembleStub() []Instruction {
	var out []Instruction
	for _, part := range call.Stub() {
		code := disassemble(part.Code, mem.Addr(part.Offset), len(part.Code), nil)
		if len(code) > 0 {
			code[0].Note = part.Name
		}
		out = append(out, code...)
	}
	return out
}

// Disassemble decodes the instructions in n bytes at an address; describe, where not nil, names the addresses in them.
// The last instruction may end behind them.
func Disassemble(r mem.Reader, at mem.Addr, n int, describe func(mem.Addr) Location) ([]Instruction, error) {
	code, err := mem.Bytes(r, at, n+longestInstruction)
	if err != nil {
		if code, err = mem.Bytes(r, at, n); err != nil {
			return nil, err
		}
	}
	var symbol func(uint64) (string, uint64)
	if describe != nil {
		symbol = func(a uint64) (string, uint64) {
			l := describe(mem.Addr(a))
			if l.Symbol == nil {
				return "", 0
			}
			return l.Symbol.Name, a - l.Offset
		}
	}
	out := disassemble(code, at, len(code), symbol)
	for i := range out {
		if out[i].Addr >= at+mem.Addr(n) {
			return out[:i], nil
		}
	}
	return out, nil
}
