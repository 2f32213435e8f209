package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
)

// words are memory at the stack.
func words(v ...uint64) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}

// unwinder is over one function with CFI, and a stack.
func unwinder(info, code, stack []byte) *Unwinder {
	m, segments := fuzzModule(info, code)
	r := &mem.Fake{Segments: append(segments, mem.Segment{Addr: fuzzStack, Data: stack})}
	return New([]*dso.Module{m}, r, Options{})
}

// at are registers at an instruction of the function.
func at(offset mem.Addr) Regs {
	regs := Regs{PC: fuzzCode + offset, SP: fuzzStack}
	for n := range Registers {
		if n != RSP && n != RIP {
			regs.Set(n, uint64(1000+n))
		}
	}
	regs.Set(RBP, uint64(fuzzStack+0x40))
	return regs
}

// All call frame instructions: what they say of the CFA and of registers.
func TestInstructions(t *testing.T) {
	t.Parallel()
	stack := make([]uint64, 64)
	for i := range stack {
		stack[i] = 0x1000_0000 + uint64(i)
	}
	stackAt := func(offset mem.Addr) uint64 { return stack[offset/8] }
	const lost = 1<<64 - 1
	for _, c := range []struct {
		name    string
		program []byte
		cfa     mem.Addr // from the stack pointer on
		want    map[int]uint64
	}{
		{"nothing", nil, 8, map[int]uint64{RBX: 1003, RAX: lost, R12: 1012}},
		{"def_cfa", []byte{cfaDefCFA, RSP, 24}, 24, nil},
		{"def_cfa_register", []byte{cfaDefRegister, RBP}, 0x48, nil},
		{"def_cfa_offset", []byte{cfaDefOffset, 0x80, 1}, 128, nil},
		{"def_cfa_sf", []byte{cfaDefCFASigned, RBP, 1}, 0x38, nil},
		{"def_cfa_offset_sf", []byte{cfaDefOffsetSigned, 0x7d}, 24, nil},
		{"def_cfa_expression", []byte{cfaDefExpression, 2, opBreg0 + RSP, 32}, 32, nil},
		{"offset", []byte{cfaDefOffset, 64, cfaOffset | RBX, 2}, 64, map[int]uint64{RBX: stackAt(48)}},
		{"offset_extended", []byte{cfaDefOffset, 64, cfaOffsetExtended, R12, 3}, 64, map[int]uint64{R12: stackAt(40)}},
		{"offset_extended_sf", []byte{cfaOffsetSigned, R12, 0x7f}, 8, map[int]uint64{R12: stackAt(16)}},
		{"negative_offset", []byte{cfaNegativeOffset, R12, 1}, 8, map[int]uint64{R12: stackAt(16)}},
		{"val_offset", []byte{cfaValOffset, R12, 1}, 8, map[int]uint64{R12: uint64(fuzzStack)}},
		{"val_offset_sf", []byte{cfaValOffsetSigned, R12, 0x7f}, 8, map[int]uint64{R12: uint64(fuzzStack) + 16}},
		{"register", []byte{cfaRegister, RBX, RAX}, 8, map[int]uint64{RBX: 1000}},
		{"same_value", []byte{cfaSameValue, RAX}, 8, map[int]uint64{RAX: 1000}},
		{"undefined", []byte{cfaUndefined, RBX}, 8, map[int]uint64{RBX: lost}},
		{"restore", []byte{cfaUndefined, RBX, cfaRestore | RBX}, 8, map[int]uint64{RBX: 1003}},
		{"restore_extended", []byte{cfaUndefined, RBX, cfaRestoreExtended, RBX}, 8, map[int]uint64{RBX: 1003}},
		{"expression", []byte{cfaExpression, R13, 3, opLit0 + 8, opPlus, opNop}, 8, map[int]uint64{R13: stackAt(16)}},
		{"val_expression", []byte{cfaValExpression, R13, 1, opDup}, 8, map[int]uint64{R13: uint64(fuzzStack) + 8}},
		{"remember", []byte{cfaRemember, cfaDefOffset, 80, cfaUndefined, RBX, cfaRestoreState}, 8, map[int]uint64{RBX: 1003}},
		{"args_size", []byte{cfaArgsSize, 0x90, 1}, 8, nil},
		{"advance", []byte{cfaAdvance | 2, cfaDefOffset, 16, cfaAdvance1, 2, cfaDefOffset, 24, cfaAdvance2, 2, 0,
			cfaDefOffset, 32, cfaAdvance4, 2, 0, 0, 0, cfaDefOffset, 40, cfaAdvance | 40, cfaDefOffset, 48}, 40, nil},
		{"advance8", []byte{cfaAdvance8, 3, 0, 0, 0, 0, 0, 0, 0, cfaDefOffset, 16}, 16, nil},
		{"up to here", []byte{cfaAdvance | 9, cfaDefOffset, 16}, 8, nil},
		{"vector register", []byte{cfaOffsetExtended, 17, 1, cfaRegister, 40, 41}, 8, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			u := unwinder(assemble("zR", []byte{0, pePCRel | peSdata4}, c.program), nil, words(stack...))
			regs := at(8)
			f, err := u.Step(&regs)
			if err != nil {
				t.Fatal(err)
			}
			cfa := fuzzStack + c.cfa
			if f.CFA != cfa || f.How != CFI || regs.SP != cfa || uint64(regs.PC) != stackAt(c.cfa-8) || !regs.Return {
				t.Errorf("CFA %v by %v, caller's %v, want CFA %v", f.CFA, f.How, &regs, cfa)
			}
			for n, want := range c.want {
				if got, known := regs.Register(n); known != (want != lost) || known && got != want {
					t.Errorf("register %d is %#x, %v, want %#x", n, got, known, want)
				}
			}
		})
	}
}

// Damaged CFI is an error that says what is wrong.
func TestDamaged(t *testing.T) {
	t.Parallel()
	endless := bytes.Repeat([]byte{cfaRemember}, maxRemembered+1)
	for _, c := range []struct {
		name, augmentation string
		program            []byte
		want               string
	}{
		{"opcode", "zR", []byte{0x3f, 0}, "instruction 0x3f is not defined"},
		{"cut", "zR", []byte{cfaDefCFA, RSP}, "in the middle of a value"},
		{"no state", "zR", []byte{cfaRestoreState}, "none is remembered"},
		{"states", "zR", endless, "too many states"},
		{"CFA's part", "zR", []byte{cfaDefExpression, 1, opLit0, cfaDefOffset, 1}, "no register plus offset"},
		{"long number", "zR", []byte{cfaDefOffset, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1}, "64 bits"},
		{"augmentation", "zQ", nil, `augmentation "zQ"`},
		{"old augmentation", "armcc+", nil, `augmentation "armcc+"`},
		{"no CFA", "zR", []byte{cfaDefExpression, 1, opReg31}, ErrUnknown.Error()},
		{"division", "zR", []byte{cfaDefExpression, 3, opLit0, opLit0, opDiv}, errDivision.Error()},
		{"loop", "zR", []byte{cfaDefExpression, 3, opSkip, 0xfd, 0xff}, errEndless.Error()},
		{"branch", "zR", []byte{cfaDefExpression, 3, opSkip, 0, 1}, errBranch.Error()},
		{"empty", "zR", []byte{cfaDefExpression, 0}, errStack.Error()},
		{"fault", "zR", []byte{cfaDefExpression, 2, opLit0, opDeref}, "bad address"},
		{"down", "zR", []byte{cfaDefOffset, 0, cfaValOffset, RIP, 1}, ErrNotUp.Error()},
		{"opcode of expressions", "zR", []byte{cfaDefExpression, 1, 0x9c}, "operation 0x9c is not for CFI"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			u := unwinder(assemble(c.augmentation, []byte{0, pePCRel | peSdata4}, c.program), nil, words(make([]uint64, 64)...))
			regs := at(8)
			_, err := u.Step(&regs)
			var end *EndError
			if !errors.As(err, &end) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if regs != at(8) {
				t.Errorf("registers changed to %v", &regs)
			}
		})
	}
}

// An undefined return address, and one that is zero, end a stack well.
func TestOutermost(t *testing.T) {
	t.Parallel()
	for name, program := range map[string][]byte{"undefined": {cfaUndefined, RIP}, "zero": nil} {
		u := unwinder(assemble("zR", []byte{0, pePCRel | peSdata4}, program), nil, words(make([]uint64, 64)...))
		if frames, err := u.Stack(at(8), 10); err != nil || len(frames) != 1 || frames[0].How != None {
			t.Errorf("%s: %v, %v", name, frames, err)
		}
	}
}

// A signal frame that leads to itself is not followed for ever, nor is a stack deeper than asked for.
func TestLoops(t *testing.T) {
	t.Parallel()
	sigreturn := []byte(sigreturns[0])
	context := make([]uint64, 64)
	context[(contextGregs+8*15)/8] = uint64(fuzzStack) // RSP
	context[(contextGregs+8*16)/8] = uint64(fuzzCode)  // RIP
	frames, err := unwinder(nil, sigreturn, words(context...)).Stack(at(0), 1000)
	if !errors.Is(err, ErrNotUp) || len(frames) != 2 || frames[0].How != Signal {
		t.Errorf("%v, %v", frames, err)
	}
	same := make([]uint64, 64)
	for i := range same {
		same[i] = uint64(fuzzCode) + 8
	}
	u := unwinder(assemble("zR", []byte{0, pePCRel | peSdata4}, nil), nil, words(same...))
	frames, err = u.Stack(at(8), 10)
	if !errors.Is(err, ErrDepth) || len(frames) != 10 {
		t.Errorf("%d frames, %v", len(frames), err)
	}
	if frames, err = u.Stack(at(8), 1000); len(frames) != 65 || !strings.Contains(err.Error(), "bad address") {
		t.Errorf("%d frames, %v", len(frames), err)
	}
}

// Without a table, with one of 8-byte entries, and in a .debug_frame that the file has, the function is found as well.
func TestWaysToFind(t *testing.T) {
	t.Parallel()
	info := assemble("zR", []byte{0, pePCRel | peSdata4}, []byte{cfaDefOffset, 24})
	linear := slices.Clone(info)
	linear[2], linear[3] = peOmit, peOmit
	debug := debugFrame()
	stack := words(make([]uint64, 64)...)
	binary.LittleEndian.PutUint64(stack[16:], 42)
	for _, c := range []struct {
		name string
		info []byte
		o    Options
	}{
		{"table", info, Options{}},
		{"linear", linear, Options{}},
		{"debug_frame", nil, Options{Section: func(_ *dso.Module, name string) ([]byte, uint64, error) {
			if name == ".debug_frame" {
				return debug, 0, nil
			}
			return nil, 0, nil
		}}},
		{"eh_frame of the file", nil, Options{Section: func(_ *dso.Module, name string) ([]byte, uint64, error) {
			if name == ".eh_frame" {
				return info[20:], uint64(fuzzHeader) + 20, nil
			}
			return nil, 0, nil
		}}},
	} {
		u := unwinder(c.info, nil, stack)
		u.options = c.o
		if c.info == nil {
			u.parts[0].module.Programs = nil
		}
		regs := at(8)
		if f, err := u.Step(&regs); err != nil || f.CFA != fuzzStack+24 || regs.PC != 42 {
			t.Errorf("%s: CFA %v, %v, %v", c.name, f.CFA, &regs, err)
		}
		if regs = at(64); len(c.info) > 0 {
			if _, err := u.Step(&regs); !errors.Is(err, ErrNoCFI) {
				t.Errorf("%s: behind the function: %v", c.name, err)
			}
		}
	}
}

// debugFrame is a .debug_frame of version 4 with one function.
func debugFrame() []byte {
	cie := []byte{0xff, 0xff, 0xff, 0xff, 4, 0, 8, 0, 1, 0x78, RIP, cfaDefCFA, RSP, 24, cfaOffset | RIP, 1}
	b := append(put32(nil, int64(len(cie))), cie...)
	b = put32(b, 4+16)
	b = put32(b, 0)
	return append(b, words(uint64(fuzzCode), 64)...)
}

// A module of another CPU is refused.
func TestMachine(t *testing.T) {
	t.Parallel()
	u := unwinder(sample(), nil, nil)
	u.parts[0].module.Machine = elf.EM_AARCH64
	regs := at(8)
	var other *MachineError
	if _, err := u.Step(&regs); !errors.As(err, &other) || other.Machine != elf.EM_AARCH64 {
		t.Error(err)
	}
}

// Code whose frames the caller knows is stepped over as it says.
func TestKnownCode(t *testing.T) {
	t.Parallel()
	u := unwinder(nil, nil, words(1, 2, 3, uint64(fuzzCode+0x21), 5))
	u.options.Code = []Code{
		{Start: fuzzCode + 8, End: fuzzCode + 16, CFA: 32},
		{Start: fuzzCode + 0x20, End: fuzzCode + 0x40, Outermost: true},
	}
	frames, err := u.Stack(at(10), 10)
	if err != nil || len(frames) != 2 || frames[0].How != Known || frames[1].PC != fuzzCode+0x21 {
		t.Errorf("%v, %v", frames, err)
	}
}

// The frame of code that heaptap has a thread run in the end of a page of the target's code: it returns to an
// rt_sigreturn, over a signal frame with the thread's own registers.
func TestBorrowedThread(t *testing.T) {
	t.Parallel()
	const cave = 0x800
	code := bytes.Repeat([]byte{0xcc}, 0x1000)
	copy(code[cave:], sigreturns[0])
	// push %rbx; call *%rbx; pop %rcx; mov %rax, %rbx; mov %r12, %rax; mov $-1, %rdi; syscall; ret
	copy(code[cave+16:], "\x53\xff\xd3\x59\x48\x89\xc3\x4c\x89\xe0\x48\xc7\xc7\xff\xff\xff\xff\x0f\x05\xc3")
	copy(code[0x100:], "\xc3")             // the borrowed function
	copy(code[0x200:], "\xff\xd0\xc3\x90") // call *%rax; ret: where the thread was
	context := make([]uint64, 40)
	context[(contextGregs+8*15)/8] = uint64(fuzzStack) + 8*50
	context[(contextGregs+8*16)/8] = uint64(fuzzCode) + 0x202
	stack := append([]uint64{uint64(fuzzCode) + cave + 19, 3, uint64(fuzzCode) + cave}, context...)
	stack = append(stack, make([]uint64, 60-len(stack))...)
	stack[50] = uint64(fuzzCode) + 0x202 // its caller, in turn
	u := unwinder(nil, code, words(stack...))
	u.parts = u.parts[1:]
	m := u.parts[0].module.Module
	m.Programs, m.Segments = nil, m.Segments[1:]
	m.Segments[0].End = fuzzCode + 0x300 // the cave is behind it, in its last page
	u = New([]*dso.Module{m}, u.reader, Options{})
	frames, err := u.Stack(at(0x100), 5)
	var got []mem.Addr
	for _, f := range frames {
		got = append(got, f.PC-fuzzCode)
	}
	want := []mem.Addr{0x100, cave + 19, cave, 0x202, 0x202}
	if !slices.Equal(got, want) || !frames[3].Signal || frames[3].Return {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}
