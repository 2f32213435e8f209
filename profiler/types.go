package profiler

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// How a dump learns types:
//
// Before the pause, a plan is made of where the beginnings of all objects' blocks are, and our memory for them is
// touched. During the pause they are copied, as many as pauseBudget allows, beside the tables. All else is done when
// the target runs again: what was not copied is read then, and counts only if the block's word in the live map is
// still what it was; the same holds for type objects, which are few and mostly live for ever. With no pause all is read
// that way.
//
// Types are labels beside the live map: a number for each place, from [typeLabels].

const (
	pauseBudget = 10 * time.Millisecond // of a pause, for copying beginnings of blocks
	maxCopied   = 160 << 20             // bytes copied during a pause, with the live map: more is not done in time
	maxGap      = 2 << 10               // between what is copied at once: a range more costs as much as these bytes
	maxRun      = 64 << 10              // bytes copied at once
	lateChunk   = 2 << 10               // blocks read at once after the pause

	// maxSecondLook is up to how many places are searched during a pause for blocks that were not planned for: some
	// 3 ms with two processors.
	maxSecondLook = 8 << 20
)

// run is a piece of memory in which blocks begin, and its place in the buffer.
type run struct {
	addr mem.Addr
	len  int
	at   int
	read bool
}

// headers are the beginnings of blocks, copied together.
type headers struct {
	mem  *proc.Mem
	runs []run // by address, apart from each other
	buf  []byte

	fresh map[mem.Addr][]byte // beginnings of blocks that are not in runs
}

// planHeaders says what to copy for the objects of an index, and makes room. What is too much is left out.
func planHeaders(m *proc.Mem, x *agent.Index) (*headers, error) {
	h := &headers{mem: m}
	room := maxCopied - 8*x.Places()
	size := 0
	for i := 0; i < x.Leaves() && size < room; i++ {
		x.Each(i, func(b agent.Block, _ int) {
			if Domain(b.Domain) != Obj {
				return
			}
			n := int(min(b.Size, cpython.HeaderBytes))
			if last := len(h.runs) - 1; last >= 0 {
				r := &h.runs[last]
				if end := int(b.Addr-r.addr) + n; int(b.Addr-r.addr)-r.len <= maxGap && end <= maxRun {
					size += end - r.len
					r.len = end
					return
				}
			}
			h.runs = append(h.runs, run{addr: b.Addr, len: n})
			size += n
		})
	}
	if size == 0 {
		return h, nil
	}
	at := 0
	for i := range h.runs {
		h.runs[i].at = at
		at += h.runs[i].len
	}
	var err error
	h.buf, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("memory for the beginnings of blocks: %w", err)
	}
	return h, nil
}

func (h *headers) close() {
	if h != nil && h.buf != nil {
		unix.Munmap(h.buf)
		h.buf = nil
	}
}

// copy reads the runs until the deadline.
func (h *headers) copy(deadline time.Time) error {
	const piece = 256 << 10 // bytes; a system call for each
	var pieces [][2]int
	for from := 0; from < len(h.runs); {
		to, size := from, 0
		for to < len(h.runs) && to-from < proc.MaxRanges && (size == 0 || size+h.runs[to].len <= piece) {
			size += h.runs[to].len
			to++
		}
		pieces = append(pieces, [2]int{from, to})
		from = to
	}
	var next atomic.Int64
	var g errgroup.Group
	for range min(4, runtime.GOMAXPROCS(0)) {
		g.Go(func() error {
			ranges := make([]proc.Range, 0, proc.MaxRanges)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(pieces) || !time.Now().Before(deadline) {
					return nil
				}
				runs := h.runs[pieces[i][0]:pieces[i][1]]
				ranges = ranges[:0]
				for _, r := range runs {
					ranges = append(ranges, proc.Range{Addr: r.addr, Len: r.len})
				}
				missing, err := h.mem.Gather(h.buf[runs[0].at:], ranges)
				if err != nil {
					return err
				}
				for j := range runs {
					runs[j].read = true
				}
				for _, j := range missing {
					runs[j].read = false
				}
			}
		})
	}
	return g.Wait()
}

// copyNew reads what objects' blocks of the index are not among the runs.
func (h *headers) copyNew(x *agent.Index) error {
	var mu sync.Mutex
	var all []proc.Range
	var next atomic.Int64
	var g errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			var fresh []proc.Range
			at := 0
			const step = 64 // leaves
			for {
				from := int(next.Add(step)) - step
				if from >= x.Leaves() {
					break
				}
				for i := from; i < min(from+step, x.Leaves()); i++ {
					x.Each(i, func(b agent.Block, _ int) {
						n := int(min(b.Size, cpython.HeaderBytes))
						if Domain(b.Domain) == Obj && h.find(b.Addr, n, &at) == nil {
							fresh = append(fresh, proc.Range{Addr: b.Addr, Len: n})
						}
					})
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, fresh...)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	raw, err := gather(h.mem, all)
	h.fresh = make(map[mem.Addr][]byte, len(all))
	for i, b := range raw {
		if b != nil {
			h.fresh[all[i].Addr] = b
		}
	}
	return err
}

// find is the copy of n bytes at a, or nil. at is where it was found last, to be kept by whoever asks in order.
func (h *headers) find(a mem.Addr, n int, at *int) []byte {
	inside := func(i int) bool {
		return i < len(h.runs) && h.runs[i].addr <= a && int(a-h.runs[i].addr)+n <= h.runs[i].len
	}
	if !inside(*at) {
		i, found := slices.BinarySearchFunc(h.runs, a, func(r run, a mem.Addr) int {
			switch {
			case r.addr < a:
				return -1
			case r.addr > a:
				return 1
			}
			return 0
		})
		if !found {
			i--
		}
		if i < 0 || !inside(i) {
			return h.fresh[a]
		}
		*at = i
	}
	r := &h.runs[*at]
	if !r.read {
		return nil
	}
	return h.buf[r.at+int(a-r.addr):][:n]
}

// typeSource is what a dump knows of types, step by step. A dump without types is better than none, so that its methods
// note what went wrong, and what follows does nothing. A nil one does nothing at all.
type typeSource struct {
	in    *cpython.Interpreter
	heads *headers
	index *agent.Index // of the capture; nil where it was not made yet
	err   error
}

func findTypes(t *target, ending bool) *typeSource {
	s := &typeSource{}
	find := cpython.Find
	if ending {
		find = cpython.FindStarting // it was proved when it ran
	}
	s.in, s.err = find(t.proc, t.mem)
	return s
}

func (s *typeSource) close() {
	if s != nil {
		s.heads.close()
	}
}

// plan prepares for copy, by a first look at the tables.
func (s *typeSource) plan(t *target, c *agent.Capture) {
	if s != nil && s.err == nil {
		s.heads, s.err = planHeaders(t.mem, c.NewIndex())
	}
}

// copy is done while the target stands still, after the tables were copied to c. What is new since the plan was made is
// looked for where time allows.
func (s *typeSource) copy(c *agent.Capture, deadline time.Time) {
	if s == nil || s.err != nil {
		return
	}
	if s.err = s.heads.copy(deadline); s.err != nil || !time.Now().Before(deadline) {
		return
	}
	x := c.NewIndex()
	if x.Places() <= maxSecondLook {
		s.index = x
		s.err = s.heads.copyNew(x)
	}
}

// resolve names what is in the captured blocks.
func (s *typeSource) resolve(t *target, c *agent.Capture, tables mem.Addr) *typeLabels {
	labels := (*typeLabels)(nil)
	if s.err == nil {
		labels, s.err = resolveTypes(t, s, c, tables)
	}
	if s.err != nil {
		return noTypes(fmt.Sprintf("types are not known: %v", s.err))
	}
	return labels
}

// typeLabels names what stands in blocks.
type typeLabels struct {
	byPlace []int32  // for each place of the live map, an index in names; 0: unknown
	names   []string // the first is ""
	index   *agent.Index
	notes   []string       // what a user should know
	types   *cpython.Types // that recognises objects; nil where no type is known
}

// noTypes are the labels where no type is known, for the reasons given.
func noTypes(notes ...string) *typeLabels { return &typeLabels{names: []string{""}, notes: notes} }

// lookup returns a function that gives the label of the block at an address: an index in names.
func (l *typeLabels) lookup() func(mem.Addr) int32 {
	if l.index == nil {
		return func(mem.Addr) int32 { return 0 }
	}
	return func(a mem.Addr) int32 {
		place, _ := l.index.Place(a)
		return l.byPlace[place]
	}
}

// labelKey is a type and, for a block that its objects own, what for.
type labelKey struct {
	typ  *cpython.Type
	role cpython.Role
}

// claim is an object's word that a block is its own.
type claim struct {
	place  int32
	label  int32
	weak   bool
	follow bool
}

// typer finds the types of a capture's blocks.
type typer struct {
	t     *target
	types *cpython.Types
	x     *agent.Index
	at    mem.Addr // of the tables
	heads *headers // copied during the pause; nil if there was none

	labels []int32

	mu     sync.Mutex
	number map[labelKey]int32
	keys   []labelKey // by number; the first is none
}

// resolveTypes finds the types of all blocks of a capture.
func resolveTypes(t *target, s *typeSource, c *agent.Capture, tables mem.Addr) (*typeLabels, error) {
	ty := &typer{t: t, x: s.index, at: tables, heads: s.heads, number: map[labelKey]int32{}, keys: make([]labelKey, 1)}
	if ty.x == nil {
		ty.x = c.NewIndex()
	}
	ty.labels = make([]int32, ty.x.Places())
	if err := ty.chooseHead(s.in); err != nil {
		return nil, err
	}
	claims, err := ty.objects()
	if err != nil {
		return nil, err
	}
	if err := ty.own(claims); err != nil {
		return nil, err
	}
	names, err := ty.names()
	return &typeLabels{byPlace: ty.labels, names: names, index: ty.x, types: ty.types}, err
}

// chooseHead finds the size of the collector's head that this build has, by which more objects make sense.
func (ty *typer) chooseHead(in *cpython.Interpreter) error {
	all := in.NewTypes(ty.t.mem, ty.noType, ty.stale)
	ty.types = all[0]
	if len(all) == 1 {
		return nil
	}
	const enough = 4096 // objects that are looked at
	votes := make([]int, len(all))
	b := make([]byte, cpython.HeaderBytes)
	seen := 0
	for i := 0; i < ty.x.Leaves() && seen < enough; i++ {
		ty.x.Each(i, func(blk agent.Block, _ int) {
			if Domain(blk.Domain) != Obj || seen == enough {
				return
			}
			seen++
			b := b[:min(blk.Size, cpython.HeaderBytes)]
			if ty.t.mem.ReadAt(b, blk.Addr) != nil {
				return
			}
			for j, types := range all {
				if o, ok := types.Object(b, blk.Size); ok && o.Offset != 0 {
					votes[j]++
				}
			}
		})
	}
	for j := range all {
		if votes[j] > votes[slices.Index(all, ty.types)] {
			ty.types = all[j]
		}
	}
	return nil
}

// noType tells addresses at which there is certainly no type, as the live map knows, so that they need not be read:
// blocks that are too small, and such as begin there, as no block with a collector's head does.
func (ty *typer) noType(a mem.Addr, before, size uint32) bool {
	if _, _, ok := ty.x.Block(a); ok {
		return true
	}
	b, _, ok := ty.x.Block(a - mem.Addr(before))
	return ok && b.Size < uint64(before+size)
}

// stale tells that a block is not the captured one any more. Classes that are made again and again take turns at an
// address: what is read there in between is another one's name.
func (ty *typer) stale(block mem.Addr) bool {
	place, ok := ty.x.Place(block)
	if !ok { // nothing was ever allocated there, when it was captured
		since, err := ty.x.Recorded(ty.t.mem, ty.at, block)
		return err != nil || since
	}
	there := []bool{true}
	return ty.unchanged([]int{place}, there) != nil || !there[0]
}

// label is the number of a label.
func (ty *typer) label(key labelKey) int32 {
	ty.mu.Lock()
	defer ty.mu.Unlock()
	n, ok := ty.number[key]
	if !ok {
		n = int32(len(ty.keys))
		ty.keys = append(ty.keys, key)
		ty.number[key] = n
	}
	return n
}

// late is a block whose beginning was not copied during the pause.
type late struct {
	addr  mem.Addr
	size  uint64
	place int
}

// objects labels the blocks that are objects, and collects what they claim.
func (ty *typer) objects() ([]claim, error) {
	var mu sync.Mutex
	var claims []claim
	var next atomic.Int64
	var g errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			w := &typeWorker{typer: ty, known: map[labelKey]int32{}}
			const step = 64 // leaves
			for {
				from := int(next.Add(step)) - step
				if from >= ty.x.Leaves() {
					break
				}
				for i := from; i < min(from+step, ty.x.Leaves()); i++ {
					ty.x.Each(i, w.block)
				}
				if len(w.late) >= lateChunk {
					if err := w.readLate(); err != nil {
						return err
					}
				}
			}
			if err := w.readLate(); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			claims = append(claims, w.claims...)
			return nil
		})
	}
	err := g.Wait()
	return claims, err
}

// typeWorker is one of several goroutines that label objects.
type typeWorker struct {
	*typer
	known  map[labelKey]int32 // of typer.number, without its lock
	claims []claim
	late   []late
	run    int
}

func (w *typeWorker) block(b agent.Block, place int) {
	if Domain(b.Domain) != Obj {
		return
	}
	n := int(min(b.Size, cpython.HeaderBytes))
	if w.heads != nil {
		if raw := w.heads.find(b.Addr, n, &w.run); raw != nil {
			w.object(raw, b.Addr, b.Size, place)
			return
		}
	}
	w.late = append(w.late, late{b.Addr, b.Size, place})
}

// readLate reads blocks while the target runs.
func (w *typeWorker) readLate() error {
	for chunk := range slices.Chunk(w.late, lateChunk) {
		busy, err := w.readQuiet(chunk)
		if err != nil {
			return err
		}
		if err := w.readBusy(busy); err != nil {
			return err
		}
	}
	w.late = w.late[:0]
	return nil
}

// readQuiet labels those of which no block of the same stack has been freed since the capture, so that they are certainly
// there while they are read, and returns the others. The same goes for their types and for what they own.
func (w *typeWorker) readQuiet(chunk []late) (busy []late, err error) {
	ranges := make([]proc.Range, len(chunk))
	places := make([]int, len(chunk))
	for i, b := range chunk {
		ranges[i] = proc.Range{Addr: b.addr, Len: int(min(b.size, cpython.HeaderBytes))}
		places[i] = b.place
	}
	there := slices.Repeat([]bool{true}, len(chunk))
	if err := w.unchanged(places, there); err != nil {
		return nil, err
	}
	raw, err := gather(w.t.mem, ranges)
	if err != nil {
		return nil, err
	}
	objects := make([]seenObject, len(chunk))
	for i, b := range chunk {
		if raw[i] != nil && there[i] {
			objects[i] = w.look(raw[i], b.addr, b.size)
		}
	}
	if err := w.dropOtherTypes(objects); err != nil {
		return nil, err
	}
	var owned, owner []int
	for i, o := range objects {
		owned, owner = append(owned, places[i]), append(owner, i)
		if o.ok && o.Type.Heap {
			if place, ok := w.x.Place(w.types.BlockOf(o.Type)); ok {
				owned, owner = append(owned, place), append(owner, i)
			}
		}
		for _, c := range o.claims {
			owned, owner = append(owned, int(c.place)), append(owner, i)
		}
	}
	same := slices.Repeat([]bool{true}, len(owned))
	if err := w.unchanged(owned, same); err != nil {
		return nil, err
	}
	if err := w.unfreed(owned, same); err != nil {
		return nil, err
	}
	for k, i := range owner {
		there[i] = there[i] && same[k]
	}
	for i, b := range chunk {
		if there[i] {
			w.take(objects[i], b.place)
		} else {
			busy = append(busy, b)
		}
	}
	return busy, nil
}

// unfreed clears same of each of the places of whose stack blocks have been freed since the capture.
func (ty *typer) unfreed(places []int, same []bool) error {
	counters := map[agent.Counter]int{} // index in ranges
	var ranges []proc.Range
	var counts []uint64
	of := make([][2]int, len(places))
	for i, p := range places {
		for j, c := range ty.x.Freed(p) {
			k, ok := counters[c]
			if !ok {
				k = len(ranges)
				counters[c] = k
				ranges = append(ranges, proc.Range{Addr: ty.at + mem.Addr(c.Offset), Len: 8})
				counts = append(counts, c.Value)
			}
			of[i][j] = k
		}
	}
	raw, err := gather(ty.t.mem, ranges)
	if err != nil {
		return err
	}
	for i, both := range of {
		for _, k := range both {
			same[i] = same[i] && raw[k] != nil && binary.LittleEndian.Uint64(raw[k]) == counts[k]
		}
	}
	return nil
}

// readBusy reads each block twice: an object counts if it was there both times, and what it owns if that had its captured
// word when the object was read the second time.
func (w *typeWorker) readBusy(chunk []late) error {
	first, err := w.lookAt(chunk, nil)
	if err != nil {
		return err
	}
	if err := w.dropOtherTypes(first); err != nil {
		return err
	}
	second, err := w.lookAt(chunk, first)
	if err != nil {
		return err
	}
	for i, b := range chunk {
		if o := second[i]; o.ok && first[i].ok && first[i].Object == o.Object {
			w.take(o, b.place)
		}
	}
	return nil
}

// maxVerified is how many blocks of an object's own are looked at together with it.
const maxVerified = 64

// lookAt looks at blocks that have their captured words right before and right after they are read. These three reads
// follow each other in one system call: blocks that a busy program frees and allocates take turns at an address, and the
// word of one that is allocated by the same code in the same second is the same again. owners is nil, or what the blocks
// were at an earlier look: then only those claims stay that were made there, too, and whose words, read among these
// three, are as captured.
func (w *typeWorker) lookAt(chunk []late, owners []seenObject) ([]seenObject, error) {
	found := make([]seenObject, 0, len(chunk))
	var ranges []proc.Range
	word := func(place int) {
		ranges = append(ranges, proc.Range{Addr: w.at + mem.Addr(w.x.WordOffset(place)), Len: 8})
	}
	for len(found) < len(chunk) {
		from, size := len(found), 0
		ranges = ranges[:0]
		to := from
		for ; to < len(chunk) && len(ranges)+3+maxVerified <= proc.MaxRanges; to++ {
			b := chunk[to]
			word(b.place)
			ranges = append(ranges, proc.Range{Addr: b.addr, Len: int(min(b.size, cpython.HeaderBytes))})
			for _, c := range verified(owners, to) {
				word(int(c.place))
			}
			word(b.place)
		}
		for _, r := range ranges {
			size += r.Len
		}
		buf := make([]byte, size)
		missing, err := w.t.mem.Gather(buf, ranges)
		if err != nil {
			return nil, err
		}
		next := 0 // in ranges
		take := func() (b []byte, ok bool) {
			n := ranges[next].Len
			b, buf = buf[:n], buf[n:]
			ok = len(missing) == 0 || missing[0] != next
			if !ok {
				missing = missing[1:]
			}
			next++
			return b, ok
		}
		same := func(place int) bool {
			b, ok := take()
			return ok && binary.LittleEndian.Uint64(b) == w.x.Word(place)
		}
		for i := from; i < to; i++ {
			b := chunk[i]
			there := same(b.place)
			raw, readable := take()
			var kept []claim
			for _, c := range verified(owners, i) {
				if same(int(c.place)) {
					kept = append(kept, c)
				}
			}
			var o seenObject
			if same(b.place) && there && readable {
				o = w.look(raw, b.addr, b.size)
			}
			if owners != nil {
				o.claims = slices.DeleteFunc(o.claims, func(c claim) bool { return !slices.Contains(kept, c) })
			}
			found = append(found, o)
		}
	}
	return found, nil
}

// verified are the claims of an object that are looked at together with it.
func verified(owners []seenObject, i int) []claim {
	if owners == nil {
		return nil
	}
	return owners[i].claims[:min(len(owners[i].claims), maxVerified)]
}

// dropOtherTypes drops objects whose type is not there any more as it was captured: it may have been another one when
// they were looked at. One that is there both before and after this keeps its type alive.
func (w *typeWorker) dropOtherTypes(objects []seenObject) error {
	var places, owner []int
	unplaced := map[*cpython.Type]bool{} // and whether stale
	for i, o := range objects {
		if !o.ok || !o.Type.Heap {
			continue
		}
		block := w.types.BlockOf(o.Type)
		if place, ok := w.x.Place(block); ok {
			places, owner = append(places, place), append(owner, i)
			continue
		}
		stale, known := unplaced[o.Type]
		if !known {
			stale = w.stale(block)
			unplaced[o.Type] = stale
		}
		objects[i].ok = !stale
	}
	there := slices.Repeat([]bool{true}, len(places))
	if err := w.unchanged(places, there); err != nil {
		return err
	}
	for i, o := range owner {
		objects[o].ok = objects[o].ok && there[i]
	}
	return nil
}

// seenObject is what a look at a block showed.
type seenObject struct {
	cpython.Object
	ok     bool
	claims []claim
}

// object labels a block by its beginning.
func (w *typeWorker) object(raw []byte, a mem.Addr, size uint64, place int) {
	w.take(w.look(raw, a, size), place)
}

func (w *typeWorker) take(o seenObject, place int) {
	if o.ok {
		w.labels[place] = w.labelOf(labelKey{o.Type, ""})
		w.claims = append(w.claims, o.claims...)
	}
}

// look tells what is in a block.
func (w *typeWorker) look(raw []byte, a mem.Addr, size uint64) seenObject {
	o, ok := w.types.Object(raw, size)
	seen := seenObject{Object: o, ok: ok}
	if !ok {
		return seen
	}
	w.types.Owned(o, raw, func(own cpython.Owned) { seen.claims = w.claim(seen.claims, o.Type, own) })
	if o.IsType() {
		if typ := w.types.At(a + mem.Addr(o.Offset)); typ != nil && typ.SharedKeys() != 0 {
			seen.claims = w.claim(seen.claims, o.Type, cpython.Owned{Addr: typ.SharedKeys(), Role: cpython.SharedKeys})
		}
	}
	return seen
}

func (w *typeWorker) labelOf(key labelKey) int32 {
	n, ok := w.known[key]
	if !ok {
		n = w.label(key)
		w.known[key] = n
	}
	return n
}

// claim adds to claims, if there is such a block. What a rule of thumb finds in the object domain may be an object that
// was not recognised.
func (w *typeWorker) claim(claims []claim, typ *cpython.Type, own cpython.Owned) []claim {
	place, domain, ok := w.owned(own)
	if !ok || own.Weak && domain == Obj {
		return claims
	}
	return append(claims, claim{
		place: int32(place), label: w.labelOf(labelKey{typ, own.Role}), weak: own.Weak, follow: own.Follow,
	})
}

// maxPrefix is how many words may be in front of an array of values: bytes for the order of insertion of at most 30
// values, and two more (Objects/dictobject.c, new_values).
const maxPrefix = 5

// owned is the place of a block that is claimed.
func (ty *typer) owned(own cpython.Owned) (int, Domain, bool) {
	if !own.Prefixed {
		b, place, ok := ty.x.Block(own.Addr)
		return place, Domain(b.Domain), ok
	}
	for words := uint64(1); words <= maxPrefix; words++ {
		b, place, ok := ty.x.Block(own.Addr - mem.Addr(8*words))
		if ok && b.Size >= 8*words && (b.Size%8) == 0 && (b.Size/8-words+2+7)/8 == words {
			return place, Domain(b.Domain), true
		}
	}
	return 0, 0, false
}

// own gives claimed blocks to their owners. Of two that claim the same block for different types, none is believed.
func (ty *typer) own(claims []claim) error {
	const contested = -1
	sure := make([]int32, len(ty.labels))
	weak := map[int32]int32{}
	for _, c := range claims {
		have := sure[c.place]
		if c.weak {
			have = weak[c.place]
		}
		label := c.label
		if have != 0 && have != label {
			label = contested
		}
		if c.weak {
			weak[c.place] = label
		} else {
			sure[c.place] = label
		}
	}
	for place, label := range sure {
		if label != 0 {
			ty.labels[place] = max(label, 0)
		}
	}
	for place, label := range weak {
		if sure[place] == 0 && ty.labels[place] == 0 {
			ty.labels[place] = max(label, 0)
		}
	}
	var from []claim
	for _, c := range claims {
		if c.follow && ty.labels[c.place] == c.label {
			from = append(from, c)
		}
	}
	return ty.follow(from)
}

// maxFollow is the largest block that is searched for pointers to others, bytes.
const maxFollow = 64 << 20

// follow gives to the owner of a block also those that it points to, as far as they are nobody's: chains of blocks.
// No object is in the domains in which they are, so that what is pointed to there is the owner's as well.
func (ty *typer) follow(work []claim) error {
	done := map[int32]bool{}
	for len(work) > 0 {
		var ranges []proc.Range
		var from []claim
		size := 0
		for len(work) > 0 && len(ranges) < lateChunk && size < maxFollow {
			c := work[len(work)-1]
			work = work[:len(work)-1]
			b, ok := ty.x.At(int(c.place))
			if !ok || done[c.place] || b.Size > maxFollow {
				continue
			}
			done[c.place] = true
			ranges = append(ranges, proc.Range{Addr: b.Addr, Len: int(b.Size)})
			from = append(from, c)
			size += int(b.Size)
		}
		found, err := ty.pointedTo(from, ranges)
		if err != nil {
			return err
		}
		for _, c := range found {
			if ty.labels[c.place] == 0 {
				ty.labels[c.place] = c.label
				work = append(work, c)
			}
		}
	}
	return nil
}

// pointedTo are the blocks of nobody's to which the blocks of claims point, that are in these ranges. It looks twice.
func (ty *typer) pointedTo(from []claim, ranges []proc.Range) ([]claim, error) {
	places := make([]int, len(from))
	for i, c := range from {
		places[i] = int(c.place)
	}
	raw, err := gather(ty.t.mem, ranges)
	if err != nil {
		return nil, err
	}
	var found []claim
	var targets, owner []int
	for i, c := range from {
		for b := raw[i]; len(b) >= 8; b = b[8:] {
			to, place, ok := ty.x.Block(mem.Addr(binary.LittleEndian.Uint64(b)))
			if ok && Domain(to.Domain) != Obj && ty.labels[place] == 0 {
				found = append(found, claim{place: int32(place), label: c.label, follow: true})
				targets, owner = append(targets, place), append(owner, i)
			}
		}
	}
	there := slices.Repeat([]bool{true}, len(targets))
	if err := ty.unchanged(targets, there); err != nil {
		return nil, err
	}
	again, err := gather(ty.t.mem, ranges)
	if err != nil {
		return nil, err
	}
	same := slices.Repeat([]bool{true}, len(places))
	if err := ty.unchanged(places, same); err != nil {
		return nil, err
	}
	kept := found[:0]
	for i, c := range found {
		if there[i] && same[owner[i]] && bytes.Equal(raw[owner[i]], again[owner[i]]) {
			kept = append(kept, c)
		}
	}
	return kept, nil
}

// names are the texts of the labels. A type that was made or has gone since the capture, so that its place may have been
// another's, names nothing.
func (ty *typer) names() ([]string, error) {
	names := make([]string, len(ty.keys))
	var places, numbers []int
	for i, k := range ty.keys[1:] {
		names[i+1] = k.typ.Name
		if k.role != "" {
			names[i+1] += " (" + string(k.role) + ")"
		}
		if place, ok := ty.x.Place(ty.types.BlockOf(k.typ)); ok && k.typ.Heap {
			places, numbers = append(places, place), append(numbers, i+1)
		}
	}
	same := slices.Repeat([]bool{true}, len(places))
	if err := ty.unchanged(places, same); err != nil {
		return nil, err
	}
	for i, n := range numbers {
		if !same[i] {
			names[n] = ""
		}
	}
	return names, nil
}

// unchanged clears there of each of the places whose word is not any more the one that was captured.
func (ty *typer) unchanged(places []int, there []bool) error {
	ranges := make([]proc.Range, len(places))
	for i, p := range places {
		ranges[i] = proc.Range{Addr: ty.at + mem.Addr(ty.x.WordOffset(p)), Len: 8}
	}
	raw, err := gather(ty.t.mem, ranges)
	if err != nil {
		return err
	}
	for i, p := range places {
		there[i] = there[i] && raw[i] != nil && binary.LittleEndian.Uint64(raw[i]) == ty.x.Word(p)
	}
	return nil
}

// gather reads ranges, those near to each other together where they are in order. What could not be read is nil.
func gather(m *proc.Mem, ranges []proc.Range) ([][]byte, error) {
	out := make([][]byte, len(ranges))
	merged := make([]proc.Range, 0, proc.MaxRanges)
	members := make([][2]int, 0, proc.MaxRanges) // of each, in ranges
	for next := 0; next < len(ranges); {
		merged, members = merged[:0], members[:0]
		size := 0
		for from := next; from < len(ranges) && len(merged) < proc.MaxRanges && size < maxFollow; from = next {
			r := ranges[from]
			for next++; next < len(ranges); next++ {
				n := ranges[next]
				if n.Addr < r.Addr || n.Addr-r.Addr > mem.Addr(r.Len+maxGap) || int(n.Addr-r.Addr)+n.Len > maxRun {
					break
				}
				r.Len = max(r.Len, int(n.Addr-r.Addr)+n.Len)
			}
			merged, members, size = append(merged, r), append(members, [2]int{from, next}), size+r.Len
		}
		buf := make([]byte, size)
		missing, err := m.Gather(buf, merged)
		if err != nil {
			return nil, err
		}
		for i, r := range merged {
			if len(missing) > 0 && missing[0] == i {
				missing = missing[1:]
			} else {
				for j := members[i][0]; j < members[i][1]; j++ {
					out[j] = buf[ranges[j].Addr-r.Addr:][:ranges[j].Len]
				}
			}
			buf = buf[r.Len:]
		}
	}
	return out, nil
}
