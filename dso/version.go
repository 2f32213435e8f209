package dso

import (
	"errors"

	"github.com/heaptap/heaptap/mem"
)

const (
	maxVersions   = 1 << 12 // versions of one module that are looked at; glibc defines about 50
	versionHidden = 0x8000
)

// version is a version that a module defines or needs.
type version struct {
	name    string
	library string // file name of the library of which it is needed, "" where it is the module's own
}

// version tells the version of the symbol at index (LSB, "Symbol Versioning"): one that the module defines or, where
// the program holds a copy of a library's variable or the symbol is another module's, one that it needs.
func (m *Module) version(index uint32) (v version, hidden bool, err error) {
	if m.dynamic.versym == 0 {
		return version{}, false, nil
	}
	at, err := m.within(m.dynamic.versym, uint64(index), 2)
	if err != nil {
		return version{}, false, err
	}
	n, err := mem.U16(m.reader, at)
	if err != nil {
		return version{}, false, err
	}
	hidden = n&versionHidden != 0
	if n &^= versionHidden; n <= 1 { // 0 local, 1 global: unversioned
		return version{}, hidden, nil
	}
	all, err := m.versions()
	if err != nil {
		return version{}, hidden, err
	}
	v, ok := all[n]
	if !ok {
		return version{}, hidden, errors.New("symbol has an undefined version")
	}
	return v, hidden, nil
}

// versions are the module's versions by the number that its symbols have, read once.
func (m *Module) versions() (map[uint16]version, error) {
	return m.lazy.versions.get(func() (map[uint16]version, error) {
		all := make(map[uint16]version)
		seen := m.through()
		if err := seen.neededVersions(all); err != nil {
			return nil, err
		}
		return all, seen.definedVersions(all)
	})
}

// definedVersions walks the definitions, {u16 version, flags, ndx, cnt; u32 hash, aux, next}, each with its name in the
// first auxiliary, {u32 name, next}.
func (m *Module) definedVersions(all map[uint16]version) error {
	if m.dynamic.verdef == 0 {
		return nil
	}
	at := m.dynamic.verdef
	for range min(m.dynamic.verdefs, maxVersions) {
		c := m.record(at, 20)
		c.Seek(at + 4)
		ndx := c.U16()
		c.Seek(at + 12)
		aux, next := c.U32(), c.U32()
		if c.Err() != nil {
			return c.Err()
		}
		c = m.record(at+mem.Addr(aux), 8)
		name, err := m.versionName(c)
		if err != nil {
			return err
		}
		all[ndx] = version{name: name}
		if next == 0 {
			return nil
		}
		at += mem.Addr(next)
	}
	return nil
}

// neededVersions walks the libraries, {u16 version, cnt; u32 file, aux, next}, and the versions needed of each,
// {u32 hash; u16 flags, ndx; u32 name, next}.
func (m *Module) neededVersions(all map[uint16]version) error {
	if m.dynamic.verneed == 0 {
		return nil
	}
	library, left := m.dynamic.verneed, maxVersions
	for range min(m.dynamic.verneeds, maxVersions) {
		c := m.record(library, 16)
		c.Seek(library + 2)
		count := c.U16()
		file, err := m.versionName(c)
		if err != nil {
			return err
		}
		at, next := library+mem.Addr(c.U32()), c.U32()
		for ; c.Err() == nil && count > 0 && left > 0; count, left = count-1, left-1 {
			c = m.record(at, 16)
			c.Seek(at + 6)
			ndx := c.U16()
			name, err := m.versionName(c)
			if err != nil {
				return err
			}
			all[ndx&^versionHidden] = version{name: name, library: file}
			at += mem.Addr(c.U32())
		}
		if c.Err() != nil || next == 0 {
			return c.Err()
		}
		library += mem.Addr(next)
	}
	return nil
}

// record returns a cursor on a record of so many bytes; on one that fails if they do not lie inside the module.
func (m *Module) record(at mem.Addr, size uint64) *mem.Cursor {
	if _, err := m.within(at, 0, size); err != nil {
		return mem.NewCursor(broken{err}, at)
	}
	return mem.NewCursor(m.reader, at)
}

// broken is memory of which nothing can be read.
type broken struct{ err error }

func (b broken) ReadAt([]byte, mem.Addr) error { return b.err }

// versionName reads the offset of a name with c, and the name.
func (m *Module) versionName(c *mem.Cursor) (string, error) {
	off := c.U32()
	if err := c.Err(); err != nil {
		return "", err
	}
	return m.dynString(uint64(off), maxSymbol)
}
