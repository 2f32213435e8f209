package cpython

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// compile builds a C program of testdata and returns its path.
func compile(t *testing.T, source string, flags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("gcc", append([]string{"-O1", "-o", out, filepath.Join("testdata", source)}, flags...)...)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v (this test needs gcc and libpython3.11-dev)\n%s", cmd, err, b)
	}
	return out
}

const debianConfig = "/usr/lib/python3.11/config-3.11-x86_64-linux-gnu/"

// stages goes through the life of an embedded interpreter: not there yet, idle, running, gone.
func stages(t *testing.T, tg *target, minor uint8, check func(*Interpreter)) {
	t.Helper()
	notReady := func(when string) {
		t.Helper()
		_, err := Find(tg.proc, tg.mem)
		if nr := (*NotReadyError)(nil); !errors.As(err, &nr) {
			t.Errorf("%s: Find gave %v", when, err)
		}
	}
	next := func(want string) {
		t.Helper()
		tg.write("")
		if got := tg.read(); got != want {
			t.Fatalf("target said %q, want %q", got, want)
		}
	}
	notReady("before Py_Initialize")

	next("initialized")
	in := tg.find()
	if in.Version.Minor != minor {
		t.Errorf("version %v, want 3.%d", in.Version, minor)
	}
	if in.Flavour != Embedded {
		t.Errorf("flavour %v", in.Flavour)
	}
	if len(in.Notes) == 0 || !strings.Contains(in.Notes[len(in.Notes)-1], "no Python code was running") {
		t.Errorf("notes of an idle interpreter: %q", in.Notes)
	}
	check(in)

	next("running")
	in = tg.find()
	if len(in.Notes) > 0 && strings.Contains(in.Notes[len(in.Notes)-1], "no Python code was running") {
		t.Errorf("notes of a running interpreter: %q", in.Notes)
	}
	frames, err := in.Walk(tg.mem, tg.states(in)[0].Threads[0])
	if err != nil {
		t.Fatal(err)
	}
	var got []any
	for _, f := range frames {
		got = append(got, f.Name, f.Line)
	}
	if diff := cmp.Diff([]any{"inside", 3, "<module>", 4}, got); diff != "" {
		t.Errorf("stack (-want +got):\n%s", diff)
	}

	next("finalized")
	notReady("after Py_Finalize")
}

func TestEmbeddedLibrary(t *testing.T) {
	program := compile(t, "embed.c", "-I/usr/include/python3.11", "-lpython3.11")
	stages(t, startCommand(t, exec.Command(program)), 11, func(in *Interpreter) {
		if !strings.Contains(in.Module.Path, "libpython3.11") {
			t.Errorf("found in %s", in.Module.Path)
		}
	})
}

// A program that is not position-independent holds the library's variables that it names.
func TestEmbeddedCopy(t *testing.T) {
	program := compile(t, "embed.c", "-I/usr/include/python3.11", "-DCOPY", "-no-pie", "-fno-pie", "-lpython3.11")
	stages(t, startCommand(t, exec.Command(program)), 11, func(in *Interpreter) {
		if in.Module.Contains(in.CodeType) {
			t.Errorf("PyCode_Type is %v, in the library: this test shows nothing", in.CodeType)
		}
	})
}

func TestEmbeddedPyenv(t *testing.T) {
	eachPython(t, func(t *testing.T, p program) {
		prefix := filepath.Dir(filepath.Dir(p.path))
		libs, err := filepath.Glob(filepath.Join(prefix, "lib", "libpython3.*.so"))
		if err != nil || len(libs) == 0 {
			t.Skip("has no shared library to link with")
		}
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(libs[0]), "lib"), ".so")
		lib := filepath.Join(prefix, "lib")
		cmd := exec.Command(compile(t, "embed.c", "-I"+filepath.Join(prefix, "include", name), "-L"+lib, "-l"+name,
			"-Wl,-rpath,"+lib))
		cmd.Env = append(os.Environ(), "PYTHONHOME="+prefix)
		stages(t, startCommand(t, cmd), startPython(t, p).find().Version.Minor, func(*Interpreter) {})
	})
}

// An interpreter linked into a program that exports nothing is known by its text, and found by the symbol table.
func TestLinkedIn(t *testing.T) {
	flags := []string{"-I/usr/include/python3.11", "-no-pie", debianConfig + "libpython3.11.a", "-lm", "-ldl", "-lexpat",
		"-lz"}
	for _, stripped := range []bool{false, true} {
		if stripped {
			flags = append(flags, "-s")
		}
		tg := startCommand(t, exec.Command(compile(t, "embed.c", flags...)))
		if got := tg.doLine(); got != "initialized" {
			t.Fatalf("target said %q", got)
		}
		if got := tg.doLine(); got != "running" {
			t.Fatalf("target said %q", got)
		}
		in, err := Find(tg.proc, tg.mem)
		if !stripped {
			if err != nil || in.Flavour != Embedded || in.Version.Minor != 11 || !in.Module.Main {
				t.Errorf("Find: %+v, %v", in, err)
			}
			continue
		}
		if un := (*UnsupportedError)(nil); !errors.As(err, &un) || un.Version.Minor != 11 {
			t.Errorf("Find of a stripped one: %v", err)
		}
	}
}

func (tg *target) doLine() string {
	tg.t.Helper()
	tg.write("")
	return tg.read()
}

// A library that exports what PyPy does is PyPy.
func TestPyPy(t *testing.T) {
	tg := startCommand(t, exec.Command(compile(t, "pypy.c", "-rdynamic")))
	_, err := Find(tg.proc, tg.mem)
	if un := (*UnsupportedError)(nil); !errors.As(err, &un) || !strings.Contains(un.Why, "PyPy") {
		t.Errorf("Find: %v", err)
	}
}

// Two interpreters in one process, one of them initialised: that is the one found.
func TestTwoLibraries(t *testing.T) {
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	other, err := filepath.Glob(filepath.Join(home, ".pyenv/versions/3.9.*/lib/libpython3.9.so"))
	if err != nil || len(other) == 0 {
		t.Skip("no second library on this machine")
	}
	cmd := exec.Command(compile(t, "embed.c", "-I/usr/include/python3.11", "-lpython3.11"))
	cmd.Env = append(os.Environ(), "LD_PRELOAD="+other[0], "PYTHONHOME=")
	// The program's own calls would go to the preloaded one: it is the program's libpython that stays uninitialised.
	cmd.Env = append(cmd.Env, "PYTHONHOME="+filepath.Dir(filepath.Dir(other[0])))
	tg := startCommand(t, cmd)
	if got := tg.doLine(); got != "initialized" {
		t.Fatalf("target said %q", got)
	}
	if in := tg.find(); in.Version.Minor != 9 {
		t.Errorf("found %v in %s, want the initialised 3.9", in.Version, in.Module.Path)
	}
}

// A process of another word size is refused where it looks like a Python, and is none otherwise.
func Test32Bit(t *testing.T) {
	tiny := compile(t, "tiny32.c", "-m32", "-nostdlib", "-static", "-no-pie", "-fno-pic")
	python := filepath.Join(t.TempDir(), "python3")
	if err := os.Rename(tiny, python); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(python, tiny); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(python, "check").Run(); errors.Is(err, syscall.ENOEXEC) {
		t.Skip("this kernel runs no 32-bit programs")
	}
	tg := startCommand(t, exec.Command(python))
	_, err := Find(tg.proc, tg.mem)
	if un := (*UnsupportedError)(nil); !errors.As(err, &un) || !strings.Contains(un.Why, "32-bit") {
		t.Errorf("Find: %v", err)
	}
}

// The interpreter runs in pid and mount namespaces of its own.
func TestNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces are made by root")
	}
	eachPython(t, func(t *testing.T, p program) {
		source, err := os.ReadFile("testdata/target.py")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(p.path, "-c", string(source))
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: p.root, Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
		cmd.Dir = "/"
		tg := startCommand(t, cmd)
		in := tg.find()
		ts := tg.states(in)[0].Threads[0]
		if in.Layout.Thread.NativeID.Known && ts.NativeID != 1 {
			t.Errorf("native id %d, want 1 in its own namespace", ts.NativeID)
		}
	})
}

// The interpreter's file is deleted and replaced while it runs.
func TestDeletedProgram(t *testing.T) {
	b, err := os.ReadFile("/usr/bin/python3.11")
	if err != nil {
		t.Skip(err)
	}
	path := filepath.Join(t.TempDir(), "python3.11")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	tg := startPython(t, program{path: path}, "PYTHONHOME=/usr")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("something else"), 0o755); err != nil {
		t.Fatal(err)
	}
	in := tg.find()
	if !in.Module.Deleted || in.Flavour != Static || in.Version != release(3, 11, in.Version.Micro) {
		t.Errorf("found %v %v, deleted %v", in.Version, in.Flavour, in.Module.Deleted)
	}
}
