package cpython

import (
	"encoding/binary"

	"github.com/heaptap/heaptap/mem"
)

// Role says what an object uses a block of its own for.
type Role string

// The roles.
const (
	Items      Role = "items"
	Keys       Role = "keys"
	SharedKeys Role = "shared keys" // of a class: those of its instances' attributes
	Values     Role = "values"
	Table      Role = "table"
	Text       Role = "text"
	UTF8       Role = "utf8"
	Blocks     Role = "blocks"
	Nodes      Role = "nodes"
	Buffer     Role = "buffer"
	Data       Role = "data"
	State      Role = "state"
	Lock       Role = "lock"
)

// Owned is a block that an object has for itself.
type Owned struct {
	Addr     mem.Addr // where it begins; see Prefixed
	Role     Role
	Prefixed bool // it begins up to 5 words before Addr
	Weak     bool // by a rule of thumb: whoever claims the block otherwise is right, and so is a block that is an object
	Follow   bool // the block itself points to others of the kind
}

// owned is a rule: where instances of a type, and of those derived from it, point to blocks of their own.
type owned struct {
	name     string // of the type
	role     Role
	from, to uint32 // pointers in these bytes of the object; to 0: to the end of the type's own part
	if8      uint32 // 0, or where a byte must have the bits mask
	mask     uint8
	follow   bool
	weak     bool
}

// libraryOwned are the rules for types of the standard library, and numpy, whose structures are in no header. The
// pointers of a narrow range are at the same place in every release from 3.6 to 3.15; in a wide one they move from
// release to release, and nothing else there can be the address of a block that is no object. Each from the type's
// struct in the file named.
var libraryOwned = [...]owned{
	{name: "collections.deque", role: Blocks, from: 24, to: 40, follow: true}, // Modules/_collectionsmodule.c
	{name: "array.array", role: Items, from: 24, to: 32},                      // Modules/arraymodule.c
	{name: "_io.StringIO", role: Buffer, from: 16, to: 24},                    // Modules/_io/stringio.c
	{name: "_io.BufferedReader", role: Buffer, from: 16, weak: true},          // Modules/_io/bufferedio.c
	{name: "_io.BufferedWriter", role: Buffer, from: 16, weak: true},
	{name: "_io.BufferedRandom", role: Buffer, from: 16, weak: true},
	{name: "decimal.Decimal", role: Data, from: 64, to: 72},                                  // Modules/_decimal/_decimal.c
	{name: "collections.OrderedDict", role: Nodes, from: 48, weak: true, follow: true},       // Objects/odictobject.c
	{name: "_ctypes._CData", role: Data, from: 16, to: 24, if8: 24, mask: 1},                 // b_ptr and b_needsfree, Modules/_ctypes/ctypes.h
	{name: "numpy.ndarray", role: Data, from: 16, to: 24, if8: 64, mask: 4},                  // data if OWNDATA, ndarraytypes.h
	{name: "numpy.ndarray", role: State, from: 32, to: 40},                                   // dimensions
	{name: "_struct.Struct", role: State, from: 16, weak: true},                              // Modules/_struct.c
	{name: "Struct", role: State, from: 16, weak: true},                                      // its name to 3.8
	{name: "_thread.lock", role: Lock, from: 16, to: 24, weak: true},                         // Modules/_threadmodule.c
	{name: "_thread.RLock", role: Lock, from: 16, to: 24, weak: true},                        //
	{name: "_queue.SimpleQueue", role: State, from: 16, weak: true},                          // Modules/_queuemodule.c
	{name: "_pickle.Pickler", role: State, from: 16, weak: true, follow: true},               // Modules/_pickle.c
	{name: "_pickle.Unpickler", role: State, from: 16, weak: true},                           //
	{name: "xml.etree.ElementTree.Element", role: Items, from: 16, weak: true, follow: true}, // Modules/_elementtree.c
	{name: "itertools.product", role: State, from: 16, weak: true},                           // Modules/itertoolsmodule.c
	{name: "itertools.combinations", role: State, from: 16, weak: true},                      //
	{name: "itertools.combinations_with_replacement", role: State, from: 16, weak: true},     //
	{name: "itertools.permutations", role: State, from: 16, weak: true},                      //
	{name: "module", role: State, from: 16, weak: true},                                      // Objects/moduleobject.c
}

// ownedBy are the rules that hold for a type: its base's, and its own.
func (in *Interpreter) ownedBy(typ, base *Type) []owned {
	var rules []owned
	if base != nil {
		rules = base.owned
	}
	l := &in.Layout
	add := func(o owned) {
		if o.to == 0 {
			o.to = uint32(min(typ.basic, HeaderBytes)) &^ 7
		}
		if uint64(o.to) <= typ.basic && (o.if8 == 0 || uint64(o.if8) < typ.basic) {
			rules = append(rules[:len(rules):len(rules)], o)
		}
	}
	field := func(role Role, o Offset) {
		if o.Known {
			add(owned{name: typ.Name, role: role, from: o.Bytes, to: o.Bytes + 8})
		}
	}
	if !typ.Heap {
		switch typ.Name {
		case "list":
			field(Items, l.Owner.ListItems)
		case "set", "frozenset":
			field(Table, l.Owner.SetTable)
		case "bytearray":
			field(Buffer, l.Owner.ByteArray)
		}
	}
	for _, o := range libraryOwned {
		if o.name == typ.Name {
			add(o)
		}
	}
	return rules
}

// Owned shows to visit the blocks that an object points to as its own; b is what [Types.Object] was given. What is
// visited is a claim: it may be no block's address, as that of a table that is part of the object.
func (t *Types) Owned(o Object, b []byte, visit func(Owned)) {
	typ := o.Type
	object := b[o.Offset:]
	word := func(at uint32) mem.Addr {
		if int(at)+8 > len(object) {
			return 0
		}
		return mem.Addr(binary.LittleEndian.Uint64(object[at:]))
	}
	for i := range typ.owned {
		rule := &typ.owned[i]
		if rule.mask != 0 && (int(rule.if8) >= len(object) || object[rule.if8]&rule.mask == 0) {
			continue
		}
		for at := rule.from; at < rule.to; at += 8 {
			if a := word(at); a >= minAddr {
				visit(Owned{Addr: a, Role: rule.role, Weak: rule.weak, Follow: rule.follow})
			}
		}
	}
	switch {
	case typ.flags&flagDict != 0 || typ.Name == "frozendict" && !typ.Heap:
		t.ownedByDict(word, visit)
	case typ.shape == shapeStr:
		t.ownedByStr(object, word, visit)
	}
	if typ.preheader {
		t.ownedByPreheader(b, o.Offset, visit)
	}
}

// ownedByDict: a dict with values shares its keys, and they are its class's.
func (t *Types) ownedByDict(word func(uint32) mem.Addr, visit func(Owned)) {
	l := &t.in.Layout.Dict
	values := word(l.Values.Bytes)
	if keys := word(l.Keys.Bytes); keys >= minAddr && values == 0 {
		visit(Owned{Addr: keys, Role: Keys})
	}
	if values >= minAddr {
		visit(Owned{Addr: values, Role: Values, Prefixed: l.ValuesPrefixed})
	}
}

// ownedByStr: text that is not behind the header, and what was encoded as UTF-8 once.
func (t *Types) ownedByStr(object []byte, word func(uint32) mem.Addr, visit func(Owned)) {
	l := &t.in.Layout.Unicode
	state := binary.LittleEndian.Uint32(object[l.State.Bytes:])
	compact, ascii := state>>l.CompactBit&1 != 0, state>>l.ASCIIBit&1 != 0
	var text mem.Addr
	if !compact {
		if text = word(l.PointerData.Bytes); text >= minAddr {
			visit(Owned{Addr: text, Role: Text})
		}
	}
	if !compact || !ascii {
		if utf8 := word(l.UTF8.Bytes); utf8 >= minAddr && utf8 != text {
			visit(Owned{Addr: utf8, Role: UTF8})
		}
	}
}

// ownedByPreheader: values of attributes that are in a block of their own.
func (t *Types) ownedByPreheader(b []byte, offset uint32, visit func(Owned)) {
	if int(offset) > len(b) || offset < t.head+16 {
		return
	}
	switch t.in.Layout.Header.Values {
	case ValuesWord:
		if a := mem.Addr(binary.LittleEndian.Uint64(b[offset-32:])); a >= minAddr {
			visit(Owned{Addr: a, Role: Values, Prefixed: true})
		}
	case ValuesTagged:
		if a := mem.Addr(binary.LittleEndian.Uint64(b[offset-24:])); a&1 != 0 {
			visit(Owned{Addr: a + 1, Role: Values, Prefixed: true})
		}
	}
}
