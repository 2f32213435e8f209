package profiler

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/inject"
	"github.com/heaptap/heaptap/internal/fault"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// Detach ends tracking: it puts back every hooked word that still holds ours, and unmaps the agent once no thread is in
// it. Where something in the target still points to the agent (another tool wrapped our hooks), the agent stays as a
// pass-through, and the result says so.
func Detach(ctx context.Context, pid int) (*Detachment, error) {
	t, err := openLocked(ctx, pid)
	if err != nil {
		return nil, err
	}
	defer t.close()
	a, err := t.tracked()
	if err != nil {
		return nil, err
	}
	return t.remove(ctx, a)
}

// Repair takes out whatever heaptap left in the process: agents of attaches and detaches that were cut short, and
// pass-throughs that nothing needs any more. It also ends tracking.
func Repair(ctx context.Context, pid int) (*Detachment, error) {
	t, err := openLocked(ctx, pid)
	if err != nil {
		return nil, err
	}
	defer t.close()
	all, err := t.locate()
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("process %d: %w", pid, ErrNotTracked)
	}
	sum := &Detachment{Unmapped: true}
	ordered, err := t.frontFirst(all)
	if err != nil {
		return nil, err
	}
	for _, a := range ordered {
		if a.err != nil {
			return nil, a.err
		}
		d, err := t.remove(ctx, a)
		if err != nil {
			return nil, err
		}
		sum.Restored += d.Restored
		sum.Slots += d.Slots
		sum.Foreign = append(sum.Foreign, d.Foreign...)
		sum.Pause = max(sum.Pause, d.Pause)
		if !d.Unmapped {
			sum.Unmapped, sum.Why = false, d.Why
		}
	}
	return sum, nil
}

// frontFirst orders agents so that one that calls another, since it was placed while the other was there, comes before
// it.
func (t *target) frontFirst(all []*placed) ([]*placed, error) {
	var ordered []*placed
	for rest := slices.Clone(all); len(rest) > 0; {
		front := 0
		for i, a := range rest {
			called, err := t.isCalled(a, rest)
			if err != nil {
				return nil, err
			}
			if !called {
				front = i
				break
			}
		}
		ordered = append(ordered, rest[front])
		rest = slices.Delete(rest, front, front+1)
	}
	return ordered, nil
}

// isCalled reports whether another agent passes calls on to a: in place of an allocator or a signal's handler, of a native
// function, or as what it would put back into a slot that it has hooked.
func (t *target) isCalled(a *placed, all []*placed) (bool, error) {
	from, to := a.text()
	in := func(v uint64) bool { return mem.Addr(v) >= from && mem.Addr(v) < to }
	for _, other := range all {
		if other.image == a.image || other.header == nil || other.err != nil {
			continue
		}
		if in(uint64(other.chains)) || slices.ContainsFunc(other.header.Ledger[:], func(e agent.Ledger) bool {
			return e.Kind != agent.LedgerFree && in(e.Old)
		}) {
			return true, nil
		}
		for f := range other.header.Native {
			if slices.ContainsFunc(other.header.Native[f][:], in) {
				return true, nil
			}
		}
		slots, err := agent.ReadSlots(t.mem, other.tablesAt(), other.header)
		if err != nil {
			return false, err
		}
		for _, e := range slots {
			if e.Kind != agent.LedgerSlot || !in(e.Old) {
				continue
			}
			if have, err := mem.U64(t.mem, mem.Addr(e.Address)); err == nil && have == e.New {
				return true, nil
			}
		}
	}
	return false, nil
}

// remove takes one agent out of the target.
func (t *target) remove(ctx context.Context, a *placed) (*Detachment, error) {
	d := &Detachment{}
	// A forked child shares its parent's tables: they are not its to write.
	own := a.header != nil && !a.forked
	if a.header != nil && a.forked {
		var err error
		if own, err = t.keepInherited(a); err != nil {
			return nil, err
		}
	}
	stays := func(why string) (*Detachment, error) {
		d.Why = why
		if own {
			return d, writeState(t.mem, a.image, agent.StatePassive)
		}
		return d, nil
	}
	if a.header != nil {
		if own {
			if err := writeState(t.mem, a.image, agent.StateUnhooking); err != nil {
				return nil, err
			}
		}
		fault.Point("detach/begun")
		// First, so that the agent hooks no module that is loaded meanwhile. What the hooks that are still in place are
		// asked for they pass on.
		if err := mem.PutU64(t.mem, a.flagAt(), 0); err != nil && own {
			return nil, err
		}
		fault.Point("detach/inactive")
		if err := t.dropOutlet(ctx, a, d); err != nil {
			return nil, err
		}
		if err := t.unhook(a, d); err != nil {
			return nil, err
		}
	}
	all, err := t.locate()
	if err != nil {
		return nil, err
	}
	if called, err := t.isCalled(a, all); err != nil {
		return nil, err
	} else if called {
		return stays("another agent of heaptap still points to the agent")
	}
	if len(d.Foreign) > 0 {
		user, err := t.pointsInto(a)
		if err != nil {
			return nil, err
		}
		if user != "" {
			return stays(user + " still points to the agent")
		}
	}
	if a.state() == Incomplete {
		if err := t.closeLeft(ctx); err != nil {
			return nil, err
		}
	}
	why, err := t.sweep(ctx, a, d)
	if err != nil {
		return nil, err
	}
	if why != "" {
		return stays(why)
	}
	d.Unmapped = true
	return d, t.verifyGone(a)
}

// keepInherited makes sure that a forked child which has its parent's tables makes no fresh ones from now on. Where it
// just has, they are its own, and a is told so.
func (t *target) keepInherited(a *placed) (own bool, err error) {
	at := a.flagAt() + agent.FlagTablesOffset
	whose, err := mem.U64(t.mem, at)
	if err != nil {
		return false, err
	}
	if whose != agent.TablesOwn {
		if err := mem.PutU64(t.mem, at, agent.TablesLeft); err != nil {
			return false, err
		}
	}
	flag, err := agent.ReadFlag(t.mem, a.flagAt())
	if err != nil || flag.Active == 0 {
		return false, err
	}
	if a.header, err = agent.ReadHeader(t.mem, a.tablesAt()); err != nil {
		return false, err
	}
	a.forked, a.whose, a.active = false, agent.TablesOwn, true
	return true, mem.PutU64(t.mem, at, agent.TablesOwn)
}

// unhook puts back the hooked words.
func (t *target) unhook(a *placed, d *Detachment) error {
	all, err := t.locate()
	if err != nil {
		return err
	}
	ours := func(v uint64) bool {
		return slices.ContainsFunc(all, func(o *placed) bool { return o.contains(mem.Addr(v)) })
	}
	for _, e := range a.header.Ledger {
		if e.Kind == agent.LedgerFree {
			continue
		}
		w := inject.Word{Addr: mem.Addr(e.Address), Old: e.Old, New: e.New}
		have, err := mem.U64(t.mem, w.Addr)
		if err != nil {
			return fmt.Errorf("unhook: %w", err)
		}
		var changed *inject.ChangedError
		err = w.Restore(t.mem)
		switch {
		case errors.As(err, &changed) && ours(changed.Have):
			// Another agent's, whose own removal takes it out.
		case errors.As(err, &changed):
			d.Foreign = append(d.Foreign, fmt.Sprintf("%s holds %#x, which heaptap did not put there; left alone", hookName(e), changed.Have))
		case err != nil:
			return fmt.Errorf("unhook: %w", err)
		case have == e.New:
			d.Restored++
		}
		fault.Point("detach/unhooked")
	}
	return t.unhookSlots(a, d)
}

func hookName(e agent.Ledger) string {
	d, f := int(e.What>>8), int(e.What&0xff)
	if d >= agent.PythonDomains || f >= agent.Functions {
		return fmt.Sprintf("word at %#x", e.Address)
	}
	return "allocator " + agent.DomainNames[d] + "." + agent.FunctionNames[f]
}

func (a *placed) contains(at mem.Addr) bool { return at >= a.image && at < a.image+mem.Addr(a.size) }

// text is the range of the agent's code.
func (a *placed) text() (from, to mem.Addr) { return a.image, a.image + agent.FlagOffset }

// pointsInto looks for words that lead into the agent where somebody has taken the place of hooks, and names what has the
// first one: what was there before may be kept anywhere in private memory.
func (t *target) pointsInto(a *placed) (string, error) {
	modules, err := dso.Modules(t.proc, t.mem)
	if err != nil {
		return "", err
	}
	maps, err := t.proc.Maps()
	if err != nil {
		return "", err
	}
	f := a.finder(nil, 0)
	for _, mp := range maps {
		if !mp.Write || mp.Shared || a.contains(mp.Start) || mp.Path == "[stack]" {
			continue
		}
		for at := range t.find(f, mp) {
			if at%8 == 0 {
				return wordOf(modules, mp, at), nil
			}
		}
	}
	return "", nil
}

// moduleIn is the path of the loaded module to which a mapping belongs, or "".
func moduleIn(modules []*dso.Module, mp proc.Mapping) string {
	for _, m := range modules {
		if mp.End > m.Start && mp.Start < m.End {
			return m.Path
		}
	}
	return ""
}

// readable fills b from a on as far as memory can be read there, and returns what it filled. A stack can end within its
// mapping, at the guard pages of the stack above it (MADV_GUARD_INSTALL, Linux 6.13, in glibc since 2.42): they belong to
// no thread's live frames and cannot be read.
func readable(m mem.Reader, b []byte, a mem.Addr) ([]byte, error) {
	err := m.ReadAt(b, a)
	var fault *mem.Fault
	if errors.As(err, &fault) && (errors.Is(err, unix.EIO) || errors.Is(err, unix.EFAULT)) {
		return b[:fault.Addr-a], nil
	}
	return b, err
}

func mappingAt(maps []proc.Mapping, a mem.Addr) (proc.Mapping, bool) {
	for _, m := range maps {
		if m.Contains(a) {
			return m, true
		}
	}
	return proc.Mapping{}, false
}

// verifyGone checks that nothing is mapped where the agent was. Something new of the target's own may be there.
func (t *target) verifyGone(a *placed) error {
	left, err := t.locate()
	if err != nil {
		return err
	}
	for _, l := range left {
		if l.image == a.image {
			return &RestoreError{Pid: t.proc.Pid, What: "the agent is still mapped", Err: errors.New("munmap had no effect")}
		}
	}
	return nil
}
