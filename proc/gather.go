package proc

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
)

// Range is some bytes of a target's memory.
type Range struct {
	Addr mem.Addr
	Len  int
}

// MaxRanges is how many ranges one call of [Mem.Gather] may have (the kernel's IOV_MAX).
const MaxRanges = 1024

// Gather reads up to MaxRanges ranges into to, one behind the other, by one system call where all can be read. It returns
// which could not be read, by their index in ranges, in order; their bytes in to are of no use.
func (m *Mem) Gather(to []byte, ranges []Range) (missing []int, err error) {
	starts := make([]int, len(ranges)+1)
	remote := make([]unix.RemoteIovec, len(ranges))
	for i, r := range ranges {
		starts[i+1] = starts[i] + r.Len
		remote[i] = unix.RemoteIovec{Base: uintptr(r.Addr), Len: r.Len}
	}
	to = to[:starts[len(ranges)]]
	for next := 0; next < len(ranges); {
		if ranges[next].Len == 0 {
			next++
			continue
		}
		local := []unix.Iovec{{Base: &to[starts[next]], Len: uint64(len(to) - starts[next])}}
		n, err := unix.ProcessVMReadv(int(m.viaTask.Load()), local, remote[next:], 0)
		if err != nil && err != unix.EFAULT {
			return m.gatherSingly(to, ranges) // the thread has ended, or the call is not allowed
		}
		n = max(n, 0)
		// It ends before what it cannot read, which may be in the middle of a range.
		end := starts[next] + n
		for next < len(ranges) && starts[next+1] <= end {
			next++
		}
		if next < len(ranges) {
			missing = append(missing, next)
			next++
		}
	}
	return missing, m.pinned()
}

func (m *Mem) gatherSingly(to []byte, ranges []Range) (missing []int, err error) {
	for i, r := range ranges {
		err := m.ReadAt(to[:r.Len], r.Addr)
		if errors.Is(err, ErrGone) {
			return nil, err
		}
		if err != nil {
			missing = append(missing, i)
		}
		to = to[r.Len:]
	}
	return missing, nil
}

// pinned is an error where the process has another program since its memory was opened: process_vm_readv goes by a
// thread id, and so would have read that one's.
func (m *Mem) pinned() error {
	var b [1]byte
	n, err := unix.Pread(m.fd, b[:], 0) // mostly mapped by nobody, which is an error; the end of the file is that of the memory
	if n == 0 && err == nil {
		return &mem.Fault{Op: "read", Len: 1, Err: fmt.Errorf("process %d: %w", m.pid, ErrGone)}
	}
	return nil
}
