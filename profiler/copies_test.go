package profiler

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/internal/pytarget"
	"github.com/heaptap/heaptap/proc"
)

// startCopies runs copies.c in a target.
func startCopies(t *testing.T) *pytarget.Target {
	t.Helper()
	tg := pytarget.Start(t, debian(t), "import ctypes, os, threading", pytarget.Options{})
	library := compile(t, filepath.Join(t.TempDir(), "copies.so"), "copies.c")
	tg.Exec("lib = ctypes.CDLL(" + quotePython(library) + "); lib.await_ = getattr(lib, 'await'); lib.begin()")
	return tg
}

// TestCopiesArePutBack: a program calls free by a copy of what it found in a slot, which it has kept where a search of
// memory does not find it, or finds another form of it. After the detach there is no agent, and the call is free's.
func TestCopiesArePutBack(t *testing.T) {
	t.Parallel()
	const join = "lib.release(); thread.join(60); thread.is_alive()"
	thread := func(function string) string {
		return "thread = threading.Thread(target=lib." + function + "); thread.start(); lib.await_(); None"
	}
	for _, c := range []struct{ name, keep, use, want string }{
		{"register", thread("in_register"), join, "False"},
		{"turns", thread("in_turns"), "lib.end(); thread.join(60); thread.is_alive()", "False"},
		{"mangled", "lib.mangle_make(); None", "pid = os.fork()\nif not pid: lib.exit(0)\nos.waitpid(pid, 0)[1]", "0"},
		{"read-only", "lib.readonly_make(); None", "lib.use(); 1", "1"},
		{"heap", "lib.heap_make(); None", "lib.use(); 1", "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tg := startCopies(t)
			mustAttach(t, tg.Pid())
			tg.Exec(c.keep)
			mustDetach(t, tg.Pid())
			if got := tg.Exec(c.use); got != c.want {
				t.Errorf("used afterwards: %s", got)
			}
			tg.Challenge()
		})
	}
}

// TestCopiesThatStay: a copy that may be something else, or not the target's alone, is left alone, and what it leads to
// stays; when it has gone, so does the agent.
func TestCopiesThatStay(t *testing.T) {
	t.Parallel()
	tg := startCopies(t)
	for _, kind := range []string{"odd", "shared", "code"} {
		mustAttach(t, tg.Pid())
		tg.Exec("lib." + kind + "_make(); None")
		d, err := Detach(t.Context(), tg.Pid())
		if err != nil || d.Unmapped || !strings.Contains(d.Why, "still points to the agent") {
			t.Fatalf("%s: %+v, %v", kind, d, err)
		}
		mustBe(t, tg.Pid(), Passive)
		tg.Exec("lib.use(); lib.drop(); None")
		if d, err := Repair(t.Context(), tg.Pid()); err != nil || !d.Unmapped {
			t.Fatalf("%s: repair: %+v, %v", kind, d, err)
		}
	}
	tg.Challenge()
}

// TestDetachUnderVfork: a child by vfork runs on while the target's threads stand still, in the same memory.
func TestDetachUnderVfork(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	tg := pytarget.Start(t, debian(t), "import os, sys, threading", pytarget.Options{})
	mustAttach(t, tg.Pid())
	// The child of posix_spawn opens it, and waits for somebody who writes, before it executes anything.
	tg.Exec("pids = []; thread = threading.Thread(target=lambda: pids.append(os.posix_spawn(sys.executable, " +
		"[sys.executable, '-c', 'pass'], os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 0, " + quotePython(fifo) +
		", os.O_RDONLY, 0)]))); None")
	started := make(chan error)
	go func() {
		_, err := tg.Try("thread.start()") // Python 3.11 holds the GIL until the child executes
		started <- err
	}()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for children := []int(nil); len(children) == 0 || !sharesMemory(children[0], tg.Pid()); <-look.C {
		var err error
		if children, err = (&proc.Process{Pid: tg.Pid()}).Children(); err != nil || t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	d, err := Detach(t.Context(), tg.Pid())
	if err != nil || d.Unmapped || d.Why == "" {
		t.Errorf("detach: %+v, %v", d, err)
	}
	writer, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err == nil {
		err = <-started
	}
	if err != nil {
		t.Fatal(err)
	}
	writer.Close()
	if got := tg.Exec("thread.join(); os.waitpid(pids[0], 0)[1]"); got != "0" {
		t.Errorf("the child ended with %s", got)
	}
	if d, err := Repair(t.Context(), tg.Pid()); err != nil || !d.Unmapped {
		t.Errorf("repair: %+v, %v", d, err)
	}
	tg.Challenge()
}

// TestDetachUnderLoading: a thread loads modules all the time, whose slots the agent hooks, also while it is taken out.
func TestDetachUnderLoading(t *testing.T) {
	t.Parallel()
	const modules = 30
	tg := startCopies(t)
	folder := t.TempDir()
	first := compile(t, filepath.Join(folder, "0.so"), "module.c", "-Wl,-z,now,-z,relro")
	b, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i < modules; i++ {
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d.so", i)), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	rnd := newRand(t)
	for range times(t, 8) {
		mustAttach(t, tg.Pid())
		tg.Exec(fmt.Sprintf("failed = []; thread = threading.Thread(target=lambda: failed.append(lib.churn(%s.encode(), %d))); "+
			"lib.start(); thread.start(); lib.await_(); None", quotePython(folder), modules))
		letRun(t, rnd, 30*time.Millisecond)
		mustDetach(t, tg.Pid())
		if got := tg.Exec("lib.end(); thread.join(60); failed"); got != "[0]" {
			t.Fatalf("loading has ended with %s", got)
		}
	}
	tg.Challenge()
}

// TestCallsAgent: an agent that has another's hooks for originals calls it.
func TestCallsAgent(t *testing.T) {
	a := &placed{image: 0x7f0000000000, header: new(agent.Tables)}
	other := &placed{image: 0x7f1000000000, header: new(agent.Tables)}
	for _, c := range []struct {
		original uint64
		want     bool
	}{{0, false}, {0x7f0000000100, true}, {0x7f1000000100, false}} {
		other.header.Native[agent.NFree][1] = c.original
		if got, err := new(target).isCalled(a, []*placed{a, other}); err != nil || got != c.want {
			t.Errorf("original %#x: %v, %v", c.original, got, err)
		}
	}
}
