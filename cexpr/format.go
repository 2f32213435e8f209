package cexpr

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/heaptap/heaptap/mem"
)

// Limits of what is printed, which are gdb's defaults: "set print elements", "set print repeats".
const (
	printElements = 200
	printRepeats  = 10
)

// printer writes values as gdb does.
type printer struct {
	m     Machine
	out   strings.Builder
	parts int // printed so far
}

// Format writes v as gdb's print does, without "$1 = ". Strings behind pointers and names of addresses are asked of m.
func (v Value) Format(m Machine) string {
	p := &printer{m: m}
	u, err := v.Type.Underlying()
	if err != nil {
		return fmt.Sprintf("<error: %v>", err)
	}
	switch u.Kind {
	case Pointer:
		if v.Type.Kind != Pointer || !plainChar(v.Type.Elem) {
			fmt.Fprintf(&p.out, "(%s) ", v.Type)
		}
	case Reference:
		p.reference(v, u)
		return p.out.String()
	}
	p.value(v, 0)
	return p.out.String()
}

// plainChar tells whether a pointer to t is a string, of which gdb does not print the type.
func plainChar(t *Type) bool {
	return t.Name == "char" && t.Kind == Char || characterNamed(t.Name) != nil
}

func (p *printer) reference(v Value, u *Type) {
	fmt.Fprintf(&p.out, "(%s) @%v", v.Type, v.pointer())
	size, err := u.Elem.size()
	b := make([]byte, max(size, 0))
	if err == nil {
		err = p.m.ReadAt(b, v.pointer())
	}
	if err != nil {
		fmt.Fprintf(&p.out, ": <error: Cannot access memory at address %v>", v.pointer())
		return
	}
	p.out.WriteString(": ")
	p.value(Value{Type: u.Elem, Bytes: b, Lvalue: true, Addr: v.pointer()}, 0)
}

// value writes v without the type that pointers have in front at the outermost level.
func (p *printer) value(v Value, depth int) {
	u, err := v.Type.Underlying()
	if p.parts++; err == nil && (depth > maxTypeDepth || p.parts > maxMembers) {
		err = errors.New("too many parts")
	}
	var size int64
	if err == nil && u.Kind != FunctionType && u.Kind != Void {
		size, err = u.size()
	}
	if err == nil && u.Kind != FunctionType && u.Kind != Void && size > int64(len(v.Bytes)) {
		err = fmt.Errorf("the value is not whole")
	}
	if err != nil {
		fmt.Fprintf(&p.out, "<error: %v>", err)
		return
	}
	switch u.Kind {
	case Void:
		p.out.WriteString("void")
	case Bool:
		p.boolean(v)
	case Char:
		fmt.Fprintf(&p.out, "%v ", v.number())
		p.character(v, u)
	case Integer:
		if u.bits != nil {
			p.flags(v.number(), u.bits)
		} else {
			p.integer(v)
		}
	case Floating:
		p.out.WriteString(formatReal(v.Bytes, u))
	case Complex:
		re, im := v.parts()
		p.value(re, depth+1)
		p.out.WriteString(" + ")
		p.value(im, depth+1)
		p.out.WriteString("i")
	case Enumeration:
		p.out.WriteString(enumeration(v.number(), u))
	case Pointer, Reference:
		p.pointer(v.pointer(), u.Elem)
	case Array, Vector:
		p.array(v, u, depth)
	case Struct, Union:
		p.structure(v, u, depth)
	case FunctionType:
		fmt.Fprintf(&p.out, "{%s} ", v.Type)
		p.address(v.Addr)
	}
}

// integer writes a number; a C typedef of an integer may stand for a wide character.
func (p *printer) integer(v Value) {
	fmt.Fprintf(&p.out, "%v", v.number())
	if w := wideCharacter(v.Type); w != nil {
		p.out.WriteByte(' ')
		p.character(v, w)
	}
}

// wideCharacter is the character type that t is by its name, as in C, where wchar_t and the like are typedefs; nil if
// it is none.
func wideCharacter(t *Type) *Type {
	for range maxTypedefs {
		if t == nil || t.Complete() != nil {
			return nil
		}
		if w := characterNamed(t.Name); w != nil && (t.Kind == Typedef || t.Kind == Char || t.Kind == Integer) {
			return w
		}
		if t.Kind != Typedef {
			return nil
		}
		t = t.Elem
	}
	return nil
}

// textType is the character type of t, nil if t is not one: elements of it print as a string.
func textType(t *Type) *Type {
	if w := wideCharacter(t); w != nil {
		return w
	}
	if u := t.under(); u.Kind == Char {
		return u
	}
	return nil
}

func (p *printer) boolean(v Value) {
	switch n := v.number(); {
	case n.Sign() == 0:
		p.out.WriteString("false")
	case n.IsInt64() && n.Int64() == 1:
		p.out.WriteString("true")
	default:
		fmt.Fprintf(&p.out, "%v", n)
	}
}

// flags writes a flags register: [ ZF PF ].
func (p *printer) flags(n *big.Int, names []string) {
	p.out.WriteString("[ ")
	for i, name := range names {
		if n.Bit(i) == 1 && name != "" {
			p.out.WriteString(name + " ")
		}
	}
	p.out.WriteString("]")
}

// enumeration writes an enumerator's name, or flags where every enumerator is at most one bit, or the number.
func enumeration(n *big.Int, t *Type) string {
	flags := true
	for _, e := range t.Enumerated {
		if n.IsInt64() && e.Value == n.Int64() {
			return e.Name
		}
		flags = flags && e.Value >= 0 && e.Value&(e.Value-1) == 0
	}
	if !flags || n.Sign() < 0 || len(t.Enumerated) == 0 {
		return n.String()
	}
	var names []string
	rest := new(big.Int).Set(n)
	for _, e := range t.Enumerated {
		bit := big.NewInt(e.Value)
		if e.Value != 0 && new(big.Int).And(rest, bit).Sign() != 0 {
			names = append(names, e.Name)
			rest.AndNot(rest, bit)
		}
	}
	if rest.Sign() != 0 {
		names = append(names, fmt.Sprintf("unknown: 0x%x", rest))
	}
	if len(names) == 0 {
		return "0"
	}
	return "(" + strings.Join(names, " | ") + ")"
}

// address writes an address with its symbol.
func (p *printer) address(a mem.Addr) {
	p.out.WriteString(a.String())
	if name, offset, ok := p.m.Symbol(a); ok {
		if offset > 0 {
			fmt.Fprintf(&p.out, " <%s+%d>", name, offset)
		} else {
			fmt.Fprintf(&p.out, " <%s>", name)
		}
	}
}

func (p *printer) pointer(a mem.Addr, to *Type) {
	p.address(a)
	if text := textType(to); text != nil && a != 0 {
		p.out.WriteByte(' ')
		p.stringAt(a, text)
	}
}

// stringAt writes the string at a, as far as it can be read and up to the limit.
func (p *printer) stringAt(a mem.Addr, t *Type) {
	b, err := readUnits(p.m, a, t.Size, printElements)
	whole := err == nil && len(b) > 0 && isZero(b[int64(len(b))-t.Size:])
	more := false
	if err == nil && !whole {
		next := make([]byte, t.Size)
		more = p.m.ReadAt(next, a+mem.Addr(len(b))) == nil && !isZero(next)
	}
	if err == nil || len(b) > 0 {
		p.text(b, t, more)
	}
	if err != nil {
		fmt.Fprintf(&p.out, "<error: Cannot access memory at address %v>", a+mem.Addr(len(b)))
	}
}

// readUnits reads characters up to and including a zero, at most n of them. What could be read comes with an error.
func readUnits(r mem.Reader, a mem.Addr, size int64, n int64) ([]byte, error) {
	const page = 4096
	var all []byte
	for int64(len(all)) < n*size {
		at := a + mem.Addr(len(all))
		chunk := make([]byte, min(n*size-int64(len(all)), max(size, (page-int64(at%page))/size*size)))
		err := r.ReadAt(chunk, at)
		for i := int64(0); err != nil && i < int64(len(chunk)); i += size { // the end of what is mapped
			if r.ReadAt(chunk[i:i+size], at+mem.Addr(i)) != nil {
				return append(all, chunk[:i]...), err
			}
			if isZero(chunk[i : i+size]) {
				return append(all, chunk[:i+size]...), nil
			}
		}
		for i := int64(0); i < int64(len(chunk)); i += size {
			if isZero(chunk[i : i+size]) {
				return append(all, chunk[:i+size]...), nil
			}
		}
		all = append(all, chunk...)
	}
	return all, nil
}

func isZero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }

func (p *printer) array(v Value, u *Type, depth int) {
	element, err := u.Elem.size()
	if err != nil {
		fmt.Fprintf(&p.out, "<error: %v>", err)
		return
	}
	if u.Count <= 0 || element == 0 { // as gdb: like a pointer to the first
		if v.Lvalue {
			p.pointer(v.Addr, u.Elem)
		} else {
			p.out.WriteString("{}")
		}
		return
	}
	if text := textType(u.Elem); text != nil && u.Kind == Array {
		p.text(v.Bytes, text, false)
		return
	}
	p.out.WriteByte('{')
	printed := 0
	n := u.Count
	i := int64(0)
	for ; i < n && printed < printElements; i++ {
		if i > 0 {
			p.out.WriteString(", ")
		}
		one := v.part(u.Elem.qualified(u.Const, u.Volatile), i*element, element)
		same := i + 1
		for same < n && string(v.Bytes[same*element:(same+1)*element]) == string(one.Bytes) {
			same++
		}
		if u.Kind == Vector && one.Type.is(Char) {
			fmt.Fprintf(&p.out, "%v", one.number())
		} else {
			p.value(one, depth+1)
		}
		if same-i >= printRepeats {
			fmt.Fprintf(&p.out, " <repeats %d times>", same-i)
			i = same - 1
			printed += printRepeats
		} else {
			printed++
		}
	}
	if i < n {
		p.out.WriteString("...")
	}
	p.out.WriteByte('}')
}

func (p *printer) structure(v Value, u *Type, depth int) {
	p.out.WriteByte('{')
	first := true
	for i := range u.Fields {
		f := &u.Fields[i]
		if f.Name == "" && !f.Type.aggregate() {
			continue // padding
		}
		if !first {
			p.out.WriteString(", ")
		}
		first = false
		switch {
		case f.Base:
			fmt.Fprintf(&p.out, "<%s> = ", strings.TrimPrefix(f.Type.String(), "struct "))
		case f.Name != "":
			p.out.WriteString(f.Name + " = ")
		}
		member, err := v.fieldOf(f)
		if err != nil {
			fmt.Fprintf(&p.out, "<error: %v>", err)
			continue
		}
		p.value(member, depth+1)
	}
	if first {
		p.out.WriteString("<No data fields>")
	}
	p.out.WriteByte('}')
}

// fieldOf is a member of a loaded structure.
func (v Value) fieldOf(f *Field) (Value, error) {
	offset, span := f.Offset, int64(0)
	var err error
	if f.BitSize > 0 {
		offset, span = bitFieldSpan(f)
	} else if span, err = f.Type.size(); err != nil {
		return Value{}, err
	}
	if offset < 0 || span < 0 || offset+span > int64(len(v.Bytes)) {
		return Value{}, fmt.Errorf("member %s lies outside", f.Name)
	}
	m := v.part(f.Type, offset, span)
	if f.BitSize > 0 {
		m.Bytes = bitField(m.Bytes, f)
	}
	return m, nil
}

// formatReal writes a floating value with as many digits as its type needs, as C's %g does.
func formatReal(b []byte, t *Type) string {
	if t.format == quad || t.Size == 16 && t.format != x87 {
		return "<a 128-bit floating value>"
	}
	r := realOf(b, t)
	sign := ""
	switch {
	case r.value == nil:
		if r.neg {
			sign = "-"
		}
		return fmt.Sprintf("%snan(0x%x)", sign, splitFloat(b, t).mantissa)
	case r.value.IsInf():
		return strings.TrimPrefix(strings.ToLower(r.value.String()), "+")
	case r.value.Signbit():
		sign = "-"
	}
	if r.value.Sign() == 0 {
		return sign + "0"
	}
	digits := 2 + int(precision(t))*30103/100000
	text := new(big.Float).Abs(r.value).Text('e', digits-1) // d.ddde±xx
	mantissa, exponentText, _ := strings.Cut(text, "e")
	var exponent int
	if _, err := fmt.Sscanf(exponentText, "%d", &exponent); err != nil {
		return text
	}
	mantissa = strings.TrimRight(strings.Replace(mantissa, ".", "", 1), "0")
	switch {
	case exponent < -4 || exponent >= digits:
		if len(mantissa) > 1 {
			mantissa = mantissa[:1] + "." + mantissa[1:]
		}
		return fmt.Sprintf("%s%se%+03d", sign, mantissa, exponent)
	case exponent < 0:
		return sign + "0." + strings.Repeat("0", -exponent-1) + mantissa
	case len(mantissa) <= exponent+1:
		return sign + mantissa + strings.Repeat("0", exponent+1-len(mantissa))
	}
	return sign + mantissa[:exponent+1] + "." + mantissa[exponent+1:]
}
