package profiler

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/internal/pytarget"
)

// TestTracemallocAfter: tracemalloc is started while the target is tracked, and so has our hooks behind its own. After a
// detach the agent stays as a pass-through, until tracemalloc has gone.
func TestTracemallocAfter(t *testing.T) {
	t.Parallel()
	for _, in := range chosen(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, "import tracemalloc", pytarget.Options{})
			pid := tg.Pid()
			words := hookedWords(t, pid)
			before := tg.Observe(words)
			mustAttach(t, pid)
			tg.Exec("tracemalloc.start(5); kept = [bytearray(1000) for _ in range(1000)]; None")
			mustBe(t, pid, Displaced)
			mustDump(t, pid)
			for range 3 { // a detach can be asked for again
				d, err := Detach(t.Context(), pid)
				if err != nil || d.Unmapped || d.Why == "" || len(d.Foreign) != 12 {
					t.Fatalf("detach under tracemalloc: %+v, %v", d, err)
				}
				mustBe(t, pid, Passive)
				tg.Challenge()
			}
			if _, err := TakeDump(t.Context(), pid, DumpOptions{}); !errors.Is(err, ErrNotTracked) {
				t.Errorf("dump of a pass-through: %v", err)
			}
			if got := tg.Exec("tracemalloc.is_tracing() and tracemalloc.get_object_traceback(kept[0]) is not None"); got != "True" {
				t.Errorf("tracemalloc has lost what it traced: %s", got)
			}

			// Tracked again, over tracemalloc, over the first agent; and again not.
			mustAttach(t, pid)
			tg.Challenge()
			mustDump(t, pid)
			if d, err := Detach(t.Context(), pid); err != nil || !d.Unmapped || d.Restored != 12 {
				t.Errorf("detach over tracemalloc: %+v, %v", d, err)
			}
			mustBe(t, pid, Passive)

			tg.Exec("tracemalloc.stop(); kept = None")
			tg.Challenge()
			if d, err := Repair(t.Context(), pid); err != nil || !d.Unmapped || d.Restored != 12 || len(d.Foreign) != 0 {
				t.Fatalf("repair after tracemalloc has gone: %+v, %v", d, err)
			}
			mustBeUntracked(t, pid)
			tg.Unchanged(before, pytarget.Busy, words)
			tg.Challenge()
		})
	}
}

// TestTracemallocBetween: two agents with tracemalloc between them, which is stopped under both: its end puts the first
// agent's hooks back, behind the second one's back. Everything can still be given back.
func TestTracemallocBetween(t *testing.T) {
	t.Parallel()
	for _, in := range chosen(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, "import tracemalloc", pytarget.Options{})
			pid := tg.Pid()
			words := hookedWords(t, pid)
			before := tg.Observe(words)
			mustAttach(t, pid)
			tg.Exec("tracemalloc.start(5)")
			if d, err := Detach(t.Context(), pid); err != nil || d.Unmapped {
				t.Fatalf("detach under tracemalloc: %+v, %v", d, err)
			}
			mustAttach(t, pid)
			tg.Exec("tracemalloc.stop()")
			mustBe(t, pid, Displaced)
			tg.Challenge()
			if d, err := Repair(t.Context(), pid); err != nil || !d.Unmapped {
				t.Fatalf("repair: %+v, %v", d, err)
			}
			mustBeUntracked(t, pid)
			tg.Unchanged(before, pytarget.Busy, words)
			tg.Challenge()
		})
	}
}

// family is a program whose forked child answers by its parent.
const family = `
import os

def child_answers(requests, answers):
    import hashlib
    while True:
        n = int(os.read(requests, 20))
        if n < 0:
            os._exit(7)
        items = {str(i): [i] * 3 for i in range(n)}
        os.write(answers, str(sum(v[0] for v in items.values())).encode())

def fork():
    global to_child, from_child, child
    requests, to_child = os.pipe()
    from_child, answers = os.pipe()
    child = os.fork()
    if child == 0:
        child_answers(requests, answers)
    os.close(requests)
    os.close(answers)
    return child

def ask(n):
    os.write(to_child, str(n).encode())
    return int(os.read(from_child, 20)) == n * (n - 1) // 2

def end():
    os.write(to_child, b"-1")
    os.close(to_child)
    os.close(from_child)
    return os.waitpid(child, 0)[1] >> 8
`

// TestForkedChild: a child of a tracked process has the hooks, does nothing with them, and says so. It can be rid of
// them, or be tracked by itself, without anything happening to its parent.
func TestForkedChild(t *testing.T) {
	t.Parallel()
	for _, in := range chosen(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, family, pytarget.Options{})
			words := hookedWords(t, tg.Pid())
			before := tg.Observe(words)
			mustAttach(t, tg.Pid())
			var child int
			if _, err := fmt.Sscan(tg.Exec("fork()"), &child); err != nil {
				t.Fatal(err)
			}
			alive := func() {
				t.Helper()
				if got := tg.Exec("ask(1000)"); got != "True" {
					t.Errorf("the child computes wrong")
				}
				tg.Challenge()
				mustBe(t, tg.Pid(), Tracking)
			}
			alive()
			mustBe(t, child, Forked)
			if _, err := TakeDump(t.Context(), child, DumpOptions{}); !errors.Is(err, ErrNotTracked) {
				t.Errorf("dump of the child: %v", err)
			}
			parent := mustBe(t, tg.Pid(), Tracking)
			tg.Exec("[ask(1000) for _ in range(20)]")

			mustAttach(t, child) // over the hooks that it has
			alive()
			mustBe(t, child, Tracking)
			if d := mustDump(t, child); d.Blocks == 0 {
				t.Error("the child has no live blocks")
			}
			mustDetach(t, child)
			alive()
			mustBe(t, child, Forked)
			mustAttach(t, child)
			if d, err := Repair(t.Context(), child); err != nil || !d.Unmapped || len(d.Foreign) != 0 || d.Restored != 24 {
				t.Fatalf("repair of the child with two agents: %+v, %v", d, err)
			}
			alive()
			mustBeUntracked(t, child)
			mustAttach(t, child)
			alive()
			mustDetach(t, child)
			if code := tg.Exec("end()"); code != "7" {
				t.Errorf("the child's exit code is %s, want 7", code)
			}

			// A second one ends with the hooks, and a third is rid of them by a detach.
			tg.Exec("fork()")
			alive()
			if code := tg.Exec("end()"); code != "7" {
				t.Errorf("the second child's exit code is %s, want 7", code)
			}
			if _, err := fmt.Sscan(tg.Exec("fork()"), &child); err != nil {
				t.Fatal(err)
			}
			mustDetach(t, child)
			alive()
			tg.Exec("end()")
			if now := mustBe(t, tg.Pid(), Tracking); now.Threads != parent.Threads || !now.Since.Equal(parent.Since) {
				t.Errorf("the parent's status was %+v and is %+v", parent, now)
			}
			mustDump(t, tg.Pid())

			// A child keeps the hooks that its parent gives back.
			if _, err := fmt.Sscan(tg.Exec("fork()"), &child); err != nil {
				t.Fatal(err)
			}
			mustDetach(t, tg.Pid())
			mustBe(t, child, Forked)
			if got := tg.Exec("ask(1000)"); got != "True" {
				t.Errorf("the child computes wrong after its parent's detach")
			}
			mustDetach(t, child)
			tg.Exec("ask(1000); end()")
			tg.Unchanged(before, pytarget.Busy, words)
		})
	}
}

// TestExecNames: code objects that exec() makes are thrown away, and their addresses are used again. What each of their
// functions has left behind carries that function's name and file, and nothing else does.
func TestExecNames(t *testing.T) {
	t.Parallel()
	const program = `
kept = []

def generate(n):
    for i in range(n):
        names = {}
        exec(compile("def f%d():\n    return bytes(%d)\n" % (i, 20000 + i), "made %d" % i, "exec"), names)
        kept.append(names["f%d" % i]())
`
	const functions = 1500
	for _, in := range pytarget.Interpreters(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, program, pytarget.Options{})
			mustAttach(t, tg.Pid())
			tg.Exec(fmt.Sprintf("generate(%d)", functions))
			s := mustDump(t, tg.Pid()).Snapshot
			name := regexp.MustCompile(`^f(\d+)$`)
			bytesOf := map[int]int64{}
			for _, r := range s.Records {
				if r.InuseBytes == 0 || r.Stack < 0 {
					continue
				}
				callers := s.Callers(r.Stack)
				m := name.FindStringSubmatch(callers[0].Func)
				if m == nil {
					continue
				}
				var i int
				fmt.Sscan(m[1], &i)
				if want := "made " + m[1]; callers[0].File != want || callers[0].Line != 2 {
					t.Errorf("%s is said to be in %s:%d, want %s:2", m[0], callers[0].File, callers[0].Line, want)
				}
				if !strings.HasSuffix(callers[1].Func, "generate") {
					t.Errorf("%s is said to be called by %s", m[0], callers[1].Func)
				}
				bytesOf[i] += r.InuseBytes
			}
			if len(bytesOf) != functions {
				t.Fatalf("%d functions have live blocks, want %d", len(bytesOf), functions)
			}
			overhead := bytesOf[0] - 20000
			if overhead < 0 || overhead > 100 {
				t.Errorf("f0 has %d bytes", bytesOf[0])
			}
			for i, n := range bytesOf {
				if want := 20000 + int64(i) + overhead; n != want {
					t.Errorf("f%d has %d bytes, want %d", i, n, want)
				}
			}
			mustDetach(t, tg.Pid())
		})
	}
}

// TestFinalising: a process that is tracked ends as it would; while its interpreter is finalised it still answers, and
// can be detached from. One that is already ending is not attached to.
func TestFinalising(t *testing.T) {
	t.Parallel()
	const program = `
import sys, pytarget

class Late(object):
    def __del__(self, serve=pytarget.serve):
        serve()

late = Late()
kept = [[str(i)] for i in range(10000)]
`
	for _, in := range pytarget.Interpreters(t) {
		for _, detach := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/detach=%v", in.Name, detach), func(t *testing.T) {
				t.Parallel()
				tg := pytarget.Start(t, in, program, pytarget.Options{})
				mustAttach(t, tg.Pid())
				tg.Exec("pytarget.defer(lambda: sys.exit(3))")
				tg.Challenge() // in the finaliser
				var late *cpython.NotReadyError
				mustDump(t, tg.Pid())
				mustBe(t, tg.Pid(), Tracking)
				if detach {
					mustDetach(t, tg.Pid())
					if _, err := Attach(t.Context(), tg.Pid(), AttachOptions{}); !errors.As(err, &late) {
						t.Errorf("attach to a process that is ending: %v", err)
					}
					tg.Challenge()
				}
				if code := tg.Exit(0); code != 3 {
					t.Errorf("exit code %d, want 3\n%s", code, tg.Output())
				}
			})
		}
	}
}

// TestFileSizeLimit: a limit on files' sizes, which holds for shared memory too and is enforced by a deadly signal, does
// no harm.
func TestFileSizeLimit(t *testing.T) {
	t.Parallel()
	for _, in := range chosen(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, `
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
`, pytarget.Options{})
			words := hookedWords(t, tg.Pid())
			before := tg.Observe(words)
			mustAttach(t, tg.Pid())
			tg.Challenge()
			mustDump(t, tg.Pid())
			mustDetach(t, tg.Pid())
			tg.Unchanged(before, pytarget.Busy, words)
			tg.Challenge()
		})
	}
}
