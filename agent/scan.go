package agent

import (
	"iter"
	"unsafe"

	"github.com/heaptap/heaptap/mem"
)

// Scan reads the live map of a running target piece by piece, for those who want to know what is live but not its
// stacks, and must not take as much memory as the tables do.
type Scan struct {
	r      mem.Reader
	a      mem.Addr
	h      *Tables
	bases  []uint64
	leafOf map[uint64]int // by base, made when first needed
	words  []byte
}

// NewScan begins to read the tables at a, of which h is the header. It takes at most limit bytes for itself.
func NewScan(r mem.Reader, a mem.Addr, h *Tables, limit uint64) (*Scan, error) {
	s := &Scan{r: r, a: a, h: h}
	bases, leaves := h.Bases, h.Leaves
	bases.Next = leaves.Next
	var b []byte
	if err := copyWindows(r, a, h.Size, &limit, []window{{&b, bases, 8}}); err != nil {
		return nil, err
	}
	s.bases = view[uint64](b)
	leaves.Next = 0 // looked at, not copied
	return s, copyWindows(r, a, h.Size, &limit, []window{{new([]byte), leaves, leafSize}})
}

// Leaves yields the parts of the address space, all of one size, in which a block ever began, in no order.
func (s *Scan) Leaves() iter.Seq[Range] { return leafRanges(s.bases, s.h) }

// Leaves yields the parts of the address space, all of one size, in which a block ever began, in no order.
func (c *Capture) Leaves() iter.Seq[Range] { return leafRanges(view[uint64](c.bases), &c.Header) }

func leafRanges(bases []uint64, h *Tables) iter.Seq[Range] {
	span := uint64(1) << (LeafWordsLog2 + h.Config.GranuleLog2&63)
	return func(yield func(Range) bool) {
		for _, base := range bases {
			if base != 0 && base < 1<<AddressBits && !yield(Range{base, base + span}) {
				return
			}
		}
	}
}

// Blocks yields the live blocks, without their stacks, in no order. What comes or goes meanwhile may be missing.
func (s *Scan) Blocks() iter.Seq2[Block, error] {
	const piece = 256 // leaves: 1 MiB
	granule := uint(s.h.Config.GranuleLog2) & 63
	return func(yield func(Block, error) bool) {
		for first := 1; first < len(s.bases); first += piece {
			n := min(piece, len(s.bases)-first)
			s.words = resize(s.words, uint64(n)*leafSize)
			if err := s.r.ReadAt(s.words, s.leaf(first)); err != nil {
				yield(Block{}, err)
				return
			}
			words := view[uint64](s.words)
			for i, word := range words {
				base := s.bases[first+i>>LeafWordsLog2]
				if word>>LiveBit == 0 || base == 0 {
					continue
				}
				b := blockOf(mem.Addr(base+uint64(i&(1<<LeafWordsLog2-1))<<granule), word, nil)
				if b.Size == SizeBig {
					var next uint64
					if i&(1<<LeafWordsLog2-1) != 1<<LeafWordsLog2-1 {
						next = words[i+1]
					} else if next = s.wordIn(base + 1<<(LeafWordsLog2+granule)); next == 0 {
						continue
					}
					if b.Size = next; next>>AddressBits != 0 {
						continue
					}
				}
				if b.Domain < Domains && !yield(b, nil) {
					return
				}
			}
		}
	}
}

// leaf is where a leaf stands in the target.
func (s *Scan) leaf(n int) mem.Addr { return s.a + mem.Addr(s.h.Leaves.Offset+uint64(n)*leafSize) }

// wordIn is the first word of the leaf with that base, 0 where there is none.
func (s *Scan) wordIn(base uint64) uint64 {
	if s.leafOf == nil {
		s.leafOf = make(map[uint64]int, len(s.bases))
		for i, b := range s.bases {
			s.leafOf[b] = i
		}
	}
	leaf, ok := s.leafOf[base]
	if !ok || base == 0 {
		return 0
	}
	word, err := mem.U64(s.r, s.leaf(leaf))
	if err != nil {
		return 0
	}
	return word
}

// Mappings reads the list of mappings that the target made itself, of the tables at a, of which h is the header.
func Mappings(r mem.Reader, a mem.Addr, h *Tables) ([]Mapping, error) {
	limit := mostMappings * uint64(unsafe.Sizeof(Mapping{}))
	var b []byte
	if err := copyWindows(r, a, h.Size, &limit, []window{{&b, h.Mappings, uint64(unsafe.Sizeof(Mapping{}))}}); err != nil {
		return nil, err
	}
	return view[Mapping](b), nil
}
