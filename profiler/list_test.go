package profiler

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// holdPython starts the machine's python3, which does nothing until the test ends, and returns its pid.
func holdPython(t *testing.T) int {
	t.Helper()
	c := exec.Command("python3", "-I", "-c", "import sys; print('ready', flush=True); sys.stdin.read()")
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		c.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("python3 said %q, %v", line, err)
	}
	return c.Process.Pid
}

func TestList(t *testing.T) {
	pid := holdPython(t)
	list, err := List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for i, c := range list {
		if i > 0 && list[i-1].Pid >= c.Pid {
			t.Errorf("process %d comes after %d", c.Pid, list[i-1].Pid)
		}
		if c.Pid == os.Getpid() {
			t.Errorf("this test is listed as a Python: %+v", c)
		}
		if c.Pid != pid {
			continue
		}
		found = true
		if c.Problem != "" || c.Tracked != "" || c.RSS == 0 || c.User == "" || !strings.HasPrefix(c.Python.Version, "3.") ||
			!strings.Contains(c.Command, "sys.stdin.read()") {
			t.Errorf("candidate %+v", c)
		}
	}
	if !found {
		t.Errorf("process %d is not in %+v", pid, list)
	}
}

func TestListCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := List(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

// A machine with hundreds of processes must not make a list slow: each that is no Python costs next to nothing.
func TestListAmongMany(t *testing.T) {
	const many = 300
	stdin, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	var all []*exec.Cmd
	defer func() {
		w.Close()
		for _, c := range all {
			c.Wait()
		}
	}()
	for range many {
		c := exec.Command("cat")
		c.Stdin = stdin
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	began := time.Now()
	if _, err := List(t.Context()); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	t.Logf("%d processes more: %v", many, took)
	// Measured: 15 ms. The bound is for a machine that many share.
	if took > 2*time.Second*time.Duration(max(1, 4/runtime.GOMAXPROCS(0))) {
		t.Errorf("a list among %d processes took %v", many, took)
	}
}

func TestNamedPython(t *testing.T) {
	for name, want := range map[string]bool{
		"python": true, "python3.11": true, "libpython3.11.so.1.0": true, "pypy3": true,
		"_datetime.cpython-311-x86_64-linux-gnu.so": true, "libc.so.6": false, "heaptap": false, "": false,
	} {
		if got := namedPython(name); got != want {
			t.Errorf("namedPython(%q) = %v", name, got)
		}
	}
}
