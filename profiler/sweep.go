package profiler

import (
	"context"
	"errors"
	"fmt"
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

// sweep is the end of a detach: nothing in the target may lead to the agent when it is unmapped.
//
// A program that takes malloc's address from a slot may keep it anywhere: what tracemalloc saved, a table of functions, a
// list of what is to be done at exit, a register of a loop that sleeps. To the program the hook and its original are the same
// function, so that each such copy is put back. Memory is searched while the target runs, since that takes long;
// what was found is changed while it stands still, where registers and stacks are looked at as well, which change all the
// time. A copy may be moved while the others are searched. So a round in which something was found is followed by
// another, and the agent is unmapped in the first stop of one in which nothing was.
//
// Some copies cannot be changed: one at an odd address or within code may be something else, and what lies in shared memory
// is not the target's alone. Then the agent stays.
type sweep struct {
	t         *target
	a         *placed
	originals map[uint64]uint64 // by their hooks
	finder    *finder
	looks     uint64        // the agent's looks for modules when slots were last put back
	copies    []inject.Word // found in memory
	fixed     []fixedWord   // found there, and not to be changed
	fresh     bool          // it is the first stop since then
}

// fixedWord is a word that leads into the agent.
type fixedWord struct {
	at    mem.Addr
	value uint64
	where string
}

// outcome is what came of a stop: nothing of these, where there must be another round.
type outcome struct {
	unmapped bool
	stays    string // why the agent cannot be unmapped
	busy     string // why not at this instant
}

const (
	sweepRounds = 32                    // of looking for what leads to the agent: a program may copy a hook while we look
	unmapTries  = 40                    // looks for an instant at which no thread is in the agent
	unmapWait   = 25 * time.Millisecond // between them
	scanStack   = 1 << 20               // bytes of each stack that are searched
	copiesMost  = 1024                  // that are changed in one stop
	redZone     = 128                   // bytes below the stack pointer that a function may use (System V ABI)
)

const (
	inAllocator = "a thread stayed inside an allocator"
	noThread    = "no thread could be stopped"
)

// sweep unmaps the agent; otherwise it returns why it stays.
func (t *target) sweep(ctx context.Context, a *placed, d *Detachment) (why string, err error) {
	plan, err := call.Prepare(t.proc, call.Options{})
	if err != nil {
		return "", err
	}
	s := &sweep{t: t, a: a}
	for tries, round := 0, 0; round < sweepRounds; round++ {
		if err := s.search(d); err != nil {
			return "", err
		}
		fault.Point("detach/searched")
		s.fresh = true
		for more := true; more; s.fresh = false {
			var out outcome
			report, err := plan.BorrowAll(ctx, func(on *call.Session, threads []call.StoppedThread) (err error) {
				out, err = s.stopped(on, threads)
				return err
			})
			d.Pause = max(d.Pause, report.Pause)
			switch {
			case errors.Is(err, call.ErrNoThread):
				out.busy = noThread
			case err != nil || out.unmapped || out.stays != "":
				return out.stays, err
			}
			switch {
			case out.busy != "" && tries == unmapTries:
				return out.busy, nil
			case out.busy == "":
				more = len(s.copies) > 0
			default:
				tries++
				if err := pause(ctx, unmapWait); err != nil {
					return "", err
				}
			}
		}
	}
	return "the program goes on copying what still points to the agent", nil
}

// search looks for what leads to the agent, while the target runs.
func (s *sweep) search(d *Detachment) error {
	t, a := s.t, s.a
	if a.header != nil {
		now, err := agent.ReadHeader(t.mem, a.tablesAt())
		if err != nil {
			return err
		}
		// A look that is going on at this moment counts as one to come.
		if s.looks = now.ModulesLooks; now.ModulesLock != 0 {
			s.looks--
		}
		a.header = now
		if err := t.unhookSlots(a, d); err != nil {
			return err
		}
	}
	s.originals = originalsOf(a)
	guard, err := t.pointerGuard()
	if err != nil {
		return err
	}
	s.finder = a.finder(s.originals, guard)
	s.copies, s.fixed = nil, nil
	modules, err := dso.Modules(t.proc, t.mem)
	if err != nil {
		return err
	}
	maps, err := t.proc.Maps()
	if err != nil {
		return err
	}
	for _, mp := range maps {
		if a.contains(mp.Start) || !searchable(mp) {
			continue
		}
		for at, v := range t.find(s.finder, mp) {
			s.found(modules, mp, at, v)
		}
	}
	return nil
}

// found sorts what leads to the agent. What is no hook's address is a return address that an earlier call left behind in a
// stack, but for what a module has in its data.
func (s *sweep) found(modules []*dso.Module, mp proc.Mapping, at mem.Addr, v uint64) {
	original, hook := s.finder.values[v]
	aligned := at%8 == 0
	switch {
	case hook && aligned && !mp.Shared && (!mp.Exec || mp.Path == "[stack]" || mp.Path == "[heap]"):
		s.copies = append(s.copies, inject.Word{Addr: at, Old: original, New: v})
	case hook, aligned && mp.Write && !mp.Shared && inModule(modules, at):
		s.fixed = append(s.fixed, fixedWord{at, v, wordOf(modules, mp, at)})
	}
}

// inModule: the kernel makes one mapping of a module's data and of memory that comes to lie behind it, such as a stack.
func inModule(modules []*dso.Module, at mem.Addr) bool {
	for _, m := range modules {
		if m.Contains(at) {
			return true
		}
	}
	return false
}

// originalsOf are the functions that hooks stand in front of, by the hooks' addresses.
func originalsOf(a *placed) map[uint64]uint64 {
	originals := map[uint64]uint64{}
	if a.header == nil {
		return originals
	}
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

// pointerGuard is what glibc mangles pointers with: the second half of the kernel's random bytes
// (_dl_setup_pointer_guard in sysdeps/unix/sysv/linux/dl-osinfo.h). 0: not known.
func (t *target) pointerGuard() (uint64, error) {
	id, err := t.proc.Identity()
	if err != nil || id.Random == 0 {
		return 0, err
	}
	return mem.U64(t.mem, mem.Addr(id.Random)+8)
}

// stopped does what is to be done while all threads stand still: it changes what was found, and looks at what changes all
// the time; where there was nothing, it unmaps the agent.
func (s *sweep) stopped(on *call.Session, threads []call.StoppedThread) (outcome, error) {
	if busy, err := s.inUse(threads); busy != "" || err != nil {
		return outcome{busy: busy}, err
	}
	for _, w := range s.fixed {
		if v, err := mem.U64(s.t.mem, w.at); err == nil && v == w.value {
			return outcome{stays: w.where + " still points to the agent"}, nil
		}
	}
	live, busy, err := s.live(threads)
	if busy != "" || err != nil {
		return outcome{busy: busy}, err
	}
	changed := len(live)+len(s.copies) > 0 || !s.fresh
	if err := s.restore(live); err != nil {
		return outcome{}, err
	}
	if n := min(len(s.copies), copiesMost); n > 0 {
		if err := s.restore(s.copies[:n]); err != nil {
			return outcome{}, err
		}
		s.copies = s.copies[n:]
	}
	for _, th := range threads {
		did, err := on.Substitute(th.Tid, s.originals)
		if err != nil {
			return outcome{}, err
		}
		changed = changed || did
	}
	if s.a.header != nil && !s.a.forked {
		now, err := agent.ReadHeader(s.t.mem, s.a.tablesAt())
		if err != nil {
			return outcome{}, err
		}
		changed = changed || now.ModulesLooks != s.looks
	}
	if changed {
		return outcome{}, nil
	}
	if shared, err := s.t.memoryIsShared(); err != nil || shared {
		return outcome{busy: "another process uses the memory, such as a child by vfork that has not executed its program"}, err
	}
	fault.Point("detach/quiet")
	if _, err := on.Syscall(unix.SYS_MUNMAP, uint64(s.a.image), s.a.size); err != nil {
		return outcome{}, fmt.Errorf("unmap the agent: %w", err)
	}
	fault.Point("detach/unmapped")
	return outcome{unmapped: true}, nil
}

// inUse reports whether the agent's own records say that a thread is in it. A child's hooks call nothing, and the records
// are its parent's.
func (s *sweep) inUse(threads []call.StoppedThread) (busy string, err error) {
	if s.a.header == nil || s.a.forked {
		return "", nil
	}
	now, err := agent.ReadHeader(s.t.mem, s.a.tablesAt())
	if err != nil {
		return "", err
	}
	if now.ModulesLock != 0 {
		return inAllocator, nil
	}
	records, err := agent.ReadThreads(s.t.mem, s.a.tablesAt(), now)
	if err != nil {
		return "", err
	}
	for i := range records {
		if records[i].Depth == 0 {
			continue
		}
		gone, err := s.hasLeft(&records[i], threads)
		if err != nil {
			return "", err
		}
		if !gone {
			return inAllocator, nil
		}
	}
	return "", nil
}

// hasLeft reports whether the thread of a record has certainly left the call that it was in, and not by its return: the hook
// that made the call, whose frame Depth is, has not taken note of it. Nobody writes over a return address while its frame
// is there. (The agent asks the same: agent/src/depth.h.)
func (s *sweep) hasLeft(record *agent.Thread, threads []call.StoppedThread) (bool, error) {
	ended := true
	for i := range threads {
		tp := threads[i].Regs.ThreadPointer()
		ended = ended && tp != 0 && tp != mem.Addr(record.Pointer) // 0: it is held, or nobody knows
	}
	if ended {
		return true, nil
	}
	back, err := mem.U64(s.t.mem, mem.Addr(record.Depth)+8)
	var gone *mem.Fault
	if errors.As(err, &gone) {
		return true, nil
	}
	return back != record.DepthBack, err
}

// live looks at the threads. One may be in the agent's code, or will return to it: the agent calls out only with its
// thread's depth set, so that a return address on a stack says nothing (it is what an earlier call left in an unused
// slot), but for that in a handler of ours to another's; and a signal handler that interrupted the agent has its program
// counter in a signal frame. Nobody but the agent itself jumps to other addresses of it than the hooks' own: what else a
// register holds was left there by it. It returns the hooks' addresses on the stacks.
func (s *sweep) live(threads []call.StoppedThread) (words []inject.Word, busy string, err error) {
	from, to := s.a.text()
	chained, err := s.t.chained(s.a)
	if err != nil {
		return nil, "", err
	}
	maps, err := s.t.proc.Maps()
	if err != nil {
		return nil, "", err
	}
	buf := make([]byte, scanStack)
	for _, th := range threads {
		switch {
		case th.PC >= from && th.PC < to:
			return nil, inAllocator, nil
		case th.Held:
			return nil, fmt.Sprintf("thread %d sleeps uninterruptibly, and may hold what points to the agent", th.Tid), nil
		}
		stack, ok := mappingAt(maps, th.SP)
		if !ok {
			continue // a thread without a stack has nowhere to return to
		}
		var b []byte
		low := max(th.SP-min(th.SP, redZone), stack.Start) &^ 7
		for _, low = range []mem.Addr{low, th.SP &^ 7} { // below may be a guard page
			b, err = readable(s.t.mem, buf[:min(uint64(stack.End-low), scanStack)], low)
			if err != nil {
				return nil, "", err
			}
			if len(b) > 0 {
				break
			}
		}
		for i, v := range s.finder.each(b) {
			at := low + mem.Addr(i)
			if at%8 != 0 {
				continue
			}
			if s.finder.leads(v) && at >= th.SP && (mem.Addr(v) == chained || call.IsSavedPC(s.t.mem, at)) {
				return nil, inAllocator, nil
			}
			if original, ok := s.finder.values[v]; ok {
				words = append(words, inject.Word{Addr: at, Old: original, New: v})
			}
		}
	}
	return words, "", nil
}

// restore puts originals in the place of hooks' addresses, where these still are.
func (s *sweep) restore(words []inject.Word) error {
	for _, w := range words {
		var changed *inject.ChangedError
		var gone *mem.Fault
		if err := w.Restore(s.t.mem); err != nil && !errors.As(err, &changed) && !errors.As(err, &gone) {
			return fmt.Errorf("put back a copy of a hook: %w", err)
		}
	}
	return nil
}

// memoryIsShared reports whether another process uses the target's memory: a child by vfork, which does not stop when the
// target's threads do, or a parent whose such child the target is.
func (t *target) memoryIsShared() (bool, error) {
	others, err := t.proc.Children()
	if err != nil {
		return false, err
	}
	if st, err := t.proc.Stat(t.proc.Pid); err == nil && st.Ppid != 0 {
		others = append(others, st.Ppid)
	}
	for _, pid := range others {
		if sharesMemory(pid, t.proc.Pid) {
			return true, nil
		}
	}
	return false, nil
}
