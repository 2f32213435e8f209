package dso

import (
	"debug/dwarf"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
)

// File is an ELF file of which no process need exist: a program, a library, or what was split from one.
type File struct{ o *object }

// OpenFile opens a file and reads its headers. It opens regular files only: of others, to open them may do something.
// The caller closes it.
func OpenFile(path string) (*File, error) {
	if st, err := os.Stat(path); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("open %s: not a regular file", path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	o, err := openObject(f, path, Symtab)
	if err != nil {
		return nil, err
	}
	return &File{o}, nil
}

// Close closes the file.
func (f *File) Close() error { return f.o.Close() }

// Path is where the file was opened.
func (f *File) Path() string { return f.o.path }

// BuildID is the file's build-id, nil if it has none.
func (f *File) BuildID() []byte { return f.o.buildID() }

// HasDebug tells whether the file holds DWARF.
func (f *File) HasDebug() bool {
	_, ok := f.o.debugSection(".debug_info")
	return ok
}

// DebugLink is the name of the file that holds what was split from this one, and that file's CRC-32 (.gnu_debuglink).
func (f *File) DebugLink() (name string, crc uint32, ok bool) {
	name, crc, err := f.o.debugLink()
	return name, crc, err == nil
}

// AltLink is the name and the build-id of the file to which dwz moved what several objects share (.gnu_debugaltlink).
func (f *File) AltLink() (name string, buildID []byte, ok bool) {
	s, ok := f.o.debugSection(".gnu_debugaltlink")
	if !ok {
		return "", nil, false
	}
	b, err := f.o.data(s, maxDebugLink)
	if err != nil {
		return "", nil, false
	}
	name = stringAt(b, 0)
	if name == "" || len(b) <= len(name)+1 || len(b) > len(name)+1+maxBuildID {
		return "", nil, false
	}
	return name, b[len(name)+1:], true
}

// CRC is the file's CRC-32, as a debug link has it.
func (f *File) CRC() (uint32, error) {
	if f.o.size > maxDebugFile {
		return 0, fmt.Errorf("%s: %d bytes are too many for a checksum", f.o.path, f.o.size)
	}
	sum := crc32.NewIEEE()
	if _, err := io.Copy(sum, io.NewSectionReader(f.o.file, 0, int64(f.o.size))); err != nil {
		return 0, fmt.Errorf("checksum of %s: %w", f.o.path, err)
	}
	return sum.Sum32(), nil
}

// whole tells whether the file has the code, and not only what was split from it, where sections that are loaded are
// there without their bytes.
func (o *object) whole() bool {
	for _, s := range o.sections {
		if s.Flags&elf.SHF_EXECINSTR != 0 {
			return s.Type != elf.SHT_NOBITS
		}
	}
	return true
}

// Image is an ELF object as its files tell of it: names and DWARF by link-time address, as [Symbols] and [Module] know
// them of a loaded one. It may be used from several goroutines.
type Image struct {
	files   []*object
	module  *Module // as if loaded without relocation
	symbols *Symbols
	tables  sync.Once
}

// NewImage takes the files of one object: itself, if it is to be had, and what was split from it. They must stay open
// as long as the image is in use, and it is for the caller to know that they belong together ([File.BuildID]).
func NewImage(files ...*File) (*Image, error) {
	if len(files) == 0 {
		return nil, errors.New("image of an ELF object: no files")
	}
	i := &Image{}
	main := files[0].o
	for _, f := range files {
		i.files = append(i.files, f.o)
		if !main.whole() && f.o.whole() {
			main = f.o
		}
	}
	m := &Module{Path: main.path, Machine: main.machine, Type: main.kind, Programs: main.programs, BuildID: main.buildID(),
		lazy: new(lazy)}
	if err := m.layOut(); err != nil {
		return nil, fmt.Errorf("ELF object %s: %w", main.path, err)
	}
	m.reader = fileMemory{main, m.Segments}
	if main.whole() {
		if err := m.readDynamic(); err != nil {
			m.dynamic = dynamic{} // what it would tell is missing; the rest is as good
		}
	}
	i.module, i.symbols = m, NewSymbols([]*Module{m})
	return i, nil
}

// At names the function or object that contains a link-time address, as [Symbols.At] does.
func (i *Image) At(addr uint64) (Found, uint64, bool) {
	i.tables.Do(func() { _, _ = i.module.lazy.full.get(i.fullTable) })
	return i.symbols.At(mem.Addr(addr))
}

// fullTable is the symbol table of the first file that has one, else of the MiniDebugInfo.
func (i *Image) fullTable() (*table, error) {
	for _, o := range i.files {
		if t, err := o.symtab(); err == nil {
			return t, nil
		}
	}
	for _, o := range i.files {
		if in, err := o.mini(); err == nil {
			return in.symtab()
		}
	}
	return nil, elf.ErrNoSymbols
}

// Debug reads the DWARF of the first file that has any. The error wraps [ErrNoDebug] where none has.
func (i *Image) Debug() (*DebugInfo, error) {
	for _, o := range i.files {
		if d, err := o.dwarf(); !errors.Is(err, ErrNoDebug) {
			return d, err
		}
	}
	return nil, fmt.Errorf("debug information of %s: %w", i.module.Path, ErrNoDebug)
}

// fileMemory is the memory of an object that is loaded where its program headers say, before anything is relocated.
type fileMemory struct {
	o        *object
	segments []Segment
}

// ReadAt implements [mem.Reader].
func (f fileMemory) ReadAt(p []byte, a mem.Addr) error {
	for _, s := range f.segments {
		if a < s.Start || a >= s.End || uint64(len(p)) > uint64(s.End-a) {
			continue
		}
		at := uint64(a - s.Start)
		n := 0
		if at < s.FileSize {
			n = int(min(s.FileSize-at, uint64(len(p))))
			b, err := f.o.bytes(s.Offset+at, uint64(n))
			if err != nil {
				return err
			}
			copy(p, b)
		}
		clear(p[n:])
		return nil
	}
	return fmt.Errorf("%d bytes at %v: not in the file", len(p), a)
}

// Units are the places of the first entries of all units of .debug_info, for [dwarf.Reader.Seek]. From where a header
// makes no sense, nothing is listed.
func (d *DebugInfo) Units() []dwarf.Offset {
	info := d.sections[".debug_info"]
	var units []dwarf.Offset
	for at := uint64(0); at < uint64(len(info)); {
		u, ok := unitHeader(info[at:])
		if !ok {
			break
		}
		units = append(units, dwarf.Offset(at+u.first))
		at += u.size
	}
	return units
}

// Text is the string at an offset of .debug_str; "" if there is none.
func (d *DebugInfo) Text(offset int64) string {
	if offset < 0 || offset > int64(len(d.sections[".debug_str"])) {
		return ""
	}
	return stringAt(d.sections[".debug_str"], uint32(min(offset, 1<<32-1)))
}

// unitLayout says where the parts of a unit are, counted from its beginning.
type unitLayout struct{ first, size uint64 }

// unitHeader reads the header of a unit (DWARF 5, 7.5.1; DWARF 4, 7.5.1.1): its length, of 4 bytes or of 12 in the
// 64-bit format, its version, and what version and type put before the first entry.
func unitHeader(b []byte) (u unitLayout, ok bool) {
	le := binary.LittleEndian
	if len(b) < 24 {
		return u, false
	}
	at, word := uint64(4), uint64(4)
	length := uint64(le.Uint32(b))
	if length == 1<<32-1 {
		length, at, word = le.Uint64(b[4:]), 12, 8
	}
	if length < 7 || length > uint64(len(b))-at {
		return u, false
	}
	u.size = at + length
	version := le.Uint16(b[at:])
	switch {
	case version >= 2 && version <= 4: // version, abbreviations, size of an address
		u.first = at + 2 + word + 1
	case version == 5: // version, type, size of an address, abbreviations
		kind := b[at+2]
		u.first = at + 4 + word
		switch kind {
		case 4, 5: // skeleton, split: an identifier
			u.first += 8
		case 2, 6: // types: a signature and an offset
			u.first += 8 + word
		}
	default:
		return u, false
	}
	return u, u.first <= u.size
}

// Debug reads the file's DWARF. The error wraps [ErrNoDebug] where it has none.
func (f *File) Debug() (*DebugInfo, error) {
	d, err := f.o.dwarf()
	if err != nil {
		return nil, fmt.Errorf("debug information of %s: %w", f.o.path, err)
	}
	return d, nil
}
