package profiler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// follow tells the agent to follow forked children, where the target may make the system calls that this takes. It
// returns what a user should know.
func (pl *placing) follow() []string {
	for nr, name := range map[uint64]string{
		unix.SYS_MMAP: "mmap", unix.SYS_MREMAP: "mremap", unix.SYS_MADVISE: "madvise", unix.SYS_MUNMAP: "munmap",
		unix.SYS_GETPID: "getpid",
	} {
		if ok, known := pl.plan.Allowed(nr); !ok || !known {
			return []string{fmt.Sprintf("forked children are not followed: the process's seccomp filter may not let %s through", name)}
		}
	}
	pl.header.Config.Follow = 1
	return nil
}

// FollowOptions say how [Follow] goes about it.
type FollowOptions struct {
	Attach AttachOptions // of what is found untracked
	// Tell is called for each event, one at a time, in their order. An error ends it all.
	Tell func(FollowEvent) error

	except int // a process of the tree that somebody else attaches to
}

// FollowEvent is something that [Follow] saw.
type FollowEvent struct {
	Kind        FollowKind
	Pid, Parent int
	Name        string      // of the process's first thread
	Attachment  *Attachment // FollowAttached; it says where the process was tracked already
	Err         error       // FollowFailed
}

// FollowKind says what happened to a process.
type FollowKind string

// The kinds of events.
const (
	FollowForked   FollowKind = "forked"   // its agent tracks it without us, from its next allocation on
	FollowAttached FollowKind = "attached" // a Python began to run in it, and was attached to
	FollowFailed   FollowKind = "failed"   // a Python runs in it that could not be attached to
	FollowEnded    FollowKind = "ended"    // one of those has ended, or executes another program now
)

// Follow watches a process and those below it until all have ended, or until the context ends. The agent follows forked
// children by itself; what Follow adds are processes that execute a Python, attached to as soon as it runs, and tidings
// of all of them. Other programs are left alone. The tracking does not depend on Follow, and goes on after it.
//
// A process that ends before its interpreter is ready, or within the time that an attach takes, is missed.
func Follow(ctx context.Context, pid int, o FollowOptions) error {
	if err := o.Attach.check(); err != nil {
		return err
	}
	f := &follower{o: o, root: pid, members: map[int]*followed{}, results: make(chan finding)}
	f.lister = lister{programs: map[fileID]bool{}, users: map[int]string{}}
	p, err := proc.Open(pid)
	if err != nil {
		return err
	}
	if err := p.Check(); err != nil {
		return err
	}
	st, err := p.Stat(pid)
	if err != nil {
		return err
	}
	f.add(p, st)
	return f.run(ctx)
}

const (
	// Finding out who is there takes a share of one processor that is bounded: the pause after it is so many times as
	// long as it took, within bounds; shorter as long as something has happened lately.
	busyPause, calmPause     = 4, 50
	shortestPause            = time.Millisecond
	longestBusy, longestCalm = 10 * time.Millisecond, 100 * time.Millisecond
	lately                   = 5 * time.Second

	longestLook  = time.Second            // between two looks at a process that is no Python
	longestStart = 4 * time.Millisecond   // between two looks at a Python that is starting
	young        = 500 * time.Millisecond // a program that has run for less may be a Python that is being loaded
	settling     = 2 * time.Second        // within which an error may come of that
	patience     = 30 * time.Second       // with a Python that is starting
)

// follower is one run of [Follow]. All of it but looks belongs to one goroutine.
type follower struct {
	o       FollowOptions
	root    int
	lister  lister
	members map[int]*followed
	results chan finding
	looking int
	news    time.Time // when a process or program was last found to have come or gone
}

// followed is a process of the tree.
type followed struct {
	proc   *proc.Process
	parent int
	name   string
	stack  uint64 // of its program, to see an exec

	known   bool          // it was told of
	looking bool          // at this moment
	next    time.Time     // of a look; zero: none is needed
	wait    time.Duration // after it
	since   time.Time     // it executes this program, or was found
}

// finding is what a look at a process found.
type finding struct {
	of    *followed
	stack uint64 // the program that it was of
	kind  FollowKind
	at    *Attachment
	err   error
	again time.Duration // most until the next one; 0: there is no need
}

// add takes a process into the tree.
func (f *follower) add(p *proc.Process, st proc.Stat) {
	m := &followed{proc: p, parent: st.Ppid, name: st.Comm, stack: st.StackStart}
	m.renew()
	f.members[p.Pid] = m
	f.news = time.Now()
}

// renew makes the next look come at once.
func (m *followed) renew() {
	now := time.Now()
	m.known, m.next, m.wait, m.since = false, now, shortestPause, now
}

func (f *follower) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		for ; f.looking > 0; f.looking-- { // an attach that was begun is ended, one way or the other
			<-f.results
		}
		for _, m := range f.members {
			m.proc.Close()
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for next := time.Now(); ; {
		if began := time.Now(); !began.Before(next) {
			if err := f.census(); err != nil {
				return err
			}
			if len(f.members) == 0 {
				return nil
			}
			next = began.Add(f.pause(time.Since(began)))
		}
		timer.Reset(max(min(time.Until(next), f.start(ctx)), shortestPause))
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case l := <-f.results:
				f.looking--
				if err := f.take(l); err != nil {
					return err
				}
			case <-timer.C:
				waiting = false
			}
		}
	}
}

// pause is how long it is until the next census after one that took so long.
func (f *follower) pause(took time.Duration) time.Duration {
	if time.Since(f.news) < lately {
		return min(busyPause*took, longestBusy)
	}
	return min(calmPause*took, longestCalm)
}

// census finds out who is there now, and who executes another program.
func (f *follower) census() error {
	for _, pid := range slices.Sorted(maps.Keys(f.members)) {
		m := f.members[pid]
		st, err := m.proc.Stat(pid)
		if err != nil || st.StartTicks != m.proc.StartTicks() || st.State == 'Z' && m.proc.Check() != nil {
			f.news = time.Now()
			if err := f.end(m); err != nil {
				return err
			}
			if !m.looking {
				m.proc.Close()
				delete(f.members, pid)
			}
			continue
		}
		m.name = st.Comm
		if st.StackStart != m.stack {
			if err := f.end(m); err != nil {
				return err
			}
			m.stack, f.news = st.StackStart, time.Now()
			m.renew()
		}
		children, err := m.proc.Children()
		if err != nil {
			continue // it has just ended
		}
		for _, child := range children {
			if f.members[child] != nil {
				continue
			}
			if p, err := proc.Open(child); err == nil {
				if st, err := p.Stat(child); err == nil && p.Check() == nil {
					f.add(p, st)
				}
			}
		}
	}
	return nil
}

// end tells that a process which was told of is not there any more, or is another program.
func (f *follower) end(m *followed) error {
	if !m.known {
		return nil
	}
	m.known = false
	return f.tell(m, FollowEvent{Kind: FollowEnded})
}

func (f *follower) tell(m *followed, e FollowEvent) error {
	e.Pid, e.Parent, e.Name = m.proc.Pid, m.parent, m.name
	return f.o.Tell(e)
}

// start has those looks taken that are due, and returns when the next one will be.
func (f *follower) start(ctx context.Context) time.Duration {
	now, wait := time.Now(), longestLook
	for _, m := range f.members {
		if m.looking || m.next.IsZero() {
			continue
		}
		if due := m.next.Sub(now); due > 0 {
			wait = min(wait, due)
			continue
		}
		m.looking = true
		f.looking++
		stack, age, child := m.stack, now.Sub(m.since), m.proc.Pid != f.root
		go func() {
			l := f.look(ctx, m.proc, m.parent, child, age)
			l.of, l.stack = m, stack
			f.results <- l
		}()
	}
	return wait
}

// take acts on what a look found.
func (f *follower) take(l finding) error {
	m := l.of
	m.looking = false
	if l.stack != m.stack { // it was at another program
		return nil
	}
	m.next = time.Time{}
	if l.again > 0 {
		m.wait = min(2*m.wait, l.again)
		m.next = time.Now().Add(m.wait)
	}
	if l.kind == "" {
		return nil
	}
	m.known = l.kind != FollowFailed
	return f.tell(m, FollowEvent{Kind: l.kind, Attachment: l.at, Err: l.err})
}

// look finds out what a process is that has been running its program for some time, and attaches to it where it is an
// untracked Python.
func (f *follower) look(ctx context.Context, p *proc.Process, parent int, child bool, age time.Duration) finding {
	again := finding{again: longestLook}
	if age < young {
		again.again = longestStart
	}
	if p.Pid == f.o.except {
		return again
	}
	if sharesMemory(p.Pid, parent) {
		return finding{again: longestStart} // until it executes a program of its own
	}
	mappings, err := p.Maps()
	if err != nil {
		return again
	}
	if mapsAgent(mappings) {
		switch forkedWell(p) {
		case forkTracked:
			return finding{kind: FollowForked}
		case forkWaits:
			return again
		}
	} else if !mapsPython(mappings) && !f.lister.programIsPython(p) {
		return again
	}
	attach := Attach
	if child {
		attach = attachChild
	}
	at, err := attach(ctx, p.Pid, f.o.Attach)
	switch {
	case err == nil:
		return finding{kind: FollowAttached, at: at}
	case isGone(err) || !isPython(err) || ctx.Err() != nil:
		return again
	case age < settling,
		age < patience && (errors.As(err, new(*cpython.NotReadyError)) || errors.Is(err, ErrBusy) || errors.Is(err, cpython.ErrBusy)):
		return finding{again: longestStart}
	}
	return finding{kind: FollowFailed, err: err}
}

// forkState is what a process has of the agent of the one that it was forked from.
type forkState int

const (
	forkOther   forkState = iota // nothing, or nothing that will track it
	forkTracked                  // its hooks are in place: it has tables of its own, or makes them when it allocates
	forkWaits                    // an attach to its parent is going on
	forkPartial                  // it was forked in the midst of an attach to its parent: something is missing
)

// forkedWell tells how a process stands to its parent's agent.
func forkedWell(p *proc.Process) forkState {
	m, err := p.Mem()
	if err != nil {
		return forkOther
	}
	t := &target{proc: p, mem: m}
	a, err := t.tracked()
	switch {
	case err != nil:
		return forkOther
	case a.header == nil:
		return forkPartial
	case a.state() == Tracking && a.header.Parent == 0, a.forked && a.whose == agent.TablesLeft:
		return forkOther
	case a.forked && a.header.State == agent.StateHooking:
		return forkWaits
	case a.forked && (a.header.State != agent.StateTracking || a.header.Config.Follow == 0):
		return forkOther
	}
	slots, err := agent.ReadSlots(m, a.tablesAt(), a.header)
	if err != nil {
		return forkOther
	}
	for _, e := range slices.Concat(a.header.Ledger[:], slots) {
		if e.Kind == agent.LedgerFree {
			continue
		}
		if have, err := mem.U64(m, mem.Addr(e.Address)); err == nil && have == e.Old {
			return forkPartial
		}
	}
	return forkTracked
}

// attachChild is [Attach] for a process below one that is tracked. What came to it by a fork in the midst of the attach
// to that one has no code, or not all of its hooks: it is taken out before.
func attachChild(ctx context.Context, pid int, o AttachOptions) (*Attachment, error) {
	p, err := proc.Open(pid)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if forkedWell(p) == forkPartial {
		if _, err := Repair(ctx, pid); err != nil && !errors.Is(err, ErrNotTracked) {
			return nil, err
		}
	}
	return Attach(ctx, pid, o)
}

// sharesMemory reports whether a process still uses the memory of the one that it comes from: a vfork's child that has
// not executed its program. What is found in it is its parent's. Where the kernel does not tell (kcmp(2)), it does not.
func sharesMemory(pid, parent int) bool {
	const kcmpVM = 1
	differ, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid), uintptr(parent), kcmpVM, 0, 0, 0)
	return errno == 0 && differ == 0
}

// notFollowed says of a forked child that has its parent's tables what is seen of it.
func notFollowed(a *placed) string {
	switch {
	case a.whose == agent.TablesLeft:
		return "anything: there was no room for tables of its own, or a detach was cut short"
	case a.header.Config.Follow != 0 && a.header.State == agent.StateTracking:
		return "anything yet: it has not allocated since the fork, and is tracked from its next allocation on"
	}
	return "anything: its parent was attached to without --follow, or has been detached from"
}
