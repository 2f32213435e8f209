package profiler

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/internal/pytarget"
	"github.com/heaptap/heaptap/proc"
)

// TestChildrenThatExecute: what executes a Python is tracked anew, whether it comes by fork, vfork or posix_spawn; what
// executes something else is left alone; the parent's own numbers have nothing of them.
func TestChildrenThatExecute(t *testing.T) {
	t.Parallel()
	const program = `
import os, subprocess, sys, threading

code = """
import os, sys
kept = []
def grow(n):
    kept.append(bytes(n))
for line in sys.stdin:
    grow(int(line))
    print(os.getpid(), flush=True)
"""
children = {}

def begin(kind):
    theirs, to = os.pipe()
    back, out = os.pipe()
    for fd in theirs, out:
        os.set_inheritable(fd, True)
    argv = [sys.executable, "-c", code]
    if kind == "fork":
        pid = os.fork()
        if pid == 0:
            waste = [bytes(100) for _ in range(1000)] # in the fork's own profile
            os.dup2(theirs, 0); os.dup2(out, 1); os.close(to); os.close(back)
            os.execv(argv[0], argv)
    elif kind == "posix_spawn":
        pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=[
            (os.POSIX_SPAWN_DUP2, theirs, 0), (os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_CLOSE, to)])
    elif kind == "subprocess":
        pid = subprocess.Popen(argv, stdin=theirs, stdout=out).pid
    elif kind == "shell":
        pid = subprocess.Popen(["/bin/sh", "-c", '"$0" -c "$1"; exit 0', *argv[::2]], stdin=theirs, stdout=out).pid
    elif kind == "other":
        pid = subprocess.Popen(["/bin/cat"], stdin=theirs, stdout=out).pid
    os.close(theirs); os.close(out)
    children[kind] = pid, to, back

def in_thread(kind):
    t = threading.Thread(target=begin, args=(kind,))
    t.start()
    t.join()

def grow(n):
    for pid, to, back in children.values():
        os.write(to, b"%d\n" % n)
    return sorted(os.read(back, 100) for pid, to, back in children.values())

def end():
    codes = []
    for pid, to, back in children.values():
        os.close(to); os.close(back)
        codes.append(os.waitpid(pid, 0)[1])
    return codes
`
	for _, in := range eras(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, program, pytarget.Options{})
			mustFollow(t, tg.Pid())
			f := follow(t, tg.Pid())
			f.until(1)
			tg.Exec("begin('other'); begin('posix_spawn'); begin('subprocess'); begin('shell'); in_thread('fork')")
			f.untilAre(5, FollowAttached)
			tg.Exec("grow(1500000)")
			d, err := TakeTreeDump(t.Context(), tg.Pid(), DumpOptions{})
			if err != nil {
				t.Fatal(err)
			}
			by := growth(d.Snapshot)
			for process, bytes := range by {
				if bytes < 1500000 || bytes > 1500064 {
					t.Errorf("process %q has grown by %d", process, bytes)
				}
			}
			if len(by) != 4 || len(d.Members) != 5 {
				t.Errorf("%v have grown, of %v", by, byProcess(d.Snapshot))
			}
			var names []string
			for _, m := range d.Untracked {
				names = append(names, m.Name)
			}
			if got := strings.Join(names, " "); got != "cat sh" && got != "sh cat" {
				t.Errorf("not tracked: %s", got)
			}
			list, err := DetachTree(t.Context(), tg.Pid())
			if err != nil || len(list) != 5 {
				t.Errorf("detach: %+v, %v", list, err)
			}
			tg.Exec("grow(10)")
			if got := tg.Exec("end()"); got != "[0, 0, 0, 0, 0]" {
				t.Errorf("the children ended with %s", got)
			}
			f.stop()
			<-f.ended
			tg.Challenge()
		})
	}
}

// TestVforkWaits: a vfork's child that waits before it executes its program has its parent's memory, agent and all. It is
// not taken for a tracked process, nothing is done to it, and it is attached to when it has come to its program.
func TestVforkWaits(t *testing.T) {
	t.Parallel()
	const program = `
import os, sys
code = "import sys; sys.stdin.read()"

def spawn(fifo):
    global pid
    # The child of posix_spawn opens it, and waits for somebody who writes, before it executes anything.
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, fifo, os.O_RDONLY, 0)])
    return pid
`
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	tg := pytarget.Start(t, debian(t), program, pytarget.Options{})
	words := hookedWords(t, tg.Pid())
	before := tg.Observe(words)
	mustFollow(t, tg.Pid())
	f := follow(t, tg.Pid())
	f.until(1)
	spawned := make(chan error)
	go func() {
		_, err := tg.Try(fmt.Sprintf("spawn(%q)", fifo))
		spawned <- err
	}()
	child := f.child(tg.Pid())
	if !sharesMemory(child, tg.Pid()) {
		t.Fatal("the child has memory of its own")
	}
	for range 3 {
		if list, err := StatusOfTree(t.Context(), tg.Pid()); err != nil || len(list) != 1 {
			t.Errorf("status: %+v, %v", list, err)
		}
		if list, err := AttachTree(t.Context(), tg.Pid(), AttachOptions{}); err != nil || len(list) != 1 || !list[0].Result.Already {
			t.Errorf("attach: %+v, %v", list, err)
		}
		if d, err := TakeTreeDump(t.Context(), tg.Pid(), DumpOptions{NoPause: true}); err != nil || len(d.Members) != 1 {
			t.Errorf("dump: %+v, %v", d, err)
		}
	}
	writer, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err == nil {
		err = <-spawned
	}
	if err != nil {
		t.Fatal(err)
	}
	f.untilAre(2, FollowAttached)
	mustBe(t, child, Tracking)
	f.stop()
	<-f.ended
	if list, err := DetachTree(t.Context(), tg.Pid()); err != nil || len(list) != 2 {
		t.Errorf("detach: %+v, %v", list, err)
	}
	writer.Close()
	if got := tg.Exec("os.waitpid(pid, 0)[1]"); got != "0" {
		t.Errorf("the child ended with %s", got)
	}
	tg.Unchanged(before, pytarget.Busy, words)
	tg.Challenge()
}

// child waits until a process has a child, and returns its pid.
func (f *following) child(pid int) int {
	f.t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); {
		children, err := (&proc.Process{Pid: pid}).Children()
		if err != nil {
			f.t.Fatal(err)
		}
		if len(children) > 0 {
			return children[0]
		}
		<-look.C
	}
	f.t.Fatal("there is no child")
	return 0
}

// TestForkInTheMidst: a tree is attached to while its root forks as fast as it can. Each child is tracked with all hooks
// afterwards, also one that was forked in the midst of the attach, and computes right; and each is rid of it again.
func TestForkInTheMidst(t *testing.T) {
	t.Parallel()
	const program = `
import os, signal, threading

children, stop = [], False
told, out = os.pipe()
wait, release = os.pipe()

def forks():
    while not stop and len(children) < 12:
        pid = os.fork()
        if pid == 0:
            os.close(release)
            items = {str(i): [i] * 3 for i in range(500)}
            os.write(out, b"x")
            os.read(wait, 1)
            items = {str(i): [i] * 3 for i in range(500)}
            os._exit(7 if sum(v[0] for v in items.values()) == 124750 else 1)
        children.append(pid)

def begin():
    global thread, stop
    stop = False
    thread = threading.Thread(target=forks)
    thread.start()
    os.read(told, 1)

def halt():
    global stop
    stop = True
    thread.join()
    left = len(children) - 1
    while left:
        left -= len(os.read(told, left))
    return len(children)

def end():
    global wait, release
    os.close(release)
    codes = set(os.waitpid(pid, 0)[1] >> 8 for pid in children)
    os.close(wait)
    wait, release = os.pipe()
    del children[:]
    return codes
`
	for _, in := range eras(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, program, pytarget.Options{})
			for range times(t, 2) {
				tg.Exec("begin()")
				if list, err := AttachTree(t.Context(), tg.Pid(), AttachOptions{Follow: true}); err != nil {
					t.Fatalf("attach: %+v, %v", list, err)
				}
				forked := tg.Exec("halt()")
				list, err := StatusOfTree(t.Context(), tg.Pid())
				if err != nil {
					t.Fatal(err)
				}
				tracked := 0
				for _, m := range list {
					if tracked++; m.Err != nil || m.Result.State != Tracking {
						t.Errorf("process %d of %s: %+v, %v", m.Pid, in.Name, m.Result, m.Err)
					}
				}
				if fmt.Sprint(tracked-1) != forked {
					t.Errorf("%d children are tracked of %s", tracked-1, forked)
				}
				gone, err := DetachTree(t.Context(), tg.Pid())
				if err != nil || len(gone) != tracked {
					t.Errorf("detached from %d of %d: %v", len(gone), tracked, err)
				}
				for _, m := range gone {
					if m.Err != nil || !m.Result.Unmapped {
						t.Errorf("detach of %d: %+v, %v", m.Pid, m.Result, m.Err)
					}
				}
				if got := tg.Exec("end()"); got != "{7}" {
					t.Fatalf("the children ended with %s", got)
				}
			}
			tg.Challenge()
		})
	}
}

// TestForkAtEachPoint: a child is forked at each of those instants of an attach at which the target runs, and is right
// before the attach goes on, after it, when it has been attached to itself and when all is given back.
func TestForkAtEachPoint(t *testing.T) {
	t.Parallel()
	tg := pytarget.Start(t, debian(t), family, pytarget.Options{})
	words := hookedWords(t, tg.Pid())
	before := tg.Observe(words)
	ask := func(when string) {
		t.Helper()
		if got := tg.Exec("ask(1000)"); got != "True" {
			t.Errorf("the child computes wrong %s", when)
		}
	}
	for i, p := range []point{{"attach/prepared", 1}, {"attach/written", 1}, {"attach/ledger", 1}, {"attach/hooked", 1},
		{"attach/hooked", 7}, {"attach/hooked", 7}, {"attach/hooked", 12}, {"attach/slot", 20}, {"attach/slot", 20},
		{"attach/state", 1}, {"attach/active", 1}} {
		attach := victimCommand(t, "follow", tg.Pid(), p.rule("stop"))
		if err := attach.Start(); err != nil {
			t.Fatal(err)
		}
		var status unix.WaitStatus
		if _, err := unix.Wait4(attach.Process.Pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
			t.Fatalf("%v: the attach did not stop: %v, %v", p, status, err)
		}
		var child int
		if _, err := fmt.Sscan(tg.Exec("fork()"), &child); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			ask("in the midst of the attach")
		}
		if err := attach.Process.Signal(unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if err := attach.Wait(); err != nil {
			t.Fatal(err)
		}
		ask("after the attach")
		if list, err := AttachTree(t.Context(), tg.Pid(), AttachOptions{Follow: true}); err != nil || len(list) != 2 || list[1].Err != nil {
			t.Fatalf("%v: attach: %+v, %v", p, list, err)
		}
		ask("attached to")
		if s := mustBe(t, child, Tracking); sumOf(s).AllocBlocks == 0 {
			t.Errorf("%v: the child's status: %+v", p, s)
		}
		if list, err := DetachTree(t.Context(), tg.Pid()); err != nil || len(list) != 2 || list[1].Err != nil {
			t.Fatalf("%v: detach: %+v, %v", p, list, err)
		}
		mustBeUntracked(t, child)
		if diff := mappedBy(t, tg.Pid(), child); diff != "" {
			t.Errorf("%v: the child has other memory than its parent: %s", p, diff)
		}
		if got := tg.Exec("ask(1000), end()"); got != "(True, 7)" {
			t.Errorf("%v: the child answers %s", p, got)
		}
		tg.Unchanged(before, pytarget.Busy, words)
	}
	tg.Challenge()
}

// TestKilledFollowing: children that execute a Python, fork and end, all the time, are followed by heaptaps that are killed
// at random instants. Each child computes right and ends as it should.
func TestKilledFollowing(t *testing.T) {
	t.Parallel()
	const program = `
import subprocess, sys, threading

code = '''
import json, os, sys, threading
items = {str(i): [i] * 3 for i in range(3000)}
assert json.loads(json.dumps(items)) == items
t = threading.Thread(target=lambda: [str(i) for i in range(2000)])
t.start()
t.join()
if os.fork() == 0:
    x = [str(i) for i in range(3000)]
    os._exit(3 if x[-1] == "2999" else 1)
assert os.wait()[1] >> 8 == 3
sys.exit(7)
'''
codes = []

def run(n):
    for _ in range(n):
        codes.append(subprocess.call([sys.executable, "-c", code]))

def churn(threads, n):
    all = [threading.Thread(target=run, args=(n,)) for _ in range(threads)]
    for t in all: t.start()
    for t in all: t.join()
    return len(codes), set(codes)
`
	tg := pytarget.Start(t, debian(t), program, pytarget.Options{})
	rnd := newRand(t)
	ended := make(chan string)
	n := times(t, 20)
	go func() {
		got, err := tg.Try(fmt.Sprintf("churn(3, %d)", n))
		if err != nil {
			got = err.Error()
		}
		ended <- got
	}()
	kills := 0
	for {
		heaptap := victimCommand(t, "follow-on", tg.Pid())
		if err := heaptap.Start(); err != nil {
			t.Fatal(err)
		}
		letRun(t, rnd, 300*time.Millisecond)
		if err := heaptap.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		heaptap.Wait()
		kills++
		select {
		case got := <-ended:
			if want := fmt.Sprintf("(%d, {7})", 3*n); got != want {
				t.Errorf("the children ended with %s, not %s", got, want)
			}
			t.Logf("%d kills", kills)
			if _, err := RepairTree(t.Context(), tg.Pid()); err != nil && !errors.Is(err, ErrNotTracked) {
				t.Error(err)
			}
			mustBeUntracked(t, tg.Pid())
			tg.Challenge()
			return
		default:
		}
	}
}

// TestKilledTree: a heaptap is killed in the midst of an attach whose target has forked meanwhile. Both run on, right, and
// both are repaired.
func TestKilledTree(t *testing.T) {
	t.Parallel()
	tg := pytarget.Start(t, debian(t), family, pytarget.Options{})
	words := hookedWords(t, tg.Pid())
	before := tg.Observe(words)
	for _, p := range []point{{"attach/ledger", 1}, {"attach/hooked", 7}, {"attach/slot", 5}, {"attach/state", 1}} {
		attach := victimCommand(t, "follow", tg.Pid(), p.rule("stop"))
		if err := attach.Start(); err != nil {
			t.Fatal(err)
		}
		var status unix.WaitStatus
		if _, err := unix.Wait4(attach.Process.Pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
			t.Fatalf("%v: the attach did not stop: %v, %v", p, status, err)
		}
		var child int
		if _, err := fmt.Sscan(tg.Exec("fork()"), &child); err != nil {
			t.Fatal(err)
		}
		if err := attach.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := attach.Wait(); !wasKilled(err) {
			t.Fatalf("%v: %v", p, err)
		}
		if got := tg.Exec("ask(1000)"); got != "True" {
			t.Errorf("%v: the child computes wrong", p)
		}
		tg.Challenge()
		list, err := RepairTree(t.Context(), tg.Pid())
		if err != nil || len(list) == 0 {
			t.Fatalf("%v: repair: %+v, %v", p, list, err)
		}
		for _, m := range list {
			if m.Err != nil || !m.Result.Unmapped {
				t.Errorf("%v: repair of %d: %+v, %v", p, m.Pid, m.Result, m.Err)
			}
		}
		mustBeUntracked(t, tg.Pid())
		mustBeUntracked(t, child)
		if diff := mappedBy(t, tg.Pid(), child); diff != "" {
			t.Errorf("%v: the child has other memory than its parent: %s", p, diff)
		}
		if got := tg.Exec("ask(1000), end()"); got != "(True, 7)" {
			t.Errorf("%v: the child answers %s", p, got)
		}
		tg.Unchanged(before, pytarget.Busy, words)
	}
	tg.Challenge()
}

// TestNoRoomToFollow: a child that has no address space for tables of its own is left with hooks that do nothing, and
// its parent's status counts it.
func TestNoRoomToFollow(t *testing.T) {
	t.Parallel()
	const program = family + `
import mmap, resource
with open("/proc/self/statm") as statm:
    limit = int(statm.read().split()[0]) * resource.getpagesize() + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
taken = []
def fill():
    size = 128 << 20
    while size >= 8 << 20:
        try:
            taken.append(mmap.mmap(-1, size))
        except OSError:
            size //= 2
`
	tg := pytarget.Start(t, debian(t), program, pytarget.Options{})
	mustFollow(t, tg.Pid())
	var child int
	fork := func() {
		t.Helper()
		if _, err := fmt.Sscan(tg.Exec("fork()"), &child); err != nil {
			t.Fatal(err)
		}
		if got := tg.Exec("ask(1000)"); got != "True" {
			t.Errorf("the child computes wrong")
		}
	}
	fork()
	mustBe(t, child, Tracking)
	tg.Exec("end()")
	tg.Exec("fill()")
	fork()
	mustBe(t, child, Forked)
	if s := mustBe(t, tg.Pid(), Tracking); s.Followed != 1 || s.NotFollowed != 1 {
		t.Errorf("status: %d followed, %d not", s.Followed, s.NotFollowed)
	}
	if list, err := DetachTree(t.Context(), tg.Pid()); err != nil || len(list) != 2 {
		t.Errorf("detach: %+v, %v", list, err)
	}
	mustBeUntracked(t, child)
	if got := tg.Exec("ask(1000), end()"); got != "(True, 7)" {
		t.Errorf("the child answers %s", got)
	}
	tg.Challenge()
}

// application is a server's: each worker says by a pipe that it is ready. GET /BYTES makes it grow; it says so by the
// same pipe, and answers when it is told to by another.
const application = `
import os
kept = []

def grow(n):
    kept.append(bytes(n))

def application(environ, start_response):
    grow(int(environ["PATH_INFO"][1:]))
    ready()
    os.read(4, 1)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [b"%d" % os.getpid()]

def ready(worker=None):
    os.write(3, b"%d\n" % os.getpid())
`

// prefork is a prefork server under test.
type prefork struct {
	t     *testing.T
	cmd   *exec.Cmd
	ready *bufio.Reader // a line from each worker
	goOn  *os.File      // a byte for each to go on
	http  http.Client
}

// startPrefork starts a server of two workers, whose command is given without the folder of its application, in which it
// makes the socket "http".
func startPrefork(t *testing.T, python string, files map[string]string, argv ...string) *prefork {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("%v: .ci/run installs it", err)
	}
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	wait, goOn, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); goOn.Close() })
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ctx, cancel := context.WithCancel(context.Background())
	s := &prefork{t: t, cmd: exec.CommandContext(ctx, argv[0], argv[1:]...), ready: bufio.NewReader(r), goOn: goOn}
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr, s.cmd.ExtraFiles = dir, log, log, []*os.File{w, wait}
	s.cmd.Env = append(os.Environ(), python)
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(unix.SIGTERM) }
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	wait.Close()
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("the server's log:\n%s", text)
		}
		cancel()
		s.cmd.Wait()
	})
	s.http.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "http"))
		},
	}
	return s
}

// worker is the pid of the next worker that is ready.
func (s *prefork) worker() int {
	s.t.Helper()
	var pid int
	if _, err := fmt.Fscanln(s.ready, &pid); err != nil {
		s.t.Fatalf("no worker: %v", err)
	}
	return pid
}

// grow has all workers grow, of which there are n: each is given a request while the others are at work.
func (s *prefork) grow(n, bytes int) (pids []int) {
	s.t.Helper()
	answers := make(chan error)
	for range n {
		go func() {
			r, err := s.http.Get(fmt.Sprintf("http://server/%d", bytes))
			if err == nil {
				r.Body.Close()
				if r.StatusCode != http.StatusOK {
					err = errors.New(r.Status)
				}
			}
			answers <- err
		}()
	}
	for range n {
		pids = append(pids, s.worker())
	}
	if _, err := s.goOn.Write(make([]byte, n)); err != nil {
		s.t.Fatal(err)
	}
	for range n {
		if err := <-answers; err != nil {
			s.t.Fatal(err)
		}
	}
	return pids
}

// TestPrefork: the workers of gunicorn and uwsgi are tracked, those that run already and those that come later, and one
// snapshot has them with what each has grown by.
func TestPrefork(t *testing.T) {
	t.Parallel()
	servers := map[string]func(*testing.T) *prefork{
		"gunicorn": func(t *testing.T) *prefork {
			return startPrefork(t, "PYTHONDONTWRITEBYTECODE=1",
				map[string]string{"app.py": application, "gunicorn.conf.py": "import app\npost_worker_init = app.ready\n"},
				"/usr/bin/gunicorn", "--workers=2", "--bind=unix:http", "app")
		},
		"uwsgi": func(t *testing.T) *prefork {
			return startPrefork(t, "PYTHONDONTWRITEBYTECODE=1",
				map[string]string{"app.py": application + "\nimport uwsgi\nuwsgi.post_fork_hook = ready\n"},
				"/usr/bin/uwsgi", "--plugin=python3", "--master", "--processes=2", "--http-socket=http", "--wsgi-file=app.py",
				"--die-on-term")
		},
	}
	for name, start := range servers {
		t.Run(name+"/running", func(t *testing.T) {
			t.Parallel()
			s := start(t)
			master, workers := s.cmd.Process.Pid, []int{s.worker(), s.worker()}
			list, err := AttachTree(t.Context(), master, AttachOptions{Follow: true})
			if err != nil || len(list) != 3 {
				t.Fatalf("attach: %+v, %v", list, err)
			}
			s.exercise(master, workers)
		})
		t.Run(name+"/starting", func(t *testing.T) {
			t.Parallel()
			s := start(t)
			master := s.cmd.Process.Pid
			f := follow(t, master)
			f.until(3)
			s.exercise(master, []int{s.worker(), s.worker()})
			f.stop()
			if err := <-f.ended; !errors.Is(err, context.Canceled) {
				t.Errorf("following ended: %v", err)
			}
		})
	}
}

// exercise has two workers grow, one of them end, its successor grow, and all be detached from.
func (s *prefork) exercise(master int, workers []int) {
	t := s.t
	t.Helper()
	const step, slack = 2 << 20, 64
	grow := func(want map[int]int64) {
		t.Helper()
		for _, pid := range s.grow(2, step) {
			if _, ok := want[pid]; !ok {
				t.Fatalf("worker %d grows, of %v", pid, want)
			}
			want[pid] += step
		}
		d, err := TakeTreeDump(t.Context(), master, DumpOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Members) != 3 || len(d.Untracked) != 0 {
			t.Errorf("tracked: %+v, not tracked: %+v", d.Members, d.Untracked)
		}
		got := growth(d.Snapshot)
		for process, bytes := range got {
			var pid int
			fmt.Sscan(process, &pid)
			if over := bytes - want[pid]; over < 0 || over > slack*want[pid]/step {
				t.Errorf("%s has grown by %d bytes, not %d", process, bytes, want[pid])
			}
		}
		if len(got) != 2 {
			t.Errorf("%v have grown, of %v", got, want)
		}
	}
	grow(map[int]int64{workers[0]: 0, workers[1]: 0})
	if err := unix.Kill(workers[0], unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	fresh := s.worker()
	grow(map[int]int64{fresh: 0, workers[1]: step})
	if status, err := ReadStatus(t.Context(), fresh); err != nil || status.State != Tracking || status.Parent != master {
		t.Errorf("the new worker's status: %+v, %v", status, err)
	}
	list, err := DetachTree(t.Context(), master)
	if err != nil || len(list) != 3 {
		t.Fatalf("detach: %+v, %v", list, err)
	}
	for _, m := range list {
		if m.Err != nil || !m.Result.Unmapped {
			t.Errorf("detach of %d: %+v, %v", m.Pid, m.Result, m.Err)
		}
		mustBeUntracked(t, m.Pid)
	}
	s.grow(2, 10)
}
