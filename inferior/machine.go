package inferior

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/cexpr"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
)

// machine is what expressions act on: a process seen through one thread. Without a session it can only look.
type machine struct {
	process *Process
	symbols *dso.Symbols
	types   *typeSource
	judge   *judge
	force   bool // call what the judge would refuse

	session *call.Session
	// registers gives the thread's, read when they are first asked for.
	registers func() (*Registers, error)
	judged    Resources // the thread is known to stand well for functions that need no more than this
	named     map[mem.Addr]dso.Found
	looked    map[string]cexpr.Entity // names that were looked up before a thread was stopped
	errnoAt   mem.Addr                // the function that returns the address of the thread's errno; 0 if there is none
	free      span                    // what is left of the last memory that was mapped for literals and buffers
	mapped    []Range
	errno     int32
	keepErrno bool
}

// Range is a piece of the target's memory.
type Range struct {
	Addr mem.Addr
	Size uint64
}

type span struct{ from, to mem.Addr }

// errNoThread says that an expression wants something done that takes a borrowed thread.
var errNoThread = errors.New("this takes a thread of the process, and here it is only looked at")

// ReadAt implements [mem.Reader].
func (m *machine) ReadAt(b []byte, a mem.Addr) error { return m.process.memory.ReadAt(b, a) }

// WriteAt implements [mem.Writer].
func (m *machine) WriteAt(b []byte, a mem.Addr) error {
	if m.session == nil {
		return errNoThread
	}
	return m.process.memory.WriteAt(b, a)
}

// Register implements [cexpr.Machine].
func (m *machine) Register(name string) ([]byte, error) {
	r, err := m.registers()
	if err != nil {
		return nil, err
	}
	v, err := r.Register(name)
	if errors.Is(err, ErrNoRegister) {
		return nil, &cexpr.UnknownRegisterError{Name: name}
	}
	return v.Bytes, err
}

// SetRegister implements [cexpr.Machine]: it refuses, since the thread gets its own registers back.
func (m *machine) SetRegister(name string, _ []byte) error {
	return &ReadOnlyRegisterError{name}
}

// ReadOnlyRegisterError says that an expression assigns to a register. The thread would get its own back.
type ReadOnlyRegisterError struct{ Name string }

func (e *ReadOnlyRegisterError) Error() string {
	return fmt.Sprintf("$%s cannot be assigned to: a borrowed thread gets its own registers back", e.Name)
}

// Lookup implements [cexpr.Machine].
func (m *machine) Lookup(name string) (cexpr.Entity, error) {
	if e, ok := m.looked[name]; ok {
		return e, nil
	}
	f, err := m.symbols.Resolve(name)
	var none *dso.NotFoundError
	var several *dso.AmbiguousError
	switch {
	case errors.As(err, &none):
		if e, ok, err := m.types.constant(name); err != nil || ok {
			return e, err
		}
		return cexpr.Entity{}, &cexpr.NotFoundError{Name: name, Near: none.Near}
	case errors.As(err, &several):
		e := &cexpr.AmbiguousError{Name: name}
		for i := range several.Candidates {
			e.Candidates = append(e.Candidates, several.Candidates[i].String())
		}
		return cexpr.Entity{}, e
	case err != nil:
		return cexpr.Entity{}, err
	}
	e, err := m.entity(&f)
	if err == nil && f.Kind() != dso.TLS {
		m.looked[name] = e
	}
	return e, err
}

// entity is a symbol as expressions know it.
func (m *machine) entity(f *dso.Found) (cexpr.Entity, error) {
	e := cexpr.Entity{Name: f.Name, Module: f.Module.Path, Addr: f.Addr, Size: f.Size, Source: sourceText(f)}
	switch f.Kind() {
	case dso.Func:
		e.Kind = cexpr.Function
	case dso.IFunc:
		e.Kind = cexpr.IFunc
		if f.Bound != 0 {
			e.Kind, e.Addr = cexpr.Function, f.Bound
			e.Source += fmt.Sprintf(", indirect: bound to %v", f.Bound)
		} else {
			e.Source += fmt.Sprintf(", indirect: the resolver at %v is run", f.Addr)
		}
	case dso.TLS:
		e.Kind = cexpr.Object
		r, err := m.registers()
		if err != nil {
			return e, err
		}
		if e.Addr, err = threadLocal(m.process.memory, m.symbols.Modules(), f, r.General.ThreadPointer()); err != nil {
			return e, err
		}
	default:
		e.Kind = cexpr.Object
		if f.Kind() == dso.Unknown && f.Module.Executable(f.Addr) {
			e.Kind = cexpr.Function
		}
	}
	if e.Kind == cexpr.Function || e.Kind == cexpr.IFunc {
		m.named[e.Addr] = *f
	}
	e.Type = m.types.of(f, e.Kind)
	return e, nil
}

// sourceText says where a symbol was found.
func sourceText(f *dso.Found) string {
	s := f.Source.String()
	if f.From != "" {
		s += " of " + f.From
	}
	if f.Version != "" {
		s += ", version " + f.Version
	}
	if f.Copy != nil {
		s += ", the program's copy of " + f.Copy.Name() + "'s"
	}
	return s
}

// TypeNamed implements [cexpr.Machine].
func (m *machine) TypeNamed(name string) (*cexpr.Type, error) { return m.types.named(name) }

// Symbol implements [cexpr.Machine].
func (m *machine) Symbol(a mem.Addr) (string, uint64, bool) {
	f, offset, ok := m.symbols.At(a)
	if !ok {
		return "", 0, false
	}
	return f.Name, offset, true
}

// scratchSize is how much memory is mapped at once for literals and buffers.
const scratchSize = 64 << 10

// Allocate implements [cexpr.Machine].
func (m *machine) Allocate(n uint64) (mem.Addr, error) {
	if m.session == nil {
		return 0, errNoThread
	}
	const align = 16
	n = (n + align - 1) &^ uint64(align-1)
	if n > uint64(m.free.to-m.free.from) {
		size := (max(n, scratchSize) + pageSize - 1) &^ uint64(pageSize-1)
		a, err := m.session.Map(size, unix.PROT_READ|unix.PROT_WRITE)
		if err != nil {
			return 0, fmt.Errorf("memory for literals and buffers: %w", err)
		}
		m.free = span{a, a + mem.Addr(size)}
		m.mapped = append(m.mapped, Range{a, size})
	}
	a := m.free.from
	m.free.from += mem.Addr(n)
	return a, nil
}

const pageSize = 4096

// Call implements [cexpr.Machine].
func (m *machine) Call(fn mem.Addr, c *cexpr.Call) (*cexpr.Result, error) {
	if m.session == nil {
		return nil, errNoThread
	}
	name, module := m.name(fn)
	if err := m.mayCall(fn, name, module); err != nil {
		return nil, err
	}
	r, err := m.session.Call(fn, call.Args{Int: c.Int, Vector: c.Vector, AL: uint8(c.Vectors), Stack: c.Stack})
	if err != nil {
		return nil, m.failed(fn, name, err)
	}
	m.errno = r.Errno
	return &cexpr.Result{RAX: r.RAX, RDX: r.RDX, XMM0: r.XMM0, XMM1: r.XMM1, ST0: r.ST0}, nil
}

// name is the function at an address; "" where there is no symbol for it.
func (m *machine) name(fn mem.Addr) (string, *dso.Module) {
	if f, ok := m.named[fn]; ok {
		return f.Name, f.Module
	}
	if f, offset, ok := m.symbols.At(fn); ok && offset == 0 {
		return f.Name, f.Module
	}
	return "", m.symbols.Module(fn)
}

// Errno implements [cexpr.Machine].
func (m *machine) Errno() (int, bool) { return int(m.errno), m.keepErrno }

// errnoLocators are the functions that return the address of the thread's errno: of glibc and musl, of bionic.
var errnoLocators = [...]string{"__errno_location", "___errno_location", "__errno"}

// findErrno looks for the function that tells where errno is. A process without one has no errno that could be harmed.
func (m *machine) findErrno() {
	for _, name := range errnoLocators {
		if f, err := m.symbols.Resolve(name); err == nil && f.Entry() != 0 {
			m.errnoAt = f.Entry()
			return
		}
	}
}

// watchErrno has the thread's errno put back after each call and reported.
func (m *machine) watchErrno() error {
	if m.errnoAt == 0 {
		return nil
	}
	r, err := m.session.Call(m.errnoAt, call.Args{})
	if err != nil {
		return fmt.Errorf("ask for errno's address: %w", err)
	}
	if err := m.session.KeepErrno(mem.Addr(r.RAX)); err != nil {
		return fmt.Errorf("keep errno: %w", err)
	}
	m.keepErrno = true
	return nil
}

// GILError says that a function may only be called by a thread that holds Python's lock, and the thread does not.
type GILError struct {
	Function string
	Tid      int
}

func (e *GILError) Error() string {
	return fmt.Sprintf("%s may only be called with Python's GIL, and thread %d does not hold it", e.Function, e.Tid)
}

// UnsafeError says that a function needs what the borrowed thread may hold.
type UnsafeError struct {
	Function string
	Position Position
}

func (e *UnsafeError) Error() string {
	return fmt.Sprintf("%s is not safe to call: thread %d is %s", e.Function, e.Position.Thread.Tid, e.Position.Why)
}

// mayCall refuses functions that would hang or crash the process where the thread stands now.
func (m *machine) mayCall(fn mem.Addr, name string, module *dso.Module) error {
	if m.force {
		return nil
	}
	shown := name
	if shown == "" {
		shown = "the function at " + fn.String()
	}
	if m.judge.needsGIL(name, module) {
		holds, err := m.holdsGIL()
		if err != nil {
			return err
		}
		if !holds {
			return &GILError{shown, m.session.Tid()}
		}
	}
	needed := m.judge.need(name, module)
	if needed&^m.judged == 0 {
		return nil
	}
	regs := m.session.Regs()
	t := call.StoppedThread{Tid: m.session.Tid(), PC: regs.PC(), SP: regs.SP(), Regs: regs}
	p := m.judge.position(t, "", needed)
	if p.Why != "" {
		return &UnsafeError{shown, p}
	}
	m.judged |= needed
	return nil
}

// holdsGIL tells whether the borrowed thread holds Python's lock now; where memory does not tell, Python is asked.
func (m *machine) holdsGIL() (bool, error) {
	regs := m.session.Regs()
	switch m.judge.python.holds(&regs) {
	case HoldsGIL:
		return true, nil
	case WithoutGIL:
		return false, nil
	}
	const check = "PyGILState_Check"
	f, err := m.symbols.Resolve(check)
	if err != nil {
		return false, fmt.Errorf("find out who holds Python's GIL: %w", err)
	}
	r, err := m.session.Call(f.Entry(), call.Args{})
	if err != nil {
		return false, fmt.Errorf("call %s: %w", check, err)
	}
	return int32(r.RAX) != 0, nil
}

// CalleeError says how a called function failed, and where it was.
type CalleeError struct {
	Function string
	Frames   []Frame // of the function, innermost first, where it could be told
	Err      error   // a *call.FaultError, *call.TimeoutError, *call.ExitedError, *call.LongjmpError, …
}

func (e *CalleeError) Error() string {
	var fault *call.FaultError
	var late *call.TimeoutError
	var exited *call.ExitedError
	var jumped *call.LongjmpError
	switch {
	case errors.As(e.Err, &fault):
		s := fmt.Sprintf("%s: %s (%v) at %v", e.Function, unix.SignalName(fault.Signal), fault.Signal, fault.PC)
		if fault.Signal == unix.SIGSEGV || fault.Signal == unix.SIGBUS {
			s += fmt.Sprintf(", touching %v", fault.Addr)
		}
		return s
	case errors.As(e.Err, &late):
		return fmt.Sprintf("%s: not done after %v, abandoned at %v", e.Function, late.Limit, late.PC)
	case errors.As(e.Err, &exited):
		return fmt.Sprintf("%s: %s", e.Function, strings.TrimPrefix(exited.Error(), "borrowed code: "))
	case errors.As(e.Err, &jumped):
		return fmt.Sprintf("%s: %s", e.Function, strings.TrimPrefix(jumped.Error(), "borrowed code: "))
	}
	return fmt.Sprintf("%s: %v", e.Function, e.Err)
}

func (e *CalleeError) Unwrap() error { return e.Err }

// maxCalleeFrames is how many frames of a function that failed are shown.
const maxCalleeFrames = 32

// failed describes a call that went wrong, as long as its stack is there. Source lines come later, when the thread has
// been given back.
func (m *machine) failed(fn mem.Addr, name string, err error) error {
	if name == "" {
		name = fn.String()
	}
	e := &CalleeError{Function: name, Err: err}
	regs := m.session.Regs()
	var fault *call.FaultError
	var late *call.TimeoutError
	var exited *call.ExitedError
	switch {
	case errors.As(err, &fault):
		regs = fault.Regs
	case errors.As(err, &late):
		regs = late.Regs
	case errors.As(err, &exited):
		regs = exited.Regs
	default:
		return e
	}
	w := m.judge.walker
	frames, _ := w.unwinder(m.process.memory).Stack(unwindRegs(&regs, regs.PC(), regs.SP()), maxCalleeFrames)
	for _, f := range frames {
		e.Frames = append(e.Frames, w.name(f))
	}
	// The last frames are those of the code that called the function.
	for n := len(e.Frames); n > 1 && e.Frames[n-1].Function == ""; n-- {
		e.Frames = e.Frames[:n-1]
	}
	return e
}
