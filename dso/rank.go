package dso

import (
	"cmp"
	"debug/elf"
	"slices"
)

// class is how near a symbol is to what the program itself would mean by its name.
type class int

const (
	bound    class = iota // global in the program, or exported by a module that came with it
	own                   // local to the program
	opened                // exported by a module that was opened later, or in another link namespace
	internal              // local to a module, or of the vDSO, which no loader searches: libc does, by itself
)

func (s *Symbols) class(f *Found) class {
	global := f.Bind != elf.STB_LOCAL
	exported := global && f.Source == Dynamic
	switch {
	case f.Module.Main && global, exported && s.scope().startup[f.Module]:
		return bound
	case f.Module.Main:
		return own
	case exported:
		return opened
	}
	return internal
}

// sort puts the best candidate first.
func (s *Symbols) sort(all []Found) {
	order := s.scope().order
	slices.SortStableFunc(all, func(a, b Found) int {
		return cmp.Or(
			cmp.Compare(hidden(&a), hidden(&b)),
			cmp.Compare(s.class(&a), s.class(&b)),
			cmp.Compare(order[a.Module], order[b.Module]),
			cmp.Compare(vague(&a), vague(&b)),
			cmp.Compare(a.Addr, b.Addr))
	})
}

func hidden(f *Found) int {
	if f.Hidden {
		return 1
	}
	return 0
}

// vague is 1 for a label of which only the address is known.
func vague(f *Found) int {
	if f.Kind() == Unknown && f.Size == 0 {
		return 1
	}
	return 0
}

// Resolve finds the one symbol that a name means: the best candidate of [Symbols.Lookup], if the program itself would
// take it (it is the program's, or the first that the loader finds among the modules that came with the program) or if
// no other is as good. Else the error is an *[AmbiguousError] with all candidates, or a *[NotFoundError].
func (s *Symbols) Resolve(name string) (Found, error) {
	all, err := s.Lookup(name)
	if err != nil {
		return Found{}, err
	}
	best := all[0]
	for _, other := range all[1:] {
		if s.rivals(&best, &other) {
			return Found{}, &AmbiguousError{Name: name, Candidates: all}
		}
	}
	return best, nil
}

// rivals reports whether other is as good a meaning as best, and another one.
func (s *Symbols) rivals(best, other *Found) bool {
	switch {
	case other.Addr == best.Addr && other.Type == best.Type, other.Hidden && !best.Hidden, vague(other) > vague(best):
		return false
	case s.class(other) != s.class(best):
		return false
	}
	// The loader takes the first of several exported ones. Of functions with different mangled names, overloads, it
	// takes none.
	return s.class(best) != bound || other.Name != best.Name
}
