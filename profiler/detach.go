package profiler

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/call"
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
	for _, a := range frontFirst(all) {
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
func frontFirst(all []*placed) []*placed {
	var ordered []*placed
	for rest := slices.Clone(all); len(rest) > 0; {
		i := max(slices.IndexFunc(rest, func(a *placed) bool { return calledBy(a, rest) == nil }), 0)
		ordered = append(ordered, rest[i])
		rest = slices.Delete(rest, i, i+1)
	}
	return ordered
}

// calledBy returns another agent that passes calls on to a, or nil.
func calledBy(a *placed, all []*placed) *placed {
	from, to := a.text()
	for _, other := range all {
		if other.image == a.image || other.header == nil {
			continue
		}
		if other.chains >= from && other.chains < to {
			return other
		}
		for _, e := range other.header.Ledger {
			if old := mem.Addr(e.Old); e.Kind != agent.LedgerFree && old >= from && old < to {
				return other
			}
		}
	}
	return nil
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
	if a.header != nil {
		if own {
			if err := writeState(t.mem, a.image, agent.StateUnhooking); err != nil {
				return nil, err
			}
		}
		fault.Point("detach/begun")
		if err := t.dropOutlet(ctx, a, d); err != nil {
			return nil, err
		}
		if err := t.unhook(a, d); err != nil {
			return nil, err
		}
		if err := mem.PutU64(t.mem, a.flagAt(), 0); err != nil && own {
			return nil, err
		}
		fault.Point("detach/inactive")
	}
	stays := func(why string) (*Detachment, error) {
		d.Why = why
		if own {
			return d, writeState(t.mem, a.image, agent.StatePassive)
		}
		return d, nil
	}
	if a.header != nil && len(d.Foreign) == 0 {
		if err := t.clearCopies(ctx, a, d); err != nil {
			return nil, err
		}
	}
	user, err := t.pointsInto(a, len(d.Foreign) > 0)
	if err != nil {
		return nil, err
	}
	if user != "" {
		return stays(user + " still points to the agent")
	}
	if a.state() == Incomplete {
		if err := t.closeLeft(ctx); err != nil {
			return nil, err
		}
	}
	quiet, err := t.unmap(ctx, a, d)
	if err != nil {
		return nil, err
	}
	if !quiet {
		return stays("a thread stayed inside an allocator")
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

// clearRounds is how often copies of hooks are looked for: a program may copy one while we look.
const clearRounds = 4

// clearCopies puts originals in the place of hooks that the target has copied, when nobody stands in front of the hooks any
// more: what tracemalloc saved when it was started keeps standing in the interpreter's data after it was stopped, and a
// program that takes malloc's address from a slot may keep it anywhere. The two are the same function to the target. The
// words are changed while all of it stands still.
func (t *target) clearCopies(ctx context.Context, a *placed, d *Detachment) error {
	originals := originalsOf(a)
	for range clearRounds {
		copies, err := t.copies(a, originals)
		if err != nil || len(copies) == 0 {
			return err
		}
		plan, err := call.Prepare(t.proc, call.Options{})
		if err != nil {
			return err
		}
		report, err := plan.BorrowAll(ctx, func(*call.Session, []call.StoppedThread) error {
			for _, w := range copies {
				var changed *inject.ChangedError
				var gone *mem.Fault
				if err := w.Restore(t.mem); err != nil && !errors.As(err, &changed) && !errors.As(err, &gone) {
					return fmt.Errorf("put back a copy of a hook: %w", err)
				}
			}
			return nil
		})
		d.Pause = max(d.Pause, report.Pause)
		if err != nil {
			return err
		}
		fault.Point("detach/copies")
	}
	return nil
}

// originalsOf are the functions that hooks stand in front of, by the hooks' addresses.
func originalsOf(a *placed) map[uint64]uint64 {
	originals := map[uint64]uint64{}
	for _, e := range a.header.Ledger {
		if e.Kind != agent.LedgerFree {
			originals[e.New] = e.Old
		}
	}
	for f := range a.header.Stubs {
		for v, stub := range a.header.Stubs[f] {
			if original := a.header.Native[f][v]; original != 0 {
				originals[stub] = original
			}
		}
	}
	return originals
}

// copies finds words that hold a hook's address: in the interpreter's own data, and where slots were hooked in all private
// memory.
func (t *target) copies(a *placed, originals map[uint64]uint64) ([]inject.Word, error) {
	modules, err := dso.Modules(t.proc, t.mem)
	if err != nil {
		return nil, err
	}
	modules = slices.DeleteFunc(modules, func(m *dso.Module) bool { return uint64(m.Start) != a.header.Python.ModuleBase })
	maps, err := t.proc.Maps()
	if err != nil {
		return nil, err
	}
	everywhere := a.header.HasNative != 0 || a.header.HasMapped != 0
	var found []inject.Word
	for _, mp := range maps {
		if !mp.Write || mp.Shared || a.contains(mp.Start) || !everywhere && moduleIn(modules, mp) == "" {
			continue
		}
		for at, v := range t.pointers(a, mp) {
			if old, ok := originals[v]; ok {
				found = append(found, inject.Word{Addr: at, Old: old, New: v})
			}
		}
	}
	return found, nil
}

// pointers yields the aligned words of a mapping that lead into the agent. What cannot be read has been unmapped
// meanwhile, and holds none.
func (t *target) pointers(a *placed, mp proc.Mapping) iter.Seq2[mem.Addr, uint64] {
	from, to := a.text()
	return func(yield func(at mem.Addr, v uint64) bool) {
		buf := make([]byte, min(mp.Size(), scanChunk))
		for base := mp.Start; base < mp.End; base += scanChunk {
			b := buf[:min(uint64(mp.End-base), scanChunk)]
			if err := t.mem.ReadAt(b, base); err != nil {
				continue
			}
			for i := findWord(b, 0, from, to); i >= 0; i = findWord(b, i+8, from, to) {
				if !yield(base+mem.Addr(i), binary.LittleEndian.Uint64(b[i:])) {
					return
				}
			}
		}
	}
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

// pointsInto looks for words that lead into the agent, and names what has the first one: another agent that was placed
// in front of it, or the writable data of a loaded module, where other tools keep the allocators that they wrapped. When
// somebody has taken the place of hooks, all private memory is searched, since what was there before may be kept anywhere.
func (t *target) pointsInto(a *placed, everywhere bool) (string, error) {
	all, err := t.locate()
	if err != nil {
		return "", err
	}
	if calledBy(a, all) != nil {
		return "another agent of heaptap", nil
	}
	modules, err := dso.Modules(t.proc, t.mem)
	if err != nil {
		return "", err
	}
	maps, err := t.proc.Maps()
	if err != nil {
		return "", err
	}
	for _, mp := range maps {
		name := moduleIn(modules, mp)
		if !mp.Write || mp.Shared || a.contains(mp.Start) || mp.Path == "[stack]" || name == "" && !everywhere {
			continue
		}
		for at := range t.pointers(a, mp) {
			// The kernel makes one mapping of a module's data and of memory that comes to lie behind it, such as a stack.
			if !everywhere && !slices.ContainsFunc(modules, func(m *dso.Module) bool { return m.Contains(at) }) {
				continue
			}
			return fmt.Sprintf("a word of %s (at %v)", cmp.Or(name, mp.Path, "private memory"), at), nil
		}
	}
	return "", nil
}

// scanChunk is how much is read at once in search of a word.
const scanChunk = 1 << 20

// moduleIn is the path of the loaded module to which a mapping belongs, or "".
func moduleIn(modules []*dso.Module, mp proc.Mapping) string {
	for _, m := range modules {
		if mp.End > m.Start && mp.Start < m.End {
			return m.Path
		}
	}
	return ""
}

// findWord returns the offset in b, from start on, of the first aligned word whose value lies in [from, to), or -1.
func findWord(b []byte, start int, from, to mem.Addr) int {
	for i := start; i+8 <= len(b); i += 8 {
		if v := mem.Addr(binary.LittleEndian.Uint64(b[i:])); v >= from && v < to {
			return i
		}
	}
	return -1
}

const (
	unmapTries = 40                    // looks for an instant at which no thread is in the agent
	unmapWait  = 25 * time.Millisecond // between them
	scanStack  = 1 << 20               // bytes of each stack that are searched for return addresses
)

// unmap removes the agent's memory once no thread is in its code. It returns false when there was always one.
func (t *target) unmap(ctx context.Context, a *placed, d *Detachment) (bool, error) {
	plan, err := call.Prepare(t.proc, call.Options{})
	if err != nil {
		return false, err
	}
	for try := 0; ; try++ {
		quiet := false
		report, err := plan.BorrowAll(ctx, func(s *call.Session, threads []call.StoppedThread) error {
			var err error
			if quiet, err = t.quiet(a, threads); err != nil || !quiet {
				return err
			}
			fault.Point("detach/quiet")
			if _, err := s.Syscall(unix.SYS_MUNMAP, uint64(a.image), a.size); err != nil {
				return fmt.Errorf("unmap the agent: %w", err)
			}
			fault.Point("detach/unmapped")
			return nil
		})
		d.Pause = max(d.Pause, report.Pause)
		if err != nil || quiet {
			return quiet, err
		}
		if try == unmapTries {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(unmapWait):
		}
	}
}

// quiet reports whether no stopped thread is in the agent's code or will return to it. The agent calls out only with
// its thread's depth set, so that a return address on a stack matters only then (others are what earlier calls left in
// unused slots); and a signal handler that interrupted the agent has its program counter in a signal frame.
func (t *target) quiet(a *placed, threads []call.StoppedThread) (bool, error) {
	if a.header != nil && !a.forked { // a child's hooks call nothing, and the records are its parent's
		records, err := agent.ReadThreads(t.mem, a.tablesAt(), a.header)
		if err != nil {
			return false, err
		}
		for i := range records {
			if records[i].Depth != 0 {
				return false, nil
			}
		}
	}
	from, to := a.text()
	chained, err := t.chained(a)
	if err != nil {
		return false, err
	}
	maps, err := t.proc.Maps()
	if err != nil {
		return false, err
	}
	buf := make([]byte, scanStack)
	for _, th := range threads {
		if th.PC >= from && th.PC < to {
			return false, nil
		}
		// Code that has loaded a hook's address and is about to jump there is in no system call.
		if !th.Regs.InSyscall() && th.Regs.Holds(from, to) {
			return false, nil
		}
		stack, ok := mappingAt(maps, th.SP)
		if !ok {
			continue // a thread without a stack has nowhere to return to
		}
		sp := th.SP &^ 7
		b, err := readable(t.mem, buf[:min(uint64(stack.End-sp), scanStack)], sp)
		if err != nil {
			return false, err
		}
		for at := findWord(b, 0, from, to); at >= 0; at = findWord(b, at+8, from, to) {
			if mem.Addr(binary.LittleEndian.Uint64(b[at:])) == chained || call.IsSavedPC(t.mem, sp+mem.Addr(at)) {
				return false, nil
			}
		}
	}
	return true, nil
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
