package policy_test

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/internal/policy"
)

const module = "github.com/heaptap/heaptap"

// lattice is the architecture: what each package may import of ours, bottom first. Below profiler the engine knows
// nothing of heaps; heap and report know nothing of processes; below cpython nothing knows what Python is.
const lattice = `
# Test support of the engine: named instants at which it can be made to fail.
internal/fault:

# The engine. Other programs may import it.
mem:
proc: mem
ptrace: mem proc internal/fault
dso: mem proc
unwind: mem dso
call: mem proc ptrace dso unwind internal/fault
launch: mem proc ptrace call internal/fault
inject: mem proc ptrace dso unwind call internal/fault

# C expressions.
cexpr: mem

# What is tracked, and how it is found in Python.
agent: mem inject
cpython: mem proc dso

# What any process can be asked without tracking it: calls of C expressions, stacks, symbols, memory.
inferior: mem proc ptrace dso unwind call cexpr cpython

# The model and its views.
heap:
report: heap

# The join of the model and of files with symbols.
symbolize: dso heap

# The only join of the two halves.
profiler: mem proc ptrace dso unwind call launch inject agent cpython heap internal/fault

# The command line. It names the engine's errors, to give each its hint and exit code.
internal/demo:
internal/tui: heap report profiler
internal/cli: mem proc ptrace dso unwind call launch inject cexpr inferior agent cpython heap report symbolize profiler internal/demo internal/tui
cmd/heaptap: internal/cli

# Tools and what only tests import.
bench: heap report
internal/policy:
internal/gdb: mem
internal/pytarget: mem proc
internal/transparency: internal/pytarget
agent/internal/build:
cpython/internal/genlayouts:
`

func load(t *testing.T) []policy.File {
	t.Helper()
	files, err := policy.Load(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("only %d Go files found", len(files))
	}
	return files
}

func parseLattice(t *testing.T, text string) policy.Lattice {
	t.Helper()
	l, err := policy.ParseLattice(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Each check over the whole checkout.
func TestCheckout(t *testing.T) {
	t.Parallel()
	files := load(t)
	for name, violations := range map[string][]string{
		"lattice":   policy.CheckLattice(parseLattice(t, lattice), module, files),
		"processes": policy.CheckNoProcesses([]string{"heap", "report"}, files),
		"ptrace":    policy.CheckPtrace(files),
		"init":      policy.CheckInit(files),
		"exit":      policy.CheckExit([]string{"internal/fault"}, files),
		"sleep":     policy.CheckSleep([]string{"internal/pytarget"}, files),
		"skip":      policy.CheckSkip(files),
		"format":    policy.CheckFormat(files),
		"docs":      policy.CheckDocs(files),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slices.Sort(violations)
			for _, violation := range violations {
				t.Error(violation)
			}
		})
	}
}

// Nothing tracked says where it was made: not this machine's folders, not the hosts that its packages come from.
func TestMachine(t *testing.T) {
	t.Parallel()
	top, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	list, err := exec.Command("git", "-C", top, "ls-files", "-z").Output()
	if err != nil {
		t.Fatalf("list tracked files: %v", err)
	}
	names := strings.Split(strings.TrimRight(string(list), "\x00"), "\x00")
	if len(names) < 20 {
		t.Fatalf("only %d tracked files", len(names))
	}
	patterns := machinePatterns(t, top)
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(top, name))
		if os.IsNotExist(err) {
			continue // deleted, and not committed yet
		} else if err != nil {
			t.Fatal(err)
		}
		for _, violation := range policy.CheckText(name, content, patterns) {
			t.Error(violation)
		}
	}
}

// machinePatterns find this machine's folders, and the hosts of the package registries that it uses.
func machinePatterns(t *testing.T, checkout string) map[string]*regexp.Regexp {
	t.Helper()
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	patterns := map[string]*regexp.Regexp{
		"the home folder":   folderPattern(home),
		"the checkout":      folderPattern(checkout),
		"the shared folder": folderPattern(filepath.Join(filepath.Dir(checkout), "shared")),
	}
	for _, host := range registryHosts(t) {
		patterns["the registry "+host] = regexp.MustCompile(`\b` + regexp.QuoteMeta(host) + `\b`)
	}
	return patterns
}

// folderPattern finds a folder with something below it, but not as the middle of another path (/proc/1/root/etc).
func folderPattern(folder string) *regexp.Regexp {
	return regexp.MustCompile(`(?:^|[^\w/.}\])%"])` + regexp.QuoteMeta(folder) + `/[\w.]`)
}

// registryHosts asks apt, go and npm, as far as they are there.
func registryHosts(t *testing.T) []string {
	t.Helper()
	var words []string
	for _, command := range [][]string{
		{"apt-get", "indextargets", "--format", "$(SITE)"},
		{"go", "env", "GOPROXY", "GOSUMDB"},
		{"npm", "config", "get", "registry"},
	} {
		if _, err := exec.LookPath(command[0]); err != nil {
			t.Logf("no %s on this machine", command[0])
			continue
		}
		output, err := exec.Command(command[0], command[1:]...).Output()
		if err != nil {
			t.Fatalf("%s: %v", strings.Join(command, " "), err)
		}
		words = append(words, strings.FieldsFunc(string(output), func(r rune) bool { return strings.ContainsRune(", |\n", r) })...)
	}
	var hosts []string
	for _, word := range words {
		if u, err := url.Parse(word); err == nil && strings.Contains(u.Host, ".") {
			hosts = append(hosts, u.Hostname())
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// Each check finds what it is for, and nothing else.
func TestChecksFind(t *testing.T) {
	t.Parallel()
	small := parseLattice(t, "mem:\nproc: mem\nheap:\n")
	docs := func(files []policy.File) []string { return policy.CheckDocs(files) }
	for _, c := range []struct {
		name, path, source string
		check              func([]policy.File) []string
		want               string // of the only violation; "" for none
	}{
		{"import allowed", "proc/a.go", `import "` + module + `/mem"`, inLattice(small), ""},
		{"import upwards", "mem/a.go", `import "` + module + `/proc"`, inLattice(small), "mem may not import proc"},
		{"import of a test", "mem/a_test.go", `import "` + module + `/proc"`, inLattice(small), ""},
		{"unknown package", "util/a.go", "", inLattice(small), "no line in the lattice"},
		{"heap runs", "heap/a.go", `import "os/exec"`, pure, "heap knows of no process"},
		{"heap calls", "heap/a.go", `import "golang.org/x/sys/unix"`, pure, "heap knows of no process"},
		{"heap reads", "heap/a.go", `import "io"`, pure, ""},
		{"ptrace", "call/a.go", "func f() { unix.PtraceAttach(1) }", policy.CheckPtrace, "unix.PtraceAttach outside"},
		{"ptrace constant", "call/a.go", "var x = unix.PTRACE_SEIZE", policy.CheckPtrace, "unix.PTRACE_SEIZE outside"},
		{"ptrace number", "call/a.go", "var x = syscall.SYS_PTRACE", policy.CheckPtrace, "syscall.SYS_PTRACE outside"},
		{"ptrace at home", "ptrace/a.go", "func f() { unix.PtraceAttach(1) }", policy.CheckPtrace, ""},
		{"our ptrace", "call/a.go", "func f() { ptrace.Seize(1) }", policy.CheckPtrace, ""},
		{"init", "mem/a.go", "func init() {}", policy.CheckInit, "func init"},
		{"method init", "mem/a.go", "func (t T) init() {}", policy.CheckInit, ""},
		{"exit", "mem/a.go", "func f() { os.Exit(1) }", programs, "os.Exit outside a program"},
		{"fatal", "mem/a.go", "func f() { log.Fatalln(1) }", programs, "log.Fatalln outside a program"},
		{"test's exit", "mem/a_test.go", "func f() { os.Exit(1) }", programs, ""},
		{"excepted exit", "internal/fault/a.go", "func f() { os.Exit(1) }", programs, ""},
		{"sleep", "mem/a_test.go", "func f() { time.Sleep(1) }", sleeps, "time.Sleep in a test"},
		{"sleep in support", "internal/pytarget/a.go", "func f() { time.Sleep(1) }", sleeps, "time.Sleep in a test"},
		{"after", "mem/a_test.go", "func f() { <-time.After(1) }", sleeps, "waits for time.After"},
		{"deadline", "mem/a_test.go", "func f() { select { case <-c: case <-time.After(1): } }", sleeps, ""},
		{"product sleeps", "mem/a.go", "func f() { time.Sleep(1) }", sleeps, ""},
		{"bare skip", "mem/a_test.go", "func f() { t.Skip() }", policy.CheckSkip, "Skip without a reason"},
		{"empty skip", "mem/a_test.go", `func f() { s.t.Skipf(" ") }`, policy.CheckSkip, "Skipf without a reason"},
		{"skip now", "mem/a_test.go", `func f() { t.SkipNow() }`, policy.CheckSkip, "SkipNow gives no reason"},
		{"skip", "mem/a_test.go", `func f() { t.Skip("no such CPU") }`, policy.CheckSkip, ""},
		{"cursor skips", "mem/a.go", "func f() { cursor.Skip() }", policy.CheckSkip, ""},
		{"format", "mem/a.go", "func  f() {}", policy.CheckFormat, "gofmt would change"},
		{"documented", "mem/a.go", "// F does.\nfunc F() {}", docs, ""},
		{"undocumented", "mem/a.go", "func F() {}", docs, "F has no doc comment"},
		{"undocumented method", "mem/a.go", "func (t *T) F() {}", docs, "F has no doc comment"},
		{"unexported type's method", "mem/a.go", "func (t *t) F() {}", docs, ""},
		{"undocumented type", "mem/a.go", "type T int", docs, "T has no doc comment"},
		{"type in a group", "mem/a.go", "// Types.\ntype (\n\tT int\n)", docs, "T has no doc comment"},
		{"constants", "mem/a.go", "// C are.\nconst (\n\tC = 1\n\tD = 2\n)", docs, ""},
		{"constant", "mem/a.go", "const C = 1", docs, "C has no doc comment"},
		{"constant with a remark", "mem/a.go", "const (\n\tC = 1 // one\n)", docs, ""},
		{"internal", "internal/x/a.go", "func F() {}", docs, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			file, err := policy.Parse(c.path, []byte("// Package p is a sample.\npackage p\n\n"+c.source+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			violations := c.check([]policy.File{file})
			if c.want == "" && len(violations) > 0 || c.want != "" && (len(violations) != 1 || !strings.Contains(violations[0], c.want)) {
				t.Errorf("violations %q, want %q", violations, c.want)
			}
		})
	}
}

func inLattice(l policy.Lattice) func([]policy.File) []string {
	return func(files []policy.File) []string { return policy.CheckLattice(l, module, files) }
}

func pure(files []policy.File) []string { return policy.CheckNoProcesses([]string{"heap"}, files) }

func programs(files []policy.File) []string {
	return policy.CheckExit([]string{"internal/fault"}, files)
}

func sleeps(files []policy.File) []string {
	return policy.CheckSleep([]string{"internal/pytarget"}, files)
}

func TestPackageComment(t *testing.T) {
	t.Parallel()
	file, err := policy.Parse("internal/x/a.go", []byte("package p\n"))
	if err != nil {
		t.Fatal(err)
	}
	if violations := policy.CheckDocs([]policy.File{file}); len(violations) != 1 {
		t.Errorf("violations %q, want one", violations)
	}
}

func TestParseLattice(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a":            "no colon",
		"a: b\nb:":     "b has no line above",
		"a:\nb: a\na:": "has a line already",
	} {
		if _, err := policy.ParseLattice(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestFindsMachine(t *testing.T) {
	t.Parallel()
	patterns := map[string]*regexp.Regexp{"home": folderPattern("/home/x")}
	for text, want := range map[string]int{
		"see /home/x/file":              1,
		"/home/x/a\n-I/home/x/b\n":      1, // the second is the end of a word
		"path=/home/x/a\n":              1,
		"/proc/1/home/x/file":           0,
		"root + \"/home/x/\" + name":    0,
		"${ROOT}/home/x/file /home/xyz": 0,
	} {
		if got := policy.CheckText("f", []byte(text), patterns); len(got) != want {
			t.Errorf("%q: %q, want %d", text, got, want)
		}
	}
	if hosts := registryHosts(t); len(hosts) == 0 {
		t.Error("no registry found on this machine")
	}
}
