package main

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

//go:embed workloads/*.py
var programs embed.FS

// A workload is one Python module in workloads/, and the sizes to run it with.
type workload struct {
	name     string
	title    string
	size     int    // untracked this takes about a second
	small    int    // for -quick, and to warm every run up
	needs    string // a library that must be there, "" for the standard library
	retained bool   // what it allocates stays alive after the run: its tables are weighed against it
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

// stage writes the Python programs to a new directory below parent, which the caller removes.
func stage(parent string) (string, error) {
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
