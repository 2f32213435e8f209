package cexpr

import (
	"errors"
	"fmt"
	"strings"
)

// Kind is the sort of a type.
type Kind int

// The sorts of types.
const (
	Void Kind = iota
	Bool
	Char    // char, signed char, unsigned char, and wider characters: printed as number and character
	Integer // all other integers
	Floating
	Complex
	Enumeration
	Pointer
	Reference // C++ T& and T&&: Elem
	Array
	Vector // SIMD: Count elements of Elem
	Struct
	Union
	FunctionType
	Typedef // Name for Elem
)

// Type is a C type on x86-64. One that came from debug information is completed when it is looked into: Complete does
// that, and Underlying for what a typedef names.
type Type struct {
	Kind     Kind
	Name     string // "int", "struct timeval", "PyObject", "enum color"; "" if anonymous or derived
	Size     int64  // in bytes
	Align    int64  // in bytes; 0: what its kind implies
	Signed   bool   // integers, characters, enumerations
	Const    bool
	Volatile bool
	Elem     *Type // pointee, element, typedef's target, enumeration's integer, complex part, function's result
	Count    int64 // of an array or vector; -1: not known

	Fields     []Field      // of structures and unions
	Incomplete bool         // a structure, union or enumeration of which only the name is known
	Enumerated []Enumerator // of enumerations

	Params       []*Type // of functions
	Variadic     bool
	Unprototyped bool // nothing is known of the arguments; with a nil Elem nothing of the result either

	guessed  bool              // by a symbol's size: a cast says what it really is
	building bool              // from debug information: it is being read
	class    bool              // C++: passing it may need its constructors
	byValue  bool              // C++: the debug information says that it is passed as in C
	format   floatFormat       // of Floating
	bits     []string          // names of the bits of a flags register
	fillIn   func(*Type) error // what is left to be read, nil when done
	failed   error             // of fillIn
}

// Field is a member of a structure or union.
type Field struct {
	Name      string // "" for an anonymous structure, union or unnamed bit-field
	Type      *Type
	Offset    int64 // in bytes
	BitSize   int64 // of a bit-field; 0: not one
	BitOffset int64 // of a bit-field, from the structure's first bit
	Base      bool  // a C++ base class
}

// Enumerator is one constant of an enumeration.
type Enumerator struct {
	Name  string
	Value int64
}

// maxTypedefs is how long a chain of typedefs may be: a hostile one may be a circle.
const maxTypedefs = 64

// Complete reads what was left out of t itself until now. An error says that the debug information is damaged.
func (t *Type) Complete() error {
	if t.fillIn != nil {
		fill := t.fillIn
		t.fillIn = nil
		t.failed = fill(t)
	}
	return t.failed
}

// Underlying is t without typedefs, completed. Qualifiers of the typedefs are kept.
func (t *Type) Underlying() (*Type, error) {
	constant, volatile := false, false
	u := t
	for range maxTypedefs {
		if u == nil {
			return nil, errors.New("a type is missing")
		}
		if err := u.Complete(); err != nil {
			return nil, err
		}
		constant, volatile = constant || u.Const, volatile || u.Volatile
		if u.Kind != Typedef {
			return u.qualified(constant, volatile), nil
		}
		u = u.Elem
	}
	return nil, fmt.Errorf("typedef %s names itself", t.Name)
}

// qualified is t with qualifiers added.
func (t *Type) qualified(constant, volatile bool) *Type {
	if constant == t.Const && volatile == t.Volatile || !constant && !volatile {
		return t
	}
	q := *t
	q.Const, q.Volatile = t.Const || constant, t.Volatile || volatile
	return &q
}

// unqualified is t without its own qualifiers.
func (t *Type) unqualified() *Type {
	if !t.Const && !t.Volatile {
		return t
	}
	q := *t
	q.Const, q.Volatile = false, false
	return &q
}

// under is Underlying where errors have been seen before; damaged types are void.
func (t *Type) under() *Type {
	u, err := t.Underlying()
	if err != nil {
		return &Type{Kind: Void, Name: "void", Size: 1}
	}
	return u
}

func (t *Type) is(kinds ...Kind) bool {
	k := t.under().Kind
	for _, want := range kinds {
		if k == want {
			return true
		}
	}
	return false
}

func (t *Type) integral() bool   { return t.is(Bool, Char, Integer, Enumeration) }
func (t *Type) arithmetic() bool { return t.is(Bool, Char, Integer, Enumeration, Floating, Complex) }
func (t *Type) scalar() bool     { return t.arithmetic() || t.is(Pointer) }
func (t *Type) aggregate() bool  { return t.is(Struct, Union) }

// maxTypeSize bounds what an expression copies: no sane object is larger, and damaged debug information may claim it.
const maxTypeSize = 1 << 26

// size is sizeof(t).
func (t *Type) size() (int64, error) {
	u, err := t.Underlying()
	if err != nil {
		return 0, err
	}
	size := u.Size
	switch u.Kind {
	case Void:
		return 1, nil // as GNU C
	case FunctionType:
		return 1, nil
	case Array:
		element, err := u.Elem.size()
		if err != nil {
			return 0, err
		}
		if u.Count < 0 {
			return 0, nil
		}
		if element != 0 && u.Count > maxTypeSize/element {
			return 0, fmt.Errorf("type %s is too large", t)
		}
		size = element * u.Count
	case Struct, Union, Enumeration:
		if u.Incomplete {
			return 0, fmt.Errorf("incomplete type %s: its members are not known", t)
		}
	}
	if size < 0 || size > maxTypeSize {
		return 0, fmt.Errorf("type %s is too large", t)
	}
	return size, nil
}

// align is _Alignof(t).
func (t *Type) align() int64 {
	u := t.under()
	if u.Align > 0 {
		return u.Align
	}
	switch u.Kind {
	case Array, Complex:
		return u.Elem.align()
	case Struct, Union:
		largest := int64(1)
		for _, f := range u.Fields {
			if f.BitSize == 0 || f.Name != "" {
				largest = max(largest, f.Type.align())
			}
		}
		return largest
	case Void, FunctionType:
		return 1
	}
	if u.Size == 0 {
		return 1
	}
	return u.Size
}

// pointerTo is T*.
func pointerTo(t *Type) *Type { return &Type{Kind: Pointer, Size: 8, Elem: t} }

func arrayOf(t *Type, n int64) *Type { return &Type{Kind: Array, Elem: t, Count: n} }

// sameType tells whether two types are compatible, by what they are and not where they came from.
func sameType(a, b *Type, depth int) bool {
	a, b = a.under(), b.under()
	if a == b || depth > 8 {
		return true
	}
	if a.Kind != b.Kind {
		return false
	}
	switch a.Kind {
	case Pointer, Reference:
		return sameType(a.Elem, b.Elem, depth+1)
	case Array, Vector:
		return a.Count == b.Count && sameType(a.Elem, b.Elem, depth+1)
	case Struct, Union, Enumeration:
		if a.Name != "" || b.Name != "" {
			return a.Name == b.Name
		}
		return a.Size == b.Size && len(a.Fields) == len(b.Fields)
	case FunctionType:
		return true
	}
	return a.Size == b.Size && a.Signed == b.Signed
}

// String writes t as gdb does: "int", "char *", "int (*)(int)", "const struct point [3]".
func (t *Type) String() string { return t.declare("", 0) }

const maxTypeDepth = 32

// declare writes t around a declarator.
func (t *Type) declare(inner string, depth int) string {
	if depth > maxTypeDepth {
		return "..."
	}
	if t == nil {
		return "<unknown type>"
	}
	if t.Kind != Typedef && t.Kind != Struct && t.Kind != Union && t.Kind != Enumeration {
		_ = t.Complete() // what is damaged prints as what is left of it
	}
	switch {
	case t.guessed && t.Kind != FunctionType:
		return joinDeclarator("<data variable, no debug info>", inner)
	case t.guessed:
		return joinDeclarator("<text variable, no debug info>", inner)
	}
	switch t.Kind {
	case Pointer, Reference:
		star := "*"
		if t.Kind == Reference {
			star = "&"
		}
		if q := t.qualifiers(); q != "" {
			star += " " + strings.TrimSuffix(q, " ")
			if inner != "" {
				star += " "
			}
		}
		return t.Elem.declare(star+inner, depth+1)
	case Array:
		count := "[]"
		if t.Count >= 0 {
			count = fmt.Sprintf("[%d]", t.Count)
		}
		return t.Elem.qualified(t.Const, t.Volatile).declare(group(inner)+count, depth+1)
	case Vector:
		if t.Name == "" {
			name := fmt.Sprintf("__attribute__ ((vector_size(%d)))", t.Count)
			return t.Elem.declare(joinDeclarator(name, inner), depth+1)
		}
	case FunctionType:
		return t.Elem.declare(group(inner)+t.parameters(depth), depth+1)
	}
	name := t.Name
	if name == "" {
		switch t.Kind {
		case Void:
			name = "void"
		case Struct:
			name = "struct {...}"
		case Union:
			name = "union {...}"
		case Enumeration:
			name = "enum {...}"
		default:
			name = "<unnamed type>"
		}
	}
	return joinDeclarator(t.qualifiers()+name, inner)
}

func (t *Type) parameters(depth int) string {
	var list []string
	for _, p := range t.Params {
		list = append(list, p.declare("", depth+1))
	}
	switch {
	case t.Variadic && len(list) > 0:
		list = append(list, "...")
	case len(list) == 0 && !t.Unprototyped:
		list = append(list, "void")
	}
	return "(" + strings.Join(list, ", ") + ")"
}

func (t *Type) qualifiers() string {
	s := ""
	if t.Const {
		s += "const "
	}
	if t.Volatile {
		s += "volatile "
	}
	return s
}

func joinDeclarator(base, inner string) string {
	if inner == "" {
		return base
	}
	return base + " " + inner
}

// group puts a declarator that begins with a star into parentheses, since [] and () bind closer.
func group(inner string) string {
	if strings.HasPrefix(inner, "*") || strings.HasPrefix(inner, "&") {
		return "(" + inner + ")"
	}
	return inner
}
