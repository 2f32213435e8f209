package dso

import (
	"path"
	"strings"

	"github.com/heaptap/heaptap/mem"
)

// Soname is the module's DT_SONAME, "" if it has none.
func (m *Module) Soname() (string, error) {
	return m.lazy.soname.get(m.readSoname)
}

// scope tells what the loader searches for the program's own references: the modules loaded at its start, in order.
type scope struct {
	order   map[*Module]int  // place in the list of modules
	startup map[*Module]bool // loaded with the program, and so searched for all
	copies  map[string]mem.Addr
}

// scope is made once. A module that was opened later (dlopen) stands behind all that the program needs, directly or
// through its libraries, in the loader's list; preloaded ones stand before those.
func (s *Symbols) scope() *scope {
	v, _ := s.scopeOnce.get(func() (*scope, error) {
		sc := &scope{order: make(map[*Module]int), startup: make(map[*Module]bool)}
		for i, m := range s.modules {
			sc.order[m] = i
		}
		last := s.lastNeeded()
		for i, m := range s.modules {
			sc.startup[m] = i <= last && (m.listed || m.Main)
		}
		if len(s.modules) > 0 {
			sc.copies, _ = s.modules[0].copied()
		}
		return sc, nil
	})
	return v
}

// lastNeeded is the highest place of a module that the program needs, by DT_NEEDED, itself or through others.
func (s *Symbols) lastNeeded() int {
	byName := make(map[string]int)
	for i, m := range s.modules {
		if !m.listed || m.Path == vdsoPath {
			continue
		}
		soname, _ := m.Soname() // one without is known by its file's name
		for _, name := range []string{soname, m.Name()} {
			if _, taken := byName[name]; !taken && name != "" {
				byName[name] = i
			}
		}
	}
	last, queue := 0, []int{0}
	seen := map[int]bool{0: true}
	for len(queue) > 0 && len(s.modules) > 0 {
		m := s.modules[queue[0]]
		queue = queue[1:]
		for _, name := range m.needs() {
			if i, ok := byName[path.Base(name)]; ok && !seen[i] {
				seen[i] = true
				last = max(last, i)
				queue = append(queue, i)
			}
		}
	}
	return last
}

const maxNeeded = 1 << 12 // libraries that one module needs, of which are looked at

// needs lists the module's DT_NEEDED; what cannot be read is left out.
func (m *Module) needs() []string {
	var out []string
	for _, off := range m.dynamic.needed[:min(len(m.dynamic.needed), maxNeeded)] {
		if name, err := m.dynString(off, 4096); err == nil {
			out = append(out, name)
		}
	}
	return out
}

// copied are the variables of libraries of which this program holds the copy that is in use, by R_*_COPY.
func (m *Module) copied() (map[string]mem.Addr, error) {
	return m.lazy.copies.get(func() (map[string]mem.Addr, error) {
		out := make(map[string]mem.Addr)
		seen := m.through()
		err := seen.relocations(func(r relocation) error {
			if r.kind != copyKind {
				return nil
			}
			raw, err := seen.rawSymbol(r.symbol)
			if err != nil {
				return err
			}
			name, err := seen.dynString(uint64(raw.Name), maxSymbol)
			out[name] = r.at
			return err
		})
		return out, err
	})
}

// is reports whether a user may call the module so: its path or the tail of it, its soname, or one of these without
// what follows ".so".
func (m *Module) is(name string) bool {
	if name == "" {
		return false
	}
	if m.Path == vdsoPath {
		name = strings.Trim(name, "[]")
	}
	soname, _ := m.Soname()
	for _, have := range []string{m.Path, soname, strings.Trim(m.Path, "[]")} {
		if have == "" {
			continue
		}
		if isTail(have, name) {
			return true
		}
		if short, _, ok := strings.Cut(path.Base(have), ".so"); ok && short == name {
			return true
		}
	}
	return false
}

// isTail reports whether a path ends in tail, by whole elements.
func isTail(path, tail string) bool {
	rest, ok := strings.CutSuffix(path, tail)
	return ok && tail != "" && (rest == "" || strings.HasSuffix(rest, "/") || strings.HasPrefix(tail, "/"))
}

// Startup is the part of a process's modules, in the loader's order, that was loaded with the program: what the loader
// searches for references of every module that was not loaded in a way of its own (RTLD_DEEPBIND, dlmopen).
func Startup(modules []*Module) []*Module {
	s := &Symbols{modules: modules}
	return modules[:min(s.lastNeeded()+1, len(modules))]
}
