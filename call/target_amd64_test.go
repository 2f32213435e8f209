package call

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/heaptap/heaptap/proc"
)

// target is a live C program from testdata, compiled for the test.
type target struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	proc *proc.Process
}

// compile builds testdata/NAME.c.
func compile(t testing.TB, name string, flags ...string) string {
	t.Helper()
	return compileBy(t, "gcc", name, flags...)
}

func compileBy(t testing.TB, compiler, name string, flags ...string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), name)
	args := append([]string{"-O1", "-g0", "-pthread", "-o", bin, filepath.Join("testdata", name+".c")}, flags...)
	if out, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", compiler, strings.Join(args, " "), err, out)
	}
	return bin
}

// start runs a program and waits until it says that it is ready.
func start(t testing.TB, bin string, args ...string) *target {
	t.Helper()
	tg := &target{t: t, cmd: exec.Command(bin, args...)}
	tg.cmd.Stderr = os.Stderr
	var err error
	if tg.in, err = tg.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := tg.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	tg.out = bufio.NewReader(out)
	if err := tg.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tg.cmd.Process.Kill()
		tg.cmd.Wait()
	})
	if got := tg.line(); got != "ready" {
		t.Fatalf("%s said %q, want ready", bin, got)
	}
	if tg.proc, err = proc.Open(tg.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tg.proc.Close() })
	return tg
}

// line reads one line of the target's.
func (tg *target) line() string {
	tg.t.Helper()
	s, err := tg.out.ReadString('\n')
	if err != nil {
		tg.t.Fatalf("target %s: %v (state: %s)", tg.cmd.Path, err, tg.state())
	}
	return strings.TrimSuffix(s, "\n")
}

func (tg *target) state() string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", tg.cmd.Process.Pid))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// do asks the target and returns its answer.
func (tg *target) do(line string) string {
	tg.t.Helper()
	if _, err := io.WriteString(tg.in, line+"\n"); err != nil {
		tg.t.Fatalf("target: %v", err)
	}
	return tg.line()
}

// finish ends the target's input and expects it to end well.
func (tg *target) finish() {
	tg.t.Helper()
	tg.in.Close()
	if err := tg.cmd.Wait(); err != nil {
		tg.t.Errorf("target %s: %v", tg.cmd.Path, err)
	}
}

func (tg *target) plan(opts Options) *Plan {
	tg.t.Helper()
	pl, err := Prepare(tg.proc, opts)
	if err != nil {
		tg.t.Fatal(err)
	}
	return pl
}

// deadline is a context that ends a little before the test's own time limit.
func deadline(t testing.TB) context.Context {
	end := time.Now().Add(2 * time.Minute)
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if limit, ok := d.Deadline(); ok {
			end = limit.Add(-5 * time.Second)
		}
	}
	ctx, cancel := context.WithDeadline(t.Context(), end)
	t.Cleanup(cancel)
	return ctx
}
