package profiler

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/heaptap/heaptap/mem"
)

// The structures of oracle.c.
type (
	countedBlock struct {
		Address, Size, Caller uint64
		Era, Mark             uint32
	}
	countedRange struct {
		Start, End, Caller uint64
		Era, Mark          uint32
		File               uint64
	}
	countedTable struct {
		Era, Lost, UnknownFrees, Ranges uint64
		Locks                           [countedShards + 2]uint32
		Range                           [countedRanges]countedRange
		Block                           [countedShards][countedPerShard]countedBlock
	}
)

const (
	countedShards   = 64
	countedPerShard = 1 << 12
	countedRanges   = 1 << 14

	trackedEra = 1
)

// The structures of work.c.
type (
	workSlot struct {
		Taken, Alignment uint32
		Block, Size      uint64
	}
	workLoose struct {
		At, Pages, File uint64
	}
	workField struct {
		Taken, Reserved uint32
		At              uint64
		Page            [64]byte // 0: none, 1: anonymous, 2: of a file
		Loose           [16]workLoose
	}
	workTable struct {
		Slot            [4096]workSlot
		Field           [8]workField
		Calls, Refused  uint64
		Wrong, Reserved uint32
		Message         [256]byte
	}
)

// readInto fills a structure of C's, whose fields are as wide here as there.
func readInto[T any](t testing.TB, m mem.Reader, a mem.Addr, into *T) {
	t.Helper()
	if err := m.ReadAt(unsafe.Slice((*byte)(unsafe.Pointer(into)), unsafe.Sizeof(*into)), a); err != nil {
		t.Fatal(err)
	}
}

// sound requires that the workload has met nothing that is wrong.
func (w *nativeWork) sound(when string) (calls, refused uint64) {
	w.t.Helper()
	for _, m := range w.loaded {
		table := new(workTable)
		readInto(w.t, w.memory.mem, w.tables[m.name], table)
		if table.Wrong != 0 {
			w.t.Errorf("%s: %s: %d things are wrong, the first is: %s", when, m.name, table.Wrong, cString(table.Message[:]))
		}
		calls += table.Calls
		refused += table.Refused
	}
	return calls, refused
}

// nativeView is what somebody says is live: blocks by address, and ranges of mappings.
type nativeView struct {
	blocks   map[mem.Addr]uint64
	mappings map[mem.Addr]nativeMapping // by start
}

type nativeMapping struct {
	end  mem.Addr
	file bool
}

// compare stops the target and requires that all witnesses agree.
func (w *nativeWork) compare(when string) {
	w.t.Helper()
	w.rest()
	defer w.goOn()
	calls, refused := w.sound(when)
	blocks := liveBlocks(w.t, w.tg.Pid())
	ours, python := splitViews(blocks)
	w.compareTotals(when, blocks)
	c := &complaints{t: w.t, when: when}
	alone := nativeView{map[mem.Addr]uint64{}, map[mem.Addr]nativeMapping{}}
	for _, m := range w.loaded {
		held := w.heldBy(m)
		w.compareHeld(c, m, held, ours)
		if m.alone {
			maps.Copy(alone.blocks, held.blocks)
			maps.Copy(alone.mappings, held.mappings)
		}
	}
	if w.oracle != 0 {
		w.compareCounted(c, ours, python, alone)
	}
	c.end()
	w.t.Logf("%s: %d calls, of which %d were refused; live are %d blocks and %d mappings",
		when, calls, refused, len(ours.blocks), len(ours.mappings))
}

// complaints says the first few differences, and how many there are.
type complaints struct {
	t    *testing.T
	when string
	n    int
}

func (c *complaints) say(format string, args ...any) {
	c.t.Helper()
	if c.n++; c.n <= 5 {
		c.t.Errorf(c.when+": "+format, args...)
	}
}

func (c *complaints) end() {
	c.t.Helper()
	if c.n > 5 {
		c.t.Errorf("%s: %d differences in all", c.when, c.n)
	}
}

// splitViews makes of heaptap's blocks a view of the native domains, and of the others by address.
func splitViews(blocks []oracleBlock) (native nativeView, python map[mem.Addr]oracleBlock) {
	native = nativeView{map[mem.Addr]uint64{}, map[mem.Addr]nativeMapping{}}
	python = map[mem.Addr]oracleBlock{}
	for _, b := range blocks {
		switch b.domain {
		case Malloc:
			native.blocks[b.addr] = b.size
		case Mmap, File:
			native.mappings[b.addr] = nativeMapping{b.addr + mem.Addr(b.size), b.domain == File}
		default:
			python[b.addr] = b
		}
	}
	return native, python
}

// compareTotals requires that status and a dump's records have the same sums as the blocks.
func (w *nativeWork) compareTotals(when string, blocks []oracleBlock) {
	w.t.Helper()
	type sum struct{ blocks, bytes uint64 }
	want := map[string]sum{}
	for _, b := range blocks {
		s := want[b.domain.String()]
		want[b.domain.String()] = sum{s.blocks + 1, s.bytes + b.size}
	}
	status := mustBe(w.t, w.tg.Pid(), Tracking)
	for _, total := range status.Totals {
		if got := (sum{total.LiveBlocks, total.LiveBytes}); got != want[total.Domain.String()] {
			w.t.Errorf("%s: status says that %+v are live in domain %s, blocks are %+v", when, got, total.Domain,
				want[total.Domain.String()])
		}
	}
	if status.Lost != 0 {
		w.t.Errorf("%s: %d allocations were lost", when, status.Lost)
	}
	d := mustDump(w.t, w.tg.Pid())
	got := map[string]sum{}
	for _, r := range d.Snapshot.Records {
		if r.InuseBlocks != 0 {
			s := got[d.Snapshot.Strings[r.Domain]]
			got[d.Snapshot.Strings[r.Domain]] = sum{s.blocks + uint64(r.InuseBlocks), s.bytes + uint64(r.InuseBytes)}
		}
	}
	if !maps.Equal(got, want) {
		w.t.Errorf("%s: a dump's records say that %+v are live, blocks are %+v", when, got, want)
	}
}

// heldBy is what a module's table holds.
func (w *nativeWork) heldBy(m workModule) nativeView {
	w.t.Helper()
	table := new(workTable)
	readInto(w.t, w.memory.mem, w.tables[m.name], table)
	v := nativeView{map[mem.Addr]uint64{}, map[mem.Addr]nativeMapping{}}
	for _, s := range table.Slot {
		if s.Block != 0 {
			v.blocks[mem.Addr(s.Block)] = s.Size
		}
	}
	for _, f := range table.Field {
		for i, kind := range f.Page {
			if at := mem.Addr(f.At) + mem.Addr(i*pageSize); f.At != 0 && kind != 0 {
				v.mappings[at] = nativeMapping{at + pageSize, kind == 2}
			}
		}
		for _, l := range f.Loose {
			if l.At != 0 {
				v.mappings[mem.Addr(l.At)] = nativeMapping{mem.Addr(l.At) + mem.Addr(l.Pages*pageSize), l.File != 0}
			}
		}
	}
	return v
}

// compareHeld requires that we have what a module holds that was loaded after the attach, and that what we have of the
// blocks of an earlier one has the right size: of those it may have held some before. The fields' pages are known, not
// their mappings.
func (w *nativeWork) compareHeld(c *complaints, m workModule, held, ours nativeView) {
	w.t.Helper()
	for _, at := range slices.Sorted(maps.Keys(held.blocks)) {
		if size, ok := ours.blocks[at]; !ok && !m.early || ok && size != held.blocks[at] {
			c.say("%s holds %d bytes at %v, of which we have %d (%v)", m.name, held.blocks[at], at, size, ok)
		}
	}
	pages := map[mem.Addr]bool{} // to whether of a file
	for start, r := range ours.mappings {
		for at := start; at < r.end; at += pageSize {
			pages[at] = r.file
		}
	}
	for start, r := range held.mappings {
		for at := start; at < r.end; at += pageSize {
			if file, ok := pages[at]; !ok && !m.early || ok && file != r.file {
				c.say("%s holds the page %v (file %v), of which we have %v (file %v)", m.name, at, r.file, ok, file)
			}
		}
	}
}

// compareCounted requires that we and the preloaded allocator agree on every block and every mapping. Beside the
// workload's own, which have to be there in the domain malloc, or mmap, or file:
//   - a block that we have in one of Python's domains, at the same address, was asked for by Python's allocator;
//   - a block that did not come by way of a hook is none of ours to see, if the loader itself has asked for it;
//   - a mapping of an arena's size is Python's container.
//
// alone is what modules hold that have an allocator of their own.
func (w *nativeWork) compareCounted(c *complaints, ours nativeView, python map[mem.Addr]oracleBlock, alone nativeView) {
	w.t.Helper()
	all := new(countedTable)
	readInto(w.t, w.memory.mem, w.oracle, all)
	if all.Lost != 0 {
		w.t.Fatalf("the preloaded allocator has lost %d blocks", all.Lost)
	}
	callers, err := w.memory.proc.Maps()
	if err != nil {
		w.t.Fatal(err)
	}
	callerOf := func(a uint64) string {
		for _, m := range callers {
			if mem.Addr(a) >= m.Start && mem.Addr(a) < m.End {
				return filepath.Base(m.Path)
			}
		}
		return "nowhere"
	}
	var agree, nested int
	byLoader := map[string]int{}
	ourBlocks := maps.Clone(ours.blocks)
	for shard := range all.Block {
		for _, b := range all.Block[shard] {
			if b.Address == 0 {
				continue
			}
			at := mem.Addr(b.Address)
			size, ok := ourBlocks[at]
			delete(ourBlocks, at)
			p, isPython := python[at]
			caller := callerOf(b.Caller)
			switch {
			case ok && size == b.Size && b.Era == trackedEra:
				agree++
			case ok:
				c.say("block at %v: we have %d bytes, the preloaded allocator has %d, of era %d, by %s", at, size, b.Size, b.Era, caller)
			case b.Era != trackedEra:
			case isPython && b.Mark == 0 && max(p.size, 1) == b.Size:
				nested++
			case b.Mark == 0 && strings.HasPrefix(caller, "ld-"):
				byLoader[caller]++
			default:
				c.say("block of %d bytes at %v, mark %d, by %s: we do not have it (in Python: %+v)", b.Size, at, b.Mark, caller, p)
			}
		}
	}
	for at, size := range ourBlocks {
		if held, ok := alone.blocks[at]; !ok || held != size {
			c.say("block of %d bytes at %v: the preloaded allocator does not have it", size, at)
		}
	}
	ranges := maps.Clone(ours.mappings)
	for _, r := range all.Range[:min(all.Ranges, countedRanges)] {
		at := mem.Addr(r.Start)
		got, ok := ranges[at]
		delete(ranges, at)
		want := nativeMapping{mem.Addr(r.End), r.File != 0}
		arena := r.Mark == 0 && want == nativeMapping{at + arenaSize, false}
		switch {
		case ok && got == want && r.Era == trackedEra:
			agree++
		case !ok && (r.Era != trackedEra || arena):
		default:
			c.say("mapping at %v: we have %+v (%v), the preloaded allocator has %+v, of era %d, mark %d, by %s",
				at, got, ok, want, r.Era, r.Mark, callerOf(r.Caller))
		}
	}
	for at, r := range ranges {
		if !w.isAlone(alone, at, r) {
			c.say("mapping from %v to %v (file %v): the preloaded allocator does not have it", at, r.end, r.file)
		}
	}
	w.t.Logf("%s: %d agree, %d are Python's, by the loader %v", c.when, agree, nested, byLoader)
}

// arenaSize is ARENA_SIZE of Objects/obmalloc.c since 3.10.
const arenaSize = 1 << 20

// isAlone reports whether modules with an allocator of their own hold all pages of a mapping.
func (w *nativeWork) isAlone(alone nativeView, start mem.Addr, m nativeMapping) bool {
	for at := start; at < m.end; {
		held, ok := alone.mappings[at]
		if !ok || held.file != m.file {
			return false
		}
		at = held.end
	}
	return true
}
