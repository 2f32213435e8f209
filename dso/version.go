package dso

import (
	"errors"

	"github.com/heaptap/heaptap/mem"
)

const (
	maxVersions   = 1 << 12 // versions of one module that are looked at; glibc defines about 50
	versionHidden = 0x8000
)

// version tells the version of the symbol at index (LSB, "Symbol Versioning"): one that the module defines or, where
// the program holds a copy of a library's variable, one that it needs.
func (m *Module) version(index uint32) (name string, hidden bool, err error) {
	if m.dynamic.versym == 0 {
		return "", false, nil
	}
	at, err := m.within(m.dynamic.versym, uint64(index), 2)
	if err != nil {
		return "", false, err
	}
	v, err := mem.U16(m.reader, at)
	if err != nil {
		return "", false, err
	}
	hidden = v&versionHidden != 0
	if v &^= versionHidden; v <= 1 { // 0 local, 1 global: unversioned
		return "", hidden, nil
	}
	for _, find := range []func(uint16) (string, bool, error){m.definedVersion, m.neededVersion} {
		if name, ok, err := find(v); ok || err != nil {
			return name, hidden, err
		}
	}
	return "", hidden, errors.New("symbol has an undefined version")
}

// definedVersion walks the definitions, {u16 version, flags, ndx, cnt; u32 hash, aux, next}, each with its name in the
// first auxiliary, {u32 name, next}.
func (m *Module) definedVersion(ndx uint16) (string, bool, error) {
	if m.dynamic.verdef == 0 {
		return "", false, nil
	}
	at := m.dynamic.verdef
	for range min(m.dynamic.verdefs, maxVersions) {
		c := m.record(at, 20)
		c.Seek(at + 4)
		have := c.U16()
		c.Seek(at + 12)
		aux, next := c.U32(), c.U32()
		if c.Err() == nil && have == ndx {
			c = m.record(at+mem.Addr(aux), 8)
			name := c.U32()
			return m.versionName(c, name)
		}
		if c.Err() != nil || next == 0 {
			return "", false, c.Err()
		}
		at += mem.Addr(next)
	}
	return "", false, nil
}

// neededVersion walks the libraries, {u16 version, cnt; u32 file, aux, next}, and the versions needed of each,
// {u32 hash; u16 flags, ndx; u32 name, next}.
func (m *Module) neededVersion(ndx uint16) (string, bool, error) {
	if m.dynamic.verneed == 0 {
		return "", false, nil
	}
	library, left := m.dynamic.verneed, maxVersions
	for range min(m.dynamic.verneeds, maxVersions) {
		c := m.record(library, 16)
		c.Seek(library + 2)
		versions := c.U16()
		c.Seek(library + 8)
		at, next := library+mem.Addr(c.U32()), c.U32()
		for ; c.Err() == nil && versions > 0 && left > 0; versions, left = versions-1, left-1 {
			c = m.record(at, 16)
			c.Seek(at + 6)
			have, name, step := c.U16(), c.U32(), c.U32()
			if c.Err() == nil && have == ndx {
				return m.versionName(c, name)
			}
			at += mem.Addr(step)
		}
		if c.Err() != nil || next == 0 {
			return "", false, c.Err()
		}
		library += mem.Addr(next)
	}
	return "", false, nil
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

// versionName reads the name at an offset that was read with c.
func (m *Module) versionName(c *mem.Cursor, off uint32) (string, bool, error) {
	if err := c.Err(); err != nil {
		return "", false, err
	}
	name, err := m.dynString(uint64(off), maxSymbol)
	return name, err == nil, err
}
