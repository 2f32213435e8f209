package inferior

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
)

// target is testdata/target.c, built in some way, running.
type target struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	*Process
}

// compile builds testdata/target.c.
func compile(t testing.TB, compiler string, flags ...string) string {
	t.Helper()
	if _, err := exec.LookPath(compiler); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("no %s on this machine", compiler)
	}
	bin := filepath.Join(t.TempDir(), "target")
	args := append([]string{"-O1", "-pthread", "-o", bin, filepath.Join("testdata", "target.c")}, flags...)
	if out, err := exec.Command(compiler, append(args, "-lm")...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", compiler, strings.Join(args, " "), err, out)
	}
	return bin
}

// start runs a program that was compiled and waits until it says that it is ready.
func start(t testing.TB, bin string) *target {
	t.Helper()
	tg := &target{t: t, cmd: exec.Command(bin)}
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
	tg.says("ready")
	if tg.Process, err = Open(tg.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tg.Process.Close() })
	return tg
}

// startTarget compiles and starts in one.
func startTarget(t testing.TB, flags ...string) *target {
	t.Helper()
	return start(t, compile(t, "gcc", flags...))
}

// line reads one line of the target's output.
func (tg *target) line() string {
	tg.t.Helper()
	s, err := tg.out.ReadString('\n')
	if err != nil {
		state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", tg.cmd.Process.Pid))
		tg.t.Fatalf("target: %v (state: %s)", err, state)
	}
	return strings.TrimSuffix(s, "\n")
}

// says fails the test unless that is the target's next line.
func (tg *target) says(want string) {
	tg.t.Helper()
	if got := tg.line(); got != want {
		tg.t.Fatalf("target said %q, want %q", got, want)
	}
}

// do asks the target and returns its answer.
func (tg *target) do(line string) string {
	tg.t.Helper()
	if _, err := io.WriteString(tg.in, line+"\n"); err != nil {
		tg.t.Fatal(err)
	}
	return tg.line()
}

// computes proves that the target goes on, and right.
func (tg *target) computes(n int) {
	tg.t.Helper()
	if got, want := tg.do(fmt.Sprintf("sum %d", n)), fmt.Sprint(n*(n+1)/2); got != want {
		tg.t.Fatalf("target says that the sum is %s, want %s", got, want)
	}
}

// enter starts threads in a state and returns the first of that name once all of them wait in a system call, or
// compute, as the state has it.
func (tg *target) enter(state string, n int) Thread {
	tg.t.Helper()
	if got := tg.do(fmt.Sprintf("enter %s %d", state, n)); got != "entered "+state {
		tg.t.Fatalf("target said %q", got)
	}
	ctx := deadline(tg.t)
	for ctx.Err() == nil {
		threads, err := tg.Threads()
		if err != nil {
			tg.t.Fatal(err)
		}
		var there []Thread
		for _, t := range threads {
			if t.Name != state {
				continue
			}
			b, err := os.ReadFile(tg.process.Path("task", fmt.Sprint(t.Tid), "syscall"))
			waits := strings.HasPrefix(string(b), "0 ") || strings.HasPrefix(string(b), "202 ") // read or futex
			if err == nil && (waits || state == "busy" || state == "constant") {
				there = append(there, t)
			}
		}
		if len(there) >= n {
			return there[0]
		}
	}
	tg.t.Fatalf("no thread came to %q", state)
	return Thread{}
}

// deadline is a context that ends a little before the test's own time limit.
func deadline(t testing.TB) context.Context {
	end := time.Now().Add(time.Minute)
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if limit, ok := d.Deadline(); ok && limit.Add(-5*time.Second).Before(end) {
			end = limit.Add(-5 * time.Second)
		}
	}
	ctx, cancel := context.WithDeadline(t.Context(), end)
	t.Cleanup(cancel)
	return ctx
}
