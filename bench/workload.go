package main

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed workloads/*.py workloads/*.c
var programs embed.FS

// A workload is one Python module in workloads/, and the sizes to run it with.
type workload struct {
	name     string
	title    string
	size     int    // untracked this takes about a second
	small    int    // for -quick, and to warm every run up
	needs    string // a library that must be there, "" for the standard library
	retained bool   // what it allocates stays alive after the run: its tables are weighed against it
	native   bool   // most of what it allocates, C code allocates with malloc
}

func workloads() []workload {
	return []workload{
		{name: "churn", title: "churn of small tuples and lists", size: 5_000_000, small: 2_000},
		{name: "graph", title: "400,000 instances kept", size: 400_000, small: 400, retained: true},
		{name: "records", title: "table rows kept as dicts", size: 400_000, small: 300, retained: true},
		{name: "deep", title: "allocating below 100 calls", size: 5_000_000, small: 1_000},
		{name: "jsontrip", title: "json round trips", size: 90_000, small: 50},
		{name: "strings", title: "strings and regexes", size: 14_000, small: 10},
		{name: "calls", title: "calls without allocation", size: 6_000_000, small: 2_000},
		{name: "threads", title: "four threads with queues", size: 60_000, small: 20},
		{name: "asyncs", title: "asyncio tasks and queues", size: 300_000, small: 200},
		{name: "compiling", title: "compiling the standard library", size: 240, small: 1},
		{name: "trees", title: "parsing and unparsing ASTs", size: 90, small: 1},
		{name: "errors", title: "exceptions and generators", size: 1_000_000, small: 600},
		{name: "dicts", title: "dicts, sets and a cache", size: 1_500_000, small: 3_000},
		{name: "templates", title: "Jinja2 pages", size: 1_600, small: 5, needs: "jinja2"},
		{name: "grammar", title: "Lark grammar", size: 14_000, small: 20, needs: "lark"},
		{name: "markup", title: "Docutils documents", size: 350, small: 5, needs: "docutils"},

		{name: "cwords", title: "C: tables of words", size: 6_000, small: 10, needs: compiler, native: true},
		{name: "ctrees", title: "C: malloc and free alone", size: 45_000, small: 20, needs: compiler, native: true},
		{name: "cbuffers", title: "C: buffers grown by realloc", size: 110_000, small: 100, needs: compiler, native: true},
		{name: "cthreads", title: "C: four threads without the GIL", size: 1_500, small: 5, needs: compiler, native: true},
		{name: "arrays", title: "NumPy temporaries", size: 70_000, small: 20, needs: "numpy", native: true},
		{name: "xmltrees", title: "lxml documents", size: 3_000, small: 3, needs: "lxml.etree", native: true},
		{name: "database", title: "SQLite in memory", size: 4_500, small: 3, native: true},
		{name: "zipped", title: "zlib and hashes", size: 75_000, small: 20, native: true},
		{name: "mixed", title: "JSON, SQLite, zlib, hashes", size: 40_000, small: 20, native: true},
	}
}

// growing are the workloads of the flatness check: run ten times as long, they keep no more alive than before.
func growing() []workload {
	return []workload{
		{name: "churn", title: "small tuples and lists", size: 300_000, small: 2_000},
		{name: "dicts", title: "dicts, sets and a cache", size: 150_000, small: 3_000},
		{name: "errors", title: "exceptions and generators", size: 100_000, small: 600},
		{name: "threads", title: "threads made and ended", size: 3_000, small: 20},
		{name: "execs", title: "code objects made and thrown away", size: 5_000, small: 50},
	}
}

// compiler is what workloads need that call into native.c.
const compiler = "gcc"

// compileNative builds the C library of the native workloads, with the debug information and optimisation that
// distributions build theirs with.
func compileNative(ctx context.Context, dir string) (string, error) {
	source, err := programs.ReadFile("workloads/native.c")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, nativeLibrary)
	cmd := exec.CommandContext(ctx, compiler, "-x", "c", "-O2", "-g", "-shared", "-fPIC", "-o", path, "-")
	cmd.Stdin = bytes.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the workloads' C library: %w: %s", err, bytes.TrimSpace(out))
	}
	return path, nil
}

const nativeLibrary = "native.so"

// stage writes the Python programs, and the C library if there is one, to a new directory below parent, which the caller
// removes.
func stage(parent, library string) (string, error) {
	dir, err := os.MkdirTemp(parent, "heaptap-bench-")
	if err != nil {
		return "", fmt.Errorf("stage workloads: %w", err)
	}
	// A target in a root of its own may run as somebody else.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", fmt.Errorf("stage workloads: %w", err)
	}
	files, err := programs.ReadDir("workloads")
	if err != nil {
		return "", fmt.Errorf("stage workloads: %w", err)
	}
	for _, f := range files {
		text, err := programs.ReadFile("workloads/" + f.Name())
		if err != nil {
			return "", fmt.Errorf("stage workloads: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, f.Name()), text, 0o644); err != nil {
			return "", fmt.Errorf("stage workloads: %w", err)
		}
	}
	if library == "" {
		return dir, nil
	}
	code, err := os.ReadFile(library)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, nativeLibrary), code, 0o755)
	}
	if err != nil {
		return "", fmt.Errorf("stage workloads: %w", err)
	}
	return dir, nil
}

// choose keeps the items whose names are in a comma-separated list, in the list's order; "" keeps all.
func choose[T any](what, list string, all []T, name func(T) string) ([]T, error) {
	if list == "" {
		return all, nil
	}
	var chosen []T
	for want := range strings.SplitSeq(list, ",") {
		known := make([]string, 0, len(all))
		found := false
		for _, item := range all {
			known = append(known, name(item))
			if name(item) == want {
				chosen = append(chosen, item)
				found = true
			}
		}
		if !found {
			return nil, fmt.Errorf("unknown %s %q; there are: %s", what, want, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}
