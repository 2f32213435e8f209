package profiler

import (
	"context"
	"fmt"
	"time"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
)

// ReadStatus tells what is tracked in the process, from the agent's tables. The target is not stopped; the numbers of
// several threads are read one after another, and so may be off by what is allocated meanwhile.
func ReadStatus(ctx context.Context, pid int) (*Status, error) {
	t, err := open(pid)
	if err != nil {
		return nil, err
	}
	defer t.close()
	a, err := t.tracked()
	if err != nil {
		return nil, err
	}
	s := &Status{Pid: pid, State: a.state(), AgentReserved: a.size}
	if a.header == nil {
		s.NotSeen = append(s.NotSeen, "the agent was mapped but nothing was hooked: an attach was cut short")
		return s, nil
	}
	h := a.header
	image, err := agent.Image()
	if err != nil {
		return nil, err
	}
	s.Python = pythonOf(h)
	s.Since = time.Unix(0, int64(h.Started))
	s.SampleBytes = h.Config.SampleBytes
	s.AgentText = uint64(len(image.Text))
	if s.State == Forked { // the numbers are another process's
		s.Since, s.NotSeen = time.Time{}, []string{notFollowed(a)}
		return s, nil
	}
	s.CodeObjects = used(h.Codes, agent.CodeFirst)
	s.Lost = h.LostThreads
	s.Follows, s.Followed, s.NotFollowed, s.Parent = h.Config.Follow != 0, h.Followed, h.NotFollowed, int(h.Parent)
	uses, err := t.uses()
	if err != nil {
		return nil, err
	}
	s.AgentTables = useOf(uses, a.tables)
	if s.State == Tracking {
		if s.Resident, err = t.noteResident(a); err != nil {
			return nil, err
		}
		if s.OnSignal, err = t.outletStatus(ctx, a); err != nil {
			return nil, err
		}
		if s.Memory, err = t.memoryNow(a, uses); err != nil {
			s.NotSeen = append(s.NotSeen, fmt.Sprintf("what the process's memory is made of: %v", err))
		} else {
			s.Resident = s.Memory.RSS
		}
	}
	s.PeakBytes = h.PeakBytes >> sampleShift(h)
	threads, err := agent.ReadThreads(t.mem, a.tablesAt(), h)
	if err != nil {
		return nil, err
	}
	for i := range threads {
		th := &threads[i]
		if th.Pointer == 0 {
			continue
		}
		s.Threads++
		s.Stacks += uint64(th.NodeCount)
		s.UnseenFrees += th.UnseenFrees
		s.Lost += th.Lost
	}
	for d := range hookedDomains(h) {
		s.Totals = append(s.Totals, totals(h, threads, d))
	}
	if err := t.checkHooks(a, s); err != nil {
		return nil, err
	}
	s.NotSeen = append(s.NotSeen, notSeen(h, s)...)
	if h.HasNative != 0 {
		modules, err := dso.Modules(t.proc, t.mem)
		if err != nil {
			return nil, err
		}
		s.NotSeen = append(s.NotSeen, unseenAllocators(modules, func(m *dso.Module) bool {
			return uint64(m.Start) == h.Python.ModuleBase
		})...)
	}
	return s, nil
}

// used is how many entries of a window are taken, when `first` are never used.
func used(w agent.Window, first uint64) uint64 { return max(min(w.Next, w.Entries), first) - first }

// hookedDomains yields the domains in the ledger.
func hookedDomains(h *agent.Tables) func(func(Domain) bool) {
	var hooked [NumDomains]bool
	for _, e := range h.Ledger {
		if d := e.What >> 8; e.Kind == agent.LedgerAllocator && d < uint32(PythonDomains) {
			hooked[d] = true
		}
	}
	hooked[Malloc] = h.HasNative != 0
	hooked[Mmap], hooked[File] = h.HasMapped != 0, h.HasMapped != 0
	return func(yield func(Domain) bool) {
		for d, is := range hooked {
			if is && !yield(Domain(d)) {
				return
			}
		}
	}
}

func totals(h *agent.Tables, threads []agent.Thread, d Domain) Totals {
	sum := Totals{Domain: d}
	for i := range threads {
		c := &threads[i].Count[d]
		sum.AllocBlocks += c.AllocBlocks
		sum.AllocBytes += c.AllocBytes
		sum.FreedBlocks += c.FreedBlocks
		sum.FreedBytes += c.FreedBytes
	}
	for _, v := range []*uint64{&sum.AllocBlocks, &sum.AllocBytes, &sum.FreedBlocks, &sum.FreedBytes} {
		*v >>= sampleShift(h)
	}
	// Threads are read one after another: a block may be seen freed and not yet seen allocated.
	sum.LiveBlocks = sum.AllocBlocks - min(sum.AllocBlocks, sum.FreedBlocks)
	sum.LiveBytes = sum.AllocBytes - min(sum.AllocBytes, sum.FreedBytes)
	return sum
}

// checkHooks compares the hooked words with the ledger.
func (t *target) checkHooks(a *placed, s *Status) error {
	if s.State != Tracking {
		return nil
	}
	for _, e := range a.header.Ledger {
		if e.Kind == agent.LedgerFree {
			continue
		}
		have, err := mem.U64(t.mem, mem.Addr(e.Address))
		if err != nil {
			return err
		}
		if have != e.New {
			s.State = Displaced
			s.NotSeen = append(s.NotSeen, fmt.Sprintf(
				"%s was changed by somebody else (tracemalloc, for one, does so when it starts or stops): what does not pass it on is not seen", hookName(e)))
		}
	}
	return nil
}

// notSeen says what tracking does not see, beyond what a displaced hook hides.
func notSeen(h *agent.Tables, s *Status) []string {
	before := "blocks allocated before the attach"
	if h.Parent != 0 {
		before = fmt.Sprintf("blocks from before the fork, which belong to the process that it was forked from (%d)", h.Parent)
	}
	list := []string{
		before,
		"reuse of objects that the interpreter keeps on free lists: they stay where they were first allocated",
	}
	if h.HasNative == 0 || h.HasMapped == 0 {
		list = append(list, "memory that does not come from Python's allocators: malloc and mmap of C code, arenas' unused parts")
	}
	if h.SlotsMissed > 0 {
		list = append(list, fmt.Sprintf("calls through %d slots of malloc, mmap and their like, which could not be hooked", h.SlotsMissed))
	}
	if h.Filtered != 0 {
		list = append(list, "malloc and mmap of modules loaded since the process set itself a seccomp filter, and the names of threads started since")
	}
	if h.Config.Follow != 0 {
		list = append(list, "children that execute a program: a Python among them is attached to while `heaptap attach --follow` runs")
	} else {
		list = append(list, "children: `heaptap attach --follow` tracks them too")
	}
	if h.Config.SampleBytes != 0 {
		list = append(list, fmt.Sprintf("individual blocks: one is recorded for about %d bytes allocated, and numbers are estimates", h.Config.SampleBytes))
	}
	if s.Lost > 0 {
		list = append(list, fmt.Sprintf("%d allocations: a table was full", s.Lost))
	}
	if h.Config.Clock == 0 {
		list = append(list, "ages: the process has no vDSO clock")
	}
	return list
}
