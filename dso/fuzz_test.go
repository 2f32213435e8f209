package dso

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// imageAt is where the synthetic object lies.
const imageAt = mem.Addr(0x7f0000400000)

// Offsets in the synthetic object: one page, one segment, everything in it.
const (
	offNote    = 0x200
	offDynamic = 0x240
	offSymbols = 0x400
	offStrings = 0x500
	offGNU     = 0x580
	offSysV    = 0x600
	offVersym  = 0x680
	offVerdef  = 0x6a0
	offRela    = 0x700
	offJmprel  = 0x780
	offRelr    = 0x7c0
	offCode    = 0x800 // a PLT entry: its second half pushes index 1
	offSlots   = 0x900
	imageSize  = 0x1000
)

// image makes an object that defines alpha (version V1, default), alpha (V0, hidden) and beta, as a loader has it in
// memory: with d_ptr relocated (glibc) or not (musl), with either hash table; with slots of every kind.
func image(relocated, gnu bool) []byte {
	b := make([]byte, imageSize)
	put := func(off int, v any) {
		var w bytes.Buffer
		if err := binary.Write(&w, binary.LittleEndian, v); err != nil {
			panic(err)
		}
		copy(b[off:], w.Bytes())
	}
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Phoff: 64, Phentsize: 56, Phnum: 3}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	put(0, h)
	put(64, []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Filesz: imageSize, Memsz: imageSize, Align: 4096},
		{Type: uint32(elf.PT_DYNAMIC), Off: offDynamic, Vaddr: offDynamic, Filesz: 0x180, Memsz: 0x180, Align: 8},
		{Type: uint32(elf.PT_NOTE), Off: offNote, Vaddr: offNote, Filesz: 0x24, Memsz: 0x24, Align: 4},
	})
	put(offNote, []uint32{4, 4, 3})
	copy(b[offNote+12:], "GNU\x00\x01\x02\x03\x04")

	ptr := uint64(0)
	if relocated {
		ptr = uint64(imageAt)
	}
	const names = "\x00alpha\x00beta\x00V0\x00V1\x00lib.so\x00"
	copy(b[offStrings:], names)
	dyn := []elf.Dyn64{{Tag: int64(elf.DT_STRTAB), Val: ptr + offStrings},
		{Tag: int64(elf.DT_STRSZ), Val: uint64(len(names))},
		{Tag: int64(elf.DT_SYMTAB), Val: ptr + offSymbols}, {Tag: int64(elf.DT_VERSYM), Val: ptr + offVersym},
		{Tag: int64(elf.DT_VERDEF), Val: ptr + offVerdef}, {Tag: int64(elf.DT_VERDEFNUM), Val: 2},
		{Tag: int64(elf.DT_SONAME), Val: 18}, {Tag: int64(elf.DT_RELA), Val: ptr + offRela},
		{Tag: int64(elf.DT_RELASZ), Val: 4 * relaSize}, {Tag: int64(elf.DT_JMPREL), Val: ptr + offJmprel},
		{Tag: int64(elf.DT_PLTRELSZ), Val: 2 * relaSize}, {Tag: int64(elf.DT_PLTREL), Val: uint64(elf.DT_RELA)},
		{Tag: int64(dtRelr), Val: ptr + offRelr}, {Tag: int64(dtRelrSize), Val: 16}}
	if gnu {
		dyn = append(dyn, elf.Dyn64{Tag: int64(elf.DT_GNU_HASH), Val: ptr + offGNU})
	} else {
		dyn = append(dyn, elf.Dyn64{Tag: int64(elf.DT_HASH), Val: ptr + offSysV})
	}
	put(offDynamic, dyn)

	info := elf.ST_INFO(elf.STB_GLOBAL, elf.STT_FUNC)
	put(offSymbols, []elf.Sym64{{}, {Name: 1, Info: info, Shndx: 1, Value: 0x100, Size: 8},
		{Name: 1, Info: info, Shndx: 1, Value: 0x110}, {Name: 7, Info: info, Shndx: 1, Value: 0x120}})
	put(offVersym, []uint16{0, versionHidden | 2, 3, 1})
	put(offVerdef, []uint16{1, 0, 2, 1})
	put(offVerdef+8, []uint32{0, 20, 28, 12, 0}) // hash, aux, next; then its name V0
	put(offVerdef+28, []uint16{1, 0, 3, 1})
	put(offVerdef+36, []uint32{0, 20, 0, 15, 0})

	// One bucket, one bloom word that lets everything through, and the hashes of the three.
	put(offGNU, []uint32{1, 1, 1, 0})
	put(offGNU+16, ^uint64(0))
	put(offGNU+24, []uint32{1, gnuHashOf("alpha") &^ 1, gnuHashOf("alpha") &^ 1, gnuHashOf("beta") | 1})
	put(offSysV, []uint32{1, 4, 3, 0, 0, 1, 2})

	put(offRela, []elf.Rela64{{Off: offSlots, Info: 2<<32 | uint64(elf.R_X86_64_GLOB_DAT)},
		{Off: offSlots + 8, Info: 3<<32 | uint64(elf.R_X86_64_64), Addend: 4},
		{Off: offSlots + 16, Info: uint64(elf.R_X86_64_IRELATIVE), Addend: 0x100},
		{Off: offSlots + 24, Info: uint64(elf.R_X86_64_RELATIVE), Addend: 0x120}})
	put(offJmprel, []elf.Rela64{{Off: offSlots + 32, Info: 3<<32 | uint64(elf.R_X86_64_JMP_SLOT)},
		{Off: offSlots + 40, Info: 3<<32 | uint64(elf.R_X86_64_JMP_SLOT)}})
	put(offRelr, []uint64{offSlots + 48, 0b111}) // and the two words behind that
	at := func(a uint64) uint64 { return uint64(imageAt) + a }
	put(offSlots, []uint64{at(0x110), at(0x124), at(0x110), at(0x120), at(0x120), at(offCode + 6), at(0x120), at(0x100),
		at(0x120)})
	copy(b[offCode:], "\xff\x25\x22\x01\x00\x00\x68\x01\x00\x00\x00\xe9\x00\x00\x00\x00")
	return b
}

// load reads the object from fake memory.
func load(b []byte) (*Module, error) {
	mp := proc.Mapping{Start: imageAt, End: imageAt + mem.Addr(len(b)), Read: true, Exec: true, Inode: 1, Path: "lib.so"}
	memory := &mem.Fake{Segments: []mem.Segment{{Addr: imageAt, Data: b}}}
	s := &scan{memory: memory, reader: memory, maps: []proc.Mapping{mp}}
	return s.headerAt(mp)
}

func TestSynthetic(t *testing.T) {
	for _, relocated := range []bool{true, false} {
		for _, gnu := range []bool{true, false} {
			m, err := load(image(relocated, gnu))
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				name, version, want string
				value               mem.Addr
			}{{"alpha", "", "V1", 0x110}, {"alpha", "V0", "V0", 0x100}, {"alpha", "V1", "V1", 0x110}, {"beta", "", "", 0x120}} {
				s, err := m.lookup(c.name, c.version)
				if err != nil || s.Addr != imageAt+c.value || s.Version != c.want {
					t.Errorf("relocated %v, gnu %v: %s@%s: %+v, %v", relocated, gnu, c.name, c.version, s, err)
				}
			}
			if name, err := m.Soname(); err != nil || name != "lib.so" {
				t.Errorf("soname %q, %v", name, err)
			}
			testSyntheticSlots(t, m)
			if string(m.BuildID) != "\x01\x02\x03\x04" {
				t.Errorf("build-id %x", m.BuildID)
			}
		}
	}
}

func testSyntheticSlots(t *testing.T, m *Module) {
	t.Helper()
	slots, err := m.Slots()
	if err != nil {
		t.Fatal(err)
	}
	want := []Slot{
		{Addr: offSlots, Kind: GlobDat, Symbol: "alpha", Version: "V1", Defined: true, Value: 0x110},
		{Addr: offSlots + 8, Kind: Pointer, Symbol: "beta", Defined: true, Addend: 4, Value: 0x124},
		{Addr: offSlots + 16, Kind: IRelative, Addend: 0x100, Value: 0x110},
		{Addr: offSlots + 32, Kind: JumpSlot, Symbol: "beta", Defined: true, Value: 0x120},
		{Addr: offSlots + 40, Kind: JumpSlot, Symbol: "beta", Defined: true, Value: offCode + 6, Lazy: true},
	}
	for i := range want {
		want[i].Addr += imageAt
		want[i].Value += imageAt
	}
	if diff := cmp.Diff(want, slots); diff != "" {
		t.Errorf("slots (-want +got):\n%s", diff)
	}
	pointers, err := m.Pointers(imageAt + 0x120)
	var at []mem.Addr
	for _, p := range pointers {
		at = append(at, p.Addr-imageAt)
	}
	if !slices.Equal(at, []mem.Addr{offSlots + 24, offSlots + 48, offSlots + 64}) || err != nil {
		t.Errorf("pointers at %v, %v", at, err)
	}
	f, off, ok := NewSymbols([]*Module{m}).At(imageAt + offCode + 3)
	if !ok || f.Name != "beta@plt" || off != 3 {
		t.Errorf("in the PLT: %+v, %d, %v", f, off, ok)
	}
}

// A slot that leads to code of its module that pushes another number is bound: to a function that happens to begin so.
func TestPushOfAnotherIndex(t *testing.T) {
	b := image(true, true)
	copy(b[offSlots+32:], b[offSlots+40:offSlots+48])
	m, err := load(b)
	if err != nil {
		t.Fatal(err)
	}
	slots, err := m.Slots()
	if err != nil || slots[3].Lazy || !slots[4].Lazy || slots[3].Value != slots[4].Value {
		t.Errorf("slots %+v, %v", slots, err)
	}
}

// What a target claims beyond its means is an error, not a long walk.
func TestHostileTables(t *testing.T) {
	for name, change := range map[string]func(b []byte){
		"no buckets":         func(b []byte) { b[offGNU] = 0 },
		"bloom not 2^n":      func(b []byte) { b[offGNU+8] = 3 },
		"huge bloom":         func(b []byte) { copy(b[offGNU+8:], "\x00\x00\x00\x80") },
		"chain without end":  func(b []byte) { clear(b[offGNU+28:]); b[offGNU+24] = 1 },
		"bucket before":      func(b []byte) { b[offGNU+4] = 9 },
		"huge bucket":        func(b []byte) { copy(b[offGNU+24:], "\xff\xff\xff\xff") },
		"symbols outside":    func(b []byte) { copy(b[offDynamic+2*16+8:], "\xf0\x0f\x40\x00\x00\x7f") },
		"version undefined":  func(b []byte) { b[offVersym+2], b[offVersym+4], b[offVersym+6] = 9, 9, 9 },
		"version loops":      func(b []byte) { b[offVersym+4] = 9; b[offVerdef+16] = 0; b[offVerdef+28+16] = 0 },
		"name outside":       func(b []byte) { b[offDynamic+16+8] = 13 },
		"program headers":    func(b []byte) { b[56], b[57] = 0xff, 0xff },
		"no program headers": func(b []byte) { b[56] = 0 },
		"headers elsewhere":  func(b []byte) { b[38] = 0xff },
		"segment wraps":      func(b []byte) { copy(b[64+16:], "\xff\xff\xff\xff\xff\xff\xff\xff") },
		"not mapped so":      func(b []byte) { b[64+16+1] = 0x20 },
	} {
		t.Run(name, func(t *testing.T) {
			b := image(true, true)
			change(b)
			m, err := load(b)
			if err != nil {
				return
			}
			if s, err := m.DynamicVersion("alpha", "V1"); err == nil {
				t.Errorf("found %+v", s)
			}
		})
	}
	b := image(true, false)
	copy(b[offSysV:], "\x01\x00\x00\x00\x04\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00")
	m, err := load(b)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := m.Dynamic("gamma"); err == nil || errors.Is(err, ErrNoSymbol) {
		t.Errorf("a chain that runs in a circle gave %+v, %v", s, err)
	}
}

func FuzzModule(f *testing.F) {
	for _, relocated := range []bool{true, false} {
		f.Add(image(relocated, true)[:0x980])
		f.Add(image(relocated, false)[:0x980])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := load(append(b, make([]byte, max(0, imageSize-len(b)))...))
		if err != nil {
			return
		}
		for _, name := range []string{"alpha", "beta", "gamma"} {
			if s, err := m.Dynamic(name); err == nil && s.Name != name {
				t.Errorf("%s gave %+v", name, s)
			}
			_, _ = m.DynamicVersion(name, "V1")
		}
		_, _ = m.Imports("alpha", "delta")
		_, _ = m.Soname()
		if slots, err := m.Slots(); err == nil && len(slots) > imageSize/relSize {
			t.Errorf("%d slots", len(slots))
		}
		_, _ = m.Pointers(imageAt + 0x120)
		m.Main = true
		s := NewSymbols([]*Module{m})
		for _, name := range []string{"alpha", "lib.so!beta", "alpha@V0", "nothing", "ns::f(int)", "a.c:alpha"} {
			_, _ = s.Resolve(name)
		}
		_, _ = s.Search("*a*")
		for a := imageAt; a < imageAt+imageSize; a += 0x88 {
			if f, off, ok := s.At(a); ok && f.Addr+mem.Addr(off) != a {
				t.Errorf("at %v: %+v, %d", a, f, off)
			}
		}
	})
}

func FuzzNote(f *testing.F) {
	f.Add(image(true, true)[offNote:offNote+0x24], uint64(4))
	f.Fuzz(func(t *testing.T, b []byte, align uint64) {
		if id := noteBuildID(b, align); len(id) > maxBuildID {
			t.Errorf("build-id of %d bytes", len(id))
		}
	})
}
