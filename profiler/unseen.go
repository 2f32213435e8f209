package profiler

import (
	"fmt"

	"github.com/heaptap/heaptap/dso"
)

// ownAllocators are allocators that libraries bring along under names of their own, and the functions by which they are
// known. What is called malloc in a module is hooked, whoever it is.
var ownAllocators = []struct {
	name      string
	functions []string
}{
	{"jemalloc", []string{"je_malloc", "_rjem_malloc", "rallocx"}},
	{"mimalloc", []string{"mi_malloc"}},
	{"tcmalloc", []string{"tc_malloc", "TCMallocInternalMalloc"}},
	{"rpmalloc", []string{"rpmalloc"}},
	{"snmalloc", []string{"sn_malloc"}},
	{"scudo", []string{"scudo_malloc"}},
	{"dlmalloc", []string{"dlmalloc"}},
	{"Hoard", []string{"xxmalloc"}},
	{"the Boehm collector", []string{"GC_malloc"}},
	{"Go", []string{"runtime.mallocgc"}},
}

// unseenAllocators names the allocators that are linked into modules, where no slot leads to them, a sentence each. The
// interpreter's own are its domains. A module without the symbols of its functions does not show what it has.
func unseenAllocators(modules []*dso.Module, isPython func(*dso.Module) bool) []string {
	var all []string
	for _, a := range ownAllocators {
		all = append(all, a.functions...)
	}
	var list []string
	for _, m := range modules {
		if _, err := m.Dynamic("malloc"); err == nil || isPython(m) {
			continue
		}
		full, err := m.Symtab(all...)
		if err != nil {
			full = nil // stripped: exported names are left
		}
		for _, a := range ownAllocators {
			for _, f := range a.functions {
				_, has := full[f]
				if _, err := m.Dynamic(f); err == nil || has {
					list = append(list, fmt.Sprintf("what %s allocates by %s, which it brings along (%s)", m.Path, a.name, f))
					break
				}
			}
		}
	}
	return list
}
