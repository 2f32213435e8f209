package inferior

import (
	"errors"

	"github.com/heaptap/heaptap/cexpr"
	"github.com/heaptap/heaptap/dso"
)

// typeSource answers for C types by the debug information of the process's modules.
type typeSource struct {
	modules []*dso.Module
	read    map[*dso.Module]*cexpr.Types // nil: the module has no debug information
	library patterns
}

func newTypeSource(modules []*dso.Module) *typeSource {
	return &typeSource{
		modules: modules, read: make(map[*dso.Module]*cexpr.Types), library: parsePatterns(libraries),
	}
}

func (t *typeSource) module(m *dso.Module) *cexpr.Types {
	types, ok := t.read[m]
	if !ok {
		if info, err := m.Debug(); err == nil {
			types = cexpr.NewTypes(info.Data)
		}
		t.read[m] = types
	}
	return types
}

// of is the type of a symbol; nil where debug information does not tell, or is not needed: to read all of the C library's
// takes longer than everything else that a call does (measured: 70 of 90 milliseconds), and its functions are declared.
func (t *typeSource) of(f *dso.Found, kind cexpr.EntityKind) *cexpr.Type {
	if kind != cexpr.Object && t.library.match(f.Module.Name()) && cexpr.Declares(f.Name) {
		return nil
	}
	types := t.module(f.Module)
	if types == nil {
		return nil
	}
	address := uint64(f.Addr - f.Module.Bias)
	if f.Kind() == dso.TLS {
		address = ^uint64(0) // it has none of its own: by name alone
	}
	ask := types.Function
	if kind == cexpr.Object {
		ask = types.Variable
	}
	typ, err := ask(f.Name, address)
	if err != nil || typ == nil {
		return nil // damaged debug information is as good as none
	}
	if f.Kind() == dso.IFunc && kind == cexpr.Function {
		return implementation(typ) // debug information tells of the resolver
	}
	if typ.Kind == cexpr.FunctionType && typ.Unprototyped && len(typ.Params) == 0 && isVoid(typ.Elem) {
		return nil // what assemblers say of every function
	}
	return typ
}

func isVoid(t *cexpr.Type) bool { return t == nil || t.Kind == cexpr.Void }

// implementation is the type of what a resolver returns; nil where it only returns an address.
func implementation(resolver *cexpr.Type) *cexpr.Type {
	t := resolver.Elem
	for _, kind := range []cexpr.Kind{cexpr.Pointer, cexpr.FunctionType} {
		for t != nil && t.Kind == cexpr.Typedef {
			t = t.Elem
		}
		if t == nil || t.Kind != kind {
			return nil
		}
		if kind == cexpr.Pointer {
			t = t.Elem
		}
	}
	if t.Unprototyped {
		return nil
	}
	return t
}

// named finds a type by name: in the program first, then in its libraries.
func (t *typeSource) named(name string) (*cexpr.Type, error) {
	var errs []error
	for _, m := range t.modules {
		types := t.module(m)
		if types == nil {
			continue
		}
		typ, err := types.Named(name)
		if err != nil {
			errs = append(errs, err)
		} else if typ != nil {
			return typ, nil
		}
	}
	return nil, errors.Join(errs...)
}

// constant finds an enumerator by name.
func (t *typeSource) constant(name string) (cexpr.Entity, bool, error) {
	for _, m := range t.modules {
		types := t.module(m)
		if types == nil {
			continue
		}
		if e, ok, err := types.Constant(name); err == nil && ok {
			e.Module = m.Path
			return e, true, nil
		}
	}
	return cexpr.Entity{}, false, nil
}
