package dso

import (
	"cmp"
	"slices"
	"strings"
)

const (
	maxNear     = 8       // names that a [NotFoundError] proposes
	maxNearName = 64      // bytes of a name that is compared letter by letter
	maxNearScan = 1 << 21 // names that are looked at

	maxNearDemangled = 1 << 15 // names that are demangled to be looked at; libstdc++ has 6,000
)

// near proposes names that resemble the one that was not found: in the modules that were meant, then in all.
func (s *Symbols) near(q query) []string {
	c := closest{path: strings.ToLower(canonical(withoutTail(q.name))), best: make(map[string]int), left: maxNearScan,
		demangle: maxNearDemangled}
	c.last = lastName(c.path)
	for _, m := range q.modules {
		c.module(m)
	}
	// The name may be right and the module wrong.
	if _, name, ok := strings.Cut(q.name, "!"); ok || q.within {
		if !ok {
			name = q.name
		}
		for _, m := range s.modules {
			if syms, err := m.dynamicAll(name); err == nil && len(syms) > 0 {
				c.best[m.Name()+"!"+name] = 0
			}
		}
	}
	names := make([]string, 0, len(c.best))
	for name := range c.best {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(c.best[a], c.best[b]), cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
	return names[:min(len(names), maxNear)]
}

// lastName is what follows the last "::" or ":" of a name without parameters.
func lastName(name string) string { return name[strings.LastIndexByte(name, ':')+1:] }

// closest collects names by their distance from a wanted one.
type closest struct {
	path, last string // the wanted one, whole and its last part, in lower case
	best       map[string]int
	left       int // names still to be looked at
	demangle   int // and to be demangled
}

// module looks at a module's exports and at its full table.
func (c *closest) module(m *Module) {
	for _, read := range []func() (*table, error){m.exportTable, m.fullTable} {
		t, err := read()
		if err != nil {
			continue
		}
		for i := range t.len() {
			if c.left--; c.left < 0 {
				return
			}
			raw := t.raw(i)
			if !isDefinition(raw) {
				continue
			}
			name, _, _ := strings.Cut(t.name(raw.Name), "@")
			c.consider(name)
		}
	}
}

// consider compares a name with the wanted one. Of what was wanted with its namespace, the namespace counts too.
func (c *closest) consider(name string) {
	plain := name
	if mangled(name) {
		if c.demangle--; c.demangle < 0 {
			return
		}
		if name = Demangle(name); name == "" {
			return
		}
		plain = strings.ToLower(canonical(withoutTail(name)))
		if d, ok := distance(c.path, plain); ok {
			c.keep(name, d)
			return
		}
		plain = lastName(plain)
	}
	if d, ok := distance(c.last, strings.ToLower(plain)); ok {
		if c.path != c.last {
			d += 2
		}
		c.keep(name, d)
	}
}

func (c *closest) keep(name string, d int) {
	if old, known := c.best[name]; !known || d < old {
		c.best[name] = d
	}
}

// distance tells how far a name is from the wanted one, both in lower case: 0 for equal but for case or underscores in
// front, the number of letters to change, or more where one contains the other. It is false where they do not resemble
// each other.
func distance(wanted, name string) (int, bool) {
	bare, wantedBare := strings.Trim(name, "_"), strings.Trim(wanted, "_")
	if bare == "" || wantedBare == "" || len(wanted) > maxNearName || len(name) > maxNearName {
		return 0, false
	}
	if bare == wantedBare {
		return 0, true
	}
	limit := 1 + len(wantedBare)/5
	if d := edits(wantedBare, bare, limit); d <= limit {
		return d, true
	}
	if len(wantedBare) >= 4 && strings.Contains(bare, wantedBare) {
		return limit + 1 + (len(bare)-len(wantedBare))/4, true
	}
	return 0, false
}

// edits counts the letters to insert, delete, change or swap with their neighbour to make a into b; limit+1 if they are
// more than limit.
func edits(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	var rows [3][maxNearName + 1]int
	before, last, now := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		now[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			now[j] = min(last[j]+1, now[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				now[j] = min(now[j], before[j-2]+1)
			}
			least = min(least, now[j])
		}
		if least > limit {
			return limit + 1
		}
		before, last, now = last, now, before
	}
	return last[len(b)]
}
