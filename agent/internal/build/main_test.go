package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pinned is the compilers' version that the committed objects are built with. Debian 12 has both.
const pinned = "12.2.0"

// TestRebuildIsIdentical builds the agent once more: what is committed is what the sources give.
func TestRebuildIsIdentical(t *testing.T) {
	for _, target := range targets {
		if why := compilerMissing(target.prefix + "gcc"); why != "" {
			if os.Getenv("CI") == "true" {
				t.Fatal(why)
			}
			t.Skip(why)
		}
	}
	out := t.TempDir()
	if err := run(filepath.Join("..", "..", "src"), out); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"agent_amd64.elf", "agent_arm64.elf", "abi_gen.go", "MANIFEST"} {
		built, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		committed, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(built, committed) {
			t.Errorf("%s is not what the sources give (%d bytes, rebuilt %d): run go generate ./agent", name, len(committed), len(built))
		}
	}
}

// compilerMissing says why the compiler cannot rebuild the committed objects, or "".
func compilerMissing(gcc string) string {
	out, err := exec.Command(gcc, "-dumpfullversion").Output()
	if err != nil {
		return gcc + " " + pinned + " is needed (Debian 12: gcc, gcc-aarch64-linux-gnu): " + err.Error()
	}
	if have := strings.TrimSpace(string(out)); have != pinned {
		return gcc + " is " + have + ", the agent is built with " + pinned
	}
	return ""
}
