package dso

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// fileSlots reads a program's relocations by its section headers, a way that the package does not go.
func fileSlots(t *testing.T, m *Module) (symbolic map[mem.Addr]string, relative []mem.Addr) {
	t.Helper()
	f, err := elf.Open(m.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	syms, err := f.DynamicSymbols()
	if err != nil {
		syms = nil // static
	}
	kinds := map[elf.R_X86_64]SlotKind{elf.R_X86_64_64: Pointer, elf.R_X86_64_GLOB_DAT: GlobDat,
		elf.R_X86_64_JMP_SLOT: JumpSlot, elf.R_X86_64_IRELATIVE: IRelative}
	symbolic = make(map[mem.Addr]string)
	for _, sec := range f.Sections {
		if sec.Type != elf.SHT_RELA || sec.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		b, err := sec.Data()
		if err != nil {
			t.Fatal(err)
		}
		for ; len(b) > 0; b = b[24:] {
			at, info := m.At(binary.LittleEndian.Uint64(b)), binary.LittleEndian.Uint64(b[8:])
			kind, ok := kinds[elf.R_X86_64(uint32(info))]
			switch {
			case elf.R_X86_64(uint32(info)) == elf.R_X86_64_RELATIVE:
				relative = append(relative, at)
			case kind == IRelative:
				symbolic[at] = "irelative -"
			case ok:
				sym := syms[info>>32-1]
				symbolic[at] = fmt.Sprintf("%v %s %s %s %v %v", kind, sym.Name, sym.Version, sym.Library,
					sym.Section != elf.SHN_UNDEF, elf.ST_BIND(sym.Info) == elf.STB_WEAK)
			}
		}
	}
	return symbolic, relative
}

// Slots are those of the file's relocation sections, with symbol and version; what is read-only after relocation is so.
func checkSlots(t *testing.T, f form, r *running, s *Symbols) {
	maps, err := r.proc.Maps()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Modules() {
		if m.Path == vdsoPath {
			continue
		}
		slots, err := m.Slots()
		if err != nil {
			t.Errorf("%s: %v", m, err)
			continue
		}
		want, _ := fileSlots(t, m)
		for _, slot := range slots {
			got := fmt.Sprintf("%v %s %s %s %v %v", slot.Kind, slot.Symbol, slot.Version, slot.Library, slot.Defined, slot.Weak)
			if slot.Kind == IRelative {
				got = "irelative -"
			}
			if got != want[slot.Addr] {
				t.Errorf("%s: slot at %v: %s; want %q", m, slot.Addr, got, want[slot.Addr])
			}
			delete(want, slot.Addr)
			i := slices.IndexFunc(maps, func(mp proc.Mapping) bool { return mp.Contains(slot.Addr) })
			if i < 0 || maps[i].Write == slot.RelRO {
				t.Errorf("%s: slot of %s at %v is RelRO %v; maps say %+v", m, slot.Symbol, slot.Addr, slot.RelRO, maps[i])
			}
		}
		for at, missing := range want {
			t.Errorf("%s: no slot at %v: %s", m, at, missing)
		}
	}
}

// A slot holds what dlsym says of its symbol, except while it is lazy; and it is lazy until the first call.
func checkLazySlots(t *testing.T, f form, r *running, s *Symbols) {
	if f.static {
		return
	}
	find := func(name string) Slot {
		t.Helper()
		slots, err := s.Modules()[0].Slots()
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(slots, func(s Slot) bool { return s.Symbol == name })
		if i < 0 {
			t.Fatalf("no slot of %s", name)
		}
		return slots[i]
	}
	strtol := r.one(t, "libc", "-", "strtol")
	// musl binds all at the start, and so does -z now.
	eager := f.cc != "" || slices.Contains(f.flags, "-Wl,-z,now")
	if got := find("strtol"); got.Lazy == eager || got.Bound() != eager || eager && got.Value != strtol {
		t.Errorf("strtol before its first call: %+v", got)
	}
	if _, err := io.WriteString(r.stdin, "5\n"); err != nil {
		t.Fatal(err)
	}
	r.listen(t)
	if got := find("strtol"); got.Lazy || !got.Bound() || got.Value != strtol {
		t.Errorf("strtol after its first call: %+v; want %v", got, strtol)
	}
	if got := find("malloc"); got.Lazy || got.Value != r.one(t, "libc", "-", "malloc") {
		t.Errorf("a pointer to malloc: %+v", got)
	}
	if f.cc != "" {
		return
	}
	for _, name := range []string{"strlen", "time"} {
		if f.name == "non-pie" {
			break // its pointers are to its own PLT
		}
		if got := find(name); got.Value != r.one(t, "bound", "-", name) {
			t.Errorf("a pointer to %s: %+v", name, got)
		}
	}
}

// A module's own pointers to its functions are found, packed or not.
func checkPointers(t *testing.T, f form, r *running, s *Symbols) {
	if f.static && f.name != "static-pie" || f.name == "non-pie" {
		return // nothing to relocate
	}
	m := s.Modules()[0]
	table := r.one(t, "table", "-", "table")
	global, twin := r.one(t, "own", "-", "global_function"), r.one(t, "own", "-", "twin")
	got, err := m.Pointers(global, twin)
	if err != nil {
		t.Fatal(err)
	}
	var at []string
	for _, slot := range got {
		at = append(at, fmt.Sprintf("%v=%v %v", slot.Addr, slot.Value, slot.RelRO))
	}
	want := fmt.Sprintf("[%v=%v true %v=%v true]", table, global, table+8, twin)
	if fmt.Sprint(at) != want {
		t.Errorf("pointers %v; want %s", at, want)
	}
	testAllRelatives(t, m)
}

// testAllRelatives: those of the file, packed or not, are visited, each once. readelf decodes the packed ones.
func testAllRelatives(t *testing.T, m *Module) {
	t.Helper()
	var got []mem.Addr
	if err := m.relatives(func(r relocation) error {
		got = append(got, r.at)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	_, want := fileSlots(t, m)
	packed := false
	for line := range strings.Lines(tool(t, "readelf", "-rW", m.Path)) {
		var at mem.Addr
		switch {
		case strings.Contains(line, "Relocation section"):
			packed = strings.Contains(line, ".relr.dyn")
		case packed:
			if n, _ := fmt.Sscanf(strings.TrimSpace(line), "%x", &at); n == 1 && !strings.Contains(line, "offset") {
				want = append(want, m.At(uint64(at)))
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("relative relocations %v\nwant %v", got, want)
	}
}

// An entry of the PLT is named after its function.
func checkPLT(t *testing.T, f form, r *running, s *Symbols) {
	if f.static || f.cc != "" || slices.Contains(f.flags, "-Wl,-z,now") {
		return
	}
	m := s.Modules()[0]
	slots, err := m.Slots()
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, slot := range slots {
		if !slot.Lazy {
			continue
		}
		checked++
		got, off, ok := s.At(slot.Value)
		if !ok || got.Name != slot.Symbol+"@plt" || got.Addr+mem.Addr(off) != slot.Value {
			t.Errorf("the lazy entry of %s is called %+v, %d, %v", slot.Symbol, got, off, ok)
		}
	}
	if checked == 0 {
		t.Error("no lazy slot")
	}
}
