package cpython

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/proc"
)

// interpreters lists the Python programs on this machine: those that pyenv built, and Debian's own.
func interpreters(t testing.TB) []string {
	t.Helper()
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(home, ".pyenv", "versions", "3.*", "bin", "python3"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/usr/bin/python3"); err == nil {
		found = append(found, "/usr/bin/python3")
	}
	if len(found) == 0 {
		t.Fatal("no Python interpreter was found: neither /usr/bin/python3 nor any in ~/.pyenv/versions")
	}
	return found
}

// target is a running program that answers each line we write with one line.
type target struct {
	t    testing.TB
	proc *proc.Process
	mem  *proc.Mem
	in   io.WriteCloser
	out  *bufio.Reader
}

// start runs a program and waits for its first line, which must be "ready".
func start(t testing.TB, env []string, name string, args ...string) *target {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tg := &target{t: t, in: stdin, out: bufio.NewReader(stdout)}
	t.Cleanup(func() {
		stdin.Close()
		cancel()
		cmd.Wait()
	})
	if got := tg.read(); got != "ready" {
		t.Fatalf("%s: first line %q, want ready", name, got)
	}
	if tg.proc, err = proc.Open(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tg.proc.Close() })
	if tg.mem, err = tg.proc.Mem(); err != nil {
		t.Fatal(err)
	}
	return tg
}

// read returns the target's next line.
func (tg *target) read() string {
	tg.t.Helper()
	line, err := tg.out.ReadString('\n')
	if err != nil {
		tg.t.Fatalf("read from target: %v", err)
	}
	return strings.TrimSuffix(line, "\n")
}

// do writes a line and returns the answer.
func (tg *target) do(line string) string {
	tg.t.Helper()
	if _, err := io.WriteString(tg.in, line+"\n"); err != nil {
		tg.t.Fatalf("write to target: %v", err)
	}
	return tg.read()
}

func (tg *target) find() *Interpreter {
	tg.t.Helper()
	in, err := Find(tg.proc, tg.mem)
	if err != nil {
		tg.t.Fatal(err)
	}
	return in
}
