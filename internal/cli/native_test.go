package cli

import (
	"bytes"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/heap"
)

// leakSource is an extension in C: its function leak, called by Python, calls grow, into which duplicate is inlined.
const leakSource = `#include <stdlib.h>
#include <string.h>

static inline char *duplicate(const char *text)
{
	char *copy = malloc(strlen(text) + 1);
	return copy ? strcpy(copy, text) : NULL;
}

__attribute__((noinline)) char *grow(const char *text)
{
	char *copy = duplicate(text);
	__asm__ volatile("" : "+r"(copy));
	return copy;
}

char *leak(const char *text)
{
	char *copy = grow(text);
	__asm__ volatile("" : "+r"(copy));
	return copy;
}
`

// extension is the library, and where in it calls are.
type extension struct {
	file, id   string
	grow, leak uint64 // within the instructions that call malloc and grow
}

var callInstruction = regexp.MustCompile(`^\s*([0-9a-f]+):\s+call\s+.*<(malloc|grow)@?`)

func buildExtension(t *testing.T) extension {
	t.Helper()
	dir := t.TempDir()
	e := extension{file: filepath.Join(dir, "leak.so")}
	if err := os.WriteFile(filepath.Join(dir, "leak.c"), []byte(leakSource), 0o666); err != nil {
		t.Fatal(err)
	}
	gcc := exec.CommandContext(t.Context(), "gcc", "-g", "-O2", "-shared", "-fPIC", "-Wl,--build-id",
		"-fdebug-prefix-map="+dir+"=/src", "-o", e.file, "leak.c")
	gcc.Dir = dir
	if out, err := gcc.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), "objdump", "-d", "--no-show-raw-insn", e.file).Output()
	if err != nil {
		t.Fatalf("objdump: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		m := callInstruction.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		addr, err := strconv.ParseUint(m[1], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if m[2] == "malloc" {
			e.grow = addr + 1
		} else {
			e.leak = addr + 1
		}
	}
	if e.grow == 0 || e.leak == 0 {
		t.Fatalf("no calls in:\n%s", out)
	}
	f, err := dso.OpenFile(e.file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	e.id = hex.EncodeToString(f.BuildID())
	return e
}

// snapshot is one of a program that leaks by the extension, as it is taken where nothing is known of its symbols.
func (e extension) snapshot(t *testing.T, leaked int64) string {
	t.Helper()
	s := &heap.Snapshot{Time: fakeNow, Duration: time.Minute}
	b := heap.NewBuilder(s)
	const python, there = "/usr/bin/python3.11", "/srv/far/_leak.cpython-311-x86_64-linux-gnu.so"
	module := heap.Frame{Func: "<module>", File: "/srv/far/app.py", Line: 7, FirstLine: 1}
	vectorcall := heap.Frame{Module: python, BuildID: "feedbeef", Addr: 0x4711}
	leak, grow := heap.Frame{Module: there, BuildID: e.id, Addr: e.leak}, heap.Frame{Module: there, BuildID: e.id, Addr: e.grow}
	other := heap.Frame{Module: "/opt/other/libother.so.2", BuildID: "0123", Addr: 0x99}
	for _, r := range []struct {
		domain string
		bytes  int64
		stack  []heap.Frame
	}{
		{"malloc", leaked, []heap.Frame{vectorcall, module, vectorcall, leak, grow}},
		{"malloc", 4096, []heap.Frame{vectorcall, module, vectorcall, other}},
		{"obj", 2048, []heap.Frame{vectorcall, module, vectorcall}},
	} {
		s.Records = append(s.Records, heap.Record{Stack: b.Stack(r.stack...), Domain: b.Text(r.domain), Age: 60,
			InuseBytes: r.bytes, InuseBlocks: 4, AllocBytes: r.bytes, AllocBlocks: 4})
	}
	file := filepath.Join(t.TempDir(), "now.pb.gz")
	var out bytes.Buffer
	if err := s.Write(&out); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	return file
}

// heaptap runs a command and returns what it writes.
func heaptap(t *testing.T, getenv func(string) string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	env := System()
	var out, talk bytes.Buffer
	env.Stdout, env.Stderr, env.Getenv, env.Term = &out, &talk, getenv, Terminal{Width: func() int { return 0 }}
	code = Main(args, env)
	return out.String(), talk.String(), code
}

// A snapshot with native stacks is read on another machine, where only a folder has the extension's symbols.
func TestNativeReport(t *testing.T) {
	e := buildExtension(t)
	file := e.snapshot(t, 1<<20)
	none := func(string) string { return "" }
	symbols := filepath.Join(t.TempDir(), "symbols")
	cached := filepath.Join(symbols, e.id, "debuginfo")
	if err := os.MkdirAll(filepath.Dir(cached), 0o777); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(e.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cached, text, 0o666); err != nil {
		t.Fatal(err)
	}

	const table = `1.0 MiB live in 12 blocks, tracked for 1m0s, every block counted

  BYTES  BLOCKS    SHARE  LINE
1.0 MiB       4   99.4 %  duplicate (/src/leak.c:6)
4.0 KiB       4    0.4 %  libother.so.2+0x99
2.0 KiB       4    0.2 %  /srv/far/app.py:7 <module>
1.0 MiB      12  100.0 %  total

Stack of the first row, innermost call first:
    duplicate (/src/leak.c:6)
    grow (/src/leak.c:12)
    leak (/src/leak.c:19)
    /srv/far/app.py:7 <module>
`
	unnamed := "note: no names for libother.so.2: no file of it was found; --symbols DIR looks for build-id 0123\n"
	out, talk, code := heaptap(t, none, "report", file, "--symbols", symbols, "--stack")
	if diff := cmp.Diff(table, out); diff != "" || code != 0 {
		t.Errorf("code %d:\n%s", code, diff)
	}
	if talk != unnamed {
		t.Errorf("says %q", talk)
	}
	cache := func(name string) string {
		return map[string]string{"DEBUGINFOD_CACHE_PATH": symbols}[name]
	}
	if out, _, _ := heaptap(t, cache, "report", file, "--stack"); out != table {
		t.Errorf("from debuginfod's cache:\n%s", out)
	}
	// Without them the place remains, and python's view needs none.
	out, talk, _ = heaptap(t, none, "report", file)
	if !strings.Contains(out, "  _leak.cpython-311-x86_64-linux-gnu.so+0x"+strconv.FormatUint(e.grow, 16)+"\n") ||
		!strings.Contains(talk, "no names for _leak.cpython-311-x86_64-linux-gnu.so: no file of it was found") {
		t.Errorf("%s%s", out, talk)
	}
	out, talk, _ = heaptap(t, none, "report", file, "--frames", "python", "--as", "folded")
	if want := "<module> (/srv/far/app.py:7) 1054720\n"; out != want || talk != "" {
		t.Errorf("python's view: %q, says %q", out, talk)
	}
	out, _, _ = heaptap(t, none, "report", file, "--frames", "all", "--symbols", symbols, "--as", "folded")
	if want := "python3.11+0x4711;<module> (/srv/far/app.py:7);python3.11+0x4711 2048\n" +
		"python3.11+0x4711;<module> (/srv/far/app.py:7);python3.11+0x4711;leak (/src/leak.c:19);grow (/src/leak.c:12);" +
		"duplicate (/src/leak.c:6) 1048576\n" +
		"python3.11+0x4711;<module> (/srv/far/app.py:7);python3.11+0x4711;libother.so.2+0x99 4096\n"; out != want {
		t.Errorf("all frames:\n%s", out)
	}
	// Filters and groups know the names.
	for _, filter := range [][]string{{"--func", "duplicate"}, {"--file", "leak.c"}, {"--module", "_leak"}, {"--own", "--domain", "malloc",
		"--module", "!libother.so.2"}, {"--where", `stack.func == "leak" && line == 6`}} {
		out, _, code := heaptap(t, none, append([]string{"report", file, "--symbols", symbols, "--as", "folded"}, filter...)...)
		if !strings.HasSuffix(out, " 1048576\n") || strings.Count(out, "\n") != 1 {
			t.Errorf("%q: code %d\n%s", filter, code, out)
		}
	}
	out, _, _ = heaptap(t, none, "report", file, "--symbols", symbols, "--by", "module")
	if !strings.Contains(out, "1.0 MiB       4   99.4 %  srv.far._leak\n") {
		t.Errorf("by module:\n%s", out)
	}
	// A difference is by line, whatever the addresses.
	out, _, _ = heaptap(t, none, "diff", file, e.snapshot(t, 3<<20), "--symbols", symbols)
	if !strings.Contains(out, "+2.0 MiB       0  1.0 MiB  3.0 MiB  duplicate (/src/leak.c:6)\n") {
		t.Errorf("difference:\n%s", out)
	}
	// A snapshot with the names in it needs the folder no more.
	named := filepath.Join(t.TempDir(), "named.pb.gz")
	if _, talk, code := heaptap(t, none, "report", file, "--symbols", symbols, "--as", "pprof", "-o", named); code != 0 {
		t.Fatal(talk)
	}
	if out, _, _ := heaptap(t, none, "report", named, "--stack"); out != table {
		t.Errorf("of the snapshot with names:\n%s", out)
	}
	for _, args := range [][]string{{"--symbols", symbols + "/missing"}, {"--frames", "some"}} {
		if _, talk, code := heaptap(t, none, append([]string{"report", file}, args...)...); code == 0 || talk == "" {
			t.Errorf("%q: code %d, %s", args, code, talk)
		}
	}
}
