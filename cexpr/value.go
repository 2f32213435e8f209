package cexpr

import (
	"fmt"
	"math/big"

	"github.com/heaptap/heaptap/mem"
)

// Value is a typed value, with the place that it came from, if any.
type Value struct {
	Type  *Type
	Bytes []byte // as in memory, sizeof(Type) long; empty for void and functions
	// Lvalue tells that it lies in memory at Addr; functions do too.
	Lvalue bool
	Addr   mem.Addr

	place   place   // a register or a named variable instead of memory
	field   *Field  // of a bit-field: it is at the bit BitOffset from Addr
	literal bool    // an array from a string literal
	callee  *callee // of functions and pointers to them: how the name was resolved
	unread  bool    // Bytes are still to be read from Addr
	unknown string  // planning: what it will be; Bytes and Addr are meaningless
}

// place is where an assignment goes when not into memory.
type place struct {
	register string // a whole register
	variable string // a named variable
	offset   int64  // from its first byte
	part     bool   // a member or element of it
}

func (p place) known() bool { return p != place{} }

// assignable tells whether a value can be stored where v came from.
func (v Value) assignable() bool { return v.Lvalue && !v.Type.is(FunctionType) || v.place.known() }

// number is the value of an integer.
func (v Value) number() *big.Int {
	u := v.Type.under()
	if u.Kind == Enumeration && !u.Signed || u.Kind == Pointer || u.Kind == Bool {
		return integerOf(v.Bytes, false)
	}
	return integerOf(v.Bytes, u.Signed)
}

// pointer is the value of a pointer.
func (v Value) pointer() mem.Addr { return mem.Addr(integerOf(v.Bytes, false).Uint64()) }

// real is the value of a floating value.
func (v Value) real() real { return realOf(v.Bytes, v.Type.under()) }

// truth tells whether a scalar is not 0.
func (v Value) truth() (bool, error) {
	switch {
	case v.Type.is(Floating):
		r := v.real()
		return r.value == nil || r.value.Sign() != 0, nil
	case v.Type.is(Complex):
		re, im := v.parts()
		a, _ := re.truth()
		b, _ := im.truth()
		return a || b, nil
	case v.Type.scalar():
		return v.number().Sign() != 0, nil
	}
	return false, fmt.Errorf("a value of type %s is neither true nor false", v.Type)
}

// parts are the real and the imaginary part of a complex value.
func (v Value) parts() (re, im Value) {
	u := v.Type.under()
	half := len(v.Bytes) / 2
	return Value{Type: u.Elem, Bytes: v.Bytes[:half]}, Value{Type: u.Elem, Bytes: v.Bytes[half:]}
}

func integerValue(n *big.Int, t *Type) Value {
	return Value{Type: t, Bytes: integerBytes(n, t.under().Size)}
}

func intValue(n int64, t *Type) Value { return integerValue(big.NewInt(n), t) }

func pointerValue(a mem.Addr, t *Type) Value {
	return integerValue(new(big.Int).SetUint64(uint64(a)), t)
}

func realValue(r real, t *Type) Value { return Value{Type: t, Bytes: r.bytes(t.under())} }

// truthValue is the int that comparisons give.
func truthValue(b bool) Value {
	if b {
		return intValue(1, intType())
	}
	return intValue(0, intType())
}

// bitField takes a bit-field's value out of the bytes that hold it, from the byte of its first bit.
func bitField(b []byte, f *Field) []byte {
	u := f.Type.under()
	n := integerOf(b, false)
	n.Rsh(n, uint(f.BitOffset%8))
	mask := new(big.Int).Lsh(big.NewInt(1), uint(f.BitSize))
	mask.Sub(mask, big.NewInt(1))
	n.And(n, mask)
	signed := u.Signed
	if signed && n.Bit(int(f.BitSize-1)) == 1 {
		n.Sub(n, mask).Sub(n, big.NewInt(1))
	}
	return integerBytes(n, u.Size)
}

// setBitField puts a value into the bytes that hold a bit-field.
func setBitField(b []byte, f *Field, value *big.Int) []byte {
	mask := new(big.Int).Lsh(big.NewInt(1), uint(f.BitSize))
	mask.Sub(mask, big.NewInt(1))
	bits := new(big.Int).And(value, mask) // of a negative number as of its two's complement
	shift := uint(f.BitOffset % 8)
	n := integerOf(b, false)
	n.AndNot(n, mask.Lsh(mask, shift))
	n.Or(n, bits.Lsh(bits, shift))
	return integerBytes(n, int64(len(b)))
}

// bitFieldSpan is which bytes of its structure hold a bit-field.
func bitFieldSpan(f *Field) (offset, size int64) {
	offset = f.BitOffset / 8
	return offset, (f.BitOffset+f.BitSize+7)/8 - offset
}
