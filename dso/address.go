package dso

import (
	"cmp"
	"debug/elf"
	"math"
	"slices"
	"strings"

	"github.com/heaptap/heaptap/mem"
)

// addressIndex is a module's symbols by address.
type addressIndex struct {
	entries []indexed
	reach   []mem.Addr // for each entry, the highest end of it and all before
	tables  []*table
}

type indexed struct {
	start, end mem.Addr // equal where the size is not known
	table      uint8
	index      int32
}

const maxNested = 64 // symbols behind which a larger one that contains them is looked for

// maxUnsized is how far a function of unknown size is taken to reach, bytes. Those are short ones, written in
// assembler.
const maxUnsized = 4096

// At names the function or object that contains a, and how far into it a is: of several names of one address the one
// that a user would know, of nested symbols the innermost. An entry of a PLT is named as its function with "@plt"
// behind. A function without size reaches to the next symbol. It is false where no symbol is known.
func (s *Symbols) At(a mem.Addr) (Found, uint64, bool) {
	m := s.Module(a)
	if m == nil {
		return Found{}, 0, false
	}
	x, _ := m.lazy.index.get(func() (*addressIndex, error) { return m.makeIndex(), nil })
	for _, find := range []func(*addressIndex, mem.Addr) (Found, bool){m.sized, m.plt, m.unsized} {
		if f, ok := find(x, a); ok {
			f.Demangled = Demangle(f.Name)
			return f, uint64(a - f.Addr), true
		}
	}
	return Found{}, 0, false
}

// before is the number of entries that begin at or before a.
func (x *addressIndex) before(a mem.Addr) int {
	i, _ := slices.BinarySearchFunc(x.entries, a, func(e indexed, a mem.Addr) int {
		if e.start <= a {
			return -1
		}
		return 1
	})
	return i
}

// sized finds the symbol that says that it contains a.
func (m *Module) sized(x *addressIndex, a mem.Addr) (Found, bool) {
	i := x.before(a)
	for back := 1; back <= maxNested && i-back >= 0 && x.reach[i-back] > a; back++ {
		if x.entries[i-back].end > a {
			return m.best(x, i-back), true
		}
	}
	return Found{}, false
}

// unsized finds the function before a, if its size is not known and no symbol lies between.
func (m *Module) unsized(x *addressIndex, a mem.Addr) (Found, bool) {
	i := x.before(a) - 1
	if i < 0 || x.entries[i].end != x.entries[i].start || a-x.entries[i].start >= maxUnsized {
		return Found{}, false
	}
	seg, ok := m.Segment(x.entries[i].start)
	if !ok || a >= seg.End || seg.Flags&elf.PF_X == 0 {
		return Found{}, false
	}
	return m.best(x, i), true
}

// best is the best name of those that have the same extent as the entry at i, the last of them.
func (m *Module) best(x *addressIndex, i int) Found {
	best := m.found(x.tables[x.entries[i].table], int(x.entries[i].index))
	for j := i - 1; j >= 0 && x.entries[j].start == x.entries[i].start && x.entries[j].end == x.entries[i].end; j-- {
		other := m.found(x.tables[x.entries[j].table], int(x.entries[j].index))
		if compareNames(&other, &best) < 0 {
			best = other
		}
	}
	return best
}

// compareNames is below 0 if a is the better of two names of one address: a function's or object's rather than a
// label's, one without underscores before it, a global one, the default version, the shorter.
func compareNames(a, b *Found) int {
	label := func(f *Found) int {
		if f.Kind() == Unknown {
			return 1
		}
		return 0
	}
	underscores := func(f *Found) int {
		if mangled(f.Name) {
			return 0
		}
		return len(f.Name) - len(strings.TrimLeft(f.Name, "_"))
	}
	local := func(f *Found) int {
		if f.Bind == elf.STB_LOCAL {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(label(a), label(b)), cmp.Compare(local(a), local(b)),
		cmp.Compare(underscores(a), underscores(b)), cmp.Compare(hidden(a), hidden(b)),
		cmp.Compare(len(a.Name), len(b.Name)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Source, b.Source))
}

func (m *Module) makeIndex() *addressIndex {
	x := new(addressIndex)
	for _, read := range []func() (*table, error){m.exportTable, m.fullTable} {
		t, err := read()
		if err != nil {
			continue
		}
		x.add(m, t)
	}
	slices.SortFunc(x.entries, func(a, b indexed) int {
		// The shorter of two that begin at one address comes later, and is met first from behind.
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(b.end, a.end), cmp.Compare(a.table, b.table),
			cmp.Compare(a.index, b.index))
	})
	x.reach = make([]mem.Addr, len(x.entries))
	var reach mem.Addr
	for i, e := range x.entries {
		reach = max(reach, e.end)
		x.reach[i] = reach
	}
	return x
}

func (x *addressIndex) add(m *Module, t *table) {
	x.tables = append(x.tables, t)
	for i := range min(t.len(), math.MaxInt32) {
		raw := t.raw(i)
		if !isDefinition(raw) || elf.ST_TYPE(raw.Info) == elf.STT_TLS || elf.SectionIndex(raw.Shndx) == elf.SHN_ABS {
			continue
		}
		start := m.At(raw.Value)
		seg, ok := m.Segment(start)
		if !ok || t.name(raw.Name) == "" {
			continue
		}
		end := start + mem.Addr(min(raw.Size, uint64(seg.End-start)))
		x.entries = append(x.entries, indexed{start: start, end: end, table: uint8(len(x.tables) - 1), index: int32(i)})
	}
}

// plt names an entry of a PLT.
func (m *Module) plt(_ *addressIndex, a mem.Addr) (Found, bool) {
	entry, word := m.pltSlot(a)
	if word == 0 {
		return Found{}, false
	}
	slots, err := m.lazy.slots.get(m.readSlots)
	if err != nil {
		return Found{}, false
	}
	i, ok := slices.BinarySearchFunc(slots, word, func(s Slot, a mem.Addr) int { return cmp.Compare(s.Addr, a) })
	if !ok || slots[i].Symbol == "" {
		return Found{}, false
	}
	sym := Symbol{Name: slots[i].Symbol + "@plt", Addr: entry, Size: pltEntry, Type: elf.STT_FUNC, Bind: elf.STB_LOCAL}
	return Found{Symbol: sym, Module: m, Source: Dynamic}, true
}
