package dso

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/heaptap/heaptap/mem"
)

// Slot is a word in a module's data that the loader fills, by a relocation, with an address: of a symbol, of what a
// resolver returned, or of something of the module's own.
type Slot struct {
	Addr    mem.Addr // where the word lies
	Kind    SlotKind
	Symbol  string   // "" for IRelative and Relative
	Version string   // that is wanted of the symbol, "" if any will do
	Library string   // file name of the library of which the version is wanted, "" if not said
	Defined bool     // the module defines the symbol itself (it may be bound elsewhere all the same)
	Weak    bool     // may stay 0
	Addend  int64    // added to the symbol's address; of IRelative and Relative, a link-time address of the module
	Value   mem.Addr // what the word held when it was read
	Lazy    bool     // not bound yet: the word leads back into the module's PLT, and the first call will bind it
	RelRO   bool     // in the part that the loader makes read-only when all is relocated
}

// SlotKind is the kind of relocation that fills a slot.
type SlotKind int

// The kinds of slots.
const (
	JumpSlot  SlotKind = iota // for calls through the PLT; may be bound lazily
	GlobDat                   // GOT slot for addresses taken and for calls without a PLT
	Pointer                   // initialised data: symbol plus addend
	IRelative                 // what a resolver of the module returned; Addend is the resolver
	Relative                  // an address of the module's own, Addend; its symbol is not known to the loader
)

// String is the kind's name.
func (k SlotKind) String() string {
	names := [...]string{"jump slot", "GOT slot", "pointer", "irelative", "relative"}
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("SlotKind(%d)", int(k))
	}
	return names[k]
}

// Bound reports whether the word holds the symbol's address: it is not lazy, nor a weak one without a definition.
func (s *Slot) Bound() bool { return !s.Lazy && s.Value != 0 }

const (
	maxRelocations = 1 << 26 // bytes of one table; the largest known libraries have 20 MB
	relaSize       = 24      // Elf64_Rela
	relSize        = 16      // Elf64_Rel
	copyKind       = SlotKind(-1)
)

// relocation is one entry of a table, with the CPU's number made into ours. The kinds beside the slots' are [copyKind]
// and those that fill no word with an address, which are left out.
type relocation struct {
	at     mem.Addr
	kind   SlotKind
	symbol uint32
	addend int64
	index  int // in DT_JMPREL; -1 in other tables
}

// relocationKinds are the CPU's numbers (its psABI, "Relocation Types"). New CPUs are rows here.
func relocationKinds(machine elf.Machine) map[uint32]SlotKind {
	switch machine {
	case elf.EM_X86_64:
		return map[uint32]SlotKind{1: Pointer, 5: copyKind, 6: GlobDat, 7: JumpSlot, 8: Relative, 37: IRelative}
	case elf.EM_AARCH64:
		return map[uint32]SlotKind{257: Pointer, 1024: copyKind, 1025: GlobDat, 1026: JumpSlot, 1027: Relative,
			1032: IRelative}
	}
	return nil
}

// Slots lists the words that hold addresses of symbols or the results of resolvers: GOT slots, lazy or bound, and
// initialised data, by address. Those of the module's own addresses, by far the most, are in [Module.Pointers]. The
// relocations are read from memory and kept; Value and Lazy are what stands there at the time of the call.
//
// A static program has only the slots of its indirect functions, which are found by its file's section headers: without
// the file there are none.
func (m *Module) Slots() ([]Slot, error) {
	known, err := m.lazy.slots.get(m.readSlots)
	if err != nil {
		return nil, fmt.Errorf("slots of %s: %w", m.Path, err)
	}
	out := slices.Clone(known)
	seen := m.through()
	for i := range out {
		if err := seen.fill(&out[i]); err != nil {
			return nil, fmt.Errorf("slots of %s: %w", m.Path, err)
		}
	}
	return out, nil
}

// Pointers lists, by address, the words that a relocation without a symbol (relative, packed relative) was made for and
// that now hold one of these addresses: a module's own tables of functions.
func (m *Module) Pointers(to ...mem.Addr) ([]Slot, error) {
	var out []Slot
	seen := m.through()
	err := seen.relatives(func(r relocation) error {
		s := Slot{Addr: r.at, Kind: Relative, Addend: r.addend, RelRO: m.relRO(r.at)}
		if err := seen.fill(&s); err != nil || !slices.Contains(to, s.Value) {
			return err
		}
		s.Addend = int64(s.Value - m.Bias)
		out = append(out, s)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("pointers of %s: %w", m.Path, err)
	}
	slices.SortFunc(out, func(a, b Slot) int { return cmp.Compare(a.Addr, b.Addr) })
	return slices.CompactFunc(out, func(a, b Slot) bool { return a.Addr == b.Addr }), nil
}

// fill reads what a slot's word holds.
func (m *Module) fill(s *Slot) error {
	at, err := m.within(s.Addr, 0, 8)
	if err != nil {
		return err
	}
	if s.Value, err = mem.Pointer(m.reader, at); err != nil {
		return err
	}
	if s.Kind == JumpSlot {
		s.Lazy = m.leadsToPLT(s.Value, int(s.Addend))
		s.Addend = 0
	}
	return nil
}

// readSlots reads the relocations. The Addend of a JumpSlot, always 0 in the file, holds its index for fill.
func (m *Module) readSlots() ([]Slot, error) {
	seen := m.through()
	var out []Slot
	err := seen.relocations(func(r relocation) error {
		if r.kind == Relative || r.kind == copyKind {
			return nil
		}
		s := Slot{Addr: r.at, Kind: r.kind, Addend: r.addend, RelRO: m.relRO(r.at)}
		if r.kind == JumpSlot {
			s.Addend = int64(r.index)
		}
		if r.kind != IRelative {
			if err := seen.name(&s, r.symbol); err != nil || s.Symbol == "" {
				return err
			}
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		return nil, err
	}
	// Tables may overlap: an older ld counts DT_JMPREL into DT_RELA. The entry of DT_JMPREL knows its index.
	slices.SortFunc(out, func(a, b Slot) int {
		return cmp.Or(cmp.Compare(a.Addr, b.Addr), -cmp.Compare(a.Addend, b.Addend))
	})
	return slices.CompactFunc(out, func(a, b Slot) bool { return a.Addr == b.Addr }), nil
}

// name fills in what the symbol at index is.
func (m *Module) name(s *Slot, index uint32) error {
	raw, err := m.rawSymbol(index)
	if err != nil {
		return err
	}
	if raw.Name == 0 { // a section, or nothing: an absolute word
		return nil
	}
	if s.Symbol, err = m.dynString(uint64(raw.Name), maxSymbol); err != nil {
		return err
	}
	s.Defined = elf.SectionIndex(raw.Shndx) != elf.SHN_UNDEF
	s.Weak = elf.ST_BIND(raw.Info) == elf.STB_WEAK
	v, _, err := m.version(index)
	s.Version, s.Library = v.name, v.library
	return err
}

// relRO reports whether a lies in PT_GNU_RELRO. The loader protects whole pages: from the one of its start, to the one
// of its end, which is left out if it is not covered whole.
func (m *Module) relRO(a mem.Addr) bool {
	for _, p := range m.Programs {
		start := m.At(p.Vaddr)
		if p.Type == elf.PT_GNU_RELRO && start.AlignDown(pageSize) <= a && a < (start+mem.Addr(p.Memsz)).AlignDown(pageSize) {
			return true
		}
	}
	return false
}

// relocations visits the entries of DT_RELA, DT_REL and DT_JMPREL; in a static program, of the tables that its file's
// sections tell of.
func (m *Module) relocations(visit func(relocation) error) error {
	d := &m.dynamic
	if d.addr == 0 {
		return m.staticRelocations(visit)
	}
	if err := m.table(d.rela, d.relaSize, false, false, visit); err != nil {
		return err
	}
	if err := m.table(d.rel, d.relSize, true, false, visit); err != nil {
		return err
	}
	return m.table(d.jmprel, d.jmprelSize, d.jmprelIsRel, true, visit)
}

// staticRelocations: a static program that is not position-independent relocates its indirect functions by a table that
// only the linker's symbols __rela_iplt_start and _end, and the section headers, tell of.
func (m *Module) staticRelocations(visit func(relocation) error) error {
	o, err := m.open()
	if err != nil {
		return nil
	}
	defer o.Close()
	for _, s := range o.sections {
		if s.Flags&elf.SHF_ALLOC == 0 || s.Type != elf.SHT_RELA && s.Type != elf.SHT_REL {
			continue
		}
		if err := m.table(m.At(s.Addr), s.Size, s.Type == elf.SHT_REL, false, visit); err != nil {
			return err
		}
	}
	return nil
}

// table visits the entries of one table in memory.
func (m *Module) table(base mem.Addr, size uint64, rel, jumps bool, visit func(relocation) error) error {
	if base == 0 || size == 0 {
		return nil
	}
	b, err := m.bulk(base, size, maxRelocations)
	if err != nil {
		return fmt.Errorf("relocations: %w", err)
	}
	kinds := relocationKinds(m.Machine)
	each := relaSize
	if rel {
		each = relSize
	}
	for i := 0; len(b) >= each; i, b = i+1, b[each:] {
		le := binary.LittleEndian
		info := le.Uint64(b[8:])
		kind, ok := kinds[uint32(info)]
		if !ok {
			continue
		}
		r := relocation{at: m.At(le.Uint64(b)), kind: kind, symbol: uint32(info >> 32), index: -1}
		if !rel {
			r.addend = int64(le.Uint64(b[16:]))
		}
		if jumps {
			r.index = i
		}
		if err := visit(r); err != nil {
			return fmt.Errorf("relocation of the word at %v: %w", r.at, err)
		}
	}
	return nil
}

// relatives visits the words that were relocated by the bias alone, packed ones too.
func (m *Module) relatives(visit func(relocation) error) error {
	err := m.relocations(func(r relocation) error {
		if r.kind != Relative {
			return nil
		}
		return visit(r)
	})
	if err != nil {
		return err
	}
	return m.packed(visit)
}

// packed visits the words of DT_RELR (gABI, "Relative Relocation Table"): an even entry is an address to relocate; the
// odd ones after it are bitmaps of the 63 words behind what was covered so far.
func (m *Module) packed(visit func(relocation) error) error {
	d := &m.dynamic
	if d.relr == 0 || d.relrSize == 0 {
		return nil
	}
	b, err := m.bulk(d.relr, d.relrSize, maxRelocations)
	if err != nil {
		return fmt.Errorf("packed relocations: %w", err)
	}
	var next mem.Addr
	for ; len(b) >= 8; b = b[8:] {
		entry := binary.LittleEndian.Uint64(b)
		if entry&1 == 0 {
			next = m.At(entry)
			if err := visit(relocation{at: next, kind: Relative, index: -1}); err != nil {
				return fmt.Errorf("packed relocation of the word at %v: %w", next, err)
			}
			next += 8
			continue
		}
		for bit := range 63 {
			if entry>>(bit+1)&1 == 0 {
				continue
			}
			at := next + mem.Addr(bit*8)
			if err := visit(relocation{at: at, kind: Relative, index: -1}); err != nil {
				return fmt.Errorf("packed relocation of the word at %v: %w", at, err)
			}
		}
		next += 63 * 8
	}
	return nil
}
