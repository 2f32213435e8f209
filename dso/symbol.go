package dso

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/heaptap/heaptap/mem"
)

const (
	symbolSize = 24      // Elf64_Sym
	maxChain   = 1 << 12 // steps along one hash chain; real chains are shorter than 50
	maxImports = 1 << 17 // undefined symbols that are looked at
	maxSymbol  = 1 << 14 // bytes of a name: C++ names get long
)

// Dynamic finds the symbol that the dynamic loader would bind an unversioned reference to: the default version of
// name. The error wraps [ErrNoSymbol] if the module defines none.
func (m *Module) Dynamic(name string) (Symbol, error) { return m.lookup(name, "") }

// DynamicVersion finds name in exactly this version, default or not.
func (m *Module) DynamicVersion(name, version string) (Symbol, error) { return m.lookup(name, version) }

// dynamicAll finds all versions of name that the module defines.
func (m *Module) dynamicAll(name string) ([]Symbol, error) {
	var all []Symbol
	err := m.hashed(name, func(index uint32) (bool, error) {
		sym, ok, err := m.symbolAt(index, name)
		if ok && err == nil {
			all = append(all, sym)
		}
		return false, err
	})
	return all, err
}

func (m *Module) lookup(name, version string) (Symbol, error) {
	var found *Symbol
	visit := func(index uint32) (bool, error) {
		sym, ok, err := m.symbolAt(index, name)
		if err != nil || !ok {
			return false, err
		}
		if version != "" && sym.Version != version {
			return false, nil
		}
		// Without a wanted version, a hidden one is only good while nothing better turns up.
		if found == nil || found.Hidden {
			found = &sym
		}
		return version != "" || !sym.Hidden, nil
	}
	if err := m.hashed(name, visit); err != nil {
		return Symbol{}, fmt.Errorf("look up %s in %s: %w", name, m.Path, err)
	}
	if found == nil {
		if version != "" {
			name += "@" + version
		}
		return Symbol{}, fmt.Errorf("look up %s in %s: %w", name, m.Path, ErrNoSymbol)
	}
	return *found, nil
}

// hashed calls visit for each symbol that may have this name by the module's hash table, until visit says stop.
func (m *Module) hashed(name string, visit func(uint32) (bool, error)) error {
	switch d := &m.dynamic; {
	case len(name) == 0 || len(name) >= maxSymbol || d.symbols == 0 || d.strings == 0:
	case d.gnuHash != 0:
		return m.gnuHash(name, visit)
	case d.sysvHash != 0:
		return m.sysvHash(name, visit)
	}
	return nil
}

// within returns base + index*size if all of that element lies inside the module.
func (m *Module) within(base mem.Addr, index, size uint64) (mem.Addr, error) {
	if base == 0 || !m.Contains(base) || index > uint64(m.End-base)/size || index*size+size > uint64(m.End-base) {
		return 0, fmt.Errorf("element %d of the table at %v lies outside the module", index, base)
	}
	return base + mem.Addr(index*size), nil
}

func (m *Module) u32(base mem.Addr, index uint64) (uint32, error) {
	at, err := m.within(base, index, 4)
	if err != nil {
		return 0, err
	}
	return mem.U32(m.reader, at)
}

// gnuTable is the header of a GNU hash table. Layout: 32-bit nbuckets, symoffset, bloom_size, bloom_shift; 64-bit bloom
// words; 32-bit buckets; 32-bit hashes from symoffset on, the last of a chain with bit 0 set (as GNU ld's -z gnuhash
// writes and glibc's do_lookup_x reads).
type gnuTable struct {
	bucketCount, first, bloomCount, shift uint32
	blooms, buckets, hashes               mem.Addr
}

func (m *Module) gnuHeader() (gnuTable, error) {
	at, err := m.within(m.dynamic.gnuHash, 0, 16)
	if err != nil {
		return gnuTable{}, err
	}
	b, err := mem.Bytes(m.reader, at, 16)
	if err != nil {
		return gnuTable{}, err
	}
	le := binary.LittleEndian
	t := gnuTable{bucketCount: le.Uint32(b), first: le.Uint32(b[4:]), bloomCount: le.Uint32(b[8:]),
		shift: le.Uint32(b[12:])}
	if t.bucketCount == 0 || t.bloomCount == 0 || t.bloomCount&(t.bloomCount-1) != 0 || t.shift > 63 {
		return gnuTable{}, fmt.Errorf("hash table with %d buckets, %d bloom words, shift %d", t.bucketCount, t.bloomCount,
			t.shift)
	}
	t.blooms = at + 16
	t.buckets = t.blooms + mem.Addr(t.bloomCount)*8
	t.hashes = t.buckets + mem.Addr(t.bucketCount)*4
	return t, nil
}

// gnuHash calls visit for each symbol index on the chain whose hash is name's, until visit says stop.
func (m *Module) gnuHash(name string, visit func(uint32) (bool, error)) error {
	t, err := m.gnuHeader()
	if err != nil {
		return err
	}
	hash := gnuHashOf(name)
	bloomAt, err := m.within(t.blooms, uint64(hash/64&(t.bloomCount-1)), 8)
	if err != nil {
		return err
	}
	word, err := mem.U64(m.reader, bloomAt)
	if err != nil {
		return err
	}
	if word>>(hash%64)&(word>>(hash>>t.shift%64))&1 == 0 {
		return nil
	}
	index, err := m.u32(t.buckets, uint64(hash%t.bucketCount))
	if err != nil || index == 0 {
		return err
	}
	if index < t.first {
		return fmt.Errorf("hash bucket points at symbol %d, before the first hashed %d", index, t.first)
	}
	for range maxChain {
		h, err := m.u32(t.hashes, uint64(index-t.first))
		if err != nil {
			return err
		}
		if h|1 == hash|1 {
			if stop, err := visit(index); stop || err != nil {
				return err
			}
		}
		if h&1 != 0 {
			return nil
		}
		index++
	}
	return errors.New("hash chain does not end")
}

// sysvHash is gnuHash for the older table: 32-bit nbucket, nchain, buckets, chains (gABI, "Hash Table").
func (m *Module) sysvHash(name string, visit func(uint32) (bool, error)) error {
	buckets, err := m.u32(m.dynamic.sysvHash, 0)
	if err != nil {
		return err
	}
	if buckets == 0 {
		return errors.New("hash table without buckets")
	}
	index, err := m.u32(m.dynamic.sysvHash, 2+uint64(sysvHashOf(name)%buckets))
	for range maxChain {
		if err != nil || index == 0 {
			return err
		}
		if stop, err := visit(index); stop || err != nil {
			return err
		}
		index, err = m.u32(m.dynamic.sysvHash, 2+uint64(buckets)+uint64(index))
	}
	return errors.New("hash chain does not end")
}

func gnuHashOf(s string) uint32 {
	h := uint32(5381)
	for i := range len(s) {
		h = h*33 + uint32(s[i])
	}
	return h
}

func sysvHashOf(s string) uint32 {
	var h uint32
	for i := range len(s) {
		h = h<<4 + uint32(s[i])
		h = (h ^ h>>28<<4) & 0x0fffffff
	}
	return h
}

// rawSymbol reads one entry of the symbol table.
func (m *Module) rawSymbol(index uint32) (elf.Sym64, error) {
	at, err := m.within(m.dynamic.symbols, uint64(index), symbolSize)
	if err != nil {
		return elf.Sym64{}, err
	}
	b, err := mem.Bytes(m.reader, at, symbolSize)
	if err != nil {
		return elf.Sym64{}, err
	}
	return decodeSymbol(b), nil
}

// symbolAt returns the symbol at index if it is a definition of name.
func (m *Module) symbolAt(index uint32, name string) (Symbol, bool, error) {
	raw, err := m.rawSymbol(index)
	if err != nil || elf.SectionIndex(raw.Shndx) == elf.SHN_UNDEF {
		return Symbol{}, false, err
	}
	if same, err := m.nameIs(raw, name); err != nil || !same {
		return Symbol{}, false, err
	}
	sym := m.define(name, raw)
	v, hidden, err := m.version(index)
	sym.Version, sym.Hidden = v.name, hidden
	return sym, err == nil, err
}

func (m *Module) define(name string, raw elf.Sym64) Symbol {
	sym := Symbol{Name: name, Addr: mem.Addr(raw.Value), Size: raw.Size, Type: elf.ST_TYPE(raw.Info),
		Bind: elf.ST_BIND(raw.Info)}
	if sym.Type != elf.STT_TLS && elf.SectionIndex(raw.Shndx) != elf.SHN_ABS {
		sym.Addr += m.Bias
	}
	return sym
}

// nameIs compares without reading more than len(name)+1 bytes.
func (m *Module) nameIs(raw elf.Sym64, name string) (bool, error) {
	d := &m.dynamic
	off, n := uint64(raw.Name), uint64(len(name))+1
	if off+n > d.strSize {
		return false, nil
	}
	at, err := m.within(d.strings+mem.Addr(off), 0, n)
	if err != nil {
		return false, err
	}
	b, err := mem.Bytes(m.reader, at, int(n))
	return err == nil && string(b[:n-1]) == name && b[n-1] == 0, err
}

// Imports reports whether the module refers to a symbol of another module by any of these names, by a plain search of
// its undefined symbols (they are in no hash table).
func (m *Module) Imports(names ...string) (bool, error) {
	n, err := m.importCount()
	if err != nil {
		return false, fmt.Errorf("imports of %s: %w", m.Path, err)
	}
	for i := range n {
		raw, err := m.rawSymbol(i)
		if err != nil {
			return false, fmt.Errorf("imports of %s: %w", m.Path, err)
		}
		if raw.Name == 0 || elf.SectionIndex(raw.Shndx) != elf.SHN_UNDEF {
			continue
		}
		for _, name := range names {
			same, err := m.nameIs(raw, name)
			if err != nil {
				return false, fmt.Errorf("imports of %s: %w", m.Path, err)
			}
			if same {
				return true, nil
			}
		}
	}
	return false, nil
}

// importCount bounds the indices of undefined symbols: those before the first hashed one (GNU), or all (SysV).
func (m *Module) importCount() (uint32, error) {
	d := &m.dynamic
	switch {
	case d.symbols == 0:
		return 0, nil
	case d.sysvHash != 0:
		n, err := m.u32(d.sysvHash, 1)
		return min(n, maxImports), err
	case d.gnuHash != 0:
		n, err := m.u32(d.gnuHash, 1)
		return min(n, maxImports), err
	}
	return 0, nil
}
