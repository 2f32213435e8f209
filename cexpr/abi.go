package cexpr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// How functions are called: System V Application Binary Interface, AMD64 Architecture Processor Supplement, section
// 3.2.3 "Parameter Passing". Values of at most 16 bytes are cut into eightbytes, each with a class; larger ones, and
// those with members that are not aligned, go to memory.

// class is where an eightbyte of a value goes.
type class int

const (
	noClass class = iota
	integerClass
	sseClass
	sseUpClass
	x87Class
	x87UpClass
	complexX87Class
	memoryClass
)

// classify gives the classes of a type's eightbytes; a single memoryClass if it goes to memory as a whole; none if it
// is empty, and passed nowhere.
func classify(t *Type) ([]class, error) {
	u, err := t.Underlying()
	if err != nil {
		return nil, err
	}
	size, err := u.size()
	if err != nil {
		return nil, err
	}
	if size == 0 {
		return nil, nil
	}
	if u.Kind == Complex && u.Elem.under().format == x87 {
		return []class{complexX87Class}, nil
	}
	if u.Kind == Vector && size > 16 {
		return nil, fmt.Errorf("type %s: vectors of more than 16 bytes are not passed by value here", t)
	}
	budget := maxMembers
	if size > 16 {
		return []class{memoryClass}, wideVector(u, &budget)
	}
	classes := make([]class, (size+7)/8)
	if err := classifyAt(u, 0, classes, &budget); err != nil {
		return nil, err
	}
	if !settle(classes) {
		return []class{memoryClass}, nil
	}
	return classes, nil
}

// settle is the clean-up after the members of an aggregate are merged. False: it goes to memory.
func settle(classes []class) bool {
	for i, c := range classes {
		switch {
		case c == memoryClass, c == x87UpClass && (i == 0 || classes[i-1] != x87Class):
			return false
		case c == sseUpClass && (i == 0 || classes[i-1] != sseClass && classes[i-1] != sseUpClass):
			classes[i] = sseClass
		}
	}
	return true
}

// wideVector refuses structures that hold nothing but one wide vector: they travel in its registers.
func wideVector(u *Type, budget *int) error {
	*budget--
	if u.Kind == Vector && u.Size > 16 {
		return fmt.Errorf("type %s: vectors of more than 16 bytes are not passed by value here", u)
	}
	if (u.Kind == Struct || u.Kind == Union) && *budget > 0 {
		for _, f := range u.Fields {
			if err := wideVector(f.Type.under(), budget); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxMembers is how many parts of a value are looked at: damaged debug information can nest without end.
const maxMembers = 1 << 16

// classifyAt merges the classes of a value of type t at an offset into those of the whole.
func classifyAt(t *Type, offset int64, classes []class, budget *int) error {
	u, err := t.Underlying()
	if err != nil {
		return err
	}
	if *budget--; *budget < 0 {
		return fmt.Errorf("type %s has too many parts", t)
	}
	size, err := u.size()
	if err != nil {
		return err
	}
	if offset < 0 || offset+size > int64(len(classes))*8 {
		return fmt.Errorf("type %s: a member lies outside", t)
	}
	if size == 0 {
		return nil
	}
	first := offset / 8
	if align := u.align(); !u.aggregate() && u.Kind != Array && align > 0 && offset%align != 0 {
		merge(&classes[first], memoryClass)
		return nil
	}
	switch u.Kind {
	case Bool, Char, Integer, Enumeration, Pointer, Reference:
		for i := first; i <= (offset+size-1)/8; i++ {
			merge(&classes[i], integerClass)
		}
	case Floating:
		switch {
		case u.format == x87:
			merge(&classes[first], x87Class)
			merge(&classes[first+1], x87UpClass)
		case size == 16:
			merge(&classes[first], sseClass)
			merge(&classes[first+1], sseUpClass)
		default:
			merge(&classes[first], sseClass)
		}
	case Vector:
		merge(&classes[first], sseClass)
		for i := first + 1; i <= (offset+size-1)/8; i++ {
			merge(&classes[i], sseUpClass)
		}
	case Complex:
		if u.Elem.under().Kind != Floating {
			merge(&classes[first], integerClass)
			return nil
		}
		half := size / 2
		merge(&classes[first], sseClass)
		merge(&classes[(offset+half)/8], sseClass)
	case Array:
		element, err := u.Elem.size()
		if err != nil || element == 0 {
			return err
		}
		for i := range u.Count {
			if err := classifyAt(u.Elem, offset+i*element, classes, budget); err != nil {
				return err
			}
		}
	case Struct, Union:
		inner := make([]class, len(classes)) // an aggregate inside is settled by itself
		if err := classifyFields(u, offset, inner, budget); err != nil {
			return err
		}
		if !settle(inner[first:]) {
			inner[first] = memoryClass
		}
		for i := range inner {
			merge(&classes[i], inner[i])
		}
	default:
		return fmt.Errorf("type %s is not passed by value", t)
	}
	return nil
}

func classifyFields(u *Type, offset int64, classes []class, budget *int) error {
	for i := range u.Fields {
		f := &u.Fields[i]
		if f.BitSize == 0 {
			if err := classifyAt(f.Type, offset+f.Offset, classes, budget); err != nil {
				return err
			}
			continue
		}
		if f.Name == "" {
			continue // unnamed bit-fields are padding
		}
		first, last := (offset*8+f.BitOffset)/64, (offset*8+f.BitOffset+f.BitSize-1)/64
		if first < 0 || last >= int64(len(classes)) {
			return fmt.Errorf("type %s: bit-field %s lies outside", u, f.Name)
		}
		for i := first; i <= last; i++ {
			merge(&classes[i], integerClass)
		}
		if u.Kind == Union && offset%containerOf(f.BitSize) != 0 {
			merge(&classes[first], memoryClass) // gcc takes a union's bit-field as the integer that holds it
		}
	}
	return nil
}

// containerOf is the size of the smallest integer with that many bits.
func containerOf(bits int64) int64 {
	size := int64(1)
	for size*8 < bits {
		size *= 2
	}
	return size
}

// merge joins the classes of two members in one eightbyte.
func merge(c *class, with class) {
	switch {
	case *c == with || with == noClass:
	case *c == noClass:
		*c = with
	case *c == memoryClass || with == memoryClass:
		*c = memoryClass
	case *c == integerClass || with == integerClass:
		*c = integerClass
	case *c >= x87Class || with >= x87Class:
		*c = memoryClass
	default:
		*c = sseClass
	}
}

// refuseClass refuses C++ classes that may have to be copied by their own code.
func refuseClass(t *Type) error {
	u := t.under()
	if u.class && !u.byValue {
		return fmt.Errorf("type %s is a C++ class, which may need its constructors: pass it by address", t)
	}
	return nil
}

var integerRegisters = [...]string{"rdi", "rsi", "rdx", "rcx", "r8", "r9"}

// maxStack bounds the arguments on the stack.
const maxStack = 1 << 16

// pass adds an argument, already converted, and says where it went.
func (c *Call) pass(b []byte, t *Type) (string, error) {
	if err := refuseClass(t); err != nil {
		return "", err
	}
	classes, err := classify(t)
	if err != nil {
		return "", err
	}
	if len(classes) == 0 {
		return "nowhere: it is empty", nil
	}
	if t.integral() && len(b) < 8 {
		b = integerBytes(Value{Type: t, Bytes: b}.number(), 8) // callees may rely on narrow integers being extended
	}
	integers, vectors, memory := 0, 0, false
	for _, k := range classes {
		switch k {
		case integerClass:
			integers++
		case sseClass:
			vectors++
		case sseUpClass, noClass:
		default:
			memory = true
		}
	}
	if memory || c.Ints+integers > len(c.Int) || c.Vectors+vectors > len(c.Vector) {
		return c.passOnStack(b, t)
	}
	var where []string
	padded := append(b[:len(b):len(b)], make([]byte, 16)...)
	for i, k := range classes {
		eightbyte := padded[i*8 : i*8+8]
		switch k {
		case integerClass:
			c.Int[c.Ints] = binary.LittleEndian.Uint64(eightbyte)
			where = append(where, integerRegisters[c.Ints])
			c.Ints++
		case sseClass:
			copy(c.Vector[c.Vectors][:], eightbyte)
			where = append(where, fmt.Sprintf("xmm%d", c.Vectors))
			c.Vectors++
		case sseUpClass:
			copy(c.Vector[c.Vectors-1][8:], eightbyte)
		}
	}
	if len(where) == 0 {
		return "nowhere: it is padding", nil
	}
	return strings.Join(where, ", "), nil
}

func (c *Call) passOnStack(b []byte, t *Type) (string, error) {
	align := int64(8)
	if t.align() >= 16 {
		align = t.align()
	}
	if align > 16 {
		return "", fmt.Errorf("type %s: an alignment of %d bytes on the stack", t, align)
	}
	for int64(len(c.Stack))%align != 0 {
		c.Stack = append(c.Stack, 0)
	}
	at := len(c.Stack)
	c.Stack = append(c.Stack, b...)
	for len(c.Stack)%8 != 0 {
		c.Stack = append(c.Stack, 0)
	}
	if len(c.Stack) > maxStack {
		return "", errors.New("the arguments are too large for the stack")
	}
	return fmt.Sprintf("stack+%d", at), nil
}

// finish pads the stack.
func (c *Call) finish() {
	for len(c.Stack)%16 != 0 {
		c.Stack = append(c.Stack, 0)
	}
}

// returnsIn says where a result of type t comes back. hidden: in memory, whose address goes into rdi.
func returnsIn(t *Type) (where string, hidden bool, err error) {
	if t.is(Void) {
		return "nothing", false, nil
	}
	if err := refuseClass(t); err != nil {
		return "", false, err
	}
	classes, err := classify(t)
	if err != nil {
		return "", false, err
	}
	var list []string
	integers, vectors := []string{"rax", "rdx"}, []string{"xmm0", "xmm1"}
	for _, k := range classes {
		switch k {
		case memoryClass:
			return "memory at rdi", true, nil
		case integerClass:
			list, integers = append(list, integers[0]), integers[1:]
		case sseClass:
			list, vectors = append(list, vectors[0]), vectors[1:]
		case x87Class:
			list = append(list, "st0")
		case complexX87Class:
			list = append(list, "st0", "st1")
		}
	}
	return strings.Join(list, ", "), false, nil
}

// value takes a result of type t, which is not in memory, out of the registers.
func (r *Result) value(t *Type) ([]byte, error) {
	classes, err := classify(t)
	if err != nil {
		return nil, err
	}
	size, err := t.size()
	if err != nil {
		return nil, err
	}
	integers, vectors := []uint64{r.RAX, r.RDX}, [][16]byte{r.XMM0, r.XMM1}
	var b []byte
	var vector [16]byte
	for _, k := range classes {
		switch k {
		case integerClass:
			b = binary.LittleEndian.AppendUint64(b, integers[0])
			integers = integers[1:]
		case sseClass:
			vector, vectors = vectors[0], vectors[1:]
			b = append(b, vector[:8]...)
		case sseUpClass:
			b = append(b, vector[8:]...)
		case x87Class:
			b = append(append(b, r.ST0[:]...), make([]byte, 6)...)
		case complexX87Class:
			b = append(append(b, r.ST0[:]...), make([]byte, 6)...)
			b = append(append(b, r.ST1[:]...), make([]byte, 6)...)
		case noClass:
			b = append(b, make([]byte, 8)...)
		}
	}
	if int64(len(b)) < size {
		return nil, fmt.Errorf("type %s does not come back in registers", t)
	}
	return b[:size], nil
}
