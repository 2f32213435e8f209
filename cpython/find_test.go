package cpython

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/heaptap/heaptap/mem"
)

func TestFindTellsVersionAndFlavour(t *testing.T) {
	eachPython(t, func(t *testing.T, p program) {
		tg := startPython(t, p)
		in := tg.find()
		var version string
		tg.eval("sys.version.split()[0]", &version)
		if in.Version.String() != version {
			t.Errorf("version %v, want %s", in.Version, version)
		}
		want := Static
		if strings.Contains(p.path, ".pyenv") {
			want = Shared
		}
		if in.Flavour != want {
			t.Errorf("flavour %v, want %v", in.Flavour, want)
		}
		if len(in.Notes) != 0 {
			t.Errorf("notes: %q", in.Notes)
		}
		if !in.Compared {
			t.Errorf("%v is not among the compared releases", in.Version)
		}
	})
}

// The allocators are where the file's full symbol table says and hold what it says, for builds that have one.
func TestAllocatorsEqualSymbolTable(t *testing.T) {
	checked := 0
	eachPython(t, func(t *testing.T, p program) {
		tg := startPython(t, p)
		in := tg.find()
		truth, err := in.Module.Symtab("_PyMem_Raw", "_PyMem", "_PyObject", "_PyMem_RawMalloc", "_PyObject_Malloc",
			"_PyMem_RawFree", "_PyObject_Free")
		if err != nil {
			t.Skipf("nothing to compare with: %v", err)
		}
		checked++
		if !in.Version.atLeast(3, 12) {
			want := [NumDomains]mem.Addr{truth["_PyMem_Raw"].Addr, truth["_PyMem"].Addr, truth["_PyObject"].Addr}
			if in.Allocators != want {
				t.Errorf("allocators %v, want %v", in.Allocators, want)
			}
		}
		for d, fn := range []string{"RawMalloc RawFree _PyMem_", "Malloc Free _PyObject_", "Malloc Free _PyObject_"} {
			f := strings.Fields(fn)
			al, err := in.readAllocator(tg.mem, in.Allocators[d])
			if err != nil {
				t.Fatal(err)
			}
			if want := truth[f[2]+f[0]].Addr; al.malloc != want || want == 0 {
				t.Errorf("domain %d: malloc %v, want %v", d, al.malloc, want)
			}
			if want := truth[f[2]+f[1]].Addr; al.free != want || want == 0 {
				t.Errorf("domain %d: free %v, want %v", d, al.free, want)
			}
		}
	})
	if checked == 0 {
		t.Error("no interpreter had a symbol table")
	}
}

func TestAllocatorState(t *testing.T) {
	eachPython(t, func(t *testing.T, p program) {
		for _, c := range []struct {
			env   string
			debug bool
		}{
			{"PYTHONMALLOC=", false},
			{"PYTHONMALLOC=malloc", false},
			{"PYTHONMALLOC=debug", true},
			{"PYTHONMALLOC=pymalloc_debug", true},
			{"PYTHONMALLOC=malloc_debug", true},
		} {
			t.Run(c.env, func(t *testing.T) {
				tg := startPython(t, p, c.env)
				in := tg.find()
				// What pymalloc itself counts tells whether it is in use. (With 3.6, "debug" is over malloc.)
				var blocks int
				tg.eval("sys.getallocatedblocks()", &blocks)
				backend := Libc
				if blocks > 1000 {
					backend = Pymalloc
				}
				check := func(when string, want AllocatorState) {
					t.Helper()
					got, err := in.AllocatorState(tg.mem)
					if err != nil {
						t.Fatal(err)
					}
					got.malloc = 0
					if got != want {
						t.Errorf("%s: %+v, want %+v", when, got, want)
					}
				}
				check("at first", AllocatorState{Backend: backend, Debug: c.debug})
				var tracing bool
				if tg.eval("tracemalloc_on()", &tracing); !tracing {
					t.Fatal("tracemalloc did not start")
				}
				check("tracing", AllocatorState{Backend: backend, Debug: c.debug, Tracing: true})
				if again := tg.find(); again.Allocators != in.Allocators {
					t.Errorf("allocators found while tracing %v, before %v", again.Allocators, in.Allocators)
				}
				tg.eval("tracemalloc_off()", &tracing)
				check("at last", AllocatorState{Backend: backend, Debug: c.debug})
			})
		}
	})
}

// The alignment found is that of the addresses at which small objects really are.
func TestBlockAlign(t *testing.T) {
	eachPython(t, func(t *testing.T, p program) {
		tg := startPython(t, p)
		in := tg.find()
		var ids []uint64
		tg.eval("[id(x) for x in [[object() for _ in range(2000)]] for x in x]", &ids)
		if len(ids) != 2000 {
			t.Fatalf("%d objects", len(ids))
		}
		odd := 0 // objects without a GC head stand at the start of their block
		for _, id := range ids {
			if id%16 != 0 {
				odd++
			}
		}
		switch {
		case in.Layout.BlockAlign != 8 && in.Layout.BlockAlign != 16:
			t.Errorf("alignment %d", in.Layout.BlockAlign)
		case in.Layout.BlockAlign == 16 && odd > 0:
			t.Errorf("alignment 16, but %d of %d objects are at odd multiples of 8", odd, len(ids))
		case in.Layout.BlockAlign == 8 && odd == 0:
			t.Errorf("alignment 8, but all of %d objects are at multiples of 16", len(ids))
		}
	})
}

func TestSubinterpreters(t *testing.T) {
	eachPython(t, func(t *testing.T, p program) {
		tg := startPython(t, p)
		in := tg.find()
		if got := len(tg.states(in)); got != 1 {
			t.Errorf("%d interpreters at first, want 1", got)
		}
		var want int
		if tg.eval("subinterpreter()", &want); want == 0 {
			t.Skip("this release cannot make interpreters from Python")
		}
		tg.eval("subinterpreter()", &want)
		states := tg.states(in)
		if len(states) != want || want != 3 {
			t.Errorf("%d interpreters, want %d", len(states), want)
		}
		ids := make(map[int64]bool)
		for _, s := range states {
			ids[s.ID] = true
		}
		if len(ids) != want || !ids[0] {
			t.Errorf("interpreter ids %v", ids)
		}
		tg.find() // the probes still pass
	})
}

func TestFinalising(t *testing.T) {
	eachPython(t, func(t *testing.T, p program) {
		tg := startPython(t, p)
		in := tg.find()
		if finalizing, err := in.Finalizing(tg.mem); finalizing || err != nil {
			t.Errorf("finalizing %v, %v", finalizing, err)
		}
		tg.write("leave()")
		if got := tg.read(); got != "finalising" {
			t.Fatalf("target said %q", got)
		}
		if finalizing, err := in.Finalizing(tg.mem); !finalizing || err != nil {
			t.Errorf("finalizing %v, %v", finalizing, err)
		}
		_, err := Find(tg.proc, tg.mem)
		if nr := (*NotReadyError)(nil); !errors.As(err, &nr) || !nr.Version.atLeast(3, 6) {
			t.Errorf("Find of a finalising Python: %v", err)
		}
	})
}

func TestRefused(t *testing.T) {
	const source = "import sys\nsys.stdout.write('ready\\n')\nsys.stdout.flush()\nsys.stdin.readline()\n"
	for _, p := range allPrograms(t) {
		if !p.refused() {
			continue
		}
		t.Run(p.String(), func(t *testing.T) {
			tg := p.start(t, source)
			_, err := Find(tg.proc, tg.mem)
			var un *UnsupportedError
			if !errors.As(err, &un) {
				t.Fatalf("Find gave %v", err)
			}
			name := regexp.MustCompile(`python(\d+\.\d+)([dt]*)`).FindStringSubmatch(filepath.Base(p.path))
			if got := fmt.Sprintf("%d.%d", un.Version.Major, un.Version.Minor); got != name[1] {
				t.Errorf("version %s, want %s", got, name[1])
			}
			if un.Debug != strings.Contains(name[2], "d") || un.FreeThreaded != strings.Contains(name[2], "t") {
				t.Errorf("debug %v, free-threaded %v for %s", un.Debug, un.FreeThreaded, p)
			}
			t.Log(err)
		})
	}
}

func TestNotPython(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "echo ready; read x")
	tg := startCommand(t, cmd)
	_, err := Find(tg.proc, tg.mem)
	if np := (*NotPythonError)(nil); !errors.As(err, &np) || np.Pid != cmd.Process.Pid {
		t.Errorf("Find of a shell: %v", err)
	}
}

// What 3.13 and later say about themselves is what the tables say.
func TestOwnAccountAgreesWithTable(t *testing.T) {
	eachPython(t, func(t *testing.T, p program) {
		tg := startPython(t, p)
		in := tg.find()
		if !in.Version.atLeast(3, 13) {
			t.Skip("this release tells nothing of itself")
		}
		table, ok := layoutFor(in.Version)
		if !ok {
			t.Fatal("no table")
		}
		if diff := cmp.Diff(table, in.Layout); diff != "" {
			t.Errorf("table and live layout (-table +live):\n%s", diff)
		}
		l := Layout{}
		differ, err := overlay(&l, tg.mem, in.Runtime, in.Version)
		if err != nil || len(differ) < 20 {
			t.Errorf("laid over nothing, %d fields differ, %v", len(differ), err)
		}
	})
}
