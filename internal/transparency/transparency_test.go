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

// module is one of CPython's test modules, or the tests in it that match a pattern of regrtest's -m.
type module struct {
	name  string
	match []string
	quick bool // also with -short
	since int  // minor version that has it
	until int  // last minor version that has it; 0: the newest
}

// modules exercise what an attached heaptap could disturb: memory and its collection, threads, forks, signals, blocking
// calls, frames of every kind, and the objects that are allocated most. The parts of test_socket and test_asyncio that
// are left out look up names or wait for a network, and take minutes where there is none.
var modules = []module{
	{name: "test_gc", quick: true},
	{name: "test_threading", quick: true},
	{name: "test_thread"},
	{name: "test_fork1", quick: true},
	{name: "test_subprocess"},
	{name: "test_asyncio", match: []string{"test.test_asyncio.test_tasks.*", "test.test_asyncio.test_futures.*",
		"test.test_asyncio.test_queues.*", "test.test_asyncio.test_locks.*", "test.test_asyncio.test_streams.*",
		"test.test_asyncio.test_base_events.*"}},
	{name: "test_generators", quick: true},
	{name: "test_coroutines"},
	{name: "test_asyncgen"},
	{name: "test_contextlib"},
	{name: "test_exceptions", quick: true},
	{name: "test_traceback"},
	{name: "test_capi", match: []string{"*Mem*", "*mem*", "*Subinterp*", "*PyThreadState*", "*TestPendingCalls*", "*CAPITest*"}},
	{name: "test_list"},
	{name: "test_dict"},
	{name: "test_set"},
	{name: "test_tuple"},
	{name: "test_deque"},
	{name: "test_bytes"},
	{name: "test_unicode", until: 12},
	{name: "test_str", since: 13},
	{name: "test_long"},
	{name: "test_memoryview"},
	{name: "test_array"},
	{name: "test_re"},
	{name: "test_json"},
	{name: "test_pickle"},
	{name: "test_io"},
	{name: "test_socket", match: []string{"*BasicTCPTest*", "*BasicUDPTest*", "*BasicSocketPairTest*", "*NonBlockingTCPTests*",
		"*TCPTimeoutTest*", "*InterruptedRecvTimeoutTest*", "*InterruptedSendTimeoutTest*"}},
	{name: "test_select"},
	{name: "test_signal", quick: true},
	{name: "test_weakref"},
	{name: "test_descr"},
	{name: "test_class"},
	{name: "test_code"},
	{name: "test_frame"},
	{name: "test_compile"},
	{name: "test_functools"},
	{name: "test_itertools"},
	{name: "test_sys"},
	{name: "test_sys_settrace"},
	{name: "test_sys_setprofile"},
	{name: "test_time"},
	{name: "test_queue"},
	{name: "test_zlib"},
	{name: "test_os"},
	{name: "test_posix"},
	{name: "test_tracemalloc", quick: true},
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
			for _, m := range modules {
				if testing.Short() && !m.quick || in.Minor() < m.since || m.until != 0 && in.Minor() > m.until {
					continue
				}
				t.Run(m.name, func(t *testing.T) {
					t.Parallel()
					for _, d := range differences(t, in, m, heaptap) {
						t.Error(d)
					}
				})
			}
		})
	}
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

// differences runs the module without and with the tap and returns what is not the same. CPython has tests that fail now
// and then by themselves; so a test that differs is given two more runs without the tap, and when those do not agree
// with the first it is left out, and named.
func differences(t *testing.T, in pytarget.Interpreter, m module, with tap) []transparency.Difference {
	t.Helper()
	without := run(t, in, m, tap{})
	if len(without) < 2 {
		t.Fatalf("%s ran only %d tests without anything attached", m.name, len(without))
	}
	found := transparency.Compare(without, run(t, in, m, with))
	found = slices.DeleteFunc(found, func(d transparency.Difference) bool {
		reason, ok := expected[d.Test]
		if ok {
			t.Logf("expected: %v: %s", d, reason)
		}
		return ok
	})
	if len(found) == 0 {
		return nil
	}
	again := []transparency.Results{run(t, in, m, tap{}), run(t, in, m, tap{})}
	return slices.DeleteFunc(found, func(d transparency.Difference) bool {
		unsteady := again[0][d.Test] != d.Without || again[1][d.Test] != d.Without
		if unsteady {
			t.Logf("unsteady without anything attached: %v; then %q and %q", d, again[0][d.Test], again[1][d.Test])
		}
		return unsteady
	})
}

// suite is how long one module may take; the longest takes half a minute on an idle machine.
const suite = 10 * time.Minute

// run runs one module in a process of its own, in which regrtest runs as python -m test does. That the process ends, or
// that its tap fails, is an outcome as well.
func run(t *testing.T, in pytarget.Interpreter, m module, with tap) transparency.Results {
	t.Helper()
	tg := pytarget.Start(t, in, regrtest, pytarget.Options{Patience: suite})
	if with.attach != nil {
		if err := with.attach(t.Context(), tg.Pid()); err != nil {
			t.Fatalf("attach: %v", err)
		}
	}
	report, err := tg.TryText(fmt.Sprintf("regrtest(%s, %s)", quote(m.name), quoteList(m.match)))
	if err != nil {
		tg.Forgive()
		return transparency.Results{"the process": err.Error()}
	}
	if with.verify != nil {
		if err := with.verify(t.Context(), tg.Pid()); err != nil {
			return transparency.Results{"the tap": err.Error()}
		}
	}
	results, err := transparency.ReadJUnit([]byte(report))
	if err != nil {
		t.Fatalf("%s in %s: %v\n%s", m.name, in, err, tg.Output())
	}
	return results
}

// regrtest is what python -m test does, with a report.
const regrtest = `
import os, runpy, sys, tempfile

def regrtest(module, match):
    report = os.path.join(tempfile.mkdtemp(), "report.xml")
    sys.argv = ["-m test", "--junit-xml", report, module]
    for pattern in match:
        sys.argv[1:1] = ["-m", pattern]
    try:
        runpy.run_module("test", run_name="__main__", alter_sys=True)
    except SystemExit as err:
        print("regrtest:", err.code)
    with open(report, encoding="utf-8", errors="replace") as file:
        return file.read()
`

func quote(text string) string { return strconv.Quote(text) }

func quoteList(texts []string) string {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = quote(text)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// What is done to the process and does harm is found, and named by the tests that notice it.
func TestHarmIsFound(t *testing.T) {
	t.Parallel()
	all := interpreters(t)
	in := all[len(all)-1]
	for _, c := range []struct {
		name   string
		module module
		tap    tap
		want   string
	}{
		{"few descriptors", module{name: "test_socket", match: []string{"*BasicTCPTest*"}}, tap{attach: func(_ context.Context, pid int) error {
			limit := unix.Rlimit{Cur: 8, Max: 8}
			return unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil)
		}}, "BasicTCPTest"},
		{"death", module{name: "test_class"}, tap{attach: func(_ context.Context, pid int) error {
			return unix.Kill(pid, syscall.SIGKILL)
		}}, "the process"},
		{"lost tap", module{name: "test_class"}, tap{verify: func(context.Context, int) error {
			return errors.New("tracking is off")
		}}, "tracking is off"},
		{"no harm", module{name: "test_class"}, tap{attach: func(context.Context, int) error { return nil }}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			found := differences(t, in, c.module, c.tap)
			if text := fmt.Sprint(found); (c.want == "") != (len(found) == 0) || !strings.Contains(text, c.want) {
				t.Errorf("differences %s, want %q", text, c.want)
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
