package pytarget

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Interpreter is one Python that targets can run in.
type Interpreter struct {
	Name     string // where it comes from and its version: "pyenv-3.9.18", "bookworm-3.11.2", "sid-3.14.10", "musl-3.13.5"
	Origin   string // the part of Name before the version
	Version  string // as the interpreter says: "3.9.18"
	Path     string // of the program, inside Root
	Root     string // of its own file system; "" is ours
	Debug    bool   // built with Py_DEBUG
	Embedded bool   // a C program of ours that embeds libpython
	Musl     bool   // built against musl, which is then its libc and its loader
}

// Minor is the x of Python 3.x, and 0 for Python 2.
func (in Interpreter) Minor() int {
	major, rest, _ := strings.Cut(in.Version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	if err != nil || major != "3" {
		return 0
	}
	return n
}

func (in Interpreter) String() string { return in.Name }

// The minor versions of Python 3 that heaptap supports, all of which a complete machine has.
const (
	OldestMinor = 6
	NewestMinor = 15
)

// rootsScript brings the interpreters that no machine has, muslScript builds those that no package has; ciScript makes a
// machine complete.
const (
	rootsScript = "tools/roots/fetch"
	muslScript  = "tools/roots/musl"
	ciScript    = ".ci/run"
)

// rootSuites are the Debian suites of rootsScript.
var rootSuites = []string{"trixie", "sid"}

// Interpreters returns every supported interpreter on this machine, ordered by version. A root that rootsScript makes
// and that is not there fails the test; where CI is set so does any other gap in what a complete machine has.
func Interpreters(t testing.TB) []Interpreter {
	t.Helper()
	found, err := discover()
	if err != nil {
		t.Fatalf("find Python interpreters: %v", err)
	}
	supported := slices.DeleteFunc(slices.Clone(found), func(in Interpreter) bool { return !in.supported() })
	if gaps := missing(supported); len(gaps) > 0 {
		if os.Getenv("CI") != "" {
			t.Fatalf("not on this machine: %s; %s installs what can be had", strings.Join(gaps, ", "), ciScript)
		}
		t.Logf("not on this machine, and so not tested: %s; %s installs what can be had", strings.Join(gaps, ", "), ciScript)
	}
	return supported
}

// StaticMusl returns a Python that is one static program, with musl in it and with its symbol table. It loads no library,
// so that ctypes does not work in it ([Target.Observe] then knows nothing of alternate signal stacks).
func StaticMusl(t testing.TB) Interpreter {
	t.Helper()
	checkout, err := Checkout()
	if err != nil {
		t.Fatal(err)
	}
	path, err := muslProgram(checkout, "-static")
	if err != nil {
		t.Fatal(err)
	}
	in, err := ask(Interpreter{Origin: "musl-static", Path: path, Musl: true})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// muslProgram is the path of a program that muslScript builds.
func muslProgram(checkout, suffix string) (string, error) {
	dir := filepath.Join(checkout, ".roots", "musl")
	if _, err := os.Stat(filepath.Join(dir, ".complete")); err != nil {
		return "", fmt.Errorf("the Python for musl is missing, run %s: %w", muslScript, err)
	}
	// The folder may be reached by a link, and what the kernel says of the process goes without.
	dir, err := filepath.EvalSymlinks(dir)
	return filepath.Join(dir, "bin", "python3.13"+suffix), err
}

// Unsupported returns the interpreters on this machine that heaptap has to recognise and refuse: Python 2.7, versions
// before 3.6, debug builds.
func Unsupported(t testing.TB) []Interpreter {
	t.Helper()
	found, err := discover()
	if err != nil {
		t.Fatalf("find Python interpreters: %v", err)
	}
	return slices.DeleteFunc(slices.Clone(found), Interpreter.supported)
}

func (in Interpreter) supported() bool {
	return !in.Debug && in.Minor() >= OldestMinor && in.Minor() <= NewestMinor
}

// missing names what a complete machine has and this one does not.
func missing(found []Interpreter) []string {
	var gaps []string
	for minor := OldestMinor; minor <= NewestMinor; minor++ {
		if !slices.ContainsFunc(found, func(in Interpreter) bool { return in.Minor() == minor }) {
			gaps = append(gaps, fmt.Sprintf("Python 3.%d", minor))
		}
	}
	if !slices.ContainsFunc(found, func(in Interpreter) bool { return in.Embedded }) {
		gaps = append(gaps, "a program that embeds Python (libpython3.11-dev and gcc)")
	}
	if !slices.ContainsFunc(found, func(in Interpreter) bool { return in.Path == "/usr/bin/python3.11" }) {
		gaps = append(gaps, "/usr/bin/python3.11")
	}
	return gaps
}

// discover finds and asks every interpreter, once in the life of the test program.
var discover = sync.OnceValues(func() ([]Interpreter, error) {
	var found []Interpreter
	add := func(in Interpreter) error {
		in, err := ask(in)
		if err == nil {
			found = append(found, in)
		}
		return err
	}

	pyenv, err := pyenvRoot()
	if err != nil {
		return nil, err
	}
	programs, err := filepath.Glob(filepath.Join(pyenv, "versions", "*", "bin", "python"))
	if err != nil {
		return nil, err
	}
	for _, path := range programs {
		if err := add(Interpreter{Origin: "pyenv", Path: path}); err != nil {
			return nil, err
		}
	}
	if err := addInstalled(systemName(), "", add); err != nil {
		return nil, err
	}

	checkout, err := Checkout()
	if err != nil {
		return nil, err
	}
	for _, suite := range rootSuites {
		root := filepath.Join(checkout, ".roots", suite)
		if _, err := os.Stat(filepath.Join(root, ".complete")); err != nil {
			return nil, fmt.Errorf("the %s root is missing, run %s as root: %w", suite, rootsScript, err)
		}
		if err := addInstalled(suite, root, add); err != nil {
			return nil, err
		}
	}

	if path, err := buildEmbedder(checkout); err != nil {
		return nil, err
	} else if path != "" {
		if err := add(Interpreter{Origin: "embed", Path: path, Embedded: true}); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(found, func(a, b Interpreter) int { return a.Minor() - b.Minor() })
	return found, nil
})

// addInstalled adds the Pythons of a distribution, ours or one in a root.
func addInstalled(origin, root string, add func(Interpreter) error) error {
	paths, err := filepath.Glob(filepath.Join(root, "/usr/bin/python[23].*"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		path = strings.TrimPrefix(path, root)
		if !installedName.MatchString(filepath.Base(path)) {
			continue // python3.11-config and the like
		}
		if err := add(Interpreter{Origin: origin, Root: root, Path: path}); err != nil {
			return err
		}
	}
	return nil
}

var installedName = regexp.MustCompile(`^python[23]\.\d+d?$`)

// ask completes an interpreter by what it says of itself.
func ask(in Interpreter) (Interpreter, error) {
	cmd := exec.Command(in.Path, "-c",
		"import sys; print(sys.version.split()[0]); print(int(hasattr(sys, 'gettotalrefcount')))")
	if in.Root != "" {
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: in.Root}
		if os.Geteuid() != 0 {
			asNamespaceRoot(cmd.SysProcAttr)
		}
	}
	output, err := cmd.Output()
	if err != nil {
		return in, fmt.Errorf("ask %s%s for its version: %w", in.Root, in.Path, err)
	}
	fields := strings.Fields(string(output))
	if len(fields) != 2 {
		return in, fmt.Errorf("ask %s%s for its version: it says %q", in.Root, in.Path, output)
	}
	in.Version, in.Debug = fields[0], fields[1] == "1"
	in.Name = in.Origin + "-" + in.Version
	if in.Debug {
		in.Name += "d"
	}
	return in, nil
}

// pyenvRoot is where pyenv keeps its interpreters, whether or not there are any.
func pyenvRoot() (string, error) {
	if root := os.Getenv("PYENV_ROOT"); root != "" {
		return root, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find pyenv's interpreters: %w", err)
	}
	return filepath.Join(home, ".pyenv"), nil
}

// systemName is this system's release by its code name ("bookworm"), or "system".
func systemName() string {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "system"
	}
	for line := range strings.Lines(string(release)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	return "system"
}

// Checkout is the top folder of the module that the running test belongs to.
func Checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("find the checkout: no go.mod above %s", dir)
		}
	}
}
