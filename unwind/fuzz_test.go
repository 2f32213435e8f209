package unwind

import (
	"bytes"
	"debug/elf"
	"errors"
	"slices"
	"testing"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
)

// At these addresses is what the fuzz tests walk.
const (
	fuzzHeader = mem.Addr(0x10000) // .eh_frame_hdr and .eh_frame
	fuzzCode   = mem.Addr(0x400000)
	fuzzStack  = mem.Addr(0x7ff000)
)

// fuzzModule has code, and what may be its CFI.
func fuzzModule(info, code []byte) (*dso.Module, []mem.Segment) {
	m := &dso.Module{
		Path: "fuzz", Machine: elf.EM_X86_64, Start: fuzzHeader, End: fuzzCode + 0x1000,
		Segments: []dso.Segment{
			{Start: fuzzHeader, End: fuzzHeader + mem.Addr(len(info)), FileSize: uint64(len(info)), Flags: elf.PF_R},
			{Start: fuzzCode, End: fuzzCode + 0x1000, FileSize: 0x1000, Flags: elf.PF_R | elf.PF_X},
		},
		Programs: []elf.ProgHeader{{Type: elf.PT_GNU_EH_FRAME, Vaddr: uint64(fuzzHeader), Memsz: uint64(len(info))}},
	}
	text := bytes.Repeat([]byte{0xf4}, 0x1000) // hlt
	copy(text, code)
	return m, []mem.Segment{{Addr: fuzzHeader, Data: info}, {Addr: fuzzCode, Data: text}}
}

// sample is a header with a table of one function, whose CFI has a bit of everything.
func sample() []byte {
	cfi := []byte{
		cfaAdvance | 1, cfaDefOffset, 16, cfaOffset | RBP, 2,
		cfaAdvance1, 3, cfaDefRegister, RBP, cfaRemember,
		cfaAdvance2, 4, 0, cfaRestore | RBP, cfaDefCFA, RSP, 8, cfaRestoreState,
		cfaAdvance4, 1, 0, 0, 0, cfaExpression, R12, 2, opBreg0 + RBP, 0x70,
		cfaDefExpression, 3, opBreg0 + RBP, 0x78, opDeref,
		cfaAdvance | 2, cfaValOffset, R13, 1, cfaRegister, R14, R15, cfaUndefined, RBX, cfaSameValue, R12,
		cfaOffsetExtended, R15, 3, cfaOffsetSigned, R15, 4, cfaRestoreExtended, R15, cfaDefCFASigned, RSP, 0x78,
		cfaDefOffsetSigned, 0x7e, cfaArgsSize, 16, cfaValExpression, RBX, 1, opLit0, cfaNegativeOffset, R15, 1,
		cfaValOffsetSigned, RBX, 2, cfaDefCFA, RSP, 8,
	}
	return assemble("zPLR", []byte{10, peAbsolute, 0, 0, 0, 0, 0, 0, 0, 0, peOmit, pePCRel | peSdata4}[:12], cfi)
}

// assemble makes an .eh_frame_hdr and an .eh_frame with one function, from fuzzCode on. The augmentation data come with
// their length before them.
func assemble(augmentation string, data, program []byte) []byte {
	b := []byte{1, pePCRel | peSdata4, peUdata4, peDataRel | peSdata4}
	b = put32(b, 20-4) // .eh_frame is behind the header
	b = put32(b, 1)
	b = put32(b, int64(fuzzCode-fuzzHeader))
	head := len(b)
	b = put32(b, 0) // address of the FDE
	cieAt := len(b)
	data[0] = byte(len(data) - 1)
	body := append([]byte{1}, augmentation...)
	body = append(body, 0, 1, 0x78, RIP) // code in bytes, data in units of -8
	body = append(body, data...)
	body = append(body, cfaDefCFA, RSP, 8, cfaOffset|RIP, 1)
	b = put32(b, int64(len(body)+4))
	b = put32(b, 0)
	b = append(b, body...)
	fdeAt := len(b)
	copy(b[head:], put32(nil, int64(fdeAt)))
	b = put32(b, int64(4+4+4+1+len(program)))
	b = put32(b, int64(len(b)-cieAt))
	b = put32(b, int64(fuzzCode)-int64(fuzzHeader)-int64(len(b)))
	b = put32(b, 64)
	b = append(b, 0)
	b = append(b, program...)
	return put32(b, 0)
}

func put32(b []byte, v int64) []byte { return append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24)) }

// walk walks a stack from some instructions of the function and looks that it has come to an end.
func walk(t *testing.T, info, code, stack []byte) {
	m, segments := fuzzModule(info, code)
	r := &mem.Fake{Segments: append(segments, mem.Segment{Addr: fuzzStack, Data: stack})}
	u := New([]*dso.Module{m}, r, Options{})
	for pc := fuzzCode; pc < fuzzCode+64; pc += 5 {
		regs := Regs{PC: pc, SP: fuzzStack}
		for n := range Registers {
			if n != RSP && n != RIP {
				regs.Set(n, uint64(fuzzStack)+uint64(n*8))
			}
		}
		frames, err := u.Stack(regs, 100)
		if len(frames) == 0 || len(frames) > 100 || len(frames) == 100 && err != nil && !errors.Is(err, ErrDepth) {
			t.Fatalf("%d frames, %v", len(frames), err)
		}
		for i, f := range frames[1:] {
			if !f.Signal && f.SP <= frames[i].SP {
				t.Fatalf("frame %d at %v comes after %v", i+1, f.SP, frames[i].SP)
			}
		}
	}
	rows, err := CompileModule(m, r, Options{})
	table := Table{Modules: []TableModule{{m.Start, m.End, 0, uint32(len(rows))}}, Rows: rows}
	if bad := table.check(); bad != nil {
		t.Fatalf("%v (%v)", bad, err)
	}
}

// Whatever stands where CFI should, a walk comes to an end.
func FuzzCFI(f *testing.F) {
	f.Add(sample(), []byte{0x55, 0x48, 0x89, 0xe5, 0xe8, 0, 0, 0, 0, 0x5d, 0xc3}, make([]byte, 256))
	f.Add(sample()[:40], []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, info, code, stack []byte) {
		if len(code) <= 0x1000 {
			walk(t, info, code, stack)
		}
	})
}

// Whatever the instructions of a function's CFI are, a walk comes to an end.
func FuzzProgram(f *testing.F) {
	f.Add([]byte{cfaAdvance | 1, cfaDefOffset, 16, cfaOffset | RBP, 2, cfaAdvance1, 3, cfaDefRegister, RBP}, "zR")
	f.Add([]byte{cfaDefExpression, 3, opBreg0 + RBP, 0x78, opDeref}, "zRS")
	f.Fuzz(func(t *testing.T, program []byte, augmentation string) {
		if len(program) < 1<<20 && len(augmentation) < 100 && !slices.Contains([]byte(augmentation), 0) {
			walk(t, assemble(augmentation, []byte{0, pePCRel | peSdata4}, program), nil, make([]byte, 1024))
		}
	})
}

// anything is memory that has something else at every address.
type anything struct{}

func (anything) ReadAt(b []byte, a mem.Addr) error {
	for i := range b {
		at := uint64(a) + uint64(i)
		x := (at&^7 + 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9
		x ^= x >> 31
		x = x & 0x7fff_ffff_fff8
		b[i] = byte(x >> (8 * (at & 7)))
	}
	return nil
}

// Whatever an expression is, it has a value or an error.
func FuzzExpression(f *testing.F) {
	f.Add([]byte{opBreg0 + RSP, 8, opBreg0 + RIP, 0, opLit0 + 15, opAnd, opLit0 + 11, opEq + 1, opLit0 + 3, opShl, opPlus},
		uint64(1))
	f.Add([]byte{opBreg0 + RSP, 0xa0, 1, opDeref}, uint64(2))
	f.Add([]byte{opSkip, 0xfd, 0xff}, uint64(3))
	f.Add([]byte{opConst8u, 1, 2, 3, 4, 5, 6, 7, 8, opDup, opMul, opBra, 1, 0, opNop, opPick, 0, opDerefSize, 4},
		uint64(4))
	f.Fuzz(func(t *testing.T, expr []byte, initial uint64) {
		regs := Regs{PC: fuzzCode, SP: fuzzStack}
		regs.Set(RBP, initial)
		first, err := evaluate(expr, &regs, anything{}, initial)
		again, failed := evaluate(expr, &regs, anything{}, initial)
		if first != again || (err == nil) != (failed == nil) {
			t.Fatalf("%d, %v and then %d, %v", first, err, again, failed)
		}
	})
}

// Whatever a table's bytes are, they are refused or can be walked with.
func FuzzTable(f *testing.F) {
	table := Table{Modules: []TableModule{{fuzzCode, fuzzCode + 64, 0, 3}}, Rows: []Row{
		{0, pack(KindSP, 8, FrameSame, 0)}, {1, pack(KindSP, 16, FrameAtCFA, -16)}, {4, pack(KindFP, 16, FrameAtCFA, -16)},
	}}
	b, err := table.AppendBinary(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, make([]byte, 128))
	f.Fuzz(func(t *testing.T, b, stack []byte) {
		table, err := ParseTable(b)
		if err != nil {
			return
		}
		again, err := table.AppendBinary(nil)
		if err != nil || !slices.Equal(b, again) {
			t.Fatalf("written as %x, %v", again, err)
		}
		r := &mem.Fake{Segments: []mem.Segment{{Addr: fuzzStack, Data: stack}}}
		for _, m := range table.Modules {
			regs := Regs{PC: m.Start, SP: fuzzStack}
			regs.Set(RBP, uint64(fuzzStack+16))
			if frames, err := table.Stack(regs, 100, r); len(frames) == 0 || len(frames) > 100 {
				t.Fatalf("%d frames, %v", len(frames), err)
			}
		}
	})
}
