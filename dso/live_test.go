package dso

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// build is a way to build testdata/objects.c.
type build struct {
	name    string
	cc      string
	flags   []string
	library []string // how to build a library that it can load; nil: it loads none
	exports bool     // it has a dynamic symbol table with its own functions
}

var builds = []build{
	{name: "pie", cc: "gcc", flags: []string{"-DHAVE_DLOPEN", "-rdynamic"}, library: []string{}, exports: true},
	{name: "sysv hash", cc: "gcc", flags: []string{"-DHAVE_DLOPEN", "-rdynamic", "-Wl,--hash-style=sysv"},
		library: []string{"-Wl,--hash-style=sysv"}, exports: true},
	{name: "non-pie", cc: "gcc", flags: []string{"-DHAVE_DLOPEN", "-rdynamic", "-no-pie", "-fno-pie"}, library: []string{},
		exports: true},
	{name: "no build-id", cc: "gcc", flags: []string{"-DHAVE_DLOPEN", "-rdynamic", "-Wl,--build-id=none"},
		library: []string{"-Wl,--build-id=none"}, exports: true},
	{name: "static", cc: "gcc", flags: []string{"-static"}},
	{name: "static-pie", cc: "gcc", flags: []string{"-static-pie"}},
	{name: "stripped", cc: "gcc", flags: []string{"-DHAVE_DLOPEN", "-rdynamic", "-s"}, library: []string{}, exports: true},
	{name: "musl", cc: "musl-gcc", flags: []string{"-DHAVE_DLOPEN", "-rdynamic"}, library: []string{}, exports: true},
	{name: "musl static", cc: "musl-gcc", flags: []string{"-static"}},
}

// running is a program that has told what it knows of itself.
type running struct {
	proc *proc.Process
	mem  *proc.Mem
	path string
	said []said

	stdin io.Writer
	lines *bufio.Scanner
}

// said is a line: what, version or number, address, name.
type said struct {
	what, version string
	addr          mem.Addr
	name          string
}

func compile(t *testing.T, cc, out, source string, flags ...string) {
	t.Helper()
	cmd := exec.Command(cc, append([]string{"-O1", "-o", out, filepath.Join("testdata", source)}, flags...)...)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v (these tests need gcc and musl-tools)\n%s", cmd, err, b)
	}
}

func (b build) start(t *testing.T) *running {
	t.Helper()
	dir := t.TempDir()
	r := &running{path: filepath.Join(dir, "objects")}
	compile(t, b.cc, r.path, "objects.c", b.flags...)
	var args []string
	if b.library != nil {
		library := filepath.Join(dir, "library.so")
		compile(t, b.cc, library, "library.c", append([]string{"-shared", "-fPIC"}, b.library...)...)
		data := filepath.Join(dir, "data.so")
		compile(t, b.cc, data, "library.c", "-shared", "-fPIC")
		args = []string{library, data}
	}
	r.run(t, exec.Command(r.path, args...))
	return r
}

// run starts the program, and returns when it is ready.
func (r *running) run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
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
	t.Cleanup(func() {
		stdin.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	r.stdin, r.lines = stdin, bufio.NewScanner(stdout)
	r.listen(t)
	if r.proc, err = proc.Open(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.proc.Close() })
	if r.mem, err = r.proc.Mem(); err != nil {
		t.Fatal(err)
	}
}

// listen takes what the program says until it is ready.
func (r *running) listen(t *testing.T) {
	t.Helper()
	for {
		if !r.lines.Scan() {
			t.Fatalf("program ended early: %v", r.lines.Err())
		}
		if r.lines.Text() == "ready" {
			return
		}
		r.said = append(r.said, parse(t, r.lines.Text()))
	}
}

func parse(t *testing.T, line string) said {
	t.Helper()
	var s said
	var hex string
	if n, _ := fmt.Sscan(line, &s.what, &s.version, &hex, &s.name); n < 3 {
		t.Fatalf("program said %q", line)
	}
	if s.what == "object" { // bias, number of program headers, name
		s.version, hex = hex, s.version
	}
	if _, err := fmt.Sscanf(strings.TrimPrefix(hex, "0x"), "%x", &s.addr); err != nil {
		t.Fatalf("program said %q: %v", line, err)
	}
	return s
}

func (r *running) modules(t *testing.T) []*Module {
	t.Helper()
	ms, err := Modules(r.proc, r.mem)
	if err != nil {
		t.Fatal(err)
	}
	if len(ms) == 0 || !ms[0].Main || ms[0].Path != r.path {
		t.Fatalf("modules %v do not begin with the program", ms)
	}
	return ms
}

func (r *running) all(what string) []said {
	var out []said
	for _, s := range r.said {
		if s.what == what {
			out = append(out, s)
		}
	}
	return out
}

func eachBuild(t *testing.T, test func(t *testing.T, b build)) {
	for _, b := range builds {
		t.Run(b.name, func(t *testing.T) { test(t, b) })
	}
}

// The modules are those that the loader's own dl_iterate_phdr lists, in its order; then those it does not show.
func TestModulesEqualLoader(t *testing.T) {
	eachBuild(t, func(t *testing.T, b build) {
		r := b.start(t)
		ms := r.modules(t)
		var got []string
		hidden := 0
		for _, m := range ms {
			if m.Path == "[vdso]" || len(r.all("other")) > 0 && inOtherNamespace(r, m, ms) {
				hidden++
				continue
			}
			got = append(got, fmt.Sprintf("%v %d", m.Bias, len(m.Programs)))
		}
		var want []string
		for _, s := range r.all("object") {
			if s.name != "linux-vdso.so.1" && !isVDSO(ms, s.addr) {
				want = append(want, fmt.Sprintf("%v %s", s.addr, s.version))
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("modules %v\nwant    %v", got, want)
		}
		if hidden == 0 {
			t.Error("no vDSO among the modules")
		}
		for _, s := range r.all("mapped") {
			for _, m := range ms {
				if m.Contains(s.addr) {
					t.Errorf("file mapped as data at %v is listed as %v", s.addr, m)
				}
			}
		}
	})
}

func isVDSO(ms []*Module, bias mem.Addr) bool {
	for _, m := range ms {
		if m.Path == "[vdso]" && m.Bias == bias {
			return true
		}
	}
	return false
}

// inOtherNamespace: dl_iterate_phdr shows only the caller's link namespace, so modules that it does not list and whose
// file is loaded twice are in the other.
func inOtherNamespace(r *running, m *Module, ms []*Module) bool {
	for _, s := range r.all("object") {
		if s.addr == m.Bias {
			return false
		}
	}
	n := 0
	for _, o := range ms {
		if o.Path == m.Path {
			n++
		}
	}
	return n == 2
}

// Symbols are where the program itself, dlsym and dlvsym say.
func TestSymbolsEqualLoader(t *testing.T) {
	eachBuild(t, func(t *testing.T, b build) {
		r := b.start(t)
		ms := r.modules(t)
		for _, s := range r.all("own") {
			sym, err := ms[0].Dynamic(s.name)
			switch {
			case b.exports && (err != nil || sym.Addr != s.addr):
				t.Errorf("%s: %+v, %v; want %v", s.name, sym, err, s.addr)
			case !b.exports && !errors.Is(err, ErrNoSymbol):
				t.Errorf("%s in a program that exports nothing: %+v, %v", s.name, sym, err)
			}
			static, err := ms[0].Symtab(s.name, "no_such_symbol")
			switch {
			case b.name == "stripped":
				if !errors.Is(err, elf.ErrNoSymbols) {
					t.Errorf("Symtab of a stripped file: %v, %v", static, err)
				}
			case err != nil || len(static) != 1 || static[s.name].Addr != s.addr:
				t.Errorf("%s: Symtab %v, %v; want %v", s.name, static, err, s.addr)
			}
		}
		for _, s := range append(r.all("local"), r.all("other")...) {
			if m := moduleAt(ms, s.addr); m == nil {
				t.Errorf("no module at %v", s.addr)
			} else if sym, err := m.Dynamic("library_function"); err != nil || sym.Addr != s.addr {
				t.Errorf("library_function: %+v, %v; want %v", sym, err, s.addr)
			}
		}
		for _, s := range r.all("symbol") {
			m := moduleAt(ms, s.addr)
			if m == nil {
				t.Errorf("no module at %v", s.addr)
				continue
			}
			var sym Symbol
			var err error
			if s.version == "-" {
				sym, err = m.Dynamic(s.name)
			} else {
				sym, err = m.DynamicVersion(s.name, s.version)
			}
			if err != nil || sym.Addr != s.addr || s.version != "-" && sym.Version != s.version {
				t.Errorf("%s@%s: %+v, %v; want %v", s.name, s.version, sym, err, s.addr)
			}
		}
		if _, err := ms[0].DynamicVersion("exported_function", "NONE_1.0"); !errors.Is(err, ErrNoSymbol) {
			t.Errorf("a version that does not exist: %v", err)
		}
	})
}

func moduleAt(ms []*Module, a mem.Addr) *Module {
	for _, m := range ms {
		if m.Contains(a) {
			return m
		}
	}
	return nil
}

// Every symbol that a file's own dynamic table defines is found in memory, by its hash, where the file has it; and no
// other is.
func TestEverySymbolIsFound(t *testing.T) {
	eachBuild(t, func(t *testing.T, b build) {
		r := b.start(t)
		for _, m := range r.modules(t) {
			if m.Path == vdsoPath {
				continue
			}
			f, err := elf.Open(m.Path)
			if err != nil {
				t.Fatal(err)
			}
			syms, err := f.DynamicSymbols()
			f.Close()
			if err != nil {
				continue // static
			}
			checked := 0
			for _, want := range syms {
				if want.Section == elf.SHN_UNDEF || want.Section == elf.SHN_ABS || want.Name == "" || checked > 400 {
					continue
				}
				checked++
				var got Symbol
				if want.HasVersion && want.Version != "" {
					got, err = m.DynamicVersion(want.Name, want.Version)
				} else {
					got, err = m.Dynamic(want.Name)
				}
				addr := m.At(want.Value)
				if elf.ST_TYPE(want.Info) == elf.STT_TLS {
					addr = mem.Addr(want.Value)
				}
				if err != nil || got.Addr != addr || got.Size != want.Size || got.Version != want.Version {
					t.Errorf("%s: %s: %+v, %v; want %v %+v", m, want.Name, got, err, addr, want)
				}
			}
			for _, none := range []string{"", "no such symbol", "_", strings.Repeat("x", maxSymbol)} {
				if s, err := m.Dynamic(none); !errors.Is(err, ErrNoSymbol) {
					t.Errorf("%s: %.20q gave %+v, %v", m, none, s, err)
				}
			}
			if id := fileBuildID(t, m); !bytes.Equal(id, m.BuildID) {
				t.Errorf("%s: build-id %x, file has %x", m, m.BuildID, id)
			}
		}
	})
}

// fileBuildID takes the build-id from the file's section, a way that the package itself does not go.
func fileBuildID(t *testing.T, m *Module) []byte {
	t.Helper()
	f, err := elf.Open(m.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sec := f.Section(".note.gnu.build-id")
	if sec == nil {
		return nil
	}
	b, err := sec.Data()
	if err != nil {
		t.Fatal(err)
	}
	return b[16:]
}

func TestVDSO(t *testing.T) {
	r := builds[0].start(t)
	ms := r.modules(t)
	vdso := ms[len(ms)-1]
	for _, m := range ms {
		if m.Path == "[vdso]" {
			vdso = m
		}
	}
	sym, err := vdso.Dynamic("__vdso_clock_gettime")
	if err != nil || !vdso.Executable(sym.Addr) || sym.Version != "LINUX_2.6" {
		t.Errorf("__vdso_clock_gettime: %+v, %v in %v", sym, err, vdso)
	}
	s := NewSymbols(ms)
	for _, name := range []string{"__vdso_clock_gettime", "vdso!clock_gettime", "[vdso]!clock_gettime",
		"linux-vdso.so.1!__vdso_clock_gettime@LINUX_2.6"} {
		if got, err := s.Resolve(name); err != nil || got.Addr != sym.Addr || got.Source != VDSO || got.Module != vdso {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if got, err := s.Resolve("clock_gettime"); err != nil || !got.Module.is("libc") {
		t.Errorf("clock_gettime: %+v, %v; want libc's", got, err)
	}
	if got, off, ok := s.At(sym.Addr + 1); !ok || got.Addr != sym.Addr || off != 1 {
		t.Errorf("in the vDSO: %+v, %d, %v", got, off, ok)
	}
	if name, err := vdso.Soname(); err != nil || name != "linux-vdso.so.1" {
		t.Errorf("soname %q, %v", name, err)
	}
	if _, err := vdso.Symtab("x"); err == nil {
		t.Error("Symtab of an object without a file")
	}
}

func TestImports(t *testing.T) {
	for _, b := range builds {
		r := b.start(t)
		got, err := r.modules(t)[0].Imports("no_such_function", "dl_iterate_phdr")
		if want := b.library != nil; err != nil || got != want {
			t.Errorf("%s: imports dl_iterate_phdr %v, %v; want %v", b.name, got, err, want)
		}
		if got, err := r.modules(t)[0].Imports("exported_function"); err != nil || got {
			t.Errorf("%s: imports its own function: %v, %v", b.name, got, err)
		}
	}
}

// A file that was replaced in place is noticed, and the symbols in memory are found all the same.
func TestReplacedFile(t *testing.T) {
	r := builds[0].start(t)
	other := filepath.Join(t.TempDir(), "other")
	compile(t, "gcc", other, "objects.c", "-O2", "-DHAVE_DLOPEN")
	if err := os.Rename(other, r.path); err != nil {
		t.Fatal(err)
	}
	m := r.moduleOfProgram(t)
	if !m.Deleted {
		t.Error("not marked as deleted")
	}
	want := r.all("own")[0]
	if sym, err := m.Dynamic(want.name); err != nil || sym.Addr != want.addr {
		t.Errorf("%+v, %v", sym, err)
	}
	if syms, err := m.Symtab(want.name); err == nil && syms[want.name].Addr != want.addr {
		t.Errorf("Symtab took the new file: %+v", syms)
	}
	// Without access to the mapped file itself the path is left, which is another file now; and, for a program, its
	// exe.
	m = r.moduleOfProgram(t)
	m.mapping.Start = 1
	if syms, err := m.Symtab(want.name); err != nil || syms[want.name].Addr != want.addr {
		t.Errorf("Symtab by exe: %+v, %v", syms, err)
	}
	m = r.moduleOfProgram(t)
	m.mapping.Start, m.Main = 1, false
	if syms, err := m.Symtab(want.name); err == nil {
		t.Errorf("Symtab took the new file: %+v", syms)
	}
}

func (r *running) moduleOfProgram(t *testing.T) *Module {
	t.Helper()
	ms, err := Modules(r.proc, r.mem)
	if err != nil {
		t.Fatal(err)
	}
	return ms[0]
}
