package call

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
)

// Args is all that a C function can be given, as the System V ABI of x86-64 lays it out. Who calls decides which value
// goes where; the zero Args calls a function without arguments.
type Args struct {
	Int    [maxArgs]uint64 // rdi, rsi, rdx, rcx, r8, r9
	Vector [8][16]byte     // xmm0 to xmm7
	AL     uint8           // for a variadic function: at least how many of Vector are used
	Stack  []byte          // what is in memory from 8(%rsp) on at the function's entry, which is a multiple of 64
}

// Result is what a function has returned, in each place where the ABI may have put it.
type Result struct {
	RAX, RDX   uint64
	XMM0, XMM1 [16]byte
	ST0        [10]byte // an 80-bit extended; meaningless where the function returns no long double
	Errno      int32    // the thread's errno as the function left it, after KeepErrno; else 0
}

// keptErrno is what errno is put back to after a call, and where it is; at is 0 where it is not kept.
type keptErrno struct {
	at    mem.Addr
	value uint32
}

// minStack is how much stack a call needs below its arguments, for the smallest of functions.
const minStack = 2048

// Call calls the C function at fn in the borrowed thread and returns what it returned, whatever fn's prototype is.
//
// It runs on memory of its own (a stack of 8 MiB where the process has room for it; the caller's after UseMemory), with
// the thread's own thread pointer, and with all signals held but faults. What can go wrong is a *[FaultError],
// *[TimeoutError], *[ExitedError], *[LongjmpError] or *[SeccompError]; after the first three the Session can be used
// on. When this process is killed meanwhile, the function finishes and the thread restores itself.
//
// The child of a fork that comes back from the function does not go on as a second copy of the target: it ends, with
// status 0.
func (s *Session) Call(fn mem.Addr, a Args) (Result, error) {
	err := s.needStack()
	var r Result
	if err == nil {
		r, err = s.call(fn, &a)
	}
	if err != nil {
		return Result{}, fmt.Errorf("call function at %v: %w", fn, err)
	}
	return r, nil
}

// Run calls the position-independent code at entry as a C function with at most six integer arguments and returns its
// result. It is Call for code that needs little stack: where no memory was given, it runs on the pages of the thread's
// own stack where the frame is.
func (s *Session) Run(entry mem.Addr, args ...uint64) (uint64, error) {
	var a Args
	var err error
	var r Result
	if a.Int, err = packArgs(args); err == nil {
		r, err = s.call(entry, &a)
	}
	if err != nil {
		return 0, fmt.Errorf("run code at %v: %w", entry, err)
	}
	return r.RAX, nil
}

func (s *Session) call(fn mem.Addr, a *Args) (Result, error) {
	if s.lost != nil {
		return Result{}, s.lost
	}
	if s.left {
		return Result{}, errLeft
	}
	if err := s.traceChildren(); err != nil {
		return Result{}, err
	}
	s.calling = true
	defer func() { s.calling = false }()
	block, err := s.enter(fn, a)
	if err != nil {
		return Result{}, err
	}
	if err := s.advance(s.plan.cave.marker(), "call/marker-entered", "call/marker-done"); err != nil {
		return Result{}, err
	}
	out := s.callBuf[:blockOut]
	if err := s.plan.memory.ReadAt(out, block); err != nil {
		return Result{}, fmt.Errorf("read results: %w", err)
	}
	return callResult(out), nil
}

// enter makes the thread call the function and then restore itself, and returns where the call's block is.
func (s *Session) enter(fn mem.Addr, a *Args) (block mem.Addr, err error) {
	m, err := s.markerCall()
	if err != nil {
		return 0, err
	}
	if !s.stack {
		return 0, fmt.Errorf("no stack: give memory with UseMemory first")
	}
	if err := s.prepareFrame(); err != nil {
		return 0, err
	}
	s.noteStack()
	block, sp := callPlace(s.frame.at, len(a.Stack))
	if sp < s.memory.Lo+minStack || sp > block {
		return 0, fmt.Errorf("%d bytes of arguments do not fit on the stack", len(a.Stack))
	}
	s.callBuf = callImage(s.callBuf[:0], block, sp, a, m.result)
	if err := s.plan.memory.WriteAt(s.callBuf, sp); err != nil {
		return 0, fmt.Errorf("write arguments: %w", err)
	}
	s.point("call/written", "arguments written")
	regs := callRegs(&s.state.Regs, s.plan.cave, block, sp, fn, m.nr, s.errno, a)
	s.ranUser = true
	return block, s.commit(&regs)
}

// KeepErrno has the thread's errno, which is at the address given (what the C library's __errno_location returns), put
// back after each call, by the thread itself, and the called function's reported in [Result.Errno].
func (s *Session) KeepErrno(at mem.Addr) error {
	var b [4]byte
	if err := s.plan.memory.ReadAt(b[:], at); err != nil {
		return fmt.Errorf("errno at %v: %w", at, err)
	}
	s.errno = keptErrno{at, binary.LittleEndian.Uint32(b[:])}
	return nil
}

// restoreErrno puts errno back after a call that was abandoned; one that returned has done so itself.
func (s *Session) restoreErrno() error {
	if s.errno.at == 0 {
		return nil
	}
	return s.plan.memory.WriteAt(binary.LittleEndian.AppendUint32(nil, s.errno.value), s.errno.at)
}

// marker is the system call at the end of a function, by which we know that it has returned.
type marker struct {
	nr     uint64
	result uint32 // what it returns in this thread and in no child of a fork; 0 where that does not tell
}

// markerCall chooses a system call without effect (its first argument is -1) that the target's seccomp filters admit:
// one whose result tells the thread from a copy of it, if it may be.
func (s *Session) markerCall() (marker, error) {
	if s.mark != (marker{}) {
		return s.mark, nil
	}
	candidates := [...]uint64{unix.SYS_GETTID, unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_SCHED_YIELD, unix.SYS_READ}
	for _, nr := range candidates {
		if allowed, _ := s.plan.Allowed(nr, ^uint64(0)); !allowed {
			continue
		}
		s.mark = marker{nr: nr}
		switch nr {
		case unix.SYS_GETTID:
			s.mark.result = uint32(s.plan.innerID(s.Tid()))
		case unix.SYS_GETPID:
			s.mark.result = uint32(s.plan.innerID(s.plan.process.Pid))
		}
		return s.mark, nil
	}
	return marker{}, &SeccompError{unix.SYS_GETTID}
}

// innerID is the number that a thread has in its own pid namespace, 0 where it is not known.
func (pl *Plan) innerID(tid int) int {
	st, err := pl.process.Status(tid)
	if err != nil || len(st.NSpid) == 0 {
		return 0
	}
	return st.NSpid[len(st.NSpid)-1]
}
