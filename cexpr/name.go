package cexpr

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// callee is how a function's name was resolved, for plans and messages.
type callee struct {
	entity   Entity
	typeFrom string
}

// Where a type came from, as plans say it.
const (
	fromDebug = "debug information"
	fromTable = "built-in prototypes"
	fromCast  = "cast"
	fromSize  = "the symbol's size"
)

// name evaluates what a name stands for: the target's functions and variables first, then the constants and macros of
// the built-in table.
func (r *run) name(name string) (Value, error) {
	if name == "errno" {
		if number, ok := r.m.Errno(); ok {
			return intValue(int64(number), intType()), nil
		}
	}
	e, err := r.m.Lookup(name)
	var missing *NotFoundError
	if errors.As(err, &missing) {
		v, ok, tableErr := r.tableName(name)
		if ok || tableErr != nil {
			return v, tableErr
		}
	}
	if err != nil {
		return Value{}, err
	}
	switch e.Kind {
	case Constant:
		t := e.Type
		if t == nil {
			t = intType()
		}
		return intValue(e.Value, t), nil
	case Object:
		return r.object(e, name)
	case IFunc:
		return r.indirect(e, name)
	case Function:
		return r.function(e, name)
	}
	return Value{}, fmt.Errorf("%s is of an unknown kind", name)
}

// plainName is a name without module, file and version.
func plainName(name string) string {
	if i := strings.LastIndexByte(name, '!'); i >= 0 {
		name = name[i+1:]
	}
	if i := strings.LastIndexByte(name, ':'); i > 0 && name[i-1] != ':' {
		name = name[i+1:]
	}
	name, _, _ = strings.Cut(name, "@")
	return name
}

// isStatic tells whether a name was asked for as one of a source file, which the table says nothing of.
func isStatic(name string) bool {
	i := strings.LastIndexByte(name, ':')
	return i > 0 && name[i-1] != ':'
}

func (r *run) object(e Entity, name string) (Value, error) {
	t := e.Type
	if t == nil && !isStatic(name) {
		var err error
		if t, err = r.tableDeclaration(plainName(name)); err != nil {
			return Value{}, err
		}
	}
	if t == nil || t.is(FunctionType) {
		t = guess(e.Size)
	}
	return Value{Type: t, Lvalue: true, Addr: e.Addr, unread: true}, nil
}

// guess is a type for a variable of which only the size is known.
func guess(size uint64) *Type {
	var t *Type
	switch size {
	case 1:
		t = charType()
	case 2:
		t = integer("short", 2, true)
	case 4:
		t = intType()
	case 8:
		t = longType()
	default:
		if size > maxTypeSize {
			size = 0
		}
		t = arrayOf(&Type{Kind: Char, Name: "unsigned char", Size: 1}, int64(size))
		t.Size = int64(size)
	}
	t.guessed = true
	return t
}

func (r *run) function(e Entity, name string) (Value, error) {
	t, from, err := r.functionType(e, name)
	return Value{Type: t, Lvalue: true, Addr: e.Addr, callee: &callee{e, from}}, err
}

func (r *run) functionType(e Entity, name string) (*Type, string, error) {
	if e.Type != nil && e.Type.is(FunctionType) {
		return e.Type, fromDebug, nil
	}
	if !isStatic(name) {
		t, err := r.tableDeclaration(plainName(name))
		if err != nil {
			return nil, "", err
		}
		if t != nil && t.is(FunctionType) {
			return t, fromTable, nil
		}
	}
	return unknownFunction(), "", nil
}

// unknownFunction is the type of a function of which nothing is known.
func unknownFunction() *Type {
	return &Type{Kind: FunctionType, Unprototyped: true, guessed: true, Size: 1}
}

// indirect asks an indirect function's resolver for the function.
func (r *run) indirect(e Entity, name string) (Value, error) {
	t, from, err := r.functionType(e, name)
	if err != nil {
		return Value{}, err
	}
	v := Value{Type: t, Lvalue: true, callee: &callee{e, from}}
	resolver := &Type{Kind: FunctionType, Size: 1, Elem: pointerTo(voidType())}
	if r.planning {
		r.plans = append(r.plans, Planned{Source: "resolver of " + name, Function: e, Type: resolver,
			TypeFrom: "indirect function", Call: &Call{}, Returns: "rax"})
		v.unknown = fmt.Sprintf("the result of call %d", len(r.plans))
		return v, nil
	}
	result, err := r.m.Call(e.Addr, &Call{})
	if err != nil {
		return v, fmt.Errorf("ask the resolver of %s: %w", name, err)
	}
	v.Addr = pointerValueOf(result.RAX)
	if v.Addr == 0 {
		return v, fmt.Errorf("the resolver of %s knows no function", name)
	}
	return v, nil
}

// typeOf looks up what a type was written as.
func (r *run) typeOf(s *typeSyntax) (*Type, error) {
	if s == nil {
		return nil, nil
	}
	t, err := r.typeOfForm(s)
	if err != nil {
		var known *EvalError
		if !errors.As(err, &known) {
			err = &EvalError{Src: r.src, Pos: s.at, Err: err}
		}
		return nil, err
	}
	return t.qualified(s.constant, s.volatile), nil
}

func (r *run) typeOfForm(s *typeSyntax) (*Type, error) {
	switch s.form {
	case basicSyntax:
		return s.basic, nil
	case namedSyntax:
		return r.typeNamed(s.name)
	case definedSyntax:
		return r.defined(s)
	}
	elem, err := r.typeOf(s.elem)
	if err != nil {
		return nil, err
	}
	switch s.form {
	case pointerSyntax, referenceSyntax:
		t := pointerTo(elem)
		if s.form == referenceSyntax {
			t.Kind = Reference
		}
		return t, nil
	case arraySyntax:
		return r.arrayOf(s, elem)
	}
	t := &Type{Kind: FunctionType, Size: 1, Elem: elem, Variadic: s.variadic, Unprototyped: s.unprototyped}
	if elem.is(FunctionType, Array) {
		return nil, fmt.Errorf("a function cannot return %s", elem)
	}
	for _, p := range s.params {
		param, err := r.typeOf(p)
		if err != nil {
			return nil, err
		}
		switch { // C 6.7.6.3: arrays and functions are passed as pointers
		case param.is(Array):
			param = pointerTo(param.under().Elem)
		case param.is(FunctionType):
			param = pointerTo(param)
		}
		t.Params = append(t.Params, param)
	}
	return t, nil
}

func (r *run) arrayOf(s *typeSyntax, elem *Type) (*Type, error) {
	if s.count == nil {
		return arrayOf(elem, -1), nil
	}
	n, err := r.rvalue(s.count)
	if err != nil {
		return nil, err
	}
	if !n.Type.integral() || n.unknown != "" || n.number().Sign() < 0 || !n.number().IsInt64() {
		return nil, errors.New("an array's length is a known number that is not negative")
	}
	t := arrayOf(elem, n.number().Int64())
	if elem.is(Void, FunctionType) {
		return nil, fmt.Errorf("an array of %s", elem)
	}
	if _, err := r.sizeOf(t); err != nil {
		return nil, err
	}
	return t, nil
}

// typeNamed finds "size_t" or "struct point": the table first, since its names mean the same everywhere, and what it
// does not define from the Machine.
func (r *run) typeNamed(name string) (*Type, error) {
	tag, _, tagged := strings.Cut(name, " ")
	if !tagged {
		t, err := r.tableType(name)
		if err != nil || t != nil {
			return t, err
		}
	}
	t, err := r.m.TypeNamed(name)
	if err != nil || t != nil {
		return t, err
	}
	if tagged { // good enough to point at, and completed by the table when it is looked into
		return incomplete(tag, name), nil
	}
	return nil, fmt.Errorf("no type is known as %s", name)
}

func incomplete(tag, name string) *Type {
	kind := map[string]Kind{"struct": Struct, "union": Union, "enum": Enumeration}[tag]
	return &Type{Kind: kind, Name: name, Incomplete: true}
}

// defined lays out a structure, union or enumeration of the built-in table.
func (r *run) defined(s *typeSyntax) (*Type, error) {
	if s.enumered {
		t := &Type{Kind: Enumeration, Name: s.name, Size: 4, Elem: integer("unsigned int", 4, false)}
		next := int64(0)
		for _, e := range s.enumerated {
			if e.value != nil {
				n, err := constant(e.value)
				if err != nil {
					return nil, err
				}
				next = n.Int64()
			}
			t.Signed = t.Signed || next < 0
			t.Enumerated = append(t.Enumerated, Enumerator{e.name, next})
			next++
		}
		return t, nil
	}
	t := &Type{Kind: Struct, Name: s.name}
	if s.union {
		t.Kind = Union
	}
	end := int64(0)
	for _, d := range s.fields {
		ft, err := r.typeOf(d.typ)
		if err != nil {
			return nil, err
		}
		size, err := r.sizeOf(ft)
		if err != nil {
			return nil, err
		}
		f := Field{Name: d.name, Type: ft}
		if t.Kind == Struct {
			align := ft.align()
			end = (end + align - 1) / align * align
			f.Offset = end
		}
		if d.bits != nil {
			return nil, errors.New("a bit-field in the built-in declarations")
		}
		end = max(end, f.Offset+size)
		t.Fields = append(t.Fields, f)
	}
	align := t.align()
	t.Size = (end + align - 1) / align * align
	return t, nil
}

// isConstant tells whether name is one of t's enumerators.
func (t *Type) enumerator(name string) (int64, bool) {
	i := slices.IndexFunc(t.Enumerated, func(e Enumerator) bool { return e.Name == name })
	if i < 0 {
		return 0, false
	}
	return t.Enumerated[i].Value, true
}
