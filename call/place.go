package call

import (
	"bytes"
	"slices"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/ptrace"
)

const (
	// placeSize is the room taken on a borrowed thread's own stack: a frame, and below it space for a signal handler,
	// should one run before the signals are blocked and we are dead. Places are aligned to it.
	placeSize = 8 * pageSize
	// placeDepth is how far below the stack pointer a place is looked for.
	placeDepth = 1 << 20
)

// placeMark is at the upper end of a place that has been used, so that it is used again: else each borrowing would
// touch further pages of the target's stack.
var placeMark = []byte("heaptap's place\x00")

// findPlace finds memory for the first frame of a stopped thread: pages of its own stack, below the stack pointer,
// that were never touched, or only by an earlier borrowing. No other thread uses those, and no handler's or
// coroutine's frame can be in them. Where it has no such pages, the second result is false.
func (pl *Plan) findPlace(tid int, regs *ptrace.Regs, buf []byte) (region, bool) {
	m, top, ok := pl.ownStack(tid, regs)
	if !ok || top < m.Start+2*pageSize {
		return region{}, false
	}
	hi := (top - pageSize).AlignDown(placeSize) // a page is more than the red zone
	low := m.Start + pageSize
	if hi > low+placeDepth {
		low = hi - placeDepth
	}
	for ; hi >= low+placeSize; hi -= placeSize {
		if pl.usablePlace(hi, buf) {
			return region{hi - placeSize, hi - mem.Addr(len(placeMark))}, true
		}
	}
	return region{}, false
}

// usablePlace reports whether the place that ends at hi is marked as one, or untouched; then it marks it.
func (pl *Plan) usablePlace(hi mem.Addr, buf []byte) bool {
	const pages = placeSize / pageSize
	touched, err := pl.memory.Touched(hi-placeSize, pages, buf)
	if err != nil {
		return false
	}
	at := hi - mem.Addr(len(placeMark))
	if touched[pages-1] {
		mark := buf[:len(placeMark)]
		return pl.memory.ReadAt(mark, at) == nil && bytes.Equal(mark, placeMark)
	}
	return !slices.Contains(touched, true) && pl.memory.WriteAt(placeMark, at) == nil
}

// ownStack finds the mapping of the thread's own stack, and where in it the stack may be in use from: the stack
// pointer, or the end of the mapping when the thread runs on another stack (a signal's, a coroutine's).
//
// The first thread's is the kernel's [stack]. Another thread's is known by the C library's thread structure, whose
// first word points to itself, at the upper end of the same mapping; a thread without one (Go's) has none.
func (pl *Plan) ownStack(tid int, regs *ptrace.Regs) (m proc.Mapping, top mem.Addr, ok bool) {
	sp, tp := regs.SP(), regs.ThreadPointer()
	if tid == pl.process.Pid {
		if pl.stack.Contains(sp) {
			return pl.stack, sp, true
		}
		return pl.stack, pl.stack.End, pl.stack.Size() > 0
	}
	m, ok = findMapping(pl.maps, tp)
	if !ok || m.Inode != 0 || m.Shared || !m.Read || !m.Write || !m.Contains(sp) || sp >= tp {
		return m, 0, false
	}
	self, err := mem.Pointer(pl.memory, tp)
	return m, sp, err == nil && self == tp
}

// findShelf finds unused bytes in a read-only page for a frame, in case a thread has no place on its stack.
func findShelf(tails []tail, c cave) mem.Addr {
	for _, t := range tails {
		end := t.End
		if c.at >= t.Start && c.at < t.End {
			end = c.at
		}
		if end-t.Start >= shelfSize {
			return end.AlignDown(16)
		}
	}
	return 0
}

// shelfSize is room for a frame with AVX-512 state; a thread with more (AMX) does not fit, which is noticed then.
const shelfSize = 3200
