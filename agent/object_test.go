package agent

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/arch/x86/x86asm"
)

// TestBuiltFromSources notices a forgotten rebuild without a compiler: the manifest holds the hash of the sources that
// the committed objects were built from, and of the objects.
func TestBuiltFromSources(t *testing.T) {
	manifest, err := os.ReadFile("MANIFEST")
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob("src/*.*")
	if err != nil || len(names) == 0 {
		t.Fatalf("sources: %v, %v", names, err)
	}
	slices.Sort(names)
	h := sha256.New()
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(h, "%s\n", filepath.Base(name))
		if _, err := io.Copy(h, f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	want := []string{fmt.Sprintf("sources %x\n", h.Sum(nil))}
	for _, arch := range []string{"amd64", "arm64"} {
		object, err := os.ReadFile("agent_" + arch + ".elf")
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("%s   %x ", arch, sha256.Sum256(object)))
	}
	for _, line := range want {
		if !strings.Contains(string(manifest), line) {
			t.Errorf("MANIFEST does not have %q: run go generate ./agent", line)
		}
	}
}

// TestImage holds the embedded object to what placing it relies on.
func TestImage(t *testing.T) {
	img, err := Image()
	if err != nil {
		t.Fatal(err)
	}
	if len(img.Text) > FlagOffset {
		t.Errorf("%d bytes of code do not fit before the flag page", len(img.Text))
	}
	for d := range PythonDomains {
		for f := range Functions {
			for _, sampled := range []bool{false, true} {
				if at, err := Hook(img, d, f, sampled); err != nil || at >= uint64(len(img.Text)) {
					t.Errorf("hook %s.%s, sampled %v: %#x, %v", DomainNames[d], FunctionNames[f], sampled, at, err)
				}
			}
		}
	}
	for name, want := range map[string]uint64{"ht_flag": FlagOffset, "ht_tables": TablesOffset} {
		if at, err := img.Symbol(name); err != nil || at != want {
			t.Errorf("%s: %#x, %v; want %#x", name, at, err, want)
		}
	}
}

// TestLoaderHooksJump: dlopen and its like look at their return address to find whose search path to use, so that their
// hooks must leave the stack as it was and jump. (Checked in the image for amd64.)
func TestLoaderHooksJump(t *testing.T) {
	img, err := Image()
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("the instructions are another CPU's")
	}
	for _, f := range []int{NDlopen, NDlmopen, NDlclose, NPrctl, NSyscall} {
		for v := range NativeVariants {
			at, err := NativeHook(img, f, v)
			if err != nil {
				t.Fatal(err)
			}
			for last := false; !last; {
				in, err := x86asm.Decode(img.Text[at:], 64)
				if err != nil {
					t.Fatalf("%s: %v", NativeNames[f].Stub, err)
				}
				at += uint64(in.Len)
				_, near := in.Args[0].(x86asm.Rel)
				switch {
				case in.Op == x86asm.RET || in.Op == x86asm.CALL && !near:
					t.Fatalf("%s, variant %d, calls the loader instead of jumping there", NativeNames[f].Stub, v)
				case in.Op == x86asm.JMP && !near:
					last = true
				}
			}
		}
	}
}

// TestNativeHooks: every variant of every native function is there, and no two are the same.
func TestNativeHooks(t *testing.T) {
	img, err := Image()
	if err != nil {
		t.Fatal(err)
	}
	seen, names := map[uint64]bool{}, 0
	for f, fn := range NativeNames {
		for v := range NativeVariants {
			at, err := NativeHook(img, f, v)
			if err != nil || seen[at] || at >= uint64(len(img.Text)) {
				t.Errorf("%s, variant %d: %#x, %v", fn.Stub, v, at, err)
			}
			seen[at] = true
		}
		names += len(fn.Names)
	}
	if names > Names {
		t.Errorf("%d names, where there is room for %d", names, Names)
	}
}
