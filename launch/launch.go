// Package launch starts a program so that a tracer has it from its first instruction on, and lets a process wait where its
// program begins.
//
// A program is started by way of a launcher, some 150 bytes of code in an unnamed file: it waits until it has been seized,
// and then executes the program. So it is never traced by PTRACE_TRACEME, whose SIGTRAP would kill it if the tracer died at
// that moment; and if the tracer dies, the launcher goes on. Nothing of it is left: the program has the arguments,
// environment, descriptors, limits, signal mask and ignored signals that it would have had from the caller's own parent.
//
// A [Gate] is where a process that has just executed a program waits once the loader is done and before the program's own
// first instruction: it is entered in the place of the program's entry, and left by itself when the tracer has died.
package launch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/internal/fault"
	"github.com/heaptap/heaptap/ptrace"
)

// Command is what to start.
type Command struct {
	Path   string   // of the program: nothing is searched for
	Args   []string // the first one is the program's name
	Env    []string
	Caller Caller // whose child the program shall seem to be
}

// ErrUnsupported says that this processor has no launcher. It comes wrapped.
var ErrUnsupported = errors.New("not supported on this processor")

// ExecError says that the program could not be executed.
type ExecError struct {
	Path string
	Err  syscall.Errno
}

func (e *ExecError) Error() string { return fmt.Sprintf("%s: %v", e.Path, e.Err) }
func (e *ExecError) Unwrap() error { return e.Err }

// Start starts the program, seized, and stopped where it has just been executed: with an Exec stop that has been seen and
// not been resumed from. Only inside the tracer's Do. The process is this one's child, to be waited for by whoever
// called. An [*ExecError] says that there is none.
func Start(ctx context.Context, tracer *ptrace.Tracer, c Command) (*ptrace.Thread, error) {
	l, err := begin(c)
	if err != nil {
		return nil, err
	}
	fault.Point("launch/forked")
	th, err := tracer.Seize(l.pid, l.pid, ptrace.TraceExec)
	if err != nil {
		l.abort()
		return nil, err
	}
	fault.Point("launch/seized")
	l.release()
	return th, l.untilExec(ctx, th)
}

// StartFree is Start without a tracer: the program runs when it returns.
func StartFree(c Command) (pid int, err error) {
	l, err := begin(c)
	if err != nil {
		return 0, err
	}
	l.release()
	return l.pid, l.failure()
}

// launcher is a process that waits in the launcher's code.
type launcher struct {
	pid  int
	path string      // of the program to be
	file unix.Stat_t // its own image
	hold int         // descriptor: closed to let it go on
	fail *os.File    // where it says why it could not execute the program; at its end when it has
}

// begin starts the launcher.
func begin(c Command) (*launcher, error) {
	if len(launcherCode) == 0 {
		return nil, fmt.Errorf("start %s: %w", c.Path, ErrUnsupported)
	}
	var hold, fail [2]int
	if err := unix.Pipe2(hold[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	defer unix.Close(hold[0])
	if err := unix.Pipe2(fail[:], unix.O_CLOEXEC); err != nil {
		unix.Close(hold[1])
		return nil, err
	}
	defer unix.Close(fail[1])
	l := &launcher{path: c.Path, hold: hold[1], fail: os.NewFile(uintptr(fail[0]), "failure")}
	image, err := launcherImage(c, hold[0], fail[1])
	if err == nil {
		err = l.fork(c, image, hold[0], fail[1])
	}
	if err != nil {
		l.release()
		l.fail.Close()
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	return l, nil
}

// fork executes the image in a child that has these descriptors.
func (l *launcher) fork(c Command, image []byte, descriptors ...int) error {
	for _, fd := range descriptors {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return err
		}
	}
	var errs []error
	for _, place := range []func([]byte) (*os.File, error){unnamedFile, temporaryFile} {
		f, err := place(image)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defer f.Close()
		if err := unix.Fstat(int(f.Fd()), &l.file); err != nil {
			return err
		}
		l.pid, err = syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), c.Args,
			&syscall.ProcAttr{Env: c.Env, Files: []uintptr{0, 1, 2}})
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// unnamedFile holds the image in a file that has no name and no place on any disk. It can be executed unless the system
// is set up to forbid that (vm.memfd_noexec).
func unnamedFile(image []byte) (*os.File, error) {
	const mfdExec = 0x10 // Linux 6.3: says that it is to be executed
	fd, err := unix.MemfdCreate("heaptap", unix.MFD_CLOEXEC|mfdExec)
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate("heaptap", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "launcher")
	if _, err := f.Write(image); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// temporaryFile is the same in the folder for temporary files, where its name goes at once.
func temporaryFile(image []byte) (*os.File, error) {
	w, err := os.CreateTemp("", "heaptap")
	if err != nil {
		return nil, err
	}
	defer w.Close() // a file that is open for writing cannot be executed
	defer os.Remove(w.Name())
	if err := w.Chmod(0o700); err != nil {
		return nil, err
	}
	if _, err := w.Write(image); err != nil {
		return nil, err
	}
	return os.Open(w.Name())
}

// release lets the launcher go on.
func (l *launcher) release() { unix.Close(l.hold) }

// failure waits until the launcher has executed the program, or has not and ended. Then it is collected.
func (l *launcher) failure() error {
	defer l.fail.Close()
	var errno [4]byte
	if _, err := io.ReadFull(l.fail, errno[:]); err != nil {
		return nil
	}
	if _, err := unix.Wait4(l.pid, nil, 0, nil); err != nil {
		return fmt.Errorf("wait for process %d: %w", l.pid, err)
	}
	return &ExecError{l.path, syscall.Errno(binary.LittleEndian.Uint32(errno[:]))}
}

// abort ends a launcher that has executed nothing yet.
func (l *launcher) abort() {
	unix.Kill(l.pid, unix.SIGKILL)
	l.release()
	l.fail.Close()
	unix.Wait4(l.pid, nil, 0, nil)
}

// untilExec waits for the Exec stop.
func (l *launcher) untilExec(ctx context.Context, th *ptrace.Thread) error {
	for {
		stop, err := th.Wait(ctx)
		if err != nil {
			return err
		}
		var sig syscall.Signal
		switch stop.Kind {
		case ptrace.Exec:
			if l.executing() {
				break // the launcher itself was seized a little before that was done
			}
			fault.Point("launch/executed")
			return l.fail.Close()
		case ptrace.Exited:
			if err := l.failure(); err != nil {
				return err
			}
			unix.Wait4(l.pid, nil, 0, nil)
			return fmt.Errorf("start %s: killed by signal: %v", l.path, syscall.Signal(stop.Code))
		case ptrace.Event:
			if stop.Signal != unix.SIGTRAP { // the job was stopped
				if err := th.Listen(); err != nil {
					return err
				}
				continue
			}
		case ptrace.Signal:
			sig = stop.Signal
		}
		if err := th.Resume(false, sig); err != nil {
			return err
		}
	}
}

// executing reports whether the process is still the launcher.
func (l *launcher) executing() bool {
	var st unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d/exe", l.pid), &st)
	return err == nil && st.Dev == l.file.Dev && st.Ino == l.file.Ino
}

// launcherImage is the launcher as an ELF file, with what it needs to know behind its code.
func launcherImage(c Command, wait, fail int) ([]byte, error) {
	const base, header = 0x400000, 64 + 2*56
	if bytes.IndexByte([]byte(c.Path), 0) >= 0 {
		return nil, syscall.EINVAL
	}
	body := append(bytes.Clone(launcherCode), make([]byte, launcherPath-len(launcherCode))...)
	le := binary.LittleEndian
	le.PutUint64(body[launcherAction:], 1) // SIG_IGN
	le.PutUint64(body[launcherMask:], c.Caller.Mask)
	le.PutUint32(body[launcherWait:], uint32(wait))
	le.PutUint32(body[launcherFail:], uint32(fail))
	if c.Caller.MaskKnown {
		le.PutUint32(body[launcherSetMask:], 1)
	}
	at := launcherIgnored
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		if c.Caller.Ignored&(1<<(sig-1)) != 0 && sig != unix.SIGKILL && sig != unix.SIGSTOP {
			body[at] = byte(sig)
			at++
		}
	}
	body = append(append(body, c.Path...), 0)
	size := uint64(header + len(body))
	image := append([]byte("\x7fELF\x02\x01\x01\x00"), make([]byte, header-8)...)
	le.PutUint16(image[16:], 2) // ET_EXEC
	le.PutUint16(image[18:], launcherMachine)
	le.PutUint32(image[20:], 1)
	le.PutUint64(image[24:], base+header) // entry
	le.PutUint64(image[32:], 64)          // program headers
	le.PutUint16(image[52:], 64)
	le.PutUint16(image[54:], 56)
	le.PutUint16(image[56:], 2)
	ph := image[64:]
	le.PutUint32(ph, 1)     // PT_LOAD
	le.PutUint32(ph[4:], 5) // readable, executable
	le.PutUint64(ph[16:], base)
	le.PutUint64(ph[24:], base)
	le.PutUint64(ph[32:], size)
	le.PutUint64(ph[40:], size)
	le.PutUint64(ph[48:], 0x1000)
	le.PutUint32(image[64+56:], 0x6474e551) // PT_GNU_STACK
	le.PutUint32(image[64+60:], 6)          // not executable
	return append(image, body...), nil
}
