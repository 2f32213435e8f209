package profiler

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// coarseClockWord finds where, in the target, the kernel keeps the seconds of CLOCK_MONOTONIC_COARSE for the vDSO to
// read: in the first page of [vvar], at an offset that depends on the kernel. Our own process has the same page, unless
// the two are in different time namespaces; there the offset is where seconds and nanoseconds stand that equal the
// clock's. It returns 0 when there is no such place.
func coarseClockWord(t *target) mem.Addr {
	ours, err := os.Readlink("/proc/self/ns/time")
	theirs, err2 := os.Readlink(t.proc.Path("ns", "time"))
	if err != nil || err2 != nil || ours != theirs {
		return 0
	}
	self, err := proc.Open(os.Getpid())
	if err != nil {
		return 0
	}
	defer self.Close()
	from, ok := vvar(self)
	to, ok2 := vvar(t.proc)
	if !ok || !ok2 {
		return 0
	}
	offset, ok := clockOffset(from)
	if !ok {
		return 0
	}
	return to + mem.Addr(offset)
}

func vvar(p *proc.Process) (mem.Addr, bool) {
	maps, err := p.Maps()
	if err != nil {
		return 0, false
	}
	for _, m := range maps {
		if m.Path == "[vvar]" && m.Read {
			return m.Start, true
		}
	}
	return 0, false
}

// clockOffset looks for the clock in our own page at a.
func clockOffset(a mem.Addr) (int, bool) {
	page := unsafe.Slice(*(**int64)(unsafe.Pointer(&a)), os.Getpagesize()/8)
	// The clock may tick between the two looks; then look again.
	for range 100 {
		var before, after unix.Timespec
		if unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &before) != nil {
			return 0, false
		}
		found, ok := 0, false
		for i := 0; i+1 < len(page) && !ok; i++ {
			if page[i] == before.Sec && page[i+1] == before.Nsec {
				found, ok = i*8, true
			}
		}
		if unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &after) != nil {
			return 0, false
		}
		if before == after {
			return found, ok
		}
	}
	return 0, false
}
