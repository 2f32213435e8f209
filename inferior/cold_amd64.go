package inferior

import (
	"golang.org/x/arch/x86/x86asm"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/unwind"
)

// maxHot bounds the code of a function in which is looked for jumps.
const maxHot = 1 << 17

// coldParts finds the parts of a function that the compiler has put elsewhere, where no symbol names them in a stripped
// program: what the function jumps to, behind its own end.
func coldParts(r mem.Reader, u *unwind.Unwinder, symbols *dso.Symbols, f *dso.Found) []span {
	if f.Size == 0 || f.Size > maxHot {
		return nil
	}
	code, err := mem.Bytes(r, f.Addr, int(f.Size))
	if err != nil {
		return nil
	}
	var out []span
	for at := f.Addr; len(code) > 0; {
		inst, err := x86asm.Decode(code, 64)
		if err != nil || inst.Len == 0 {
			code, at = code[1:], at+1
			continue
		}
		next := at + mem.Addr(inst.Len)
		if target, ok := jump(inst, next); ok && (target < f.Addr || target >= f.Addr+mem.Addr(f.Size)) {
			if s, ok := coldPart(u, symbols, f, target); ok && !within(out, s.from) {
				out = append(out, s)
			}
		}
		code, at = code[inst.Len:], next
	}
	return out
}

// jump is where a jump goes, conditional or not; not a call.
func jump(inst x86asm.Inst, next mem.Addr) (mem.Addr, bool) {
	relative, ok := inst.Args[0].(x86asm.Rel)
	if !ok || inst.Op == x86asm.CALL {
		return 0, false
	}
	return next + mem.Addr(int64(relative)), true
}

// coldPart is the code around a jump's target, unless it is a function with a name of its own.
func coldPart(u *unwind.Unwinder, symbols *dso.Symbols, f *dso.Found, target mem.Addr) (span, bool) {
	if other, _, ok := symbols.At(target); ok && other.Kind() != dso.Object && other.Addr != f.Addr {
		return span{}, false
	}
	start, end, ok := u.Function(target)
	return span{start, end}, ok && !(start <= f.Addr && f.Addr < end) && f.Module.Contains(target)
}

func within(spans []span, a mem.Addr) bool {
	for _, s := range spans {
		if a >= s.from && a < s.to {
			return true
		}
	}
	return false
}
