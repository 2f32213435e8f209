package transparency_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/internal/pytarget"
	"github.com/heaptap/heaptap/internal/transparency"
	"github.com/heaptap/heaptap/profiler"
)

// group is some of CPython's test modules that run in one process, or the tests in them that match one of regrtest's -m
// patterns.
type group struct {
	name    string
	modules []string // without those that the version at hand does not have
	match   []string
	quick   bool // also with -short
}

// groups exercise what an attached heaptap could disturb: memory and its collection, threads, forks, signals, blocking
// calls, frames of every kind, and the objects that are allocated most. The parts of test_socket and test_asyncio that
// are left out look up names or wait for a network, and take minutes where there is none.
var groups = []group{
	{name: "gc", quick: true, modules: []string{"test_gc", "test_weakref", "test_finalization"}},
	{name: "tracemalloc", quick: true, modules: []string{"test_tracemalloc"}},
	{name: "threads", quick: true, modules: []string{"test_threading", "test_thread", "test_queue"}},
	{name: "forks", quick: true, modules: []string{"test_fork1", "test_atexit"}},
	{name: "signals", quick: true, modules: []string{"test_signal"}},
	{name: "subprocess", modules: []string{"test_subprocess"}},
	{name: "io", modules: []string{"test_io"}},
	{name: "asyncio", modules: []string{"test_asyncio"}, match: []string{"test.test_asyncio.test_tasks.*",
		"test.test_asyncio.test_futures.*", "test.test_asyncio.test_queues.*", "test.test_asyncio.test_locks.*",
		"test.test_asyncio.test_streams.*", "test.test_asyncio.test_base_events.*"}},
	{name: "sockets", modules: []string{"test_socket", "test_select", "test_poll", "test_epoll"}, match: []string{
		"*BasicTCPTest*", "*BasicUDPTest*", "*BasicSocketPairTest*", "*NonBlockingTCPTests*", "*TCPTimeoutTest*",
		"*InterruptedRecvTimeoutTest*", "*InterruptedSendTimeoutTest*", "*SelectTestCase*", "*PollTests*", "*TestEPoll*"}},
	{name: "capi", modules: []string{"test_capi"}, match: []string{"*Mem*", "*mem*", "*Subinterp*", "*PyThreadState*",
		"*TestPendingCalls*", "*CAPITest*"}},
	{name: "frames", quick: true, modules: []string{"test_generators", "test_coroutines", "test_asyncgen", "test_contextlib",
		"test_exceptions", "test_traceback", "test_code", "test_frame", "test_compile", "test_sys_settrace",
		"test_sys_setprofile", "test_sys", "test_scope", "test_with"}},
	{name: "objects", modules: []string{"test_list", "test_dict", "test_set", "test_tuple", "test_deque", "test_bytes",
		"test_unicode", "test_str", "test_long", "test_memoryview", "test_array", "test_class", "test_descr", "test_types"}},
	{name: "libraries", modules: []string{"test_re", "test_json", "test_pickle", "test_zlib", "test_functools",
		"test_itertools", "test_heapq", "test_time", "test_os", "test_posix"}},
}

// expected are the differences that attaching makes and has to make, with the reason for each.
var expected = map[string]string{}

// tap is what is done to the process that runs the tests, before they start and after they have ended.
type tap struct {
	attach func(ctx context.Context, pid int) error
	verify func(ctx context.Context, pid int) error
}

// heaptap attaches, and wants tracking still to be on after the tests.
var heaptap = tap{
	attach: func(ctx context.Context, pid int) error {
		_, err := profiler.Attach(ctx, pid, profiler.AttachOptions{})
		return err
	},
	verify: func(ctx context.Context, pid int) error {
		status, err := profiler.ReadStatus(ctx, pid)
		if err == nil && status.State != profiler.Tracking {
			err = fmt.Errorf("after the tests heaptap is %s", status.State)
		}
		return err
	},
}

func TestTransparent(t *testing.T) {
	t.Parallel()
	for _, in := range interpreters(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			for _, g := range groups {
				if !g.quick && !thorough(in) {
					continue
				}
				t.Run(g.name, func(t *testing.T) {
					t.Parallel()
					for _, d := range differences(t, in, g, heaptap) {
						t.Error(d)
					}
				})
			}
		})
	}
}

// allEnv asks for every group in every interpreter, which takes half an hour.
const allEnv = "HEAPTAP_TRANSPARENCY_ALL"

// thorough tells whether an interpreter runs all groups and not only the quick ones: one for each way in which frames and
// allocators are laid out, since the groups that are left out take several minutes for each.
func thorough(in pytarget.Interpreter) bool {
	return !testing.Short() && (in.Root != "" || in.Minor() == 8 || in.Minor() == 11 || os.Getenv(allEnv) != "")
}

// interpreters are those that have CPython's tests; with -short only the newest.
func interpreters(t *testing.T) []pytarget.Interpreter {
	t.Helper()
	var found []pytarget.Interpreter
	for _, in := range pytarget.Interpreters(t) {
		tg := pytarget.Start(t, in, "", pytarget.Options{})
		if _, err := tg.Try("import test.libregrtest, test.test_gc"); err != nil {
			t.Logf("%s has no test suite: %s", in, lastLine(err.Error()))
			continue
		}
		found = append(found, in)
	}
	if len(found) == 0 {
		t.Fatal("no interpreter has CPython's tests")
	}
	if testing.Short() {
		return found[len(found)-1:]
	}
	return found
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// differences runs the group without and with the tap and returns what is not the same, after [confirm].
func differences(t *testing.T, in pytarget.Interpreter, g group, with tap) []transparency.Difference {
	t.Helper()
	without, tapped := pair(t, in, g, tap{}, with)
	if len(without) < 2 {
		t.Fatalf("%v ran only %d tests without anything attached: %v", g.modules, len(without), without)
	}
	found := transparency.Compare(without, tapped)
	found = slices.DeleteFunc(found, func(d transparency.Difference) bool {
		reason, ok := expected[d.Test]
		if ok {
			t.Logf("expected: %v: %s", d, reason)
		}
		return ok
	})
	if len(found) == 0 || tapped[theProcess] != "" || tapped[theTap] != "" {
		return found
	}
	return confirm(t, in, g, with, found)
}

// confirm tells the differences that the tap makes from those that time makes: CPython has tests that measure the clock
// and fail now and then on a busy machine, whatever is attached. The modules at hand are run some more times both ways,
// and a difference counts when the test went wrong with the tap at least twice more often than without. All counts
// are logged.
func confirm(t *testing.T, in pytarget.Interpreter, g group, with tap, found []transparency.Difference) []transparency.Difference {
	t.Helper()
	const more, margin = 4, 2
	again := group{name: g.name, match: g.match}
	for _, d := range found {
		if parts := strings.Split(d.Test, "."); len(parts) > 2 && !slices.Contains(again.modules, parts[1]) {
			again.modules = append(again.modules, parts[1]) // test.MODULE.CLASS.METHOD
		}
	}
	var without, tapped []transparency.Results
	for range more {
		a, b := pair(t, in, again, tap{}, with)
		if b[theProcess] != "" || b[theTap] != "" {
			return transparency.Compare(a, b)
		}
		without, tapped = append(without, a), append(tapped, b)
	}
	return slices.DeleteFunc(found, func(d transparency.Difference) bool {
		outcomes, tappedOutcomes := []string{d.Without}, []string{d.With}
		for i := range more {
			outcomes = append(outcomes, without[i][d.Test])
			tappedOutcomes = append(tappedOutcomes, tapped[i][d.Test])
		}
		usual := transparency.MostFrequent(outcomes)
		t.Logf("%s: without %q, with %q", d.Test, outcomes, tappedOutcomes)
		return others(tappedOutcomes, usual)-others(outcomes, usual) < margin
	})
}

// others counts the outcomes that are not the usual one.
func others(outcomes []string, usual string) int {
	return len(slices.DeleteFunc(slices.Clone(outcomes), func(o string) bool { return o == usual }))
}

// What takes the place of a test's name where there are no results to compare, or none to trust.
const (
	theProcess = "the process"
	theTap     = "the tap"
)

// suite is how long one group may take; the longest takes a minute on an idle machine.
const suite = 10 * time.Minute

// pair runs a group twice, each in a process of its own and at the same time, since most tests wait.
func pair(t *testing.T, in pytarget.Interpreter, g group, first, second tap) (a, b transparency.Results) {
	t.Helper()
	wait := [2]func() transparency.Results{start(t, in, g, first), start(t, in, g, second)}
	return wait[0](), wait[1]()
}

// start starts a group in a process in which regrtest runs as python -m test does, with the tap, and returns what waits
// for its results. That the process ends, or that the tap fails, is a result as well.
func start(t *testing.T, in pytarget.Interpreter, g group, with tap) func() transparency.Results {
	t.Helper()
	tg := pytarget.Start(t, in, regrtest, pytarget.Options{Patience: suite})
	if with.attach != nil {
		if err := with.attach(t.Context(), tg.Pid()); err != nil {
			t.Fatalf("attach: %v", err)
		}
	}
	var report string
	var runErr error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		report, runErr = tg.TryText(fmt.Sprintf("regrtest(%s, %s)", quoteList(g.modules), quoteList(g.match)))
	}()
	return func() transparency.Results {
		<-ended
		if runErr != nil {
			tg.Forgive()
			return transparency.Results{theProcess: runErr.Error() + "\n" + tg.Output()}
		}
		if with.verify != nil {
			if err := with.verify(t.Context(), tg.Pid()); err != nil {
				return transparency.Results{theTap: err.Error()}
			}
		}
		results, err := transparency.ReadJUnit([]byte(report))
		if err != nil {
			t.Fatalf("%v in %s: %v\n%s", g.modules, in, err, tg.Output())
		}
		return results
	}
}

// regrtest is what python -m test does, with a report.
//
// After each test it puts back the functions that threading has new threads trace with. Up to 3.11 test_threading's
// ThreadTests.test_frame_tstate_tracing leaves its own there (3.12 restores it), so that every later thread of the process
// begins with sys.settrace. In 3.10 and 3.11 that fails where another thread is in the middle of it: _PyEval_SetTrace has
// one flag for all threads, and calls regrtest's audit hook, which is Python and may lose the GIL (python/cpython#98257).
// Such a thread is dead before its first line, and test_queue waits without end for what it should have put. Nothing need
// be attached for that: at a switch interval of a microsecond some 1 in 5,000 threads is lost.
const regrtest = `
import importlib.util, os, runpy, sys, tempfile, threading, unittest

def restoring_hooks(run):
    def run_and_restore(*args, **kwargs):
        trace, profile = threading._trace_hook, threading._profile_hook
        try:
            return run(*args, **kwargs)
        finally:
            threading.settrace(trace)
            threading.setprofile(profile)
    return run_and_restore

unittest.TestCase.run = restoring_hooks(unittest.TestCase.run)

def regrtest(modules, match):
    modules = [name for name in modules if importlib.util.find_spec("test." + name)]
    report = os.path.join(tempfile.mkdtemp(), "report.xml")
    sys.argv = ["-m test", "--junit-xml", report] + modules
    for pattern in match:
        sys.argv[1:1] = ["-m", pattern]
    try:
        runpy.run_module("test", run_name="__main__", alter_sys=True)
    except SystemExit as err:
        print("regrtest:", err.code)
    with open(report, encoding="utf-8", errors="replace") as file:
        return file.read()
`

func quoteList(texts []string) string {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = strconv.Quote(text)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// smallFiles limits the size of the files that the process writes, which tests in test_resource want to raise.
func smallFiles(_ context.Context, pid int) error {
	limit := unix.Rlimit{Cur: 1 << 30, Max: 1 << 30}
	return unix.Prlimit(pid, unix.RLIMIT_FSIZE, &limit, nil)
}

// once does harm to the first process only, as chance would.
func once(harm func(context.Context, int) error) tap {
	done := false
	return tap{attach: func(ctx context.Context, pid int) error {
		if done {
			return nil
		}
		done = true
		return harm(ctx, pid)
	}}
}

// What is done to the process and does harm is found, and named by the tests that notice it.
func TestHarmIsFound(t *testing.T) {
	t.Parallel()
	all := interpreters(t)
	in := all[len(all)-1]
	for _, c := range []struct {
		name  string
		group group
		tap   tap
		want  string
	}{
		{"limit", group{modules: []string{"test_resource"}}, tap{attach: smallFiles}, "test_fsize_not_too_big"},
		{"limit once", group{modules: []string{"test_resource"}}, once(smallFiles), ""},
		{"death", group{modules: []string{"test_class"}}, tap{attach: func(_ context.Context, pid int) error {
			return unix.Kill(pid, syscall.SIGKILL)
		}}, "the process"},
		{"lost tap", group{modules: []string{"test_class"}}, tap{verify: func(context.Context, int) error {
			return errors.New("tracking is off")
		}}, "tracking is off"},
		{"no harm", group{modules: []string{"test_class"}}, tap{attach: func(context.Context, int) error { return nil }}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			found := differences(t, in, c.group, c.tap)
			if text := fmt.Sprint(found); (c.want == "") != (len(found) == 0) || !strings.Contains(text, c.want) {
				t.Errorf("differences %s, want %q", text, c.want)
			}
		})
	}
}

// A test that leaves a trace function to the threads of later tests must not decide what becomes of these: see [regrtest].
func TestLeftTraceFunction(t *testing.T) {
	t.Parallel()
	for _, in := range interpreters(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, regrtest, pytarget.Options{Patience: suite})
			report, err := tg.TryText(`regrtest(["test_threading"], ["*test_frame_tstate_tracing"])`)
			if err != nil {
				t.Fatalf("%v\n%s", err, tg.Output())
			}
			results, err := transparency.ReadJUnit([]byte(report))
			if err != nil {
				t.Fatal(err)
			}
			const test = "test.test_threading.ThreadTests.test_frame_tstate_tracing"
			if results[test] != "passed" {
				t.Errorf("%s: %v", test, results)
			}
			left, err := tg.TryText("repr((threading._trace_hook, threading._profile_hook))")
			if err != nil || left != "(None, None)" {
				t.Errorf("new threads trace with %s, %v", left, err)
			}
		})
	}
}

func TestReadJUnit(t *testing.T) {
	t.Parallel()
	report, err := os.ReadFile(filepath.Join("testdata", "report.xml"))
	if err != nil {
		t.Fatal(err)
	}
	results, err := transparency.ReadJUnit(report)
	if err != nil {
		t.Fatal(err)
	}
	other, err := transparency.ReadJUnit([]byte(strings.Replace(string(report), "<failure", "<error", 1)))
	if err == nil {
		t.Errorf("a report whose tags do not match is read: %v", other)
	}
	want := transparency.Results{
		"m.T.test_good": "passed", "m.T.test_bad": "failure", "m.T.test_out": "skipped", "m.T.test_worse": "error",
		"m.T.test_twice": "failure and passed",
	}
	if differences := transparency.Compare(want, results); len(differences) != 0 {
		t.Error(differences)
	}
}

func TestMostFrequent(t *testing.T) {
	t.Parallel()
	if got := transparency.MostFrequent([]string{"error", "passed", "failure", "passed"}); got != "passed" {
		t.Error(got)
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	without := transparency.Results{"a": "passed", "b": "passed", "c": "skipped", "d": "passed"}
	with := transparency.Results{"a": "passed", "b": "error", "d": "passed", "e": "passed"}
	want := []transparency.Difference{{"b", "passed", "error"}, {"c", "skipped", ""}, {"e", "", "passed"}}
	if got := transparency.Compare(without, with); !slices.Equal(got, want) {
		t.Errorf("differences %v, want %v", got, want)
	}
	if text := want[1].String(); text != "c: skipped without, absent with" {
		t.Error(text)
	}
}
