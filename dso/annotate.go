package dso

import (
	"debug/elf"

	"github.com/heaptap/heaptap/mem"
)

// annotate fills in what takes more than one symbol to know.
func (s *Symbols) annotate(all []Found) {
	slots := make(slotsOf)
	for i := range all {
		f := &all[i]
		f.Demangled = Demangle(f.Name)
		switch f.Kind() {
		case IFunc:
			f.Bound = s.bound(f, slots)
		case Object:
			s.relate(f)
		}
	}
}

// relate tells a copy of a library's variable from its original.
func (s *Symbols) relate(f *Found) {
	if at, ok := s.scope().copies[f.Name]; !ok || f.Module.Main && at != f.Addr || f.Bind == elf.STB_LOCAL {
		return
	}
	first := s.firstExporter(f.Name)
	switch {
	case first == nil:
	case f.Module.Main:
		f.Copy = first
	case f.Module == first:
		f.Original = true
	}
}

// firstExporter is the library that the loader finds a name in first.
func (s *Symbols) firstExporter(name string) *Module {
	for _, m := range s.modules {
		if m.Main || !m.listed {
			continue
		}
		if _, err := m.Dynamic(name); err == nil {
			return m
		}
	}
	return nil
}

// slotsOf are modules' slots as they were when first asked for.
type slotsOf map[*Module][]Slot

// of are the slots of a module; none where they cannot be read.
func (s slotsOf) of(m *Module) []Slot {
	slots, ok := s[m]
	if !ok {
		slots, _ = m.Slots()
		s[m] = slots
	}
	return slots
}

// bound finds the implementation that an indirect function was resolved to, in a slot that the loader filled: one that
// the resolver itself was run for (IRELATIVE), else one of any module that refers to the symbol and gets it from this
// module. 0 if there is none.
func (s *Symbols) bound(f *Found, slots slotsOf) mem.Addr {
	for _, slot := range slots.of(f.Module) {
		if slot.Kind == IRelative && f.Module.At(uint64(slot.Addend)) == f.Addr && s.isResult(f, slot.Value) {
			return slot.Value
		}
	}
	for _, m := range s.modules {
		if m.listed != f.Module.listed {
			continue
		}
		for _, slot := range slots.of(m) {
			if slot.Symbol == f.Name && slot.Kind != IRelative && !slot.Lazy && slot.Addend == 0 &&
				(slot.Version == "" || slot.Version == f.Version) && s.isResult(f, slot.Value) {
				return slot.Value
			}
		}
	}
	return 0
}

// isResult reports whether the resolver of f can have returned a: code of its own module or of the vDSO, not itself.
func (s *Symbols) isResult(f *Found, a mem.Addr) bool {
	if a == f.Addr {
		return false
	}
	m := s.Module(a)
	return m != nil && m.Executable(a) && (m == f.Module || m.Path == vdsoPath)
}
