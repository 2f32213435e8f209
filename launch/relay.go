package launch

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Signal is a signal that came for this process.
type Signal struct {
	Signal syscall.Signal
	// Kernel: nobody sent it, the kernel did, as for Ctrl-C on the terminal; it goes to the whole process group then.
	Kernel bool
}

// Relay has signals that come for this process told, and do nothing else. os/signal would not tell who sent them, which
// decides whether a child in the same process group has had them as well. A signal that is ignored stays so.
type Relay struct {
	C      <-chan Signal
	read   *os.File
	before map[syscall.Signal]action
}

// relayTo is the descriptor that the signal handler writes to. A handler has no other way to find it.
var relayTo int32

var relaying atomic.Bool

// action is the kernel's struct sigaction.
type action struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const defaultAction = 0 // SIG_DFL

// StartRelay begins to relay signals. Only one Relay can be at a time.
func StartRelay(ignored uint64, signals ...syscall.Signal) (*Relay, error) {
	handler, restorer := relayHandler()
	if handler == 0 {
		return nil, fmt.Errorf("relay signals: %w", ErrUnsupported)
	}
	if !relaying.CompareAndSwap(false, true) {
		return nil, fmt.Errorf("relay signals: %w", unix.EBUSY)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	relayTo = int32(pipe[1])
	c := make(chan Signal)
	r := &Relay{C: c, read: os.NewFile(uintptr(pipe[0]), "signals"), before: map[syscall.Signal]action{}}
	const saSiginfo, saRestorer, saOnStack, saRestart = 4, 0x04000000, 0x08000000, 0x10000000
	for _, sig := range signals {
		if ignored&(1<<(sig-1)) != 0 {
			continue
		}
		old, err := setAction(sig, action{handler, saSiginfo | saRestorer | saOnStack | saRestart, restorer, ^uint64(0)})
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("relay signal %v: %w", sig, err)
		}
		r.before[sig] = old
	}
	go r.tell(c)
	return r, nil
}

// tell reads what the handler has written: the beginning of each siginfo_t.
func (r *Relay) tell(c chan<- Signal) {
	defer close(c)
	b := make([]byte, relayedBytes)
	for {
		if n, err := r.read.Read(b); err != nil || n < len(b) {
			return
		}
		c <- Signal{
			Signal: syscall.Signal(binary.LittleEndian.Uint32(b)),
			Kernel: int32(binary.LittleEndian.Uint32(b[8:])) > 0,
		}
	}
}

// relayedBytes is what is written of a siginfo_t: signal, errno, code and padding.
const relayedBytes = 16

// Take does with a relayed signal what it would have done by default, such as to stop this process.
func (r *Relay) Take(sig syscall.Signal) error {
	relayed, err := setAction(sig, action{handler: defaultAction})
	if err != nil {
		return err
	}
	if err := raise(sig); err != nil {
		return err
	}
	if relayed.handler != defaultAction {
		_, err = setAction(sig, relayed)
	}
	return err
}

// Close ends the relaying: signals do what they did before.
func (r *Relay) Close() {
	for sig, a := range r.before {
		setAction(sig, a)
	}
	r.read.Close()
	unix.Close(int(relayTo))
	relaying.Store(false)
}

// raise sends a signal to this very thread, for which it has come when raise returns.
func raise(sig syscall.Signal) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return unix.Tgkill(os.Getpid(), unix.Gettid(), sig)
}

// Die ends this process by a signal, without a core dump, as if it had come from outside. It returns where the signal
// does not end a process.
func Die(sig syscall.Signal) {
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	if sig != unix.SIGKILL {
		setAction(sig, action{handler: defaultAction})
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	set, unblock := uint64(1)<<(sig-1), uintptr(1) // SIG_UNBLOCK
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unblock, uintptr(unsafe.Pointer(&set)), 0, 8, 0, 0)
	unix.Tgkill(os.Getpid(), unix.Gettid(), sig)
}

func actionOf(sig syscall.Signal) (a action, err error) {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), 0, uintptr(unsafe.Pointer(&a)), 8, 0, 0)
	if errno != 0 {
		err = errno
	}
	return a, err
}

func setAction(sig syscall.Signal, a action) (old action, err error) {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&a)),
		uintptr(unsafe.Pointer(&old)), 8, 0, 0)
	if errno != 0 {
		err = errno
	}
	return old, err
}
