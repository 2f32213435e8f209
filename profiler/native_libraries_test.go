package profiler

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/internal/pytarget"
)

// startLibraries runs libraries.py, with the extension that loses memory, in Debian's interpreter with Debian's libraries. It
// returns the extension's path as well.
func startLibraries(t *testing.T) (tg *pytarget.Target, module string) {
	t.Helper()
	in := debian(t)
	tg = pytarget.Start(t, in, "", pytarget.Options{})
	include := strings.Trim(tg.Exec("import sysconfig; sysconfig.get_paths()['include']"), `"'`)
	module = compile(t, filepath.Join(t.TempDir(), "leaky.so"), "leaky.c", "-I"+include)
	source, err := os.ReadFile(filepath.Join(nativeDir, "libraries.py"))
	if err != nil {
		t.Fatal(err)
	}
	tg.ExecFile("libraries.py", string(source))
	tg.Exec("import importlib.util as u; spec = u.spec_from_file_location('leaky', " + quotePython(module) + "); " +
		"leaky = u.module_from_spec(spec); spec.loader.exec_module(leaky); None")
	return tg, module
}

// TestLibraries: NumPy, lxml, SQLite, zlib, bz2 and hashes give the same results while their allocations are tracked, and a
// leak in a C extension among them is found by the line of Python that calls it, with native stacks by its own line as
// well, and nothing else is accused.
func TestLibraries(t *testing.T) {
	t.Parallel()
	t.Run("python", func(t *testing.T) {
		t.Parallel()
		throughLibraries(t, AttachOptions{})
	})
	t.Run("native", func(t *testing.T) {
		t.Parallel()
		throughLibraries(t, AttachOptions{Native: true})
	})
}

func throughLibraries(t *testing.T, o AttachOptions) {
	tg, module := startLibraries(t)
	const requests = 40 // between two snapshots
	answers := func(first int) string { return tg.Exec(fmt.Sprintf("answers(%d, %d)", first, requests)) }
	want := answers(0)
	words := hookedWords(t, tg.Pid())
	before := tg.Observe(words)
	if _, err := Attach(t.Context(), tg.Pid(), o); err != nil {
		t.Fatal(err)
	}
	if got := answers(0); got != want {
		t.Errorf("tracked, the libraries' answers are %s, and were %s", got, want)
	}
	tg.Exec("answers(0, 400)") // what fills up is full
	h, err := FindLeaks(t.Context(), tg.Pid(), LeakOptions{Snapshots: 9, Wait: func(_ context.Context, n int) error {
		answers(n * requests)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	checkNativeLeak(t, h.LeakReport, requests*8)
	if o.Native {
		checkNativeLine(t, h.LeakReport, module)
	}
	status := mustBe(t, tg.Pid(), Tracking)
	for _, total := range status.Totals {
		if total.Domain == Malloc && total.AllocBlocks < 100_000 {
			t.Errorf("libraries have allocated %d blocks only", total.AllocBlocks)
		}
	}
	if status.Lost != 0 {
		t.Errorf("%d allocations were lost", status.Lost)
	}
	mustDetach(t, tg.Pid())
	if got := answers(0); got != want {
		t.Errorf("after the detach, the libraries' answers are %s, and were %s", got, want)
	}
	tg.Unchanged(before, pytarget.Busy, words)
	tg.Challenge()
}

// checkNativeLeak requires that the only suspects are the sessions' bodies, all of them, with the line of the call.
func checkNativeLeak(t *testing.T, r *heap.LeakReport, lost int64) {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(nativeDir, "libraries.py"))
	if err != nil {
		t.Fatal(err)
	}
	line := textLine(string(source), "leaky.lose(")
	var found int64
	for _, s := range r.Suspects {
		callers := r.Series[0].Callers(s.Stack)
		i := slices.IndexFunc(callers, func(f heap.Frame) bool { return f.Func == "leak_session" })
		if i < 0 {
			t.Errorf("accused is %v: %v, %v", callers, s.Bytes, s.Types)
			continue
		}
		if callers[i].File != "libraries.py" || callers[i].Line != line {
			t.Errorf("the leak is called in %s:%d, and should be in line %d", callers[i].File, callers[i].Line, line)
		}
		_, blocks := s.Growth()
		found += blocks
	}
	if found != lost {
		t.Errorf("%d blocks are accused, and %d were lost", found, lost)
	}
	if t.Failed() {
		for _, c := range r.Cleared {
			t.Logf("cleared: %v %s %v", r.Series[0].Callers(c.Stack), c.Why, c.Bytes)
		}
	}
}

// textLine is the number of the first line that holds some text.
func textLine(source, text string) int {
	return 1 + slices.IndexFunc(strings.Split(source, "\n"), func(s string) bool { return strings.Contains(s, text) })
}

// checkNativeLine requires that each suspect was allocated in the extension, in the line that loses it, as addr2line
// (binutils) reads the extension's debug information.
func checkNativeLine(t *testing.T, r *heap.LeakReport, module string) {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(nativeDir, "leaky.c"))
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("leaky.c:%d", textLine(string(source), "/* the leak */"))
	for _, s := range r.Suspects {
		f := r.Series[0].Callers(s.Stack)[0]
		if f.Module != module {
			t.Errorf("the leak is in %+v, and should be in %s", f, module)
			continue
		}
		out, err := exec.CommandContext(t.Context(), "addr2line", "-e", module, fmt.Sprintf("%#x", f.Addr)).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("the leak at %#x is in %s (%v), and should be in %s", f.Addr, out, err, want)
		}
	}
}
