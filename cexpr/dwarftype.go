package cexpr

import (
	"debug/dwarf"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Attributes and codes that package dwarf has no names for.
const (
	attrVector         = dwarf.Attr(0x2107) // DW_AT_GNU_vector
	attrCount          = dwarf.AttrCount
	passedByValue      = 5 // DW_CC_pass_by_value
	encodingBool       = 0x02
	encodingComplex    = 0x03
	encodingFloat      = 0x04
	encodingSigned     = 0x05
	encodingSignedChar = 0x06
	encodingUnsigned   = 0x07
	encodingUChar      = 0x08
	encodingUTF        = 0x10
	encodingChar       = 0x12
)

// maxChain is how many entries a type may lead through before a structure is met.
const maxChain = 200

// at is the type at off. Structures are read later; everything else at once, up to the next structure.
func (t *Types) at(off dwarf.Offset) (*Type, error) {
	if typ, ok := t.types[off]; ok {
		if typ.building {
			return nil, fmt.Errorf("debug information at %#x: a type made of itself", off)
		}
		return typ, nil
	}
	t.depth++
	defer func() { t.depth-- }()
	if t.depth > maxChain {
		return nil, fmt.Errorf("debug information at %#x: types nest too deep", off)
	}
	e, err := t.entry(off)
	if err != nil {
		return nil, err
	}
	typ := &Type{}
	t.types[off] = typ
	if err := t.fill(typ, e); err != nil {
		delete(t.types, off)
		return nil, err
	}
	typ.building = false
	return typ, nil
}

func (t *Types) fill(typ *Type, e *dwarf.Entry) error {
	name, _ := e.Val(dwarf.AttrName).(string)
	size, _ := e.Val(dwarf.AttrByteSize).(int64)
	align, _ := e.Val(dwarf.AttrAlignment).(int64)
	typ.Name, typ.Size, typ.Align = name, size, align
	if size < 0 || align < 0 || align&(align-1) != 0 {
		return fmt.Errorf("debug information at %#x: size %d, alignment %d", e.Offset, size, align)
	}
	switch e.Tag {
	case dwarf.TagBaseType:
		return baseType(typ, e)
	case dwarf.TagPointerType, dwarf.TagReferenceType, dwarf.TagRvalueReferenceType:
		typ.Kind, typ.Name, typ.Size = Pointer, "", 8
		if e.Tag != dwarf.TagPointerType {
			typ.Kind = Reference
		}
		var err error
		typ.Elem, err = t.typeFrom(e)
		return err
	case dwarf.TagSubroutineType:
		typ.Kind, typ.Name, typ.Size = FunctionType, "", 1
		return t.fillSignature(typ, e)
	case dwarf.TagStructType, dwarf.TagClassType, dwarf.TagUnionType, dwarf.TagEnumerationType:
		return t.tagged(typ, e)
	case dwarf.TagUnspecifiedType:
		typ.Kind, typ.Size = Void, 1
		return nil
	}
	typ.building = true // from here on a type that leads back to itself is an error
	switch e.Tag {
	case dwarf.TagTypedef:
		typ.Kind = Typedef
		var err error
		typ.Elem, err = t.typeFrom(e)
		if typ.Elem == typ {
			return errors.New("a typedef of itself")
		}
		return err
	case dwarf.TagConstType, dwarf.TagVolatileType, dwarf.TagRestrictType, dwarf.TagAtomicType:
		return t.qualifiedType(typ, e)
	case dwarf.TagArrayType:
		return t.arrayType(typ, e)
	}
	return fmt.Errorf("debug information at %#x: %v is not supported as a type", e.Offset, e.Tag)
}

func (t *Types) qualifiedType(typ *Type, e *dwarf.Entry) error {
	of, err := t.typeFrom(e)
	if err != nil {
		return err
	}
	if (of.Kind == Pointer || of.Kind == Reference || of.Kind == FunctionType) && of.Elem == nil {
		return fmt.Errorf("debug information at %#x: a type made of itself", e.Offset)
	}
	*typ = *of
	switch e.Tag {
	case dwarf.TagConstType:
		typ.Const = true
	case dwarf.TagVolatileType:
		typ.Volatile = true
	}
	return nil
}

func baseType(typ *Type, e *dwarf.Entry) error {
	encoding, _ := e.Val(dwarf.AttrEncoding).(int64)
	largest := int64(16)
	typ.Kind = Integer
	switch encoding {
	case encodingBool:
		typ.Kind = Bool
	case encodingSigned:
		typ.Signed = true
	case encodingUnsigned, 0x01: // an address
	case encodingSignedChar:
		typ.Kind, typ.Signed = Char, true
	case encodingUChar, encodingUTF, encodingChar:
		typ.Kind = Char
	case encodingFloat:
		floating(typ)
	case encodingComplex:
		typ.Kind, largest = Complex, 32
		typ.Elem = &Type{Name: strings.TrimPrefix(typ.Name, "complex "), Size: typ.Size / 2}
		floating(typ.Elem)
	default:
		return fmt.Errorf("debug information at %#x: base type %s of encoding %#x is not supported", e.Offset, typ.Name,
			encoding)
	}
	sizes := []int64{1, 2, 4, 8, 16, 32}
	if typ.Size > largest || !slices.Contains(sizes, typ.Size) ||
		typ.Kind == Char && typ.Size > 4 || typ.Kind == Floating && typ.Size < 2 || typ.Kind == Complex && typ.Size < 4 {
		return fmt.Errorf("debug information at %#x: base type %s of %d bytes is not supported", e.Offset, typ.Name, typ.Size)
	}
	var words specifiers
	if typ.Kind == Integer && typ.Size < 16 || typ.Kind == Char && typ.Size == 1 {
		for _, w := range strings.Fields(typ.Name) {
			if !words.add(w) {
				return nil // not a name of C's
			}
		}
		if c, problem := basicType(words); problem == "" && c.Size == typ.Size && c.Kind == typ.Kind {
			typ.Name = c.Name // "long unsigned int" is "unsigned long"
		}
	}
	return nil
}

func floating(t *Type) {
	t.Kind = Floating
	switch {
	case t.Size == 16 && strings.Contains(t.Name, "128"):
		t.format = quad
	case t.Size == 16:
		t.format = x87
	case t.Size == 2 && strings.Contains(t.Name, "bf"):
		t.format = brain16
	}
}

// arrayType reads an array of any number of dimensions, or a vector.
func (t *Types) arrayType(typ *Type, e *dwarf.Entry) error {
	elem, err := t.typeFrom(e)
	if err != nil {
		return err
	}
	var counts []int64
	err = t.children(e, func(c *dwarf.Entry) error {
		if c.Tag != dwarf.TagSubrangeType {
			return nil
		}
		count := int64(-1)
		if n, ok := c.Val(attrCount).(int64); ok {
			count = n
		} else if last, ok := c.Val(dwarf.AttrUpperBound).(int64); ok {
			count = last + 1
		}
		if len(counts) > maxTypeDepth {
			return errors.New("an array of too many dimensions")
		}
		counts = append(counts, max(count, -1))
		return nil
	})
	if err != nil {
		return err
	}
	if len(counts) == 0 {
		counts = []int64{-1}
	}
	if isVector, _ := e.Val(attrVector).(bool); isVector {
		size, err := elem.size()
		if err != nil || len(counts) != 1 || counts[0] <= 0 || counts[0] > 64 || size <= 0 || size > 16 {
			return fmt.Errorf("debug information at %#x: a vector of this shape is not supported", e.Offset)
		}
		*typ = Type{Kind: Vector, Elem: elem, Count: counts[0], Size: counts[0] * size, Align: typ.Align}
		return nil
	}
	for _, count := range slices.Backward(counts) {
		elem = arrayOf(elem, count)
	}
	*typ = *elem
	_, err = typ.size()
	return err
}

// tagged begins a structure, union or enumeration; its inside is read when it is looked into.
func (t *Types) tagged(typ *Type, e *dwarf.Entry) error {
	tag := "struct "
	typ.Kind = Struct
	switch e.Tag {
	case dwarf.TagUnionType:
		tag, typ.Kind = "union ", Union
	case dwarf.TagEnumerationType:
		tag, typ.Kind = "enum ", Enumeration
	}
	u := t.unitOf(e.Offset)
	plus := u != nil && u.plus
	scope := ""
	if plus {
		var err error
		if scope, err = t.scopeOf(u, e.Offset); err != nil {
			return err
		}
	}
	if typ.Name != "" && !plus {
		typ.Name = tag + typ.Name
	} else if typ.Name != "" {
		typ.Name = scope + typ.Name
	}
	typ.Incomplete, _ = e.Val(dwarf.AttrDeclaration).(bool)
	if typ.Incomplete {
		if plus && typ.Name != "" {
			typ.Name = tag + typ.Name
		}
		return nil
	}
	convention, _ := e.Val(dwarf.AttrCalling).(int64)
	typ.class, typ.byValue = plus && typ.Kind != Enumeration, convention == passedByValue
	if typ.Kind == Enumeration {
		if typ.Size < 1 || typ.Size > 8 || typ.Size&(typ.Size-1) != 0 {
			return fmt.Errorf("debug information at %#x: an enumeration of %d bytes", e.Offset, typ.Size)
		}
		if scoped, _ := e.Val(dwarf.AttrEnumClass).(bool); scoped {
			scope = typ.Name + "::"
		}
		return t.enumerators(typ, e, scope)
	}
	if typ.Size > maxTypeSize {
		return fmt.Errorf("debug information at %#x: a structure of %d bytes", e.Offset, typ.Size)
	}
	off := e.Offset
	typ.fillIn = func(s *Type) error { return t.members(s, off) }
	return nil
}

func (t *Types) enumerators(typ *Type, e *dwarf.Entry, scope string) error {
	typ.Elem = integer("unsigned int", typ.Size, false)
	return t.children(e, func(c *dwarf.Entry) error {
		if c.Tag != dwarf.TagEnumerator || len(typ.Enumerated) >= maxFields {
			return nil
		}
		name, _ := c.Val(dwarf.AttrName).(string)
		var value int64
		switch v := c.Val(dwarf.AttrConstValue).(type) {
		case int64:
			value = v
		case uint64:
			value = int64(v)
		}
		typ.Signed = typ.Signed || value < 0
		typ.Enumerated = append(typ.Enumerated, Enumerator{scope + name, value})
		return nil
	})
}

// members reads the inside of a structure, and of those in it.
func (t *Types) members(s *Type, off dwarf.Offset) error {
	t.depth++
	defer func() { t.depth-- }()
	if t.depth > maxChain {
		return errors.New("structures nest too deep")
	}
	e, err := t.entry(off)
	if err != nil {
		return err
	}
	// Whoever asks for the inside of s from inside of s finds this.
	s.fillIn = func(*Type) error { return fmt.Errorf("%s contains itself", s) }
	if shared := t.types[off]; shared != s && shared != nil && shared.fillIn != nil { // s is its qualified copy
		saved := shared.fillIn
		shared.fillIn = s.fillIn
		defer func() { shared.fillIn = saved }()
	}
	methods := false
	err = t.children(e, func(c *dwarf.Entry) error {
		switch c.Tag {
		case dwarf.TagSubprogram:
			methods = true
		case dwarf.TagMember, dwarf.TagInheritance:
			f, ok, err := t.field(c)
			if err != nil || !ok {
				return err
			}
			if err := f.within(s); err != nil {
				return err
			}
			if len(s.Fields) >= maxFields {
				return errors.New("a structure with too many members")
			}
			methods = methods || f.Base || f.Type.under().class && !f.Type.under().byValue
			s.Fields = append(s.Fields, f)
		}
		return nil
	})
	s.fillIn = nil
	if s.Align == 0 {
		s.Align = s.impliedAlign()
	}
	if !methods {
		s.byValue = true // nothing in it can be anything but C's
	}
	return err
}

// impliedAlign is the alignment of a structure by how it is laid out, since debug information does not say which ones
// are packed. A packed one has members that lie closer than they ask for, and no padding; where there is padding, a
// member that lies too close is itself a packed structure, whose own layout did not show it.
func (t *Type) impliedAlign() int64 {
	align := int64(1)
	close, padded := false, false
	end := int64(0) // in bits
	for _, f := range t.Fields {
		start, size := f.Offset*8, f.BitSize
		if size > 0 {
			start = f.BitOffset
		} else {
			bytes, _ := f.Type.size() // checked by within
			size = bytes * 8
		}
		padded = padded || start > (end+7)/8*8
		end = max(end, start+size)
		if a := f.Type.align(); f.BitSize == 0 && f.Offset%a != 0 {
			close = true
		} else {
			align = max(align, a)
		}
	}
	padded = padded || t.Size > (end+7)/8
	if t.Size%align != 0 || close && !padded {
		return 1
	}
	return align
}

// within checks that a member lies inside of its structure, which has to be true before bytes are taken out of it.
func (f *Field) within(s *Type) error {
	size, err := f.Type.size()
	if err != nil {
		return err
	}
	end := f.Offset + size
	if f.BitSize > 0 {
		offset, span := bitFieldSpan(f)
		end = offset + span
		if f.BitOffset < 0 || f.BitSize > f.Type.under().Size*8 || !f.Type.integral() {
			return fmt.Errorf("bit-field %s has no possible place", f.Name)
		}
	}
	if f.Offset < 0 || f.Offset > maxTypeSize || end > s.Size {
		return fmt.Errorf("member %s lies outside of %s", f.Name, s)
	}
	if !f.Type.is(Array) { // what is in it has to be whole as well; an array's element was checked with the array
		return f.Type.under().Complete()
	}
	return nil
}

// field reads a member. ok is false for static ones.
func (t *Types) field(c *dwarf.Entry) (Field, bool, error) {
	external, _ := c.Val(dwarf.AttrExternal).(bool)
	declaration, _ := c.Val(dwarf.AttrDeclaration).(bool)
	if external || declaration {
		return Field{}, false, nil
	}
	f := Field{Base: c.Tag == dwarf.TagInheritance}
	f.Name, _ = c.Val(dwarf.AttrName).(string)
	var err error
	if f.Type, err = t.typeFrom(c); err != nil {
		return f, false, err
	}
	switch at := c.Val(dwarf.AttrDataMemberLoc).(type) {
	case int64:
		f.Offset = at
	case []byte:
		if f.Offset, err = constantLocation(at); err != nil {
			return f, false, fmt.Errorf("member %s: %w", f.Name, err)
		}
	}
	bits, ok := c.Val(dwarf.AttrBitSize).(int64)
	if !ok {
		return f, true, nil
	}
	if bits < 0 || bits > 128 || f.Offset < 0 || f.Offset > maxTypeSize {
		return f, false, fmt.Errorf("bit-field %s of %d bits", f.Name, bits)
	}
	f.BitSize = bits
	if at, ok := c.Val(dwarf.AttrDataBitOffset).(int64); ok {
		f.BitOffset = at
	} else if fromTop, ok := c.Val(dwarf.AttrBitOffset).(int64); ok { // DWARF 2 and 3 count from the unit's other end
		size, ok := c.Val(dwarf.AttrByteSize).(int64)
		if !ok {
			size = f.Type.under().Size
		}
		f.BitOffset = f.Offset*8 + size*8 - fromTop - bits
	} else {
		f.BitOffset = f.Offset * 8
	}
	if f.BitOffset < 0 || f.BitOffset > maxTypeSize*8 {
		return f, false, fmt.Errorf("bit-field %s at bit %d", f.Name, f.BitOffset)
	}
	f.Offset = f.BitOffset / 8
	return f, bits > 0, nil
}

// constantLocation reads DW_OP_plus_uconst or DW_OP_constu with its number: how old compilers write an offset.
func constantLocation(expression []byte) (int64, error) {
	const plusUconst, constu = 0x23, 0x10
	if len(expression) < 2 || expression[0] != plusUconst && expression[0] != constu {
		return 0, errors.New("its place has to be computed at run time")
	}
	var n int64
	for i, b := range expression[1:] {
		if i > 8 {
			break
		}
		n |= int64(b&0x7f) << (7 * i)
		if b&0x80 == 0 && i == len(expression)-2 {
			return n, nil
		}
	}
	return 0, errors.New("its place has to be computed at run time")
}
