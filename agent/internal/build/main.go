// Command build compiles the agent and generates what the Go side needs to know of it.
//
// It is run by `go generate ./agent` and by the check that the committed objects are what the sources give. It writes,
// into the folder named by -o, agent_ARCH.elf (stripped but for the names of entry points), MANIFEST (compilers, flags, hash of
// the sources) and abi_gen.go (Go types with the layout that the compiler gave the structs of abi.h, from its DWARF).
package main

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// target is one CPU that the agent is built for.
type target struct {
	arch   string   // as GOARCH
	prefix string   // of the cross tools
	flags  []string // for this CPU only
}

var targets = []target{
	{"amd64", "x86_64-linux-gnu-", []string{"-mgeneral-regs-only", "-fcf-protection=none"}},
	{"arm64", "aarch64-linux-gnu-", []string{"-mgeneral-regs-only", "-mno-outline-atomics"}},
}

var compile = []string{
	"-std=gnu11", "-O2", "-g", "-ffreestanding", "-fpie", "-fvisibility=hidden",
	"-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns",
	"-fno-eliminate-unused-debug-types", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function",
}

var link = []string{"-static", "-pie", "--no-dynamic-linker", "--build-id=none", "-z", "max-page-size=4096", "-T", "agent.ld"}

func main() {
	log.SetFlags(0)
	log.SetPrefix("agent/internal/build: ")
	src := flag.String("src", "src", "folder of the C sources")
	out := flag.String("o", ".", "folder to write to")
	flag.Parse()
	if err := run(*src, *out); err != nil {
		log.Fatal(err)
	}
}

func run(src, out string) error {
	tmp, err := os.MkdirTemp("", "heaptap-agent-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)

	var manifest bytes.Buffer
	sum, err := hashSources(src)
	if err != nil {
		return err
	}
	fmt.Fprintf(&manifest, "sources %x\ncompile %s\nlink    %s\n", sum, strings.Join(compile, " "), strings.Join(link, " "))

	var abi []byte
	for _, t := range targets {
		full := filepath.Join(tmp, t.arch+".elf")
		if err := build(t, src, tmp, full); err != nil {
			return err
		}
		gen, err := generate(full)
		if err != nil {
			return fmt.Errorf("%s: %w", t.arch, err)
		}
		if abi != nil && !bytes.Equal(abi, gen) {
			return fmt.Errorf("%s: the tables' layout differs from %s's", t.arch, targets[0].arch)
		}
		abi = gen
		stripped := filepath.Join(out, "agent_"+t.arch+".elf")
		if err := tool("", t.prefix+"strip", "-g", "-x", "-o", stripped, full); err != nil {
			return err
		}
		version, err := exec.Command(t.prefix+"gcc", "--version").Output()
		if err != nil {
			return err
		}
		image, err := os.ReadFile(stripped)
		if err != nil {
			return err
		}
		line, _, _ := strings.Cut(string(version), "\n")
		fmt.Fprintf(&manifest, "%s   %x %s, %s\n", t.arch, sha256.Sum256(image), line, strings.Join(t.flags, " "))
	}
	if err := os.WriteFile(filepath.Join(out, "abi_gen.go"), abi, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "MANIFEST"), manifest.Bytes(), 0o644)
}

func build(t target, src, tmp, elf string) error {
	object := filepath.Join(tmp, t.arch+".o")
	args := slices.Concat(compile, t.flags, []string{"-ffile-prefix-map=" + src + "=.", "-c", "-o", object, "agent.c"})
	if err := tool(src, t.prefix+"gcc", args...); err != nil {
		return err
	}
	return tool(src, t.prefix+"ld", slices.Concat(link, []string{"-o", elf, object})...)
}

func tool(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// hashSources is the hash that the manifest holds, so that a forgotten rebuild is noticed without a compiler. The
// package's test computes it in the same way.
func hashSources(src string) ([]byte, error) {
	h := sha256.New()
	names, err := filepath.Glob(filepath.Join(src, "*.*"))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(h, "%s\n", filepath.Base(name))
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return h.Sum(nil), nil
}
