package proc

import (
	"encoding/binary"
	"fmt"
	"iter"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
)

// Mem is a live process's memory. It writes through /proc/PID/mem, which also writes read-only and executable private
// pages and leaves their protection as it is. It is pinned to the program that ran when it was opened: after an exec,
// every access is an error that wraps [ErrGone], never a look into the new program.
type Mem struct {
	pid     int
	file    *os.File
	fd      int
	pages   *os.File     // /proc/PID/pagemap; nil where it may not be read
	viaTask atomic.Int64 // thread by which process_vm_readv finds the memory
}

// Mem opens the process's memory, once; later calls return the same.
func (p *Process) Mem() (*Mem, error) {
	p.memOnce.Do(func() { p.mem, p.memErr = p.openMem() })
	return p.mem, p.memErr
}

// openMem opens the memory by a thread that is alive: a first thread that has ended has none any more.
func (p *Process) openMem() (*Mem, error) {
	tid, err := p.LiveThread()
	if err != nil {
		return nil, err
	}
	task := p.Path("task", strconv.Itoa(tid))
	f, err := os.OpenFile(task+"/mem", os.O_RDWR, 0)
	if err != nil {
		return nil, p.wrap(err)
	}
	if err := p.Check(); err != nil {
		f.Close()
		return nil, err
	}
	m := &Mem{pid: p.Pid, file: f, fd: int(f.Fd())}
	m.viaTask.Store(int64(tid))
	if pages, err := os.Open(task + "/pagemap"); err == nil {
		m.pages = pages
	}
	return m, nil
}

// Close gives back what the Process holds open.
func (p *Process) Close() error {
	p.memOnce.Do(func() { p.memErr = os.ErrClosed })
	if p.mem == nil {
		return nil
	}
	if p.mem.pages != nil {
		p.mem.pages.Close()
	}
	return p.mem.file.Close()
}

// bulk is the size from which process_vm_readv is faster than /proc/PID/mem.
const bulk = 64 << 10

// ReadAt implements [mem.Reader].
func (m *Mem) ReadAt(b []byte, a mem.Addr) error {
	if len(b) >= bulk && m.readBulk(b, a) {
		return nil
	}
	return m.all("read", b, a, unix.Pread)
}

// readBulk reads by process_vm_readv, which goes by a thread id and so, after an exec, to another program: what it
// read counts only if the pinned memory is still there afterwards.
func (m *Mem) readBulk(b []byte, a mem.Addr) bool {
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	remote := []unix.RemoteIovec{{Base: uintptr(a), Len: len(b)}}
	n, err := unix.ProcessVMReadv(int(m.viaTask.Load()), local, remote, 0)
	if err != nil || n != len(b) {
		return false
	}
	var last [1]byte
	n, err = unix.Pread(m.fd, last[:], int64(a)+int64(len(b))-1)
	return err == nil && n == 1
}

// WriteAt implements [mem.Writer].
func (m *Mem) WriteAt(b []byte, a mem.Addr) error { return m.all("write", b, a, unix.Pwrite) }

func (m *Mem) all(op string, b []byte, a mem.Addr, do func(int, []byte, int64) (int, error)) error {
	for done := 0; done < len(b); {
		n, err := do(m.fd, b[done:], int64(a)+int64(done))
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

// PageSize is the size of a page, bytes.
const PageSize = 4096

// Touched reports, for each of the n pages from a on, whether memory stands behind it: false for one that was never
// written. buf is working space of at least 8*n bytes.
func (m *Mem) Touched(a mem.Addr, n int, buf []byte) ([]bool, error) {
	if m.pages == nil {
		return nil, fmt.Errorf("page map of process %d: %w", m.pid, os.ErrPermission)
	}
	const present, swapped = 1 << 63, 1 << 62
	buf = buf[:8*n]
	if _, err := m.pages.ReadAt(buf, int64(a/PageSize)*8); err != nil {
		return nil, fmt.Errorf("page map of process %d at %v: %w", m.pid, a, err)
	}
	out := make([]bool, n)
	for i := range out {
		out[i] = binary.LittleEndian.Uint64(buf[8*i:])&(present|swapped) != 0
	}
	return out, nil
}

// Own yields the runs [from, to) of pages in a mapping that belong to the process: of private memory those that are its
// own by now, which the pages of a file that were never written are not; of shared memory those that it has had to do
// with. All of the mapping is one where the page map may not be read.
func (m *Mem) Own(mp Mapping) iter.Seq2[mem.Addr, mem.Addr] {
	const present, swapped, shared = 1 << 63, 1 << 62, 1 << 61
	return func(yield func(from, to mem.Addr) bool) {
		if m.pages == nil {
			yield(mp.Start, mp.End)
			return
		}
		buf := make([]byte, 8*min(mp.Size()/PageSize, 64<<10))
		from := mp.End // of the run that has begun
		for base := mp.Start; base < mp.End; base += mem.Addr(len(buf) / 8 * PageSize) {
			b := buf[:min(uint64(len(buf)), 8*uint64(mp.End-base)/PageSize)]
			got, _ := m.pages.ReadAt(b, int64(base/PageSize)*8) // less where the mapping has gone
			clear(b[got:])
			for i := 0; i < len(b); i += 8 {
				v, page := binary.LittleEndian.Uint64(b[i:]), base+mem.Addr(i/8*PageSize)
				own := v&(present|swapped) != 0 && (mp.Shared || v&shared == 0)
				switch {
				case own && from == mp.End:
					from = page
				case !own && from != mp.End:
					if !yield(from, page) {
						return
					}
					from = mp.End
				}
			}
		}
		if from != mp.End {
			yield(from, mp.End)
		}
	}
}

// InMemory is how many bytes of the pages in [from, to) are in physical memory now; all of them where the page map may not
// be read.
func (m *Mem) InMemory(from, to mem.Addr) uint64 {
	if m.pages == nil {
		return uint64(to - from)
	}
	const present = 1 << 63
	var buf [8 * 512]byte
	var n uint64
	for page, end := from/PageSize, to/PageSize; page < end; page += mem.Addr(len(buf) / 8) {
		b := buf[:8*min(uint64(end-page), uint64(len(buf)/8))]
		got, err := m.pages.ReadAt(b, int64(page)*8)
		for i := 0; i+8 <= got; i += 8 {
			if binary.LittleEndian.Uint64(b[i:])&present != 0 {
				n += PageSize
			}
		}
		if err != nil {
			break
		}
	}
	return n
}
