package symbolize

import (
	"cmp"
	"slices"
)

// spans finds by address what covers it. Spans may overlap and nest.
type spans[T any] struct {
	all   []span[T] // by low, the longer first
	reach []uint64  // for each, the highest end of it and all before
}

// span is the addresses from low to below high.
type span[T any] struct {
	low, high uint64
	of        T
}

// add takes a span. Those that begin at 0 are of code that the linker has dropped.
func (s *spans[T]) add(low, high uint64, of T) {
	if low != 0 && low < high {
		s.all = append(s.all, span[T]{low, high, of})
	}
}

// sort must be called between add and find.
func (s *spans[T]) sort() {
	slices.SortStableFunc(s.all, func(a, b span[T]) int {
		return cmp.Or(cmp.Compare(a.low, b.low), cmp.Compare(b.high, a.high))
	})
	s.reach = make([]uint64, len(s.all))
	reach := uint64(0)
	for i, v := range s.all {
		reach = max(reach, v.high)
		s.reach[i] = reach
	}
}

// find visits what covers an address, the narrowest of what nests first, until visit says stop.
func (s *spans[T]) find(addr uint64, visit func(of T) (stop bool)) {
	i, _ := slices.BinarySearchFunc(s.all, addr, func(v span[T], addr uint64) int {
		if v.low <= addr {
			return -1
		}
		return 1
	})
	for i--; i >= 0 && s.reach[i] > addr; i-- {
		if s.all[i].high > addr && visit(s.all[i].of) {
			return
		}
	}
}
