package profiler

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/internal/pytarget"
)

// The scenarios are what a memory profiler is known to get wrong; most are also those of memray's integration tests
// (tracking, extensions, threads, tracing, greenlets, processes, high-water mark), here with an attach to a process that
// is already running, in its place. What each program has allocated is known from its source, to the byte.

// scenarioFile is the file that the programs are in, as their frames have it.
const scenarioFile = "/srv/programs.py"

// staged are the interpreters that scenarios are played in: three whose frames and threads differ most.
func staged(t *testing.T) []pytarget.Interpreter {
	t.Helper()
	var list []pytarget.Interpreter
	for _, in := range chosen(t) {
		if in.Root == "" && slices.Contains([]int{8, 11, 13}, in.Minor()) {
			list = append(list, in)
		}
	}
	if len(list) == 0 {
		t.Skip("no interpreter of those that scenarios are played in (3.8, 3.11, 3.13)")
	}
	return list
}

// outside builds the C side of the programs.
func outside(t *testing.T) string {
	t.Helper()
	library := filepath.Join(t.TempDir(), "outside.so")
	source := filepath.Join("testdata", "scenario", "outside.c")
	out, err := exec.CommandContext(t.Context(), "gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, source).CombinedOutput()
	if err != nil {
		t.Fatalf("build %s: %v\n%s", source, err, out)
	}
	return library
}

// stage starts a target that has the programs.
func stage(t *testing.T, in pytarget.Interpreter, library string, o pytarget.Options) *pytarget.Target {
	t.Helper()
	source, err := os.ReadFile(filepath.Join("testdata", "scenario", "programs.py"))
	if err != nil {
		t.Fatal(err)
	}
	tg := pytarget.Start(t, in, "", o)
	tg.Exec("LIBRARY = " + quotePython(library))
	tg.ExecFile(scenarioFile, string(source))
	return tg
}

// leastLarge is what the programs' blocks have at least. The largest of the interpreter's own is the harness' buffer of
// 64 KiB.
const leastLarge = "100000"

// largeBlocks dumps the live blocks of the programs, one line for each domain and stack:
//
//	raw 2 x 400000-400001: leaf < told < work
//
// Frames are those of the programs, innermost first; equal ones beside each other are written once, with their number.
func largeBlocks(t *testing.T, pid int) []string {
	t.Helper()
	return blockLines(largeSnapshot(t, pid), func(f heap.Frame) string { return f.Func })
}

func largeSnapshot(t *testing.T, pid int) *heap.Snapshot {
	t.Helper()
	filter, err := heap.ParseFilter(heap.FilterSpec{MinSize: []string{leastLarge}})
	if err != nil {
		t.Fatal(err)
	}
	d, err := TakeDump(t.Context(), pid, DumpOptions{Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	return d.Snapshot
}

func blockLines(s *heap.Snapshot, name func(heap.Frame) string) []string {
	type key struct{ domain, stack string }
	sums := map[key]heap.Record{}
	for _, r := range s.Records {
		if r.InuseBlocks == 0 {
			continue
		}
		k := key{s.Text(r.Domain), programStack(s.Callers(r.Stack), name)}
		if old, ok := sums[k]; ok {
			r.InuseBlocks += old.InuseBlocks
			r.MinSize, r.MaxSize = min(r.MinSize, old.MinSize), max(r.MaxSize, old.MaxSize)
		}
		sums[k] = r
	}
	var lines []string
	for k, r := range sums {
		size := fmt.Sprint(r.MinSize)
		if r.MinSize != r.MaxSize {
			size += fmt.Sprintf("-%d", r.MaxSize)
		}
		lines = append(lines, fmt.Sprintf("%s %d x %s: %s", k.domain, r.InuseBlocks, size, k.stack))
	}
	slices.Sort(lines)
	return lines
}

// programStack is the stack's frames that are in the programs.
func programStack(frames []heap.Frame, name func(heap.Frame) string) string {
	var names []string
	repeats := 1
	for _, f := range frames {
		if f.File != scenarioFile {
			continue
		}
		n := name(f)
		if i := strings.LastIndexByte(n, '.'); i >= 0 {
			n = n[i+1:] // 3.11 and later know qualified names
		}
		last := len(names) - 1
		if last >= 0 && n == strings.TrimSuffix(names[last], fmt.Sprintf("*%d", repeats)) {
			repeats++
			names[last] = fmt.Sprintf("%s*%d", n, repeats)
			continue
		}
		names, repeats = append(names, n), 1
	}
	return strings.Join(names, " < ")
}

// wantBlocks compares lines, of which those that are wanted are in any order.
func wantBlocks(t *testing.T, got []string, want ...string) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("live blocks (-want +got):\n%s", diff)
	}
}

// scenario is a program, what it does before and after heaptap comes, and the large blocks that are live then.
type scenario struct {
	name   string
	before string // Python, before the attach
	after  string // while tracked
	attach AttachOptions
	target pytarget.Options
	want   []string
	says   string // what the last expression of `after` is, "" for None
}

func scenarios() []scenario {
	functions := []string{"raw 3 x 100000-100002: every_function", "mem 3 x 100003-100005: every_function",
		"obj 3 x 100006-100008: every_function"}
	list := []scenario{
		{name: "functions", after: "every_function(0, 9); freed(0, 9)", want: functions},
		{name: "other domains", after: "every_function(0, 9)", attach: AttachOptions{Domains: []Domain{Obj}}, want: functions[2:]},
		{name: "deep frames", after: "up_and_down()", want: []string{
			"raw 1 x 200200: leaf < deep*201 < up_and_down", "raw 1 x 200000: leaf < up_and_down",
			"raw 1 x 200003: leaf < deep*4 < up_and_down", "raw 1 x 200150: leaf < deep*151 < up_and_down"}},
		{name: "through C", after: "through_c(3)", want: []string{
			"raw 1 x 300000: leaf < through_c < <lambda> < through_c < <lambda> < through_c < <lambda> < through_c"}},
		{name: "generator", after: "resumed()", want: []string{
			"raw 1 x 310000: leaf < generating < resumed", "raw 1 x 310001: leaf < generating < deep*3 < resumed"}},
		{name: "thread from before", before: "worker = Worker(30)", after: "worker.tell(told)", want: []string{
			"raw 1 x 400000: leaf < told < work < deep*31"}},
		{name: "without the GIL", before: "worker = Worker()", after: "worker.tell(told_without_gil); told_without_gil()",
			want: []string{"raw 1 x 400001: told_without_gil < work < deep*6", "raw 1 x 400001: told_without_gil"}},
		{name: "many threads", after: "many_threads(50, 20)", want: []string{"raw 1000 x 450000: one"}},
		{name: "foreign threads", after: "foreign_threads(100, 100)", want: []string{"raw 10000 x 450001: "}},
		{name: "Python in a foreign thread", after: "calls_back()", want: []string{"raw 1 x 410000: leaf < called_back"}},
		{name: "end of a foreign thread", after: "ending_thread(raw)", want: []string{"raw 2 x 420000: "}},
		{name: "end of a Python thread", after: "ending_python_thread(raw)", want: []string{"raw 2 x 420001: "}},
		{name: "thread's first function", after: "started()", want: []string{"raw 1 x 430000: leaf"}},
		{name: "profile function", after: "profiled(sys.setprofile, 500000); profiled(sys.settrace, 500010); events",
			says: "['leaf', 'leaf']", want: []string{"raw 4 x 500000-500011: leaf < profiled"}},
		{name: "profile function in threads", after: "profiled_in_thread(); sorted(events)", says: "['leaf', 'leaf']",
			want: []string{"raw 4 x 510000-510011: leaf < profiled"}},
		{name: "pool of processes", before: "import multiprocessing.pool", after: "pool() == [n * n for n in range(20)]", says: "True",
			want: []string{"raw 1 x 600001: leaf < pool"}},
		{name: "forked child", after: "forked()", says: "7", want: []string{"raw 1 x 610001: leaf < forked"}},
		{name: "blocks from before", before: "prepare(10)", after: "free_some(7)", want: []string{"raw 1 x 800001: free_some"}},
	}
	for _, allocator := range []string{"malloc", "debug", "malloc_debug", "pymalloc", "pymalloc_debug"} {
		list = append(list, scenario{name: "PYTHONMALLOC=" + allocator, after: "every_function(0, 9); freed(0, 9)", want: functions,
			target: pytarget.Options{Env: []string{"PYTHONMALLOC=" + allocator}}})
	}
	return list
}

// What a program allocates while it is tracked is there, by domain, size and stack, and nothing else of that size.
func TestScenarios(t *testing.T) {
	t.Parallel()
	library := outside(t)
	for _, in := range staged(t) {
		for _, s := range scenarios() {
			t.Run(in.Name+"/"+s.name, func(t *testing.T) {
				t.Parallel()
				tg := stage(t, in, library, s.target)
				tg.ExecFile(scenarioFile, s.before)
				if _, err := Attach(t.Context(), tg.Pid(), s.attach); err != nil {
					t.Fatal(err)
				}
				says := tg.Exec(s.after)
				if s.says != "" && says != s.says {
					t.Errorf("%s is %s, want %s", s.after, says, s.says)
				}
				wantBlocks(t, largeBlocks(t, tg.Pid()), s.want...)
				tg.Challenge()
				if d, err := Detach(t.Context(), tg.Pid()); err != nil || !d.Unmapped {
					t.Errorf("detach: %+v, %v", d, err)
				}
				tg.Challenge()
			})
		}
	}
}
