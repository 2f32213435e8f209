package cexpr

import (
	"debug/dwarf"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
)

// Types reads types of functions and variables from one module's debug information. A function is found through the
// unit that covers its address, of which only the outermost entries are read; other names through an index of the
// outermost entries of all units, which is made at the first question that needs it. Structures are read when they are
// looked into. It is safe for one goroutine at a time, as are the types it returns.
type Types struct {
	data  *dwarf.Data
	units []unit
	types map[dwarf.Offset]*Type
	index *index // nil: not made yet
	err   error  // why units or index are not there
	depth int
}

// unit is a compilation unit.
type unit struct {
	offset dwarf.Offset // of its first entry
	ranges [][2]uint64
	plus   bool                    // C++, in which every function has a prototype and a structure may be a class
	starts map[uint64]dwarf.Offset // its functions by their lowest address; nil: not read yet
	scopes map[dwarf.Offset]string // of C++: the namespaces of its types that are in one; nil: not read yet
}

// index is what is found by name. Definitions take the place of declarations.
type index struct {
	types     map[string]dwarf.Offset // "struct x", "x"
	functions map[string]dwarf.Offset
	variables map[string]dwarf.Offset
	addresses map[uint64]dwarf.Offset // of variables
	constants map[string]dwarf.Offset // enumerators: of their enumeration
	declared  map[string]bool         // keys of types of which only a declaration was seen
}

// NewTypes returns the types of d. It reads nothing yet.
func NewTypes(d *dwarf.Data) *Types { return &Types{data: d, types: map[dwarf.Offset]*Type{}} }

// Function is the type of the function that begins at addr, an address as in the module's file (without the load
// bias); where none does, of the one called name. Nil without an error: not known.
func (t *Types) Function(name string, addr uint64) (*Type, error) {
	if strings.Contains(name, ".constprop") || strings.Contains(name, ".isra") || strings.Contains(name, ".part") ||
		strings.Contains(name, ".cold") {
		return nil, nil // the compiler's own variants do not take what the source says
	}
	off, ok, err := t.functionAt(addr)
	if err != nil {
		return nil, err
	}
	if !ok {
		if err := t.makeIndex(); err != nil {
			return nil, err
		}
		if off, ok = t.index.functions[name]; !ok {
			return nil, nil
		}
	}
	return t.subprogram(off)
}

// Variable is the type of the variable at addr, as in the module's file; where none lies there, of the one called
// name. Nil without an error: not known.
func (t *Types) Variable(name string, addr uint64) (*Type, error) {
	if err := t.makeIndex(); err != nil {
		return nil, err
	}
	off, ok := t.index.addresses[addr]
	if !ok {
		if off, ok = t.index.variables[name]; !ok {
			return nil, nil
		}
	}
	e, err := t.entry(off)
	if err != nil {
		return nil, err
	}
	return t.typeFrom(e)
}

// Named is the type called "name", "struct name", "union name" or "enum name". Nil without an error: not known.
func (t *Types) Named(name string) (*Type, error) {
	if err := t.makeIndex(); err != nil {
		return nil, err
	}
	off, ok := t.index.types[name]
	if !ok {
		return nil, nil
	}
	return t.at(off)
}

// Constant is the enumerator called name, and whether there is one.
func (t *Types) Constant(name string) (Entity, bool, error) {
	if err := t.makeIndex(); err != nil {
		return Entity{}, false, err
	}
	off, ok := t.index.constants[name]
	if !ok {
		return Entity{}, false, nil
	}
	typ, err := t.at(off)
	if err != nil {
		return Entity{}, false, err
	}
	value, ok := typ.enumerator(name)
	return Entity{Name: name, Kind: Constant, Value: value, Type: typ, Source: fromDebug}, ok, nil
}

// Functions reports each function that has code and a name, until yield says stop: for tests and for listings.
func (t *Types) Functions(yield func(name string, addr uint64) bool) error {
	if err := t.readUnits(); err != nil {
		return err
	}
	for i := range t.units {
		if err := t.readStarts(&t.units[i]); err != nil {
			return err
		}
		for addr, off := range t.units[i].starts {
			e, err := t.entry(off)
			if err != nil {
				return err
			}
			if name := t.nameOf(e, 0); name != "" && !yield(name, addr) {
				return nil
			}
		}
	}
	return nil
}

var errNoEntry = errors.New("no entry")

// entry reads the entry at off.
func (t *Types) entry(off dwarf.Offset) (*dwarf.Entry, error) {
	r := t.data.Reader()
	r.Seek(off)
	e, err := r.Next()
	if err == nil && (e == nil || e.Tag == 0) {
		err = errNoEntry
	}
	if err != nil {
		return nil, fmt.Errorf("read debug information at %#x: %w", off, err)
	}
	return e, nil
}

// readUnits lists the units.
func (t *Types) readUnits() error {
	if t.units != nil || t.err != nil {
		return t.err
	}
	t.units = []unit{}
	r := t.data.Reader()
	last := -1
	for {
		e, err := r.Next()
		if err == nil && e != nil && int(e.Offset) <= last {
			err = errBackwards
		}
		if err != nil {
			t.err = fmt.Errorf("read debug information: %w", err)
			return t.err
		}
		if e == nil {
			return nil
		}
		last = int(e.Offset)
		if e.Tag == dwarf.TagCompileUnit || e.Tag == dwarf.TagPartialUnit {
			ranges, err := t.data.Ranges(e)
			if err != nil {
				ranges = nil // the names are good without
			}
			language, _ := e.Val(dwarf.AttrLanguage).(int64)
			t.units = append(t.units, unit{offset: e.Offset, ranges: ranges, plus: isPlus(language)})
		}
		r.SkipChildren()
	}
}

var errBackwards = errors.New("an entry's sibling lies before it")

// skip steps over what is below e, which r has just read. Unlike the reader's own way it always gets further.
func skip(r *dwarf.Reader, e *dwarf.Entry) error {
	if !e.Children {
		return nil
	}
	if sibling, ok := e.Val(dwarf.AttrSibling).(dwarf.Offset); ok {
		if sibling <= e.Offset {
			return errBackwards
		}
		r.Seek(sibling)
		return nil
	}
	for depth := 1; depth > 0; {
		c, err := r.Next()
		switch {
		case err != nil:
			return err
		case c == nil:
			return nil
		case c.Tag == 0:
			depth--
		case c.Children:
			depth++
		}
	}
	return nil
}

// isPlus tells C++ by DWARF's language codes.
func isPlus(language int64) bool {
	switch language {
	case 0x04, 0x1a, 0x21, 0x2b, 0x3a: // C++, 11, 14, 17, 20
		return true
	}
	return false
}

// unitOf is the unit that an entry lies in.
func (t *Types) unitOf(off dwarf.Offset) *unit {
	if t.readUnits() != nil {
		return nil
	}
	i := sort.Search(len(t.units), func(i int) bool { return t.units[i].offset > off })
	if i == 0 {
		return nil
	}
	return &t.units[i-1]
}

// functionAt finds the function that begins at addr.
func (t *Types) functionAt(addr uint64) (dwarf.Offset, bool, error) {
	if err := t.readUnits(); err != nil {
		return 0, false, err
	}
	for i := range t.units {
		u := &t.units[i]
		covers := slices.ContainsFunc(u.ranges, func(r [2]uint64) bool { return addr >= r[0] && addr < r[1] })
		if !covers {
			continue
		}
		if err := t.readStarts(u); err != nil {
			return 0, false, err
		}
		if off, ok := u.starts[addr]; ok {
			return off, true, nil
		}
	}
	return 0, false, nil
}

// readStarts lists the functions of a unit that have code.
func (t *Types) readStarts(u *unit) error {
	if u.starts != nil {
		return nil
	}
	u.starts = map[uint64]dwarf.Offset{}
	return t.outermost(u, func(e *dwarf.Entry, _ string) error {
		if e.Tag != dwarf.TagSubprogram {
			return nil
		}
		if low, ok := e.Val(dwarf.AttrLowpc).(uint64); ok {
			u.starts[low] = e.Offset
		}
		return nil
	})
}

// scopeOf is the namespaces around a type of C++, "ns::".
func (t *Types) scopeOf(u *unit, off dwarf.Offset) (string, error) {
	if u.scopes == nil {
		u.scopes = map[dwarf.Offset]string{}
		err := t.outermost(u, func(e *dwarf.Entry, scope string) error {
			if scope != "" {
				u.scopes[e.Offset] = scope
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return u.scopes[off], nil
}

// outermost visits the entries of a unit that are not inside of functions or types; scope is the namespaces around
// them, "ns::".
func (t *Types) outermost(u *unit, visit func(e *dwarf.Entry, scope string) error) error {
	r := t.data.Reader()
	r.Seek(u.offset)
	if _, err := r.Next(); err != nil {
		return fmt.Errorf("read debug information at %#x: %w", u.offset, err)
	}
	end := dwarf.Offset(math.MaxUint32)
	if i := sort.Search(len(t.units), func(i int) bool { return t.units[i].offset > u.offset }); i < len(t.units) {
		end = t.units[i].offset
	}
	var scopes []string
	for {
		e, err := r.Next()
		if err != nil {
			return fmt.Errorf("read debug information: %w", err)
		}
		if e == nil || e.Offset >= end {
			return nil
		}
		if e.Tag == 0 {
			if len(scopes) == 0 {
				return nil
			}
			scopes = scopes[:len(scopes)-1]
			continue
		}
		if err := visit(e, strings.Join(scopes, "")); err != nil {
			return err
		}
		if !e.Children {
			continue
		}
		if e.Tag == dwarf.TagNamespace && len(scopes) < maxTypeDepth {
			name, _ := e.Val(dwarf.AttrName).(string)
			if name == "" {
				name = "(anonymous namespace)"
			}
			scopes = append(scopes, name+"::")
			continue
		}
		if err := skip(r, e); err != nil {
			return fmt.Errorf("read debug information at %#x: %w", e.Offset, err)
		}
	}
}

// makeIndex reads the outermost entries of all units.
func (t *Types) makeIndex() error {
	if t.index != nil || t.err != nil {
		return t.err
	}
	if err := t.readUnits(); err != nil {
		return err
	}
	x := &index{map[string]dwarf.Offset{}, map[string]dwarf.Offset{}, map[string]dwarf.Offset{},
		map[uint64]dwarf.Offset{}, map[string]dwarf.Offset{}, map[string]bool{}}
	for i := range t.units {
		u := &t.units[i]
		err := t.outermost(u, func(e *dwarf.Entry, scope string) error { return t.note(x, u, e, scope) })
		if err != nil {
			t.err = err
			return err
		}
	}
	t.index = x
	return nil
}

// note adds an entry to the index.
func (t *Types) note(x *index, u *unit, e *dwarf.Entry, scope string) error {
	name, _ := e.Val(dwarf.AttrName).(string)
	declaration, _ := e.Val(dwarf.AttrDeclaration).(bool)
	tag := ""
	switch e.Tag {
	case dwarf.TagStructType, dwarf.TagClassType:
		tag = "struct "
	case dwarf.TagUnionType:
		tag = "union "
	case dwarf.TagEnumerationType:
		tag = "enum "
		if err := t.noteEnumerators(x, e, scope); err != nil {
			return err
		}
	case dwarf.TagTypedef, dwarf.TagBaseType:
	case dwarf.TagSubprogram:
		if _, code := e.Val(dwarf.AttrLowpc).(uint64); name != "" && (code || x.functions[scope+name] == 0) {
			x.functions[scope+name] = e.Offset
		}
		return nil
	case dwarf.TagVariable:
		t.noteVariable(x, e, scope, name)
		return nil
	default:
		return nil
	}
	if name == "" {
		return nil
	}
	keys := []string{tag + scope + name}
	if tag != "" && u.plus {
		keys = append(keys, scope+name)
	}
	for _, key := range keys {
		if _, known := x.types[key]; !known || x.declared[key] && !declaration {
			x.types[key] = e.Offset
			x.declared[key] = declaration
		}
	}
	return nil
}

func (t *Types) noteEnumerators(x *index, e *dwarf.Entry, scope string) error {
	scoped, _ := e.Val(dwarf.AttrEnumClass).(bool)
	if !e.Children || scoped {
		return nil
	}
	return t.children(e, func(c *dwarf.Entry) error {
		if name, ok := c.Val(dwarf.AttrName).(string); ok && c.Tag == dwarf.TagEnumerator {
			if _, known := x.constants[scope+name]; !known {
				x.constants[scope+name] = e.Offset
			}
		}
		return nil
	})
}

// noteVariable adds a variable by name, and by address where it has one. A definition may name its declaration only.
func (t *Types) noteVariable(x *index, e *dwarf.Entry, scope, name string) {
	if name == "" {
		name = t.nameOf(e, 0)
	}
	location, defined := e.Val(dwarf.AttrLocation).([]byte)
	if _, known := x.variables[scope+name]; name != "" && (defined || !known) {
		x.variables[scope+name] = e.Offset
	}
	const opAddr = 0x03
	if len(location) == 9 && location[0] == opAddr {
		x.addresses[integerOf(location[1:], false).Uint64()] = e.Offset
	}
}

// children visits the entries right below e.
func (t *Types) children(e *dwarf.Entry, visit func(*dwarf.Entry) error) error {
	if !e.Children {
		return nil
	}
	r := t.data.Reader()
	r.Seek(e.Offset)
	if _, err := r.Next(); err != nil {
		return fmt.Errorf("read debug information at %#x: %w", e.Offset, err)
	}
	for {
		c, err := r.Next()
		if err != nil {
			return fmt.Errorf("read debug information at %#x: %w", e.Offset, err)
		}
		if c == nil || c.Tag == 0 {
			return nil
		}
		if err := visit(c); err != nil {
			return err
		}
		if err := skip(r, c); err != nil {
			return fmt.Errorf("read debug information at %#x: %w", c.Offset, err)
		}
	}
}

// origin is the entry that e is an instance or the definition of, nil if there is none.
func (t *Types) origin(e *dwarf.Entry) (*dwarf.Entry, error) {
	for _, attr := range []dwarf.Attr{dwarf.AttrAbstractOrigin, dwarf.AttrSpecification} {
		if off, ok := e.Val(attr).(dwarf.Offset); ok {
			return t.entry(off)
		}
	}
	return nil, nil
}

// maxOrigins is how many entries may refer to each other: definition, abstract instance, declaration.
const maxOrigins = 8

func (t *Types) nameOf(e *dwarf.Entry, depth int) string {
	if name, ok := e.Val(dwarf.AttrName).(string); ok || depth > maxOrigins {
		return name
	}
	o, err := t.origin(e)
	if err != nil || o == nil {
		return ""
	}
	return t.nameOf(o, depth+1)
}

// typeFrom is the type that e, or what e is an instance of, refers to; void if to none.
func (t *Types) typeFrom(e *dwarf.Entry) (*Type, error) {
	for range maxOrigins {
		switch off := e.Val(dwarf.AttrType).(type) {
		case dwarf.Offset:
			return t.at(off)
		case nil:
		default:
			return nil, fmt.Errorf("debug information at %#x: a type outside of this file", e.Offset)
		}
		o, err := t.origin(e)
		if err != nil {
			return nil, err
		}
		if o == nil {
			return voidType(), nil
		}
		e = o
	}
	return nil, fmt.Errorf("debug information at %#x refers to itself", e.Offset)
}

// subprogram is the type of a function's entry.
func (t *Types) subprogram(off dwarf.Offset) (*Type, error) {
	e, err := t.entry(off)
	if err != nil {
		return nil, err
	}
	for range maxOrigins {
		const nocall = 3
		if convention, ok := e.Val(dwarf.AttrCalling).(int64); ok && convention == nocall {
			return nil, errors.New("the compiler says that it cannot be called from outside")
		}
		o, err := t.origin(e)
		if err != nil {
			return nil, err
		}
		if o == nil {
			return t.signature(e)
		}
		e = o
	}
	return nil, fmt.Errorf("debug information at %#x refers to itself", off)
}

// signature is the function type of a subprogram or subroutine type.
func (t *Types) signature(e *dwarf.Entry) (*Type, error) {
	f := &Type{Kind: FunctionType, Size: 1}
	return f, t.fillSignature(f, e)
}

func (t *Types) fillSignature(f *Type, e *dwarf.Entry) error {
	var err error
	if f.Elem, err = t.typeFrom(e); err != nil {
		return err
	}
	prototyped, _ := e.Val(dwarf.AttrPrototyped).(bool)
	u := t.unitOf(e.Offset)
	f.Unprototyped = !prototyped && (u == nil || !u.plus)
	return t.children(e, func(c *dwarf.Entry) error {
		switch c.Tag {
		case dwarf.TagFormalParameter:
			p, err := t.typeFrom(c)
			if err != nil {
				return err
			}
			if len(f.Params) >= maxFields {
				return errors.New("a function with too many parameters")
			}
			f.Params = append(f.Params, p)
		case dwarf.TagUnspecifiedParameters:
			f.Variadic = !f.Unprototyped || len(f.Params) > 0
		}
		return nil
	})
}
