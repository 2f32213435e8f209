// Genlayouts writes cpython/layouts_gen.go from offsets.json, which holds what compilers said about CPython's
// structures (DWARF of reference builds, and of probes compiled against each release's headers).
//
//	go run ./cpython/internal/genlayouts                    rewrite layouts_gen.go
//	go run ./cpython/internal/genlayouts -reduce FULL.json  first take over what is needed from the full collection
//
// It refuses to write when two builds of one range (a vendor's and upstream's) disagree on anything heaptap uses.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/format"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// build is one build whose structures were looked at, and the releases it stands for.
type build struct {
	key         string // in offsets.json
	first, last [3]int
	vendor      bool // another build of the same releases: must agree with the one before, gives no row
}

// builds are in order of release. Ranges are those of applies_to in the collection.
var builds = []build{
	{"3.6.15", [3]int{3, 6, 0}, [3]int{3, 6, 15}, false},
	{"3.6.15-pyenv", [3]int{3, 6, 15}, [3]int{3, 6, 15}, true},
	{"3.7.3", [3]int{3, 7, 0}, [3]int{3, 7, 3}, false},
	{"3.7.16", [3]int{3, 7, 4}, [3]int{3, 7, 17}, false},
	{"3.8.18", [3]int{3, 8, 0}, [3]int{3, 8, 20}, false},
	{"3.9.18", [3]int{3, 9, 0}, [3]int{3, 9, 20}, false},
	{"3.10.13", [3]int{3, 10, 0}, [3]int{3, 10, 15}, false},
	{"3.11.7", [3]int{3, 11, 0}, [3]int{3, 11, 10}, false},
	{"3.12.0", [3]int{3, 12, 0}, [3]int{3, 12, 0}, false},
	{"3.12.1", [3]int{3, 12, 1}, [3]int{3, 12, 3}, false},
	{"3.12.6", [3]int{3, 12, 4}, [3]int{3, 12, 6}, false},
	{"3.13.0", [3]int{3, 13, 0}, [3]int{3, 13, 0}, false},
	{"3.13.5", [3]int{3, 13, 5}, [3]int{3, 13, 5}, false},
	{"3.13.5-debian", [3]int{3, 13, 5}, [3]int{3, 13, 5}, true},
	{"3.13.15", [3]int{3, 13, 15}, [3]int{3, 13, 18}, false},
	{"3.13.18-debian", [3]int{3, 13, 15}, [3]int{3, 13, 18}, true},
	{"3.14.8", [3]int{3, 14, 8}, [3]int{3, 14, 8}, false},
	{"3.14.10", [3]int{3, 14, 10}, [3]int{3, 14, 10}, false},
	{"3.15.0", [3]int{3, 15, 0}, [3]int{3, 15, 0}, false},
	{"3.15.2", [3]int{3, 15, 2}, [3]int{3, 15, 2}, false},
}

// baseline is the release from which on a feature release's first row holds, where its .0 itself was not compared.
var baseline = map[string][3]int{"3.14.8": {3, 14, 0}}

func main() {
	full := flag.String("reduce", "", "the full collection, from which offsets.json is made again")
	dir := flag.String("dir", "cpython", "folder of package cpython")
	flag.Parse()
	if err := run(*dir, *full); err != nil {
		fmt.Fprintln(os.Stderr, "genlayouts:", err)
		os.Exit(1)
	}
}

func run(dir, full string) error {
	if full != "" {
		if err := reduce(full, input(dir)); err != nil {
			return err
		}
	}
	c, err := load(input(dir))
	if err != nil {
		return err
	}
	src, err := generate(c)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "layouts_gen.go"), src, 0o644)
}

func input(dir string) string { return filepath.Join(dir, "internal", "genlayouts", "offsets.json") }

func load(path string) (*collection, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var c collection
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &c, nil
}

// collection is offsets.json: for each build its structures, and for each feature release the names of the 8-byte
// fields of _Py_DebugOffsets in order.
type collection struct {
	Versions     map[string]map[string]structure `json:"versions"`
	DebugOffsets map[string][]string             `json:"debug_offsets"`
}

type structure struct {
	Sizeof int              `json:"sizeof"`
	Fields map[string]field `json:"fields"`
}

// field is an offset in bytes or, for a bit field, a bit position from the structure's start.
type field struct {
	Off  int
	Bit  int
	Bits int
}

type bitField struct {
	Off  int `json:"off"`
	Bit  int `json:"bitpos_from_struct"`
	Bits int `json:"bits"`
}

func (f *field) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		var bf bitField
		err := json.Unmarshal(b, &bf)
		*f = field{Off: bf.Off, Bit: bf.Bit, Bits: bf.Bits}
		return err
	}
	return json.Unmarshal(b, &f.Off)
}

func (f field) MarshalJSON() ([]byte, error) {
	if f.Bits != 0 {
		return json.Marshal(bitField(f))
	}
	return json.Marshal(f.Off)
}

// needed are the fields that heaptap uses.
var needed = map[string][]string{
	"PyMemAllocatorEx": {"ctx", "malloc", "calloc", "realloc", "free"},
	"_PyRuntimeState": {"core_initialized", "initialized", "finalizing", "_finalizing", "interpreters.head",
		"interpreters.main", "allocators.standard.raw", "allocators.standard.mem", "allocators.standard.obj"},
	"PyInterpreterState": {"next", "id", "tstate_head", "threads.head"},
	"PyThreadState": {"next", "interp", "frame", "cframe", "current_frame", "thread_id", "native_thread_id",
		"id"},
	"_PyCFrame":           {"current_frame"},
	"PyFrameObject":       {"f_back", "f_code", "f_lasti"},
	"_PyInterpreterFrame": {"previous", "f_code", "f_executable", "prev_instr", "instr_ptr", "owner", "is_entry"},
	"PyCodeObject": {"co_filename", "co_name", "co_qualname", "co_firstlineno", "co_lnotab", "co_linetable",
		"_co_firsttraceable", "co_code_adaptive"},
	"PyASCIIObject":          {"length", "state", "state.kind", "state.compact", "state.ascii"},
	"PyCompactUnicodeObject": {"utf8"},
	"PyUnicodeObject":        {"data"},
	"PyBytesObject":          {"ob_sval"},
	"PyObject":               {"ob_refcnt", "ob_type", "ob_overflow"},
	"PyVarObject":            {"ob_size"},
	"PyTypeObject":           {"tp_name", "tp_basicsize", "tp_itemsize", "tp_flags", "tp_base", "tp_dict"},
	"PyHeapTypeObject":       {"ht_qualname", "ht_cached_keys"},
	"PyGC_Head":              {"gc.gc_refs"},
	"PyLongObject":           {"long_value.lv_tag"},
	"PyDictObject":           {"ma_keys", "ma_values"},
	"PyDictKeysObject":       {"dk_size", "dk_log2_size", "dk_log2_index_bytes", "dk_kind", "dk_nentries", "dk_indices"},
	"PyDictValues":           {"embedded"},
	"PyListObject":           {"ob_item"},
	"PySetObject":            {"table", "smalltable"},
	"PyByteArrayObject":      {"ob_bytes", "ob_bytes_object"},
}

// debugBuilds give the order of _Py_DebugOffsets for each feature release.
var debugBuilds = map[string]string{"3.13": "pyenv-3.13.0", "3.14": "deb-3.14.10-exe", "3.15": "deb-3.15.2-exe"}

func reduce(full, out string) error {
	b, err := os.ReadFile(full)
	if err != nil {
		return err
	}
	var all struct {
		Versions map[string]struct {
			Structs map[string]struct {
				Sizeof int                        `json:"sizeof"`
				Fields map[string]json.RawMessage `json:"fields"`
			} `json:"structs"`
		} `json:"versions"`
		Debug map[string]struct {
			Values json.RawMessage `json:"values"`
		} `json:"debug_offsets_values"`
	}
	if err := json.Unmarshal(b, &all); err != nil {
		return fmt.Errorf("%s: %w", full, err)
	}
	c := collection{Versions: map[string]map[string]structure{}, DebugOffsets: map[string][]string{}}
	for _, bd := range builds {
		v, ok := all.Versions[bd.key]
		if !ok {
			return fmt.Errorf("%s has no build %s", full, bd.key)
		}
		c.Versions[bd.key] = map[string]structure{}
		for name, fields := range needed {
			s, ok := v.Structs[name]
			if !ok {
				continue
			}
			st := structure{Sizeof: s.Sizeof, Fields: map[string]field{}}
			for _, fn := range fields {
				raw, ok := s.Fields[fn]
				if !ok {
					continue
				}
				var f field
				if err := json.Unmarshal(raw, &f); err != nil {
					return fmt.Errorf("%s %s.%s: %w", bd.key, name, fn, err)
				}
				st.Fields[fn] = f
			}
			c.Versions[bd.key][name] = st
		}
	}
	for minor, key := range debugBuilds {
		names, err := orderedKeys(all.Debug[key].Values)
		if err != nil {
			return fmt.Errorf("debug offsets of %s: %w", key, err)
		}
		c.DebugOffsets[minor] = names
	}
	j, err := json.MarshalIndent(c, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(j, '\n'), 0o644)
}

// orderedKeys lists an object's keys in the order in which they are written.
func orderedKeys(b []byte) ([]string, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	var names []string
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		names = append(names, t.(string))
		var skip json.RawMessage
		if err := dec.Decode(&skip); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// table is one generated table: the Go type of its rows and how a build's row is written.
type table struct {
	name, typ, doc string
	row            func(*source) string
}

var tables = []table{
	{"allocatorRows", "AllocatorLayout", "PyMemAllocatorEx", allocatorRow},
	{"runtimeRows", "RuntimeLayout", "_PyRuntimeState; 3.6 has none", runtimeRow},
	{"interpreterRows", "InterpreterLayout", "PyInterpreterState", interpreterRow},
	{"threadRows", "ThreadLayout", "PyThreadState and _PyCFrame", threadRow},
	{"frameRows", "FrameLayout", "PyFrameObject to 3.10, _PyInterpreterFrame from 3.11", frameRow},
	{"codeRows", "CodeLayout", "PyCodeObject", codeRow},
	{"unicodeRows", "UnicodeLayout", "PyASCIIObject, PyCompactUnicodeObject, PyUnicodeObject", unicodeRow},
	{"bytesRows", "BytesLayout", "PyBytesObject", bytesRow},
	{"objectRows", "ObjectLayout", "PyObject and PyTypeObject", objectRow},
	{"headerRows", "HeaderLayout", "what stands before and at the start of an object", headerRow},
	{"typeRows", "TypeLayout", "PyTypeObject and PyHeapTypeObject", typeRow},
	{"dictRows", "DictLayout", "PyDictObject, PyDictKeysObject, _dictvalues", dictRow},
	{"ownerRows", "OwnerLayout", "pointers to buffers in list, set, bytearray", ownerRow},
	{"lineRows", "LineFormat", "co_lnotab or co_linetable (Objects/lnotab_notes.txt, Objects/locations.md)", lineRow},
	{"blockAlignRows", "uint32", "ALIGNMENT in Objects/obmalloc.c", blockAlignRow},
}

func generate(c *collection) ([]byte, error) {
	var out bytes.Buffer
	out.WriteString("// Code generated by cpython/internal/genlayouts from offsets.json; DO NOT EDIT.\n\n")
	out.WriteString("package cpython\n")
	if err := writeCompared(&out); err != nil {
		return nil, err
	}
	for _, t := range tables {
		rows, err := t.rows(c)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "\n// %s: %s.\nvar %s = []row[%s]{\n%s}\n", t.name, t.doc, t.name, t.typ, strings.Join(rows, ""))
	}
	if err := writeDebug(&out, c); err != nil {
		return nil, err
	}
	return format.Source(out.Bytes())
}

// writeCompared writes the ranges of releases that were looked at.
func writeCompared(out *bytes.Buffer) error {
	fmt.Fprint(out, "\n// comparedVersions are the releases whose own headers or DWARF were compared with these tables.\n"+
		"var comparedVersions = []row[struct{}]{\n")
	for _, b := range builds {
		if !b.vendor {
			fmt.Fprintf(out, "{first: %s, last: %s},\n", version(b.first), version(b.last))
		}
	}
	fmt.Fprint(out, "}\n")
	return nil
}

// rows writes one table: builds that follow each other and agree share a row.
func (t table) rows(c *collection) ([]string, error) {
	type span struct {
		first, last [3]int
		text        string
	}
	var spans []span
	for _, b := range builds {
		s := &source{build: b, structs: c.Versions[b.key]}
		text := t.row(s)
		if s.err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, s.err)
		}
		first := b.first
		if f, ok := baseline[b.key]; ok {
			first = f
		}
		prev := len(spans) - 1
		switch {
		case b.vendor && spans[prev].text != text:
			return nil, fmt.Errorf("%s: build %s differs from its release:\n%s\n%s", t.name, b.key, text,
				spans[prev].text)
		case prev >= 0 && spans[prev].text == text:
			spans[prev].last = b.last
		default:
			spans = append(spans, span{first, b.last, text})
		}
	}
	var out []string
	for _, s := range spans {
		out = append(out, fmt.Sprintf("{\nfirst: %s, last: %s,\nlayout: %s,\n},\n", version(s.first), version(s.last),
			wrap(s.text)))
	}
	return out, nil
}

func version(v [3]int) string {
	return fmt.Sprintf("release(%d, %d, %d)", v[0], v[1], v[2])
}

// wrap breaks a composite literal between its elements so that lines stay short.
func wrap(s string) string {
	var out strings.Builder
	width := 0
	for part := range strings.SplitAfterSeq(s, ", ") {
		if width+len(part) > 100 {
			out.WriteByte('\n')
			width = 0
		}
		out.WriteString(part)
		width += len(part)
	}
	return out.String()
}

// debugFields are the fields of _Py_DebugOffsets that are laid over a layout: field of Layout, field of the
// structure, and where the size of the structure is told. Fields are pointers or 8-byte integers but for those in
// debugWidths.
var debugFields = [][3]string{
	{"Runtime.Finalizing", "runtime_state.finalizing", "runtime_state.size"},
	{"Runtime.Interpreters", "runtime_state.interpreters_head", "runtime_state.size"},
	{"Interpreter.Next", "interpreter_state.next", "interpreter_state.size"},
	{"Interpreter.ID", "interpreter_state.id", "interpreter_state.size"},
	{"Interpreter.Threads", "interpreter_state.threads_head", "interpreter_state.size"},
	{"Thread.Next", "thread_state.next", "thread_state.size"},
	{"Thread.Interpreter", "thread_state.interp", "thread_state.size"},
	{"Thread.Frame", "thread_state.current_frame", "thread_state.size"},
	{"Thread.ThreadID", "thread_state.thread_id", "thread_state.size"},
	{"Thread.NativeID", "thread_state.native_thread_id", "thread_state.size"},
	{"Frame.Previous", "interpreter_frame.previous", "interpreter_frame.size"},
	{"Frame.Code", "interpreter_frame.executable", "interpreter_frame.size"},
	{"Frame.Instr", "interpreter_frame.instr_ptr", "interpreter_frame.size"},
	{"Frame.Owner", "interpreter_frame.owner", "interpreter_frame.size"},
	{"Code.Filename", "code_object.filename", "code_object.size"},
	{"Code.Name", "code_object.name", "code_object.size"},
	{"Code.Qualname", "code_object.qualname", "code_object.size"},
	{"Code.FirstLine", "code_object.firstlineno", "code_object.size"},
	{"Code.LineTable", "code_object.linetable", "code_object.size"},
	{"Code.Adaptive", "code_object.co_code_adaptive", "code_object.size"},
	{"Object.Type", "pyobject.ob_type", "pyobject.size"},
	{"Object.TypeName", "type_object.tp_name", "type_object.size"},
	{"Type.Flags", "type_object.tp_flags", "type_object.size"},
	{"Owner.ListItems", "list_object.ob_item", "list_object.size"},
	{"Dict.Keys", "dict_object.ma_keys", "dict_object.size"},
	{"Dict.Values", "dict_object.ma_values", "dict_object.size"},
	{"Bytes.Size", "bytes_object.ob_size", "bytes_object.size"},
	{"Bytes.Data", "bytes_object.ob_sval", "bytes_object.size"},
	{"Unicode.Length", "unicode_object.length", "unicode_object.size"},
	{"Unicode.State", "unicode_object.state", "unicode_object.size"},
	{"Unicode.ASCIIData", "unicode_object.asciiobject_size", "unicode_object.size"},
}

// debugWidths are the widths of other fields, bytes; 0 for a structure's size, behind which text begins.
var debugWidths = map[string]int{"interpreter_frame.owner": 1, "code_object.firstlineno": 4, "unicode_object.state": 4,
	"bytes_object.ob_sval": 1, "unicode_object.asciiobject_size": 0}

func writeDebug(out *bytes.Buffer, c *collection) error {
	fmt.Fprint(out, "\n// debugOffsetRows: _Py_DebugOffsets, as positions of its 8-byte fields.\n"+
		"var debugOffsetRows = []row[debugOffsets]{\n")
	for _, minor := range []int{13, 14, 15} {
		names := c.DebugOffsets[fmt.Sprintf("3.%d", minor)]
		var last [3]int
		for _, b := range builds {
			if b.first[1] == minor {
				last = b.last
			}
		}
		fmt.Fprintf(out, "{first: %s, last: %s, layout: debugOffsets{words: %d, fields: []debugField{\n",
			version([3]int{3, minor, 0}), version(last), len(names))
		for _, f := range debugFields {
			word, size := slices.Index(names, f[1]), slices.Index(names, f[2])
			if word < 0 || size < 0 {
				return fmt.Errorf("_Py_DebugOffsets of 3.%d has no %s", minor, f[1])
			}
			width, odd := debugWidths[f[1]]
			if !odd {
				width = 8
			}
			fmt.Fprintf(out, "{%q, %d, %d, %d, func(l *Layout) *Offset { return &l.%s }},\n", f[1], width, word, size, f[0])
		}
		fmt.Fprint(out, "}}},\n")
	}
	fmt.Fprint(out, "}\n")
	return nil
}
