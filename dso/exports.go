package dso

import (
	"errors"
	"fmt"

	"github.com/heaptap/heaptap/mem"
)

// exportTable is the module's dynamic symbol table, read from memory whole, once. A module without one has an empty
// table.
func (m *Module) exportTable() (*table, error) {
	return m.lazy.exports.get(func() (*table, error) {
		t := &table{source: Dynamic}
		if m.Path == vdsoPath {
			t.source = VDSO
		}
		d := &m.dynamic
		if d.symbols == 0 || d.strings == 0 {
			return t, nil
		}
		n, err := m.through().symbolCount()
		if err == nil {
			t.entries, err = m.bulk(d.symbols, uint64(n)*symbolSize, maxSymtab)
		}
		if err == nil {
			t.names, err = m.bulk(d.strings, d.strSize, maxStrings)
		}
		if err != nil {
			return nil, fmt.Errorf("dynamic symbols of %s: %w", m.Path, err)
		}
		t.versions, err = m.bulkVersions(n)
		return t, err
	})
}

// bulkVersions reads the version numbers of n symbols at once.
func (m *Module) bulkVersions(n uint32) (func(uint32) (version, bool, error), error) {
	if m.dynamic.versym == 0 {
		return func(uint32) (version, bool, error) { return version{}, false, nil }, nil
	}
	numbers, err := m.bulk(m.dynamic.versym, uint64(n)*2, maxSymtab)
	if err != nil {
		return nil, fmt.Errorf("symbol versions of %s: %w", m.Path, err)
	}
	all, err := m.versions()
	if err != nil {
		return nil, fmt.Errorf("symbol versions of %s: %w", m.Path, err)
	}
	return func(i uint32) (version, bool, error) {
		number := uint16(numbers[i*2]) | uint16(numbers[i*2+1])<<8
		return all[number&^versionHidden], number&versionHidden != 0, nil
	}, nil
}

// symbolCount is the number of dynamic symbols. Nothing says it outright but the older hash table; in the newer one the
// longest chain ends at the last symbol.
func (m *Module) symbolCount() (uint32, error) {
	d := &m.dynamic
	switch {
	case d.sysvHash != 0:
		return m.u32(d.sysvHash, 1)
	case d.gnuHash == 0:
		return 0, nil
	}
	t, err := m.gnuHeader()
	if err != nil {
		return 0, err
	}
	if t.bucketCount > maxSymtab/symbolSize {
		return 0, fmt.Errorf("hash table with %d buckets", t.bucketCount)
	}
	last := uint32(0)
	for i := range t.bucketCount {
		index, err := m.u32(t.buckets, uint64(i))
		if err != nil {
			return 0, err
		}
		last = max(last, index)
	}
	if last < t.first { // nothing is exported
		return min(t.first, maxImports), nil
	}
	for range maxChain {
		h, err := m.u32(t.hashes, uint64(last-t.first))
		if err != nil {
			return 0, err
		}
		if last++; h&1 != 0 {
			return last, nil
		}
	}
	return 0, errors.New("hash chain does not end")
}

// bulk reads n bytes of the module at base, a table that the target claims. It grows with what can really be read.
func (m *Module) bulk(base mem.Addr, n, max uint64) ([]byte, error) {
	const step = 1 << 20
	if n == 0 {
		return nil, nil
	}
	if n > max {
		return nil, fmt.Errorf("table of %d bytes at %v: more than the %d that are read", n, base, max)
	}
	if _, err := m.within(base, 0, n); err != nil {
		return nil, err
	}
	var out []byte
	for at := uint64(0); at < n; at += step {
		b, err := mem.Bytes(m.reader, base+mem.Addr(at), int(min(step, n-at)))
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	return out, nil
}
