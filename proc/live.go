package proc

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
)

// Mem is a live process's memory. It reads with process_vm_readv and, where that may not (PROT_NONE), through
// /proc/PID/mem; it writes through /proc/PID/mem, which also writes read-only and executable private pages and leaves
// their protection as it is. One Mem is for one program: after an exec it reads and writes the old image's remains,
// which the kernel answers with 0 bytes, reported as [ErrGone].
type Mem struct {
	pid  int
	file *os.File
}

// Mem opens the process's memory, once; later calls return the same.
func (p *Process) Mem() (*Mem, error) {
	p.memOnce.Do(func() {
		f, err := os.OpenFile(p.Path("mem"), os.O_RDWR, 0)
		if err != nil {
			p.memErr = p.wrap(err)
			return
		}
		if err := p.Check(); err != nil {
			f.Close()
			p.memErr = err
			return
		}
		p.mem = &Mem{pid: p.Pid, file: f}
	})
	return p.mem, p.memErr
}

// Close gives back what the Process holds open.
func (p *Process) Close() error {
	p.memOnce.Do(func() { p.memErr = os.ErrClosed })
	if p.mem == nil {
		return nil
	}
	return p.mem.file.Close()
}

// ReadAt implements [mem.Reader].
func (m *Mem) ReadAt(b []byte, a mem.Addr) error {
	if len(b) == 0 {
		return nil
	}
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	remote := []unix.RemoteIovec{{Base: uintptr(a), Len: len(b)}}
	if n, err := unix.ProcessVMReadv(m.pid, local, remote, 0); err == nil && n == len(b) {
		return nil
	}
	return m.all("read", b, a, unix.Pread)
}

// WriteAt implements [mem.Writer].
func (m *Mem) WriteAt(b []byte, a mem.Addr) error { return m.all("write", b, a, unix.Pwrite) }

func (m *Mem) all(op string, b []byte, a mem.Addr, do func(int, []byte, int64) (int, error)) error {
	for done := 0; done < len(b); {
		n, err := do(int(m.file.Fd()), b[done:], int64(a)+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = fmt.Errorf("process %d: %w", m.pid, ErrGone)
		}
		if err != nil {
			return &mem.Fault{Op: op, Addr: a + mem.Addr(done), Len: len(b) - done, Err: err}
		}
		done += n
	}
	return nil
}
