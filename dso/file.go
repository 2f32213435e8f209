package dso

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/heaptap/heaptap/mem"
)

const maxSymtab = 1 << 28 // bytes of .symtab, uncompressed; a debug build of CPython has 1 MB

// Symtab finds symbols by name in the full symbol table of the module's file, local ones included. A name also matches
// the copies that link-time optimisation made of it (name.lto_priv.0). What is not found is not in the result; a
// stripped file gives an error that wraps [elf.ErrNoSymbols]; a file that is not the one in memory, [ErrOtherFile].
func (m *Module) Symtab(names ...string) (map[string]Symbol, error) {
	f, err := m.open()
	if err != nil {
		return nil, fmt.Errorf("symbol table of %s: %w", m.Path, err)
	}
	defer f.Close()
	if sec := f.SectionByType(elf.SHT_SYMTAB); sec == nil || sec.Size > maxSymtab {
		return nil, fmt.Errorf("symbol table of %s: %w", m.Path, elf.ErrNoSymbols)
	}
	syms, err := f.Symbols()
	if err != nil {
		return nil, fmt.Errorf("symbol table of %s: %w", m.Path, err)
	}
	want := make(map[string]bool, len(names))
	for _, n := range names {
		want[n] = true
	}
	out := make(map[string]Symbol)
	for _, sym := range syms {
		name, _, _ := strings.Cut(sym.Name, ".lto_priv.")
		if !want[name] || sym.Section == elf.SHN_UNDEF || elf.ST_TYPE(sym.Info) > elf.STT_FUNC {
			continue
		}
		out[name] = m.define(name, elf.Sym64{Info: sym.Info, Shndx: uint16(sym.Section), Value: sym.Value, Size: sym.Size})
	}
	return out, nil
}

// open opens the mapped file and proves that it is what memory holds: the build-ids are equal or, where the linker
// wrote none, the program headers are.
func (m *Module) open() (*elfFile, error) {
	if m.process == nil {
		return nil, errors.New("not of a live process")
	}
	file, err := m.process.OpenMapped(m.mapping)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(file)
	if err != nil {
		file.Close()
		return nil, err
	}
	if !m.same(f) {
		file.Close()
		return nil, ErrOtherFile
	}
	return &elfFile{File: f, Closer: file}, nil
}

type elfFile struct {
	*elf.File
	io.Closer
}

func (f *elfFile) Close() error { return f.Closer.Close() }

func (m *Module) same(f *elf.File) bool {
	if len(f.Progs) != len(m.Programs) {
		return false
	}
	for i, p := range f.Progs {
		if p.ProgHeader != m.Programs[i] {
			return false
		}
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > maxNotes {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return false
		}
		if id := noteBuildID(b, p.Align); id != nil {
			return bytes.Equal(id, m.BuildID)
		}
	}
	return m.BuildID == nil
}

// At returns the run-time address of a link-time address of the module.
func (m *Module) At(vaddr uint64) mem.Addr { return m.Bias + mem.Addr(vaddr) }
