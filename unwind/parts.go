package unwind

import (
	"slices"

	"golang.org/x/arch/x86/x86asm"

	"github.com/heaptap/heaptap/mem"
)

// maxPartsCode bounds the code that Parts reads: the largest functions there are, interpreters' loops, have some 100 KiB.
const maxPartsCode = 1 << 20

// Parts returns the code of the function that pc is in: what [Unwinder.Function] returns and the parts that the compiler
// has put elsewhere (hot from cold), of which each begins where another part jumps to it and with a frame that is there
// already. They are [start, end), ascending. There are none where there is no information on pc.
func (u *Unwinder) Parts(pc mem.Addr) [][2]mem.Addr {
	start, end, ok := u.Function(pc)
	if !ok {
		return nil
	}
	parts := [][2]mem.Addr{{start, end}}
	for i := 0; i < len(parts); i++ {
		for _, to := range u.jumps(parts[i]) {
			start, end, ok := u.Function(to)
			part := [2]mem.Addr{start, end}
			if ok && !slices.Contains(parts, part) && u.continues(start) {
				parts = append(parts, part)
			}
		}
	}
	slices.SortFunc(parts, func(a, b [2]mem.Addr) int { return int(int64(a[0] - b[0])) })
	return parts
}

// continues reports whether code begins with a frame that another part of its function has made: a function itself
// begins with a return address on the stack and nothing else.
func (u *Unwinder) continues(start mem.Addr) bool {
	r := u.rowAt(start)
	return r.rules != nil && (r.rules.cfa.kind != inRegister || r.rules.cfa.reg != RSP || r.rules.cfa.offset != word)
}

// jumps returns where the code jumps to outside of itself.
func (u *Unwinder) jumps(code [2]mem.Addr) []mem.Addr {
	b := make([]byte, min(code[1]-code[0], maxPartsCode))
	if u.reader.ReadAt(b, code[0]) != nil {
		return nil
	}
	var out []mem.Addr
	for at := 0; at < len(b); {
		inst, err := x86asm.Decode(b[at:], 64)
		if err != nil {
			at++ // data, or an instruction that the decoder does not know
			continue
		}
		at += inst.Len
		rel, ok := inst.Args[0].(x86asm.Rel)
		if to := code[0] + mem.Addr(at) + mem.Addr(rel); ok && inst.Op != x86asm.CALL && (to < code[0] || to >= code[1]) {
			out = append(out, to)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
