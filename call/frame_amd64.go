package call

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/ptrace"
)

// supported: this processor has the frame layout below.
const supported = true

const (
	maxXState = 16 << 10 // AMX makes it 11 KiB
	maxFrame  = frameSize + maxXState + 256

	// blockedSignals are blocked while code is borrowed: all but those that a fault raises. A blocked fault would make
	// the kernel reset its handler and kill.
	blockedSignals = ^uint64(1<<(unix.SIGILL-1) | 1<<(unix.SIGTRAP-1) | 1<<(unix.SIGBUS-1) | 1<<(unix.SIGFPE-1) |
		1<<(unix.SIGSEGV-1) | 1<<(unix.SIGSYS-1))

	eflagsTrap      = 1 << 8
	eflagsDirection = 1 << 10

	// maxArgs is the number of arguments that fit in registers, for functions as for system calls.
	maxArgs = 6
)

// Offsets in struct rt_sigframe of x86-64 (arch/x86/include/asm/sigframe.h): the return address, struct ucontext,
// siginfo.
const (
	frameFlags   = 8
	frameGregs   = 48
	frameSegs    = 192
	frameFpstate = 232
	frameSigmask = 304
	frameSize    = 440

	// UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
	ucFlags = 7
)

// Offsets in the software-reserved part of an XSAVE image in a signal frame (struct _fpx_sw_bytes), and its magics.
const (
	xsaveSoftware = 464 // the kernel's register set has XCR0 here
	xsaveEnd      = 512
	xsaveXcompBv  = 520
	xsaveMagic1   = 0x46505853
	xsaveMagic2   = 0x46505845
)

// frame is a forged signal frame: len(bytes) bytes that belong at address at.
type frame struct {
	at    mem.Addr
	bytes []byte
}

// buildFrame makes the frame that restores s, as high as possible below top. The stack pointer at the entry of
// borrowed code is the frame's address: 8 more than a multiple of 16, as behind a call.
func buildFrame(buf []byte, top mem.Addr, s *ptrace.State, sigreturn mem.Addr, all *components) (frame, error) {
	if len(s.XState) < xsaveEnd+64 || len(s.XState) > maxXState {
		return frame{}, fmt.Errorf("extended state of %d bytes", len(s.XState))
	}
	image, features := frameImage(s.XState, all)
	xsave := (top - mem.Addr(len(image)) - 8).AlignDown(64)
	at := (xsave - frameSize - 8).AlignDown(16) + 8
	f := frame{at: at, bytes: buf[:int(xsave-at)+len(image)+4]}
	clear(f.bytes)
	putContext(f.bytes, s, sigreturn, xsave)
	putXsave(f.bytes[xsave-at:], image, features)
	return f, nil
}

func putContext(b []byte, s *ptrace.State, sigreturn, xsave mem.Addr) {
	le := binary.LittleEndian
	r := s.Regs
	r.Rewind()
	le.PutUint64(b, uint64(sigreturn))
	le.PutUint64(b[frameFlags:], ucFlags)
	for i, v := range [...]uint64{r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15, r.Rdi, r.Rsi, r.Rbp, r.Rbx,
		r.Rdx, r.Rax, r.Rcx, r.Rsp, r.Rip, r.Eflags} {
		le.PutUint64(b[frameGregs+8*i:], v)
	}
	for i, v := range [...]uint64{r.Cs, r.Gs, r.Fs, r.Ss} {
		le.PutUint16(b[frameSegs+2*i:], uint16(v))
	}
	le.PutUint64(b[frameFpstate:], uint64(xsave))
	le.PutUint64(b[frameSigmask:], s.Mask)
}

// putXsave makes of the kernel's register set what rt_sigreturn accepts as an XSAVE image: both magics, or everything
// above SSE would be reset; the features in use as they were, since marking all as in use slows the thread for good.
func putXsave(b, image []byte, features uint64) {
	le := binary.LittleEndian
	copy(b, image)
	clear(b[xsaveSoftware:xsaveEnd])
	size := uint32(len(image))
	le.PutUint32(b[xsaveSoftware:], xsaveMagic1)
	le.PutUint32(b[xsaveSoftware+4:], size+4)
	le.PutUint64(b[xsaveSoftware+8:], features)
	le.PutUint32(b[xsaveSoftware+16:], size)
	le.PutUint64(b[xsaveXcompBv:], 0)
	le.PutUint32(b[size:], xsaveMagic2)
}

// borrowed is the base of all borrowed registers: the thread's own, outside of any system call, with the direction and
// trap flags clear.
func borrowed(own *ptrace.Regs, pc, sp mem.Addr) ptrace.Regs {
	r := *own
	r.OrigRax = ^uint64(0)
	r.Eflags &^= eflagsTrap | eflagsDirection
	r.Rip, r.Rsp = uint64(pc), uint64(sp)
	return r
}

// syscallRegs makes one system call and then restores the thread from the frame at sp.
func syscallRegs(own *ptrace.Regs, c cave, sp mem.Addr, nr uint64, args *[maxArgs]uint64) ptrace.Regs {
	r := borrowed(own, c.syscall(), sp)
	r.Rax = nr
	r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9 = args[0], args[1], args[2], args[3], args[4], args[5]
	return r
}

// sigreturnRegs only restores the thread: what it has between two uses.
func sigreturnRegs(own *ptrace.Regs, c cave, sp mem.Addr) ptrace.Regs {
	return borrowed(own, c.sigreturn(), sp+8)
}

// shelterRegs only restores the thread, like sigreturnRegs, but until all signals are blocked stays where a handler can
// run: below the part of the thread's own stack that is in use, where the kernel would put a handler's frame as well.
func shelterRegs(own *ptrace.Regs, c cave, sp mem.Addr) ptrace.Regs {
	const redZone = 128
	r := borrowed(own, c.shelter(), (own.SP() - redZone).AlignDown(16))
	r.Rbx = uint64(sp + 8)
	return r
}
