package cexpr

import (
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/heaptap/heaptap/mem"
)

func pointerValueOf(n uint64) mem.Addr { return mem.Addr(n) }

// maxBuffer is how large buf(N) may be.
const maxBuffer = 1 << 24

// buffer is buf(N): N chars of scratch memory, printed after the calls.
func (r *run) buffer(e *callExpression) (Value, error) {
	n, err := r.rvalue(e.arguments[0])
	if err != nil {
		return n, err
	}
	if !n.Type.integral() || n.unknown != "" || n.number().Sign() <= 0 || n.number().Cmp(big.NewInt(maxBuffer)) > 0 {
		return n, r.fail(e.arguments[0], fmt.Errorf("a buffer has 1 to %d bytes", maxBuffer))
	}
	size := n.number().Int64()
	v := Value{Type: arrayOf(charType(), size), Lvalue: true, unread: true}
	if r.planning {
		v.unknown = fmt.Sprintf("a buffer of %d bytes", size)
	} else if v.Addr, err = r.m.Allocate(uint64(size)); err != nil {
		return v, fmt.Errorf("place a buffer of %d bytes in the target: %w", size, err)
	}
	r.buffers = append(r.buffers, v)
	return v, nil
}

// call evaluates a call. wanted is the type that it is cast to, which is the result's where nothing else tells.
func (r *run) call(e *callExpression, wanted *Type) (Value, error) {
	if n, ok := e.function.(*nameExpression); ok && n.name == "buf" && len(e.arguments) == 1 {
		return r.buffer(e)
	}
	f, err := r.eval(e.function)
	if err != nil {
		return f, err
	}
	if f, err = r.toFunction(f); err != nil {
		return f, err
	}
	start, end := e.function.span()
	t := f.Type.under()
	from := fromCast
	if f.callee != nil && f.callee.typeFrom != "" {
		from = f.callee.typeFrom
	}
	if t.Elem == nil {
		if wanted == nil || wanted.is(FunctionType, Array) {
			name := r.src[start:end]
			return f, fmt.Errorf("'%s' has unknown return type; cast the call to its declared return type, as in "+
				"(int)%s(…), (double)%s(…) or (char *)%s(…)", name, name, name, name)
		}
		known := *t
		known.Elem, known.guessed = wanted, false
		t, from = &known, fromCast
	}
	arguments, err := r.arguments(e, t)
	if err != nil {
		return f, err
	}
	return r.invoke(e, f, t, from, arguments)
}

// toFunction is what a called value stands for: a function, or what a pointer or a number points at.
func (r *run) toFunction(f Value) (Value, error) {
	if f.Type.is(FunctionType) {
		return f, nil
	}
	guessed := f.Type.guessed
	f, err := r.decay(f)
	if err == nil {
		f, err = r.load(f)
	}
	if err != nil {
		return f, err
	}
	switch u := f.Type.under(); {
	case u.Kind == Pointer && u.Elem.is(FunctionType):
		return r.at(f, u.Elem), nil
	case u.Kind == Integer && !guessed:
		return r.at(f, unknownFunction()), nil
	}
	return f, fmt.Errorf("a value of type %s cannot be called; cast it to a pointer to a function", f.Type)
}

// argument is a value that is ready to be passed, and what it was written as.
type argument struct {
	value  Value
	source expression
}

// arguments evaluates and converts arguments, from left to right.
func (r *run) arguments(e *callExpression, t *Type) ([]argument, error) {
	if !t.Unprototyped && len(e.arguments) < len(t.Params) {
		return nil, fmt.Errorf("too few arguments: %d of %d for %s", len(e.arguments), len(t.Params), t)
	}
	if !t.Unprototyped && !t.Variadic && len(e.arguments) > len(t.Params) {
		return nil, r.fail(e.arguments[len(t.Params)],
			fmt.Errorf("too many arguments: %d for %s", len(e.arguments), t))
	}
	var list []argument
	for i, x := range e.arguments {
		v, err := r.eval(x)
		if err != nil {
			return nil, err
		}
		if i < len(t.Params) {
			v, err = r.passAs(v, t.Params[i])
		} else {
			v, err = r.passPromoted(v)
		}
		if err != nil {
			return nil, r.fail(x, err)
		}
		list = append(list, argument{v, x})
	}
	return list, nil
}

// passAs converts an argument to its parameter's type.
func (r *run) passAs(v Value, t *Type) (Value, error) {
	u, err := r.completed(t)
	if err != nil {
		return v, err
	}
	if u.Kind == Reference && v.Type.is(Reference) {
		v, err = r.load(v)
		v.Type = t
		return v, err
	}
	if u.Kind == Reference {
		if !v.Lvalue && !v.Type.is(Array, Struct, Union) {
			converted, err := r.castTo(v, u.Elem)
			if err != nil {
				return v, err
			}
			v = converted
			v.Type = arrayOf(v.Type, 1) // so that it is placed in the target
			p, err := r.address(v)
			p.Type = t
			return p, err
		}
		p, err := r.address(v)
		p.Type = t
		return p, err
	}
	if v, err = r.decay(v); err == nil {
		v, err = r.load(v)
	}
	if err != nil {
		return v, err
	}
	if _, err := r.completed(v.Type); err != nil {
		return v, err
	}
	return convert(v, t)
}

// passPromoted applies the default argument promotions (C 6.5.2.2).
func (r *run) passPromoted(v Value) (Value, error) {
	v, err := r.decay(v)
	if err == nil {
		v, err = r.load(v)
	}
	if err != nil {
		return v, err
	}
	u := v.Type.under()
	if u.Kind == Void {
		return v, errors.New("a void value cannot be passed")
	}
	if u.Kind == Floating && u.Size < 8 {
		return convert(v, doubleType())
	}
	return promote(v)
}

// invoke lays out the call, makes it and takes the result.
func (r *run) invoke(e *callExpression, f Value, t *Type, from string, arguments []argument) (Value, error) {
	result := t.Elem
	if _, err := r.completed(result); err != nil {
		return f, err
	}
	where, hidden, err := returnsIn(result)
	if err != nil {
		return f, fmt.Errorf("the result: %w", err)
	}
	size, err := r.sizeOf(result)
	if err != nil {
		return f, fmt.Errorf("the result: %w", err)
	}
	c := &Call{}
	if hidden {
		var a mem.Addr
		if !r.planning {
			if a, err = r.m.Allocate(uint64(size)); err != nil {
				return f, fmt.Errorf("place a result of %d bytes in the target: %w", size, err)
			}
		}
		c.Int[0], c.Ints = uint64(a), 1
	}
	var planned []PlannedArgument
	for _, a := range arguments {
		at, err := c.pass(a.value.Bytes, a.value.Type)
		if err != nil {
			return f, r.fail(a.source, err)
		}
		if r.planning {
			planned = append(planned, r.plannedArgument(a, at))
		}
	}
	c.finish()
	if r.planning {
		return r.plan(e, f, Planned{Type: t, TypeFrom: from, Call: c, Arguments: planned, Returns: where}), nil
	}
	answer, err := r.m.Call(f.Addr, c)
	if err != nil {
		return f, err
	}
	return r.result(answer, result, hidden, mem.Addr(c.Int[0]))
}

func (r *run) plannedArgument(a argument, where string) PlannedArgument {
	start, end := a.source.span()
	p := PlannedArgument{Type: a.value.Type, Where: where, Known: a.value.unknown == "", Text: a.value.unknown}
	if end <= len(r.src) {
		p.Source = r.src[start:end]
	}
	if p.Known {
		p.Text = a.value.Format(r.m)
	}
	return p
}

// plan notes a call; its result is not known.
func (r *run) plan(e *callExpression, f Value, p Planned) Value {
	start, end := e.span()
	p.Source = r.src[start:end]
	p.Function = Entity{Kind: Function, Addr: f.Addr, Name: f.unknown}
	if f.callee != nil {
		p.Function = f.callee.entity
	}
	r.plans = append(r.plans, p)
	result := p.Type.Elem
	size, err := result.size()
	if err != nil || result.is(Void) {
		size = 0
	}
	v := Value{Type: result, Bytes: make([]byte, size), unknown: fmt.Sprintf("the result of call %d", len(r.plans))}
	if result.is(Void) {
		v.unknown = ""
	}
	return v
}

// result takes the result out of what the function left.
func (r *run) result(answer *Result, t *Type, hidden bool, at mem.Addr) (Value, error) {
	r.failed = false
	switch {
	case t.is(Void):
		return Value{Type: t}, nil
	case hidden:
		// The function returns the address that it was given.
		size, err := r.sizeOf(t)
		if err != nil {
			return Value{}, err
		}
		b, err := r.read(at, size)
		return Value{Type: t, Bytes: b}, err
	}
	b, err := answer.value(t)
	v := Value{Type: t, Bytes: b}
	if t.is(Pointer) {
		v.Type = t.under() // as gdb, which does not print a typedef's name here
	}
	if err == nil && (t.is(Integer) && t.under().Signed || t.is(Pointer)) {
		r.failed = strings.Trim(string(b), "\xff") == ""
	}
	return v, err
}
