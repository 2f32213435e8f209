package inferior

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/internal/pytarget"
)

// interpreters are some of all: the distribution's static and stripped one, shared ones with debug information, and
// the ones with file systems of their own.
func interpreters(t *testing.T) []pytarget.Interpreter {
	t.Helper()
	var out []pytarget.Interpreter
	seen := make(map[string]bool)
	for _, in := range pytarget.Interpreters(t) {
		key := fmt.Sprint(in.Origin, in.Minor())
		if in.Embedded || seen[key] || testing.Short() && in.Minor() != 11 {
			continue
		}
		seen[key] = true
		out = append(out, in)
	}
	return out
}

const program = `
import sys, threading

def waits():
    inner(gate)

def inner(event):
    event.wait()

gate = threading.Event()

def stacks():
    import json
    out = {}
    for ident, frame in sys._current_frames().items():
        lines = []
        while frame is not None:
            code = frame.f_code
            lines.append([getattr(code, 'co_qualname', code.co_name), code.co_filename, frame.f_lineno])
            frame = frame.f_back
        out[ident] = lines
    return json.dumps(out)

def nested(n):
    if n == 0:
        threading.Event.wait(gate)
    else:
        list(map(nested, [n - 1]))

def answer(line):
    return stacks()

threads = [threading.Thread(target=waits, name='waits', daemon=True),
           threading.Thread(target=nested, args=(3,), name='nested', daemon=True)]
for thread in threads:
    thread.start()
`

// The matrix's Python half: every interpreter evaluates the same expressions, and computes right afterwards.
func TestPython(t *testing.T) {
	t.Parallel()
	for _, in := range interpreters(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			py := pytarget.Start(t, in, program, pytarget.Options{Container: in.Root != ""})
			p, err := Open(py.Pid())
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			before := py.Observe(nil)
			ours := func(expression, want string) {
				t.Helper()
				texts, _, err := evaluate(t, p, Options{}, expression)
				if got := strings.Join(texts, "; "); err != nil || !strings.Contains(got, want) {
					t.Errorf("%s = %s, %v; want %s", expression, got, err, want)
				}
			}
			ours("(double)cos(1.0)", "0.54030230586813977")
			ours(`(long)strlen("hello")`, "5")
			ours(`libc.so.6!getenv("PATH") != 0`, "1")
			ours("(int)malloc_trim(0) <= 1", "1")
			ours(`fprintf(stderr, "")`, "0")
			ours("(char *)Py_GetVersion()", in.Version)
			ours("(int)PyGILState_Check()", "0") // the thread waits for input

			// Python without its lock is refused; with it, it runs.
			run := `(int)PyRun_SimpleString("import __main__; __main__.called = __main__.__dict__.get('called', 0) + 1")`
			var gil *GILError
			if _, _, err := evaluate(t, p, Options{}, run); !errors.As(err, &gil) || gil.Function != "PyRun_SimpleString" {
				t.Errorf("without the GIL: %v", err)
			}
			texts, _, err := evaluate(t, p, Options{}, "$g = (int)PyGILState_Ensure()", run, "(void)PyGILState_Release($g)")
			if err != nil || len(texts) != 2 || texts[1] != "0" {
				t.Errorf("with the GIL: %q, %v", texts, err)
			}
			if got := py.Exec("called"); got != "1" {
				t.Errorf("Python has been called %s times", got)
			}
			py.Unchanged(before, pytarget.Busy, nil)
			py.Challenge()
		})
	}
}

// A thread that computes holds the lock most of the time: Python is called there, in between.
func TestPythonBusy(t *testing.T) {
	t.Parallel()
	for _, in := range interpreters(t) {
		if in.Minor() < 11 && in.Origin == "pyenv" {
			continue
		}
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			py := pytarget.Start(t, in, `
import threading
count = 0
stop = False
def compute():
    global count
    while not stop:
        count += len(str({i: [i] for i in range(10)}))
thread = threading.Thread(target=compute, daemon=True)
thread.start()
`, pytarget.Options{Container: in.Root != ""})
			p, err := Open(py.Pid())
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			for range 20 {
				texts, _, err := evaluate(t, p, Options{}, "$g = (int)PyGILState_Ensure()",
					`(int)PyRun_SimpleString("import __main__; __main__.calls = __main__.__dict__.get('calls', 0) + 1")`,
					"(void)PyGILState_Release($g)", "(int)malloc_trim(0) <= 1")
				if err != nil || len(texts) != 3 || texts[1] != "0" {
					t.Fatalf("%q, %v", texts, err)
				}
			}
			if got := py.Exec("calls"); got != "20" {
				t.Errorf("Python was called %s times, want 20", got)
			}
			py.Challenge()
			py.Exec("stop = True")
		})
	}
}

// Stacks show the Python frames that Python itself sees, each behind the evaluation that runs it.
func TestPythonStacks(t *testing.T) {
	t.Parallel()
	for _, in := range interpreters(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			py := pytarget.Start(t, in, program, pytarget.Options{Container: in.Root != ""})
			var want map[string][][3]any
			if err := json.Unmarshal([]byte(py.Do("stacks")), &want); err != nil {
				t.Fatal(err)
			}
			p, err := Open(py.Pid())
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			s, err := p.Stacks(deadline(t), StackOptions{})
			if err != nil {
				t.Fatal(err)
			}
			wanted := make(map[string]bool)
			for _, frames := range want {
				wanted[fmt.Sprint(frames)] = true
			}
			found := 0
			for i := range s.Threads {
				th := &s.Threads[i]
				if th.PyErr != nil {
					t.Errorf("%v: %v", th.Thread, th.PyErr)
				}
				var got [][3]any
				for _, f := range th.Python {
					name := f.Qualname
					if in.Minor() < 11 {
						name = f.Name
					}
					got = append(got, [3]any{name, f.File, float64(f.Line)})
				}
				if wanted[fmt.Sprint(got)] {
					found++
				}
				merged := th.Merge()
				if len(merged) != len(th.Frames)+len(th.Python) {
					t.Errorf("%v: %d lines of %d native frames and %d of Python", th.Thread, len(merged), len(th.Frames),
						len(th.Python))
				}
				if last := merged[len(merged)-1]; len(th.Python) > 0 && last.Python != nil {
					t.Errorf("%v: Python's frames are not among the native ones", th.Thread)
				}
			}
			// The first thread has gone on since.
			if found < len(want)-1 {
				t.Errorf("%d of %d stacks are as Python sees them", found, len(want))
			}
			py.Challenge()
		})
	}
}
