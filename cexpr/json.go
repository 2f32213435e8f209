package cexpr

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/heaptap/heaptap/mem"
)

// JSON is v for scripts: integers, characters and finite floating values are numbers, _Bool is true or false,
// infinities and NaNs are strings; enumerations are {"value", "name"}; pointers are {"address", "symbol", "string"}
// with what is known of them, the address in hexadecimal; arrays of characters are strings up to their first zero, or
// {"hex"} where they are not UTF-8; arrays and vectors are lists, structures and unions objects with their members in
// order, complex values {"real", "imaginary"}. Void is null.
func (v Value) JSON(m Machine) json.RawMessage {
	w := &jsonWriter{m: m}
	w.value(v, 0)
	return json.RawMessage(w.out.String())
}

// maxJSON is how many parts of a value are written: damaged types could nest without end.
const maxJSON = 1 << 22

type jsonWriter struct {
	m     Machine
	out   strings.Builder
	parts int
}

func (w *jsonWriter) text(s string) {
	b, err := json.Marshal(s)
	if err != nil { // never: strings always can be
		b = []byte(`""`)
	}
	w.out.Write(b)
}

func (w *jsonWriter) value(v Value, depth int) {
	w.parts++
	u, err := v.Type.Underlying()
	var size int64
	if err == nil && u.Kind != Void && u.Kind != FunctionType {
		size, err = u.size()
	}
	if err != nil || depth > maxTypeDepth || size > int64(len(v.Bytes)) && u.Kind != FunctionType || w.parts > maxJSON {
		w.out.WriteString("null")
		return
	}
	switch u.Kind {
	case Bool:
		if n := v.number(); n.IsInt64() && n.Int64() < 2 {
			w.out.WriteString(strconv.FormatBool(n.Int64() == 1))
		} else {
			w.out.WriteString(n.String())
		}
	case Char, Integer:
		w.out.WriteString(v.number().String())
	case Floating:
		w.real(v.Bytes, u)
	case Complex:
		re, im := v.parts()
		w.out.WriteString(`{"real":`)
		w.value(re, depth+1)
		w.out.WriteString(`,"imaginary":`)
		w.value(im, depth+1)
		w.out.WriteString("}")
	case Enumeration:
		fmt.Fprintf(&w.out, `{"value":%v,"name":`, v.number())
		w.text(enumeration(v.number(), u))
		w.out.WriteString("}")
	case Pointer, Reference:
		w.pointer(v.pointer(), u.Elem)
	case FunctionType:
		w.pointer(v.Addr, nil)
	case Array, Vector:
		w.array(v, u, depth)
	case Struct, Union:
		w.structure(v, u, depth)
	default:
		w.out.WriteString("null")
	}
}

// real writes a floating value: as a number where JSON has one.
func (w *jsonWriter) real(b []byte, t *Type) {
	text := formatReal(b, t)
	if json.Valid([]byte(text)) {
		w.out.WriteString(text)
	} else {
		w.text(text)
	}
}

func (w *jsonWriter) pointer(a mem.Addr, to *Type) {
	fmt.Fprintf(&w.out, `{"address":"%v"`, a)
	if name, offset, ok := w.m.Symbol(a); ok {
		if offset > 0 {
			name = fmt.Sprintf("%s+%d", name, offset)
		}
		w.out.WriteString(`,"symbol":`)
		w.text(name)
	}
	if to != nil && a != 0 {
		if text := textType(to); text != nil {
			const longest = 1 << 16 // characters
			if b, err := readUnits(w.m, a, text.Size, longest); err == nil {
				w.out.WriteString(`,"string":`)
				w.characters(b, text)
			}
		}
	}
	w.out.WriteString("}")
}

// characters writes what stands before the first zero.
func (w *jsonWriter) characters(b []byte, t *Type) {
	var s strings.Builder
	for i := int64(0); i+t.Size <= int64(len(b)); i += t.Size {
		if isZero(b[i : i+t.Size]) {
			b = b[:i]
			break
		}
	}
	if t.Size == 1 {
		s.Write(b)
	} else {
		for _, g := range glyphs(b, t.Size) {
			if g.r < 0 {
				g.r = utf8.RuneError
			}
			s.WriteRune(g.r)
		}
	}
	if !utf8.ValidString(s.String()) {
		fmt.Fprintf(&w.out, `{"hex":"%s"}`, hex.EncodeToString(b))
		return
	}
	w.text(s.String())
}

func (w *jsonWriter) array(v Value, u *Type, depth int) {
	if text := textType(u.Elem); text != nil && u.Kind == Array {
		w.characters(v.Bytes, text)
		return
	}
	element, err := u.Elem.size()
	w.out.WriteString("[")
	for i := int64(0); err == nil && element > 0 && i < u.Count; i++ {
		if i > 0 {
			w.out.WriteString(",")
		}
		w.value(v.part(u.Elem, i*element, element), depth+1)
	}
	w.out.WriteString("]")
}

func (w *jsonWriter) structure(v Value, u *Type, depth int) {
	w.out.WriteString("{")
	w.members(v, u, depth, true)
	w.out.WriteString("}")
}

// members writes members; those of anonymous ones stand among them, as in C.
func (w *jsonWriter) members(v Value, u *Type, depth int, first bool) bool {
	for i := range u.Fields {
		f := &u.Fields[i]
		m, err := v.fieldOf(f)
		if err != nil || f.Name == "" && !f.Type.aggregate() {
			continue
		}
		if w.parts++; f.Name == "" && depth < maxTypeDepth && w.parts < maxJSON {
			first = w.members(m, f.Type.under(), depth+1, first)
			continue
		}
		if !first {
			w.out.WriteString(",")
		}
		first = false
		w.text(f.Name)
		w.out.WriteString(":")
		w.value(m, depth+1)
	}
	return first
}

// MarshalJSON writes an outcome: {"expression", "number", "type", "value", "text", "errno", "buffers"}, the latter two
// only where there are some.
func (o Outcome) MarshalJSON() ([]byte, error) {
	type buffer struct {
		Address string `json:"address"`
		Bytes   []byte `json:"bytes"` // base64
		Text    string `json:"text"`
	}
	type errno struct {
		Number  int    `json:"number"`
		Name    string `json:"name,omitempty"`
		Message string `json:"message,omitempty"`
	}
	out := struct {
		Expression string          `json:"expression"`
		Number     int             `json:"number,omitempty"`
		Type       string          `json:"type"`
		Value      json.RawMessage `json:"value"`
		Text       string          `json:"text"`
		Errno      *errno          `json:"errno,omitempty"`
		Buffers    []buffer        `json:"buffers,omitempty"`
	}{o.Source, o.Number, o.Value.Type.String(), o.Data, o.Text, nil, nil}
	if len(out.Value) == 0 {
		out.Value = json.RawMessage("null")
	}
	if o.Errno != 0 {
		name, message := ErrnoText(o.Errno)
		out.Errno = &errno{o.Errno, name, message}
	}
	for _, b := range o.Buffers {
		out.Buffers = append(out.Buffers, buffer{mem.Addr(b.Addr).String(), b.Bytes, b.Text})
	}
	return json.Marshal(out)
}

// String is an outcome as lines for a terminal: "$1 = -1", with the errno beside a failure, and the buffers below. A
// void result without buffers is "".
func (o Outcome) String() string {
	var s strings.Builder
	if o.Number > 0 {
		fmt.Fprintf(&s, "$%d = %s", o.Number, o.Text)
		if o.Errno != 0 {
			name, message := ErrnoText(o.Errno)
			fmt.Fprintf(&s, "  errno = %d (%s: %s)", o.Errno, name, message)
		}
		s.WriteString("\n")
	}
	for _, b := range o.Buffers {
		fmt.Fprintf(&s, "buf(%d) = %s\n", len(b.Bytes), b.Text)
	}
	return s.String()
}
