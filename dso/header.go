package dso

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

const (
	pageSize    = 4096 // the smallest page of every supported CPU: rounding to it never leaves a mapping
	maxPrograms = 256  // program headers; the largest real objects have about 15
	addressTop  = 1 << 56
)

var errNotLoaded = errors.New("segments are not mapped as the program headers say")

// headerAt builds the module whose ELF header is in memory at h, the start of mapping mp.
func (s *scan) headerAt(mp proc.Mapping) (*Module, error) {
	b, err := mem.Bytes(s.reader, mp.Start, binary.Size(elf.Header64{}))
	if err != nil {
		return nil, err
	}
	var h elf.Header64
	if err := binary.Read(bytes.NewReader(b), binary.LittleEndian, &h); err != nil {
		return nil, err
	}
	if string(h.Ident[:4]) != elf.ELFMAG {
		return nil, fmt.Errorf("mapping %v of %s: no ELF magic", mp.Start, mp.Path)
	}
	class, data := elf.Class(h.Ident[elf.EI_CLASS]), elf.Data(h.Ident[elf.EI_DATA])
	if class != elf.ELFCLASS64 || data != elf.ELFDATA2LSB {
		return nil, &ClassError{Path: mp.Path, Class: class, Data: data, Machine: elf.Machine(h.Machine)}
	}
	if h.Phentsize != uint16(binary.Size(elf.Prog64{})) {
		return nil, fmt.Errorf("ELF object %s: program headers of %d bytes", mp.Path, h.Phentsize)
	}
	at, ok := mp.Start.Add(h.Phoff)
	if !ok {
		return nil, fmt.Errorf("ELF object %s: program headers at offset %#x", mp.Path, h.Phoff)
	}
	progs, err := s.programs(at, int(h.Phnum))
	if err != nil {
		return nil, fmt.Errorf("ELF object %s: %w", mp.Path, err)
	}
	m := &Module{Type: elf.Type(h.Type), Machine: elf.Machine(h.Machine), Programs: progs, mapping: mp}
	for _, p := range progs {
		if p.Type == elf.PT_LOAD && p.Off < pageSize {
			m.Bias = mp.Start - mem.Addr(p.Vaddr).AlignDown(pageSize)
			return m, s.finish(m)
		}
	}
	return nil, fmt.Errorf("ELF object %s: no segment holds the header", mp.Path)
}

// programsAt builds the program's own module from the headers that the kernel announced in AT_PHDR, for a program
// whose ELF header is not in memory.
func (s *scan) programsAt(at mem.Addr, n int) (*Module, error) {
	progs, err := s.programs(at, n)
	if err != nil {
		return nil, err
	}
	m := &Module{Type: elf.ET_EXEC, Programs: progs}
	for _, p := range progs {
		if p.Type == elf.PT_PHDR {
			m.Bias = at - mem.Addr(p.Vaddr)
		}
	}
	if m.Bias != 0 {
		m.Type = elf.ET_DYN
	}
	m.mapping, _ = s.mapping(at)
	return m, s.finish(m)
}

func (s *scan) programs(at mem.Addr, n int) ([]elf.ProgHeader, error) {
	if n < 1 || n > maxPrograms {
		return nil, fmt.Errorf("%d program headers", n)
	}
	b, err := mem.Bytes(s.reader, at, n*binary.Size(elf.Prog64{}))
	if err != nil {
		return nil, fmt.Errorf("read program headers: %w", err)
	}
	return decodePrograms(b)
}

// finish fills in what follows from the program headers and the bias, and reads notes and dynamic section.
func (s *scan) finish(m *Module) error {
	m.reader, m.process, m.lazy = s.reader, s.process, new(lazy)
	defer func() { m.reader = s.memory }()
	m.Path, m.Deleted = m.mapping.Path, m.mapping.Deleted
	if err := m.layOut(); err != nil {
		return fmt.Errorf("ELF object %s: %w", m.Path, err)
	}
	if !s.loaded(m) {
		return fmt.Errorf("ELF object %s: %w", m.Path, errNotLoaded)
	}
	m.BuildID = m.buildID()
	if err := m.readDynamic(); err != nil {
		return fmt.Errorf("ELF object %s: %w", m.Path, err)
	}
	return nil
}

func (m *Module) layOut() error {
	for _, p := range m.Programs {
		if p.Type != elf.PT_LOAD || p.Memsz == 0 {
			continue
		}
		start := m.Bias + mem.Addr(p.Vaddr)
		if p.Memsz > addressTop || start >= addressTop || p.Filesz > p.Memsz {
			return fmt.Errorf("segment at %#x of %#x bytes is not possible", p.Vaddr, p.Memsz)
		}
		m.Segments = append(m.Segments, Segment{Start: start, End: start + mem.Addr(p.Memsz), Offset: p.Off,
			FileSize: p.Filesz, Flags: p.Flags})
	}
	if len(m.Segments) == 0 {
		return errors.New("no loadable segment")
	}
	slices.SortFunc(m.Segments, func(a, b Segment) int { return cmp.Compare(a.Start, b.Start) })
	m.Start = m.Segments[0].Start.AlignDown(pageSize)
	for _, seg := range m.Segments {
		m.End = max(m.End, (seg.End + pageSize - 1).AlignDown(pageSize))
	}
	return nil
}

// loaded tells an object that was loaded from one whose file is merely mapped to be read: there some segment is not
// where the program headers want it, or code is not executable. Memory of another file, or of none, may stand in for a
// segment: programs move their code to huge pages.
func (s *scan) loaded(m *Module) bool {
	for _, seg := range m.Segments {
		mp, ok := s.mapping(seg.Start)
		if !ok || seg.Flags&elf.PF_X != 0 && !mp.Exec {
			return false
		}
		sameFile := mp.Inode != 0 && mp.Inode == m.mapping.Inode && mp.Dev == m.mapping.Dev
		if sameFile && seg.FileSize > 0 && mp.Offset+uint64(seg.Start-mp.Start) != seg.Offset {
			return false
		}
	}
	return true
}
