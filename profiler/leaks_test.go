package profiler

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/internal/pytarget"
)

// planted are the leaks of testdata/leaks/planted.py.
var planted = []string{"leak_list", "leak_lru", "leak_callbacks", "leak_cycles", "leak_threads", "leak_tasks",
	"leak_tracebacks", "leak_dict", "leak_closure"}

// startServer runs a server of testdata/leaks in the interpreter, with the C extension where there are headers to build
// it with, and returns what leaks in it.
func startServer(t *testing.T, in pytarget.Interpreter, kind string) (*pytarget.Target, []string) {
	t.Helper()
	tg := pytarget.Start(t, in, "", pytarget.Options{})
	leaks := slices.Clone(planted)
	for _, name := range []string{"planted.py", kind + ".py"} {
		source, err := os.ReadFile(filepath.Join("testdata", "leaks", name))
		if err != nil {
			t.Fatal(err)
		}
		tg.ExecFile("/srv/shop/"+name, "import os\n"+string(source))
	}
	if module := buildExtension(t, tg, in); module != "" {
		tg.Exec("import importlib.util as u; spec = u.spec_from_file_location('forget', " + quotePython(module) + "); " +
			"extension = u.module_from_spec(spec); spec.loader.exec_module(extension); None")
		leaks = append(leaks, "leak_extension")
	}
	if kind == "asyncio" {
		leaks = append(leaks, "leak_waiting")
	}
	return tg, leaks
}

func quotePython(text string) string { return `"` + strings.ReplaceAll(text, `\`, `\\`) + `"` }

// buildExtension compiles testdata/leaks/forget.c for an interpreter; "" where its headers are not installed.
func buildExtension(t *testing.T, tg *pytarget.Target, in pytarget.Interpreter) string {
	t.Helper()
	include := strings.Trim(tg.Exec("import sysconfig; sysconfig.get_paths()['include']"), `"'`)
	if _, err := os.Stat(filepath.Join(in.Root, include, "Python.h")); err != nil {
		t.Logf("%s has no headers: without the C extension", in.Name)
		return ""
	}
	gcc, err := exec.LookPath("gcc")
	if err != nil || in.Root != "" {
		t.Logf("no compiler for %s: without the C extension", in.Name)
		return ""
	}
	out := filepath.Join(t.TempDir(), "forget.so")
	cmd := exec.CommandContext(t.Context(), gcc, "-shared", "-fPIC", "-O1", "-I"+include, "-o", out,
		filepath.Join("testdata", "leaks", "forget.c"))
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, text)
	}
	return out
}

// functionsOf are the functions of the planted program on a suspect's stack.
func functionsOf(r *heap.LeakReport, stack int32) []string {
	var names []string
	for _, f := range r.Series[0].Callers(stack) {
		if name, _, _ := strings.Cut(f.Func, "."); strings.HasPrefix(name, "leak_") || strings.HasPrefix(name, "innocent_") {
			names = append(names, strings.TrimSuffix(name, "_task"))
		}
	}
	return names
}

// Every leak of a server under load is found, and nothing else is accused: not the caches that fill up, the buffer that
// is emptied, the table that is made once, the pool; and nothing of the server itself.
func TestLeaksInServers(t *testing.T) {
	const requests = 60 // between two snapshots
	for _, in := range chosen(t) {
		if in.Minor() != 11 && in.Minor() != 13 {
			continue
		}
		for _, kind := range []string{"threaded", "asyncio"} {
			t.Run(in.Name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				tg, leaks := startServer(t, in, kind)
				tg.Exec("load(20)")
				if _, err := Attach(t.Context(), tg.Pid(), AttachOptions{}); err != nil {
					t.Fatal(err)
				}
				h, err := FindLeaks(t.Context(), tg.Pid(), LeakOptions{Snapshots: 9, Wait: func(context.Context, int) error {
					tg.Exec("load(" + "60" + ")")
					return nil
				}})
				if err != nil {
					t.Fatal(err)
				}
				checkSuspects(t, h.LeakReport, leaks, requests*8)
				checkContainers(t, h)
				tg.Challenge()
				mustDetach(t, tg.Pid())
			})
		}
	}
}

// partOfLeak is the leak that allocated at a stack, "" for what is none of them. A thread that never ends has what it
// made for itself; a task's own step makes what the task keeps.
func partOfLeak(r *heap.LeakReport, stack int32) string {
	if names := functionsOf(r, stack); len(names) > 0 {
		return names[0]
	}
	callers := r.Series[0].Callers(stack)
	if stack == heap.None { // a thread's first part of the stack of Python frames, mapped before it has one
		return "leak_threads"
	}
	if len(callers) < 2 {
		return ""
	}
	switch leaf := callers[0].Func; {
	case strings.HasPrefix(leaf, "Thread._"), leaf == "Condition.wait" && callers[1].Func == "Event.wait":
		return "leak_threads"
	case leaf == "Handle._run":
		return "leak_waiting"
	case leaf == "serve": // the requests' numbers, and what calls make before the function's first line: cells, C's caches
		return "leak_closure"
	}
	return ""
}

// checkContainers requires that the dicts and lists that leak_dict makes are known with their lengths: 2 and 1.
func checkContainers(t *testing.T, h *LeakHunt) {
	t.Helper()
	lengths := map[string]int64{}
	for stack, list := range h.Containers {
		if partOfLeak(h.LeakReport, stack) != "leak_dict" {
			continue
		}
		for _, c := range list {
			if n, seen := lengths[c.Type]; c.Type == "dict" && c.Length != 2 || c.Type == "list" && c.Length != 1 || seen && n != c.Length {
				t.Errorf("a %s of leak_dict has the length %d", c.Type, c.Length)
			}
			lengths[c.Type] = c.Length
		}
	}
	if lengths["dict"] != 2 {
		t.Errorf("no dict of leak_dict was looked into: %v", lengths)
	}
}

// checkSuspects requires that the suspects are the leaks.
func checkSuspects(t *testing.T, r *heap.LeakReport, leaks []string, requests int64) {
	t.Helper()
	found := map[string]int64{} // blocks by leak
	for _, s := range r.Suspects {
		names := functionsOf(r, s.Stack)
		bytes, blocks := s.Growth()
		name := partOfLeak(r, s.Stack)
		switch {
		case slices.Contains(leaks, name):
			found[name] += blocks
		case s.Reused: // a leak holds them, in place of what was allocated here
		default:
			t.Errorf("accused is %v: %+d bytes, %+d blocks: %v, %v", r.Series[0].Callers(s.Stack), bytes, blocks, s.Bytes, s.Types)
		}
		if s.BytesPerMinute <= 0 && s.BlocksPerMinute <= 0 {
			t.Errorf("%v grows by %g bytes and %g blocks a minute", names, s.BytesPerMinute, s.BlocksPerMinute)
		}
	}
	for _, name := range leaks {
		least := requests / 2
		if name == "leak_threads" {
			least = requests / 20
		}
		if found[name] < least {
			t.Errorf("%s: %d blocks are accused, want %d and more", name, found[name], least)
		}
	}
	if t.Failed() {
		for _, c := range r.Cleared {
			t.Logf("cleared: %v %s %v", functionsOf(r, c.Stack), c.Why, c.Bytes)
		}
	}
}
