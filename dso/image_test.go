package dso

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// An image names what is at an address as the loaded module would, PLT entries included.
func TestImage(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "a.c")
	if err := os.WriteFile(source, []byte("#include <stdlib.h>\nstatic __attribute__((noinline)) void *hidden(int n) "+
		"{ return malloc(n); }\nvoid *shown(int n) { return hidden(n + 1); }\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	lib := filepath.Join(dir, "a.so")
	if out, err := exec.CommandContext(t.Context(), "gcc", "-O1", "-g", "-shared", "-fPIC", "-fcf-protection=none",
		"-Wl,-z,lazy", "-o", lib, source).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	f, err := OpenFile(lib)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	i, err := NewImage(f)
	if err != nil {
		t.Fatal(err)
	}
	i.At(0) // reads the tables
	syms, err := i.module.Symtab("hidden", "shown")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hidden", "shown"} {
		got, offset, ok := i.At(uint64(syms[name].Addr) + 2)
		if !ok || got.Name != name || offset != 2 || syms[name].Addr == 0 {
			t.Errorf("%s: %v+%d, %v", name, got.Name, offset, ok)
		}
	}
	var plt bool
	for _, s := range i.module.Segments {
		for a := s.Start; i.module.Executable(s.Start) && a < s.End; a += pltEntry {
			if got, _, ok := i.At(uint64(a)); ok && got.Name == "malloc@plt" {
				plt = true
			}
		}
	}
	if !plt {
		t.Error("no malloc@plt")
	}
	d, err := i.Debug()
	if err != nil || len(d.Units()) != 1 {
		t.Errorf("%v, units %v", err, d.Units())
	}
}

func TestOpenFileRefuses(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, bytes.Repeat([]byte("no ELF"), 100), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, text, "/dev/null", filepath.Dir(text), text + "/none"} {
		if f, err := OpenFile(path); err == nil {
			f.Close()
			t.Errorf("%s was opened", path)
		}
	}
	if _, err := NewImage(); err == nil {
		t.Error("an image of nothing")
	}
}
