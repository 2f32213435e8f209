// Package cpython recognises the CPython interpreter in a live process, knows where its structures hold what heaptap
// needs, and decodes them: code objects, line tables, strings, thread and frame chains.
//
// It only reads, and takes no lock, while the target runs. Each thing read may therefore be torn: what is read is
// checked, read again a bounded number of times, and then is an error. What differs between releases is data, in
// [Layout]; its tables are generated from compilers' own type information (internal/genlayouts), laid over with what
// 3.13 and later say of themselves (_Py_DebugOffsets), and must pass probes on the live process before Find returns.
//
// An Interpreter is a plain value about one life of one process, and may be used from several goroutines.
package cpython

import (
	"fmt"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
)

// Flavour says how an interpreter got into its process.
type Flavour uint8

// The flavours.
const (
	Static   Flavour = iota + 1 // python, the interpreter linked into the program (Debian's)
	Shared                      // python, a small program over libpython
	Embedded                    // another program with the interpreter in it or in a library
)

// String is the flavour in lower case.
func (f Flavour) String() string {
	switch f {
	case Static:
		return "static"
	case Shared:
		return "shared"
	case Embedded:
		return "embedded"
	}
	return fmt.Sprintf("flavour(%d)", uint8(f))
}

// Domain is an allocator domain, an index into [Interpreter].Allocators.
type Domain int

// CPython's allocator domains (Doc/c-api/memory.rst).
const (
	Raw Domain = iota
	Mem
	Obj
	NumDomains
)

// Identity is what an interpreter is.
type Identity struct {
	Version      Version
	Flavour      Flavour
	Debug        bool        // Py_DEBUG
	FreeThreaded bool        // Py_GIL_DISABLED
	Module       *dso.Module // that holds the interpreter
}

// Interpreter is an initialised interpreter whose layout passed the probes.
type Interpreter struct {
	Identity
	Layout   Layout
	Compared bool     // this very release was compared with the layout tables, not only its neighbours
	Notes    []string // what a user should know of how the layout was found, a sentence each

	Runtime    mem.Addr             // _PyRuntime; 0 in 3.6, which has none
	Allocators [NumDomains]mem.Addr // the PyMemAllocatorEx of each domain
	CodeType   mem.Addr             // PyCode_Type
	TypeType   mem.Addr             // PyType_Type
	StrType    mem.Addr             // PyUnicode_Type

	// Functions, taking nothing and returning a PyThreadState* or NULL without lock or allocation.
	// CurrentThreadState gives to 3.11 the state of whoever holds the GIL, from 3.12 on this thread's, if attached.
	// ThisThreadState (PyGILState_GetThisThreadState) gives this thread's own state, attached or not.
	CurrentThreadState, ThisThreadState mem.Addr

	Evaluation mem.Addr // the evaluation function, _PyEval_EvalFrameDefault; 0 where it has no symbol

	roots roots
}

// roots are the addresses of the variables from which everything else is reached.
type roots struct {
	interpreters mem.Addr // PyInterpreterState*: the newest
	initialized  mem.Addr // int
	finalizing   mem.Addr // pointer
}
