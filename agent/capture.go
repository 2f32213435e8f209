package agent

import (
	"fmt"
	"iter"
	"math"
	"unsafe"

	"golang.org/x/sync/errgroup"

	"github.com/heaptap/heaptap/mem"
)

// Capture is a copy of an agent's tables. Copy takes what changes (live map, counters), and is what a dump does while
// the target stands still; names are only ever added to, and are copied by CopyNames when the target runs again.
// Copying again into the same Capture uses its memory again.
type Capture struct {
	Header Tables

	// Running says that the target runs while it is copied: blocks whose words do not go together came or went
	// meanwhile and are passed over. Otherwise they are damage.
	Running bool

	nodes, stats       []byte
	others             []byte
	threads, slots     []byte
	timeline, resident []byte
	mappings           []byte
	leaves, bases      []byte
	codes, arena       []byte

	objects, objectNames []byte
	leafByBase           map[uint64]int
}

// Block is one live block.
type Block struct {
	Addr   mem.Addr
	Size   uint64 // as requested
	Node   uint32 // its stack
	Domain uint8
	Epoch  uint32
}

// Copy reads the tables whose header is at a. It reads at most limit bytes, for which the caller takes what the tables
// really occupy: a count that claims more is damage, not a reason to allocate.
func (c *Capture) Copy(r mem.Reader, a mem.Addr, limit uint64) error {
	if err := r.ReadAt(bytesOf(&c.Header), a); err != nil {
		return err
	}
	h := &c.Header
	if h.Magic != Magic || h.Fingerprint != Fingerprint() {
		return fmt.Errorf("tables at %v: %w", a, ErrNoTables)
	}
	bases := h.Bases // filled as leaves are taken
	bases.Next = h.Leaves.Next
	c.leafByBase = nil
	err := copyWindows(r, a, h.Size, &limit, []window{{&c.bases, bases, 8}, {&c.leaves, h.Leaves, leafSize}})
	if err != nil {
		return err
	}
	if len(c.bases)/8 != len(c.leaves)/leafSize {
		return badTables("%d leaves with %d bases", len(c.leaves)/leafSize, len(c.bases)/8)
	}
	// A block is noted after its stack: where the target runs, the stacks of all blocks are there only by now.
	fresh := new(Tables)
	if err := r.ReadAt(bytesOf(fresh), a); err != nil {
		return err
	}
	nodes, stats, others, slots := h.Nodes, h.Stats, h.Others, h.Slots
	nodes.Next, stats.Next, others.Next, slots.Next = fresh.Nodes.Next, fresh.Stats.Next, fresh.Others.Next, fresh.Slots.Next
	err = copyWindows(r, a, h.Size, &limit, []window{
		{&c.nodes, nodes, nodeSize}, {&c.stats, stats, statSize}, {&c.others, others, othersSize}, {&c.slots, slots, 4},
		{&c.timeline, h.Timeline, pointSize}, {&c.resident, h.Resident, pointSize},
		{&c.mappings, h.Mappings, uint64(unsafe.Sizeof(Mapping{}))},
	})
	if err != nil {
		return err
	}
	return c.copyThreads(r, a)
}

// CopyNames reads the code table and the strings that it refers to.
func (c *Capture) CopyNames(r mem.Reader, a mem.Addr, limit uint64) error {
	h := &c.Header
	fresh := new(Tables)
	if err := r.ReadAt(bytesOf(fresh), a); err != nil {
		return err
	}
	codes, arena, objects, names := h.Codes, h.Arena, h.Objects, h.ObjectNames
	codes.Next, arena.Next, objects.Next, names.Next = fresh.Codes.Next, fresh.Arena.Next, fresh.Objects.Next, fresh.ObjectNames.Next
	return copyWindows(r, a, h.Size, &limit, []window{
		{&c.codes, codes, uint64(unsafe.Sizeof(Code{}))}, {&c.arena, arena, 1},
		{&c.objects, objects, uint64(unsafe.Sizeof(Object{}))}, {&c.objectNames, names, 1},
	})
}

// ReadThreads reads the threads' records of the tables at a, of which h is the header.
func ReadThreads(r mem.Reader, a mem.Addr, h *Tables) ([]Thread, error) {
	c := Capture{Header: *h}
	limit := uint64(maxThreads * 4)
	if err := copyWindows(r, a, h.Size, &limit, []window{{&c.slots, h.Slots, 4}}); err != nil {
		return nil, err
	}
	if err := c.copyThreads(r, a); err != nil {
		return nil, err
	}
	return c.Threads(), nil
}

func (c *Capture) copyThreads(r mem.Reader, a mem.Addr) error {
	slots := view[uint32](c.slots)
	size := uint64(unsafe.Sizeof(Thread{}))
	w := c.Header.Threads
	if w.Offset > c.Header.Size || w.Entries > (c.Header.Size-w.Offset)/size {
		return badTables("%d threads at %#x do not fit", w.Entries, w.Offset)
	}
	if len(slots) > maxThreads {
		return badTables("%d threads, where there is room for %d", len(slots), maxThreads)
	}
	c.threads = resize(c.threads, uint64(len(slots))*size)
	threads := view[Thread](c.threads)
	for i, slot := range slots {
		if slot == 0 { // its thread is being added at this moment
			threads[i] = Thread{}
			continue
		}
		if uint64(slot) > w.Entries {
			return badTables("thread %d of %d", slot, w.Entries)
		}
		if err := r.ReadAt(bytesOf(&threads[i]), a+mem.Addr(w.Offset+uint64(slot-1)*size)); err != nil {
			return err
		}
	}
	return nil
}

// window is the used part of a window, to be copied to a buffer.
type window struct {
	to    *[]byte
	win   Window
	entry uint64 // bytes
}

// copyWindows copies windows of the tables at a, which are `total` bytes. What it copies is taken off limit.
func copyWindows(r mem.Reader, a mem.Addr, total uint64, limit *uint64, windows []window) error {
	var work []part
	for _, w := range windows {
		p, err := prepare(w.to, a, w.win, w.entry, total, limit)
		if err != nil {
			return err
		}
		work = append(work, p)
	}
	return readParts(r, work)
}

// part is one range to copy.
type part struct {
	to   []byte
	from mem.Addr
}

// prepare makes buf as long as the used part of a window and says what to copy there.
func prepare(buf *[]byte, base mem.Addr, w Window, entry, total uint64, limit *uint64) (part, error) {
	used := min(w.Next, w.Entries)
	if w.Offset > total || w.Entries > (total-w.Offset)/entry {
		return part{}, badTables("window of %d entries of %d bytes at %#x does not fit into %d", w.Entries, entry, w.Offset, total)
	}
	if used*entry > *limit {
		return part{}, badTables("%d entries of %d bytes are more than is in memory", used, entry)
	}
	*limit -= used * entry
	*buf = resize(*buf, used*entry)
	return part{to: *buf, from: base + mem.Addr(w.Offset)}, nil
}

// resize returns b with n bytes, 8-byte aligned, growing with room to spare so that a copy soon after needs no other.
func resize(b []byte, n uint64) []byte {
	if n <= uint64(cap(b)) {
		return b[:n]
	}
	words := make([]uint64, (n+n/8+4096)/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*8)[:n]
}

// readParts copies in pieces, two at a time: one core does not use a memory's whole width.
func readParts(r mem.Reader, parts []part) error {
	const piece = 4 << 20
	var g errgroup.Group
	g.SetLimit(2)
	for _, p := range parts {
		for len(p.to) > 0 {
			n := min(piece, len(p.to))
			to, from := p.to[:n], p.from
			g.Go(func() error { return r.ReadAt(to, from) })
			p.to, p.from = p.to[n:], p.from+mem.Addr(n)
		}
	}
	return g.Wait()
}

// Blocks yields every live block, in no useful order, and behind them the mappings. It yields an error and stops where
// the tables are damaged.
func (c *Capture) Blocks() iter.Seq2[Block, error] {
	return func(yield func(Block, error) bool) {
		for b, err := range c.liveBlocks() {
			if !yield(b, err) || err != nil {
				return
			}
		}
		c.mapped(yield)
	}
}

// mapped yields the mappings that the target made, or what is left of each.
func (c *Capture) mapped(yield func(Block, error) bool) {
	stats, nodes := c.Stats(), uint32(len(c.nodes)/int(nodeSize))
	for _, m := range view[Mapping](c.mappings) {
		b := Block{Addr: mem.Addr(m.Start), Size: m.End - m.Start, Node: math.MaxUint32, Domain: uint8(m.Domain), Epoch: m.Epoch}
		if uint64(m.Stat) < uint64(len(stats)) {
			b.Node = stats[m.Stat].Node
		}
		bad := b.Node >= nodes || m.Domain >= Domains || m.End < m.Start
		switch {
		case bad && c.Running: // it was changed while it was read
			continue
		case bad:
			yield(Block{}, badTables("mapping at %v has stack %d and domain %d", b.Addr, b.Node, m.Domain))
			return
		case !yield(b, nil):
			return
		}
	}
}

// liveBlocks yields those of the live map.
func (c *Capture) liveBlocks() iter.Seq2[Block, error] {
	return func(yield func(Block, error) bool) {
		bases := view[uint64](c.bases)
		words := view[uint64](c.leaves)
		granule := uint(c.Header.Config.GranuleLog2)
		stats, nodes := c.Stats(), uint32(len(c.nodes)/int(nodeSize))
		for leaf := 1; leaf < len(words)>>LeafWordsLog2; leaf++ {
			base := bases[leaf]
			if base == 0 {
				continue
			}
			for i, word := range words[leaf<<LeafWordsLog2:][:1<<LeafWordsLog2] {
				if word>>LiveBit == 0 {
					continue
				}
				b := blockOf(mem.Addr(base+uint64(i)<<granule), word, stats)
				if c.Running && b.Node >= nodes {
					continue
				}
				if b.Node >= nodes || b.Domain >= Domains {
					yield(Block{}, badTables("block at %v has stack %d and domain %d", b.Addr, b.Node, b.Domain))
					return
				}
				if b.Size == SizeBig {
					var ok bool
					if b.Size, ok = c.bigSize(uint64(b.Addr) + 1<<granule); !ok {
						// One that was freed where the agent does not see it, and of which the place serves others.
						if c.Running || c.Header.HasNative != 0 {
							continue
						}
						yield(Block{}, badTables("block at %v has no size", b.Addr))
						return
					}
				}
				if !yield(b, nil) {
					return
				}
			}
		}
	}
}

// blockOf is what the word of address a says. A stack of which nothing is known has a number beyond all.
func blockOf(a mem.Addr, word uint64, stats []Stat) Block {
	b := Block{
		Addr:   a,
		Size:   word >> SizeShift & SizeBig,
		Node:   math.MaxUint32,
		Domain: uint8(word >> DomainShift & (1<<DomainBits - 1)),
		Epoch:  uint32(word >> EpochShift & (1<<EpochBits - 1)),
	}
	if stat := word & (1<<StackBits - 1); stat < uint64(len(stats)) {
		b.Node = stats[stat].Node
	}
	return b
}

// bigSize is the size that stands in the word of address a.
func (c *Capture) bigSize(a uint64) (uint64, bool) {
	bases, words := view[uint64](c.bases), view[uint64](c.leaves)
	granule := uint(c.Header.Config.GranuleLog2)
	if c.leafByBase == nil {
		c.leafByBase = make(map[uint64]int, len(bases))
		for i, b := range bases {
			c.leafByBase[b] = i
		}
	}
	const mask = 1<<LeafWordsLog2 - 1
	leaf, ok := c.leafByBase[a>>(granule+LeafWordsLog2)<<(granule+LeafWordsLog2)]
	at := leaf<<LeafWordsLog2 + int(a>>granule&mask)
	if !ok || leaf == 0 || at >= len(words) || words[at]>>AddressBits != 0 {
		return 0, false
	}
	return words[at], true
}

// Nodes are the trie's nodes; the first [FirstNode] are never used. A node's parent has a smaller number.
func (c *Capture) Nodes() []Node { return view[Node](c.nodes) }

// Stats are what was counted at each stack that allocates; the first is never used.
func (c *Capture) Stats() []Stat { return view[Stat](c.stats) }

// Others is what a stat has apart; nil for most.
func (c *Capture) Others(s *Stat) *Others {
	all := view[Others](c.others)
	if s.Others == 0 || uint64(s.Others) >= uint64(len(all)) { // beyond: made since
		return nil
	}
	return &all[s.Others]
}

// Freed is what was freed of a stat's blocks, scaled as the stat is.
func (c *Capture) Freed(s *Stat) (blocks, bytes uint64) {
	blocks, bytes = s.FreedBlocks, s.FreedBytes
	if o := c.Others(s); o != nil {
		blocks, bytes = blocks+o.FreedBlocks, bytes+o.FreedBytes
	}
	return blocks, bytes
}

// AtPeak is what was live at a node's stack when the most bytes were: blocks and bytes, scaled as the stat is.
func (c *Capture) AtPeak(s *Stat) (blocks, bytes uint64) {
	if c.Header.Rising == 0 && s.Peak == uint32(c.Header.Peak) {
		return s.PeakBlocks, s.PeakBytes
	}
	blocks, bytes = c.Freed(s)
	return s.AllocBlocks - blocks, s.AllocBytes - bytes // not changed since
}

// Timeline is how many bytes were live, now and then: the agent's own record, oldest first.
func (c *Capture) Timeline() []Point { return view[Point](c.timeline) }

// Resident is how many bytes of the process were in memory each time that somebody looked; see [AddResident].
func (c *Capture) Resident() []Point { return view[Point](c.resident) }

// FirstNode is the smallest node number in use.
const FirstNode = nodeBatch

// Threads are the records of threads that have allocated, in the order of their coming. A record of zeros is one that
// was being made.
func (c *Capture) Threads() []Thread { return view[Thread](c.threads) }

// ThreadNumber is the number that the thread's root node holds, for the i-th of Threads.
func (c *Capture) ThreadNumber(i int) int32 { return int32(view[uint32](c.slots)[i]) - 1 }

// Codes are the code objects, by code number; those below [CodeFirst] have special meanings.
func (c *Capture) Codes() []Code { return view[Code](c.codes) }

// Bytes returns the data of a blob: Length times Kind bytes, or nothing for an absent one.
func (c *Capture) Bytes(b Blob) ([]byte, error) {
	return within(c.arena, c.Header.Arena.Offset, b)
}

// within is a blob's data in a window's copy; base is the window's offset.
func within(window []byte, base uint64, b Blob) ([]byte, error) {
	n, size := uint64(b.Length)*uint64(b.Kind), uint64(len(window))
	if n == 0 {
		return nil, nil
	}
	if b.Offset < base || b.Offset-base > size || n > size-(b.Offset-base) {
		return nil, badTables("string of %d bytes at %#x", n, b.Offset)
	}
	return window[b.Offset-base:][:n], nil
}

// AddResident notes in the tables at a, of which h is the header, that the process had so many bytes in memory at an
// epoch. When there is no more room, every second older point goes. Two who do so at the same time may lose a point.
func AddResident(m mem.Memory, a mem.Addr, h *Tables, epoch uint32, resident uint64) error {
	w := h.Resident
	if w.Offset > h.Size || w.Entries > (h.Size-w.Offset)/pointSize || w.Entries < 2 || w.Entries > timelinePoints {
		return badTables("%d points at %#x do not fit", w.Entries, w.Offset)
	}
	next := mem.Addr(unsafe.Offsetof(h.Resident) + unsafe.Offsetof(w.Next))
	n, err := mem.U64(m, a+next)
	if err != nil {
		return err
	}
	if n >= w.Entries {
		ring := resize(nil, w.Entries*pointSize)
		if err := m.ReadAt(ring, a+mem.Addr(w.Offset)); err != nil {
			return err
		}
		n = w.Entries / 2
		points := view[Point](ring)
		for i := range n {
			points[i] = points[2*i]
		}
		if err := m.WriteAt(ring[:n*pointSize], a+mem.Addr(w.Offset)); err != nil {
			return err
		}
	}
	p := Point{Epoch: epoch, Bytes: resident}
	if err := m.WriteAt(bytesOf(&p), a+mem.Addr(w.Offset+n*pointSize)); err != nil {
		return err
	}
	n++
	return m.WriteAt(bytesOf(&n), a+next)
}

// Epoch is how the tables hold a number of seconds since tracking began.
func Epoch(seconds uint64) uint32 {
	if seconds >= EpochFine {
		seconds = EpochFine + (seconds-EpochFine)/EpochCoarse
	}
	return uint32(min(seconds, EpochLast))
}

// Seconds is the age clock's reading for an epoch, from when tracking began.
func Seconds(epoch uint32) uint32 {
	if epoch < EpochFine {
		return epoch
	}
	return EpochFine + (epoch-EpochFine)*EpochCoarse
}
