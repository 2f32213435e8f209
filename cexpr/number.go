package cexpr

import (
	"errors"
	"fmt"
	"math"
	"math/big"
)

// integerOf reads a little-endian integer.
func integerOf(b []byte, signed bool) *big.Int {
	be := make([]byte, len(b))
	for i, x := range b {
		be[len(b)-1-i] = x
	}
	n := new(big.Int).SetBytes(be)
	if signed && len(b) > 0 && b[len(b)-1]&0x80 != 0 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(len(b))*8))
	}
	return n
}

// integerBytes writes n into size bytes, wrapped as the CPU does.
func integerBytes(n *big.Int, size int64) []byte {
	modulus := new(big.Int).Lsh(big.NewInt(1), uint(size)*8)
	be := new(big.Int).Mod(n, modulus).FillBytes(make([]byte, size)) // Mod is never negative
	for i, j := 0, len(be)-1; i < j; i, j = i+1, j-1 {
		be[i], be[j] = be[j], be[i]
	}
	return be
}

var errDivision = errors.New("division by zero")

// integerOperation computes with whole numbers, before they are wrapped. width is of the result's type, in bits: the
// CPU takes shift counts modulo 64 for it, else modulo 32.
func integerOperation(op string, x, y *big.Int, width uint) (*big.Int, error) {
	z := new(big.Int)
	switch op {
	case "+":
		return z.Add(x, y), nil
	case "-":
		return z.Sub(x, y), nil
	case "*":
		return z.Mul(x, y), nil
	case "&":
		return z.And(x, y), nil
	case "|":
		return z.Or(x, y), nil
	case "^":
		return z.Xor(x, y), nil
	case "/", "%":
		if y.Sign() == 0 {
			return nil, errDivision
		}
		if op == "/" {
			return z.Quo(x, y), nil
		}
		return z.Rem(x, y), nil
	case "<<", ">>":
		count := uint(new(big.Int).And(y, big.NewInt(int64(max(width, 32)-1))).Uint64())
		if op == "<<" {
			return z.Lsh(x, count), nil
		}
		return z.Rsh(x, count), nil // rounds down: the arithmetic shift
	}
	return nil, fmt.Errorf("no operation %s on integers", op)
}

// real is a floating value. A NaN keeps its bytes, since they are printed.
type real struct {
	value *big.Float // nil: a NaN
	raw   []byte     // of the NaN, as it was read; may be nil
	neg   bool       // the NaN's sign
}

// precision is how many bits a type's mantissa has, the hidden one included.
func precision(t *Type) uint {
	switch {
	case t.format == x87:
		return 64
	case t.format == brain16:
		return 8
	case t.Size == 2:
		return 11
	case t.Size == 4:
		return 24
	case t.Size == 16:
		return 113
	}
	return 53
}

// exponentBits is the width of a type's exponent.
func exponentBits(t *Type) uint {
	switch {
	case t.format == x87, t.Size == 16:
		return 15
	case t.format == brain16, t.Size == 4:
		return 8
	case t.Size == 2:
		return 5
	}
	return 11
}

// fields of a floating value's bits.
type floatParts struct {
	negative bool
	exponent uint     // biased
	mantissa *big.Int // x87: with the integer bit
}

func splitFloat(b []byte, t *Type) floatParts {
	bits := t.Size * 8
	fraction := precision(t) - 1
	if t.format == x87 {
		bits, fraction = 80, 64
	}
	n := integerOf(b[:min(int64(len(b)), bits/8)], false)
	one := big.NewInt(1)
	mask := new(big.Int).Sub(new(big.Int).Lsh(one, fraction), one)
	exponent := new(big.Int).Rsh(n, fraction).Uint64() & (1<<exponentBits(t) - 1)
	return floatParts{n.Bit(int(bits-1)) == 1, uint(exponent), mask.And(mask, n)}
}

// realOf reads a floating value of type t.
func realOf(b []byte, t *Type) real {
	p := splitFloat(b, t)
	top := uint(1)<<exponentBits(t) - 1
	bias := int(top >> 1)
	fraction := int(precision(t)) - 1
	mantissa := p.mantissa
	if p.exponent == top {
		rest := new(big.Int).Set(mantissa)
		if t.format == x87 {
			rest.SetBit(rest, 63, 0)
		}
		if rest.Sign() != 0 {
			return real{raw: b, neg: p.negative}
		}
		return real{value: new(big.Float).SetPrec(precision(t)).SetInf(p.negative)}
	}
	exponent := int(p.exponent)
	switch {
	case exponent == 0:
		exponent = 1 // denormal
	case t.format != x87:
		mantissa = new(big.Int).SetBit(mantissa, fraction, 1)
	}
	f := new(big.Float).SetPrec(precision(t)).SetInt(mantissa)
	f.SetMantExp(f, exponent-bias-fraction)
	if p.negative {
		f.Neg(f)
	}
	return real{value: f}
}

// bytes writes r as a value of type t, rounded to nearest, even.
func (r real) bytes(t *Type) []byte {
	width, fraction := uint(t.Size*8), precision(t)-1
	if t.format == x87 {
		width, fraction = 80, 64
	}
	top := uint64(1)<<exponentBits(t) - 1
	bias := int(top >> 1)
	var exponent uint64
	mantissa := new(big.Int)
	negative := r.neg
	switch {
	case r.value == nil:
		if r.raw != nil && int64(len(r.raw)) == t.Size {
			return r.raw
		}
		exponent = top
		mantissa.SetBit(mantissa, int(precision(t))-2, 1) // quiet
		if t.format == x87 {
			mantissa.SetBit(mantissa, 63, 1)
		}
	case r.value.IsInf():
		negative, exponent = r.value.Signbit(), top
		if t.format == x87 {
			mantissa.SetBit(mantissa, 63, 1)
		}
	case r.value.Sign() == 0:
		negative = r.value.Signbit()
	default:
		negative = r.value.Signbit()
		exponent, mantissa = roundFloat(r.value, precision(t), bias)
		if exponent >= top {
			exponent, mantissa = top, new(big.Int)
			mantissa.SetBit(mantissa, int(precision(t))-1, 1)
		}
		if t.format != x87 {
			mantissa.SetBit(mantissa, int(fraction), 0) // the hidden bit
		}
	}
	n := new(big.Int).SetUint64(exponent)
	n.Lsh(n, fraction).Or(n, mantissa)
	if negative {
		n.SetBit(n, int(width-1), 1)
	}
	return append(integerBytes(n, int64(width/8)), make([]byte, t.Size-int64(width/8))...)
}

// roundFloat gives the biased exponent and the mantissa, with its leading bit, of a number other than 0 and infinity.
func roundFloat(f *big.Float, precision uint, bias int) (uint64, *big.Int) {
	exact := new(big.Float).SetPrec(f.Prec()).Set(f)
	exact.Abs(exact)
	lowest := 1 - bias                            // exponent of the smallest normal number
	exponent := max(exact.MantExp(nil)-1, lowest) // MantExp has the mantissa in [½,1)
	scaled := new(big.Float).SetPrec(f.Prec()+2).SetMantExp(exact, int(precision)-1-exponent)
	mantissa, _ := new(big.Float).SetPrec(f.Prec() + precision + 8).Set(scaled).Int(nil)
	rest := new(big.Float).SetPrec(f.Prec()+precision+8).Sub(scaled, new(big.Float).SetInt(mantissa))
	switch rest.Cmp(big.NewFloat(0.5)) {
	case 1:
		mantissa.Add(mantissa, big.NewInt(1))
	case 0:
		if mantissa.Bit(0) == 1 {
			mantissa.Add(mantissa, big.NewInt(1))
		}
	}
	if mantissa.BitLen() > int(precision) {
		mantissa.Rsh(mantissa, 1)
		exponent++
	}
	if mantissa.BitLen() < int(precision) {
		return 0, mantissa // denormal
	}
	return uint64(exponent + bias), mantissa
}

// realFrom is n in the precision of t.
func realFrom(n *big.Int, t *Type) real {
	return real{value: new(big.Float).SetPrec(precision(t)).SetInt(n)}
}

// integer is the value without its fraction; what does not fit is the CPU's answer, the lowest long.
func (r real) integer() *big.Int {
	if r.value == nil || r.value.IsInf() {
		return big.NewInt(math.MinInt64)
	}
	if r.value.MantExp(nil) > 129 {
		return big.NewInt(math.MinInt64)
	}
	n, _ := r.value.Int(nil)
	return n
}

// realOperation computes x op y in the precision of t, with the results of IEEE 754 for infinities and NaNs.
func realOperation(op string, x, y real, t *Type) (real, error) {
	if x.value == nil {
		return x, nil
	}
	if y.value == nil {
		return y, nil
	}
	a, b := x.value, y.value
	z := new(big.Float).SetPrec(precision(t))
	nan := real{neg: true} // the default NaN of the CPU is negative
	switch op {
	case "+", "-":
		if a.IsInf() && b.IsInf() && (a.Signbit() == b.Signbit()) == (op == "-") {
			return nan, nil
		}
		if op == "+" {
			return real{value: z.Add(a, b)}, nil
		}
		return real{value: z.Sub(a, b)}, nil
	case "*":
		if a.IsInf() && b.Sign() == 0 || a.Sign() == 0 && b.IsInf() {
			return nan, nil
		}
		return real{value: z.Mul(a, b)}, nil
	case "/":
		if a.IsInf() && b.IsInf() || a.Sign() == 0 && b.Sign() == 0 {
			return nan, nil
		}
		return real{value: z.Quo(a, b)}, nil
	}
	return real{}, fmt.Errorf("no operation %s on floating values", op)
}

// compareReal answers a comparison; with a NaN only != is true.
func compareReal(op string, x, y real) bool {
	if x.value == nil || y.value == nil {
		return op == "!="
	}
	return ordered(op, x.value.Cmp(y.value))
}

// ordered turns the sign of a comparison into the operator's answer.
func ordered(op string, sign int) bool {
	switch op {
	case "==":
		return sign == 0
	case "!=":
		return sign != 0
	case "<":
		return sign < 0
	case "<=":
		return sign <= 0
	case ">":
		return sign > 0
	}
	return sign >= 0
}
