package dso

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

const (
	maxLinks = 1 << 16 // entries of the loader's list that are followed
	retries  = 4       // a library may come or go between reading the maps and reading its header
)

const vdsoPath = "[vdso]" // as the kernel names its mapping

// Auxiliary vector entries (linux/auxvec.h).
const (
	atPHDR        = 3
	atPHNUM       = 5
	atSYSINFOEHDR = 33
)

// Modules lists the ELF objects that the process has loaded: the program first, then in the loader's own order, then
// those the loader's list does not name (the vDSO, other link namespaces, all of them in a static program) by address.
//
// What is loaded is decided by the mappings and the ELF headers in memory; the loader's list (DT_DEBUG) adds order and
// objects whose code was moved away from their file. A 32-bit program gives a *[ClassError].
func Modules(p *proc.Process, r mem.Reader) ([]*Module, error) {
	var err error
	for range retries {
		var ms []*Module
		if ms, err = modulesOnce(p, r); err == nil {
			return ms, nil
		}
		var fault *mem.Fault
		if !errors.As(err, &fault) || !errors.Is(err, syscall.EFAULT) && !errors.Is(err, syscall.EIO) {
			break
		}
	}
	return nil, fmt.Errorf("modules of process %d: %w", p.Pid, err)
}

func modulesOnce(p *proc.Process, r mem.Reader) ([]*Module, error) {
	maps, err := p.Maps()
	if err != nil {
		return nil, err
	}
	auxv, err := p.Auxv()
	if err != nil {
		return nil, err
	}
	// An object's headers and notes are mostly on its first page.
	s := &scan{process: p, memory: r, reader: newBlocks(r, pageSize), maps: maps}
	if err := s.program(auxv); err != nil {
		return nil, err
	}
	if err := s.mapped(mem.Addr(auxv[atSYSINFOEHDR])); err != nil {
		return nil, err
	}
	s.order(s.links())
	return s.modules, nil
}

// scan is one look at a process's mappings.
type scan struct {
	process *proc.Process
	memory  mem.Reader     // the target's
	reader  mem.Reader     // the same, for the scan alone
	maps    []proc.Mapping // ascending
	modules []*Module      // the program first
}

func (s *scan) mapping(a mem.Addr) (proc.Mapping, bool) {
	i, found := slices.BinarySearchFunc(s.maps, a, func(m proc.Mapping, a mem.Addr) int { return cmp.Compare(m.Start, a) })
	if !found {
		i--
	}
	if i < 0 || !s.maps[i].Contains(a) {
		return proc.Mapping{}, false
	}
	return s.maps[i], true
}

func (s *scan) known(a mem.Addr) bool {
	return slices.ContainsFunc(s.modules, func(m *Module) bool { return m.Contains(a) })
}

// program finds the program itself. Its headers are where AT_PHDR says; its ELF header is at the start of the mapping
// they are in, save for programs laid out by hand.
func (s *scan) program(auxv map[uint64]uint64) error {
	phdr := mem.Addr(auxv[atPHDR])
	mp, ok := s.mapping(phdr)
	if !ok {
		return s.oddProgram(phdr)
	}
	m, err := s.headerAt(mp)
	if class := (*ClassError)(nil); errors.As(err, &class) {
		return err
	}
	if err != nil {
		if m, err = s.programsAt(phdr, int(min(auxv[atPHNUM], maxPrograms+1))); err != nil {
			return fmt.Errorf("the program: %w", err)
		}
	}
	m.Main = true
	s.modules = append(s.modules, m)
	return nil
}

// oddProgram explains an AT_PHDR that points nowhere. The auxiliary vector of a 32-bit process has 32-bit entries, and
// so reads as nonsense: its ELF header tells.
func (s *scan) oddProgram(phdr mem.Addr) error {
	for _, mp := range s.maps {
		if mp.Offset != 0 || mp.Inode == 0 {
			continue
		}
		var class *ClassError
		if _, err := s.headerAt(mp); errors.As(err, &class) {
			return class
		}
	}
	return fmt.Errorf("program headers at %v are not mapped", phdr)
}

// mapped finds the objects among the mappings: a file of which some part is executable, mapped from its beginning, and
// the vDSO.
func (s *scan) mapped(vdso mem.Addr) error {
	type file struct{ dev, inode uint64 }
	code := make(map[file]bool)
	for _, mp := range s.maps {
		if mp.Exec && mp.Inode != 0 {
			code[file{mp.Dev, mp.Inode}] = true
		}
	}
	for _, mp := range s.maps {
		isCode := mp.Inode != 0 && mp.Offset == 0 && code[file{mp.Dev, mp.Inode}]
		if !mp.Read || s.known(mp.Start) || !isCode && (mp.Start != vdso || vdso == 0) {
			continue
		}
		if err := s.add(mp); err != nil {
			return err
		}
	}
	return nil
}

// add adds the module whose header mp starts with. What is not an object, or not loaded as one, is left out; a read
// that fails is an error only where the mapping is still there.
func (s *scan) add(mp proc.Mapping) error {
	magic, err := mem.Bytes(s.reader, mp.Start, len(elf.ELFMAG))
	if err != nil || string(magic) != elf.ELFMAG {
		return s.gone(mp, err)
	}
	m, err := s.headerAt(mp)
	if err == nil {
		s.modules = append(s.modules, m)
		return nil
	}
	if fault := (*mem.Fault)(nil); errors.As(err, &fault) {
		return s.gone(mp, err)
	}
	return nil
}

// gone is nil if mp cannot be read for a reason that stays: it is beyond the end of its file, or not readable. It is
// err if the mapping went away, and the maps must be read again.
func (s *scan) gone(mp proc.Mapping, err error) error {
	if err == nil || s.process == nil {
		return nil
	}
	maps, mapsErr := s.process.Maps()
	if mapsErr != nil {
		return mapsErr
	}
	if slices.Contains(maps, mp) {
		return nil
	}
	return err
}

// links follows the loader's list. Where the loader itself was called as a program, another module than the first has
// DT_DEBUG.
func (s *scan) links() []Link {
	loader := Loader(s.modules)
	if loader == 0 {
		return nil
	}
	return Links(s.reader, loader)
}

// order puts the modules in the loader's order, and adds those that only the loader knows of: a program that moved its
// code to huge pages has no executable mapping of the file any more.
//
// The loader's first is the program. The kernel takes for it a loader that was called as one (ld.so PROGRAM).
func (s *scan) order(links []Link) {
	rank := make(map[*Module]int)
	for i, l := range links {
		if !s.known(l.Dynamic) {
			if mp, ok := s.header(l); ok {
				if m, err := s.headerAt(mp); err == nil && m.Contains(l.Dynamic) {
					s.modules = append(s.modules, m)
				}
			}
		}
		for _, m := range s.modules {
			if m.dynamic.addr == l.Dynamic && m.dynamic.addr != 0 {
				rank[m], m.listed = i+1, true
			}
		}
	}
	if i := slices.IndexFunc(s.modules, func(m *Module) bool { return rank[m] == 1 }); i > 0 {
		s.modules[0].Main, s.modules[i].Main = false, true
	}
	place := func(m *Module) int {
		switch {
		case m.Main:
			return 0
		case rank[m] != 0:
			return rank[m]
		}
		return len(links) + 1
	}
	slices.SortStableFunc(s.modules, func(a, b *Module) int {
		return cmp.Or(cmp.Compare(place(a), place(b)), cmp.Compare(a.Start, b.Start))
	})
}

// header finds the mapping that holds the ELF header of an object: the nearest first page of the same file before its
// dynamic section.
func (s *scan) header(l Link) (proc.Mapping, bool) {
	if mp, ok := s.mapping(l.Bias); ok && mp.Start == l.Bias && mp.Offset == 0 {
		return mp, true
	}
	dyn, ok := s.mapping(l.Dynamic)
	if !ok || dyn.Inode == 0 {
		return proc.Mapping{}, false
	}
	for _, mp := range slices.Backward(s.maps) {
		if mp.Start <= l.Dynamic && mp.Offset == 0 && mp.Inode == dyn.Inode && mp.Dev == dyn.Dev {
			return mp, true
		}
	}
	return proc.Mapping{}, false
}

// Loader is the address of the loader's struct r_debug (link.h), by which debuggers find its list, and the agent too; 0
// in a static program.
func Loader(modules []*Module) mem.Addr {
	for _, m := range modules {
		if m.dynamic.debug != 0 {
			return m.dynamic.debug
		}
	}
	return 0
}

// Link is one entry of the loader's list.
type Link struct {
	At      mem.Addr // where it stands
	Bias    mem.Addr // of the module
	Dynamic mem.Addr // the module's dynamic section
}

// Links reads the loader's list: r_debug is {int version; link_map *map@8; ...}, each link_map {l_addr, l_name, l_ld,
// l_next, l_prev} (link.h, the same in glibc and musl). The list changes under us while the target loads a library, so it
// ends quietly at what cannot be read.
func Links(r mem.Reader, loader mem.Addr) []Link {
	at, err := mem.Pointer(r, loader+8)
	if err != nil {
		return nil
	}
	var out []Link
	seen := make(map[mem.Addr]bool)
	for at != 0 && len(out) < maxLinks && !seen[at] {
		seen[at] = true
		b, err := mem.Bytes(r, at, 32)
		if err != nil {
			break
		}
		word := func(i int) mem.Addr { return mem.Addr(binary.LittleEndian.Uint64(b[i*8:])) }
		// A mapping's name is at least as good as l_name.
		out = append(out, Link{At: at, Bias: word(0), Dynamic: word(2)})
		at = word(3)
	}
	return out
}
