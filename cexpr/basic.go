package cexpr

// floatFormat is how a floating type's bytes are read.
type floatFormat int

const (
	ieee    floatFormat = iota // half, single or double, by size
	x87                        // 80-bit extended, in 16 (or 10) bytes
	brain16                    // bfloat16
	quad                       // IEEE 128-bit: known and not computed with
)

// The basic types. They are functions, so that nobody can change one for all.

func voidType() *Type   { return &Type{Kind: Void, Name: "void", Size: 1} }
func intType() *Type    { return integer("int", 4, true) }
func longType() *Type   { return integer("long", 8, true) }
func ulongType() *Type  { return integer("unsigned long", 8, false) }
func charType() *Type   { return &Type{Kind: Char, Name: "char", Size: 1, Signed: true} }
func doubleType() *Type { return &Type{Kind: Floating, Name: "double", Size: 8} }

func integer(name string, size int64, signed bool) *Type {
	return &Type{Kind: Integer, Name: name, Size: size, Signed: signed}
}

// basicType is the type that the sorted specifier words of C name, under the names that gdb prints.
func basicType(c specifiers) (*Type, string) {
	if c.void || c.boolean || c.char || c.float || c.int128 {
		if c.int && !c.int128 || c.short || c.long > 0 {
			return nil, "these words do not name a type together"
		}
	}
	if c.signed && c.unsigned || c.short && c.long > 0 || c.long > 2 || c.double && (c.short || c.long > 1 || c.int) {
		return nil, "these words do not name a type together"
	}
	if (c.signed || c.unsigned) && (c.void || c.boolean || c.float || c.double) || c.complex && !c.float && !c.double {
		return nil, "these words do not name a type together"
	}
	var t *Type
	switch {
	case c.void:
		t = voidType()
	case c.boolean:
		t = &Type{Kind: Bool, Name: "_Bool", Size: 1}
	case c.char && c.signed:
		t = &Type{Kind: Char, Name: "signed char", Size: 1, Signed: true}
	case c.char && c.unsigned:
		t = &Type{Kind: Char, Name: "unsigned char", Size: 1}
	case c.char:
		t = charType()
	case c.float:
		t = &Type{Kind: Floating, Name: "float", Size: 4}
	case c.double && c.long == 1:
		t = &Type{Kind: Floating, Name: "long double", Size: 16, format: x87}
	case c.double:
		t = doubleType()
	case c.int128:
		t = integer("__int128", 16, !c.unsigned)
	case c.short:
		t = integer("short", 2, !c.unsigned)
	case c.long == 2:
		t = integer("long long", 8, !c.unsigned)
	case c.long == 1:
		t = integer("long", 8, !c.unsigned)
	default:
		t = integer("int", 4, !c.unsigned)
	}
	if t.Kind == Integer && c.unsigned {
		t.Name = "unsigned " + t.Name
	}
	if c.complex {
		t = &Type{Kind: Complex, Name: "complex " + t.Name, Size: 2 * t.Size, Elem: t}
	}
	return t, ""
}

// specifiers are the words that a basic type is written with.
type specifiers struct {
	void, boolean, char, short, int, int128, float, double, complex, signed, unsigned bool
	long                                                                              int
}

// add counts one word and tells whether it is one.
func (c *specifiers) add(word string) bool {
	switch word {
	case "void":
		c.void = true
	case "_Bool", "bool":
		c.boolean = true
	case "char":
		c.char = true
	case "short":
		c.short = true
	case "int":
		c.int = true
	case "__int128", "__int128_t":
		c.int128 = true
	case "__uint128_t":
		c.int128, c.unsigned = true, true
	case "long":
		c.long++
	case "float":
		c.float = true
	case "double":
		c.double = true
	case "_Complex", "__complex__":
		c.complex = true
	case "signed", "__signed__":
		c.signed = true
	case "unsigned":
		c.unsigned = true
	default:
		return false
	}
	return true
}
