package cpython

import (
	"bytes"
	"debug/elf"

	"golang.org/x/arch/x86/x86asm"

	"github.com/heaptap/heaptap/mem"
)

// supportedCPU reports whether targets of this CPU can be worked with by this build of heaptap.
func supportedCPU(m elf.Machine) bool { return m == elf.EM_X86_64 }

const (
	codeWindow = 96 // bytes of a function that are looked at: the wrappers reach their allocator within 40
	maxJumps   = 4  // followed in a row
)

// dataRefs lists the addresses of memory that a function refers to by a fixed address, in the order in which its first
// instructions name them.
func dataRefs(r mem.Reader, entry mem.Addr) ([]mem.Addr, error) {
	var refs []mem.Addr
	err := decode(r, entry, func(inst x86asm.Inst, next mem.Addr) bool {
		for _, arg := range inst.Args {
			m, ok := arg.(x86asm.Mem)
			if !ok || m.Index != 0 || m.Segment == x86asm.FS || m.Segment == x86asm.GS || inst.Op == x86asm.LEA {
				continue
			}
			switch m.Base {
			case x86asm.RIP:
				refs = append(refs, next+mem.Addr(disp(m)))
			case 0:
				refs = append(refs, mem.Addr(disp(m)))
			}
		}
		return false
	})
	return refs, err
}

// constantRefs lists the addresses that a function's first instructions load, as such: those of its constants.
func constantRefs(r mem.Reader, entry mem.Addr) ([]mem.Addr, error) {
	var refs []mem.Addr
	err := decode(r, entry, func(inst x86asm.Inst, next mem.Addr) bool {
		switch arg := inst.Args[1].(type) {
		case x86asm.Mem:
			if inst.Op == x86asm.LEA && arg.Base == x86asm.RIP {
				refs = append(refs, next+mem.Addr(disp(arg)))
			}
		case x86asm.Imm:
			if inst.Op == x86asm.MOV {
				refs = append(refs, mem.Addr(arg))
			}
		}
		return false
	})
	return refs, err
}

// disp is a displacement as the CPU uses it. The decoder gives one without a base register, such as that of
// fs:0xffffffe8, unsigned; in 64-bit mode all are sign-extended (Intel SDM volume 2, 2.2.1.3).
func disp(m x86asm.Mem) int64 { return int64(int32(m.Disp)) }

// sizeShift finds by how much a function that allocates shifts the size right to get a size class: the logarithm of the
// allocator's alignment. It is false if the first instructions do no such thing.
func sizeShift(r mem.Reader, entry mem.Addr) (shift uint, ok bool, err error) {
	err = decode(r, entry, func(inst x86asm.Inst, _ mem.Addr) bool {
		n, isImm := inst.Args[1].(x86asm.Imm)
		_, isReg := inst.Args[0].(x86asm.Reg)
		if inst.Op == x86asm.SHR && isImm && isReg && (n == 3 || n == 4) {
			shift, ok = uint(n), true
		}
		return ok
	})
	return shift, ok, err
}

// decode shows the first instructions of a function to visit until it returns true: straight on past conditional
// jumps, along direct jumps, to the first return or indirect jump. next is the address behind the instruction.
func decode(r mem.Reader, entry mem.Addr, visit func(inst x86asm.Inst, next mem.Addr) bool) error {
	pc := entry
	for range maxJumps {
		code, err := window(r, pc)
		if err != nil {
			return err
		}
		jump := mem.Addr(0)
		for len(code) > 0 && jump == 0 {
			if rest, ok := bytes.CutPrefix(code, []byte{0xf3, 0x0f, 0x1e, 0xfa}); ok { // endbr64
				code, pc = rest, pc+4
				continue
			}
			inst, err := x86asm.Decode(code, 64)
			if err != nil {
				return nil // cut off at the window's end, or data: what was seen stands
			}
			code, pc = code[inst.Len:], pc+mem.Addr(inst.Len)
			if visit(inst, pc) || inst.Op == x86asm.RET {
				return nil
			}
			if inst.Op == x86asm.JMP {
				rel, ok := inst.Args[0].(x86asm.Rel)
				if !ok {
					return nil
				}
				jump = pc + mem.Addr(rel)
			}
		}
		if jump == 0 {
			return nil
		}
		pc = jump
	}
	return nil
}

// window reads the code at pc, less where it ends at a page that cannot be read.
func window(r mem.Reader, pc mem.Addr) ([]byte, error) {
	code, err := mem.Bytes(r, pc, codeWindow)
	if err == nil {
		return code, nil
	}
	return mem.Bytes(r, pc, int(min(codeWindow, 4096-pc%4096)))
}
