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
}

func newTypeSource(modules []*dso.Module) *typeSource {
	return &typeSource{modules: modules, read: make(map[*dso.Module]*cexpr.Types)}
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

// of is the type of a symbol; nil where debug information does not tell.
func (t *typeSource) of(f *dso.Found, kind cexpr.EntityKind) *cexpr.Type {
	types := t.module(f.Module)
	if types == nil {
		return nil
	}
	address := uint64(f.Addr - f.Module.Bias)
	if f.Kind() == dso.TLS {
		address = 0
	}
	ask := types.Function
	if kind == cexpr.Object {
		ask = types.Variable
	}
	typ, err := ask(f.Name, address)
	if err != nil {
		return nil // damaged debug information is as good as none
	}
	return typ
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
