package cexpr

import (
	"fmt"
	"regexp"
	"strings"
)

// part is a register as an expression names it: size bytes at offset of a whole register.
type registerPart struct {
	whole        string
	offset, size int64
	typ          *Type
}

var numbered = regexp.MustCompile(`^(r)(8|9|1[0-5])([dwlb]?)$|^(st|xmm|ymm|k)(\d+)$`)

// registerNamed knows the registers of x86-64 and the types that gdb gives them.
func registerNamed(name string) (registerPart, bool) {
	if p, ok := generalRegister(name); ok {
		return p, true
	}
	switch name {
	case "rip", "pc":
		return registerPart{"rip", 0, 8, pointerTo(&Type{Kind: FunctionType, Size: 1, Elem: voidType(), Unprototyped: true})},
			true
	case "eflags", "ps":
		return registerPart{"eflags", 0, 4, flagsType("i386_eflags", eflags)}, true
	case "mxcsr":
		return registerPart{"mxcsr", 0, 4, flagsType("i386_mxcsr", mxcsr)}, true
	case "cs", "ss", "ds", "es", "fs", "gs", "fctrl", "fstat", "ftag", "fop", "fiseg", "fioff", "foseg", "fooff":
		return registerPart{name, 0, 4, intType()}, true
	case "fs_base", "gs_base", "orig_rax":
		return registerPart{name, 0, 8, longType()}, true
	}
	m := numbered.FindStringSubmatch(name)
	if m == nil || m[4] == "" || len(m[5]) > 2 {
		return registerPart{}, false
	}
	switch m[4] {
	case "st":
		return registerPart{name, 0, 10, &Type{Kind: Floating, Name: "i387_ext", Size: 16, format: x87}}, len(m[5]) == 1
	case "xmm":
		return registerPart{name, 0, 16, vectorRegister("vec128", 16)}, true
	case "ymm":
		return registerPart{name, 0, 32, vectorRegister("vec256", 32)}, true
	}
	return registerPart{name, 0, 8, ulongType()}, true
}

func generalRegister(name string) (registerPart, bool) {
	word := func(size int64) *Type {
		t := map[int64]*Type{1: integer("int8_t", 1, true), 2: integer("int16_t", 2, true), 4: intType(), 8: longType()}[size]
		return t
	}
	if m := numbered.FindStringSubmatch(name); m != nil && m[1] != "" {
		size := map[string]int64{"": 8, "d": 4, "w": 2, "l": 1, "b": 1}[m[3]]
		return registerPart{"r" + m[2], 0, size, word(size)}, true
	}
	for _, base := range []string{"ax", "bx", "cx", "dx", "si", "di", "bp", "sp"} {
		whole := "r" + base
		low := base + "l"
		if strings.HasSuffix(base, "x") {
			low = base[:1] + "l"
			if name == base[:1]+"h" {
				return registerPart{whole, 1, 1, word(1)}, true
			}
		}
		switch name {
		case whole:
			t := word(8)
			if base == "sp" || base == "bp" {
				t = pointerTo(voidType())
			}
			return registerPart{whole, 0, 8, t}, true
		case "e" + base:
			return registerPart{whole, 0, 4, word(4)}, true
		case base:
			if base == "sp" { // gdb's own name of the stack pointer
				return registerPart{whole, 0, 8, pointerTo(voidType())}, true
			}
			return registerPart{whole, 0, 2, word(2)}, true
		case low:
			return registerPart{whole, 0, 1, word(1)}, true
		}
	}
	if name == "fp" {
		return registerPart{"rbp", 0, 8, pointerTo(voidType())}, true
	}
	return registerPart{}, false
}

func isRegister(name string) bool {
	_, ok := registerNamed(name)
	return ok
}

// Names of the bits, lowest first; reserved ones are empty.
var (
	eflags = []string{"CF", "", "PF", "", "AF", "", "ZF", "SF", "TF", "IF", "DF", "OF", "", "", "NT", "", "RF", "VM", "AC",
		"VIF", "VIP", "ID"}
	mxcsr = []string{"IE", "DE", "ZE", "OE", "UE", "PE", "DAZ", "IM", "DM", "ZM", "OM", "UM", "PM", "", "", "FZ"}
)

func flagsType(name string, bits []string) *Type {
	t := integer(name, 4, false)
	t.bits = bits
	return t
}

// vectorRegister is the union of views that gdb shows a vector register as.
func vectorRegister(name string, size int64) *Type {
	u := &Type{Kind: Union, Name: "union " + name, Size: size, Align: 16}
	view := func(prefix string, elem *Type) {
		n := size / elem.Size
		v := &Type{Kind: Vector, Elem: elem, Count: n, Size: size}
		u.Fields = append(u.Fields, Field{Name: fmt.Sprintf("v%d_%s", n, prefix), Type: v})
	}
	view("bfloat16", &Type{Kind: Floating, Name: "bfloat16", Size: 2, format: brain16})
	view("half", &Type{Kind: Floating, Name: "_Float16", Size: 2})
	view("float", &Type{Kind: Floating, Name: "float", Size: 4})
	view("double", doubleType())
	view("int8", integer("int8_t", 1, true))
	view("int16", integer("int16_t", 2, true))
	view("int32", integer("int32_t", 4, true))
	view("int64", integer("int64_t", 8, true))
	whole := integer("uint128_t", 16, false)
	if size == 16 {
		u.Fields = append(u.Fields, Field{Name: "uint128", Type: whole})
	} else {
		view("int128", integer("uint128_t", 16, false))
	}
	return u
}

// register reads a register or a part of one.
func (r *run) register(name string) (Value, error) {
	p, ok := registerNamed(name)
	if !ok {
		return Value{}, &UnknownRegisterError{name}
	}
	b, err := r.m.Register(p.whole)
	if err != nil {
		return Value{}, fmt.Errorf("read $%s: %w", name, err)
	}
	if int64(len(b)) < p.offset+p.size {
		b = append(b, make([]byte, p.offset+p.size-int64(len(b)))...) // eflags and the like may come narrower
	}
	v := Value{Type: p.typ, Bytes: append([]byte(nil), b[p.offset:p.offset+p.size]...)}
	v.Bytes = append(v.Bytes, make([]byte, max(0, p.typ.Size-p.size))...)
	v.place = place{register: p.whole, offset: p.offset}
	return v, nil
}

// setRegister stores b into the part of a register that p says.
func (r *run) setRegister(p place, b []byte) error {
	whole, err := r.m.Register(p.register)
	if err != nil {
		return err
	}
	whole = append([]byte(nil), whole...)
	if p.offset < 0 || p.offset >= int64(len(whole)) {
		return fmt.Errorf("no byte %d in $%s", p.offset, p.register)
	}
	copy(whole[p.offset:], b) // the padding of an x87 value does not fit, and need not
	if err := r.m.SetRegister(p.register, whole); err != nil {
		return fmt.Errorf("set $%s: %w", p.register, err)
	}
	return nil
}
