package cexpr

import (
	"debug/dwarf"
	"debug/elf"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var debugFile = flag.String("debugfile", "", "an ELF file with debug information to read all types of")

// debugOf opens the debug information of an ELF file.
func debugOf(t testing.TB, path string) *dwarf.Data {
	t.Helper()
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	d, err := file.DWARF()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDebugFiles reads the big debug information that this machine happens to have: each function's type, each named
// type. -debugfile reads another.
func TestDebugFiles(t *testing.T) {
	paths, err := filepath.Glob("/usr/lib/debug/.build-id/*/*.debug")
	if err != nil {
		t.Fatal(err)
	}
	if *debugFile != "" {
		paths = []string{*debugFile}
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil || info.Size() < 3<<20 {
			continue
		}
		t.Run(filepath.Base(path), func(t *testing.T) { readAll(t, path) })
	}
}

func readAll(t *testing.T, path string) {
	d := debugOf(t, path)
	types := NewTypes(d)
	begin := time.Now()
	if _, err := types.Function("nothing", 0x1234567890); err != nil {
		t.Fatal(err)
	}
	x := types.index
	t.Logf("%s: %d units, %d types, %d functions, %d variables, %d constants in %v", path, len(types.units), len(x.types),
		len(x.functions), len(x.variables), len(x.constants), time.Since(begin))
	types = NewTypes(d)
	begin = time.Now()
	if err := types.readUnits(); err != nil {
		t.Fatal(err)
	}
	t.Logf("units: %v", time.Since(begin))
	var one uint64
	for _, u := range types.units {
		if len(u.ranges) > 0 {
			one = u.ranges[len(u.ranges)/2][0]
		}
	}
	begin = time.Now()
	if _, _, err := types.functionAt(one); err != nil {
		t.Fatal(err)
	}
	t.Logf("one function: %v", time.Since(begin))
	begin = time.Now()
	functions, failed := 0, 0
	err := types.Functions(func(name string, addr uint64) bool {
		functions++
		f, err := types.Function(name, addr)
		if err != nil {
			failed++
			t.Logf("%s: %v", name, err)
		} else if f != nil && len(f.String()) == 0 {
			t.Errorf("%s has no type", name)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d functions, %d refused, in %v", functions, failed, time.Since(begin))
	begin = time.Now()
	if err := types.makeIndex(); err != nil {
		t.Fatal(err)
	}
	bad := 0
	for name := range types.index.types {
		typ, err := types.Named(name)
		if err == nil {
			_, err = typ.Underlying()
		}
		if err != nil {
			bad++
			t.Logf("%s: %v", name, err)
		}
	}
	t.Logf("%d types, %d refused, in %v", len(types.index.types), bad, time.Since(begin))
	if failed*20 > functions || bad*20 > len(types.index.types) {
		t.Errorf("%d of %d functions and %d of %d types cannot be read", failed, functions, bad, len(types.index.types))
	}
}
