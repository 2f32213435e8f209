package call

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/heaptap/heaptap/mem"
)

// cave is where in the target the instructions of a borrowing are. They are the same for every tracer and, once
// written, stay: bytes that nothing refers to need no undoing, and a tracer that was killed cannot leave them half
// undone.
type cave struct {
	at mem.Addr
}

// The addresses inside a cave; the code itself is in caveCode, per processor.
func (c cave) syscall() mem.Addr   { return c.at + caveSyscall }
func (c cave) sigreturn() mem.Addr { return c.at + caveSigreturn }
func (c cave) call() mem.Addr      { return c.at + caveCall }
func (c cave) marker() mem.Addr    { return c.at + caveMarker } // just behind the marker system call
func (c cave) shelter() mem.Addr   { return c.at + caveShelter }
func (c cave) record() mem.Addr    { return c.at + mem.Addr(caveRecord) }

// contains reports whether a program counter is in the cave's code.
func (c cave) contains(pc mem.Addr) bool { return c.at <= pc && pc < c.at+mem.Addr(len(caveCode)) }

// caveRecord is the record's place, behind the code; caveSize is the whole.
var (
	caveRecord = (len(caveCode) + 7) &^ 7
	caveSize   = caveRecord + recordSize
)

// placeCave finds a tail for the cave and writes it there, unless it is there already.
func placeCave(m mem.Memory, tails []tail) (cave, error) {
	err := errors.New("no executable page has an unused tail")
	for _, t := range tails {
		at, ok := t.caveAt()
		if !ok {
			continue
		}
		if err = digCave(m, at); err == nil {
			return cave{at}, nil
		}
	}
	return cave{}, fmt.Errorf("place for code: %w", err)
}

// findCave finds the cave that an earlier tracer placed.
func findCave(m mem.Memory, tails []tail) (cave, bool) {
	for _, t := range tails {
		if at, ok := t.caveAt(); ok {
			if now, err := mem.Bytes(m, at, len(caveCode)); err == nil && bytes.Equal(now, caveCode) {
				return cave{at}, true
			}
		}
	}
	return cave{}, false
}

// caveAt is where in the tail a cave goes, if there is room.
func (t tail) caveAt() (mem.Addr, bool) {
	at := (t.End - mem.Addr(caveSize)).AlignDown(16)
	return at, t.Exec && at >= t.Start
}

func digCave(m mem.Memory, at mem.Addr) error {
	now := make([]byte, caveSize)
	if err := m.ReadAt(now, at); err != nil {
		return err
	}
	if bytes.HasPrefix(now, caveCode) {
		return nil
	}
	// The record first: code without a record would be taken for a used cave.
	if err := m.WriteAt(make([]byte, recordSize), at+mem.Addr(caveRecord)); err != nil {
		return err
	}
	return m.WriteAt(caveCode, at)
}

// record says in the target's memory which thread is borrowed, and which memory its frames and stack are in: two
// regions while it moves from one to the other. Thread 0 means that none is. Arena is the memory that a session mapped
// for itself, or is about to map, and that is still to be given back.
type record struct {
	Tid    uint64
	Region [2]region
	Arena  region
}

// region is [Lo, Hi) of the target's memory. In a record it is all that a borrowed thread's stack pointer may be at:
// the stack, the frame's first word, and the place behind it, where the stack pointer is at rt_sigreturn.
type region struct{ Lo, Hi mem.Addr }

func (r region) contains(a mem.Addr) bool { return r.Lo <= a && a < r.Hi }

// stackTo is the region of a record for a stack from lo on with the frame at f.
func stackTo(lo, f mem.Addr) region { return region{lo, f + 16} }

// frame is where the frame is, in a region of a record.
func (r region) frame() mem.Addr { return r.Hi - 16 }

const recordSize = 7 * 8

func (r *record) regions() [3]*region { return [...]*region{&r.Region[0], &r.Region[1], &r.Arena} }

func (r record) encode(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b, r.Tid)
	for i, g := range r.regions() {
		le.PutUint64(b[8+16*i:], uint64(g.Lo))
		le.PutUint64(b[16+16*i:], uint64(g.Hi))
	}
}

func decodeRecord(b []byte) record {
	le := binary.LittleEndian
	r := record{Tid: le.Uint64(b)}
	for i, g := range r.regions() {
		*g = region{mem.Addr(le.Uint64(b[8+16*i:])), mem.Addr(le.Uint64(b[16+16*i:]))}
	}
	return r
}
