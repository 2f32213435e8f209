package cpython

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/heaptap/heaptap/mem"
)

// world is memory in which types are made by hand, as some release lays them out.
type world struct {
	in    *Interpreter
	data  []byte
	next  int
	types *Types
}

const worldSize = 1 << 20

// newWorld has PyType_Type and object, which refer to each other, and some types of the interpreter's.
func newWorld(t *testing.T, minor uint8) *world {
	t.Helper()
	l, ok := layoutFor(release(3, minor, 30))
	if !ok {
		t.Fatalf("no layout for 3.%d", minor)
	}
	w := &world{data: make([]byte, worldSize), in: &Interpreter{Identity: Identity{Version: release(3, minor, 30)}, Layout: l}}
	root := w.make(4096)
	object := w.make(4096)
	w.in.TypeType = root
	w.fill(root, madeType{name: "type", flags: flagType | flagHaveGC, basic: 900, item: 40, base: object, meta: root})
	w.fill(object, madeType{name: "object", basic: 16, meta: root})
	w.in.StrType = w.newType(madeType{name: "str", flags: flagStr, basic: uint64(l.Unicode.Size), base: object, meta: root})
	r := &mem.Fake{Segments: []mem.Segment{{Addr: arena, Data: w.data}}}
	w.types = w.in.NewTypes(r, func(mem.Addr, uint32, uint32) bool { return false })[0]
	return w
}

func (w *world) object() mem.Addr { return arena + 4096 }

// make takes n bytes.
func (w *world) make(n int) mem.Addr {
	a := arena + mem.Addr(w.next)
	w.next += (n + 15) &^ 15
	return a
}

func (w *world) put(a mem.Addr, v uint64) { binary.LittleEndian.PutUint64(w.data[a-arena:], v) }

type madeType struct {
	name        string
	flags       uint64
	basic, item uint64
	base, meta  mem.Addr
	qualname    mem.Addr
	dict        mem.Addr
}

func (w *world) newType(m madeType) mem.Addr {
	a := w.make(4096)
	w.fill(a, m)
	return a
}

func (w *world) fill(a mem.Addr, m madeType) {
	l := &w.in.Layout
	name := w.make(len(m.name) + 1)
	copy(w.data[name-arena:], m.name)
	w.put(l.Header.Count.From(a), 1)
	w.put(l.Object.Type.From(a), uint64(m.meta))
	w.put(l.Object.TypeName.From(a), uint64(name))
	w.put(l.Type.BasicSize.From(a), m.basic)
	w.put(l.Type.ItemSize.From(a), m.item)
	w.put(l.Type.Flags.From(a), m.flags|flagReady)
	w.put(l.Type.Base.From(a), uint64(m.base))
	w.put(l.Type.Dict.From(a), uint64(m.dict))
	w.put(l.Type.Qualname.From(a), uint64(m.qualname))
}

// str makes a compact ASCII str.
func (w *world) str(s string) mem.Addr {
	l := &w.in.Layout.Unicode
	a := w.make(int(l.ASCIIData.Bytes) + len(s) + 1)
	w.put(w.in.Layout.Header.Count.From(a), 1)
	w.put(w.in.Layout.Object.Type.From(a), uint64(w.in.StrType))
	w.put(l.Length.From(a), uint64(len(s)))
	w.put(l.State.From(a), 1<<l.KindShift|1<<l.CompactBit|1<<l.ASCIIBit)
	copy(w.data[l.ASCIIData.From(a)-arena:], s)
	return a
}

// dict makes a dict of one item, which is the last of three entries.
func (w *world) dict(key, value mem.Addr) mem.Addr {
	l := &w.in.Layout.Dict
	a, keys := w.make(64), w.make(512)
	w.put(l.Keys.From(a), uint64(keys))
	if l.KeysSize.Known {
		w.put(l.KeysSize.From(keys), 8)
	} else {
		w.data[l.KeysLog2Index.From(keys)-arena] = 3
	}
	w.put(l.KeysUsed.From(keys), 3)
	last := l.Indices.From(keys) + 8 + 2*24
	w.put(last+8, uint64(key))
	w.put(last+16, uint64(value))
	return a
}

// block makes the beginning of a block in which an object of a type stands behind n bytes.
func (w *world) block(n, size int, count uint64, typ mem.Addr, fields map[uint32]uint64) []byte {
	b := make([]byte, min(size, HeaderBytes))
	binary.LittleEndian.PutUint64(b[n+int(w.in.Layout.Header.Count.Bytes):], count)
	binary.LittleEndian.PutUint64(b[n+int(w.in.Layout.Object.Type.Bytes):], uint64(typ))
	for at, v := range fields {
		binary.LittleEndian.PutUint64(b[n+int(at):], v)
	}
	return b
}

func eachRelease(t *testing.T, do func(*testing.T, uint8)) {
	for minor := uint8(6); minor <= 15; minor++ {
		t.Run(fmt.Sprintf("3.%d", minor), func(t *testing.T) { do(t, minor) })
	}
}

// TestTypeNames: a heap type's name comes from its qualified name and its dict, any other's from its C name.
func TestTypeNames(t *testing.T) {
	eachRelease(t, func(t *testing.T, minor uint8) {
		w := newWorld(t, minor)
		root, object := w.in.TypeType, w.object()
		heap := func(module mem.Addr, key string) mem.Addr {
			return w.newType(madeType{name: "Inner", flags: flagHeapType | flagHaveGC, basic: 16, base: object, meta: root,
				qualname: w.str("Outer.Inner"), dict: w.dict(w.str(key), module)})
		}
		meta := w.newType(madeType{name: "Meta", flags: flagType | flagHaveGC, basic: 900, item: 40, base: root, meta: root})
		for want, a := range map[string]mem.Addr{
			"object":                 object, // asked for first or last: it and its type refer to each other
			"type":                   root,
			"collections.deque":      w.newType(madeType{name: "collections.deque", basic: 16, base: object, meta: root}),
			"dict":                   w.newType(madeType{name: "builtins.dict", basic: 16, base: object, meta: root}),
			"app.models.Outer.Inner": heap(w.str("app.models"), moduleKey),
			"Outer.Inner":            heap(w.str("builtins"), moduleKey),
			"made":                   w.newType(madeType{name: "made", basic: 16, base: object, meta: meta}),
		} {
			if typ := w.types.At(a); typ == nil || typ.Name != want {
				t.Errorf("%s is %+v", want, typ)
			}
		}
		for what, a := range map[string]mem.Addr{
			"__module__ is no str":   heap(root, moduleKey),
			"there is no __module__": heap(w.str("x"), "__mod__"),
		} {
			if typ := w.types.At(a); typ == nil || typ.Name != "Outer.Inner" {
				t.Errorf("%s: %+v", what, typ)
			}
		}
	})
}

// TestNoTypes: what looks like a type in all but one thing is none.
func TestNoTypes(t *testing.T) {
	eachRelease(t, func(t *testing.T, minor uint8) {
		w := newWorld(t, minor)
		l := &w.in.Layout
		root, object := w.in.TypeType, w.object()
		good := madeType{name: "good", basic: 32, base: object, meta: root}
		if w.types.At(w.newType(good)) == nil {
			t.Error("a good type is none")
		}
		broken := func(change func(*madeType)) mem.Addr {
			m := good
			change(&m)
			return w.newType(m)
		}
		dead := w.newType(good)
		w.put(l.Header.Count.From(dead), 0)
		linked := w.newType(good)
		w.put(l.Header.Count.From(linked), 0x7f1234567890)
		itself := w.newType(good)
		w.put(l.Object.Type.From(itself), uint64(itself))
		ring := w.newType(good)
		w.put(l.Type.Base.From(ring), uint64(ring))
		for what, a := range map[string]mem.Addr{
			"metaclass is no type":         broken(func(m *madeType) { m.meta = w.make(4096) }),
			"metaclass makes no types":     broken(func(m *madeType) { m.meta = w.in.StrType }),
			"metaclass is outside":         broken(func(m *madeType) { m.meta = 0x10 }),
			"base is no type":              broken(func(m *madeType) { m.base = w.make(4096) }),
			"base is larger":               broken(func(m *madeType) { m.base = w.in.StrType }),
			"instances without a header":   broken(func(m *madeType) { m.basic = 8 }),
			"instances of terabytes":       broken(func(m *madeType) { m.basic = 1 << 40 }),
			"items of gigabytes":           broken(func(m *madeType) { m.item = 1 << 33 }),
			"no name":                      broken(func(m *madeType) { m.name = "" }),
			"name with control characters": broken(func(m *madeType) { m.name = "a\x1bb" }),
			"heap type without a name":     broken(func(m *madeType) { m.flags = flagHeapType; m.dict = w.dict(w.str("a"), w.str("b")) }),
			"dead":                         dead,
			"in a free list":               linked,
			"its own type":                 itself,
			"its own base":                 ring,
			"not aligned":                  w.newType(good) + 4,
			"outside":                      arena + worldSize - 8,
			"nowhere":                      0x7fffffff0000,
		} {
			if typ := w.types.At(a); typ != nil {
				t.Errorf("%s: %+v", what, typ)
			}
		}
	})
}

// TestObject: an object is found where, and only where, its type says, alive, and as large as its block.
func TestObject(t *testing.T) {
	eachRelease(t, func(t *testing.T, minor uint8) {
		w := newWorld(t, minor)
		l := &w.in.Layout
		root, object, head := w.in.TypeType, w.object(), int(w.types.head)
		size := l.Header.Size.Bytes
		float := w.newType(madeType{name: "float", basic: 24, base: object, meta: root})
		list := w.newType(madeType{name: "list", flags: flagList | flagHaveGC, basic: 40, base: object, meta: root})
		tuple := w.newType(madeType{name: "tuple", flags: flagTuple | flagHaveGC, basic: 24, item: 8, base: object, meta: root})
		digits := w.newType(madeType{name: "int", flags: flagInt, basic: 24, item: 4, base: object, meta: root})
		three := uint64(3) << l.Header.IntShift
		found := func(b []byte, size int) string {
			o, ok := w.types.Object(b, uint64(size))
			if !ok {
				return ""
			}
			return fmt.Sprintf("%s+%d", o.Type.Name, o.Offset)
		}
		ambiguous := w.block(0, 32, 1, digits, map[uint32]uint64{size: 1 << l.Header.IntShift})
		for _, c := range []struct {
			what string
			b    []byte
			size int
			want string
		}{
			{"float", w.block(0, 24, 1, float, nil), 24, "float+0"},
			{"list", w.block(head, 40+head, 2, list, nil), 40 + head, fmt.Sprintf("list+%d", head)},
			{"tuple", w.block(head, 48+head, 2, tuple, map[uint32]uint64{size: 3}), 48 + head, fmt.Sprintf("tuple+%d", head)},
			{"int", w.block(0, 36, 1, digits, map[uint32]uint64{size: three}), 36, "int+0"},
			{"int with room", w.block(0, 40, 1, digits, map[uint32]uint64{size: three}), 40, "int+0"},
			{"looks like nothing else", ambiguous, 32, "int+0"},
			{"in a free list", w.block(0, 24, 0, float, nil), 24, ""},
			{"linked in a free list", w.block(0, 24, 0x7f0012345670, float, nil), 24, ""},
			{"no collector's head", w.block(0, 40+head, 1, list, nil), 40 + head, ""},
			{"collector's head too many", w.block(head, 24+head, 1, float, nil), 24 + head, ""},
			{"block too large", w.block(0, 64, 1, float, nil), 64, ""},
			{"block too small", w.block(head, 32+head, 1, list, nil), 32 + head, ""},
			{"more items than fit", w.block(head, 48+head, 1, tuple, map[uint32]uint64{size: 4}), 48 + head, ""},
			{"absurdly many items", w.block(head, 48+head, 1, tuple, map[uint32]uint64{size: 1 << 61}), 48 + head, ""},
			{"fewer than no items", w.block(head, 48+head, 1, tuple, map[uint32]uint64{size: 1 << 63}), 48 + head, ""},
			{"absurdly many digits", w.block(0, 36, 1, digits, map[uint32]uint64{size: 1 << 63}), 36, ""},
			{"its type is no type", w.block(0, 24, 1, arena+8192+8, nil), 24, ""},
			{"nothing", make([]byte, 24), 24, ""},
			{"one byte", []byte{1}, 1, ""},
			{"no byte", nil, 0, ""},
		} {
			if got := found(c.b, c.size); got != c.want {
				t.Errorf("%s: %q, want %q", c.what, got, c.want)
			}
		}
		broken := w.block(head, 40+head, 2, list, nil)
		if binary.LittleEndian.PutUint64(broken, 24); l.Header.HeadWords == 2 && found(broken, 40+head) != "" {
			t.Error("a collector's link that is no address is believed")
		}
		if l.Header.PreFlags == 0 {
			return
		}
		managed := w.newType(madeType{name: "app.A", flags: flagHaveGC | l.Header.PreFlags&^8, basic: 16, base: object, meta: root})
		pre := head + 16
		if got := found(w.block(pre, 16+pre, 1, managed, nil), 16+pre); got != fmt.Sprintf("app.A+%d", pre) {
			t.Errorf("with a pre-header: %q", got)
		}
		if got := found(w.block(head, 16+pre, 1, managed, nil), 16+pre); got != "" {
			t.Errorf("without its pre-header: %q", got)
		}
		// A tuple that holds a type and the number 1 looks like an object behind a pre-header, but for the list's links.
		two := w.block(head, 40+head, 1, tuple, map[uint32]uint64{size: 1, size + 8: uint64(managed)})
		if got := found(two, 40+head); got != fmt.Sprintf("tuple+%d", head) {
			t.Errorf("a tuple of types: %q", got)
		}
	})
}

// TestOwned: what containers point to is theirs, and what dicts share is not.
func TestOwned(t *testing.T) {
	eachRelease(t, func(t *testing.T, minor uint8) {
		w := newWorld(t, minor)
		l := &w.in.Layout
		root, object, head := w.in.TypeType, w.object(), int(w.types.head)
		list := w.newType(madeType{name: "list", flags: flagList | flagHaveGC, basic: 40, base: object, meta: root})
		dict := w.newType(madeType{name: "dict", flags: flagDict | flagHaveGC, basic: 48, base: object, meta: root})
		set := w.newType(madeType{name: "set", flags: flagHaveGC, basic: 200, base: object, meta: root})
		deque := w.newType(madeType{name: "collections.deque", flags: flagHaveGC, basic: 80, base: object, meta: root})
		mine := w.newType(madeType{name: "Mine", flags: flagList | flagHaveGC | flagHeapType, basic: 56, base: list, meta: root,
			qualname: w.str("Mine"), dict: w.dict(w.str(moduleKey), w.str("app"))})
		owned := func(size int, typ mem.Addr, fields map[uint32]uint64) []Owned {
			b := w.block(head, size+head, 1, typ, fields)
			o, ok := w.types.Object(b, uint64(size+head))
			if !ok {
				t.Fatalf("no object")
			}
			var all []Owned
			w.types.Owned(o, b, func(own Owned) { all = append(all, own) })
			return all
		}
		for _, c := range []struct {
			what      string
			got, want []Owned
		}{
			{"list", owned(40, list, map[uint32]uint64{l.Owner.ListItems.Bytes: 0x7f00}), []Owned{{Addr: 0x7f00, Role: Items}}},
			{"derived", owned(56, mine, map[uint32]uint64{l.Owner.ListItems.Bytes: 0x7f00}), []Owned{{Addr: 0x7f00, Role: Items}}},
			{"empty", owned(40, list, nil), nil},
			{"dict", owned(48, dict, map[uint32]uint64{l.Dict.Keys.Bytes: 0x7f00}), []Owned{{Addr: 0x7f00, Role: Keys}}},
			{"dict of shared keys", owned(48, dict, map[uint32]uint64{l.Dict.Keys.Bytes: 0x7f00, l.Dict.Values.Bytes: 0x7e00}),
				[]Owned{{Addr: 0x7e00, Role: Values, Prefixed: l.Dict.ValuesPrefixed}}},
			{"set", owned(200, set, map[uint32]uint64{l.Owner.SetTable.Bytes: 0x7f00}), []Owned{{Addr: 0x7f00, Role: Table}}},
			{"deque", owned(80, deque, map[uint32]uint64{24: 0x7f00, 32: 0x7e00, 40: 0x7d00}),
				[]Owned{{Addr: 0x7f00, Role: Blocks, Follow: true}, {Addr: 0x7e00, Role: Blocks, Follow: true}}},
		} {
			if diff := cmp.Diff(c.want, c.got); diff != "" {
				t.Errorf("%s:\n%s", c.what, diff)
			}
		}
	})
}

// FuzzObject: from no memory comes a panic, or an object that its type does not allow.
func FuzzObject(f *testing.F) {
	f.Add(uint8(0), words(1, uint64(arena), 0), uint16(24), words(1, uint64(arena), 0, uint64(arena)+8, 16, 8))
	f.Add(uint8(5), words(0, 0, 1, uint64(arena), 5, 6), uint16(64), words(1, uint64(arena), 0, uint64(arena)+8, 16, 8))
	f.Add(uint8(9), words(0, 0, 0, 0, 1, uint64(arena), 5, 6), uint16(512), words(1, uint64(arena)))
	f.Fuzz(func(t *testing.T, minor uint8, block []byte, size uint16, data []byte) {
		in, r := fuzzed(minor, data)
		in.TypeType, in.StrType = arena, arena+64
		for _, types := range in.NewTypes(r, func(mem.Addr, uint32, uint32) bool { return false }) {
			o, ok := types.Object(block, uint64(size))
			if !ok {
				continue
			}
			if o.Type.Name == "" || int(o.Offset)+16 > len(block) || uint64(o.Offset)+o.Type.basic > uint64(size)+8 &&
				!slices.Contains([]shape{shapeStr, shapeShort}, o.Type.shape) {
				t.Errorf("%+v in %d bytes: %+v", o, size, o.Type)
			}
			types.Owned(o, block[:min(len(block), int(size))], func(own Owned) {
				if own.Addr < minAddr || own.Role == "" {
					t.Errorf("%+v owns %+v", o.Type, own)
				}
			})
		}
	})
}
