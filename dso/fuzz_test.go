package dso

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"testing"

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
	imageSize  = 0x1000
)

// image makes an object that defines alpha (version V1, default), alpha (V0, hidden) and beta, as a loader has it in
// memory: with d_ptr relocated (glibc) or not (musl), with either hash table.
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
		{Tag: int64(elf.DT_SONAME), Val: 18}}
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
			if string(m.BuildID) != "\x01\x02\x03\x04" {
				t.Errorf("build-id %x", m.BuildID)
			}
		}
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
		f.Add(image(relocated, true)[:0x700])
		f.Add(image(relocated, false)[:0x700])
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
