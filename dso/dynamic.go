package dso

import (
	"debug/elf"
	"encoding/binary"
	"fmt"

	"github.com/heaptap/heaptap/mem"
)

const maxDynamic = 1 << 16 // bytes of a dynamic section that are looked at; real ones have about 500

// Tags that package elf does not know (gABI, "Relative Relocation Table").
const (
	dtRelrSize elf.DynTag = 35
	dtRelr     elf.DynTag = 36
)

// dynamic is what the dynamic section says, with pointers made into run-time addresses. The zero value is that of a
// static program: no tables, so no symbols.
type dynamic struct {
	addr     mem.Addr // of PT_DYNAMIC; 0 if there is none
	strings  mem.Addr
	strSize  uint64
	symbols  mem.Addr
	gnuHash  mem.Addr
	sysvHash mem.Addr
	versym   mem.Addr
	verdef   mem.Addr
	verdefs  uint64
	verneed  mem.Addr
	verneeds uint64
	soname   uint64 // offset in strings; valid if hasName
	hasName  bool
	debug    mem.Addr // value of DT_DEBUG: the loader's r_debug
	needed   []uint64 // DT_NEEDED: offsets in strings

	rela, rel, jmprel, relr                 mem.Addr
	relaSize, relSize, jmprelSize, relrSize uint64 // bytes
	jmprelIsRel                             bool   // DT_PLTREL
}

// readDynamic parses PT_DYNAMIC from memory. A module without one is fine.
func (m *Module) readDynamic() error {
	for _, p := range m.Programs {
		if p.Type != elf.PT_DYNAMIC {
			continue
		}
		at := m.Bias + mem.Addr(p.Vaddr)
		b, err := mem.Bytes(m.reader, at, int(min(p.Memsz, maxDynamic)))
		if err != nil {
			return fmt.Errorf("read dynamic section: %w", err)
		}
		m.dynamic = m.parseDynamic(b)
		m.dynamic.addr = at
		return nil
	}
	return nil
}

func (m *Module) parseDynamic(b []byte) dynamic {
	var d dynamic
	for ; len(b) >= 16; b = b[16:] {
		tag, v := elf.DynTag(binary.LittleEndian.Uint64(b)), binary.LittleEndian.Uint64(b[8:])
		switch tag {
		case elf.DT_NULL:
			return d
		case elf.DT_STRTAB:
			d.strings = m.pointer(v)
		case elf.DT_STRSZ:
			d.strSize = v
		case elf.DT_SYMTAB:
			d.symbols = m.pointer(v)
		case elf.DT_GNU_HASH:
			d.gnuHash = m.pointer(v)
		case elf.DT_HASH:
			d.sysvHash = m.pointer(v)
		case elf.DT_VERSYM:
			d.versym = m.pointer(v)
		case elf.DT_VERDEF:
			d.verdef = m.pointer(v)
		case elf.DT_VERDEFNUM:
			d.verdefs = v
		case elf.DT_VERNEED:
			d.verneed = m.pointer(v)
		case elf.DT_VERNEEDNUM:
			d.verneeds = v
		case elf.DT_SONAME:
			d.soname, d.hasName = v, true
		case elf.DT_DEBUG:
			d.debug = mem.Addr(v)
		case elf.DT_NEEDED:
			d.needed = append(d.needed, v)
		case elf.DT_RELA:
			d.rela = m.pointer(v)
		case elf.DT_RELASZ:
			d.relaSize = v
		case elf.DT_REL:
			d.rel = m.pointer(v)
		case elf.DT_RELSZ:
			d.relSize = v
		case elf.DT_JMPREL:
			d.jmprel = m.pointer(v)
		case elf.DT_PLTRELSZ:
			d.jmprelSize = v
		case elf.DT_PLTREL:
			d.jmprelIsRel = elf.DynTag(v) == elf.DT_REL
		case dtRelr:
			d.relr = m.pointer(v)
		case dtRelrSize:
			d.relrSize = v
		}
	}
	return d
}

// pointer makes a d_ptr into a run-time address, 0 if it points outside the module. glibc relocates most d_ptr in
// place; musl, the vDSO and read-only dynamic sections leave the link-time address. A relocated one lies inside the
// loaded module, which a link-time address (below the module's size) of a relocated module does not.
func (m *Module) pointer(v uint64) mem.Addr {
	if m.Contains(mem.Addr(v)) {
		return mem.Addr(v)
	}
	if a := m.Bias + mem.Addr(v); m.Contains(a) {
		return a
	}
	return 0
}

func (m *Module) readSoname() (string, error) {
	if !m.dynamic.hasName {
		return "", nil
	}
	s, err := m.dynString(m.dynamic.soname, 4096)
	if err != nil {
		return "", fmt.Errorf("soname of %s: %w", m.Path, err)
	}
	return s, nil
}

// dynString reads the string at an offset of the dynamic string table, at most max bytes.
func (m *Module) dynString(off uint64, max int) (string, error) {
	d := &m.dynamic
	if d.strings == 0 || off >= d.strSize {
		return "", fmt.Errorf("string at offset %#x of a table of %#x bytes", off, d.strSize)
	}
	at := d.strings + mem.Addr(off)
	if !m.Contains(at) {
		return "", fmt.Errorf("string at offset %#x lies outside the module", off)
	}
	return mem.CString(m.reader, at, int(min(uint64(max), d.strSize-off)))
}
