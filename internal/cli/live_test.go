package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// run runs heaptap in this process, with the real engine, and returns what it wrote to stdout.
func run(t *testing.T, want ExitCode, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	env := System()
	env.Stdout, env.Stderr = &stdout, &stderr
	env.Term = Terminal{Width: func() int { return 0 }}
	if code := ExitCode(Main(args, env)); code != want {
		t.Fatalf("heaptap %v: exit code %d, want %d\n%s%s", args, code, want, &stdout, &stderr)
	}
	return stdout.String()
}

// holder is a Python that, line by line as it is told, keeps a list of bytearrays of 100,000 bytes and says how many.
const holder = `
import sys
kept = []
def keep():
    kept.append(bytearray(100000))
print("ready", flush=True)
for line in sys.stdin:
    keep()
    print(len(kept), flush=True)
`

// target is a holder that was started.
type target struct {
	t      *testing.T
	pid    int
	stdin  io.Writer
	stdout *bufio.Reader
}

func startHolder(t *testing.T) *target {
	t.Helper()
	c := exec.Command("python3", "-I", "-c", holder)
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		c.Wait()
	})
	h := &target{t, c.Process.Pid, stdin, bufio.NewReader(stdout)}
	if got := h.line(); got != "ready" {
		t.Fatalf("target said %q", got)
	}
	return h
}

func (h *target) line() string {
	h.t.Helper()
	s, err := h.stdout.ReadString('\n')
	if err != nil {
		h.t.Fatalf("read from target: %v", err)
	}
	return strings.TrimSpace(s)
}

// keep lets the target keep one more block, which must be its n-th.
func (h *target) keep(n int) {
	h.t.Helper()
	if _, err := io.WriteString(h.stdin, "\n"); err != nil {
		h.t.Fatal(err)
	}
	if got := h.line(); got != strconv.Itoa(n) {
		h.t.Fatalf("target said %q, want %d", got, n)
	}
}

func parse[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// The whole life of a tracked process, through the commands and their JSON.
func TestLife(t *testing.T) {
	h := startHolder(t)
	pid := strconv.Itoa(h.pid)
	file := filepath.Join(t.TempDir(), "heap.pb.gz")

	listed := func() *candidateValue {
		for _, c := range parse[[]candidateValue](t, run(t, ExitOK, "ps", "--json")) {
			if c.Pid == h.pid {
				return &c
			}
		}
		t.Fatalf("ps does not list process %s", pid)
		return nil
	}
	c := listed()
	if c.Tracked != nil || c.Problem != "" || c.Python == nil || !strings.HasPrefix(c.Python.Version, "3.") {
		t.Errorf("ps before: %+v, want a Python 3 that is not tracked", c)
	}
	run(t, ExitNotTracked, "status", pid)
	run(t, ExitNotTracked, "dump", pid, "-o", file)
	if _, err := os.Stat(file); err == nil {
		t.Error("a dump that failed left its file")
	}
	if checks := parse[checksValue](t, run(t, ExitOK, "doctor", pid, "--json")); checks.Blocked != 0 {
		t.Errorf("doctor: %+v", checks)
	}

	at := parse[attachmentValue](t, run(t, ExitOK, "attach", pid, "--json"))
	if at.PauseNS <= 0 || at.Tid != h.pid || len(at.Hooked) != 6 || at.Already {
		t.Errorf("attach: %+v", at)
	}
	if again := parse[attachmentValue](t, run(t, ExitOK, "attach", pid, "--json")); !again.Already {
		t.Errorf("second attach: %+v, want already", again)
	}
	for n := 1; n <= 20; n++ {
		h.keep(n)
	}
	if c := listed(); c.Tracked == nil || *c.Tracked != "tracking" {
		t.Errorf("ps meanwhile: %+v, want tracked", c)
	}
	const kept = 20 * 100000
	if s := parse[statusValue](t, run(t, ExitOK, "status", pid, "--json")); s.Total.LiveBytes < kept || s.Lost != 0 {
		t.Errorf("status: %+v, want at least %d bytes live", s, kept)
	}
	d := parse[dumpValue](t, run(t, ExitOK, "dump", pid, "-o", file, "--json"))
	if d.LiveBytes < kept || d.Path != file || d.PauseNS <= 0 {
		t.Errorf("dump: %+v, want at least %d bytes live", d, kept)
	}
	if table := run(t, ExitOK, "report", file, "--top", "1"); !strings.Contains(table, "<string>:5 keep") {
		t.Errorf("report does not begin with the line that keeps:\n%s", table)
	}
	if out := parse[detachmentValue](t, run(t, ExitOK, "detach", pid, "--json")); !out.Unmapped || out.Restored != 12 || out.Slots == 0 {
		t.Errorf("detach: %+v, want 12 words and some slots restored and the agent gone", out)
	}
	run(t, ExitNotTracked, "detach", pid)
	run(t, ExitOK, "repair", pid)
	if c := listed(); c.Tracked != nil {
		t.Errorf("ps after: %+v, want not tracked", c)
	}
	h.keep(21)
}

// A target that somebody traces is refused, with the name of who does.
func TestTraced(t *testing.T) {
	h := startHolder(t)
	tracer := exec.Command("python3", "-I", "-c", `
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
print(libc.ptrace(0x4206, int(sys.argv[1]), None, None), flush=True)  # PTRACE_SEIZE
sys.stdin.read()
`, strconv.Itoa(h.pid))
	stdin, err := tracer.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := tracer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	defer tracer.Wait()
	defer stdin.Close()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "0\n" {
		t.Fatalf("the other tracer: %q, %v", line, err)
	}
	run(t, ExitTraced, "attach", strconv.Itoa(h.pid))
	report := run(t, ExitFindings, "doctor", strconv.Itoa(h.pid))
	if want := "process " + strconv.Itoa(tracer.Process.Pid) + " (python3"; !strings.Contains(report, want) {
		t.Errorf("doctor does not name the tracer (%s):\n%s", want, report)
	}
	h.keep(1)
}

// A process that has ended is told from one that never was.
func TestZombie(t *testing.T) {
	c := exec.Command("python3", "-I", "-c", "")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	fd, err := unix.PidfdOpen(c.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ended(t, fd)
	pid := strconv.Itoa(c.Process.Pid)
	for _, command := range []string{"attach", "status", "dump", "detach", "repair", "doctor"} {
		run(t, ExitNoProcess, command, pid)
	}
}

// Another user's process is refused before anything is touched, with the reason; and ps and doctor know it, too.
func TestOtherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	h := startHolder(t)
	pid := strconv.Itoa(h.pid)
	asNobody := func(args ...string) (ExitCode, string) {
		const nobody = 65534
		c := exec.Command("/proc/self/exe", args...) // where the test's folder is closed to others, this is still open
		c.Args[0] = "heaptap"
		c.Dir = "/"
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := c.CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return ExitCode(c.ProcessState.ExitCode()), string(out)
	}
	const why = "belongs to user root, heaptap runs as "
	for _, args := range [][]string{{"attach", pid}, {"status", pid}, {"dump", pid, "-o", "-"}, {"detach", pid}} {
		if code, out := asNobody(args...); code != ExitNotPermitted || !strings.Contains(out, why) {
			t.Errorf("%v: exit code %d, want %d, and %q:\n%s", args, code, ExitNotPermitted, why, out)
		}
	}
	if code, out := asNobody("doctor", pid); code != ExitFindings || !strings.Contains(out, why) {
		t.Errorf("doctor: exit code %d, want %d:\n%s", code, ExitFindings, out)
	}
	if code, out := asNobody("ps"); code != ExitOK || !strings.Contains(out, "not permitted to look into it") {
		t.Errorf("ps: exit code %d:\n%s", code, out)
	}
	h.keep(1)
}

func TestNotPython(t *testing.T) {
	c := exec.Command("cat")
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	defer stdin.Close()
	pid := strconv.Itoa(c.Process.Pid)
	run(t, ExitNotPython, "attach", pid)
	if report := run(t, ExitFindings, "doctor", pid); !strings.Contains(report, "no CPython is loaded") {
		t.Errorf("doctor of cat:\n%s", report)
	}
}

// demoInMiddle starts `heaptap demo` as a process and returns when it watches the server: the process, the server's
// pidfd, and the folder for temporary files.
func demoInMiddle(t *testing.T) (c *exec.Cmd, server int, tmp string) {
	t.Helper()
	tmp = t.TempDir()
	c = exec.Command("heaptap", "demo", "--for", "10m")
	c.Env = append(os.Environ(), "TMPDIR="+tmp)
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	server = -1
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) > 2 && f[0] == "shop":
			pid, err := strconv.Atoi(strings.TrimSuffix(f[2], ","))
			if err != nil {
				t.Fatal(err)
			}
			if server, err = unix.PidfdOpen(pid, 0); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(server) })
		case len(f) > 0 && f[0] == "watching" && server >= 0:
			go io.Copy(io.Discard, stderr)
			return c, server, tmp
		}
	}
	t.Fatal("the demo did not come to watching")
	return nil, 0, ""
}

// ended waits until the process behind a pidfd has ended.
func ended(t *testing.T, pidfd int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 1000); err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		} else if n > 0 {
			return
		}
	}
	t.Fatal("the demo's server did not end")
}

// Ctrl-C in the middle of the demo ends the server and leaves no file.
func TestDemoInterrupted(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			c, server, tmp := demoInMiddle(t)
			if err := c.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			c.Wait()
			if code := ExitCode(c.ProcessState.ExitCode()); code != ExitInterrupted {
				t.Errorf("exit code %d, want %d", code, ExitInterrupted)
			}
			ended(t, server)
			if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// A demo that is killed cannot clean up, but its server ends all the same.
func TestDemoKilled(t *testing.T) {
	c, server, _ := demoInMiddle(t)
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Wait()
	ended(t, server)
}

// A process that was asked by a signal writes a file that report and diff read.
func TestOnSignal(t *testing.T) {
	h := startHolder(t)
	pid := strconv.Itoa(h.pid)
	dir := t.TempDir()
	run(t, ExitOK, "attach", pid, "--on-signal", "USR2="+filepath.Join(dir, "%p.tables"))
	file := func(n int) string { return filepath.Join(dir, pid+"-"+strconv.Itoa(n)+".tables") }
	for n := range 2 {
		h.keep(2*n + 1)
		if err := unix.Kill(h.pid, unix.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		h.keep(2*n + 2) // it has no other thread, so that the file is there before this is answered
		h.t.Log(run(t, ExitOK, "report", file(n)))
	}
	if got := run(t, ExitOK, "report", file(0), "--by", "function"); !strings.Contains(got, "keep") {
		t.Errorf("report: %s", got)
	}
	if got := run(t, ExitOK, "diff", file(0), file(1), "--by", "function"); !strings.Contains(got, "keep") {
		t.Errorf("diff: %s", got)
	}
	if got := run(t, ExitOK, "status", pid); !strings.Contains(got, "2 files written") {
		t.Errorf("status: %s", got)
	}
	run(t, ExitOK, "detach", pid)
	h.keep(5)
}
