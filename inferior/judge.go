package inferior

import (
	"errors"
	"fmt"
	"strings"

	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/unwind"
)

// Position is where a thread stood when it was judged, and what may be called there.
type Position struct {
	Thread Thread
	State  string  // "running", "in epoll_wait", …
	Frames []Frame // innermost first
	End    error   // why the stack could not be followed to its outermost frame; nil if it could
	Holds  Resources
	// Why says what is in the way of the functions that are to be called: "in malloc, called from …". "" if nothing is.
	Why string
	GIL GIL
}

// GIL is what is known of a thread and the lock of its Python interpreter.
type GIL uint8

// The states.
const (
	NoPython   GIL = iota // there is no interpreter, or none that can be read
	HoldsGIL              // the thread holds it
	WithoutGIL            // the thread does not
	UnknownGIL            // only a call in the thread can tell
)

// String is the state in words.
func (g GIL) String() string {
	return [...]string{"no Python", "holds Python's GIL", "does not hold Python's GIL", "GIL not known"}[g]
}

// judge decides whether a thread stands where functions may be called.
type judge struct {
	walker    *walker
	holders   []compiledHolder
	needs     []compiledNeed
	library   patterns
	without   patterns
	reads     patterns
	eval      patterns
	outermost patterns
	python    *pythonView
	static    bool // the program has the C library in itself
}

type compiledHolder struct {
	holder
	names, files patterns
}

type compiledNeed struct {
	needs Resources
	names patterns
}

func newJudge(w *walker, python *pythonView) *judge {
	j := &judge{
		walker: w, python: python, library: parsePatterns(libraries), without: parsePatterns(withoutGIL),
		reads: parsePatterns(readsOnly), eval: parsePatterns(evaluators),
		outermost: parsePatterns(outermost), static: true,
	}
	for _, h := range holders {
		j.holders = append(j.holders, compiledHolder{h, parsePatterns(h.functions), parsePatterns(h.modules)})
	}
	for _, n := range needs {
		j.needs = append(j.needs, compiledNeed{n.needs, parsePatterns(n.functions)})
	}
	for _, m := range w.symbols.Modules() {
		if m.Path != "[vdso]" && j.library.match(m.Name()) {
			j.static = false
		}
	}
	return j
}

// inLibrary reports whether a module is one of the C library's, or has it in itself.
func (j *judge) inLibrary(m *dso.Module) bool {
	return m != nil && (j.library.match(m.Name()) || m.Main && j.static)
}

// need is what a function needs. name may be "" where nobody knows it.
func (j *judge) need(name string, m *dso.Module) Resources {
	plain := plainName(name)
	if j.python.isAPI(plain, m) {
		switch {
		case j.reads.match(plain):
			return 0
		default:
			return everything | Interpreter
		}
	}
	if name == "" || m == nil {
		return everything
	}
	library := j.inLibrary(m)
	for _, n := range j.needs {
		if n.names.match(plain) && (library || n.needs == Allocator) {
			return n.needs
		}
	}
	return everything
}

// needsGIL reports whether a function may only be called by who holds the interpreter's lock.
func (j *judge) needsGIL(name string, m *dso.Module) bool {
	plain := plainName(name)
	return j.python.isAPI(plain, m) && !j.without.match(plain)
}

// hold is what a thread holds while a frame is on its stack.
func (j *judge) hold(f *Frame) *compiledHolder {
	if f.Module == nil {
		return nil
	}
	plain, library := plainName(f.Function), j.inLibrary(f.Module)
	for i := range j.holders {
		h := &j.holders[i]
		switch {
		case h.library && !library:
		case h.modules != "":
			if h.files.match(f.Module.Name()) {
				return h
			}
		case f.Function != "" && (h.names.match(plain) || h.names.match(plainName(f.Symbol))):
			return h
		}
	}
	return nil
}

// position judges a stopped thread, for functions that need what is given.
func (j *judge) position(t call.StoppedThread, name string, needed Resources) Position {
	stack := copyStack(j.walker.process.memory, j.walker.maps, t.SP)
	return j.look(t, name, j.python.holds(&t.Regs), &stack, needed)
}

// look judges a thread by what was copied of its stack when it stood.
func (j *judge) look(t call.StoppedThread, name string, gil GIL, stack *overlay, needed Resources) Position {
	p := Position{Thread: Thread{t.Tid, name}, State: stateText(&t), GIL: gil}
	frames, err := j.walker.unwinder(stack).Stack(unwindRegs(&t.Regs, t.PC, t.SP), defaultFrames)
	for _, f := range frames {
		p.Frames = append(p.Frames, j.walker.name(f))
	}
	if !errors.Is(err, unwind.ErrDepth) {
		p.End = err
	}
	blocked := t.Regs.InSyscall()
	if p.Why = j.held(&p, needed, blocked); p.Why != "" {
		return p
	}
	if p.Why = j.unnamed(&p, needed, blocked, t.Regs.Syscall()); p.Why != "" {
		return p
	}
	if needed&Interpreter != 0 {
		if p.Why = j.inInterpreter(&p, blocked); p.Why != "" {
			return p
		}
	}
	if n := len(p.Frames); n > 0 && j.outermost.match(plainName(p.Frames[n-1].Function)) {
		p.End = nil // the stack cannot be followed there because there is nothing to follow
	}
	if p.End != nil && len(frames) > 0 {
		p.Why = j.scan(&p, stack, frames[len(frames)-1].SP, needed)
	}
	return p
}

// held finds a frame whose function holds what is needed. All frames count: what a callback or a signal handler has
// interrupted goes on being held.
func (j *judge) held(p *Position, needed Resources, blocked bool) string {
	executing := !blocked // the frame looked at, or what it called in its own library, executes
	why := ""
	for i := range p.Frames {
		f := &p.Frames[i]
		if f.Signal {
			executing = !j.atSyscall(f.PC)
		}
		if !j.inLibrary(f.Module) {
			executing = false
		}
		h := j.hold(f)
		if h == nil || h.passing && !executing {
			continue
		}
		p.Holds |= h.holds
		if why == "" && h.holds&needed != 0 {
			why = fmt.Sprintf("in %s%s, which may hold %v", frameName(f), callers(p.Frames[i+1:]), h.holds&needed)
		}
	}
	return why
}

// atSyscall reports whether an interrupted instruction is the one behind a system call: the function was waiting in it.
func (j *judge) atSyscall(pc mem.Addr) bool {
	b, err := mem.Bytes(j.walker.process.memory, pc-2, 2)
	return err == nil && b[0] == 0x0f && b[1] == 0x05
}

// frameName is "malloc (libc.so.6)".
func frameName(f *Frame) string {
	name := f.Function
	if name == "" {
		name = f.PC.String()
	}
	if f.Module == nil {
		return name
	}
	return name + " (" + f.Module.Name() + ")"
}

// callers names the first named function among callers.
func callers(rest []Frame) string {
	for i := range rest {
		if rest[i].Function != "" {
			return ", called from " + rest[i].Function
		}
	}
	return ""
}

// harmless are the system calls that no allocator, loader, stdio or lock makes: a thread that waits in one of them is
// in none of those, whatever its functions are called.
const harmless = `poll ppoll select pselect6 epoll_wait epoll_pwait epoll_pwait2 nanosleep clock_nanosleep pause
	rt_sigsuspend rt_sigtimedwait wait4 waitid accept accept4 recvfrom recvmsg sendto sendmsg connect msgrcv msgsnd semop
	semtimedop io_getevents io_uring_enter flock restart_syscall`

// unnamed distrusts a thread whose innermost functions are the C library's and have no name: its allocator and its
// stdio have such. It is no ground where the system call tells that it is something else.
func (j *judge) unnamed(p *Position, needed Resources, blocked bool, nr uint64) string {
	if needed&everything == 0 || len(p.Frames) == 0 {
		return ""
	}
	for i := range p.Frames {
		f := &p.Frames[i]
		if !j.inLibrary(f.Module) {
			if i == 0 {
				return ""
			}
			break
		}
		if f.Function != "" {
			return ""
		}
	}
	if blocked && parsePatterns(harmless).match(SyscallName(nr)) {
		return ""
	}
	p.Holds |= everything
	return fmt.Sprintf("in a function of %s that no symbol names", p.Frames[0].Module.Name())
}

// inInterpreter tells whether the interpreter's structures may be in the middle of a change. A thread with its lock
// changes them unless it is just executing Python code; one without may be taking it or giving it back.
func (j *judge) inInterpreter(p *Position, blocked bool) string {
	for i := range p.Frames {
		f := &p.Frames[i]
		if !j.python.contains(f.Module) {
			if p.GIL == WithoutGIL && i == 0 && !j.inLibrary(f.Module) {
				return "" // a C extension that has given the lock back
			}
			continue
		}
		switch {
		case p.GIL != HoldsGIL && blocked:
			return "" // who waits in the kernel has given the lock back, as far as anyone knows
		case p.GIL == WithoutGIL:
			p.Holds |= Interpreter
			return "in " + frameName(f) + ", perhaps taking Python's GIL or giving it back"
		case j.eval.match(plainName(f.Function)):
			return ""
		}
		p.Holds |= Interpreter
		return "in " + frameName(f) + callers(p.Frames[i+1:]) + ", in the middle of the interpreter"
	}
	return ""
}

// scanned is how much of a stack is searched behind its last frame that could be found.
const scanned = 8 << 10

// scan searches the rest of a stack that could not be followed for return addresses into what holds what is needed.
// It may find old ones, and then errs on the safe side.
func (j *judge) scan(p *Position, r mem.Reader, sp mem.Addr, needed Resources) string {
	m, ok := mapping(j.walker.maps, sp)
	if !ok {
		return ""
	}
	b, err := mem.Bytes(r, sp, int(min(uint64(m.End-sp), scanned)))
	if err != nil {
		return ""
	}
	for ; len(b) >= wordSize; b = b[wordSize:] {
		a := mem.Addr(Register{Bytes: b[:wordSize]}.Uint64())
		module := j.walker.symbols.Module(a)
		if module == nil || !module.Executable(a) || !behindCall(r, a) {
			continue
		}
		// The beginning of a function is no return address, even behind the last call of a function that does not return.
		if _, offset, ok := j.walker.symbols.At(a); ok && offset == 0 {
			continue
		}
		found, _, ok := j.walker.symbols.At(a - 1)
		if !ok {
			continue
		}
		f := Frame{PC: a, Module: module, Function: found.Name, Symbol: found.Name}
		const lasting = Allocator | Loader | Stdio
		if h := j.hold(&f); h != nil && !h.passing && h.holds&needed&lasting != 0 {
			p.Holds |= h.holds
			return fmt.Sprintf("perhaps in %s, which may hold %v: its stack cannot be followed", frameName(&f), h.holds&needed)
		}
	}
	return ""
}

// behindCall reports whether an address stands behind a call instruction, as return addresses do.
func behindCall(r mem.Reader, a mem.Addr) bool {
	const longest = 7
	b, err := mem.Bytes(r, a-longest, longest)
	if err != nil {
		return false
	}
	if b[longest-5] == 0xe8 {
		return true
	}
	for _, n := range []int{2, 3, 4, 6, 7} { // FF /2: by register or memory
		if c := b[longest-n:]; c[0] == 0xff && c[1]>>3&7 == 2 {
			return true
		}
	}
	return false
}

// Safe explains why the thread is at a safe point.
func (p *Position) Safe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v is %s", p.Thread, p.State)
	if len(p.Frames) > 0 {
		fmt.Fprintf(&b, ", in %s%s", frameName(&p.Frames[0]), callers(p.Frames[1:]))
	}
	fmt.Fprintf(&b, "; its %d frames hold %v", len(p.Frames), p.Holds)
	if p.End != nil {
		b.WriteString(", as far as its stack can be followed")
	}
	return b.String()
}
