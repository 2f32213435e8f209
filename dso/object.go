package dso

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

const (
	maxSections     = 1 << 16 // section headers; objects linked from C have about 40
	maxSectionNames = 1 << 22 // bytes of their names
)

// object is an ELF file with the headers read. Nothing that they claim is allocated or followed before it was compared
// with the file's size.
type object struct {
	path     string // as the target sees it
	source   Source // how it was found
	file     io.ReaderAt
	size     uint64 // of the file, bytes
	kind     elf.Type
	machine  elf.Machine
	programs []elf.ProgHeader
	sections []elf.SectionHeader
	closer   io.Closer // nil if it lies in our memory
}

// Close closes the file.
func (o *object) Close() error {
	if o.closer == nil {
		return nil
	}
	return o.closer.Close()
}

// openObject takes over an open file; it closes it on error.
func openObject(f *os.File, path string, source Source) (*object, error) {
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	o, err := readObject(f, uint64(st.Size()))
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("ELF object %s: %w", path, err)
	}
	o.path, o.source, o.closer = path, source, f
	return o, nil
}

// readObject reads the headers of a 64-bit little-endian ELF file of so many bytes.
func readObject(r io.ReaderAt, size uint64) (*object, error) {
	o := &object{file: r, size: size}
	var h elf.Header64
	b, err := o.bytes(0, uint64(binary.Size(h)))
	if err != nil {
		return nil, err
	}
	if err := binary.Read(bytes.NewReader(b), binary.LittleEndian, &h); err != nil {
		return nil, err
	}
	if string(h.Ident[:4]) != elf.ELFMAG {
		return nil, errors.New("no ELF magic")
	}
	class, data := elf.Class(h.Ident[elf.EI_CLASS]), elf.Data(h.Ident[elf.EI_DATA])
	if class != elf.ELFCLASS64 || data != elf.ELFDATA2LSB {
		return nil, fmt.Errorf("%v %v cannot be read, only 64-bit little-endian", class, data)
	}
	o.kind, o.machine = elf.Type(h.Type), elf.Machine(h.Machine)
	if err := o.readPrograms(h); err != nil {
		return nil, err
	}
	return o, o.readSections(h)
}

func (o *object) readPrograms(h elf.Header64) error {
	if h.Phnum == 0 {
		return nil
	}
	if h.Phnum > maxPrograms || h.Phentsize != uint16(binary.Size(elf.Prog64{})) {
		return fmt.Errorf("%d program headers of %d bytes", h.Phnum, h.Phentsize)
	}
	b, err := o.bytes(h.Phoff, uint64(h.Phnum)*uint64(h.Phentsize))
	if err != nil {
		return fmt.Errorf("program headers: %w", err)
	}
	o.programs, err = decodePrograms(b)
	return err
}

func decodePrograms(b []byte) ([]elf.ProgHeader, error) {
	raw := make([]elf.Prog64, len(b)/binary.Size(elf.Prog64{}))
	if err := binary.Read(bytes.NewReader(b), binary.LittleEndian, raw); err != nil {
		return nil, err
	}
	progs := make([]elf.ProgHeader, len(raw))
	for i, p := range raw {
		progs[i] = elf.ProgHeader{Type: elf.ProgType(p.Type), Flags: elf.ProgFlag(p.Flags), Off: p.Off, Vaddr: p.Vaddr,
			Paddr: p.Paddr, Filesz: p.Filesz, Memsz: p.Memsz, Align: p.Align}
	}
	return progs, nil
}

// readSections reads the section headers and their names. With 0xff00 sections or more, the numbers that have no room
// in the ELF header are in section 0 (gABI, "Sections").
func (o *object) readSections(h elf.Header64) error {
	if h.Shoff == 0 {
		return nil
	}
	each := uint64(binary.Size(elf.Section64{}))
	if uint64(h.Shentsize) != each {
		return fmt.Errorf("section headers of %d bytes", h.Shentsize)
	}
	first, err := o.rawSections(h.Shoff, 1)
	if err != nil {
		return err
	}
	n, names := uint64(h.Shnum), uint64(h.Shstrndx)
	if n == 0 {
		n = first[0].Size
	}
	if elf.SectionIndex(names) == elf.SHN_XINDEX {
		names = uint64(first[0].Link)
	}
	if n == 0 || n > maxSections {
		return fmt.Errorf("%d sections", n)
	}
	raw, err := o.rawSections(h.Shoff, n)
	if err != nil {
		return err
	}
	var table []byte
	if names < n && raw[names].Type == uint32(elf.SHT_STRTAB) && raw[names].Size <= maxSectionNames {
		if table, err = o.bytes(raw[names].Off, raw[names].Size); err != nil {
			return fmt.Errorf("section names: %w", err)
		}
	}
	for _, s := range raw {
		o.sections = append(o.sections, elf.SectionHeader{Name: stringAt(table, s.Name), Type: elf.SectionType(s.Type),
			Flags: elf.SectionFlag(s.Flags), Addr: s.Addr, Offset: s.Off, Size: s.Size, FileSize: s.Size, Link: s.Link,
			Info: s.Info, Addralign: s.Addralign, Entsize: s.Entsize})
	}
	return nil
}

func (o *object) rawSections(off, n uint64) ([]elf.Section64, error) {
	b, err := o.bytes(off, n*uint64(binary.Size(elf.Section64{})))
	if err != nil {
		return nil, fmt.Errorf("section headers: %w", err)
	}
	raw := make([]elf.Section64, n)
	return raw, binary.Read(bytes.NewReader(b), binary.LittleEndian, raw)
}

// stringAt is the string at an offset of a string table, "" if it is not all there.
func stringAt(table []byte, off uint32) string {
	if uint64(off) >= uint64(len(table)) {
		return ""
	}
	n := bytes.IndexByte(table[off:], 0)
	if n < 0 {
		return ""
	}
	return string(table[off:][:n])
}

// bytes reads n bytes of the file at off. It allocates nothing for a part that the file does not have.
func (o *object) bytes(off, n uint64) ([]byte, error) {
	if off > o.size || n > o.size-off {
		return nil, fmt.Errorf("%d bytes at offset %#x of a file of %d: %w", n, off, o.size, io.ErrUnexpectedEOF)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(o.file, int64(off), int64(n)), b); err != nil {
		return nil, fmt.Errorf("%d bytes at offset %#x: %w", n, off, err)
	}
	return b, nil
}

// section finds a section by name.
func (o *object) section(name string) (elf.SectionHeader, bool) {
	i := slices.IndexFunc(o.sections, func(s elf.SectionHeader) bool { return s.Name == name })
	if i < 0 {
		return elf.SectionHeader{}, false
	}
	return o.sections[i], true
}

// data reads what a section holds, uncompressed, if that is no more than max bytes.
func (o *object) data(s elf.SectionHeader, max uint64) ([]byte, error) {
	if s.Type == elf.SHT_NOBITS {
		return nil, fmt.Errorf("section %s: not in this file", s.Name)
	}
	if s.Size > max {
		return nil, fmt.Errorf("section %s: %d bytes are more than the %d that are read", s.Name, s.Size, max)
	}
	b, err := o.bytes(s.Offset, s.Size)
	if err == nil {
		b, err = inflateSection(s, b, max)
	}
	if err != nil {
		return nil, fmt.Errorf("section %s: %w", s.Name, err)
	}
	return b, nil
}

// buildID is the file's build-id, nil if it has none. In a file of debug information alone the notes are there as a
// section, while the program headers tell where they were.
func (o *object) buildID() []byte {
	for _, s := range o.sections {
		if s.Type != elf.SHT_NOTE || s.Size > maxNotes {
			continue
		}
		if b, err := o.bytes(s.Offset, s.Size); err == nil {
			if id := noteBuildID(b, s.Addralign); id != nil {
				return id
			}
		}
	}
	for _, p := range o.programs {
		if p.Type != elf.PT_NOTE || p.Filesz > maxNotes {
			continue
		}
		if b, err := o.bytes(p.Off, p.Filesz); err == nil {
			if id := noteBuildID(b, p.Align); id != nil {
				return id
			}
		}
	}
	return nil
}
