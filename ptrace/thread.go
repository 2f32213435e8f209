package ptrace

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/internal/fault"
	"github.com/heaptap/heaptap/mem"
)

// Option is a set of PTRACE_O_ bits.
type Option uint64

// TraceClone seizes threads that the thread creates, TraceFork and TraceVfork processes, each stopped where it begins;
// TraceExec stops it where it has executed another program. Every thread is seized with PTRACE_O_TRACESYSGOOD, without
// which a system call's stop looks like a SIGTRAP.
const (
	TraceClone Option = unix.PTRACE_O_TRACECLONE
	TraceFork  Option = unix.PTRACE_O_TRACEFORK
	TraceVfork Option = unix.PTRACE_O_TRACEVFORK
	TraceExec  Option = unix.PTRACE_O_TRACEEXEC
)

// Thread is one seized thread.
type Thread struct {
	Tid int

	tracer *Tracer
	pidfd  int // 0: none; see Expect
	// Buffers of the calls made while the thread is stopped live here: no allocation then.
	info waitInfo
	iov  unix.Iovec
	word uint64
	sys  SyscallInfo
	rseq RseqConfig
	regs Regs
}

// Seize starts tracing a thread without stopping it. It fails with a *[TracedError], a *[PermissionError] or an error
// that wraps [ErrGone].
func (t *Tracer) Seize(pid, tid int, opts Option) (*Thread, error) {
	th := &Thread{Tid: tid, tracer: t}
	if err := th.request(unix.PTRACE_SEIZE, 0, uintptr(opts|unix.PTRACE_O_TRACESYSGOOD)); err != nil {
		return nil, t.diagnose(pid, tid, err)
	}
	return th, nil
}

// Adopt is the Thread of a tid that the kernel seized for this tracer because of [TraceClone] and its like.
func (t *Tracer) Adopt(tid int) *Thread { return &Thread{Tid: tid, tracer: t} }

// Adopt is the same, for what this thread has created.
func (t *Thread) Adopt(tid int) *Thread { return t.tracer.Adopt(tid) }

// request makes one ptrace call. RawSyscall keeps the runtime's scheduler out of it: a return from Syscall may have to
// wait for a processor while the target is stopped.
func (t *Thread) request(req int, addr, data uintptr) error {
	err := t.errno(rawPtrace(req, t.Tid, addr, data))
	fault.Point("ptrace/request")
	return err
}

func rawPtrace(req, tid int, addr, data uintptr) syscall.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(req), uintptr(tid), addr, data, 0, 0)
	return errno
}

func (t *Thread) errno(errno syscall.Errno) error {
	switch {
	case errno == 0:
		return nil
	case errno == unix.ESRCH && unix.Gettid() != t.tracer.tid:
		return ErrWrongThread
	case errno == unix.ESRCH:
		return ErrGone
	}
	return errno
}

func (t *Thread) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s thread %d: %w", op, t.Tid, err)
}

// SetOptions replaces the options of a stopped thread.
func (t *Thread) SetOptions(opts Option) error {
	return t.fail("set options of", t.request(unix.PTRACE_SETOPTIONS, 0, uintptr(opts|unix.PTRACE_O_TRACESYSGOOD)))
}

// Interrupt asks a running thread to stop. It returns at once; [Thread.Wait] sees the stop.
func (t *Thread) Interrupt() error {
	return t.fail("interrupt", t.request(unix.PTRACE_INTERRUPT, 0, 0))
}

// Resume lets a stopped thread run, delivering sig where it is not 0. With syscalls, it stops at the next entry to or
// exit from a system call.
func (t *Thread) Resume(syscalls bool, sig syscall.Signal) error {
	req := unix.PTRACE_CONT
	if syscalls {
		req = unix.PTRACE_SYSCALL
	}
	return t.fail("resume", t.request(req, 0, uintptr(sig)))
}

// Listen leaves a thread that a job's stop signal has stopped (an Event with that signal) as it is, stopped, but lets
// SIGCONT wake it, which is another Event.
func (t *Thread) Listen() error { return t.fail("listen to", t.request(unix.PTRACE_LISTEN, 0, 0)) }

// Detach lets a stopped thread go for good, delivering sig where it is not 0. A thread of a job that was stopped by a
// signal stays stopped.
func (t *Thread) Detach(sig syscall.Signal) error {
	return t.fail("detach from", t.request(unix.PTRACE_DETACH, 0, uintptr(sig)))
}

// Regs reads the general registers of a stopped thread into r. A 32-bit program's thread is an *[ABIError].
func (t *Thread) Regs(r *Regs) error {
	n, err := t.regset(unix.PTRACE_GETREGSET, unix.NT_PRSTATUS, (*byte)(unsafe.Pointer(r)), int(unsafe.Sizeof(*r)))
	if err == nil && n != int(unsafe.Sizeof(*r)) {
		err = &ABIError{Tid: t.Tid, RegsSize: n}
	}
	return t.fail("read registers of", err)
}

// SetRegs writes the general registers of a stopped thread: the one call that decides what it will run.
func (t *Thread) SetRegs(r *Regs) error {
	_, err := t.regset(unix.PTRACE_SETREGSET, unix.NT_PRSTATUS, (*byte)(unsafe.Pointer(r)), int(unsafe.Sizeof(*r)))
	return t.fail("write registers of", err)
}

func substitute(regs []*uint64, values map[uint64]uint64) (any bool) {
	for _, r := range regs {
		if v, ok := values[*r]; ok {
			*r, any = v, true
		}
	}
	return any
}

// XState reads the extended state (x87, SSE, AVX and so on) of a stopped thread into buf, as an XSAVE image in the
// standard format, and returns its length. An image that fills buf may have been cut: give a larger one.
func (t *Thread) XState(buf []byte) (int, error) {
	n, err := t.regset(unix.PTRACE_GETREGSET, ntXState, unsafe.SliceData(buf), len(buf))
	return n, t.fail("read extended state of", err)
}

// SetXState writes back what XState read.
func (t *Thread) SetXState(image []byte) error {
	_, err := t.regset(unix.PTRACE_SETREGSET, ntXState, unsafe.SliceData(image), len(image))
	return t.fail("write extended state of", err)
}

// ShadowStack reports whether the thread runs with a user shadow stack (CET).
func (t *Thread) ShadowStack() bool {
	_, err := t.regset(unix.PTRACE_GETREGSET, ntShadowStack, (*byte)(unsafe.Pointer(&t.word)), 8)
	return err == nil && t.word != 0
}

func (t *Thread) regset(req, note int, p *byte, n int) (int, error) {
	t.iov.Base, t.iov.Len = p, uint64(n)
	err := t.request(req, uintptr(note), uintptr(unsafe.Pointer(&t.iov)))
	got := int(t.iov.Len)
	t.iov.Base = nil
	return got, err
}

// SigMask reads the thread's blocked signals, bit N-1 for signal N. While a temporary mask is in force (ppoll,
// sigsuspend) it is the mask that will be restored.
func (t *Thread) SigMask() (uint64, error) {
	err := t.request(unix.PTRACE_GETSIGMASK, 8, uintptr(unsafe.Pointer(&t.word)))
	return t.word, t.fail("read signal mask of", err)
}

// SetSigMask writes the thread's blocked signals.
func (t *Thread) SetSigMask(mask uint64) error {
	t.word = mask
	return t.fail("write signal mask of", t.request(unix.PTRACE_SETSIGMASK, 8, uintptr(unsafe.Pointer(&t.word))))
}

// SyscallOp says where in a system call a thread is stopped.
type SyscallOp uint8

// Values of SyscallInfo.Op.
const (
	SyscallNone  SyscallOp = unix.PTRACE_SYSCALL_INFO_NONE
	SyscallEntry SyscallOp = unix.PTRACE_SYSCALL_INFO_ENTRY
	SyscallExit  SyscallOp = unix.PTRACE_SYSCALL_INFO_EXIT
)

// SyscallInfo is the kernel's struct ptrace_syscall_info. At an entry, Values holds the number and six arguments; at
// an exit, the result and whether it is an error (its low byte).
type SyscallInfo struct {
	Op     SyscallOp
	_      [3]uint8
	Arch   uint32 // AUDIT_ARCH_
	PC, SP uint64
	Values [7]uint64
	_      [2]uint64 // room for the kernel's longer variants
}

// SyscallInfo reads what the kernel knows of the system call at which the thread is stopped. The result is good until
// the next call.
func (t *Thread) SyscallInfo() (*SyscallInfo, error) {
	t.sys = SyscallInfo{}
	err := t.request(unix.PTRACE_GET_SYSCALL_INFO, unsafe.Sizeof(t.sys), uintptr(unsafe.Pointer(&t.sys)))
	return &t.sys, t.fail("read system call of", err)
}

// RseqConfig is the kernel's struct ptrace_rseq_configuration: where a thread registered its restartable sequences.
type RseqConfig struct {
	Addr      uint64 // of its struct rseq; 0: none
	Size      uint32
	Signature uint32
	Flags     uint32
	_         uint32
}

// Rseq reads the thread's rseq registration. A kernel before 5.13 cannot tell, and neither can one without rseq: that
// is a configuration with address 0.
func (t *Thread) Rseq() (RseqConfig, error) {
	t.rseq = RseqConfig{}
	err := t.request(unix.PTRACE_GET_RSEQ_CONFIGURATION, unsafe.Sizeof(t.rseq), uintptr(unsafe.Pointer(&t.rseq)))
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) {
		return RseqConfig{}, nil
	}
	return t.rseq, t.fail("read rseq of", err)
}

// SeccompFilter reads the index-th seccomp filter of a stopped thread, most recent first, as classic BPF; nil when
// there is none at that index. It needs CAP_SYS_ADMIN.
func (t *Thread) SeccompFilter(index int) ([]unix.SockFilter, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(t.Tid),
		uintptr(index), 0, 0, 0)
	if errno == unix.ENOENT {
		return nil, nil
	}
	if errno != 0 || n == 0 {
		return nil, t.fail("read seccomp filter of", t.errno(errno))
	}
	prog := make([]unix.SockFilter, n)
	_, _, errno = unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(t.Tid),
		uintptr(index), uintptr(unsafe.Pointer(&prog[0])), 0, 0)
	return prog, t.fail("read seccomp filter of", t.errno(errno))
}

// Poke writes one aligned word of the stopped thread's memory by PTRACE_POKEDATA, for systems on which /proc/PID/mem
// may not write read-only pages.
func (t *Thread) Poke(a mem.Addr, v uint64) error {
	return t.fail("write memory of", t.request(unix.PTRACE_POKEDATA, uintptr(a), uintptr(v)))
}

// EventMessage is the number that came with the last event stop, such as the tid of a thread newly created.
func (t *Thread) EventMessage() (uint64, error) {
	err := t.request(unix.PTRACE_GETEVENTMSG, 0, uintptr(unsafe.Pointer(&t.word)))
	return t.word, t.fail("read event of", err)
}

// SignalInfo is what heaptap uses of a signal's siginfo_t.
type SignalInfo struct {
	Signal syscall.Signal
	Code   int32  // above 0 for what the kernel raised, such as a fault; otherwise another process sent it
	Addr   uint64 // of a fault
	Pid    int32  // of the sender, as the target knows it, where Code is not above 0
}

// SignalInfo reads the signal at whose delivery the thread is stopped.
func (t *Thread) SignalInfo() (SignalInfo, error) {
	var raw [128]byte
	err := t.request(unix.PTRACE_GETSIGINFO, 0, uintptr(unsafe.Pointer(&raw)))
	if err != nil {
		return SignalInfo{}, t.fail("read signal of", err)
	}
	at := func(off int) uint32 { return *(*uint32)(unsafe.Pointer(&raw[off])) }
	return SignalInfo{
		Signal: syscall.Signal(at(0)),
		Code:   int32(at(8)),
		Addr:   uint64(at(16)) | uint64(at(20))<<32,
		Pid:    int32(at(16)),
	}, nil
}
