package call

import (
	"cmp"
	"fmt"
	"slices"

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
	c, err := p.Blocked(tid)
	switch {
	case err != nil:
		return rankTimed // unknown: not the first to try
	case !c.In:
		return rankRunning
	}
	return rankCall(c.Nr, &c.Args)
}

// blockedAt is where a thread that does not stop stands, as far as /proc tells; zeros where it does not.
func (pl *Plan) blockedAt(tid int) (pc, sp mem.Addr) {
	c, err := pl.process.Blocked(tid)
	if err != nil {
		return 0, 0
	}
	return c.PC, c.SP
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
