package dso

import (
	"errors"

	"github.com/heaptap/heaptap/mem"
)

const (
	maxVersions   = 1 << 12 // version definitions; glibc has about 50
	versionHidden = 0x8000
)

// version tells the version of the symbol at index, from DT_VERSYM and DT_VERDEF (LSB, "Symbol Versioning").
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
	if v &^= versionHidden; v <= 1 || m.dynamic.verdef == 0 { // 0 local, 1 global: unversioned
		return "", hidden, nil
	}
	name, err = m.versionName(v)
	return name, hidden, err
}

// versionName walks the definitions: {u16 version, flags, ndx, cnt; u32 hash, aux, next}, each with its name in the
// first auxiliary {u32 name, next}.
func (m *Module) versionName(ndx uint16) (string, error) {
	at := m.dynamic.verdef
	for range min(m.dynamic.verdefs, maxVersions) {
		if _, err := m.within(at, 0, 20); err != nil {
			return "", err
		}
		c := mem.NewCursor(m.reader, at+4)
		have := c.U16()
		c.Seek(at + 12)
		aux, next := c.U32(), c.U32()
		if err := c.Err(); err != nil {
			return "", err
		}
		if have == ndx {
			if _, err := m.within(at+mem.Addr(aux), 0, 8); err != nil {
				return "", err
			}
			off, err := mem.U32(m.reader, at+mem.Addr(aux))
			if err != nil {
				return "", err
			}
			return m.dynString(uint64(off), maxSymbol)
		}
		if next == 0 {
			break
		}
		at += mem.Addr(next)
	}
	return "", errors.New("symbol has an undefined version")
}
