package cpython

import (
	"golang.org/x/arch/x86/x86asm"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// CurrentThreadStateAt reads the getter's code to find out what it loads: a variable, perhaps by way of the global
// offset table, or a thread-local variable of the program. maps are the target's mappings. Code of any other shape,
// such as a call of __tls_get_addr, has to be called.
func (in *Interpreter) CurrentThreadStateAt(r mem.Reader, maps []proc.Mapping) Place {
	call := Place{InFunction, uint64(in.CurrentThreadState)}
	rax := Place{} // what the accumulator holds: InVariable and InThread name the place it was loaded from
	loaded, done := false, false
	err := decode(r, in.CurrentThreadState, func(inst x86asm.Inst, next mem.Addr) bool {
		switch inst.Op {
		case x86asm.PUSH, x86asm.POP, x86asm.NOP:
			return false
		case x86asm.RET:
			done = loaded
			return true
		case x86asm.MOV:
		default:
			loaded = false
			return true
		}
		if inst.Args[0] == x86asm.RBP && inst.Args[1] == x86asm.RSP {
			return false
		}
		m, ok := inst.Args[1].(x86asm.Mem)
		if inst.Args[0] != x86asm.RAX || !ok || m.Index != 0 {
			loaded = false
			return true
		}
		switch {
		case m.Segment == x86asm.FS && m.Base == 0:
			rax = Place{InThread, uint64(disp(m))}
		case m.Base == x86asm.RIP && m.Segment == 0:
			rax = Place{InVariable, uint64(next) + uint64(disp(m))}
		case m.Base == x86asm.RAX && m.Segment == 0 && loaded && rax == (Place{InThread, 0}):
			rax.Value = uint64(disp(m)) // the thread block begins with its own address
		case m.Base == x86asm.RAX && loaded && rax.Where == InVariable && constant(maps, mem.Addr(rax.Value)):
			base, err := mem.U64(r, mem.Addr(rax.Value))
			if err != nil {
				loaded = false
				return true
			}
			// The slot holds a variable's address or, in front of fs:(%rax), an offset (the initial-exec TLS model).
			rax.Value = base + uint64(disp(m))
			if m.Segment == x86asm.FS {
				rax.Where = InThread
			}
		default:
			loaded = false
			return true
		}
		loaded = true
		return false
	})
	if err != nil || !done {
		return call
	}
	return rax
}

// constant reports whether the word at a cannot change any more: a slot of the offset table, once it is read-only.
func constant(maps []proc.Mapping, a mem.Addr) bool {
	for _, m := range maps {
		if m.Contains(a) {
			return !m.Write
		}
	}
	return false
}
