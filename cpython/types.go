package cpython

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode"

	"github.com/heaptap/heaptap/mem"
)

// Flags of types (Include/object.h, the same in all supported releases).
const (
	flagHeapType = 1 << 9
	flagReady    = 1 << 12
	flagHaveGC   = 1 << 14
	flagInt      = 1 << 24
	flagList     = 1 << 25
	flagTuple    = 1 << 26
	flagBytes    = 1 << 27
	flagStr      = 1 << 28
	flagDict     = 1 << 29
	flagType     = 1 << 31
)

// builtins is the module whose types are named without it.
const builtins = "builtins"

// Bounds of what a type object may say.
const (
	maxTypeName  = 1024 // characters of a qualified name
	maxBasicSize = 1 << 30
	maxItemSize  = 1 << 20
	maxBases     = 128 // on the way to object
	maxClassDict = 1 << 16
)

// minAddr is below every address that an object can have: the kernel maps nothing there.
const minAddr = 4096

// shape says how the size of a type's instances is known.
type shape uint8

const (
	shapeFixed  shape = iota // tp_basicsize
	shapeItems               // and ob_size items
	shapeInt                 // and digits
	shapeStr                 // by length and kind
	shapeInline              // and values of attributes, or a frame: at least tp_basicsize
	shapeShort               // perhaps without the last word: a time without a zone (Modules/_datetimemodule.c)
)

// Type is a type object of the target: what tells its instances, and what they are called.
type Type struct {
	Addr mem.Addr
	Name string // qualified, with its module but for builtins: "dict", "collections.deque", "app.models.User"
	Heap bool   // made at run time: it may come and go

	meta        bool // its instances are types
	before      uint32
	preheader   bool
	basic, item uint64
	flags       uint64
	shape       shape
	sharedKeys  mem.Addr // table of keys that instances share, or 0
	owned       []owned
}

// Types finds out about the type objects of one interpreter, and remembers. It may be used from several goroutines.
type Types struct {
	in     *Interpreter
	r      mem.Reader
	head   uint32
	noType func(a mem.Addr, before, size uint32) bool

	found sync.Map // mem.Addr to *Type; nil: no type

	mu        sync.Mutex
	known     map[mem.Addr]*Type // as found; in it what is being resolved is no type
	moduleKey mem.Addr           // the interned string "__module__", once seen
}

// NewTypes reads types by r. A type is believed to be at an address only if its metaclass is derived from type, as far
// as PyType_Type itself. noType tells of addresses that need not be read for that, since no structure of size bytes is
// there in a block that begins before bytes earlier.
//
// There is one Types for each size that the collector's head may have in this build: where it has three words, that
// depends on how the build aligns its widest type, which only objects tell. The one that recognises objects is right.
func (in *Interpreter) NewTypes(r mem.Reader, noType func(a mem.Addr, before, size uint32) bool) []*Types {
	var all []*Types
	for _, n := range in.headSizes() {
		all = append(all, &Types{in: in, r: r, head: n, noType: noType, known: map[mem.Addr]*Type{}})
	}
	return all
}

func (in *Interpreter) headSizes() []uint32 {
	n := 8 * uint32(in.Layout.Header.HeadWords)
	if n%16 == 0 {
		return []uint32{n}
	}
	return []uint32{n, n + 8}
}

// BlockOf is where the block of a heap type begins.
func (t *Types) BlockOf(typ *Type) mem.Addr { return typ.Addr - mem.Addr(t.head) }

// At is the type at an address, or nil if there is none.
func (t *Types) At(a mem.Addr) *Type {
	if typ, ok := t.found.Load(a); ok {
		return typ.(*Type)
	}
	if a < minAddr || a%8 != 0 || a>>47 != 0 || t.noType(a, t.head, t.in.Layout.Type.HeapSize) {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resolve(t.in.TypeType, 0) // first, since object, its base, has it for its type
	typ := t.resolve(a, 0)
	t.found.Store(a, typ)
	return typ
}

// resolve is At, with the lock held. A type on whose account this is asked is no type meanwhile, so that garbage cannot
// vouch for itself; but PyType_Type is its own type.
func (t *Types) resolve(a mem.Addr, depth int) *Type {
	if typ, ok := t.known[a]; ok {
		return typ
	}
	t.known[a] = nil
	typ, err := t.read(a, depth)
	if err != nil {
		return nil
	}
	t.known[a] = typ
	return typ
}

var errNoType = errors.New("no type")

func (t *Types) read(a mem.Addr, depth int) (*Type, error) {
	if a < minAddr || a%8 != 0 || depth > maxBases {
		return nil, errNoType
	}
	l, h := t.in.Layout.Type, t.in.Layout.Header
	b, err := mem.Bytes(t.r, a, int(l.Size))
	if err != nil {
		return nil, err
	}
	word := func(o Offset) uint64 { return binary.LittleEndian.Uint64(b[o.Bytes:]) }
	typ := &Type{Addr: a, basic: word(l.BasicSize), item: word(l.ItemSize), flags: word(l.Flags)}
	unready := typ.flags&(flagReady|flagHeapType) == 0 && word(l.Base) == 0 // private types of C modules that nobody calls
	if !h.alive(word(h.Count)) || typ.flags&flagReady == 0 && !unready || typ.basic < 16 || typ.basic > maxBasicSize ||
		typ.item > maxItemSize {
		return nil, errNoType
	}
	root := t.in.TypeType
	meta := mem.Addr(word(t.in.Layout.Object.Type))
	if a == root {
		if meta != root {
			return nil, errNoType
		}
		typ.meta = true
		t.known[a] = typ
	} else if m := t.resolve(meta, depth+1); m == nil || !m.meta || unready && meta != root {
		return nil, errNoType
	}
	var base *Type
	if at := mem.Addr(word(l.Base)); at != 0 {
		if base = t.resolve(at, depth+1); base == nil || base.basic > typ.basic {
			return nil, errNoType
		}
		typ.meta = typ.meta || base.meta
	}
	if typ.meta && typ.flags&flagType == 0 {
		return nil, errNoType
	}
	typ.Heap = typ.flags&flagHeapType != 0
	if err := t.name(typ, mem.Addr(word(t.in.Layout.Object.TypeName)), mem.Addr(word(l.Dict))); err != nil {
		return nil, err
	}
	t.describe(typ, base)
	return typ, nil
}

// alive tells whether this can be the reference count of an object that is there: not 0, as that of one in a free list
// or of a new block, and not the link of such a list, an address.
func (h *HeaderLayout) alive(count uint64) bool { return count&h.CountZero == 0 && uint32(count) != 0 }

// describe derives what does not have to be read.
func (t *Types) describe(typ, base *Type) {
	h := &t.in.Layout.Header
	if typ.flags&flagHaveGC != 0 {
		typ.before = t.head
	}
	if typ.flags&h.PreFlags != 0 {
		typ.before += 16
		typ.preheader = true
	}
	switch {
	case typ.flags&flagStr != 0:
		typ.shape = shapeStr
	case typ.flags&flagInt != 0 && typ.item != 0:
		typ.shape = shapeInt
	case h.FramesInline && hasFrame(typ):
		typ.shape = shapeInline
	case typ.item != 0:
		typ.shape = shapeItems
	case typ.flags&h.InlineFlag != 0:
		typ.shape = shapeInline
	case !typ.Heap && (typ.Name == "datetime.datetime" || typ.Name == "datetime.time"):
		typ.shape = shapeShort
	}
	typ.owned = t.in.ownedBy(typ, base)
}

// hasFrame tells whether a type is one of those whose instances end in a frame. They cannot be derived from.
func hasFrame(typ *Type) bool {
	switch typ.Name {
	case "frame", "generator", "coroutine", "async_generator":
		return !typ.Heap
	}
	return false
}

// name finds a type's qualified name as Python itself does it: a static type's tp_name has its module in it, a heap
// type's qualified name is a str, and its module stands in its dict (type_module in Objects/typeobject.c).
func (t *Types) name(typ *Type, cname, dict mem.Addr) error {
	if !typ.Heap {
		s, err := mem.CString(t.r, cname, maxTypeName)
		if err != nil {
			return err
		}
		typ.Name = strings.TrimPrefix(s, builtins+".")
	} else {
		l := t.in.Layout.Type
		var err error
		if typ.sharedKeys, err = mem.Pointer(t.r, l.CachedKeys.From(typ.Addr)); err != nil {
			return err
		}
		qualname, err := t.in.stringField(t.r, typ.Addr, l.Qualname)
		if err != nil {
			return err
		}
		typ.Name = qualname
		module, err := t.module(dict)
		if err != nil {
			return err
		}
		if module != "" && module != builtins {
			typ.Name = module + "." + qualname
		}
	}
	if typ.Name == "" || len(typ.Name) > 4*maxTypeName || strings.ContainsFunc(typ.Name, unicode.IsControl) {
		return errNoType
	}
	return nil
}

// module is what a class dict has for "__module__": "" if nothing, or no str.
func (t *Types) module(dict mem.Addr) (string, error) {
	var module string
	err := t.in.eachItem(t.r, dict, func(key, value mem.Addr) (bool, error) {
		if key != t.moduleKey {
			if ok, err := t.isModuleKey(key); err != nil || !ok {
				return true, err
			}
		}
		ok, err := t.isStr(value)
		if err != nil || !ok {
			return false, err
		}
		module, err = t.in.String(t.r, value, maxTypeName)
		return false, err
	})
	return module, err
}

const moduleKey = "__module__"

func (t *Types) isModuleKey(key mem.Addr) (bool, error) {
	n, err := mem.U64(t.r, t.in.Layout.Unicode.Length.From(key))
	if err != nil || n != uint64(len(moduleKey)) {
		return false, err
	}
	if ok, err := t.isStr(key); err != nil || !ok {
		return false, err
	}
	s, err := t.in.String(t.r, key, len(moduleKey))
	if err != nil || s != moduleKey {
		return false, err
	}
	t.moduleKey = key
	return true, nil
}

func (t *Types) isStr(a mem.Addr) (bool, error) {
	typ, err := mem.Pointer(t.r, t.in.Layout.Object.Type.From(a))
	return typ == t.in.StrType, err
}

// eachItem visits the items of a dict whose keys are its own, in order, until visit returns false.
func (in *Interpreter) eachItem(r mem.Reader, dict mem.Addr, visit func(key, value mem.Addr) (bool, error)) error {
	l := in.Layout.Dict
	if dict == 0 || dict%8 != 0 {
		return fmt.Errorf("dict at %v: no address of an object: %w", dict, errTorn)
	}
	keys, err := mem.Pointer(r, l.Keys.From(dict))
	if err != nil {
		return err
	}
	b, err := mem.Bytes(r, keys, int(l.Indices.Bytes))
	if err != nil {
		return err
	}
	entries, width, used, err := l.entries(b)
	if err != nil {
		return fmt.Errorf("keys at %v: %w", keys, err)
	}
	if b, err = mem.Bytes(r, keys+mem.Addr(entries), int(used*width)); err != nil {
		return err
	}
	for ; len(b) > 0; b = b[width:] {
		key := mem.Addr(binary.LittleEndian.Uint64(b[width-16:]))
		value := mem.Addr(binary.LittleEndian.Uint64(b[width-8:]))
		if key == 0 || value == 0 {
			continue
		}
		if more, err := visit(key, value); err != nil || !more {
			return err
		}
	}
	return nil
}

// entries says where, behind the start of a table of keys with this header, its entries begin, how many bytes each has,
// and how many there are. The last two words of an entry are key and value.
func (l *DictLayout) entries(header []byte) (at, width, used uint64, err error) {
	used = binary.LittleEndian.Uint64(header[l.KeysUsed.Bytes:])
	if used > maxClassDict {
		return 0, 0, 0, fmt.Errorf("%d entries: %w", used, errTorn)
	}
	width = 24
	if l.KeysLog2Index.Known {
		log := header[l.KeysLog2Index.Bytes]
		if log > 32 {
			return 0, 0, 0, fmt.Errorf("2^%d bytes of indices: %w", log, errTorn)
		}
		if header[l.KeysKind.Bytes] != 0 {
			width = 16
		}
		return uint64(l.Indices.Bytes) + 1<<log, width, used, nil
	}
	size := binary.LittleEndian.Uint64(header[l.KeysSize.Bytes:])
	index := uint64(8) // DK_IXSIZE in Objects/dict-common.h
	switch {
	case size <= 0xff:
		index = 1
	case size <= 0xffff:
		index = 2
	case size <= 0xffffffff:
		index = 4
	}
	if used > size {
		return 0, 0, 0, fmt.Errorf("%d entries in %d slots: %w", used, size, errTorn)
	}
	return uint64(l.Indices.Bytes) + size*index, width, used, nil
}
