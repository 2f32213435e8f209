package dso

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// C functions of a Go program, its Go functions, and libc's under it.
func TestGoProgram(t *testing.T) {
	r := &running{path: filepath.Join(t.TempDir(), "cgo")}
	cmd := exec.Command("go", "build", "-o", r.path, ".")
	cmd.Dir = filepath.Join("testdata", "cgo")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.run(t, exec.Command(r.path))
	s := r.symbols(t)
	for _, said := range append(r.all("own"), r.all("goes")...) {
		got, err := s.Resolve(said.name)
		if err != nil || got.Addr != said.addr {
			t.Errorf("%s: %+v, %v; want %v", said.name, got, err, said.addr)
		}
		if got, off, ok := s.At(said.addr + 1); !ok || got.Name != said.name || off != 1 {
			t.Errorf("at %s+1: %+v, %d, %v", said.name, got, off, ok)
		}
	}
	if got, err := s.Resolve("getenv"); err != nil || !got.Module.is("libc") {
		t.Errorf("getenv: %+v, %v", got, err)
	}
	if d, err := s.Modules()[0].Debug(); err != nil || d.Source != Symtab { // the Go linker compresses it
		t.Errorf("Debug: %+v, %v", d, err)
	}
}

// startWithLibrary starts the program with a libc of its own, which can be replaced.
func startWithLibrary(t *testing.T) (r *running, libc string) {
	t.Helper()
	dir := t.TempDir()
	libc = filepath.Join(dir, "libc.so.6")
	b, err := os.ReadFile(strings.TrimSpace(tool(t, "gcc", "-print-file-name=libc.so.6")))
	if err != nil {
		t.Fatal(err)
	}
	write(t, libc, b)
	r = &running{path: filepath.Join(dir, "names")}
	compile(t, "gcc", r.path, "names.c", filepath.Join("testdata", "names2.c"), "-DHAVE_DLOPEN")
	late := filepath.Join(dir, "late.so")
	compile(t, "gcc", late, "late.c", lateFlags()...)
	cmd := exec.Command(r.path, late)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+dir)
	r.run(t, cmd)
	return r, libc
}

// replace puts another file in the place of one, as an upgrade does.
func replace(t *testing.T, path string, b []byte) {
	t.Helper()
	write(t, path+".new", b)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// A library that was replaced on disk since the start: memory tells, and of files only the mapped one or one with the
// same build-id.
func TestReplacedLibrary(t *testing.T) {
	r, libc := startWithLibrary(t)
	late := filepath.Join(filepath.Dir(libc), "late.so")
	same, err := os.ReadFile(late)
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(libc)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, libc, append(old, "an upgrade"...))
	compile(t, "gcc", late+".other", "late.c", append(lateFlags(), "-O3", "-DOTHER")...)
	other, err := os.ReadFile(late + ".other")
	if err != nil {
		t.Fatal(err)
	}
	replace(t, late, other)

	s := r.symbols(t)
	for _, said := range append(r.all("libc"), r.all("bound")...) {
		got, err := s.Resolve("libc.so.6!" + said.name)
		if err != nil || got.Entry() != said.addr || !got.Module.Deleted || got.Module.Path != libc {
			t.Errorf("%s: %+v, %v; want %v of the deleted library", said.name, got, err, said.addr)
		}
	}
	wantLate := r.one(t, "late", "-", "late_function")
	check := func(what string, s *Symbols, found bool) {
		t.Helper()
		all, err := s.Lookup("internal_of_library")
		if found != (err == nil) || found && (len(all) != 2 || all[0].Addr >= wantLate) {
			t.Errorf("%s: internal_of_library: %+v, %v", what, all, err)
		}
		if all, err := s.Lookup("late_function"); err != nil || all[0].Addr != wantLate {
			t.Errorf("%s: late_function: %+v, %v", what, all, err)
		}
	}
	check("by the mapped file", s, os.Geteuid() == 0) // which only root may open
	check("another file at its path", withoutRights(r.symbols(t)), false)
	_, err = withoutRights(r.symbols(t)).Lookup("internal_of_library")
	notFound := (*NotFoundError)(nil) // of libc, and of late.so twice
	if !errors.As(err, &notFound) || len(notFound.Unread) != 3 ||
		!errors.Is(notFound.Unread[0], ErrOtherFile) && !errors.Is(notFound.Unread[1], ErrOtherFile) {
		t.Errorf("what was not read: %v", err)
	}
	if _, err := withoutRights(r.symbols(t)).named("late.so")[0].Symtab("x"); !errors.Is(err, ErrOtherFile) {
		t.Errorf("error of another file: %v", err)
	}
	otherID := bytes.Clone(same) // the same but for its build-id
	id := r.symbols(t).named("late.so")[0].BuildID
	otherID[bytes.Index(otherID, id)]++
	replace(t, late, otherID)
	check("another build-id", withoutRights(r.symbols(t)), false)
	replace(t, late, same)
	check("the same file again", withoutRights(r.symbols(t)), true)
	if err := os.Remove(late); err != nil {
		t.Fatal(err)
	}
	check("no file", withoutRights(r.symbols(t)), false)
}

// withoutRights makes it as it is for a user who may not open what /proc/PID/map_files names.
func withoutRights(s *Symbols) *Symbols {
	for _, m := range s.Modules() {
		m.mapping.Start, m.mapping.Inode = 1, m.mapping.Inode+1
	}
	return s
}

// The loader called as a program hides what the program is from the kernel, not from us.
func TestLoaderAsProgram(t *testing.T) {
	dir := t.TempDir()
	r := &running{path: filepath.Join(dir, "names")}
	compile(t, "gcc", r.path, "names.c", filepath.Join("testdata", "names2.c"), "-DHAVE_DLOPEN")
	late := filepath.Join(dir, "late.so")
	compile(t, "gcc", late, "late.c", lateFlags()...)
	r.run(t, exec.Command("/lib64/ld-linux-x86-64.so.2", r.path, late))
	s := r.symbols(t)
	for _, said := range append(r.all("own"), r.all("libc")...) {
		if said.name == "twin" {
			continue
		}
		if got, err := s.Resolve(said.name); err != nil || got.Addr != said.addr {
			t.Errorf("%s: %+v, %v; want %v", said.name, got, err, said.addr)
		}
	}
	if got, err := s.Resolve("stderr"); err != nil || got.Addr != r.one(t, "stream", "-", "stderr") {
		t.Errorf("stderr: %+v, %v", got, err)
	}
}

// What a library preloaded exports is what the program calls, whatever libc has.
func TestPreloaded(t *testing.T) {
	dir := t.TempDir()
	r := &running{path: filepath.Join(dir, "names")}
	compile(t, "gcc", r.path, "names.c", filepath.Join("testdata", "names2.c"), "-DHAVE_DLOPEN")
	late := filepath.Join(dir, "late.so")
	compile(t, "gcc", late, "late.c", lateFlags()...)
	preload := filepath.Join(dir, "preload.so")
	compile(t, "gcc", preload, "preload.c", "-shared", "-fPIC")
	cmd := exec.Command(r.path, late)
	cmd.Env = append(os.Environ(), "LD_PRELOAD="+preload)
	r.run(t, cmd)
	s := r.symbols(t)
	want := r.one(t, "libc", "-", "getenv")
	got, err := s.Resolve("getenv")
	if err != nil || got.Addr != want || got.Module.Path != preload {
		t.Errorf("getenv: %+v, %v; want %v of the preloaded library", got, err, want)
	}
	if got, err := s.Resolve("libc.so.6!getenv"); err != nil || got.Addr == want {
		t.Errorf("libc's getenv: %+v, %v", got, err)
	}
	if _, err := io.WriteString(r.stdin, "5\n"); err != nil {
		t.Fatal(err)
	}
	r.listen(t)
	slots, err := s.Modules()[0].Slots()
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if slot.Symbol == "strtol" && slot.Value != r.one(t, "libc", "-", "strtol") {
			t.Errorf("slot of strtol: %+v", slot)
		}
	}
}
