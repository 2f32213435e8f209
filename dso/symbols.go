package dso

import (
	"debug/elf"
	"fmt"
	"strings"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// Symbols answers by name and by address for a whole process. What is read of a module is read when a question first
// needs it: a name that some module exports costs a look into each module's hash table, and no file.
//
// It is a description of a moment, as its modules are, and may be used from several goroutines.
type Symbols struct {
	modules   []*Module
	scopeOnce once[*scope]
}

// LoadSymbols lists the process's modules. It reads no symbols yet. Errors are those of [Modules].
func LoadSymbols(p *proc.Process, r mem.Reader) (*Symbols, error) {
	ms, err := Modules(p, r)
	if err != nil {
		return nil, err
	}
	return NewSymbols(ms), nil
}

// NewSymbols answers for modules that were listed before by [Modules], in that order.
func NewSymbols(modules []*Module) *Symbols { return &Symbols{modules: modules} }

// Modules are the process's modules in the order of [Modules].
func (s *Symbols) Modules() []*Module { return s.modules }

// Module returns the module that contains a, nil if there is none.
func (s *Symbols) Module(a mem.Addr) *Module {
	for _, m := range s.modules {
		if m.Contains(a) {
			if _, ok := m.Segment(a); ok {
				return m
			}
		}
	}
	return nil
}

// Source says which table a symbol or a module's DWARF comes from.
type Source int

// The sources, the nearest to the process first.
const (
	Dynamic       Source = iota // dynamic symbol table in the process's memory
	VDSO                        // the same of the kernel's vDSO
	Symtab                      // the mapped file itself
	BuildIDFile                 // debug file by build-id
	DebugLink                   // debug file that .gnu_debuglink names
	MiniDebugInfo               // .gnu_debugdata of the mapped file
)

// String is the source's name as users know it.
func (s Source) String() string {
	names := [...]string{"dynamic", "vdso", "symtab", "build-id file", "debug link", "MiniDebugInfo"}
	if s < 0 || int(s) >= len(names) {
		return fmt.Sprintf("Source(%d)", int(s))
	}
	return names[s]
}

// Found is a symbol and where it was found.
type Found struct {
	Symbol
	Module    *Module
	Demangled string // as C++ or Rust source would say it, with parameters; "" where Name is not mangled
	Source    Source
	From      string // path of the file, as the target sees it, that the symbol was read from; "" for memory
	File      string // source file of a static (STT_FILE), "" if not known

	// Bound is, for an indirect function (Kind is IFunc, Addr its resolver), the implementation that the process has
	// bound: a GOT slot holds it. 0 if no slot does: then only running the resolver can tell.
	Bound mem.Addr

	// Copy is the library whose variable this is: the program holds a copy (R_*_COPY) that all modules use, the library
	// too. nil for all other symbols. Original says the reverse: a library's variable of which the program has the copy
	// in use, so that this one is dead memory.
	Copy     *Module
	Original bool
}

// Entry is where a call of the function goes: Bound for an indirect function, Addr for every other. 0 if an indirect
// function is bound nowhere.
func (f *Found) Entry() mem.Addr {
	if f.Kind() == IFunc {
		return f.Bound
	}
	return f.Addr
}

// String is module!name with version, as [Symbols.Lookup] would take it.
func (f *Found) String() string {
	name := f.Name
	if f.Demangled != "" {
		name = f.Demangled
	}
	if f.Version != "" {
		at := "@@"
		if f.Hidden {
			at = "@"
		}
		name += at + f.Version
	}
	if f.Module == nil {
		return name
	}
	return f.Module.Name() + "!" + name
}

// Kind is what a symbol names.
type Kind int

// The kinds of symbols.
const (
	Unknown Kind = iota // the assembler was not told
	Func
	Object
	TLS   // Addr is the offset in the module's TLS block
	IFunc // Addr is the resolver, a function that returns the function
)

// String is the kind's name.
func (k Kind) String() string {
	names := [...]string{"unknown", "function", "object", "thread-local", "indirect function"}
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("Kind(%d)", int(k))
	}
	return names[k]
}

// Kind is what the symbol names, by its ELF type.
func (s *Symbol) Kind() Kind {
	switch s.Type {
	case elf.STT_FUNC:
		return Func
	case elf.STT_OBJECT, elf.STT_COMMON:
		return Object
	case elf.STT_TLS:
		return TLS
	case elf.STT_GNU_IFUNC:
		return IFunc
	}
	return Unknown
}

// NotFoundError says that no module has a symbol of that name.
type NotFoundError struct {
	Name   string
	Near   []string // names that exist and resemble it, the nearest first
	Unread []error  // why full symbol tables could not be read that may have it; stripped files are no such reason
}

func (e *NotFoundError) Error() string {
	s := fmt.Sprintf("look up %s: %v", e.Name, ErrNoSymbol)
	if len(e.Near) > 0 {
		s += "; near: " + strings.Join(e.Near, ", ")
	}
	for _, err := range e.Unread {
		s += "; not read: " + err.Error()
	}
	return s
}

func (e *NotFoundError) Unwrap() error { return ErrNoSymbol }

// AmbiguousError says that a name means several things, none of which the program would rather mean than another.
type AmbiguousError struct {
	Name       string
	Candidates []Found // all of them, best first
}

func (e *AmbiguousError) Error() string {
	var names []string
	for i := range e.Candidates {
		c := &e.Candidates[i]
		names = append(names, fmt.Sprintf("%v (%v)", c, c.Addr))
	}
	return fmt.Sprintf("look up %s: ambiguous: %s", e.Name, strings.Join(names, ", "))
}
