// Package dso tells which ELF objects a live process has loaded, where, and what their dynamic symbols are.
//
// It reads what the loader reads, from the process's memory: program headers, dynamic section, hash and version tables,
// relocations. For these section headers are never needed, and a file that was replaced or deleted since it was mapped
// makes no difference. What memory does not hold, full symbol tables and DWARF, is read from the mapped file or from
// one that was split from it, and only where that file is proved to belong to what is in memory. Nothing is stopped and
// nothing is written. Whatever a target or a file claims (counts, offsets, chains, sizes) is clamped before it is
// followed.
//
// [Symbols] answers for all modules at once: what a name means, what stands at an address. [Module.Slots] tells which
// words lead calls and data from one module to another.
//
// A Module is a description of a moment: after the target unloads the object its addresses mean nothing. What is read
// of it later is kept with it. A Module may be used from several goroutines.
package dso

import (
	"debug/elf"
	"errors"
	"fmt"
	"path"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// ErrNoSymbol says that a module defines no symbol of that name (and version). It comes wrapped.
var ErrNoSymbol = errors.New("no such symbol")

// ErrOtherFile says that the file found for a module is not the one that is in memory. It comes wrapped.
var ErrOtherFile = errors.New("file is not the one in memory")

// ClassError says that an object is not of the class or CPU that can be read here: 64-bit, little-endian.
type ClassError struct {
	Path    string
	Class   elf.Class
	Data    elf.Data
	Machine elf.Machine
}

func (e *ClassError) Error() string {
	return fmt.Sprintf("ELF object %s: %v %v %v cannot be read, only 64-bit little-endian", e.Path, e.Class, e.Data,
		e.Machine)
}

// Module is one loaded ELF object. Addresses are the target's run-time addresses.
type Module struct {
	Path    string // as /proc/PID/maps names it, without " (deleted)"; "[vdso]" for the vDSO
	Deleted bool   // the file was unlinked or replaced since
	Main    bool   // the program itself
	Type    elf.Type
	Machine elf.Machine
	Bias    mem.Addr // run-time address minus p_vaddr; 0 for a program that is not position-independent

	Start, End mem.Addr         // pages from the lowest to behind the highest PT_LOAD
	Segments   []Segment        // the PT_LOADs, ascending
	Programs   []elf.ProgHeader // every program header, as in memory
	BuildID    []byte           // NT_GNU_BUILD_ID, nil if there is none

	process *proc.Process // nil in tests over fake memory
	reader  mem.Reader
	mapping proc.Mapping // of the first page, for opening the file
	listed  bool         // the loader's list has it: the program's own link namespace
	dynamic dynamic
	lazy    *lazy
}

// Segment is one PT_LOAD: the bytes [Start, End) of the address space, of which the first FileSize come from Offset of
// the file. The flags are the file's, not what mprotect made of them.
type Segment struct {
	Start, End mem.Addr
	Offset     uint64
	FileSize   uint64
	Flags      elf.ProgFlag
}

// Contains reports whether a lies between the module's first and last page.
func (m *Module) Contains(a mem.Addr) bool { return m.Start <= a && a < m.End }

// Segment returns the segment that contains a.
func (m *Module) Segment(a mem.Addr) (Segment, bool) {
	for _, s := range m.Segments {
		if s.Start <= a && a < s.End {
			return s, true
		}
	}
	return Segment{}, false
}

// Executable reports whether a lies in a segment that is code.
func (m *Module) Executable(a mem.Addr) bool {
	s, ok := m.Segment(a)
	return ok && s.Flags&elf.PF_X != 0
}

// Writable reports whether a lies in a segment that is data, .bss included.
func (m *Module) Writable(a mem.Addr) bool {
	s, ok := m.Segment(a)
	return ok && s.Flags&elf.PF_W != 0
}

// String is the module's path.
func (m *Module) String() string { return m.Path }

// Name is the last element of the module's path.
func (m *Module) Name() string { return path.Base(m.Path) }

// Symbol is one definition in a module.
type Symbol struct {
	Name    string
	Version string   // "" if the module has no versions
	Hidden  bool     // not the default version of its name (name@VERSION rather than name@@VERSION)
	Addr    mem.Addr // run-time address; for a thread-local symbol its offset in the module's TLS block
	Size    uint64   // bytes; 0 if unknown
	Type    elf.SymType
	Bind    elf.SymBind
}

// DynamicSection is where the module's dynamic section stands, 0 if it has none.
func (m *Module) DynamicSection() mem.Addr { return m.dynamic.addr }
