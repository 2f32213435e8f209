package cexpr

import (
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/heaptap/heaptap/mem"
)

// run is the evaluation of one program.
type run struct {
	m        Machine
	env      *Env
	src      string
	planning bool
	plans    []Planned
	buffers  []Value // of the statement that is being evaluated
	failed   bool    // the last call answered -1
	macros   int     // depth of built-in macros
}

func (p *Program) run(m Machine, env *Env) ([]Outcome, error) {
	p, err := p.settle(m)
	if err != nil {
		return nil, err
	}
	r := &run{m: m, env: env, src: p.src}
	var outcomes []Outcome
	for _, s := range p.statements {
		o, err := r.statement(s)
		if err != nil {
			return outcomes, err
		}
		outcomes = append(outcomes, o)
	}
	return outcomes, nil
}

func (p *Program) explain(m Machine, env *Env) ([]Planned, error) {
	p, err := p.settle(m)
	if err != nil {
		return nil, err
	}
	scratch := &Env{history: slices.Clone(env.history), vars: maps.Clone(env.vars)}
	r := &run{m: m, env: scratch, src: p.src, planning: true}
	for _, s := range p.statements {
		if _, err := r.statement(s); err != nil {
			return r.plans, err
		}
	}
	return r.plans, nil
}

// settle asks the Machine which of the ambiguous names are types; variables and functions come first, as for gdb.
func (p *Program) settle(m Machine) (*Program, error) {
	var types []string
	for _, name := range p.ambiguous {
		var missing *NotFoundError
		if _, err := m.Lookup(name); !errors.As(err, &missing) {
			continue
		}
		if t, err := m.TypeNamed(name); err == nil && t != nil {
			types = append(types, name)
		}
	}
	if len(types) == 0 {
		return p, nil
	}
	return parseWith(p.src, types)
}

func (r *run) statement(s statement) (Outcome, error) {
	start, end := s.span()
	o := Outcome{Source: r.src[start:end]}
	r.buffers, r.failed = nil, false
	v, err := r.eval(s.expression)
	if err == nil {
		v, err = r.load(v)
	}
	if err != nil {
		return o, r.fail(s, err)
	}
	v.place = place{}
	o.Value = v
	if !v.Type.is(Void) {
		r.env.history = append(r.env.history, v)
		o.Number = len(r.env.history)
		if !r.planning {
			o.Text, o.Data = v.Format(r.m), v.JSON(r.m)
		}
	}
	if r.failed {
		if number, ok := r.m.Errno(); ok {
			o.Errno = number
		}
	}
	for _, b := range r.buffers {
		if r.planning {
			continue
		}
		b.unread = true
		b, err := r.load(b)
		if err != nil {
			return o, r.fail(s, err)
		}
		o.Buffers = append(o.Buffers, Buffer{uint64(b.Addr), b.Bytes, b.Format(r.m)})
	}
	return o, nil
}

// fail says where, unless err says it already.
func (r *run) fail(e expression, err error) error {
	var known *EvalError
	if err == nil || errors.As(err, &known) {
		return err
	}
	return &EvalError{Src: r.src, Pos: e.pos(), Err: err}
}

// eval evaluates e. The value may still be unread.
func (r *run) eval(e expression) (Value, error) {
	v, err := r.evalAny(e)
	return v, r.fail(e, err)
}

func (r *run) evalAny(e expression) (Value, error) {
	switch e := e.(type) {
	case *intLiteral:
		return integerValue(e.number, e.typ), nil
	case *floatLiteral:
		return realValue(real{value: e.number}, e.typ), nil
	case *stringLiteral:
		return stringValue(e), nil
	case *nameExpression:
		return r.name(e.name)
	case *dollarExpression:
		return r.dollar(e.name)
	case *unaryExpression:
		return r.unary(e)
	case *binaryExpression:
		return r.binary(e)
	case *assignExpression:
		return r.assign(e)
	case *conditionalExpression:
		return r.conditional(e)
	case *castExpression:
		return r.cast(e)
	case *sizeofExpression:
		return r.sizeof(e)
	case *indexExpression:
		return r.index(e)
	case *memberExpression:
		return r.member(e)
	case *callExpression:
		return r.call(e, nil)
	}
	return Value{}, fmt.Errorf("expression %T", e)
}

// rvalue evaluates e to a loaded value, arrays and functions turned into pointers.
func (r *run) rvalue(e expression) (Value, error) {
	v, err := r.eval(e)
	if err == nil {
		v, err = r.decay(v)
	}
	if err == nil {
		v, err = r.load(v)
	}
	return v, r.fail(e, err)
}

func stringValue(e *stringLiteral) Value {
	var b []byte
	for _, u := range append(e.units[:len(e.units):len(e.units)], 0) {
		b = append(b, integerBytes(big.NewInt(u), e.element.Size)...)
	}
	return Value{Type: arrayOf(e.element, int64(len(e.units)+1)), Bytes: b, literal: true}
}

// load reads what lies at an unread value's place.
func (r *run) load(v Value) (Value, error) {
	if !v.unread {
		return v, nil
	}
	size, err := r.sizeOf(v.Type)
	if err != nil {
		return v, err
	}
	v.unread = false
	if v.unknown != "" || v.Type.is(FunctionType, Void) {
		v.Bytes = make([]byte, size)
		if v.unknown == "" {
			v.Bytes = nil
		}
		return v, nil
	}
	if v.field != nil {
		_, span := bitFieldSpan(v.field)
		b, err := r.read(v.Addr, span)
		if err == nil {
			v.Bytes = bitField(b, v.field)
		}
		return v, err
	}
	v.Bytes, err = r.read(v.Addr, size)
	return v, err
}

func (r *run) read(a mem.Addr, n int64) ([]byte, error) {
	b := make([]byte, n)
	if n == 0 {
		return b, nil
	}
	if err := r.m.ReadAt(b, a); err != nil {
		return nil, fmt.Errorf("cannot access memory at address %v: %w", a, err)
	}
	return b, nil
}

// sizeOf is sizeof(t), of structures that are completed first.
func (r *run) sizeOf(t *Type) (int64, error) {
	if _, err := r.completed(t); err != nil {
		return 0, err
	}
	if t.guessed && t.Kind != FunctionType && t.Size == 0 {
		return 0, errUnknownObject
	}
	return t.size()
}

var errUnknownObject = errors.New("it has an unknown type; cast it to its declared type")

// completed is the underlying type, of a structure known by name only what debug information or the table know of it.
func (r *run) completed(t *Type) (*Type, error) {
	u, err := t.Underlying()
	if err != nil {
		return nil, err
	}
	if u.Kind == Array {
		if _, err := r.completed(u.Elem); err != nil {
			return nil, err
		}
	}
	if !u.Incomplete || u.Name == "" {
		return u, nil
	}
	found, err := r.m.TypeNamed(u.Name)
	if err != nil {
		return nil, err
	}
	if found == nil || found.under().Incomplete {
		if found, err = r.tableType(u.Name); err != nil || found == nil {
			return u, err
		}
	}
	found, err = found.Underlying()
	if err != nil || found.Kind != u.Kind {
		return u, err
	}
	constant, volatile := u.Const, u.Volatile
	*u = *found // for all who hold the type
	u.Const, u.Volatile = constant, volatile
	if w, err := t.Underlying(); err == nil && w.Incomplete { // u was a copy, with a typedef's qualifiers
		return found.qualified(constant, volatile), nil
	}
	return u, nil
}

// decay turns arrays and functions into pointers and references into what they refer to. What is not in memory yet is
// placed there.
func (r *run) decay(v Value) (Value, error) {
	u, err := v.Type.Underlying()
	if err != nil {
		return v, err
	}
	switch u.Kind {
	case Array:
		p, err := r.address(v)
		p.Type = pointerTo(u.Elem.qualified(u.Const, u.Volatile))
		return p, err
	case FunctionType:
		if v.unknown == "" && !v.Lvalue {
			return v, errors.New("a function without an address")
		}
		return r.address(v)
	case Reference:
		v, err := r.load(v)
		if err != nil {
			return v, err
		}
		return r.decay(r.at(v, u.Elem))
	}
	return v, nil
}

// at is what the pointer p points at, as type t, unread.
func (r *run) at(p Value, t *Type) Value {
	v := Value{Type: t, Lvalue: true, Addr: p.pointer(), unread: true, unknown: p.unknown}
	if t.is(FunctionType) {
		v.unread = false
		v.callee = p.callee
	}
	return v
}

// address is &v. A value that is not in memory is placed there, which only arrays and structures are.
func (r *run) address(v Value) (Value, error) {
	t := pointerTo(v.Type)
	switch {
	case v.field != nil:
		return v, errors.New("a bit-field has no address")
	case v.unknown != "" && v.Lvalue:
		return Value{Type: t, Bytes: make([]byte, 8), unknown: v.unknown, callee: v.callee}, nil
	case v.Lvalue:
		p := pointerValue(v.Addr, t)
		p.callee = v.callee
		return p, nil
	case v.place.register != "":
		return v, errors.New("a register has no address")
	case !v.Type.is(Array, Struct, Union):
		return v, errors.New("it has no address: it is a value and not a place in memory")
	}
	p := Value{Type: t, Bytes: make([]byte, 8)}
	switch {
	case v.unknown != "":
		p.unknown = "the address of a copy of " + v.unknown
	case r.planning:
		p.unknown = v.Format(r.m) + ", placed in the target"
	default:
		a, err := r.m.Allocate(uint64(max(len(v.Bytes), 1)))
		if err == nil {
			err = r.m.WriteAt(v.Bytes, a)
		}
		if err != nil {
			return v, fmt.Errorf("place %d bytes in the target: %w", len(v.Bytes), err)
		}
		p = pointerValue(a, t)
	}
	return p, nil
}

// dollar evaluates registers, results and named variables.
func (r *run) dollar(name string) (Value, error) {
	if v, ok, err := r.history(name); ok || err != nil {
		return v, err
	}
	if v, ok := r.env.vars[name]; ok {
		v.place = place{variable: name}
		return v, nil
	}
	v, err := r.register(name)
	var unknown *UnknownRegisterError
	if errors.As(err, &unknown) && !isRegister(name) {
		return Value{Type: voidType(), place: place{variable: name}}, nil
	}
	return v, err
}

// history evaluates $, $$, $1 and $$1. ok is false for other names.
func (r *run) history(name string) (v Value, ok bool, err error) {
	count := len(r.env.history)
	back := strings.HasPrefix(name, "$")
	digits := strings.TrimPrefix(name, "$")
	var index int
	switch {
	case name == "":
		index = count
	case name == "$":
		index = count - 1
	default:
		n, err := strconv.Atoi(digits)
		if err != nil {
			return v, false, nil
		}
		index = n
		if back {
			index = count - n
		} else if n < 1 || n > count {
			return v, true, fmt.Errorf("there is no result $%d yet", n)
		}
	}
	if index < 1 || index > count {
		return Value{Type: voidType()}, true, nil
	}
	return r.env.history[index-1], true, nil
}

func (r *run) conditional(e *conditionalExpression) (Value, error) {
	c, err := r.rvalue(e.condition)
	if err != nil {
		return c, err
	}
	if c.unknown != "" {
		if _, err := r.eval(e.yes); err != nil {
			return c, err
		}
		v, err := r.rvalue(e.no)
		v.unknown, v.Lvalue = "computed from "+c.unknown, false
		return v, err
	}
	yes, err := c.truth()
	if err != nil {
		return c, r.fail(e.condition, err)
	}
	if yes {
		return r.eval(e.yes)
	}
	return r.eval(e.no)
}

func (r *run) sizeof(e *sizeofExpression) (Value, error) {
	t, err := r.typeOf(e.of)
	if e.of == nil {
		t, err = r.typeOnly(e.x)
	}
	if err != nil {
		return Value{}, err
	}
	u, err := r.completed(t)
	if err != nil {
		return Value{}, err
	}
	size, err := r.sizeOf(u)
	if e.op == "_Alignof" {
		size = u.align()
	}
	return intValue(size, ulongType()), err
}

// typeOnly is the type of e, which is not really evaluated: nothing is called and nothing stored.
func (r *run) typeOnly(e expression) (*Type, error) {
	scratch := &run{m: r.m, src: r.src, planning: true,
		env: &Env{history: r.env.history, vars: maps.Clone(r.env.vars)}}
	v, err := scratch.eval(e)
	return v.Type, err
}

func (r *run) index(e *indexExpression) (Value, error) {
	x, err := r.eval(e.x)
	if err != nil {
		return x, err
	}
	i, err := r.rvalue(e.index)
	if err != nil {
		return x, err
	}
	if x.Type.is(Integer, Char, Bool, Enumeration) && i.Type.is(Pointer) { // 2[array]
		if x, err = r.load(x); err != nil {
			return x, err
		}
		x, i = i, x
	}
	if !i.Type.integral() {
		return x, r.fail(e.index, fmt.Errorf("an index of type %s", i.Type))
	}
	u, err := x.Type.Underlying()
	if err != nil {
		return x, err
	}
	if (u.Kind == Array && !x.Lvalue || u.Kind == Vector) && x.unknown == "" && i.unknown == "" {
		return r.element(x, u, i)
	}
	if x, err = r.decay(x); err == nil {
		x, err = r.load(x)
	}
	if err != nil {
		return x, err
	}
	if !x.Type.is(Pointer) {
		return x, fmt.Errorf("a value of type %s has no elements", x.Type)
	}
	p, err := r.advance(x, i, 1)
	if err != nil {
		return x, err
	}
	return r.pointee(p)
}

// element takes an element out of an array or vector that has no address.
func (r *run) element(x Value, u *Type, i Value) (Value, error) {
	x, err := r.load(x)
	if err != nil {
		return x, err
	}
	size, err := r.sizeOf(u.Elem)
	if err != nil {
		return x, err
	}
	n := i.number()
	if !n.IsInt64() || n.Sign() < 0 || size == 0 || n.Int64() >= int64(len(x.Bytes))/size {
		return x, fmt.Errorf("no such element: %v of %s", n, x.Type)
	}
	return x.part(u.Elem, n.Int64()*size, size), nil
}

// part is a member or element of v, size bytes at offset.
func (v Value) part(t *Type, offset, size int64) Value {
	p := Value{Type: t, Bytes: v.Bytes[offset : offset+size], unknown: v.unknown, place: v.place}
	if v.Lvalue {
		p.Lvalue, p.Addr = true, v.Addr+mem.Addr(offset)
	}
	if p.place.known() {
		p.place.offset += offset
		p.place.part = true
	}
	return p
}

func (r *run) member(e *memberExpression) (Value, error) {
	x, err := r.eval(e.x)
	if err != nil {
		return x, err
	}
	if x.Type.is(Pointer, Reference) || e.arrow && x.Type.is(Array) { // gdb takes . for -> too
		if x, err = r.decay(x); err == nil {
			x, err = r.load(x)
		}
		if err == nil && x.Type.is(Pointer) {
			x, err = r.pointee(x)
		}
		if err != nil {
			return x, err
		}
	}
	u, err := r.completed(x.Type)
	if err != nil {
		return x, err
	}
	if u.Kind != Struct && u.Kind != Union {
		return x, fmt.Errorf("a value of type %s has no members", x.Type)
	}
	if u.Incomplete {
		return x, fmt.Errorf("incomplete type %s: its members are not known", u)
	}
	f, ok := u.member(e.name, new(int))
	if !ok {
		return x, fmt.Errorf("%s has no member %s; it has %s", u, e.name, strings.Join(memberNames(u), ", "))
	}
	return r.field(x, u, f)
}

// member finds a member by name, also inside of anonymous members and base classes; its offsets are from t's begin.
func (t *Type) member(name string, looked *int) (Field, bool) {
	if *looked++; *looked > maxMembers {
		return Field{}, false
	}
	for _, f := range t.Fields {
		if f.Name == name && !f.Base {
			return f, true
		}
	}
	for _, f := range t.Fields {
		if f.Name != "" && !f.Base || !f.Type.aggregate() {
			continue
		}
		if inner, ok := f.Type.under().member(name, looked); ok {
			inner.Offset += f.Offset
			inner.BitOffset += f.Offset * 8
			return inner, true
		}
	}
	return Field{}, false
}

func memberNames(t *Type) []string {
	var names []string
	for _, f := range t.Fields {
		if f.Name != "" {
			names = append(names, f.Name)
		}
	}
	if len(names) == 0 {
		return []string{"none"}
	}
	return names
}

// field is a member of x.
func (r *run) field(x Value, u *Type, f Field) (Value, error) {
	t := f.Type.qualified(u.Const, u.Volatile)
	size, err := r.sizeOf(t)
	if err != nil {
		return x, err
	}
	offset := f.Offset
	span := size
	if f.BitSize > 0 {
		offset, span = bitFieldSpan(&f)
	}
	if x.unread || x.unknown != "" {
		v := Value{Type: t, Lvalue: x.Lvalue, Addr: x.Addr + mem.Addr(offset), unread: true, unknown: x.unknown}
		if f.BitSize > 0 {
			v.field = &f
		}
		return v, nil
	}
	if offset < 0 || offset+span > int64(len(x.Bytes)) {
		return x, fmt.Errorf("member %s lies outside of %s", f.Name, u)
	}
	v := x.part(t, offset, span)
	if f.BitSize > 0 {
		v.field, v.Bytes = &f, bitField(v.Bytes, &f)
	}
	return v, nil
}

// pointee is *p.
func (r *run) pointee(p Value) (Value, error) {
	u, err := p.Type.Underlying()
	if err != nil {
		return p, err
	}
	switch {
	case u.Kind == Pointer && u.Elem.is(Void):
		return p, errors.New("a pointer to void points at nothing known; cast it")
	case u.Kind == Pointer:
		return r.at(p, u.Elem), nil
	case u.Kind == Integer: // as gdb: a long at that address
		return r.at(integerValue(p.number(), ulongType()), longType()), nil
	}
	return p, fmt.Errorf("a value of type %s does not point at anything", p.Type)
}

// advance is p + sign·i.
func (r *run) advance(p, i Value, sign int64) (Value, error) {
	size, err := r.sizeOf(p.Type.under().Elem)
	if err != nil {
		return p, err
	}
	n := new(big.Int).Mul(i.number(), big.NewInt(size*sign))
	q := integerValue(n.Add(n, p.number()), p.Type.under())
	q.unknown = derived(p, i)
	return q, nil
}

// derived says of what a value is computed that is not there yet, if one of vs is not.
func derived(vs ...Value) string {
	for _, v := range vs {
		if v.unknown != "" {
			return "computed from " + strings.TrimPrefix(v.unknown, "computed from ")
		}
	}
	return ""
}
