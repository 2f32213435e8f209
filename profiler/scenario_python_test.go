package profiler

import (
	"errors"
	"fmt"
	"os"
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

var programsFile = filepath.Join("testdata", "scenario", "programs.py")

// scenarioFile is the file that the programs are in, as their frames have it.
const scenarioFile = "/srv/programs.py"

// staged are the interpreters that scenarios are played in: three whose frames and threads differ most.
func staged(t *testing.T) []pytarget.Interpreter {
	t.Helper()
	list := []pytarget.Interpreter{debian(t)}
	for _, in := range pytarget.Interpreters(t) {
		if in.Root == "" && !in.Embedded && (in.Minor() == 8 || in.Minor() == 13) {
			list = append(list, in)
		}
	}
	return list
}

// outside builds the C side of the programs, and what it loads later.
func outside(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	library := filepath.Join(folder, "outside.so")
	build(t, "gcc", library, "outside.c", "-Wl,-rpath,$ORIGIN/later")
	buildLate(t, folder)
	return library
}

// stage starts a target that has the programs.
func stage(t *testing.T, in pytarget.Interpreter, library string, o pytarget.Options) *pytarget.Target {
	t.Helper()
	source, err := os.ReadFile(programsFile)
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
	if none := (*heap.NoMatchError)(nil); errors.As(err, &none) {
		return &heap.Snapshot{}
	}
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
	lines := []string{}
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
	want = append([]string{}, slices.Sorted(slices.Values(want))...)
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
	needs  string // a module that not every interpreter has
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
	list = append(list, scenario{name: "greenlets", after: "in_greenlets_of_threads(3)", needs: "greenlet", want: []string{
		"raw 3 x 900000: leaf < first", "raw 3 x 900000: leaf < deep*3 < first",
		"raw 3 x 900000: leaf < deep*4 < second", "raw 3 x 900000: leaf < second", "raw 3 x 900000: leaf < in_greenlets"}})
	for _, allocator := range []string{"malloc", "debug", "malloc_debug", "pymalloc", "pymalloc_debug"} {
		list = append(list, scenario{name: "PYTHONMALLOC=" + allocator, after: "every_function(0, 9); freed(0, 9)", want: functions,
			target: pytarget.Options{Env: []string{"PYTHONMALLOC=" + allocator}}})
	}
	return list
}

// What a program allocates while it is tracked is there, by domain, size and stack, and nothing else of that size.
func TestScenarios(t *testing.T) {
	t.Parallel()
	playScenarios(t, scenarios())
}

func playScenarios(t *testing.T, list []scenario) {
	library := outside(t)
	for _, in := range staged(t) {
		for _, s := range list {
			t.Run(in.Name+"/"+s.name, func(t *testing.T) {
				t.Parallel()
				tg := stage(t, in, library, s.target)
				if s.needs != "" {
					if _, err := tg.Try("import importlib.util; assert importlib.util.find_spec(" + quotePython(s.needs) + ")"); err != nil {
						t.Skipf("%s has no module %s", in, s.needs)
					}
				}
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

// Lines are those that executed, in the root frame as well.
func TestScenarioLines(t *testing.T) {
	t.Parallel()
	library := outside(t)
	for _, in := range staged(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := stage(t, in, library, pytarget.Options{})
			mustAttach(t, tg.Pid())
			tg.ExecFile(scenarioFile, "lines = Lines()\nlines.allocate()\n\n\nseveral_lines(\n    lines)\nlines.allocate()\n")
			line := func(text string) int { return lineOf(t, text) }
			leaf, method := fmt.Sprintf("leaf:%d < allocate:%d < ", line("return keeping.allocate(what, size)"),
				line("leaf(self.size); self.size += 1")), "raw %d x %s: "+"%s"
			got := blockLines(largeSnapshot(t, tg.Pid()), func(f heap.Frame) string {
				return fmt.Sprintf("%s:%d", f.Func[strings.LastIndexByte(f.Func, '.')+1:], f.Line)
			})
			wantBlocks(t, got,
				fmt.Sprintf(method, 1, "320000", leaf+"<module>:2"),
				fmt.Sprintf(method, 1, "320001", leaf+fmt.Sprintf("several_lines:%d < <module>:5", line("# once"))),
				fmt.Sprintf(method, 2, "320002-320003", leaf+fmt.Sprintf("several_lines:%d < <module>:5", line("# twice"))),
				fmt.Sprintf(method, 1, "320004", leaf+"<module>:7"))
		})
	}
}

// lineOf is the number of the only line of the programs in which the text stands.
func lineOf(t *testing.T, text string) int {
	t.Helper()
	source, err := os.ReadFile(programsFile)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for i, line := range strings.Split(string(source), "\n") {
		if strings.Contains(line, text) {
			if found != 0 {
				t.Fatalf("%q is in lines %d and %d", text, found, i+1)
			}
			found = i + 1
		}
	}
	return found
}

// A thread outlives several attaches: each sees what the thread does meanwhile, with the stack that it has then, and
// nothing of what came before or between; blocks of an earlier one are freed in a later one.
func TestScenarioCycles(t *testing.T) {
	t.Parallel()
	library := outside(t)
	for _, in := range staged(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := stage(t, in, library, pytarget.Options{})
			tg.Exec("worker = Worker(4)")
			for round := range 4 {
				mustAttach(t, tg.Pid())
				wantBlocks(t, largeBlocks(t, tg.Pid()))
				tg.Exec(fmt.Sprintf("worker.tell(lambda: deep(%d, told)); worker.tell(lambda: take(%d, 400100))", round, round))
				if round > 0 {
					tg.Exec(fmt.Sprintf("worker.tell(lambda: give(%d))", round-1))
				}
				wantBlocks(t, largeBlocks(t, tg.Pid()), "raw 1 x 400100: take < work < deep*5",
					fmt.Sprintf("raw 1 x 400000: leaf < told < %s < work < deep*5", repeated("deep", round+1)))
				if s := mustBe(t, tg.Pid(), Tracking); s.Lost != 0 || (round > 0 && s.UnseenFrees == 0) {
					t.Errorf("round %d: lost %d, %d unseen frees", round, s.Lost, s.UnseenFrees)
				}
				mustDetach(t, tg.Pid())
				tg.Exec("worker.tell(told); worker.tell(lambda: deep(2, told))")
				mustBeUntracked(t, tg.Pid())
			}
			tg.Challenge()
		})
	}
}

func repeated(name string, times int) string {
	if times == 1 {
		return name
	}
	return fmt.Sprintf("%s*%d", name, times)
}

// A process that is left in the middle of everything, with or without finalising the interpreter, ends as it wanted to.
func TestScenarioEnds(t *testing.T) {
	t.Parallel()
	library := outside(t)
	for _, in := range staged(t) {
		for _, how := range []string{"keeping.end_at_once(41, 0)", "giving.end_at_once(41, 0)", "keeping.end_at_once(41, 1)",
			"os._exit(41)", "os.execv('/bin/sh', ['sh', '-c', 'exit 41'])", "os.kill(os.getpid(), 9)"} {
			t.Run(in.Name+"/"+how, func(t *testing.T) {
				t.Parallel()
				tg := stage(t, in, library, pytarget.Options{})
				tg.Exec("worker = Worker(); worker.tell(lambda: giving.at_thread_end(raw, 420002))")
				mustAttach(t, tg.Pid())
				tg.Forgive()
				tg.Try(how) // does not answer
				want := 41
				if strings.HasSuffix(how, "9)") {
					want = -9
				}
				if code := tg.Wait(); code != want {
					t.Errorf("ended with %d, want %d\n%s", code, want, tg.Output())
				}
			})
		}
	}
}

// The label of a thread is the name that the kernel has for it now, not that of when it first allocated; a thread that has
// ended has its first one.
func TestScenarioThreadNames(t *testing.T) {
	t.Parallel()
	library := outside(t)
	for _, in := range staged(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := stage(t, in, library, pytarget.Options{})
			tg.Exec("worker, other = Worker(), Worker()")
			mustAttach(t, tg.Pid())
			tg.Exec("worker.tell(lambda: named(b'first')); other.tell(lambda: named(b'other'))")
			wantThreads(t, tg.Pid(), "first", "other")
			tg.Exec(`worker.tell(lambda: prctl_name(b'back\\slash')); finish(start(named, b'short-lived'))`)
			wantThreads(t, tg.Pid(), `back\slash`, "other", filepath.Base(in.Path))
		})
	}
}

func wantThreads(t *testing.T, pid int, want ...string) {
	t.Helper()
	s := largeSnapshot(t, pid)
	got := map[string]int64{}
	for _, r := range s.Records {
		name, _, _ := strings.Cut(s.Text(r.Thread), " (")
		got[name] += r.InuseBlocks
	}
	for _, name := range want {
		if got[name] != 2 {
			t.Errorf("%d large blocks of thread %q, want 2; all threads: %v", got[name], name, got)
		}
	}
	if len(got) != len(want) {
		t.Errorf("threads %v, want %v", got, want)
	}
}
