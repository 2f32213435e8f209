package cexpr

import (
	"debug/dwarf"
	"errors"
)

// Types reads types of functions and variables from one module's debug information. Names are indexed at the first
// question that needs it. It is safe for one goroutine at a time.
type Types struct {
	data *dwarf.Data
}

// NewTypes returns the types of d. It reads nothing yet.
func NewTypes(d *dwarf.Data) *Types { return &Types{data: d} }

var errUnbuilt = errors.New("not built yet")

// Function is the type of the function at addr, an address as in the module's file (without the load bias); where
// none begins there, of the one called name. Nil without an error: not known.
func (t *Types) Function(name string, addr uint64) (*Type, error) { return nil, errUnbuilt }

// Variable is the type of the variable at addr, as in the module's file; where none lies there, of the one called
// name. Nil without an error: not known.
func (t *Types) Variable(name string, addr uint64) (*Type, error) { return nil, errUnbuilt }

// Named is the type called "name", "struct name", "union name" or "enum name". Nil without an error: not known.
func (t *Types) Named(name string) (*Type, error) { return nil, errUnbuilt }

// Constant is the enumerator called name, and whether there is one.
func (t *Types) Constant(name string) (Entity, bool, error) { return Entity{}, false, errUnbuilt }
