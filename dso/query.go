package dso

import (
	"debug/elf"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/heaptap/heaptap/mem"
)

// query is one reading of a name that somebody typed.
type query struct {
	modules []*Module
	within  bool   // a module was said
	file    string // source file, "" if none was said
	name    string
	version string // "" if none was said
}

// readings are what a typed name may mean, the likeliest first.
func (s *Symbols) readings(typed string) []query {
	q := query{modules: s.modules, name: typed}
	if module, rest, ok := strings.Cut(typed, "!"); ok && rest != "" {
		if ms := s.named(module); len(ms) > 0 {
			q = query{modules: ms, within: true, name: rest}
		}
	}
	var out []query
	if file, rest, ok := cutFile(q.name); ok {
		in := q
		in.file, in.name = file, rest
		out = append(out, in)
	}
	if name, version, ok := cutVersion(q.name); ok {
		q.name, q.version = name, version
	}
	return append(out, q)
}

// named are the modules that a user may call so.
func (s *Symbols) named(name string) []*Module {
	var out []*Module
	for _, m := range s.modules {
		if m.is(name) {
			out = append(out, m)
		}
	}
	return out
}

// cutVersion splits name@VERSION or name@@VERSION.
func cutVersion(s string) (name, version string, ok bool) {
	name, version, ok = strings.Cut(s, "@")
	version = strings.TrimPrefix(version, "@")
	if !ok || name == "" || version == "" {
		return "", "", false
	}
	return name, version, true
}

// cutFile splits file.c:name at a colon that is not one of C++'s double ones. The file has an extension.
func cutFile(s string) (file, name string, ok bool) {
	for i := range len(s) {
		if s[i] == '(' || s[i] == '<' {
			break
		}
		if s[i] != ':' {
			continue
		}
		if i+1 < len(s) && s[i+1] == ':' || i > 0 && s[i-1] == ':' {
			break
		}
		file, name = s[:i], s[i+1:]
		return file, name, name != "" && strings.Contains(path.Base(file), ".")
	}
	return "", "", false
}

// Lookup finds what has a name. Names are
//
//	name              an exported one or one of the program's own, else one of any module's full table
//	name@VERSION      in this version
//	module!name       in a module: libc.so.6, libc, python3.11, vdso, or a path or its tail
//	file.c:name       in a source file
//	ns::f, ns::f(int) as C++ or Rust would say it; mangled names are names like any other
//
// It returns all candidates of the nearest kind, best first: what the loader would bind before what it would not,
// default versions before hidden ones. No candidate gives a *[NotFoundError]. [Symbols.Resolve] insists on a single
// meaning.
//
// Exported names are looked up in memory, and the program's own in its file. Only for what is neither, or is asked for
// by source file, are the files of all modules (that may be meant) read.
func (s *Symbols) Lookup(name string) ([]Found, error) {
	readings := s.readings(name)
	for _, q := range readings {
		if out := s.look(q); len(out) > 0 {
			s.sort(out)
			s.annotate(out)
			return out, nil
		}
	}
	last := readings[len(readings)-1]
	return nil, &NotFoundError{Name: name, Near: s.near(last), Unread: unread(last.modules)}
}

// unread tells why modules' full tables are not known, where they have one.
func unread(modules []*Module) []error {
	var out []error
	for _, m := range modules {
		_, err := m.fullTable()
		if err != nil && m.process != nil && m.mapping.Inode != 0 && !errors.Is(err, elf.ErrNoSymbols) {
			out = append(out, fmt.Errorf("symbol table of %s: %w", m.Path, err))
		}
	}
	return out
}

// look goes from what costs little to what costs much, and stops where something is found.
func (s *Symbols) look(q query) []Found {
	if q.file != "" {
		return s.lookInFile(q)
	}
	first, later := s.tables(q)
	src := parseSource(q.name)
	exact := func(t *table, m *Module) []Found { return foundAt(m, t, t.find(q.name)) }
	asSource := func(t *table, m *Module) []Found { return foundAt(m, t, t.findSource(src)) }
	for _, step := range []func() []Found{
		func() []Found { return append(s.exported(q), each(first, exact)...) },
		func() []Found { return each(later, exact) },
		func() []Found { return append(each(s.exportTables(q), asSource), each(first, asSource)...) },
		func() []Found { return each(later, asSource) },
	} {
		out := step()
		if q.version != "" {
			out = slices.DeleteFunc(out, func(f Found) bool { return f.Version != q.version })
		}
		if len(out) > 0 {
			return distinct(out)
		}
	}
	return nil
}

// lookInFile finds statics by the source file that the symbol table names, and other functions by the one that DWARF
// names.
func (s *Symbols) lookInFile(q query) []Found {
	var out []Found
	src := parseSource(q.name)
	for _, m := range q.modules {
		t, err := m.fullTable()
		if err != nil {
			continue
		}
		indices := t.find(q.name)
		if len(indices) == 0 {
			indices = t.findSource(src)
		}
		for _, f := range foundAt(m, t, indices) {
			if f.File == "" {
				f.File = m.sourceFile(f.Addr)
			}
			if sameFile(f.File, q.file) && (q.version == "" || f.Version == q.version) {
				out = append(out, f)
			}
		}
	}
	return distinct(out)
}

// sameFile reports whether a file as debug information names it may be what a user calls it: either may be said with
// less of the directory.
func sameFile(have, said string) bool {
	return have != "" && (isTail(have, said) || isTail(said, have))
}

// lazyTable is a table that is read when it is needed.
type lazyTable struct {
	module *Module
	read   func() (*table, error)
}

// tables are the full tables to search: the program's own, and later the others'. Of modules that a user named all are
// searched first.
func (s *Symbols) tables(q query) (first, later []lazyTable) {
	for _, m := range q.modules {
		t := lazyTable{m, m.fullTable}
		if m.Main || q.within {
			first = append(first, t)
		} else {
			later = append(later, t)
		}
	}
	return first, later
}

func (s *Symbols) exportTables(q query) []lazyTable {
	var out []lazyTable
	for _, m := range q.modules {
		out = append(out, lazyTable{m, m.exportTable})
	}
	return out
}

// each applies find to the tables that can be read.
func each(tables []lazyTable, find func(*table, *Module) []Found) []Found {
	var out []Found
	for _, l := range tables {
		if t, err := l.read(); err == nil {
			out = append(out, find(t, l.module)...)
		}
	}
	return out
}

// exported finds a name by the modules' hash tables.
func (s *Symbols) exported(q query) []Found {
	var out []Found
	for _, m := range q.modules {
		syms, err := m.dynamicAll(q.name)
		if err != nil {
			continue // damaged tables have no symbols
		}
		for _, sym := range syms {
			f := Found{Symbol: sym, Module: m, Source: Dynamic}
			if m.Path == vdsoPath {
				f.Source = VDSO
			}
			out = append(out, f)
		}
	}
	return out
}

func foundAt(m *Module, t *table, indices []int) []Found {
	var out []Found
	for _, i := range indices {
		out = append(out, m.found(t, i))
	}
	return out
}

func (m *Module) found(t *table, i int) Found {
	return Found{Symbol: m.symbolOf(t, i), Module: m, Source: t.source, From: t.from, File: t.file(i)}
}

// distinct leaves out what a full table repeats of the dynamic one: same module, name and address.
func distinct(in []Found) []Found {
	type key struct {
		module *Module
		name   string
		addr   mem.Addr
		kind   Kind
	}
	seen := make(map[key]bool)
	var out []Found
	for _, f := range in {
		k := key{f.Module, f.Name, f.Addr, f.Kind()}
		if !seen[k] {
			out = append(out, f)
		}
		seen[k] = true
	}
	return out
}
