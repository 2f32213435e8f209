package call

import (
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

// Call calls the C function at fn in the borrowed thread and returns what it returned, whatever fn's prototype is.
//
// It runs on memory of its own (a stack of 8 MiB where the process has room for it), with the thread's own thread
// pointer, and with all signals held but faults. What can go wrong is a *[FaultError], *[TimeoutError], *[ExitedError],
// *[LongjmpError] or *[SeccompError]; after the first three the Session can be used on. When this process is killed
// meanwhile, the function finishes and the thread restores itself.
func (s *Session) Call(fn mem.Addr, a Args) (Result, error) {
	return Result{}, ErrUnsupported
}

// KeepErrno has the thread's errno, which is at the address given (what the C library's __errno_location returns), put
// back after each call, by the thread itself, and the called function's reported in [Result.Errno].
func (s *Session) KeepErrno(at mem.Addr) error {
	return ErrUnsupported
}

// Map maps memory into the process, anonymous and private, with the protection given (PROT_READ and so on), and
// returns its address. It is taken back when the Session ends, unless Options.Keep.
func (s *Session) Map(size uint64, prot int) (mem.Addr, error) {
	return 0, ErrUnsupported
}
