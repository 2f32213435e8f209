package cpython

import (
	"fmt"
	"slices"

	"github.com/heaptap/heaptap/mem"
)

// Offset is where a field stands in its structure, in bytes. The zero value says that the structure has no such field,
// or that nobody knows where it is; it is not offset 0.
type Offset struct {
	Bytes uint32
	Known bool
}

func at(n uint32) Offset { return Offset{Bytes: n, Known: true} }

// From returns the address of the field in the structure at base. It must be known.
func (o Offset) From(base mem.Addr) mem.Addr { return base + mem.Addr(o.Bytes) }

// String is the number, or "absent".
func (o Offset) String() string {
	if !o.Known {
		return "absent"
	}
	return fmt.Sprint(o.Bytes)
}

// InstrKind says what a frame's instruction field holds.
type InstrKind uint8

// The kinds of instruction field. The byte offset that [Line] takes is, in this order: the field; twice the field; the
// field minus the address of the code object's co_code_adaptive.
const (
	InstrByteIndex InstrKind = iota + 1 // int f_lasti in bytes (to 3.9); -1 before the first instruction
	InstrUnitIndex                      // int f_lasti in code units of 2 bytes (3.10); -1 before the first
	InstrPointer                        // pointer into co_code_adaptive (from 3.11)
)

// EntryKind says how the outermost of the frames that one call of the interpreter's evaluation function evaluates is known.
type EntryKind uint8

// The kinds of entry.
const (
	EntryEach EntryKind = iota + 1 // each frame has a call of its own (to 3.10)
	EntryFlag                      // FrameLayout.EntryFlag is not 0 (3.11)
	EntryShim                      // its caller is a shim, which is a variable of that call (from 3.12)
)

// LineFormat says how a code object's table maps instructions to lines.
type LineFormat uint8

// The line-table formats. CPython 2.7 to 3.5 have a fifth (unsigned), which no supported version uses.
const (
	LinesSigned   LineFormat = iota + 1 // 3.6–3.9: co_lnotab, pairs of byte delta and signed line delta
	LinesRanges                         // 3.10: co_linetable, pairs of length and signed line delta, -128 is no line
	LinesLocation                       // from 3.11: co_linetable, location entries with columns (PEP 657)
)

// Layout is where the things are that heaptap reads, in one interpreter. It is plain data, without a version: code that
// uses it has no version checks.
type Layout struct {
	Allocator   AllocatorLayout
	Runtime     RuntimeLayout
	Interpreter InterpreterLayout
	Thread      ThreadLayout
	Frame       FrameLayout
	Code        CodeLayout
	Unicode     UnicodeLayout
	Bytes       BytesLayout
	Object      ObjectLayout
	Header      HeaderLayout
	Type        TypeLayout
	Dict        DictLayout
	Owner       OwnerLayout
	Lines       LineFormat
	BlockAlign  uint32 // addresses of blocks are multiples of this: 8 or 16
}

// AllocatorLayout is PyMemAllocatorEx (Include/cpython/pymem.h).
type AllocatorLayout struct {
	Size                               uint32 // of the structure, bytes
	Ctx, Malloc, Calloc, Realloc, Free Offset
}

// RuntimeLayout is _PyRuntimeState. 3.6 has none: all absent. The allocators are in it from 3.12 on.
type RuntimeLayout struct {
	CoreInitialized, Initialized Offset // int: nonzero when so
	Finalizing                   Offset // pointer: the thread that finalizes, or 0
	Interpreters                 Offset // pointer to the newest PyInterpreterState
	MainInterpreter              Offset
	Raw, Mem, Obj                Offset // PyMemAllocatorEx
}

// InterpreterLayout is PyInterpreterState.
type InterpreterLayout struct {
	Next    Offset
	ID      Offset // 8 bytes, signed; absent in 3.6
	Threads Offset // pointer to the newest PyThreadState
}

// ThreadLayout is PyThreadState. The innermost frame is at Frame or, where that is absent, at CFrameCurrent of the
// structure to which CFrame points.
type ThreadLayout struct {
	Next, Interpreter Offset
	Frame             Offset
	CFrame            Offset
	CFrameCurrent     Offset // in _PyCFrame
	ThreadID          Offset // 8 bytes: pthread_self()
	NativeID          Offset // 8 bytes: thread id in the target's pid namespace, from 3.11
	ID                Offset // 8 bytes: unique in the interpreter, never used again, from 3.7
}

// FrameLayout is a Python frame: PyFrameObject to 3.10, then _PyInterpreterFrame.
type FrameLayout struct {
	Previous  Offset // pointer to the caller's frame
	Code      Offset // pointer to the code object, once CodeMask's bits are cleared
	CodeMask  uint64 // tag bits to clear, mostly 0
	Instr     Offset
	InstrSize uint8 // 4 or 8 bytes
	InstrKind InstrKind
	Owner     Offset // 1 byte; absent to 3.10
	OwnerSkip uint8  // an owner of this value or more is a shim, not a Python frame
	OwnerGen  uint8  // the owner that means: belongs to a generator or coroutine
	TLBCIndex Offset // 4 bytes; free-threaded only
	Entry     EntryKind
	EntryFlag Offset // 1 byte; 3.11 only
}

// CodeLayout is PyCodeObject. A frame that has not reached FirstTraceable (in code units) and is no generator's is
// incomplete and is to be skipped.
type CodeLayout struct {
	Filename, Name, Qualname Offset // pointers to str; Qualname from 3.11
	FirstLine                Offset // int
	LineTable                Offset // pointer to bytes
	FirstTraceable           Offset // int, code units; from 3.11
	Adaptive                 Offset // the instructions themselves, from 3.11
}

// UnicodeLayout is str (Include/cpython/unicodeobject.h). Bit positions are in the 32-bit word at State.
type UnicodeLayout struct {
	Length      Offset // 8 bytes: code points
	State       Offset
	KindShift   uint8
	KindBits    uint8 // the kind is the number of bytes for each code point: 1, 2 or 4
	CompactBit  uint8
	ASCIIBit    uint8
	ASCIIData   Offset // compact and ASCII: the text is here
	CompactData Offset // compact, not ASCII: the text is here
	PointerData Offset // not compact: a pointer to the text
	UTF8        Offset // not ASCII: a pointer to the text in UTF-8, or 0
	Size        uint32 // of one that is not compact, bytes
}

// BytesLayout is bytes.
type BytesLayout struct {
	Size Offset // 8 bytes: length
	Data Offset
}

// ObjectLayout is what every object and every type begins with.
type ObjectLayout struct {
	Type     Offset // pointer to the object's type
	TypeName Offset // in PyTypeObject: pointer to a C string
}

// ValuesPlace says where a pre-header points to the values of an instance's attributes.
type ValuesPlace uint8

// The places of instances' values. Otherwise they are in a dict, or in the instance's own block.
const (
	ValuesWord   ValuesPlace = iota + 1 // 3.11: four words before the object, a pointer
	ValuesTagged                        // 3.12: three words before the object, a pointer less 1; or an even one to a dict
)

// HeaderLayout is what stands in an object's block: a pre-header of two words and the collector's head, where the type
// says so, then the object.
type HeaderLayout struct {
	HeadWords    uint8       // of the collector's head; three are padded to the build's alignment
	PreFlags     uint64      // flags of a type, any of which says that instances have a pre-header
	InlineFlag   uint64      // flag of a type whose instances' values follow the object
	Values       ValuesPlace // 0: not in the pre-header
	Count        Offset      // 8 bytes: reference count
	CountZero    uint64      // bits of it that are 0 in every object that is alive
	Size         Offset      // 8 bytes, signed: ob_size, in objects that vary in size
	IntShift     uint8       // an int has as many digits as ob_size shifted by this; 0: as its absolute value
	FramesInline bool        // generators and frames vary in size, and have no ob_size
}

// TypeLayout is PyTypeObject, and PyHeapTypeObject for those with the flag.
type TypeLayout struct {
	BasicSize, ItemSize Offset // 8 bytes, signed
	Flags               Offset
	Base                Offset // pointer to the type whose layout this one extends
	Dict                Offset // pointer to a dict
	Qualname            Offset // pointer to str; heap types only
	CachedKeys          Offset // pointer to the keys that instances share; heap types only
	Size, HeapSize      uint32 // of the structures, bytes
}

// DictLayout is dict and its table of keys: indices, then entries.
type DictLayout struct {
	Keys, Values   Offset // pointers; Values is 0 unless keys are shared
	ValuesPrefixed bool   // the block of values begins up to 5 words before them
	KeysSize       Offset // 8 bytes: slots; their number tells the width of an index; to 3.10
	KeysLog2Index  Offset // 1 byte: log2 of the bytes of all indices; from 3.11
	KeysKind       Offset // 1 byte: 0 for entries {hash, key, value}, else {key, value}; from 3.11
	KeysUsed       Offset // 8 bytes: entries
	Indices        Offset
}

// OwnerLayout is where containers point to blocks of their own.
type OwnerLayout struct {
	ListItems Offset
	SetTable  Offset // of set and frozenset
	ByteArray Offset // to 3.14
}

// row is a layout and the releases for which it was found, from first to last. Releases between those compared are
// taken to be the same; generated rows end where a difference was seen.
type row[T any] struct {
	first, last Version
	layout      T
}

// pick finds the row for v: of those of its feature release the newest that is not newer than v.
func pick[T any](rows []row[T], v Version) (T, bool) {
	v.Level, v.Serial = Final, 0 // a release candidate has the layout of its release
	for _, r := range slices.Backward(rows) {
		if r.first.Compare(v) <= 0 && (v.Compare(r.last) <= 0 || v.sameMinor(r.last)) {
			return r.layout, true
		}
	}
	var none T
	return none, false
}

// compared reports whether layouts of exactly this release were compared with the table.
func compared(v Version) bool {
	return v.Level == Final && slices.ContainsFunc(comparedVersions, func(r row[struct{}]) bool {
		return r.first.Compare(v) <= 0 && v.Compare(r.last) <= 0
	})
}

// layoutFor assembles the table's layout for v. It is false for a feature release that the tables do not have.
func layoutFor(v Version) (Layout, bool) {
	var l Layout
	ok := true
	set(&l.Allocator, allocatorRows, v, &ok)
	set(&l.Interpreter, interpreterRows, v, &ok)
	set(&l.Thread, threadRows, v, &ok)
	set(&l.Frame, frameRows, v, &ok)
	set(&l.Code, codeRows, v, &ok)
	set(&l.Unicode, unicodeRows, v, &ok)
	set(&l.Bytes, bytesRows, v, &ok)
	set(&l.Object, objectRows, v, &ok)
	set(&l.Header, headerRows, v, &ok)
	set(&l.Type, typeRows, v, &ok)
	set(&l.Dict, dictRows, v, &ok)
	set(&l.Owner, ownerRows, v, &ok)
	set(&l.Lines, lineRows, v, &ok)
	set(&l.BlockAlign, blockAlignRows, v, &ok)
	set(&l.Runtime, runtimeRows, v, &ok)
	return l, ok
}

func set[T any](field *T, rows []row[T], v Version, ok *bool) {
	value, found := pick(rows, v)
	*field = value
	*ok = *ok && found
}
