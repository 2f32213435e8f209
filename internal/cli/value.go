package cli

import (
	"encoding/json"
	"math"
	"math/big"
	"strconv"
	"strings"

	"github.com/heaptap/heaptap/cexpr"
)

// typeText is a type as C declares it, "" where none is known.
func typeText(t *cexpr.Type) string {
	if t == nil {
		return ""
	}
	return t.String()
}

// valueJSON is a value as a program wants it: integers and floating point numbers as numbers, addresses as "0x…", what
// has no such form as null; its text stands beside.
func valueJSON(v *cexpr.Value, text string) any {
	t := v.Type
	for t != nil && t.Kind == cexpr.Typedef {
		t = t.Elem
	}
	if t == nil {
		return nil
	}
	switch t.Kind {
	case cexpr.Bool:
		return len(v.Bytes) > 0 && v.Bytes[0] != 0
	case cexpr.Char, cexpr.Integer, cexpr.Enumeration:
		return integerJSON(v.Bytes, t.Signed)
	case cexpr.Floating:
		if f, err := strconv.ParseFloat(text, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
			return json.Number(strings.TrimPrefix(text, "+"))
		}
		return text
	case cexpr.Pointer, cexpr.Reference:
		n, _ := new(big.Int).SetString(integerJSON(v.Bytes, false).String(), 10)
		return "0x" + n.Text(16)
	}
	return nil
}

// integerJSON is a little-endian integer.
func integerJSON(b []byte, signed bool) json.Number {
	n := new(big.Int)
	for i := len(b) - 1; i >= 0; i-- {
		n.Lsh(n, 8).Or(n, big.NewInt(int64(b[i])))
	}
	if bits := uint(8 * len(b)); signed && bits > 0 && n.Bit(int(bits-1)) == 1 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), bits))
	}
	return json.Number(n.String())
}
