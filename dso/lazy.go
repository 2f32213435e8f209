package dso

import (
	"sync"

	"github.com/heaptap/heaptap/mem"
)

// lazy holds what is read of a module when it is first asked for.
type lazy struct {
	full     once[*table]
	exports  once[*table]
	versions once[map[uint16]version]
	index    once[*addressIndex]
	debug    once[*DebugInfo]
	units    once[*units]
	slots    once[[]Slot]
	copies   once[map[string]mem.Addr]
	soname   once[string]
}

// once is a value that is made at most one time; a failure is kept too.
type once[T any] struct {
	sync.Once
	value T
	err   error
}

func (o *once[T]) get(make func() (T, error)) (T, error) {
	o.Do(func() { o.value, o.err = make() })
	return o.value, o.err
}
