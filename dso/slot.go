package dso

import (
	"errors"

	"github.com/heaptap/heaptap/mem"
)

// Slot is a word in a module's data that the loader fills with the address of a symbol, by a relocation.
type Slot struct {
	Addr    mem.Addr // where the word lies; 8-byte aligned in all but strange objects
	Kind    SlotKind
	Symbol  string   // "" for an indirect function of the module's own without a name (IRELATIVE)
	Version string   // that the module wants, "" if any
	Library string   // soname that the version is wanted of, "" if not said
	Defined bool     // the module defines the symbol itself (it may be bound elsewhere all the same)
	Weak    bool     // may stay 0
	Addend  int64    // added to the symbol's address; of an IRelative, the resolver's link-time address
	Value   mem.Addr // what the word holds now
	Lazy    bool     // not bound yet: the word leads back into the module's PLT, and the first call binds it
	RelRO   bool     // lies in the part that the loader makes read-only after relocation
}

// SlotKind is the kind of relocation that fills a slot.
type SlotKind int

// The kinds of slots.
const (
	JumpSlot  SlotKind = iota // for calls through the PLT; may be bound lazily
	GlobDat                   // GOT slot for addresses taken and calls without PLT
	Pointer                   // initialised data: symbol plus addend
	IRelative                 // what a resolver of the module returned
	Relative                  // module's own address plus addend: no symbol
)

// Slots lists the words that hold addresses of symbols, by address.
func (m *Module) Slots() ([]Slot, error) {
	return nil, errors.New("not there yet")
}
