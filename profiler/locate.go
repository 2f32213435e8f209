package profiler

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// The agent's reservation has a size that nothing else has, so that one left behind by a heaptap that was killed before
// it could write anything there is still found: its size modulo reserveModulus.
const (
	reserveModulus = 16 << 20
	reserveMark    = 0x7a9000
)

// target is a process that is being worked on.
type target struct {
	proc   *proc.Process
	mem    *proc.Mem
	unlock func() // where it is locked
}

func open(pid int) (*target, error) {
	p, err := proc.Open(pid)
	if err != nil {
		return nil, err
	}
	if err := p.Check(); err != nil {
		return nil, err
	}
	m, err := p.Mem()
	if err != nil {
		p.Close()
		return nil, err
	}
	return &target{proc: p, mem: m}, nil
}

// openLocked is open for those who change the target. What a heaptap that was killed had a thread do is done then.
func openLocked(ctx context.Context, pid int) (*target, error) {
	t, err := open(pid)
	if err != nil {
		return nil, err
	}
	if t.unlock, err = t.lock(); err != nil {
		t.close()
		return nil, err
	}
	if err := call.Settle(ctx, t.proc, call.Options{}); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *target) close() {
	if t.unlock != nil {
		t.unlock()
	}
	t.proc.Close()
}

// lock keeps other heaptaps off this target until the returned function is called or this process ends. It is an
// advisory lock on the process's folder in /proc, so that nothing is left behind, and a child that this program forks
// meanwhile does not keep it; a heaptap that sees another /proc (in a container of its own) is not kept off.
func (t *target) lock() (unlock func(), err error) {
	f, err := os.Open(t.proc.Path())
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		f.Close()
		return nil, fmt.Errorf("process %d: %w", t.proc.Pid, ErrBusy)
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: lock: %w", t.proc.Pid, err)
	}
	return func() {
		unix.Flock(int(f.Fd()), unix.LOCK_UN) // closing is not enough where a child has a copy of the descriptor
		f.Close()
	}, nil
}

// placed is one agent in a target.
type placed struct {
	image  mem.Addr // where the image stands; the whole reservation begins here
	size   uint64   // of the reservation
	tables proc.Mapping
	header *agent.Tables // nil where it was never written
	err    error         // why the header cannot be used, for example another version's
	active bool          // the flag page's word
	chains mem.Addr      // the handler that its own of a signal calls, or 0
	forked bool          // the tables are those of the process that this one was forked from
	whose  uint64        // the flag page's word for that, agent.Tables…
}

func (a *placed) tablesAt() mem.Addr { return a.image + agent.TablesOffset }
func (a *placed) flagAt() mem.Addr   { return a.image + agent.FlagOffset }

// state is what the agent does for the target that it was found in.
func (a *placed) state() State {
	switch {
	case a.header == nil:
		return Incomplete
	case a.forked:
		return Forked
	case a.header.State == agent.StateTracking && a.active:
		return Tracking
	case a.header.State == agent.StatePassive:
		return Passive
	}
	return Incomplete
}

// locate finds the agents in the target, also half-made ones.
func (t *target) locate() ([]*placed, error) {
	maps, err := t.proc.Maps()
	if err != nil {
		return nil, err
	}
	var found []*placed
	for _, m := range maps {
		switch {
		case isTables(m) && !hasImage(maps, m):
			// A forked child is making these; it will move them to where its parent's are.
		case isTables(m):
			a := &placed{image: m.Start - agent.TablesOffset, size: m.Size() + agent.TablesOffset, tables: m}
			h, err := agent.ReadHeader(t.mem, m.Start)
			var other *agent.OtherVersionError
			if errors.As(err, &other) {
				a.err = &OtherVersionError{Pid: t.proc.Pid, Have: other.Have, Want: other.Want}
			} else if err == nil {
				a.header = h
				// A flag page that was never mapped reads as inactive.
				if flag, err := agent.ReadFlag(t.mem, a.flagAt()); err == nil {
					a.active, a.whose = flag.Active != 0, flag.Tables
				}
				// Whose the tables are is said in a page that a fork wipes: what the tables themselves say of their state
				// is of no use, since it is the other process's.
				a.forked = a.whose != agent.TablesOwn
			}
			found = append(found, a)
		case isReservation(m):
			found = append(found, &placed{image: m.Start, size: m.Size()})
		}
	}
	return found, nil
}

// innermostPid is the target's pid as it sees it itself.
func (t *target) innermostPid() (int, error) {
	status, err := t.proc.Status(t.proc.Pid)
	if err != nil {
		return 0, err
	}
	if n := len(status.NSpid); n > 0 {
		return status.NSpid[n-1], nil
	}
	return t.proc.Pid, nil
}

// tablesName is how the kernel names shared memory without a name, heldName how it names what memfd_create gave.
const (
	tablesName = "/dev/zero"
	heldName   = "/memfd:" + memfdName
)

// isTables reports whether a mapping holds the agent's tables, written or not: shared memory without a name or with
// heaptap's, of a size that is ours alone.
func isTables(m proc.Mapping) bool {
	return m.Shared && (m.Path == tablesName || m.Path == heldName) && m.Deleted && m.Size() > agent.MinTables &&
		(m.Size()+agent.TablesOffset)%reserveModulus == reserveMark
}

// hasImage reports whether the agent's code is mapped where it belongs before tables.
func hasImage(maps []proc.Mapping, tables proc.Mapping) bool {
	return slices.ContainsFunc(maps, func(m proc.Mapping) bool {
		return m.Start == tables.Start-agent.TablesOffset && m.Exec && !m.Shared && m.Inode == 0
	})
}

// isReservation reports whether a mapping is a reservation in which nothing was placed.
func isReservation(m proc.Mapping) bool {
	return m.Inode == 0 && !m.Shared && m.Exec && !m.Write && m.Size() > agent.MinTables &&
		m.Size()%reserveModulus == reserveMark
}

// tracked returns the agent that tracks the target, or that would if it were whole.
func (t *target) tracked() (*placed, error) {
	all, err := t.locate()
	if err != nil {
		return nil, err
	}
	var best *placed
	for _, a := range all {
		if best == nil || rank(a) > rank(best) {
			best = a
		}
	}
	if best == nil {
		return nil, fmt.Errorf("process %d: %w", t.proc.Pid, ErrNotTracked)
	}
	return best, best.err
}

func rank(a *placed) int {
	switch a.state() {
	case Tracking:
		return 3
	case Forked:
		return 2
	case Passive:
		return 0
	}
	return 1
}
