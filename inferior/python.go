package inferior

import (
	"errors"
	"strings"

	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/ptrace"
)

// pythonView is what is known of the Python in a process. A nil view is of a process without.
type pythonView struct {
	interpreter *cpython.Interpreter // nil where its structures cannot be read
	module      *dso.Module          // that has the interpreter
	place       cpython.Place        // of the current thread's state
	reader      mem.Reader
	// current is the thread-local variable that the getter in place reads, where only a call of the getter would tell;
	// nil where no symbol names it.
	current *dso.Found
	modules []*dso.Module
}

// viewPython looks for an interpreter; nil where there is none.
func viewPython(p *proc.Process, r mem.Reader, symbols *dso.Symbols) *pythonView {
	v := &pythonView{reader: r}
	for _, m := range symbols.Modules() {
		if _, err := m.Dynamic("Py_IsInitialized"); err == nil {
			v.module = m
			break
		}
	}
	if v.module == nil {
		return nil
	}
	// One that is not supported has functions that can be called all the same.
	if in, err := cpython.Find(p, r); err == nil {
		v = viewInterpreter(p, r, in, symbols)
	}
	return v
}

// currentState is the variable in which CPython from 3.12 on keeps each thread's current state.
const currentState = "_Py_tss_tstate"

// viewInterpreter is the view of an interpreter that was found; nil of none.
func viewInterpreter(p *proc.Process, r mem.Reader, in *cpython.Interpreter, symbols *dso.Symbols) *pythonView {
	if in == nil {
		return nil
	}
	v := &pythonView{reader: r, interpreter: in, module: in.Module, modules: symbols.Modules()}
	if maps, err := p.Maps(); err == nil {
		v.place = in.CurrentThreadStateAt(r, maps)
	}
	if v.place.Where != cpython.InFunction {
		return v
	}
	found, err := symbols.Lookup(currentState)
	if err != nil {
		return v
	}
	for i := range found {
		if f := &found[i]; f.Kind() == dso.TLS && v.sameModule(f.Module) {
			v.current = f
		}
	}
	return v
}

// contains reports whether a module is the interpreter's.
func (v *pythonView) contains(m *dso.Module) bool { return v != nil && v.sameModule(m) }

// isAPI reports whether a function is of Python's C interface.
func (v *pythonView) isAPI(name string, m *dso.Module) bool {
	return v != nil && v.sameModule(m) && (strings.HasPrefix(name, "Py") || strings.HasPrefix(name, "_Py"))
}

// sameModule compares modules that may have been listed at different times.
func (v *pythonView) sameModule(m *dso.Module) bool {
	return m != nil && m.Start == v.module.Start
}

// holds tells whether a thread with these registers holds the interpreter's lock, or is attached to it.
func (v *pythonView) holds(r *ptrace.Regs) GIL {
	if v == nil {
		return NoPython
	}
	if v.interpreter == nil {
		return UnknownGIL
	}
	tp := r.ThreadPointer()
	switch v.place.Where {
	case cpython.InThread:
		state, err := mem.Pointer(v.reader, tp+mem.Addr(v.place.Value))
		return known(err, state != 0)
	case cpython.InVariable:
		current, err := mem.Pointer(v.reader, mem.Addr(v.place.Value))
		if err != nil || current == 0 {
			return known(err, false)
		}
		owner, err := mem.U64(v.reader, v.interpreter.Layout.Thread.ThreadID.From(current))
		return known(err, mem.Addr(owner) == tp)
	}
	if v.current == nil {
		return UnknownGIL
	}
	a, err := threadLocal(v.reader, v.modules, v.current, tp)
	if errors.As(err, new(*unusedTLSError)) {
		return WithoutGIL // it has never run Python
	}
	if err != nil {
		return UnknownGIL
	}
	state, err := mem.Pointer(v.reader, a)
	return known(err, state != 0)
}

func known(err error, holds bool) GIL {
	switch {
	case err != nil:
		return UnknownGIL
	case holds:
		return HoldsGIL
	}
	return WithoutGIL
}
