package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// An interpreter is a Python to measure, perhaps in a root file system of its own.
type interpreter struct {
	Root       string            `json:"root,omitempty"` // "" for this file system
	Path       string            `json:"path"`           // within Root
	Version    string            `json:"version"`
	Executable string            `json:"executable"` // what Path led to
	Modules    map[string]string `json:"modules"`    // version by name, of the libraries found
	Absent     map[string]string `json:"absent"`     // why by name, of those not found
	library    string            // the C library of the native workloads, "" where there is none
}

func (in interpreter) String() string {
	if in.Root == "" {
		return fmt.Sprintf("Python %s (%s)", in.Version, in.Executable)
	}
	return fmt.Sprintf("Python %s (%s in %s)", in.Version, in.Executable, filepath.Base(in.Root))
}

// libraries are those that workloads or modes may need beside the standard library.
func libraries() []string {
	return []string{"jinja2", "lark", "docutils", "memray", "tracemalloc", "numpy", "lxml.etree"}
}

// candidates are the interpreters to measure when none is named: Debian's, each with its libraries, as far as they are
// there; else the python3 on the path.
func candidates(top string) []string {
	var found []string
	for _, c := range []struct{ root, path string }{
		{filepath.Join(top, ".roots", "sid"), "/usr/bin/python3.14"},
		{filepath.Join(top, ".roots", "trixie"), "/usr/bin/python3.13"},
		{"", "/usr/bin/python3"},
	} {
		if _, err := os.Stat(filepath.Join(c.root, c.path)); err != nil {
			continue
		}
		if c.root != "" {
			c.path = c.root + ":" + c.path
		}
		found = append(found, c.path)
	}
	if len(found) == 0 {
		return []string{"python3"}
	}
	return found
}

// examine runs the interpreter that a -python argument names, PATH or ROOT:PATH, and asks it what it is.
func examine(ctx context.Context, spec string) (interpreter, error) {
	in := interpreter{Path: spec, Modules: map[string]string{}, Absent: map[string]string{}}
	if root, path, ok := strings.Cut(spec, ":"); ok {
		abs, err := filepath.Abs(root)
		if err != nil {
			return in, fmt.Errorf("examine %s: %w", spec, err)
		}
		in.Root, in.Path = abs, path
	} else {
		path, err := exec.LookPath(spec)
		if err != nil {
			return in, fmt.Errorf("examine %s: %w", spec, err)
		}
		in.Path = path
	}
	t, err := start(ctx, in)
	if err != nil {
		return in, fmt.Errorf("examine %s: %w", spec, err)
	}
	defer t.close()
	var facts struct {
		Version, Implementation, Executable string
		Modules                             map[string]string
	}
	if err := t.do("facts "+strings.Join(libraries(), " "), &facts); err != nil {
		return in, fmt.Errorf("examine %s: %w", spec, err)
	}
	if facts.Implementation != "cpython" {
		return in, fmt.Errorf("examine %s: is %s, not CPython", spec, facts.Implementation)
	}
	in.Version, in.Executable = facts.Version, facts.Executable
	for name, text := range facts.Modules {
		if name, missing := strings.CutSuffix(name, "!"); missing {
			in.Absent[name] = text
		} else {
			in.Modules[name] = text
		}
	}
	return in, nil
}
