package cexpr

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
	Reference // C++ T&: Elem
	Array
	Vector // SIMD: Count elements of Elem
	Struct
	Union
	FunctionType
	Typedef // Name for Elem
)

// Type is a C type on x86-64. Types from debug information are completed when they are looked into.
type Type struct {
	Kind     Kind
	Name     string // "int", "struct timeval", "PyObject", "enum color"; "" if anonymous or derived
	Size     int64  // in bytes
	Align    int64  // in bytes; 0: natural
	Signed   bool   // integers, characters, enumerations
	Const    bool
	Volatile bool
	Elem     *Type // pointee, element, typedef's target, enumeration's integer, complex part, function's result
	Count    int64 // of an array or vector; -1: not known

	Fields     []Field      // of structures and unions
	Incomplete bool         // a structure, union or enumeration of which only the name is known
	Class      bool         // a C++ class: "struct" is not part of its name
	Enumerated []Enumerator // of enumerations

	Params       []*Type // of functions
	Variadic     bool
	Unprototyped bool // f(): nothing is known of the arguments

	complete func(*Type) // fills in what was left out until now; nil once done
}

// Field is a member of a structure or union.
type Field struct {
	Name      string // "" for an anonymous structure, union or unnamed bit-field
	Type      *Type
	Offset    int64 // in bytes
	BitSize   int64 // of a bit-field; 0: not one
	BitOffset int64 // from the structure's first bit, for bit-fields
	Base      bool  // a C++ base class
}

// Enumerator is one constant of an enumeration.
type Enumerator struct {
	Name  string
	Value int64
}
