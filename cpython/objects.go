package cpython

import (
	"encoding/binary"

	"github.com/heaptap/heaptap/mem"
)

// HeaderBytes is how much of a block's beginning is looked at to tell what it holds and what that points to.
const HeaderBytes = 256

// Object is what stands in a block.
type Object struct {
	Type   *Type
	Offset uint32 // of the object in its block: collector's head and pre-header are before it
}

// Object tells what stands in a block of the object domain, of size bytes, that begins with b (all of it, or
// [HeaderBytes]). It is false for what is no object, or none any more, or none yet; and where two could be meant.
//
// An object can begin at four places in its block. It must have a reference count there, and a type of which instances
// begin just there and are as large as the block.
func (t *Types) Object(b []byte, size uint64) (Object, bool) {
	b = b[:min(uint64(len(b)), size)]
	var found Object
	n := 0
	try := func(offset uint32) {
		if typ := t.objectAt(b, offset, size); typ != nil {
			found = Object{typ, offset}
			n++
		}
	}
	try(0)
	if t.in.Layout.Header.PreFlags != 0 && t.head != 16 {
		try(16)
	}
	try(t.head)
	if t.in.Layout.Header.PreFlags != 0 {
		try(t.head + 16)
	}
	return found, n == 1
}

func (t *Types) objectAt(b []byte, offset uint32, size uint64) *Type {
	if len(b) < int(offset)+16 {
		return nil
	}
	h := &t.in.Layout.Header
	object := b[offset:]
	at := mem.Addr(binary.LittleEndian.Uint64(object[t.in.Layout.Object.Type.Bytes:]))
	if at < minAddr || at%8 != 0 || at>>47 != 0 || !h.alive(binary.LittleEndian.Uint64(object[h.Count.Bytes:])) {
		return nil
	}
	typ := t.At(at)
	if typ == nil || typ.before != offset || !t.fits(typ, object, size-uint64(offset)) {
		return nil
	}
	if typ.flags&flagHaveGC != 0 && !t.plausibleHead(b[offset-t.head:]) {
		return nil
	}
	return typ
}

// plausibleHead: the collector's head begins with the links of its list. The low bits of the first are marks. An object
// that is not in the list has 0, and where its head has no other words, nothing but a mark in the second.
func (t *Types) plausibleHead(b []byte) bool {
	const marks = 3
	next, prev := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	switch {
	case t.in.Layout.Header.HeadWords > 2:
		return next>>47 == 0 && next%8 == 0 && (next == 0 || next >= minAddr)
	case next == 0:
		return prev&^marks == 0
	}
	return next>>47 == 0 && next >= minAddr
}

// fits reports whether an object of a type can have n bytes. An allocation is rounded up to words
// (_PyObject_VAR_SIZE), and one of a type whose instances vary may be larger than needed, as their size is what is in
// use.
func (t *Types) fits(typ *Type, object []byte, n uint64) bool {
	up := func(n uint64) uint64 { return (n + 7) &^ 7 }
	varies := func(items uint64) bool {
		return items <= maxItems && n >= typ.basic+items*typ.item
	}
	size := func() (int64, bool) {
		at := t.in.Layout.Header.Size.Bytes
		if int(at)+8 > len(object) {
			return 0, false
		}
		return int64(binary.LittleEndian.Uint64(object[at:])), true
	}
	switch typ.shape {
	case shapeInline:
		return n >= typ.basic
	case shapeShort:
		return up(n) == up(typ.basic) || up(n) == up(typ.basic)-8
	case shapeStr:
		return t.strFits(typ, object, n)
	case shapeInt:
		digits, ok := size()
		if shift := t.in.Layout.Header.IntShift; shift != 0 {
			digits = int64(uint64(digits) >> shift)
		}
		return ok && varies(magnitude(digits))
	case shapeItems:
		items, ok := size()
		return ok && items >= 0 && varies(uint64(items))
	}
	return up(n) == up(typ.basic)
}

// maxItems bounds what an object may say of its size, so that multiplying it cannot overflow.
const maxItems = 1 << 40

func magnitude(n int64) uint64 {
	if n < 0 {
		return uint64(-n)
	}
	return uint64(n)
}

// strFits: a compact str has its text behind its header, and a NUL.
func (t *Types) strFits(typ *Type, object []byte, n uint64) bool {
	l := t.in.Layout.Unicode
	if uint64(len(object)) < uint64(l.ASCIIData.Bytes) {
		return false
	}
	length := binary.LittleEndian.Uint64(object[l.Length.Bytes:])
	state := binary.LittleEndian.Uint32(object[l.State.Bytes:])
	kind := uint64(state >> l.KindShift & (1<<l.KindBits - 1))
	if length > maxItems {
		return false
	}
	if state>>l.CompactBit&1 == 0 {
		inline := typ.flags&t.in.Layout.Header.InlineFlag != 0
		return (n+7)&^7 == (typ.basic+7)&^7 || inline && n >= typ.basic
	}
	data := uint64(l.CompactData.Bytes)
	if state>>l.ASCIIBit&1 != 0 {
		data = uint64(l.ASCIIData.Bytes)
	}
	return typ.basic == uint64(l.Size) && (kind == 1 || kind == 2 || kind == 4) && n == data+(length+1)*kind
}

// IsType tells whether the object is itself a type.
func (o Object) IsType() bool { return o.Type.meta }

// SharedKeys is the block in which instances of the type share the keys of their attributes, or 0. It belongs to the
// type.
func (typ *Type) SharedKeys() mem.Addr { return typ.sharedKeys }
