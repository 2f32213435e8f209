package dso

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Search finds all symbols whose name, or whose demangled name, matches a pattern: a glob (*, ?, [a-z]) for the whole
// name, or a regular expression between slashes for any part of it. A module may be said before: libc!mem*. They come
// by module, then by name. No match is an empty result; an error is of the pattern.
//
// All modules' tables are read, files too. A module of which none can be read contributes nothing.
func (s *Symbols) Search(pattern string) ([]Found, error) {
	modules := s.modules
	if module, rest, ok := strings.Cut(pattern, "!"); ok && rest != "" && !strings.HasPrefix(pattern, "/") {
		if ms := s.named(module); len(ms) > 0 {
			modules, pattern = ms, rest
		}
	}
	match, err := matcher(pattern)
	if err != nil {
		return nil, fmt.Errorf("search %q: %w", pattern, err)
	}
	var out []Found
	for _, m := range modules {
		found := m.search(match)
		slices.SortStableFunc(found, func(a, b Found) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(hidden(&a), hidden(&b)), cmp.Compare(a.Addr, b.Addr))
		})
		out = append(out, found...)
	}
	s.annotate(out)
	return out, nil
}

func (m *Module) search(match func(string) bool) []Found {
	var out []Found
	for _, read := range []func() (*table, error){m.exportTable, m.fullTable} {
		t, err := read()
		if err != nil {
			continue
		}
		for i := range t.len() {
			raw := t.raw(i)
			if !isDefinition(raw) {
				continue
			}
			name, _, _ := strings.Cut(t.name(raw.Name), "@")
			if name == "" || name[0] == '$' {
				continue // AArch64's mapping symbols
			}
			if match(name) || mangled(name) && match(Demangle(name)) {
				out = append(out, m.found(t, i))
			}
		}
	}
	return distinct(out)
}

// matcher compiles a pattern.
func matcher(pattern string) (func(string) bool, error) {
	if len(pattern) >= 2 && pattern[0] == '/' && pattern[len(pattern)-1] == '/' {
		re, err := regexp.Compile(pattern[1 : len(pattern)-1])
		if err != nil {
			return nil, err
		}
		return re.MatchString, nil
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, err
	}
	// A name has no directories: what path.Match takes for a separator is a character like any other.
	pattern = strings.ReplaceAll(pattern, "/", "\x01")
	return func(name string) bool {
		ok, _ := path.Match(pattern, strings.ReplaceAll(name, "/", "\x01"))
		return ok
	}, nil
}
