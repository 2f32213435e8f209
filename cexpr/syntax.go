package cexpr

import (
	"math/big"
)

// expression is a node of the tree that the parser makes.
type expression interface {
	// span is where the expression stands in the source, and pos the place that an error about it points at.
	span() (start, end int)
	pos() int
}

// place in the source.
type spot struct{ start, end, at int }

func (s spot) span() (int, int) { return s.start, s.end }
func (s spot) pos() int         { return s.at }

type (
	intLiteral struct {
		spot
		number *big.Int
		typ    *Type
	}
	floatLiteral struct {
		spot
		number *big.Float
		typ    *Type
	}
	stringLiteral struct {
		spot
		units   []int64
		element *Type
	}
	// nameExpression is anything that is looked up.
	nameExpression struct {
		spot
		name string
	}
	// dollarExpression is $rip, $1, $, $$, $$3 or $name.
	dollarExpression struct {
		spot
		name string
	}
	unaryExpression struct { // + - ! ~ & * ++ --, and post++ post--
		spot
		op string
		x  expression
	}
	binaryExpression struct { // arithmetic, comparison, && || , @
		spot
		op   string
		x, y expression
	}
	assignExpression struct { // op is "" for =, else the operator before =
		spot
		op   string
		x, y expression
	}
	conditionalExpression struct {
		spot
		condition, yes, no expression
	}
	castExpression struct {
		spot
		to *typeSyntax
		x  expression
	}
	sizeofExpression struct { // of a type or of an expression
		spot
		op string // "sizeof", "_Alignof"
		of *typeSyntax
		x  expression
	}
	indexExpression struct {
		spot
		x, index expression
	}
	memberExpression struct {
		spot
		x     expression
		name  string
		arrow bool
	}
	callExpression struct {
		spot
		function  expression
		arguments []expression
	}
)

// statement is one expression of a program.
type statement struct {
	expression
}

// typeSyntax is a type as it was written. Names are looked up when it is evaluated.
type typeSyntax struct {
	at              int
	form            typeForm
	name            string // namedType: "size_t", "struct point"
	basic           *Type  // basicSyntax
	elem            *typeSyntax
	count           expression // of an array; nil: []
	params          []*typeSyntax
	variadic        bool
	unprototyped    bool
	constant        bool
	volatile        bool
	fields          []declaration // definedType, of a structure or union
	enumerated      []enumeratorSyntax
	union, enumered bool
}

type typeForm int

const (
	basicSyntax typeForm = iota
	namedSyntax
	pointerSyntax
	referenceSyntax
	arraySyntax
	functionSyntax
	definedSyntax // struct { … }: only in the built-in declarations
)

// declaration is a declared name with its type.
type declaration struct {
	name string
	typ  *typeSyntax
	bits expression // of a bit-field
}

type enumeratorSyntax struct {
	name  string
	value expression // nil: one more than the one before
}
