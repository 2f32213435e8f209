package cexpr

import (
	"github.com/heaptap/heaptap/mem"
)

// Value is a typed value, with the place that it came from, if any.
type Value struct {
	Type  *Type
	Bytes []byte // as in memory, Type.Size long; empty for void, and for functions
	// Lvalue tells that it lies in memory at Addr; functions do too.
	Lvalue bool
	Addr   mem.Addr

	place   place  // a register or a named variable instead of memory
	field   *Field // of a bit-field: Bytes are those of the unit that was read
	unknown string // planning: why there is no value yet; Bytes are zero
}

// place is where an assignment goes when not into memory.
type place struct {
	register string // whole register
	offset   int    // part of it
	variable string // named variable
}
