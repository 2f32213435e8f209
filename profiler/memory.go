package profiler

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// Memory is what of a process is in memory (its resident set), and what that is made of, bytes. RSS is the exact sum of
// the eight parts below it.
type Memory struct {
	RSS uint64

	Tracked uint64 // live blocks that tracking knows
	// Beside is the rest of the memory that tracked blocks are or were in, and of what came since the attach: blocks that
	// are free, allocators' headers, what of the domains that are not tracked lies between.
	Beside      uint64
	FilesClean  uint64 // of files and modules, as it is in the file: code and constants
	FilesDirty  uint64 // of files and modules, written to: modules' variables, mostly
	Stacks      uint64 // of all threads
	Shared      uint64 // memory that is shared by other means than a file on a disk
	Heaptap     uint64 // the agent's code and tables
	Unexplained uint64 // from before the attach and not used by tracked blocks since, or of allocators that are not seen

	// Not parts of RSS.
	FilesShared uint64 // of the files' two: that other processes use as well
	Absent      uint64 // of tracked live bytes: not in memory, since never touched or swapped out
	Swapped     uint64 // of the whole process
	HeapGrowth  int64  // by how much the [heap] (brk) has grown since the attach, address space
}

// reckoning reconciles what is tracked with what is in memory.
type reckoning struct {
	memory  Memory
	granted []area // anonymous memory, in address order
	sample  float64
	pages   func(from, to mem.Addr) uint64 // bytes in memory between two page boundaries

	last int // area of the last block
}

// area is a mapping of anonymous memory.
type area struct {
	from, to mem.Addr
	rss      uint64
	shared   bool
	stack    bool          // of a thread: counted
	small    uint64        // bytes of tracked blocks that have no pages of their own to speak of
	large    []agent.Range // other tracked blocks
	seen     []agent.Range // where tracked blocks are or were, or that came since the attach
}

// largeBlock is the size from which it matters that a block's pages may never have been touched: allocators give it
// pages of its own.
const largeBlock = 32 << 10

// neighbourhood is what is known beside the mappings.
type neighbourhood struct {
	own     []agent.Range // heaptap's
	modules []agent.Range // loaded modules, their zeroed data included
	stacks  []mem.Addr    // an address in the stack of each thread but the first
	before  []agent.Range // private anonymous memory when tracking began
}

// anonymous reports whether a mapping is of no file: from malloc, mmap or brk.
func anonymous(m proc.Mapping) bool {
	return m.Inode == 0 && (m.Path == "" || m.Path == heapPath || strings.HasPrefix(m.Path, "[anon"))
}

const (
	heapPath  = "[heap]"
	stackPath = "[stack]"
)

// newReckoning sorts the mappings. leaves are where tracked blocks ever began.
func newReckoning(uses []proc.Use, n neighbourhood, leaves iter.Seq[agent.Range]) *reckoning {
	r := &reckoning{}
	var brk proc.Mapping
	for _, u := range uses {
		m := &r.memory
		m.RSS += u.Rss
		m.Swapped += u.Swap
		if u.Path == heapPath {
			brk = u.Mapping
		}
		switch {
		case meets(n.own, u.Mapping):
			m.Heaptap += u.Rss
		case u.Path == stackPath:
			m.Stacks += u.Rss
		case anonymous(u.Mapping) && u.Path != heapPath && meets(n.modules, u.Mapping):
			m.FilesDirty += u.Rss
		case anonymous(u.Mapping):
			r.granted = append(r.granted, area{from: u.Start, to: u.End, rss: u.Rss})
		case isSharedMemory(u.Mapping):
			r.granted = append(r.granted, area{from: u.Start, to: u.End, rss: u.Rss, shared: true})
		default:
			dirty := min(u.SharedDirty+u.PrivateDirty, u.Rss)
			m.FilesDirty += dirty
			m.FilesClean += u.Rss - dirty
			m.FilesShared += min(u.SharedClean+u.SharedDirty, u.Rss)
		}
	}
	for leaf := range leaves {
		if a := r.area(mem.Addr(leaf.Start)); a != nil {
			a.seen = append(a.seen, leaf)
		}
	}
	for _, sp := range n.stacks {
		// Where stacks and blocks share a mapping it cannot be told whose a page is.
		if a := r.area(sp); a != nil && !a.shared && len(a.seen) == 0 {
			if !a.stack {
				r.memory.Stacks += a.rss
			}
			a.stack = true
		}
	}
	r.since(n.before, brk)
	return r
}

// since adds to what is seen what was not there before tracking, and finds how much the heap has grown.
func (r *reckoning) since(before []agent.Range, brk proc.Mapping) {
	for i := range r.granted {
		a := &r.granted[i]
		at := uint64(a.from)
		first, _ := slices.BinarySearchFunc(before, at, func(b agent.Range, at uint64) int { return cmp.Compare(b.End, at) })
		isHeap, heapHad := a.from == brk.Start && brk.Path != "", uint64(0)
		for _, b := range before[first:] {
			if b.Start >= uint64(a.to) {
				break
			}
			if b.Start > at {
				a.seen = append(a.seen, agent.Range{Start: at, End: b.Start})
			}
			heapHad += min(b.End, uint64(a.to)) - max(b.Start, uint64(a.from))
			if isHeap && b.End > uint64(a.to) { // it has shrunk
				heapHad += b.End - uint64(a.to)
			}
			at = max(at, b.End)
		}
		if at < uint64(a.to) {
			a.seen = append(a.seen, agent.Range{Start: at, End: uint64(a.to)})
		}
		if isHeap {
			r.memory.HeapGrowth = int64(brk.Size()) - int64(heapHad)
		}
	}
}

func meets(ranges []agent.Range, m proc.Mapping) bool {
	return slices.ContainsFunc(ranges, func(r agent.Range) bool {
		return r.Start < uint64(m.End) && uint64(m.Start) < r.End
	})
}

// isSharedMemory reports whether a mapping is of memory that processes share and that has a name as if it were a file.
func isSharedMemory(m proc.Mapping) bool {
	if !m.Shared {
		return false
	}
	for _, prefix := range []string{"/dev/zero", "/dev/shm/", "/memfd:", "/SYSV"} {
		if strings.HasPrefix(m.Path, prefix) {
			return true
		}
	}
	return anonymous(m)
}

// area is the anonymous memory at an address, or nil.
func (r *reckoning) area(at mem.Addr) *area {
	if r.last < len(r.granted) && r.granted[r.last].from <= at && at < r.granted[r.last].to {
		return &r.granted[r.last]
	}
	i, _ := slices.BinarySearchFunc(r.granted, at, func(a area, at mem.Addr) int {
		if a.to <= at {
			return -1
		}
		return 1
	})
	if i == len(r.granted) || at < r.granted[i].from {
		return nil
	}
	r.last = i
	return &r.granted[i]
}

// block counts a tracked live block.
func (r *reckoning) block(at mem.Addr, size uint64) {
	weight := 1.0
	if r.sample > 0 {
		weight = 1 / -math.Expm1(-float64(max(size, 1))/r.sample)
	}
	a := r.area(at)
	switch {
	case a == nil:
		r.memory.Absent += size
	case size < largeBlock:
		a.small += uint64(math.Round(weight * float64(size)))
	default:
		a.large = append(a.large, agent.Range{Start: uint64(at), End: min(uint64(at)+size, uint64(a.to))})
	}
}

// finish adds up.
func (r *reckoning) finish() Memory {
	m := r.memory
	for i := range r.granted {
		a := &r.granted[i]
		if a.stack {
			continue
		}
		if a.rss == 0 {
			m.Absent += a.small + length(a.large)
			continue
		}
		large := r.inMemory(a, a.large)
		tracked := min(a.small+large, a.rss)
		m.Absent += a.small + length(a.large) - tracked
		m.Tracked += tracked
		if a.shared {
			m.Shared += a.rss - tracked
			continue
		}
		seen := min(max(r.inMemory(a, union(append(a.seen, a.large...), a)), tracked), a.rss)
		m.Beside += seen - tracked
		m.Unexplained += a.rss - seen
	}
	return m
}

func length(ranges []agent.Range) uint64 {
	var n uint64
	for _, r := range ranges {
		n += r.End - r.Start
	}
	return n
}

// inMemory is how many bytes of some ranges of an area are in memory.
func (r *reckoning) inMemory(a *area, ranges []agent.Range) uint64 {
	if a.rss == uint64(a.to-a.from) || r.pages == nil {
		return length(ranges)
	}
	var n uint64
	for _, x := range ranges {
		from, to := x.Start&^(proc.PageSize-1), (x.End+proc.PageSize-1)&^(proc.PageSize-1)
		n += min(r.pages(mem.Addr(from), mem.Addr(to)), x.End-x.Start)
	}
	return n
}

// union makes of ranges that touch or overlap one, as far as they are within the area.
func union(ranges []agent.Range, a *area) []agent.Range {
	slices.SortFunc(ranges, func(x, y agent.Range) int { return cmp.Compare(x.Start, y.Start) })
	var out []agent.Range
	for _, x := range ranges {
		x.Start, x.End = max(x.Start, uint64(a.from)), min(x.End, uint64(a.to))
		switch n := len(out); {
		case x.Start >= x.End:
		case n > 0 && x.Start <= out[n-1].End:
			out[n-1].End = max(out[n-1].End, x.End)
		default:
			out = append(out, x)
		}
	}
	return out
}

// tracked is what the tables say of the memory that they track.
type tracked struct {
	leaves   iter.Seq[agent.Range]
	blocks   iter.Seq2[agent.Block, error]
	mappings []agent.Mapping // where they are not among the blocks
}

// reckon says what the target's memory is made of.
func (t *target) reckon(a *placed, uses []proc.Use, tr tracked) (*Memory, error) {
	n, err := t.neighbourhood(a)
	if err != nil {
		return nil, err
	}
	r := newReckoning(uses, n, tr.leaves)
	r.sample = float64(a.header.Config.SampleBytes)
	r.pages = t.mem.InMemory
	for b, err := range tr.blocks {
		if err != nil {
			return nil, err
		}
		if b.Domain != agent.File { // which is the files' part, whoever has mapped it
			r.block(b.Addr, b.Size)
		}
	}
	for _, m := range tr.mappings {
		if m.Domain == agent.Mapped && m.End > m.Start {
			r.block(mem.Addr(m.Start), m.End-m.Start)
		}
	}
	m := r.finish()
	return &m, nil
}

// memoryNow is what the memory of the running target is made of.
func (t *target) memoryNow(a *placed, uses []proc.Use) (*Memory, error) {
	tr, err := t.scan(a, limitOf(useOf(uses, a.tables)))
	if err != nil {
		return nil, err
	}
	return t.reckon(a, uses, tr)
}

// memoryAt is what the target's memory is made of, by what was copied of its tables.
func (t *target) memoryAt(a *placed, c *agent.Capture) (*Memory, error) {
	uses, err := t.uses()
	if err != nil {
		return nil, err
	}
	return t.reckon(a, uses, tracked{c.Leaves(), c.Blocks(), nil})
}

// uses is what of each mapping is in memory.
func (t *target) uses() ([]proc.Use, error) {
	var uses []proc.Use
	for u, err := range t.proc.Uses() {
		if err != nil {
			return nil, err
		}
		uses = append(uses, u)
	}
	return uses, nil
}

// useOf is how much of a mapping is in memory.
func useOf(uses []proc.Use, m proc.Mapping) uint64 {
	i := slices.IndexFunc(uses, func(u proc.Use) bool { return u.Start == m.Start && u.End == m.End })
	if i < 0 {
		return 0
	}
	return uses[i].Rss
}

// limitOf is the most that is copied of tables of which so much is in memory, with room for what comes meanwhile.
func limitOf(resident uint64) uint64 { return 2*resident + 64<<20 }

// scan reads from the tables of the running target what reckon needs.
func (t *target) scan(a *placed, limit uint64) (tracked, error) {
	s, err := agent.NewScan(t.mem, a.tablesAt(), a.header, limit)
	if err != nil {
		return tracked{}, err
	}
	mappings, err := agent.Mappings(t.mem, a.tablesAt(), a.header)
	return tracked{s.Leaves(), s.Blocks(), mappings}, err
}

// neighbourhood finds what there is beside allocators' memory.
func (t *target) neighbourhood(a *placed) (neighbourhood, error) {
	var n neighbourhood
	all, err := t.locate()
	if err != nil {
		return n, err
	}
	for _, o := range all {
		n.own = append(n.own, agent.Range{Start: uint64(o.image), End: uint64(o.image) + o.size})
	}
	modules, err := dso.Modules(t.proc, t.mem)
	if err != nil {
		return n, err
	}
	for _, m := range modules {
		n.modules = append(n.modules, agent.Range{Start: uint64(m.Start), End: uint64(m.End)})
	}
	if n.stacks, err = t.stacks(a); err != nil {
		return n, err
	}
	n.before, err = agent.ReadBefore(t.mem, a.tablesAt(), a.header)
	return n, err
}

// stacks is an address in the stack of each thread but the first. Of a thread that runs it is known only once it has
// allocated: its thread control block stands at the end of its stack (glibc's and musl's pthread_create).
func (t *target) stacks(a *placed) ([]mem.Addr, error) {
	tids, err := t.proc.Threads()
	if err != nil {
		return nil, err
	}
	var stacks []mem.Addr
	running := map[uint32]bool{}
	for _, tid := range tids {
		if tid == t.proc.Pid {
			continue
		}
		if b, err := t.proc.Blocked(tid); err == nil && b.SP != 0 {
			stacks = append(stacks, b.SP)
			continue
		}
		if s, err := t.proc.Status(tid); err == nil && len(s.NSpid) > 0 {
			running[uint32(s.NSpid[len(s.NSpid)-1])] = true
		}
	}
	if len(running) == 0 {
		return stacks, nil
	}
	threads, err := agent.ReadThreads(t.mem, a.tablesAt(), a.header)
	for _, th := range threads {
		if running[th.Tid] {
			stacks = append(stacks, mem.Addr(th.Pointer))
		}
	}
	return stacks, err
}

// noteBefore is the private anonymous memory that there is now, in address order.
func noteBefore(maps []proc.Mapping) []agent.Range {
	var ranges []agent.Range
	for _, m := range maps {
		if !anonymous(m) || m.Shared {
			continue
		}
		if n := len(ranges); n > 0 && ranges[n-1].End == uint64(m.Start) {
			ranges[n-1].End = uint64(m.End)
			continue
		}
		ranges = append(ranges, agent.Range{Start: uint64(m.Start), End: uint64(m.End)})
	}
	return ranges
}

// info is what a snapshot says of the memory.
func (m *Memory) info() []heap.KeyValue {
	fact := func(key string, bytes uint64) heap.KeyValue {
		return heap.KeyValue{Key: key, Value: fmt.Sprintf("%d bytes", bytes)}
	}
	return []heap.KeyValue{
		fact(heap.InfoRSS, m.RSS),
		fact(heap.InfoTracked, m.Tracked),
		fact(heap.InfoBeside, m.Beside),
		fact(heap.InfoFilesClean, m.FilesClean),
		fact(heap.InfoFilesDirty, m.FilesDirty),
		fact(heap.InfoStacks, m.Stacks),
		fact(heap.InfoShared, m.Shared),
		fact(heap.InfoHeaptap, m.Heaptap),
		fact(heap.InfoUnexplained, m.Unexplained),
		{Key: "not in memory", Value: fmt.Sprintf("%d bytes of the tracked live ones: never touched, or swapped out", m.Absent)},
		{Key: "heap growth", Value: fmt.Sprintf("%d bytes since tracking began (brk)", m.HeapGrowth)},
	}
}
