package cexpr

import (
	"errors"
	"fmt"
	"math/big"

	"github.com/heaptap/heaptap/mem"
)

func (r *run) unary(e *unaryExpression) (Value, error) {
	switch e.op {
	case "&":
		x, err := r.eval(e.x)
		if err != nil {
			return x, err
		}
		if x.Type.is(Reference) {
			return r.convertReference(x)
		}
		return r.address(x)
	case "++", "--", "post++", "post--":
		return r.increment(e)
	}
	x, err := r.rvalue(e.x)
	if err != nil {
		return x, err
	}
	switch e.op {
	case "*":
		return r.pointee(x)
	case "!":
		t, err := x.truth()
		v := truthValue(!t)
		v.unknown = derived(x)
		return v, err
	}
	return negate(e.op, x)
}

// convertReference is the address that a reference holds.
func (r *run) convertReference(x Value) (Value, error) {
	x, err := r.load(x)
	if err != nil {
		return x, err
	}
	p := pointerValue(x.pointer(), pointerTo(x.Type.under().Elem))
	p.unknown = x.unknown
	return p, nil
}

// negate computes + - and ~.
func negate(op string, x Value) (Value, error) {
	x, err := promote(x)
	if err != nil {
		return x, err
	}
	v := x
	switch {
	case x.Type.is(Complex, Vector) && op == "-":
		v, err = elementwise("-", zeroOf(x.Type), x)
	case x.Type.is(Complex, Vector) && op == "+":
	case op == "~" && x.Type.is(Integer):
		v = integerValue(new(big.Int).Not(x.number()), x.Type)
	case op == "-" && x.Type.is(Floating):
		v.Bytes = append([]byte(nil), x.Bytes...)
		sign := len(v.Bytes) - 1
		if x.Type.under().format == x87 {
			sign = 9
		}
		v.Bytes[sign] ^= 0x80
	case op == "-" && x.Type.is(Integer):
		v = integerValue(new(big.Int).Neg(x.number()), x.Type)
	case op == "+" && x.Type.arithmetic():
	default:
		return x, fmt.Errorf("no operation %s on a value of type %s", op, x.Type)
	}
	v.Lvalue, v.place, v.unknown = false, place{}, derived(x)
	return v, err
}

func zeroOf(t *Type) Value {
	size, _ := t.size()
	return Value{Type: t, Bytes: make([]byte, size)}
}

// promote applies the integer promotions (C 6.3.1.1).
func promote(v Value) (Value, error) {
	u := v.Type.under()
	switch u.Kind {
	case Bool, Char, Integer, Enumeration:
		narrow := u.Size < 4 || v.field != nil && (v.field.BitSize < 32 || v.field.BitSize == 32 && u.Signed)
		if narrow {
			return retype(v, intType()), nil
		}
		if v.field != nil && v.field.BitSize == 32 && u.Size == 4 {
			return retype(v, integer("unsigned int", 4, false)), nil
		}
		if u.Kind != Integer || u.bits != nil {
			name := map[int64]string{4: "int", 8: "long", 16: "__int128"}[u.Size]
			if !u.Signed {
				name = "unsigned " + name
			}
			return retype(v, integer(name, u.Size, u.Signed)), nil
		}
	}
	v.field = nil
	return v, nil
}

// retype is an integer in another integer type.
func retype(v Value, t *Type) Value {
	n := integerValue(v.number(), t)
	n.unknown = v.unknown
	return n
}

// rank orders integer types (C 6.3.1.1): by size, then long long above long.
func rank(t *Type) int64 {
	r := t.Size * 2
	if t.Name == "long long" || t.Name == "unsigned long long" {
		r++
	}
	return r
}

// common is the type that the usual arithmetic conversions give (C 6.3.1.8).
func common(x, y Value) *Type {
	a, b := x.Type.under().unqualified(), y.Type.under().unqualified()
	if a.Kind == Complex || b.Kind == Complex {
		part := func(v Value, t *Type) Value {
			if t.Kind == Complex {
				return Value{Type: t.Elem}
			}
			return v
		}
		elem := common(part(x, a), part(y, b))
		return &Type{Kind: Complex, Name: "complex " + elem.Name, Size: 2 * elem.Size, Elem: elem}
	}
	if a.Kind == Floating || b.Kind == Floating {
		if a.Kind != Floating || b.Kind == Floating && b.Size > a.Size {
			return b
		}
		return a
	}
	if a.Signed == b.Signed {
		if rank(b) > rank(a) {
			return b
		}
		return a
	}
	if a.Signed {
		a, b = b, a
	}
	// a is unsigned
	switch {
	case rank(a) >= rank(b):
		return a
	case b.Size > a.Size:
		return b
	}
	return integer("unsigned "+b.Name, b.Size, false)
}

func (r *run) binary(e *binaryExpression) (Value, error) {
	switch e.op {
	case ",":
		if _, err := r.eval(e.x); err != nil {
			return Value{}, err
		}
		return r.eval(e.y)
	case "&&", "||":
		return r.logical(e)
	case "@":
		return r.repeat(e)
	}
	x, err := r.rvalue(e.x)
	if err != nil {
		return x, err
	}
	y, err := r.rvalue(e.y)
	if err != nil {
		return y, err
	}
	return r.operate(e.op, x, y)
}

func (r *run) logical(e *binaryExpression) (Value, error) {
	x, err := r.rvalue(e.x)
	if err != nil {
		return x, err
	}
	yes, err := x.truth()
	if err != nil {
		return x, r.fail(e.x, err)
	}
	if x.unknown == "" && yes == (e.op == "||") {
		return truthValue(yes), nil
	}
	y, err := r.rvalue(e.y)
	if err != nil {
		return y, err
	}
	yes, err = y.truth()
	if err != nil {
		return y, r.fail(e.y, err)
	}
	v := truthValue(yes)
	v.unknown = derived(x, y)
	return v, nil
}

// repeat is gdb's first@count: an array of what begins at first.
func (r *run) repeat(e *binaryExpression) (Value, error) {
	x, err := r.eval(e.x)
	if err != nil {
		return x, err
	}
	n, err := r.rvalue(e.y)
	if err != nil {
		return n, err
	}
	if !x.Lvalue {
		return x, errors.New("only what lies in memory can be repeated with @")
	}
	if !n.Type.integral() || n.unknown == "" && (n.number().Sign() <= 0 || !n.number().IsInt64()) {
		return n, r.fail(e.y, errors.New("@ needs a positive number of elements"))
	}
	count := int64(1)
	if n.unknown == "" {
		count = n.number().Int64()
	}
	t := arrayOf(x.Type, count)
	if _, err := r.sizeOf(t); err != nil {
		return x, err
	}
	return Value{Type: t, Lvalue: true, Addr: x.Addr, unread: true, unknown: x.unknown}, nil
}

// operate computes with two loaded values.
func (r *run) operate(op string, x, y Value) (Value, error) {
	if x.Type.is(Pointer) || y.Type.is(Pointer) {
		return r.pointerOperation(op, x, y)
	}
	if x.Type.is(Vector) || y.Type.is(Vector) {
		return vectorOperation(op, x, y)
	}
	if !x.Type.arithmetic() || !y.Type.arithmetic() {
		return x, fmt.Errorf("no operation %s on values of type %s and %s", op, x.Type, y.Type)
	}
	v, err := arithmetic(op, x, y)
	v.unknown = derived(x, y)
	return v, err
}

func comparison(op string) bool {
	switch op {
	case "==", "!=", "<", ">", "<=", ">=":
		return true
	}
	return false
}

// arithmetic computes with two values of arithmetic type.
func arithmetic(op string, x, y Value) (Value, error) {
	x, err := promote(x)
	if err != nil {
		return x, err
	}
	if y, err = promote(y); err != nil {
		return y, err
	}
	t := common(x, y)
	if (op == "<<" || op == ">>") && t.Kind == Integer {
		t = x.Type.under().unqualified() // shifts take the left operand's type
	} else if y, err = convert(y, t); err != nil {
		return y, err
	}
	if x, err = convert(x, t); err != nil {
		return x, err
	}
	switch t.Kind {
	case Complex:
		return elementwise(op, x, y)
	case Floating:
		if comparison(op) {
			return truthValue(compareReal(op, x.real(), y.real())), nil
		}
		z, err := realOperation(op, x.real(), y.real(), t)
		return realValue(z, t), err
	}
	if comparison(op) {
		return truthValue(ordered(op, x.number().Cmp(y.number()))), nil
	}
	if y.unknown != "" && (op == "/" || op == "%") {
		return integerValue(new(big.Int), t), nil
	}
	z, err := integerOperation(op, x.number(), y.number(), uint(t.Size*8))
	if err != nil {
		return x, err
	}
	return integerValue(z, t), nil
}

// pointerOperation computes with at least one pointer.
func (r *run) pointerOperation(op string, x, y Value) (Value, error) {
	switch {
	case comparison(op):
		if !x.Type.scalar() || !y.Type.scalar() || x.Type.is(Floating, Complex) || y.Type.is(Floating, Complex) {
			return x, fmt.Errorf("values of type %s and %s cannot be compared", x.Type, y.Type)
		}
		a, b := integerBytes(x.number(), 8), integerBytes(y.number(), 8) // integers as the addresses they would be
		v := truthValue(ordered(op, integerOf(a, false).Cmp(integerOf(b, false))))
		v.unknown = derived(x, y)
		return v, nil
	case op == "+" && y.Type.integral():
		return r.advance(x, y, 1)
	case op == "+" && x.Type.integral():
		return r.advance(y, x, 1)
	case op == "-" && y.Type.integral():
		return r.advance(x, y, -1)
	case op == "-" && x.Type.is(Pointer) && y.Type.is(Pointer):
		size, err := r.sizeOf(x.Type.under().Elem)
		if err != nil {
			return x, err
		}
		other, err := r.sizeOf(y.Type.under().Elem)
		if err != nil {
			return y, err
		}
		if size != other || size == 0 {
			return x, fmt.Errorf("pointers to %s and to %s cannot be subtracted", x.Type.under().Elem, y.Type.under().Elem)
		}
		n := integerOf(integerBytes(new(big.Int).Sub(x.number(), y.number()), 8), true)
		v := integerValue(n.Quo(n, big.NewInt(size)), longType())
		v.unknown = derived(x, y)
		return v, nil
	case x.Type.arithmetic() && !x.Type.is(Floating, Complex) || y.Type.arithmetic() && !y.Type.is(Floating, Complex):
		// as gdb: other operations take the pointer as an integer
		asNumber := func(v Value) Value {
			if v.Type.is(Pointer) {
				return retype(v, longType())
			}
			return v
		}
		v, err := arithmetic(op, asNumber(x), asNumber(y))
		v.unknown = derived(x, y)
		return v, err
	}
	return x, fmt.Errorf("no operation %s on values of type %s and %s", op, x.Type, y.Type)
}

// vectorOperation computes element by element; a scalar is taken for all elements.
func vectorOperation(op string, x, y Value) (Value, error) {
	t := x.Type
	if !t.is(Vector) {
		t = y.Type
	}
	widen := func(v Value) (Value, error) {
		if v.Type.is(Vector) {
			return v, nil
		}
		u := t.under()
		one, err := convert(v, u.Elem)
		all := Value{Type: t, unknown: v.unknown}
		for range u.Count {
			all.Bytes = append(all.Bytes, one.Bytes...)
		}
		return all, err
	}
	x, err := widen(x)
	if err != nil {
		return x, err
	}
	if y, err = widen(y); err != nil {
		return y, err
	}
	if len(x.Bytes) != len(y.Bytes) || x.Type.under().Count != y.Type.under().Count || comparison(op) {
		return x, fmt.Errorf("no operation %s on values of type %s and %s", op, x.Type, y.Type)
	}
	v, err := elementwise(op, x, y)
	v.unknown = derived(x, y)
	return v, err
}

// elementwise computes with vectors, or with complex values, of the same type.
func elementwise(op string, x, y Value) (Value, error) {
	u := x.Type.under()
	if u.Kind == Complex {
		return complexOperation(op, x, y)
	}
	v := Value{Type: x.Type}
	step := int64(len(x.Bytes)) / max(u.Count, 1)
	for i := range u.Count {
		a := Value{Type: u.Elem, Bytes: x.Bytes[i*step : (i+1)*step]}
		b := Value{Type: u.Elem, Bytes: y.Bytes[i*step : (i+1)*step]}
		c, err := arithmetic(op, a, b)
		if err == nil {
			c, err = convert(c, u.Elem)
		}
		if err != nil {
			return v, err
		}
		v.Bytes = append(v.Bytes, c.Bytes...)
	}
	return v, nil
}

func complexOperation(op string, x, y Value) (Value, error) {
	a, b := x.parts()
	c, d := y.parts()
	do := func(op string, x, y Value) Value {
		v, err := arithmetic(op, x, y)
		if err != nil {
			return zeroOf(a.Type) // floating operations do not fail
		}
		return v
	}
	var re, im Value
	switch op {
	case "+", "-":
		re, im = do(op, a, c), do(op, b, d)
	case "*":
		re, im = do("-", do("*", a, c), do("*", b, d)), do("+", do("*", a, d), do("*", b, c))
	case "/":
		n := do("+", do("*", c, c), do("*", d, d))
		re = do("/", do("+", do("*", a, c), do("*", b, d)), n)
		im = do("/", do("-", do("*", b, c), do("*", a, d)), n)
	case "==", "!=":
		same := do("==", a, c).number().Sign() != 0 && do("==", b, d).number().Sign() != 0
		return truthValue(same == (op == "==")), nil
	default:
		return x, fmt.Errorf("no operation %s on complex values", op)
	}
	return Value{Type: x.Type, Bytes: append(append([]byte(nil), re.Bytes...), im.Bytes...)}, nil
}

var errInvalidCast = errors.New("no such conversion")

// convert gives a loaded scalar, vector or structure another type, as an assignment does.
func convert(v Value, t *Type) (Value, error) {
	u, err := t.Underlying()
	if err != nil {
		return v, err
	}
	from, err := v.Type.Underlying()
	if err != nil {
		return v, err
	}
	out := Value{Type: t, unknown: v.unknown}
	invalid := fmt.Errorf("from %s to %s: %w", v.Type, t, errInvalidCast)
	switch u.Kind {
	case Void:
		return Value{Type: t}, nil
	case Bool:
		yes, err := v.truth()
		if err != nil {
			return v, invalid
		}
		out.Bytes = truthValue(yes).Bytes[:1]
	case Char, Integer, Enumeration, Pointer:
		n, ok := wholeNumber(v, from, u.Kind == Pointer)
		if !ok {
			return v, invalid
		}
		out.Bytes = integerBytes(n, u.Size)
		out.callee = v.callee
	case Floating:
		x, ok := realNumber(v, from, u)
		if !ok {
			return v, invalid
		}
		out.Bytes = x.bytes(u)
	case Complex:
		re, im := v, zeroOf(u.Elem)
		if from.Kind == Complex {
			re, im = v.parts()
		}
		if re, err = convert(re, u.Elem); err == nil {
			im, err = convert(im, u.Elem)
		}
		if err != nil {
			return v, invalid
		}
		out.Bytes = append(append([]byte(nil), re.Bytes...), im.Bytes...)
	default:
		size, err := t.size()
		same := sameType(v.Type, t, 0) || u.Kind == Vector && from.Kind == Vector
		if err != nil || !same || size != int64(len(v.Bytes)) && v.unknown == "" {
			return v, invalid
		}
		out.Bytes = v.Bytes
	}
	return out, nil
}

func wholeNumber(v Value, from *Type, pointer bool) (*big.Int, bool) {
	switch {
	case from.Kind == Floating && !pointer:
		return v.real().integer(), true
	case from.Kind == Complex && !pointer:
		re, _ := v.parts()
		return wholeNumber(re, re.Type.under(), false)
	case v.Type.integral(), from.Kind == Pointer:
		return v.number(), true
	case from.Kind == Vector && len(v.Bytes) <= 16 && !pointer:
		return integerOf(v.Bytes, false), true
	}
	return nil, false
}

func realNumber(v Value, from, to *Type) (real, bool) {
	switch {
	case from.Kind == Floating:
		x := v.real()
		if x.value == nil && x.raw != nil && from.Size == to.Size && from.format == to.format {
			return x, true
		}
		if x.value == nil {
			return real{neg: x.neg}, true
		}
		return x, true
	case from.Kind == Complex:
		re, _ := v.parts()
		return realNumber(re, re.Type.under(), to)
	case v.Type.integral():
		exact := new(big.Float).SetPrec(140).SetInt(v.number())
		return real{value: exact}, true
	}
	return real{}, false
}

func (r *run) cast(e *castExpression) (Value, error) {
	t, err := r.typeOf(e.to)
	if err != nil {
		return Value{}, err
	}
	var v Value
	if call, ok := e.x.(*callExpression); ok {
		v, err = r.call(call, t) // where nothing else tells, this is what the function returns
		err = r.fail(e.x, err)
	} else {
		v, err = r.eval(e.x)
	}
	if err != nil {
		return v, err
	}
	if v.Lvalue && v.Type.guessed && !v.Type.is(FunctionType) { // what a symbol without a type really is
		return Value{Type: t, Lvalue: true, Addr: v.Addr, unread: true, unknown: v.unknown}, nil
	}
	return r.castTo(v, t)
}

func (r *run) castTo(v Value, t *Type) (Value, error) {
	u, err := r.completed(t)
	if err != nil {
		return v, err
	}
	if u.Kind == Reference {
		p, err := r.address(v)
		p.Type = t
		return p, err
	}
	if v.Type.is(Array, Struct, Union) && !(v.Type.is(Array) && u.Kind == Pointer) && v.Lvalue &&
		(u.Kind == Array || u.Kind == Struct || u.Kind == Union) {
		size, err := r.sizeOf(t)
		old, err2 := r.sizeOf(v.Type)
		if err == nil && err2 == nil && size == old { // as gdb: the same bytes seen in another way
			return Value{Type: t, Lvalue: true, Addr: v.Addr, unread: true, unknown: v.unknown}, nil
		}
	}
	if v, err = r.decay(v); err != nil {
		return v, err
	}
	if v, err = r.load(v); err != nil {
		return v, err
	}
	w, err := convert(v, t)
	w.callee = v.callee
	return w, err
}

func (r *run) assign(e *assignExpression) (Value, error) {
	to, err := r.target(e.x)
	if err != nil {
		return to, err
	}
	if e.op == "" {
		v, err := r.eval(e.y)
		if err != nil {
			return v, err
		}
		v, err = r.store(to, v)
		return v, err
	}
	old, err := r.decay(to)
	if err == nil {
		old, err = r.load(old)
	}
	if err != nil {
		return old, r.fail(e.x, err)
	}
	y, err := r.rvalue(e.y)
	if err != nil {
		return y, err
	}
	v, err := r.operate(e.op, old, y)
	if err != nil {
		return v, err
	}
	return r.store(to, v)
}

// target evaluates what is assigned to.
func (r *run) target(e expression) (Value, error) {
	var v Value
	var err error
	if n, ok := e.(*nameExpression); ok && n.name == "errno" {
		v, err = r.errnoPlace()
	} else {
		v, err = r.eval(e)
	}
	if err == nil && v.Type.is(Reference) {
		if v, err = r.load(v); err == nil {
			v = r.at(v, v.Type.under().Elem)
		}
	}
	if err == nil && !v.assignable() {
		err = errors.New("it cannot be assigned to: it is a value and not a place")
	}
	return v, r.fail(e, err)
}

func (r *run) increment(e *unaryExpression) (Value, error) {
	to, err := r.target(e.x)
	if err != nil {
		return to, err
	}
	if to, err = r.load(to); err != nil {
		return to, err
	}
	op := e.op[len(e.op)-1:]
	v, err := r.operate(op, to, intValue(1, intType()))
	if err != nil {
		return v, err
	}
	v, err = r.store(to, v)
	if len(e.op) > 2 { // post
		to.Lvalue, to.place, to.field = false, place{}, nil
		return to, err
	}
	return v, err
}

// store puts v where to came from and returns it as it is there.
func (r *run) store(to, v Value) (Value, error) {
	if to.place.variable != "" && !to.place.part {
		return r.setVariable(to.place.variable, v)
	}
	var err error
	if !to.Type.is(Array) || !v.Type.is(Array) {
		if v, err = r.decay(v); err != nil {
			return v, err
		}
	}
	if v, err = r.load(v); err != nil {
		return v, err
	}
	if to.Type.is(Array) && v.Type.is(Array) && v.literal { // char a[8]; a = "text"
		v.Bytes, v.Type, err = r.fit(v, to.Type)
		if err != nil {
			return v, err
		}
	}
	out, err := convert(v, to.Type)
	if err != nil {
		return v, err
	}
	out.Lvalue, out.Addr, out.place, out.field = to.Lvalue, to.Addr, to.place, to.field
	if out.unknown != "" || to.unknown != "" || r.planning {
		return out, nil
	}
	b := out.Bytes
	if to.field != nil {
		b, err = r.mergeField(to, out)
		if err != nil {
			return v, err
		}
		out.Bytes = bitField(b, to.field)
	}
	switch {
	case to.place.register != "":
		err = r.setRegister(to.place, b)
	case to.place.variable != "":
		whole := r.env.vars[to.place.variable]
		whole.Bytes = append([]byte(nil), whole.Bytes...)
		copy(whole.Bytes[to.place.offset:], b)
		r.env.vars[to.place.variable] = whole
	default:
		err = r.m.WriteAt(b, to.Addr)
		if err != nil {
			err = fmt.Errorf("cannot write memory at address %v: %w", to.Addr, err)
		}
	}
	return out, err
}

// fit pads a literal to an array's length.
func (r *run) fit(v Value, t *Type) ([]byte, *Type, error) {
	size, err := r.sizeOf(t)
	if err != nil {
		return nil, nil, err
	}
	if int64(len(v.Bytes)) > size+v.Type.Elem.Size {
		return nil, nil, fmt.Errorf("a string of %d bytes does not fit %s", len(v.Bytes), t)
	}
	b := make([]byte, size)
	copy(b, v.Bytes)
	return b, t, nil
}

// mergeField puts a bit-field's value among its neighbours.
func (r *run) mergeField(to, v Value) ([]byte, error) {
	_, span := bitFieldSpan(to.field)
	var old []byte
	switch {
	case to.place.variable != "":
		old = r.env.vars[to.place.variable].Bytes[to.place.offset:][:span]
	case to.Lvalue:
		var err error
		if old, err = r.read(to.Addr, span); err != nil {
			return nil, err
		}
	default:
		return nil, errors.New("a bit-field of a register")
	}
	return setBitField(old, to.field, v.number()), nil
}

// setVariable gives a named variable a value, with its type. An array becomes the pointer to it, as in gdb.
func (r *run) setVariable(name string, v Value) (Value, error) {
	v, err := r.decay(v)
	if err != nil {
		return v, err
	}
	if v, err = r.load(v); err != nil {
		return v, err
	}
	v.Lvalue, v.Addr, v.field = false, mem.Addr(0), nil
	v.place = place{}
	if r.env.vars == nil {
		r.env.vars = map[string]Value{}
	}
	r.env.vars[name] = v
	v.place = place{variable: name}
	return v, nil
}
