package cpython

import (
	"debug/elf"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// Names looked up in an interpreter's module, beside those of [getters].
const (
	symEvaluation  = "_PyEval_EvalFrameDefault"
	symGetVersion  = "Py_GetVersion"
	symVersion     = "Py_Version"
	symRuntime     = "_PyRuntime"
	symCodeType    = "PyCode_Type"
	symTypeType    = "PyType_Type"
	symStrType     = "PyUnicode_Type"
	symThisThread  = "PyGILState_GetThisThreadState"
	symDebugBuild  = "_Py_NegativeRefcount"       // exported by Py_DEBUG builds of all versions, and only by them
	symFreeThread  = "_Py_MergeZeroLocalRefcount" // exported by free-threaded builds only
	symHead        = "PyInterpreterState_Head"
	symInitialized = "Py_IsInitialized"
	symFinalizing  = "_Py_Finalizing" // variable, 3.6 only
)

// getters return the current thread state; a version has the first that it exports.
var getters = [...]string{"PyThreadState_GetUnchecked", "_PyThreadState_GetCurrent", "_PyThreadState_UncheckedGet"}

// wrappers are the public functions that go through each domain's allocator.
var wrappers = [NumDomains]string{"PyMem_RawMalloc", "PyMem_Malloc", "PyObject_Malloc"}

// finder is one search.
type finder struct {
	process  *proc.Process
	reader   mem.Reader
	modules  []*dso.Module
	maps     []proc.Mapping
	starting bool // the interpreter need not be initialised
}

// candidate is a module that holds an interpreter.
type candidate struct {
	*finder
	id      Identity
	symbols symbols
}

// Find recognises the interpreter in a process and proves its layout by probes. Of several interpreters the
// initialised one is taken. The error wraps a *[NotPythonError], *[UnsupportedError] or *[NotReadyError], or is that of
// a read that failed.
func Find(p *proc.Process, r mem.Reader) (*Interpreter, error) {
	in, err := (&finder{process: p, reader: r}).find()
	if err != nil {
		return nil, fmt.Errorf("find Python in process %d: %w", p.Pid, err)
	}
	return in, nil
}

func (f *finder) find() (*Interpreter, error) {
	var err error
	if f.maps, err = f.process.Maps(); err != nil {
		return nil, err
	}
	if f.modules, err = dso.Modules(f.process, f.reader); err != nil {
		return nil, f.unreadable(err)
	}
	candidates, err := f.candidates()
	if err != nil {
		return nil, err
	}
	if len(candidates) == 0 {
		return nil, f.nothing()
	}
	var found *Interpreter
	var problem error
	for _, c := range candidates {
		in, err := c.examine()
		switch {
		case err == nil && found == nil:
			found = in
		case err == nil:
			found.Notes = append(found.Notes, fmt.Sprintf("another Python, %v in %s, is initialised in this process too and "+
				"is left alone", in.Version, in.Module.Path))
		case problem == nil || errors.As(problem, new(*NotReadyError)):
			problem = err
		}
	}
	if found != nil {
		return found, nil
	}
	return nil, problem
}

// unreadable turns a process of another class into a refusal, where it is a Python at all.
func (f *finder) unreadable(err error) error {
	var class *dso.ClassError
	if !errors.As(err, &class) {
		return err
	}
	for _, m := range f.maps {
		if strings.Contains(path.Base(m.Path), "python") {
			why := fmt.Sprintf("a %v %v process", class.Class, class.Machine)
			if class.Class == elf.ELFCLASS32 {
				why = fmt.Sprintf("a 32-bit process (%v)", class.Machine)
			}
			return &UnsupportedError{Why: why}
		}
	}
	return &NotPythonError{Pid: f.process.Pid}
}

// candidates are the modules that export the interpreter or, if none does, the program if it is linked in.
func (f *finder) candidates() ([]*candidate, error) {
	var out []*candidate
	for _, m := range f.modules {
		c := &candidate{finder: f, id: Identity{Module: m}, symbols: symbols{module: m}}
		if len(out) == 0 && !m.Main {
			c.symbols.program = f.modules[0]
		}
		is, err := c.symbols.has(symGetVersion, wrappers[Obj])
		if err != nil {
			return nil, err
		}
		if is {
			out = append(out, c)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	return f.linkedIn()
}

// linkedIn looks for an interpreter that is linked into the program and not exported. The version text that it wrote
// into its data shows it; only then is it worth reading the file's symbol table.
func (f *finder) linkedIn() ([]*candidate, error) {
	program := f.modules[0]
	v, ok, err := writtenVersion(f.reader, program)
	if err != nil || !ok {
		return nil, err
	}
	static, err := program.Symtab(allNames()...)
	if err != nil {
		return nil, &UnsupportedError{Identity: Identity{Version: v, Flavour: Embedded, Module: program},
			Why: fmt.Sprintf("the program exports none of its symbols, and: %v", err)}
	}
	c := &candidate{finder: f, id: Identity{Module: program}, symbols: symbols{module: program, static: static}}
	if is, err := c.symbols.has(symGetVersion, wrappers[Obj]); err != nil || !is {
		return nil, err
	}
	return []*candidate{c}, nil
}

// nothing explains why no module is a candidate.
func (f *finder) nothing() error {
	for _, m := range f.modules {
		for _, name := range []string{"pypy_main_startup", "pypy_execute_source", "rpython_startup_code"} {
			if _, err := m.Dynamic(name); err == nil {
				return &UnsupportedError{Identity: Identity{Module: m}, Why: "PyPy, not CPython"}
			}
		}
	}
	return &NotPythonError{Pid: f.process.Pid}
}

// symbols finds a module's symbols: those it exports and, where read, those of its file's full table.
type symbols struct {
	module  *dso.Module
	program *dso.Module // that may hold copies of the module's variables; nil if it cannot
	static  map[string]dso.Symbol
}

// find returns a symbol's address; false if the module does not define it.
func (s *symbols) find(name string) (mem.Addr, bool, error) {
	sym, err := s.module.Dynamic(name)
	if err == nil {
		return s.original(sym)
	}
	if !errors.Is(err, dso.ErrNoSymbol) {
		return 0, false, err
	}
	sym, ok := s.static[name]
	return sym.Addr, ok, nil
}

// original returns where a variable really is. A program that is not position-independent and names a library's
// variable holds the only copy in use (R_X86_64_COPY): the library was linked to it, so that its name in the library,
// the first of that name, is bound to the program's.
func (s *symbols) original(sym dso.Symbol) (mem.Addr, bool, error) {
	if s.program == nil || sym.Type != elf.STT_OBJECT {
		return sym.Addr, true, nil
	}
	inUse, err := s.program.Dynamic(sym.Name)
	switch {
	case err == nil && inUse.Type == elf.STT_OBJECT && inUse.Size == sym.Size:
		return inUse.Addr, true, nil
	case err != nil && !errors.Is(err, dso.ErrNoSymbol):
		return 0, false, err
	}
	return sym.Addr, true, nil
}

// has reports whether all names are defined.
func (s *symbols) has(names ...string) (bool, error) {
	for _, n := range names {
		if _, ok, err := s.find(n); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

func allNames() []string {
	names := []string{symEvaluation, symGetVersion, symVersion, symRuntime, symCodeType, symTypeType, symStrType,
		symThisThread, symDebugBuild, symFreeThread,
		symHead, symInitialized, symFinalizing}
	return append(append(names, getters[:]...), wrappers[:]...)
}
