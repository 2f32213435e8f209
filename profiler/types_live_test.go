package profiler

import (
	_ "embed"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/internal/pytarget"
)

//go:embed testdata/types/churn.py
var churnSource string

// madeBy is which types the blocks may have that functions of the program allocate, themselves.
var madeBy = map[string][]string{
	"make_float":       {"float"},
	"make_int":         {"int"},
	"make_list":        {"list", "list (items)", "int"},
	"make_tuple":       {"tuple", "int"},
	"make_moved_tuple": {"tuple", "map", "slice", "int", "list", "list (items)"},
	"make_dict":        {"dict", "dict (keys)"},
	"make_set":         {"set"},
	"make_bytes":       {"bytes", "int"},
	"make_str":         {"str", "int"},
	"make_bytearray":   {"bytearray", "bytearray (buffer)", "bytes", "int"},
	"make_slotted":     {"__main__.B"},
	"make_instance":    {"__main__.A", "dict", "tuple"},
	"make_first":       {"__main__.First"},
	"make_second":      {"__main__.Second"},
}

// TestTypesOfRunning: types are right, or not known, where the target allocates in the same memory all the time, and
// makes and drops classes.
func TestTypesOfRunning(t *testing.T) {
	for _, in := range pytarget.Interpreters(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, churnSource, pytarget.Options{})
			if _, err := Attach(t.Context(), tg.Pid(), AttachOptions{}); err != nil {
				t.Fatal(err)
			}
			known := map[bool]int{} // with no pause or with one
			for i := range 6 {
				tg.Challenge()
				o := DumpOptions{NoPause: i%2 == 0}
				d, err := TakeDump(t.Context(), tg.Pid(), o)
				if err != nil {
					t.Fatal(err)
				}
				known[o.NoPause] += checkMadeBy(t, d.Snapshot, o)
			}
			if known[false] == 0 || known[true] == 0 {
				t.Errorf("of no block the type is known: %v", known)
			}
		})
	}
}

// checkMadeBy returns of how many blocks the type is known. None may be a type that is not made there.
func checkMadeBy(t *testing.T, s *heap.Snapshot, o DumpOptions) (known int) {
	t.Helper()
	unknown := map[string]int{}
	for _, r := range s.Records {
		frames := s.Callers(r.Stack)
		if r.InuseBlocks == 0 || len(frames) == 0 {
			continue
		}
		types, ok := madeBy[frames[0].Func]
		types = append(types[:len(types):len(types)], "tuple", "list_iterator", "int") // made for calls and by the collector (remove_subclass)
		if !ok {
			continue
		}
		switch name := s.Text(r.Type); {
		case name == "":
			unknown[frames[0].Func] += int(r.InuseBlocks)
		case !slices.Contains(types, name) && !strings.HasSuffix(name, "(values)") && !strings.HasSuffix(name, "(shared keys)"):
			t.Errorf("%+v: %d blocks of %s allocated by %s", o, r.InuseBlocks, name, frames[0].Func)
		default:
			known += int(r.InuseBlocks)
		}
	}
	// How many are not known depends on how busy this machine is, and on what is in free lists.
	t.Logf("%+v: %d known, not %v", o, known, unknown)
	return known
}

// TestTypesUnreadable: a dump whose types cannot be read is one without types that says so.
func TestTypesUnreadable(t *testing.T) {
	tg := pytarget.Start(t, pytarget.Interpreters(t)[0], "", pytarget.Options{})
	if _, err := Attach(t.Context(), tg.Pid(), AttachOptions{}); err != nil {
		t.Fatal(err)
	}
	tg.Exec("kept = [[k] for k in range(1000)]")
	us, err := open(tg.Pid())
	if err != nil {
		t.Fatal(err)
	}
	defer us.close()
	none := &typeSource{err: os.ErrPermission}
	labels := none.resolve(us, nil, 0)
	if len(labels.notes) != 1 || !strings.Contains(labels.notes[0], "permission denied") {
		t.Errorf("notes %q", labels.notes)
	}
	if at := labels.lookup()(12345); labels.names[at] != "" {
		t.Errorf("label %q", labels.names[at])
	}
}

// TestFilterAtDump: what a filter lets pass is judged block by block, by exact sizes and by types, and the rest is gone.
func TestFilterAtDump(t *testing.T) {
	interpreters := pytarget.Interpreters(t)
	tg := pytarget.Start(t, interpreters[len(interpreters)-1], "", pytarget.Options{})
	if _, err := Attach(t.Context(), tg.Pid(), AttachOptions{}); err != nil {
		t.Fatal(err)
	}
	tg.Exec("def make():\n    return [[bytes(k) for k in range(100)], [bytearray(50) for k in range(10)]]\nkept = make()")
	all := dumpWith(t, tg.Pid(), heap.FilterSpec{})
	some := dumpWith(t, tg.Pid(), heap.FilterSpec{Type: []string{"bytes"}, Func: []string{"*make*"}, MinSize: []string{"100"}})
	counts := map[string]int64{}
	for _, r := range some.Snapshot.Records {
		counts[some.Snapshot.Text(r.Type)] += r.InuseBlocks
		if r.InuseBlocks > 0 && r.MinSize < 100 {
			t.Errorf("a block of %d bytes passed", r.MinSize)
		}
	}
	want := int64(100 - (100 - 33)) // of 33 + k bytes each
	if got := counts["bytes"]; got < want-1 || got > want || len(counts) > 2 || some.Blocks < 100 {
		t.Errorf("%v of %d blocks, want %d of bytes", slices.Sorted(maps.Keys(counts)), some.Blocks, want)
	}
	if all.Snapshot.Total()[heap.InuseBlocks] <= counts["bytes"] {
		t.Errorf("all are %v", all.Snapshot.Total())
	}
}

func dumpWith(t *testing.T, pid int, spec heap.FilterSpec) *Dump {
	t.Helper()
	filter, err := heap.ParseFilter(spec)
	if err != nil {
		t.Fatal(err)
	}
	d, err := TakeDump(t.Context(), pid, DumpOptions{Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	return d
}
