package dso

import (
	"debug/elf"
	"slices"

	"github.com/heaptap/heaptap/mem"
)

// annotate fills in what takes more than one symbol to know.
func (s *Symbols) annotate(all []Found) {
	for i := range all {
		f := &all[i]
		f.Demangled = Demangle(f.Name)
		switch f.Kind() {
		case IFunc:
			f.Bound = s.bound(f)
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

// bound finds the implementation that an indirect function was resolved to, in a slot that the loader filled: one that
// the resolver itself was run for (IRELATIVE), else one of any module that refers to the symbol and gets it from this
// module. 0 if there is none.
func (s *Symbols) bound(f *Found) mem.Addr {
	if slots, err := f.Module.Slots(); err == nil {
		for _, slot := range slots {
			if slot.Kind == IRelative && f.Module.At(uint64(slot.Addend)) == f.Addr && s.isResult(f, slot.Value) {
				return slot.Value
			}
		}
	}
	for _, m := range s.modules {
		if m.listed != f.Module.listed {
			continue
		}
		slots, err := m.Slots()
		if err != nil {
			continue
		}
		i := slices.IndexFunc(slots, func(slot Slot) bool {
			return slot.Symbol == f.Name && slot.Kind != IRelative && !slot.Lazy && slot.Addend == 0 &&
				(slot.Version == "" || slot.Version == f.Version) && s.isResult(f, slot.Value)
		})
		if i >= 0 {
			return slots[i].Value
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
