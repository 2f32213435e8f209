package ptrace

import (
	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
)

// Regs is the kernel's struct user_regs_struct of x86-64: the general registers, and in OrigRax the number of the
// system call that the thread is in, or -1.
type Regs struct {
	R15, R14, R13, R12, Rbp, Rbx, R11, R10, R9, R8 uint64
	Rax, Rcx, Rdx, Rsi, Rdi, OrigRax               uint64
	Rip, Cs, Eflags, Rsp, Ss                       uint64
	FsBase, GsBase, Ds, Es, Fs, Gs                 uint64
}

const (
	ntXState      = unix.NT_X86_XSTATE
	ntShadowStack = unix.NT_X86_SHSTK
)

// PC and SP are the program counter and the stack pointer.
func (r *Regs) PC() mem.Addr { return mem.Addr(r.Rip) }

// SP is the stack pointer.
func (r *Regs) SP() mem.Addr { return mem.Addr(r.Rsp) }

// ThreadPointer is the address by which thread-local storage is found.
func (r *Regs) ThreadPointer() mem.Addr { return mem.Addr(r.FsBase) }

// SetPC sets the program counter.
func (r *Regs) SetPC(a mem.Addr) { r.Rip = uint64(a) }

// Substitute gives registers that hold one of certain values others, by pairs of old and new, and reports whether there was
// one: all that code computes with, but for those that mean something else within a system call.
func (r *Regs) Substitute(values map[uint64]uint64) bool {
	regs := []*uint64{&r.Rbx, &r.Rdx, &r.Rsi, &r.Rdi, &r.Rbp, &r.R8, &r.R9, &r.R10, &r.R12, &r.R13, &r.R14, &r.R15}
	if !r.InSyscall() {
		regs = append(regs, &r.Rax, &r.Rcx, &r.R11)
	}
	return substitute(regs, values)
}

// InSyscall reports whether the thread was stopped inside a system call, whose number is Syscall.
func (r *Regs) InSyscall() bool { return int64(r.OrigRax) >= 0 }

// Syscall is the number of the system call that the thread is in, where InSyscall.
func (r *Regs) Syscall() uint64 { return r.OrigRax }

// Result is the system call's result so far, where InSyscall: one of the kernel's internal restart numbers when a stop
// interrupted it.
func (r *Regs) Result() int64 { return int64(r.Rax) }

// The kernel's internal results of an interrupted system call (include/linux/errno.h). Never seen by programs.
const (
	restartSys      = -512 // ERESTARTSYS
	restartNoIntr   = -513 // ERESTARTNOINTR
	restartNoHand   = -514 // ERESTARTNOHAND
	restartBlock    = -516 // ERESTART_RESTARTBLOCK
	interruptedCall = -4   // EINTR
)

// Cloak turns an EINTR that our stop made into a restart, and reports whether it did. Some system calls answer EINTR
// to every stop, even to a tracer's (signal(7)); with ERESTARTNOHAND in its place the kernel decides anew when the
// thread goes on: EINTR if a handler runs, the call again if not. Only calls that did nothing when they answer EINTR.
func (r *Regs) Cloak() bool {
	if !r.InSyscall() || r.Result() != interruptedCall || !restartable(r.OrigRax, r.Rsi) {
		return false
	}
	noHand := int64(restartNoHand)
	r.Rax = uint64(noHand)
	return true
}

// restartable reports whether a call that answered EINTR may be made again with the same arguments. Not connect and
// close, which have taken effect, nor io_uring_enter with entries to submit.
func restartable(nr, arg2 uint64) bool {
	switch nr {
	case unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2,
		unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP,
		unix.SYS_IO_GETEVENTS, unix.SYS_IO_PGETEVENTS,
		unix.SYS_READ, unix.SYS_READV, unix.SYS_WRITE, unix.SYS_WRITEV, // sockets with SO_RCVTIMEO, SO_SNDTIMEO
		unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_RECVMMSG,
		unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_SENDMMSG,
		unix.SYS_ACCEPT, unix.SYS_ACCEPT4:
		return true
	case unix.SYS_IO_URING_ENTER:
		return arg2 == 0
	}
	return false
}

// Rewind makes r what a thread should have when nobody is there any more to give the kernel the raw registers: an
// interrupted system call is made again, by its instruction, or answers EINTR where it cannot be (its remaining time
// is in the kernel and lost with the first rt_sigreturn).
func (r *Regs) Rewind() {
	if r.InSyscall() {
		switch r.Result() {
		case restartSys, restartNoIntr, restartNoHand:
			r.again()
		case interruptedCall:
			if restartable(r.OrigRax, r.Rsi) {
				r.again()
			}
		case restartBlock:
			if r.absoluteTimeout() {
				r.again()
				break
			}
			eintr := int64(interruptedCall)
			r.Rax = uint64(eintr)
		}
	}
	r.OrigRax = ^uint64(0)
}

func (r *Regs) again() {
	r.Rax = r.OrigRax
	r.Rip -= 2 // the size of the syscall instruction
}

// absoluteTimeout reports whether the interrupted call waits until a point in time, or for ever, so that making it again
// does not wait longer.
func (r *Regs) absoluteTimeout() bool {
	const (
		futexCommand    = 0x7f
		futexWaitBitset = 9
		timerAbstime    = 1
	)
	switch r.OrigRax {
	case unix.SYS_POLL:
		return int32(r.Rdx) < 0 // until something happens
	case unix.SYS_FUTEX:
		return r.Rsi&futexCommand == futexWaitBitset
	case unix.SYS_CLOCK_NANOSLEEP:
		return r.Rsi&timerAbstime != 0
	}
	return false
}

// ForgetsTime reports whether the thread was stopped in a system call whose remaining time only the kernel knows, and
// forgets when the thread sleeps anew.
func (r *Regs) ForgetsTime() bool { return r.InSyscall() && r.Result() == restartBlock }

// WillRestart reports, at the exit of a system call, whether the kernel is about to make it again.
func (r *Regs) WillRestart() bool {
	switch r.Result() {
	case restartSys, restartNoIntr, restartNoHand, restartBlock:
		return r.InSyscall()
	}
	return false
}
