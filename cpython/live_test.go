package cpython

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// program is a Python on this machine, in this file system or in a root of its own.
type program struct {
	root, path string
}

func (p program) String() string { return strings.TrimPrefix(p.root+p.path, "/") }

// interpreters lists the supported Pythons: those that pyenv built, Debian's own, and those in the project's roots
// (tools/roots). Debug builds and 2.7 are in refused.
func interpreters(t testing.TB) []program {
	t.Helper()
	var found []program
	for _, p := range allPrograms(t) {
		if !p.refused() {
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		t.Fatal("no Python interpreter was found: neither /usr/bin/python3.* nor any in ~/.pyenv/versions")
	}
	return found
}

func (p program) refused() bool {
	base := filepath.Base(p.path)
	return strings.HasSuffix(base, "d") || strings.HasSuffix(base, "t") || strings.HasPrefix(base, "python2")
}

func allPrograms(t testing.TB) []program {
	t.Helper()
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	roots, err := filepath.Glob("../.roots/*/usr")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`^python[23]\.\d+[dt]*$`) // not python3.6m, the same file again, nor python3.9-config
	var found []program
	add := func(root, pattern string) {
		paths, err := filepath.Glob(root + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			path = strings.TrimPrefix(path, root)
			fi, err := os.Lstat(root + path)
			if err != nil || !fi.Mode().IsRegular() || !name.MatchString(filepath.Base(path)) {
				continue
			}
			found = append(found, program{root, path})
		}
	}
	add("", filepath.Join(home, ".pyenv/versions/*/bin/python[23].*"))
	add("", "/usr/bin/python[23].*")
	for _, usr := range roots {
		root, err := filepath.Abs(filepath.Dir(usr))
		if err != nil {
			t.Fatal(err)
		}
		add(root, "/usr/bin/python[23].*")
	}
	return found
}

// target is a running program that answers each line we write with one line.
type target struct {
	t    testing.TB
	proc *proc.Process
	mem  *proc.Mem
	in   io.WriteCloser
	out  *bufio.Reader
}

// startPython runs testdata/target.py.
func startPython(t testing.TB, p program, env ...string) *target {
	t.Helper()
	source, err := os.ReadFile("testdata/target.py")
	if err != nil {
		t.Fatal(err)
	}
	return p.start(t, string(source), env...)
}

// start runs a Python program given as text. Its first line of output must be "ready".
func (p program) start(t testing.TB, source string, env ...string) *target {
	t.Helper()
	cmd := exec.Command(p.path, "-c", source)
	if p.root != "" {
		if os.Geteuid() != 0 {
			t.Skip("another root can only be entered by root")
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: p.root}
		cmd.Dir = "/"
	}
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1")
	cmd.Env = append(cmd.Env, env...)
	return startCommand(t, cmd)
}

func startCommand(t testing.TB, cmd *exec.Cmd) *target {
	t.Helper()
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	tg := &target{t: t, in: stdin, out: bufio.NewReader(stdout)}
	t.Cleanup(func() {
		cancel()
		stdin.Close()
		cmd.Wait()
	})
	if got := tg.read(); got != "ready" {
		t.Fatalf("%v: first line %q, want ready", cmd, got)
	}
	if tg.proc, err = proc.Open(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tg.proc.Close() })
	if tg.mem, err = tg.proc.Mem(); err != nil {
		t.Fatal(err)
	}
	return tg
}

// read returns the target's next line.
func (tg *target) read() string {
	tg.t.Helper()
	line, err := tg.out.ReadString('\n')
	if err != nil {
		tg.t.Fatalf("read from target: %v", err)
	}
	return strings.TrimSuffix(line, "\n")
}

// write sends a line.
func (tg *target) write(line string) {
	tg.t.Helper()
	if _, err := io.WriteString(tg.in, line+"\n"); err != nil {
		tg.t.Fatalf("write to target: %v", err)
	}
}

// eval has the target evaluate an expression and stores its value in v.
func (tg *target) eval(expression string, v any) {
	tg.t.Helper()
	tg.write(expression)
	if err := json.Unmarshal([]byte(tg.read()), v); err != nil {
		tg.t.Fatalf("%s: %v", expression, err)
	}
}

func (tg *target) find() *Interpreter {
	tg.t.Helper()
	in, err := Find(tg.proc, tg.mem)
	if err != nil {
		tg.t.Fatal(err)
	}
	return in
}

func (tg *target) states(in *Interpreter) []InterpreterState {
	tg.t.Helper()
	states, err := in.States(tg.mem)
	if err != nil {
		tg.t.Fatal(err)
	}
	return states
}

// eachPython runs a test on every interpreter.
func eachPython(t *testing.T, test func(t *testing.T, p program)) {
	for _, p := range interpreters(t) {
		t.Run(p.String(), func(t *testing.T) { test(t, p) })
	}
}

// torn is memory in which the first reads of one place meet a change, as of a frame that has ended meanwhile.
type torn struct {
	mem.Reader
	at   mem.Addr
	left int
}

func (r *torn) ReadAt(p []byte, a mem.Addr) error {
	const near = 64 // bytes: where a frame says what comes next
	if a < r.at+near && r.at < a+mem.Addr(len(p)) && r.left > 0 {
		r.left--
		return &mem.Fault{Op: "read", Addr: a, Len: len(p), Err: syscall.EFAULT}
	}
	return r.Reader.ReadAt(p, a)
}

// A layout is not called wrong because a busy thread was never met at rest in a hundred tries.
func TestProbeBusy(t *testing.T) {
	eachPython(t, func(t *testing.T, p program) {
		tg := startPython(t, p)
		in := tg.find()
		threads, err := in.threads(tg.mem)
		if err != nil || len(threads) != 1 {
			t.Fatal(threads, err)
		}
		chain, err := in.chain(tg.mem, threads[0])
		if err != nil || len(chain) == 0 {
			t.Fatal(chain, err)
		}
		busy := &torn{tg.mem, chain[len(chain)-1].addr, 3 * maxTries}
		c := &candidate{finder: &finder{process: tg.proc, reader: busy}, id: in.Identity}
		if frames, err := c.probeFrames(in, threads); err != nil || frames != len(chain) || busy.left != 0 {
			t.Errorf("%d frames of %d, %v; %d torn reads were not made", frames, len(chain), err, busy.left)
		}
	})
}
