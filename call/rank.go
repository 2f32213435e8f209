package call

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// The ranks of threads, by how much being stopped disturbs them: least first.
const (
	rankBlocked  = iota // in a system call that restarts by itself
	rankRunning         // in user code
	rankTimed           // in a system call with a relative timeout: exact only while we live
	rankEintr           // in a system call that answers EINTR to every stop
	rankNever           // cannot be stopped now
	rankMaxTries = 8    // how many threads are tried
)

// candidates lists the threads to try, best first.
func (pl *Plan) candidates() ([]int, error) {
	if pl.opts.Tid != 0 {
		return []int{pl.opts.Tid}, nil
	}
	tids, err := pl.process.Threads()
	if err != nil {
		return nil, err
	}
	type ranked struct{ tid, rank int }
	var list []ranked
	for _, tid := range tids {
		if name := pl.opts.Name; name != "" {
			if st, err := pl.process.Stat(tid); err != nil || st.Comm != name {
				continue
			}
		}
		if r := rank(pl.process, tid); r != rankNever {
			list = append(list, ranked{tid, r})
		}
	}
	if len(list) == 0 && pl.opts.Name != "" {
		return nil, fmt.Errorf("%d threads, none named %q that could be stopped: %w", len(tids), pl.opts.Name, ErrNoThread)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%d threads, all ended or in uninterruptible sleep: %w", len(tids), ErrNoThread)
	}
	slices.SortStableFunc(list, func(a, b ranked) int { return cmp.Compare(a.rank, b.rank) })
	var out []int
	for i, r := range list {
		// The first thread is always among them: its stack has room for a frame also where others' have not (Go).
		if i < rankMaxTries || r.tid == pl.process.Pid || pl.opts.waits() {
			out = append(out, r.tid)
		}
	}
	return out, nil
}

func rank(p *proc.Process, tid int) int {
	st, err := p.Stat(tid)
	if err != nil {
		return rankNever
	}
	switch st.State {
	case 'D', 'Z', 'X':
		return rankNever
	case 'R':
		return rankRunning
	}
	c, err := blockedCall(p, tid)
	switch {
	case err != nil:
		return rankTimed // unknown: not the first to try
	case !c.in:
		return rankRunning
	}
	return rankCall(c.nr, &c.args)
}

// blockedState is a line of /proc/PID/task/TID/syscall: "running"; -1, stack pointer, program counter; or the number
// of the system call that the thread is in, six arguments, stack pointer, program counter.
type blockedState struct {
	in     bool // in a system call
	nr     uint64
	args   [maxArgs]uint64
	sp, pc mem.Addr
}

func blockedCall(p *proc.Process, tid int) (blockedState, error) {
	b, err := os.ReadFile(p.Path("task", strconv.Itoa(tid), "syscall"))
	if err != nil {
		return blockedState{}, fmt.Errorf("thread %d: %w", tid, err)
	}
	return parseBlocked(string(b))
}

func parseBlocked(line string) (blockedState, error) {
	var c blockedState
	f := strings.Fields(line)
	if len(f) == 1 && f[0] == "running" {
		return c, nil
	}
	if len(f) < 3 {
		return c, fmt.Errorf("system call line %.80q: %d fields", line, len(f))
	}
	nr, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil || nr >= 0 && len(f) != 3+maxArgs {
		return c, fmt.Errorf("system call line %.80q: not understood", line)
	}
	values := make([]uint64, len(f)-1)
	for i, s := range f[1:] {
		if values[i], err = strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 64); err != nil {
			return c, fmt.Errorf("system call line %.80q: %w", line, err)
		}
	}
	if nr >= 0 {
		c.in, c.nr = true, uint64(nr)
		copy(c.args[:], values)
	}
	c.sp, c.pc = mem.Addr(values[len(values)-2]), mem.Addr(values[len(values)-1])
	return c, nil
}

// blockedAt is where a thread that does not stop stands, as far as /proc tells; zeros where it does not.
func (pl *Plan) blockedAt(tid int) (pc, sp mem.Addr) {
	c, err := blockedCall(pl.process, tid)
	if err != nil {
		return 0, 0
	}
	return c.pc, c.sp
}

// rankCall ranks by the system call that a thread is blocked in.
func rankCall(nr uint64, args *[maxArgs]uint64) int {
	const (
		futexCommand    = 0x7f
		futexWait       = 0
		timerAbstime    = 1
		infiniteTimeout = 1<<32 - 1 // the int -1
	)
	timed := func(is bool) int {
		if is {
			return rankTimed
		}
		return rankBlocked
	}
	switch nr {
	case unix.SYS_FUTEX:
		return timed(args[1]&futexCommand == futexWait && args[3] != 0)
	case unix.SYS_CLOCK_NANOSLEEP:
		return timed(args[1]&timerAbstime == 0)
	case unix.SYS_NANOSLEEP, unix.SYS_RESTART_SYSCALL:
		return rankTimed
	case unix.SYS_PPOLL:
		return rankBlocked // restarts with the time that it wrote back
	case unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_SEMOP,
		unix.SYS_SEMTIMEDOP, unix.SYS_IO_GETEVENTS, unix.SYS_IO_PGETEVENTS, unix.SYS_IO_URING_ENTER,
		unix.SYS_CONNECT, unix.SYS_CLOSE:
		return rankEintr
	}
	return rankOldCall(nr, args[2]&infiniteTimeout != infiniteTimeout)
}
