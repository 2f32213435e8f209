package main

import (
	"fmt"
	"strings"
)

// source is one build being written. It keeps the first error.
type source struct {
	build   build
	structs map[string]structure
	err     error
}

func (s *source) minor() int { return s.build.first[1] }

// micro reports whether the build is of 3.minor.micro or later.
func (s *source) from(minor, micro int) bool {
	return s.build.first[1] > minor || s.build.first[1] == minor && s.build.first[2] >= micro
}

// find returns the first of several names that the structure has: fields were renamed over time.
func (s *source) find(structName string, names ...string) (field, bool) {
	for _, n := range names {
		if f, ok := s.structs[structName].Fields[n]; ok {
			return f, true
		}
	}
	return field{}, false
}

// opt writes a field as an element of a composite literal, or nothing if the build has no such field.
func (s *source) opt(goName, structName string, names ...string) string {
	f, ok := s.find(structName, names...)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s: at(%d), ", goName, f.Off)
}

// must is opt for a field that every build has.
func (s *source) must(goName, structName string, names ...string) string {
	text := s.opt(goName, structName, names...)
	if text == "" && s.err == nil {
		s.err = fmt.Errorf("build %s: %s has none of %v", s.build.key, structName, names)
	}
	return text
}

func (s *source) size(structName string) int {
	st, ok := s.structs[structName]
	if !ok && s.err == nil {
		s.err = fmt.Errorf("build %s: no %s", s.build.key, structName)
	}
	return st.Sizeof
}

func literal(typ string, parts ...string) string {
	return typ + "{" + strings.TrimSuffix(strings.Join(parts, ""), ", ") + "}"
}

func allocatorRow(s *source) string {
	const st = "PyMemAllocatorEx"
	return literal("AllocatorLayout", fmt.Sprintf("Size: %d, ", s.size(st)), s.must("Ctx", st, "ctx"),
		s.must("Malloc", st, "malloc"), s.must("Calloc", st, "calloc"), s.must("Realloc", st, "realloc"),
		s.must("Free", st, "free"))
}

func runtimeRow(s *source) string {
	const st = "_PyRuntimeState"
	if _, ok := s.structs[st]; !ok && s.minor() == 6 {
		return "RuntimeLayout{}"
	}
	return literal("RuntimeLayout", s.must("CoreInitialized", st, "core_initialized"),
		s.must("Initialized", st, "initialized"), s.must("Finalizing", st, "_finalizing", "finalizing"),
		s.must("Interpreters", st, "interpreters.head"), s.must("MainInterpreter", st, "interpreters.main"),
		s.opt("Raw", st, "allocators.standard.raw"), s.opt("Mem", st, "allocators.standard.mem"),
		s.opt("Obj", st, "allocators.standard.obj"))
}

func interpreterRow(s *source) string {
	const st = "PyInterpreterState"
	return literal("InterpreterLayout", s.must("Next", st, "next"), s.opt("ID", st, "id"),
		s.must("Threads", st, "threads.head", "tstate_head"))
}

// threadRow gives the frame directly, or by way of _PyCFrame: 3.10 has a _PyCFrame that does not hold it.
func threadRow(s *source) string {
	const st = "PyThreadState"
	frame := s.opt("Frame", st, "current_frame", "frame")
	if frame == "" {
		frame = s.must("CFrame", st, "cframe") + s.must("CFrameCurrent", "_PyCFrame", "current_frame")
	}
	return literal("ThreadLayout", s.must("Next", st, "next"), s.must("Interpreter", st, "interp"), frame,
		s.must("ThreadID", st, "thread_id"), s.opt("NativeID", st, "native_thread_id"), s.opt("ID", st, "id"))
}

// frameRow adds what no DWARF tells. Units of f_lasti: Objects/frameobject.c, 3.9 and 3.10. Owners:
// Include/internal/pycore_frame.h (3.11: 0–2 are Python frames; 3.12, 3.13: 3 is a C-stack shim; 3.14: 3 interpreter,
// 4 C stack; 3.15: 3 interpreter). Entries: _PyEval_EvalFrameDefault sets is_entry in 3.11 and has the shim as a local
// variable since (Python/ceval.c). Tag bits of f_executable: Py_TAG_BITS in Include/internal/pycore_stackref.h, 3.14.
func frameRow(s *source) string {
	if s.minor() <= 10 {
		const st = "PyFrameObject"
		kind := "InstrByteIndex"
		if s.minor() == 10 {
			kind = "InstrUnitIndex"
		}
		return literal("FrameLayout", s.must("Previous", st, "f_back"), s.must("Code", st, "f_code"),
			s.must("Instr", st, "f_lasti"), "InstrSize: 4, InstrKind: ", kind, ", Entry: EntryEach")
	}
	const st = "_PyInterpreterFrame"
	mask := ""
	if s.minor() >= 14 {
		mask = "CodeMask: 3, "
	}
	entry := "Entry: EntryShim"
	if s.minor() == 11 {
		entry = s.must("EntryFlag", st, "is_entry") + "Entry: EntryFlag"
	}
	return literal("FrameLayout", s.must("Previous", st, "previous"), s.must("Code", st, "f_executable", "f_code"), mask,
		s.must("Instr", st, "instr_ptr", "prev_instr"), "InstrSize: 8, InstrKind: InstrPointer, ",
		s.must("Owner", st, "owner"), "OwnerSkip: 3, OwnerGen: 1, ", entry)
}

func codeRow(s *source) string {
	const st = "PyCodeObject"
	return literal("CodeLayout", s.must("Filename", st, "co_filename"), s.must("Name", st, "co_name"),
		s.opt("Qualname", st, "co_qualname"), s.must("FirstLine", st, "co_firstlineno"),
		s.must("LineTable", st, "co_linetable", "co_lnotab"), s.opt("FirstTraceable", st, "_co_firsttraceable"),
		s.opt("Adaptive", st, "co_code_adaptive"))
}

// unicodeRow: the text of a compact string follows its header, so the headers' sizes say where.
func unicodeRow(s *source) string {
	const st = "PyASCIIObject"
	state, _ := s.find(st, "state")
	bit := func(name string) field {
		f, ok := s.find(st, name)
		if (!ok || f.Bits == 0) && s.err == nil {
			s.err = fmt.Errorf("build %s: %s.%s is no bit field", s.build.key, st, name)
		}
		f.Bit -= 8 * state.Off
		return f
	}
	kind := bit("state.kind")
	return literal("UnicodeLayout", s.must("Length", st, "length"), s.must("State", st, "state"),
		fmt.Sprintf("KindShift: %d, KindBits: %d, CompactBit: %d, ASCIIBit: %d, ASCIIData: at(%d), CompactData: at(%d), ",
			kind.Bit, kind.Bits, bit("state.compact").Bit, bit("state.ascii").Bit, s.size(st),
			s.size("PyCompactUnicodeObject")),
		s.must("PointerData", "PyUnicodeObject", "data"), s.must("UTF8", "PyCompactUnicodeObject", "utf8"),
		fmt.Sprintf("Size: %d", s.size("PyUnicodeObject")))
}

func bytesRow(s *source) string {
	return literal("BytesLayout", s.must("Size", "PyVarObject", "ob_size"), s.must("Data", "PyBytesObject", "ob_sval"))
}

func objectRow(s *source) string {
	return literal("ObjectLayout", s.must("Type", "PyObject", "ob_type"), s.must("TypeName", "PyTypeObject", "tp_name"))
}

// headerRow adds what no DWARF tells. Pre-headers: _PyType_PreHeaderSize, and which words of them hold what,
// Include/internal/pycore_object.h (3.11: values and dict; 3.12: one word for both, tagged; 3.13: no values there).
// Flags: Include/object.h. An int's size: lv_tag>>3 from 3.12 on (Include/internal/pycore_long.h), else |ob_size|.
// Refcounts: no count comes near 2^32, and 3.14 has the overflow of a free-threaded neighbour and flags above it, of
// which the low byte is in use (Include/refcount.h). Heads: {next, prev, refs}, aligned as the build's widest type is,
// to 3.7; then two words (Include/internal/pycore_gc.h).
func headerRow(s *source) string {
	const managedWeakref, managedDict = 1 << 3, 1 << 4
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	words := 2
	if _, ok := s.find("PyGC_Head", "gc.gc_refs"); ok {
		words = 3
	}
	add("HeadWords: %d, ", words)
	switch {
	case s.minor() == 11:
		add("PreFlags: %#x, Values: ValuesWord, ", managedDict)
	case s.minor() == 12:
		add("PreFlags: %#x, Values: ValuesTagged, ", managedDict|managedWeakref)
	case s.minor() >= 13:
		add("PreFlags: %#x, InlineFlag: 0x4, ", managedDict|managedWeakref)
	}
	countZero := uint64(0xffffffff00000000)
	if _, ok := s.find("PyObject", "ob_overflow"); ok {
		countZero = 0xff00ffff00000000
	}
	add("CountZero: %#x, ", countZero)
	parts = append(parts, s.must("Count", "PyObject", "ob_refcnt"), s.must("Size", "PyVarObject", "ob_size"))
	if _, ok := s.find("PyLongObject", "long_value.lv_tag"); ok {
		add("IntShift: 3, ")
	}
	if s.minor() >= 11 { // PyFrameObject and PyGenObject end in the frame itself, and have no ob_size
		add("FramesInline: true, ")
	}
	return literal("HeaderLayout", parts...)
}

func typeRow(s *source) string {
	const st, heap = "PyTypeObject", "PyHeapTypeObject"
	return literal("TypeLayout", s.must("BasicSize", st, "tp_basicsize"), s.must("ItemSize", st, "tp_itemsize"),
		s.must("Flags", st, "tp_flags"), s.must("Base", st, "tp_base"), s.must("Dict", st, "tp_dict"),
		s.must("Qualname", heap, "ht_qualname"), s.must("CachedKeys", heap, "ht_cached_keys"),
		fmt.Sprintf("Size: %d, HeapSize: %d, ", s.size(st), s.size(heap)))
}

// dictRow adds what no DWARF tells: widths of indices and entries (Objects/dict-common.h, and
// Include/internal/pycore_dict.h from 3.11 on, where tables of str keys have entries without a hash), and that to 3.12
// an array of values has bytes in front of it (new_values in Objects/dictobject.c).
func dictRow(s *source) string {
	const st, keys = "PyDictObject", "PyDictKeysObject"
	prefix := ""
	if _, ok := s.find("PyDictValues", "embedded"); !ok && s.minor() >= 11 {
		prefix = "ValuesPrefixed: true, "
	}
	return literal("DictLayout", s.must("Keys", st, "ma_keys"), s.must("Values", st, "ma_values"), prefix,
		s.opt("KeysSize", keys, "dk_size"), s.opt("KeysLog2Index", keys, "dk_log2_index_bytes"),
		s.opt("KeysKind", keys, "dk_kind"), s.must("KeysUsed", keys, "dk_nentries"), s.must("Indices", keys, "dk_indices"))
}

// ownerRow: from 3.15 on a bytearray's bytes are in a bytes object.
func ownerRow(s *source) string {
	bytes := ""
	if _, ok := s.find("PyByteArrayObject", "ob_bytes_object"); !ok {
		bytes = s.must("ByteArray", "PyByteArrayObject", "ob_bytes")
	}
	return literal("OwnerLayout", s.must("ListItems", "PyListObject", "ob_item"), s.must("SetTable", "PySetObject", "table"),
		bytes)
}

func lineRow(s *source) string {
	switch {
	case s.minor() <= 9:
		return "LinesSigned"
	case s.minor() == 10:
		return "LinesRanges"
	}
	return "LinesLocation"
}

// blockAlignRow is upstream's; builds that patched it (pyenv's 3.6.15) are found by looking at PyObject_Malloc's code.
func blockAlignRow(s *source) string {
	if s.from(7, 4) {
		return "16"
	}
	return "8"
}
