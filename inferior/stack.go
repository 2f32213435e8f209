package inferior

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/unwind"
)

// StackOptions say what stacks are wanted of.
type StackOptions struct {
	Tid    int  // only of this thread; 0: of all
	Limit  int  // at most so many native frames of each thread; 0 means 256
	Native bool // leave Python's frames out
	// Timeout bounds the wait for the threads to stop; 0 means 10 seconds.
	Timeout time.Duration
}

// Stacks are the stacks of a process at one instant.
type Stacks struct {
	Threads []Stack
	Python  *cpython.Interpreter // nil where there is none, or none that can be read
	Pause   time.Duration        // how long the process stood still
	Notes   []string
}

// Stack is what one thread was doing.
type Stack struct {
	Thread
	State  string  // "running", "in epoll_wait", "held": in uninterruptible sleep
	Frames []Frame // native ones, innermost first
	// End is why the stack ends with the last frame, where that is not the outermost; nil where it is.
	End error
	// Python holds the thread's Python frames, innermost first; nil for a thread without.
	Python []cpython.Frame
	GIL    GIL   // whether the thread holds the interpreter's lock, or is attached to it
	PyErr  error // why the Python frames could not be read
}

// Frame is one native frame with what is known of its place.
type Frame struct {
	PC       mem.Addr
	CFA      mem.Addr // 0 where not known
	Module   *dso.Module
	Function string // demangled; "" where no symbol covers the address
	Symbol   string // as the symbol table has it
	Offset   uint64 // of PC in the function; in the module where there is no function
	File     string // "" where no debug information tells
	Line     int
	Inlined  bool // the function's code was inlined into the next frame's: they share PC and CFA
	How      unwind.Rule
	Signal   bool // a signal interrupted it: PC is the instruction that comes next

	call mem.Addr // by which function and line are found: PC, or the call before it
}

const (
	defaultFrames = 256
	// stackCopy is how much of each thread's stack is copied while it stands, from the innermost frame outwards.
	stackCopy = 256 << 10
)

// Stacks reads the stacks of all threads, native and Python's, as they are at one instant. The threads stand still for
// as long as their registers and the contents of their stacks are copied; nothing is run in the process.
func (p *Process) Stacks(ctx context.Context, o StackOptions) (*Stacks, error) {
	s, err := p.stacks(ctx, o)
	return s, p.wrap("read stacks of", err)
}

// caught is a thread as it was when the process stood still.
type caught struct {
	call.StoppedThread
	name   string
	state  string
	memory overlay
	python []cpython.Frame
	gil    GIL
	pyErr  error
}

func (p *Process) stacks(ctx context.Context, o StackOptions) (*Stacks, error) {
	symbols, err := p.Symbols()
	if err != nil {
		return nil, err
	}
	out := &Stacks{}
	if !o.Native {
		out.Python, err = cpython.Find(p.process, p.memory)
		if err != nil && !isNoPython(err) {
			out.Notes = append(out.Notes, "no Python frames: "+err.Error())
		}
	}
	view := viewInterpreter(p.process, p.memory, out.Python, symbols)
	threads, report, err := p.catch(ctx, o, view)
	if err != nil {
		return nil, err
	}
	out.Pause, out.Notes = report.Pause, append(out.Notes, report.Notes...)
	w := p.walker(symbols, view)
	for _, c := range threads {
		out.Threads = append(out.Threads, w.stack(c, o))
	}
	return out, nil
}

func isNoPython(err error) bool { return errors.As(err, new(*cpython.NotPythonError)) }

// catch copies what the stacks are made of, with every thread stopped.
func (p *Process) catch(ctx context.Context, o StackOptions, python *pythonView) ([]caught, call.Report, error) {
	p.stops.Lock()
	defer p.stops.Unlock()
	plan, err := call.Prepare(p.process, call.Options{Timeout: o.Timeout})
	if err != nil {
		return nil, call.Report{}, err
	}
	maps, err := p.process.Maps()
	if err != nil {
		return nil, call.Report{}, err
	}
	var out []caught
	report, err := plan.BorrowAll(ctx, func(_ *call.Session, threads []call.StoppedThread) error {
		for _, t := range threads {
			if o.Tid != 0 && t.Tid != o.Tid {
				continue
			}
			out = append(out, caught{
				StoppedThread: t, memory: copyStack(p.memory, maps, t.SP), gil: python.holds(&t.Regs),
			})
		}
		if python != nil {
			catchPython(python.interpreter, p.memory, out)
		}
		return nil
	})
	for i := range out {
		if st, err := p.process.Stat(out[i].Tid); err == nil {
			out[i].name = st.Comm
		}
		out[i].state = stateText(&out[i].StoppedThread)
	}
	return out, report, err
}

// catchPython walks the Python frames of the threads, which stand still.
func catchPython(in *cpython.Interpreter, r mem.Reader, threads []caught) {
	interpreters, err := in.States(r)
	for i := range threads {
		c := &threads[i]
		if err != nil {
			c.pyErr = err
			continue
		}
		for _, state := range interpreters {
			for _, ts := range state.Threads {
				if ts.ThreadID != 0 && mem.Addr(ts.ThreadID) == c.Regs.ThreadPointer() {
					c.python, c.pyErr = in.Walk(r, ts)
				}
			}
		}
	}
}

// overlay is memory as it was, over memory as it is.
type overlay struct {
	copied mem.Segment
	live   mem.Reader
}

// ReadAt implements [mem.Reader]. Who reads whole pages gets the copied part of them as it was.
func (o *overlay) ReadAt(b []byte, a mem.Addr) error {
	from, to := max(a, o.copied.Addr), min(a+mem.Addr(len(b)), o.copied.Addr+mem.Addr(len(o.copied.Data)))
	if from >= to {
		return o.live.ReadAt(b, a)
	}
	if to-from < mem.Addr(len(b)) {
		if err := o.live.ReadAt(b, a); err != nil {
			return err
		}
	}
	copy(b[from-a:to-a], o.copied.Data[from-o.copied.Addr:])
	return nil
}

// redZone is what a leaf function may use below its stack pointer.
const redZone = 128

// copyStack copies the stack from its innermost end on, as far as its mapping goes and no further than is bearable.
func copyStack(r mem.Reader, maps []proc.Mapping, sp mem.Addr) overlay {
	o := overlay{live: r}
	from := sp - redZone
	m, ok := mapping(maps, sp)
	if !ok || from > sp {
		return o
	}
	from = max(from, m.Start)
	b := make([]byte, min(uint64(m.End-from), stackCopy))
	if r.ReadAt(b, from) == nil {
		o.copied = mem.Segment{Addr: from, Data: b}
	}
	return o
}

// walker steps through stacks and names their frames.
type walker struct {
	process *Process
	symbols *dso.Symbols
	lines   *lines
	maps    []proc.Mapping
	cold    []span // code of Python's evaluation that no symbol names
}

func (p *Process) walker(s *dso.Symbols, python *pythonView) *walker {
	maps, err := p.process.Maps()
	if err != nil {
		maps = nil // the process has ended: what was copied can still be told
	}
	w := &walker{process: p, symbols: s, lines: p.source, maps: maps}
	if python != nil {
		if f, err := python.module.Dynamic(evaluation); err == nil {
			found := &dso.Found{Symbol: f, Module: python.module}
			w.cold = coldParts(p.memory, w.unwinder(p.memory), s, found)
		}
	}
	return w
}

// evaluation is the function that evaluates Python code, from 3.6 on.
const evaluation = "_PyEval_EvalFrameDefault"

// executable tells whether an address outside of modules is code: that of a JIT compiler.
func (w *walker) executable(a mem.Addr) bool {
	m, ok := mapping(w.maps, a)
	return ok && m.Exec
}

func (w *walker) unwinder(r mem.Reader) *unwind.Unwinder {
	return unwind.New(w.symbols.Modules(), r, unwind.Options{Executable: w.executable})
}

func (w *walker) stack(c caught, o StackOptions) Stack {
	s := Stack{Thread: Thread{c.Tid, c.name}, State: c.state, Python: c.python, PyErr: c.pyErr, GIL: c.gil}
	limit := o.Limit
	if limit == 0 {
		limit = defaultFrames
	}
	if c.Held {
		s.State = "held"
	}
	frames, err := w.unwinder(&c.memory).Stack(unwindRegs(&c.Regs, c.PC, c.SP), limit)
	s.End = err
	for _, f := range frames {
		s.Frames = append(s.Frames, w.name(f))
	}
	s.Frames = w.withLines(s.Frames)
	return s
}

// name tells which function a frame is of, by symbols.
func (w *walker) name(f unwind.Frame) Frame {
	at := f.Lookup()
	out := Frame{PC: f.PC, CFA: f.CFA, How: f.How, Signal: f.Signal, call: at}
	out.Module = w.symbols.Module(at)
	if found, offset, ok := w.symbols.At(at); ok && found.Kind() != dso.Object {
		out.Symbol, out.Function = found.Name, found.Name
		if found.Demangled != "" {
			out.Function = found.Demangled
		}
		out.Offset = offset + uint64(f.PC-at)
	} else if out.Module != nil {
		out.Offset = uint64(f.PC - out.Module.Start)
		if within(w.cold, at) {
			out.Function, out.Symbol, out.Offset = evaluation+".cold", evaluation+".cold", 0
		}
	}
	return out
}

// withLines adds source lines, and the functions that were inlined.
func (w *walker) withLines(frames []Frame) []Frame {
	var out []Frame
	for _, f := range frames {
		out = append(out, w.lines.expand(f, f.call)...)
	}
	return out
}

// symbolTable is the process's symbols, loaded when first asked for.
type symbolTable struct {
	once    sync.Once
	symbols *dso.Symbols
	err     error
}

// Symbols are the symbols of the modules that the process had loaded when they were first asked for.
func (p *Process) Symbols() (*dso.Symbols, error) {
	p.table.once.Do(func() { p.table.symbols, p.table.err = dso.LoadSymbols(p.process, p.memory) })
	return p.table.symbols, p.table.err
}

// stateText says what a thread was at.
func stateText(t *call.StoppedThread) string {
	switch {
	case t.Held:
		return "held"
	case t.Regs.InSyscall():
		return "in " + SyscallName(t.Regs.Syscall())
	}
	return "running"
}
