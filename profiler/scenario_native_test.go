package profiler

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/internal/pytarget"
)

// nativeScenarios are those of memory that is not taken from CPython's allocators.
func nativeScenarios() []scenario {
	functions := []string{"malloc 8 x 100009-100016: every_function < native_functions", "malloc 1 x 409600: native_functions",
		"mmap 1 x 409600: native_functions"}
	python := []string{"raw 3 x 100000-100002: every_function", "mem 3 x 100003-100005: every_function",
		"obj 3 x 100006-100008: every_function"}
	list := []scenario{
		{name: "functions", after: "native_functions(); freed(malloc, len(FUNCTIONS))", want: functions},
		{name: "only malloc", after: "native_functions(); every_function(0, 9)", attach: AttachOptions{Domains: []Domain{Malloc}},
			want: append(functions[:2:2], "malloc 9 x 100000-100008: every_function")},
		{name: "only Python's", after: "native_functions(); every_function(0, 9)",
			attach: AttachOptions{Domains: []Domain{Raw, Mem, Obj}}, want: python},
		{name: "deep frames", after: "deep(300, leaf, 52428800, valloc)", want: []string{"malloc 1 x 52428800: leaf < deep*301"}},
		{name: "thread from before", before: "worker = Worker(30)", after: "worker.tell(lambda: leaf(400000, malloc))",
			want: []string{"malloc 1 x 400000: leaf < work < deep*31"}},
		{name: "without the GIL", before: "worker = Worker()", after: "worker.tell(lambda: deep(1, giving.allocate, mmap, 401408))",
			want: []string{"mmap 1 x 401408: deep*2 < work < deep*6"}},
		{name: "foreign threads", after: "foreign_threads(100, 100, posix_memalign)", want: []string{"malloc 10000 x 450001: "}},
		{name: "Python in a foreign thread", after: "giving.in_foreign_thread(lambda: leaf(410000, malloc))",
			want: []string{"malloc 1 x 410000: leaf"}},
		{name: "end of a foreign thread", after: "ending_thread(valloc)", want: []string{"malloc 2 x 420000: "}},
		{name: "end of a Python thread", after: "ending_python_thread(valloc)", want: []string{"malloc 2 x 420001: "}},
		{name: "pool of processes", before: "import multiprocessing.pool", after: "pool() == [n * n for n in range(20)]", says: "True",
			want: []string{"raw 1 x 600001: leaf < pool"}},
		{name: "forked child", after: "forked()", says: "7", want: []string{"raw 1 x 610001: leaf < forked"}},
		{name: "library loaded late", after: "loads(b'late.so'); loads(b'late.so')", want: []string{"malloc 2 x 460000: "}},
	}
	for _, allocator := range []string{"malloc", "malloc_debug", "pymalloc"} {
		list = append(list, scenario{name: "PYTHONMALLOC=" + allocator, after: "every_function(0, 9); native_functions(); freed(0, 19)",
			want: append(functions[:3:3], python...), target: pytarget.Options{Env: []string{"PYTHONMALLOC=" + allocator}}})
	}
	return list
}

func TestScenariosNative(t *testing.T) {
	t.Parallel()
	playScenarios(t, nativeScenarios())
}

// A vector's memory of before it grew is gone; what it has in the end is there, and gone with it.
func TestScenarioVector(t *testing.T) {
	t.Parallel()
	library := outside(t)
	vector := filepath.Join(t.TempDir(), "vector.so")
	build(t, "g++", vector, "vector.cc")
	for _, in := range staged(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := stage(t, in, library, pytarget.Options{})
			mustAttach(t, tg.Pid())
			tg.ExecFile(scenarioFile, "library = load("+quotePython(vector)+")\nvector = grown(library)")
			const capacity = 1 << 18 // which push_back doubles
			want := fmt.Sprintf("malloc 1 x %d: grown < <module>", capacity)
			s := largeSnapshot(t, tg.Pid())
			wantBlocks(t, blockLines(s, func(f heap.Frame) string { return f.Func }), want)
			s = mustDump(t, tg.Pid()).Snapshot
			var v heap.Values
			for _, r := range s.Records {
				if s.Text(r.Domain) == Malloc.String() && strings.HasPrefix(programStack(s.Callers(r.Stack), func(f heap.Frame) string {
					return f.Func
				}), "grown") {
					v.Add(r.Values())
				}
			}
			// 1, 2, 4 ... 2^18, and the vector itself.
			if v[heap.AllocBlocks] != 20 || v[heap.AllocBytes] != 2*capacity-1+24 || v[heap.InuseBlocks] != 2 {
				t.Errorf("the vector took %d blocks, %d bytes, and has %d blocks", v[heap.AllocBlocks], v[heap.AllocBytes], v[heap.InuseBlocks])
			}
			tg.Exec("dropped(library, vector)")
			wantBlocks(t, largeBlocks(t, tg.Pid()))
			mustDetach(t, tg.Pid())
		})
	}
}

// Pages that are given back in other pieces than they were taken in.
func TestScenarioMappings(t *testing.T) {
	t.Parallel()
	library := outside(t)
	for _, in := range staged(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := stage(t, in, library, pytarget.Options{})
			tg.Exec("assert not keeping.keep_pages()")
			for _, c := range []struct{ name, before, score string }{
				{"whole", "", "+AJ"},
				{"given back", "", "+AJ-AJ"},
				{"head", "", "+AJ-AC"},
				{"tail", "", "+AJ-HJ"},
				{"hole", "", "+AJ-DF"},
				{"holes", "", "+AJ-BB-DD-FF-HH"},
				{"in pages", "", "+AE-AA-CC-EE-BB-DD"},
				{"several at once", "", "+AC+DF+GI-BH"},
				{"several, all at once", "", "+AC+DF+GI-AI"},
				{"twice", "", "+AJ-CE-CE-BF"},
				{"with a gap between", "", "+AC+GI-AI"},
				{"mapped over", "", "+AJ+DF"},
				{"mapped over and given back", "", "+AJ+DF-AE"},
				{"split in the middle, then the rest", "", "+AJ-EF-AD-GJ"},
				{"again in the hole", "", "+AJ-DF+EE-AJ+BC"},
				{"from before", "+AJ", "-CE+LM"},
				{"over what is from before", "+AJ", "+CE-AD"},
			} {
				tg.Exec(fmt.Sprintf("assert not keeping.map_and_unmap(b%q)", c.before))
				mustAttach(t, tg.Pid())
				tg.ExecFile(scenarioFile, fmt.Sprintf("assert not keeping.map_and_unmap(b%q)", c.score))
				s := mustDump(t, tg.Pid()).Snapshot
				tg.Exec("assert not keeping.keep_pages()")
				got := 0
				for _, r := range s.Records {
					if s.Text(r.Domain) == Mmap.String() &&
						programStack(s.Callers(r.Stack), func(f heap.Frame) string { return f.Func }) == "<module>" {
						got += int(r.InuseBytes)
					}
				}
				if want := pagesLeft(c.score) * 4096; got != want {
					t.Errorf("%s: %d bytes are mapped, want %d", c.name, got, want)
				}
				mustDetach(t, tg.Pid())
			}
			tg.Challenge()
		})
	}
}

// pagesLeft are the pages that a score of map_and_unmap leaves of those that it maps.
func pagesLeft(score string) int {
	pages := map[byte]bool{}
	for ; score != ""; score = score[3:] {
		for p := score[1]; p <= score[2]; p++ {
			if score[0] == '+' {
				pages[p] = true
			} else {
				delete(pages, p)
			}
		}
	}
	return len(pages)
}

// build compiles a source of the scenarios to a shared library.
func build(t *testing.T, compiler, library, source string, flags ...string) {
	t.Helper()
	args := append([]string{"-shared", "-fPIC", "-O1", "-Wall", "-o", library, filepath.Join("testdata", "scenario", source)}, flags...)
	if out, err := exec.CommandContext(t.Context(), compiler, args...).CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", source, err, out)
	}
}

// buildLate puts late.so where only the run path of a library beside its folder leads.
func buildLate(t *testing.T, folder string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(folder, "later"), 0o755); err != nil {
		t.Fatal(err)
	}
	build(t, "gcc", filepath.Join(folder, "later", "late.so"), "late.c")
}
