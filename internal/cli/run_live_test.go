package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/heap"
)

// built is heaptap as it is installed: a test binary is stripped, and so knows less of what it has inherited.
func built(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "heaptap")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "github.com/heaptap/heaptap/cmd/heaptap")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build heaptap: %v\n%s", err, out)
	}
	return path
}

const systemPython = "/usr/bin/python3"

// sameWithRun starts a command twice, by itself and by `heaptap run`, in the same unusual circumstances, and prints what is
// different for the command.
const sameWithRun = `
import json, os, resource, signal, subprocess, sys
heaptap, folder = sys.argv[1:]
look = r'''
import json, os, sys
def text(name):
    return open('/proc/self/' + name).read()
status = dict(line.split(':', 1) for line in text('status').splitlines())
number = int(sys.argv[1])
see = {name: status[name].strip() for name in (
    'SigBlk', 'SigIgn', 'SigCgt', 'SigPnd', 'ShdPnd', 'Uid', 'Gid', 'Groups', 'CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb',
    'NoNewPrivs', 'Seccomp', 'Umask', 'TracerPid', 'Cpus_allowed', 'Threads')}
for name in ('environ', 'limits', 'personality', 'timerslack_ns', 'oom_score_adj', 'comm', 'cmdline', 'coredump_filter', 'cgroup'):
    see[name] = text(name)
see['fds'] = {fd: os.readlink('/proc/self/fd/' + fd) for fd in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + fd)}
see['group'] = os.getpgid(0) == number, os.getsid(0) == number
see['nice'], see['cwd'], see['argv'], see['executable'] = os.nice(0), os.getcwd(), sys.argv, sys.executable
see['flags'] = [open('/proc/self/fdinfo/%d' % n).read().split('flags:')[1].split()[0] for n in (0, 1, 2, 9)]
print(json.dumps(see))
'''
r, w = os.pipe()
os.dup2(r, 9)
def before():
    signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGUSR2, signal.SIGCHLD, signal.SIGHUP])
    for s in (signal.SIGQUIT, signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTSTP, 40):
        signal.signal(s, signal.SIG_IGN)
    os.umask(0o027)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 1000))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(3)
    os.setsid()
env = dict(os.environ, ODD='x\ny', EMPTY='')
seen = []
for wrap in [], [heaptap, 'run', '-o', os.path.join(folder, 'x.pb.gz'), '--']:
    # The process that is started writes its number over its argument's place: the session and group must be its own.
    p = subprocess.Popen(['/bin/sh', '-c', 'exec "$@" $$', 'sh'] + wrap + [sys.executable, '-c', look], preexec_fn=before,
        close_fds=False, restore_signals=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env, cwd=folder)
    out = p.communicate()[0]
    assert p.returncode == 0, p.returncode
    see = json.loads(out)
    see['argv'][-1] = see['cmdline'] = ''
    see['fds'] = {n: to if not to.startswith('pipe') else 'pipe' for n, to in see['fds'].items()}
    seen.append(see)
for name in seen[0]:
    if seen[0][name] != seen[1][name]:
        print(name, seen[0][name], seen[1][name])
print('compared', len(seen[0]))
`

// TestRunSame: a command is started by run as it is without.
func TestRunSame(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), systemPython, "-c", sameWithRun, built(t), t.TempDir()).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !regexp.MustCompile(`^compared \d\d\n$`).Match(out) {
		t.Errorf("different with run:\n%s", out)
	}
}

// runs starts `heaptap run` of a Python program, with its own output to read from.
func runs(t *testing.T, attr *syscall.SysProcAttr, flags []string, program string) (*exec.Cmd, func(string)) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The test program is heaptap where it is called so.
	path := filepath.Join(t.TempDir(), "heaptap")
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path,
		append(append([]string{"run", "-o", filepath.Join(t.TempDir(), "end.pb.gz")}, flags...), "--", systemPython, "-u", "-c", program)...)
	cmd.SysProcAttr = attr
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	var talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &talk
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	seen := ""
	return cmd, func(want string) {
		t.Helper()
		if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		for b := make([]byte, 256); !strings.Contains(seen, want); {
			n, err := r.Read(b)
			seen += string(b[:n])
			if err != nil {
				t.Fatalf("waiting for %q: %v; the command said %q, heaptap %q", want, err, seen, talk.String())
			}
		}
		seen = seen[strings.Index(seen, want)+len(want):]
	}
}

const patience = 60 * time.Second

// TestRunSignals: what is sent to heaptap comes to the command, once; what the command ends by, heaptap ends by.
func TestRunSignals(t *testing.T) {
	t.Parallel()
	cmd, expect := runs(t, &syscall.SysProcAttr{Setpgid: true}, nil, `
import signal, os
def told(number, frame):
    os.write(1, b'<%d>' % number)
for s in (1, 2, 3, 10, 12, 14, 15, 28, 18, 40):
    signal.signal(s, told)
print('ready')
while True:
    signal.pause()
`)
	expect("ready\n")
	all := []syscall.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGTERM, unix.SIGWINCH, 40}
	for _, s := range all {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		expect(fmt.Sprintf("<%d>", s))
	}
	if err := cmd.Process.Signal(unix.SIGXCPU); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGXCPU {
		t.Errorf("heaptap ended: %v", err)
	}
}

// TestRunEvery: snapshots on the way, and one at the end, by SIGKILL.
func TestRunEvery(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	last := filepath.Join(dir, "last.pb.gz")
	cmd, expect := runs(t, nil, []string{"-o", last, "--every", "1s", "--keep", "2"}, `
import os, time, glob, sys
keep = [bytes(1000) for _ in range(1000)]
files = set()
while len(files) < 3:
    files |= set(glob.glob(`+"'"+dir+"/heaptap-*')"+`)
print('enough')
os.kill(os.getpid(), 9)
`)
	expect("enough\n")
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("heaptap ended: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.pb.gz"))
	if err != nil || len(files) < 2 || len(files) > 3 || !slices.Contains(files, last) {
		t.Errorf("files %q, %v", files, err)
	}
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := heap.Read(f)
		f.Close()
		if err != nil || s.Total()[heap.InuseBytes] < 1000*1000 {
			t.Errorf("%s: %v, %v", path, s.Total(), err)
		}
	}
}

// TestRunUnprivileged: who has no privileges can run and hold what is theirs.
func TestRunUnprivileged(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("all tests of run are without privileges")
		return
	}
	const nobody = 65534
	heaptap := built(t)
	dir := filepath.Dir(heaptap)
	for _, path := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	home := filepath.Join(dir, "home")
	if err := errors.Join(os.Mkdir(home, 0o700), os.Chown(home, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	start := func(args ...string) (*exec.Cmd, *bytes.Buffer) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir = home
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out := new(bytes.Buffer)
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out
	}
	live := func(name string) int64 {
		t.Helper()
		f, err := os.Open(filepath.Join(home, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		s, err := heap.Read(f)
		if err != nil {
			t.Fatal(err)
		}
		return s.Total()[heap.InuseBytes]
	}
	const dies = "import os; keep = [bytes(1000) for _ in range(1000)]; os.kill(os.getpid(), 9)"
	cmd, out := start(heaptap, "run", "-o", "run.pb.gz", "--", systemPython, "-c", dies)
	if err := cmd.Wait(); cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("run: %v: %s", err, out)
	}
	if n := live("run.pb.gz"); n < 1000*1000 {
		t.Errorf("%d bytes live: %s", n, out)
	}

	// Held from outside, by one who is not its parent.
	door, ready := filepath.Join(home, "door"), filepath.Join(home, "ready")
	for _, path := range []string{door, ready} {
		if err := errors.Join(unix.Mkfifo(path, 0o600), os.Chown(path, nobody, nobody)); err != nil {
			t.Fatal(err)
		}
	}
	target, said := start(systemPython, "-c", "open('ready', 'w').write('.'); open('door').read(); "+dies)
	if _, err := os.ReadFile(ready); err != nil {
		t.Fatal(err)
	}
	hold, out := start(heaptap, "attach", "--hold", "-o", "hold.pb.gz", fmt.Sprint(target.Process.Pid))
	for exec.CommandContext(t.Context(), heaptap, "dump", fmt.Sprint(target.Process.Pid), "-o", "/dev/null").Run() != nil {
		if t.Context().Err() != nil {
			t.Fatal(t.Context().Err())
		}
	}
	f, err := os.OpenFile(door, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	target.Wait()
	if err := hold.Wait(); err != nil {
		t.Fatalf("hold: %v: %s; the process says %s", err, out, said)
	}
	if n := live("hold.pb.gz"); n < 1000*1000 {
		t.Errorf("%d bytes live: %s", n, out)
	}
}

// terminal is a shell with job control, at a terminal of its own.
type terminal struct {
	t      *testing.T
	master *os.File
	seen   string
}

func newTerminal(t *testing.T, dir string, env ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	shell := exec.CommandContext(t.Context(), "bash", "--norc", "--noprofile", "--noediting", "-i")
	shell.Dir = dir
	shell.Env = append(append(os.Environ(), "PS1=$ ", "TERM=dumb"), env...)
	shell.Stdin, shell.Stdout, shell.Stderr = slave, slave, slave
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	tm := &terminal{t: t, master: master}
	t.Cleanup(func() {
		master.Close() // hangs up
		shell.Process.Kill()
		shell.Wait()
	})
	return tm
}

// expect reads until something has been shown that matches.
func (tm *terminal) expect(pattern string) {
	tm.t.Helper()
	tm.read(pattern, "")
}

// expectAsking is expect of what the shell only says before it asks for a command: it is given empty ones.
func (tm *terminal) expectAsking(pattern string) {
	tm.t.Helper()
	tm.read(pattern, "\n")
}

func (tm *terminal) read(pattern, ask string) {
	tm.t.Helper()
	re := regexp.MustCompile(pattern)
	end := time.Now().Add(patience)
	for b := make([]byte, 1024); ; {
		if at := re.FindStringIndex(tm.seen); at != nil {
			tm.seen = tm.seen[at[1]:]
			return
		}
		fds := []unix.PollFd{{Fd: int32(tm.master.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 200)
		if err != nil && err != unix.EINTR {
			tm.t.Fatal(err)
		}
		if n == 0 {
			tm.enter(ask)
		}
		if fds[0].Revents&unix.POLLIN != 0 {
			n, err := tm.master.Read(b)
			if err != nil {
				tm.t.Fatalf("waiting for %q: %v; the terminal shows %q", pattern, err, tm.seen)
			}
			tm.seen += string(b[:n])
		}
		if time.Now().After(end) {
			tm.t.Fatalf("waiting for %q: the terminal shows %q", pattern, tm.seen)
		}
	}
}

func (tm *terminal) enter(text string) {
	tm.t.Helper()
	if _, err := tm.master.WriteString(text); err != nil {
		tm.t.Fatal(err)
	}
}

const (
	ctrlC = "\x03"
	ctrlZ = "\x1a"
)

// TestRunTerminal: at a terminal, the keys do to a command under run what they do to one without, and the shell sees the
// same of it.
func TestRunTerminal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, program := range map[string]string{
		"sleep.py": `
import os, signal, time
signal.signal(signal.SIGCONT, lambda number, frame: os.write(1, b'con' + b'tinued\n'))
os.write(1, b'sle' + b'eping\n')
time.sleep(1000)
`,
		"talk.py": "print('heard ' + input('sa' + 'y: ')[::-1])\n",
		"mind.py": `
import os, signal, sys
def told(number, frame):
    os.write(1, b'minded %d\n' % number)
signal.signal(signal.SIGINT, told)
signal.signal(signal.SIGTSTP, told)
os.write(1, b'min' + b'ding\n')
while sys.stdin.readline().strip() != 'end':
    pass
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, run := range []string{"", built(t) + " run -o x.pb.gz -- "} {
		t.Run(fmt.Sprintf("run=%v", run != ""), func(t *testing.T) {
			t.Parallel()
			tm := newTerminal(t, dir)
			say := func(text string) {
				t.Helper()
				tm.enter(text + "\n")
			}
			command := run + systemPython + " "
			say(command + "sleep.py")
			tm.expect("sleeping")
			tm.enter(ctrlZ)
			tm.expect(`\[1\]\+? +Stopped`)
			say("fg")
			tm.expect("continued") // it has the terminal by now
			tm.enter(ctrlC)
			tm.expect("KeyboardInterrupt")
			say("echo code=$?")
			tm.expect("code=130")

			// A background job that reads stops, until it is in the foreground.
			say(command + "talk.py &")
			tm.expect(`\[1\]`)
			tm.expectAsking(`Stopped`)
			say("fg")
			tm.expect(`fg\r?\n.*talk.py`)
			say("hello")
			tm.expect("heard olleh")
			say("echo code=$?")
			tm.expect("code=0")

			// One that minds its signals itself gets each of them once, and goes on.
			say(command + "mind.py")
			tm.expect("minding")
			tm.enter(ctrlC)
			tm.expect("minded 2")
			tm.enter(ctrlZ)
			tm.expect("minded 20")
			if strings.Contains(tm.seen, "minded") {
				t.Errorf("again: %q", tm.seen)
			}
			say("end")
			say("echo code=$?")
			tm.expect("code=0")

			// The shell sends a signal to the whole job.
			say(command + "sleep.py &")
			tm.expect("sleeping")
			say("kill -TERM %1; wait %1; echo code=$?")
			tm.expect("code=143")
		})
	}
}
