package agent

import (
	"cmp"
	"slices"
	"unsafe"

	"github.com/heaptap/heaptap/mem"
)

// Index finds the blocks of a capture by their addresses. It holds until the capture is copied again, and may be used
// from several goroutines.
//
// A place is the index of a block's word among all copied words of the live map, for arrays beside it.
type Index struct {
	c      *Capture
	words  []uint64
	leaves map[uint64]int // by base address
	order  []int          // leaves by base address
	shift  uint           // of an address to its granule
}

// NewIndex makes the index of what was copied.
func (c *Capture) NewIndex() *Index {
	bases := view[uint64](c.bases)
	x := &Index{
		c: c, words: view[uint64](c.leaves), leaves: make(map[uint64]int, len(bases)),
		shift: uint(c.Header.Config.GranuleLog2),
	}
	for leaf := 1; leaf < len(bases); leaf++ {
		if bases[leaf] != 0 {
			x.leaves[bases[leaf]] = leaf
			x.order = append(x.order, leaf)
		}
	}
	slices.SortFunc(x.order, func(a, b int) int { return cmp.Compare(bases[a], bases[b]) })
	return x
}

// Places is the number of places.
func (x *Index) Places() int { return len(x.words) }

// Place is the place of the word for address a. It is false for an address of which nothing was ever recorded.
func (x *Index) Place(a mem.Addr) (int, bool) {
	granule := uint64(a) >> x.shift
	leaf, ok := x.leaves[granule>>LeafWordsLog2<<LeafWordsLog2<<x.shift]
	return leaf<<LeafWordsLog2 | int(granule&(1<<LeafWordsLog2-1)), ok
}

// Recorded reports whether the target's live map, whose tables are at tables, has a place for address a by now.
func (x *Index) Recorded(r mem.Reader, tables, a mem.Addr) (bool, error) {
	h := &x.c.Header
	granule := uint64(a) >> x.shift
	root := granule >> (LeafWordsLog2 + MidEntriesLog2)
	if root >= h.Root.Entries {
		return false, nil
	}
	mid, err := mem.U32(r, tables+mem.Addr(h.Root.Offset+4*root))
	if err != nil || mid == 0 || uint64(mid) >= h.Mids.Entries {
		return false, err
	}
	entry := uint64(mid)<<MidEntriesLog2 + granule>>LeafWordsLog2&(1<<MidEntriesLog2-1)
	leaf, err := mem.U32(r, tables+mem.Addr(h.Mids.Offset+4*entry))
	return leaf != 0, err
}

// Word is the word at a place, as it was copied.
func (x *Index) Word(place int) uint64 { return x.words[place] }

// A Counter is a word that the target changes: what it was when it was copied, and where it is, from the header of the
// tables on.
type Counter struct{ Value, Offset uint64 }

// Freed is what changes when a block of the same stack as the block at a place is freed: while both stay, the block is
// there.
func (x *Index) Freed(place int) [2]Counter {
	at := x.words[place] & (1<<StackBits - 1)
	var s Stat
	if stats := x.c.Stats(); at < uint64(len(stats)) {
		s = stats[at]
	}
	h := &x.c.Header
	base := h.Stats.Offset + at*statSize
	own := Counter{s.FreedBlocks, base + uint64(unsafe.Offsetof(s.FreedBlocks))}
	if o := x.c.Others(&s); o != nil {
		return [2]Counter{own, {o.FreedBlocks, h.Others.Offset + uint64(s.Others)*othersSize + uint64(unsafe.Offsetof(o.FreedBlocks))}}
	}
	// Other threads have freed none, and begin to with a number in the word that has the owner.
	return [2]Counter{own, {uint64(s.Others)<<32 | uint64(s.Owner), base + uint64(unsafe.Offsetof(s.Owner))}}
}

// WordOffset is where the word at a place stands in the target, from the header of its tables on.
func (x *Index) WordOffset(place int) uint64 { return x.c.Header.Leaves.Offset + 8*uint64(place) }

// Block is the block that begins at a, and its place.
func (x *Index) Block(a mem.Addr) (Block, int, bool) {
	place, ok := x.Place(a)
	if !ok || uint64(a)&(1<<x.shift-1) != 0 || x.words[place]>>LiveBit == 0 {
		return Block{}, 0, false
	}
	b, ok := x.block(place, a)
	return b, place, ok
}

// At is the block whose place is given.
func (x *Index) At(place int) (Block, bool) {
	base := view[uint64](x.c.bases)[place>>LeafWordsLog2]
	if base == 0 || x.words[place]>>LiveBit == 0 {
		return Block{}, false
	}
	return x.block(place, mem.Addr(base+uint64(place&(1<<LeafWordsLog2-1))<<x.shift))
}

// block decodes the live word at a place. It is false where a large block has no size.
func (x *Index) block(place int, a mem.Addr) (Block, bool) {
	b := blockOf(a, x.words[place], x.c.Stats())
	if b.Size != SizeBig {
		return b, true
	}
	next, ok := x.Place(a + 1<<x.shift)
	if !ok || x.words[next]>>AddressBits != 0 {
		return Block{}, false
	}
	b.Size = x.words[next]
	return b, true
}

// Leaves is the number of leaves of the live map: pieces of the address space, in its order.
func (x *Index) Leaves() int { return len(x.order) }

// Each visits the live blocks of the i-th leaf, with their places, by address.
func (x *Index) Each(i int, visit func(Block, int)) {
	leaf := x.order[i]
	base := view[uint64](x.c.bases)[leaf]
	for at := range 1 << LeafWordsLog2 {
		place := leaf<<LeafWordsLog2 | at
		if x.words[place]>>LiveBit == 0 {
			continue
		}
		if b, ok := x.block(place, mem.Addr(base+uint64(at)<<x.shift)); ok {
			visit(b, place)
		}
	}
}
