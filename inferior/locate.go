package inferior

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/heaptap/heaptap/cexpr"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
)

// Location is an address with what is known to be there.
type Location struct {
	Addr   mem.Addr
	Symbol *dso.Found // that contains it; nil where none does
	Offset uint64     // of the address in the symbol, or in Module
	Module *dso.Module
	Size   uint64 // from the address to the symbol's end; 0 where not known
}

// String is "libc.so.6!malloc+0x10", "libc.so.6+0x1234" where no symbol covers it, "" outside of all modules.
func (l Location) String() string {
	var s string
	switch {
	case l.Symbol != nil:
		s = l.Module.Name() + "!" + l.Symbol.Name
		if l.Symbol.Demangled != "" {
			s = l.Module.Name() + "!" + l.Symbol.Demangled
		}
	case l.Module != nil:
		s = l.Module.Name()
	default:
		return ""
	}
	if l.Offset != 0 {
		s += fmt.Sprintf("+%#x", l.Offset)
	}
	return s
}

// Describe tells what is at an address.
func (p *Process) Describe(a mem.Addr) Location {
	l := Location{Addr: a}
	symbols, err := p.Symbols()
	if err != nil {
		return l
	}
	if l.Module = symbols.Module(a); l.Module != nil {
		l.Offset = uint64(a - l.Module.Start)
	}
	if f, offset, ok := symbols.At(a); ok {
		l.Symbol, l.Module, l.Offset = &f, f.Module, offset
		if f.Size > offset {
			l.Size = f.Size - offset
		}
	}
	return l
}

// Locate finds the place that an address, a symbol ("malloc", "libc.so.6!environ"), or an expression that calls nothing
// ("malloc+16", "$rsp+8", "&buffer[2]") stands for. Registers are those of the thread.
func (p *Process) Locate(ctx context.Context, place string, tid int) (Location, error) {
	if n, err := strconv.ParseUint(place, 0, 64); err == nil {
		return p.Describe(mem.Addr(n)), nil
	}
	symbols, err := p.Symbols()
	if err != nil {
		return Location{}, err
	}
	f, err := symbols.Resolve(place)
	var several *dso.AmbiguousError
	switch {
	case errors.As(err, &several):
		return Location{}, err
	case err == nil && f.Kind() == dso.IFunc && f.Bound != 0:
		return p.Describe(f.Bound), nil
	case err == nil && f.Kind() != dso.TLS:
		return Location{Addr: f.Addr, Symbol: &f, Module: f.Module, Size: f.Size}, nil
	}
	v, err := p.Value(ctx, place, tid)
	return p.Describe(mem.Addr(v)), err
}

// Value is what an expression comes to that calls nothing, as an address or an integer of at most eight bytes. A
// function and an array stand for their address, as everywhere in C, and so does a variable of which no type is known.
// Registers are those of the thread, 0 for the process's first.
func (p *Process) Value(ctx context.Context, expression string, tid int) (uint64, error) {
	o := Options{}
	if tid != 0 {
		o.Thread = strconv.Itoa(tid)
	}
	job, err := p.prepare(ctx, []string{expression}, o)
	if err != nil {
		return 0, err
	}
	if len(job.planned) > 0 {
		return 0, fmt.Errorf("%s: %w", expression, ErrCalls)
	}
	var env cexpr.Env
	out := &Evaluation{}
	if err := job.run(job.machine, &env, out); err != nil {
		return 0, err
	}
	if len(out.Outcomes) == 0 {
		return 0, fmt.Errorf("%s has no value", expression)
	}
	v := out.Outcomes[len(out.Outcomes)-1].Value
	switch {
	case v.Type == nil || v.Type.Kind == cexpr.Void:
		return 0, fmt.Errorf("%s has no value", expression)
	case v.Lvalue && (v.Type.Kind == cexpr.FunctionType || v.Type.Kind == cexpr.Array):
		return uint64(v.Addr), nil
	case len(v.Bytes) == 0 || len(v.Bytes) > wordSize || v.Type.Kind == cexpr.Floating:
		return 0, fmt.Errorf("%s is neither an address nor an integer", expression)
	}
	n := Register{Bytes: v.Bytes}.Uint64()
	if bits := 8 * len(v.Bytes); v.Type.Signed && bits < 64 {
		n = uint64(int64(n<<(64-bits)) >> (64 - bits))
	}
	return n, nil
}

// ErrCalls says that an expression calls a function where only looking is allowed. It comes wrapped.
var ErrCalls = errors.New("it calls a function, and here it is only looked")

// Symbol is one symbol of a process.
type Symbol = dso.Found

// Search lists the symbols whose names match a pattern, as [dso.Symbols.Search] has it.
func (p *Process) Search(pattern string) ([]Symbol, error) {
	symbols, err := p.Symbols()
	if err != nil {
		return nil, err
	}
	return symbols.Search(pattern)
}
