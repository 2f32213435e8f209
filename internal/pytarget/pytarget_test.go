package pytarget_test

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/internal/pytarget"
)

func TestInterpreters(t *testing.T) {
	t.Parallel()
	all := pytarget.Interpreters(t)
	names := map[string]bool{}
	for _, in := range all {
		if names[in.Name] {
			t.Errorf("two interpreters are called %s", in.Name)
		}
		names[in.Name] = true
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, "", pytarget.Options{})
			if got, want := tg.Exec("__import__('sys').version.split()[0]"), fmt.Sprintf("%q", in.Version); strings.ReplaceAll(got, "'", `"`) != want {
				t.Errorf("version %s, want %s", got, want)
			}
			tg.Challenge()
			if code := tg.Exit(7); code != 7 {
				t.Errorf("exit code %d, want 7", code)
			}
		})
	}
	for _, origin := range []string{"trixie", "sid"} {
		if !slices.ContainsFunc(all, func(in pytarget.Interpreter) bool { return in.Origin == origin }) {
			t.Errorf("no interpreter of %s", origin)
		}
	}
}

func TestStaticMusl(t *testing.T) {
	t.Parallel()
	tg := pytarget.Start(t, pytarget.StaticMusl(t), "", pytarget.Options{})
	before := tg.Observe(nil)
	tg.Challenge()
	tg.Unchanged(before, pytarget.Busy, nil)
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", tg.Pid())); err != nil || strings.Contains(string(b), ".so") {
		t.Errorf("the program has loaded a library (%v):\n%s", err, b)
	}
}

func TestUnsupported(t *testing.T) {
	t.Parallel()
	for _, in := range pytarget.Unsupported(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			if !in.Debug && in.Minor() != 0 {
				t.Errorf("%+v is neither a debug build nor too old", in)
			}
			pytarget.Start(t, in, "", pytarget.Options{}).Challenge()
		})
	}
}

// Every interpreter goes through every situation with nothing attached. What fails here says nothing of heaptap.
func TestSituations(t *testing.T) {
	t.Parallel()
	for _, in := range everyOrNewest(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			for _, s := range pytarget.Situations() {
				t.Run(s.Name, func(t *testing.T) {
					t.Parallel()
					tg := s.Start(t, in)
					if s.Responsive {
						before := tg.Observe(nil)
						if s.Activity == pytarget.Busy {
							tg.Challenge()
						}
						tg.Unchanged(before, s.Activity, nil)
					}
					s.Check(tg)
				})
			}
		})
	}
}

// everyOrNewest is every interpreter, or with -short only the newest.
func everyOrNewest(t *testing.T) []pytarget.Interpreter {
	all := pytarget.Interpreters(t)
	if testing.Short() {
		return all[len(all)-1:]
	}
	return all
}

// Each situation applies somewhere: one that never does is no test.
func TestSituationsApply(t *testing.T) {
	t.Parallel()
	all := pytarget.Interpreters(t)
	for _, s := range pytarget.Situations() {
		var reasons []string
		for _, in := range all {
			if err := s.Applies(in); err != nil {
				reasons = append(reasons, err.Error())
			}
		}
		if len(reasons) == len(all) {
			t.Errorf("%s applies nowhere: %s", s, strings.Join(reasons, "; "))
		}
	}
}

func TestNamespaces(t *testing.T) {
	t.Parallel()
	for _, in := range everyOrNewest(t) {
		for _, o := range []pytarget.Options{{}, {Container: true}, {Container: true, UserNamespace: true}} {
			t.Run(fmt.Sprintf("%s/%+v", in, o), func(t *testing.T) {
				t.Parallel()
				if s := (pytarget.Situation{Options: o}); s.Applies(in) != nil {
					t.Skip(s.Applies(in))
				}
				tg := pytarget.Start(t, in, "", o)
				for name, own := range map[string]bool{
					"mnt": in.Root != "" || o.Container, "pid": o.Container, "ipc": o.Container, "uts": o.Container,
					"net": o.Container, "user": o.UserNamespace,
				} {
					ours, err := os.Readlink(filepath.Join("/proc/self/ns", name))
					if err != nil {
						t.Fatal(err)
					}
					theirs, err := os.Readlink(filepath.Join("/proc", fmt.Sprint(tg.Pid()), "ns", name))
					if err != nil {
						t.Fatal(err)
					}
					if (ours != theirs) != own {
						t.Errorf("%s namespace: ours %s, the target's %s, should differ: %v", name, ours, theirs, own)
					}
				}
				if o.Container {
					if pid := tg.Exec("__import__('os').getpid()"); pid != "1" {
						t.Errorf("the target has pid %s in its namespace, want 1", pid)
					}
				}
				if in.Root != "" {
					if got := tg.Exec("__import__('os').path.exists('/.complete')"); got != "True" {
						t.Error("the target's root is not its interpreter's")
					}
				}
			})
		}
	}
}

// A quiet target stays equal to itself: otherwise comparing would find harm where there is none.
func TestQuietTargetStaysEqual(t *testing.T) {
	t.Parallel()
	for _, in := range everyOrNewest(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, "", pytarget.Options{})
			for range 100 {
				tg.Unchanged(tg.Observe(nil), pytarget.Quiet, nil)
			}
			tg.Challenge()
		})
	}
}

// What was not given back is seen, and named.
func TestObserveSeesHarm(t *testing.T) {
	t.Parallel()
	const program = `
import ctypes, os, signal, mmap, threading
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
word = ctypes.c_ulong(1)
first = threading.Thread(target=int)  # libc takes a signal for itself when the first thread starts
first.start()
first.join()
`
	for _, harm := range []struct {
		name, source, seen string
		busy               bool // also seen in a busy process
	}{
		{"descriptor", "left = open('/dev/null')", "/dev/null", true},
		{"mapping", "left = mmap.mmap(-1, 1 << 20)", "rw-s", true},
		{"private memory", "left = libc.mmap(None, 1 << 20, 3, 0x22, -1, 0)", "rw-p", false},
		{"executable memory", "left = libc.mmap(None, 4096, 5, 0x22, -1, 0)", "r-xp", true},
		{"blocked signals", "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])", "800", true},
		{"handler", "signal.signal(signal.SIGUSR2, print)", "print", true},
		{"ignored", "signal.signal(signal.SIGUSR2, signal.SIG_IGN)", "SigIgn", true},
		{"altstack", "a = ctypes.create_string_buffer(65536); " +
			"s = __import__('pytarget').Altstack(ctypes.addressof(a), 0, 65536); assert not libc.sigaltstack(ctypes.byref(s), None)",
			"Altstack", true},
		{"thread", "threading.Thread(target=threading.Event().wait, daemon=True).start()", "Threads", false},
		{"name", "libc.prctl(15, b'other')", "other", true},
		{"seccomp", "libc.prctl(38, 1, 0, 0, 0)", "NoNewPrivs", true},
		{"limit", "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))", "limits", true},
		{"word", "word.value = 2", "word", true},
	} {
		t.Run(harm.name, func(t *testing.T) {
			t.Parallel()
			all := pytarget.Interpreters(t)
			tg := pytarget.Start(t, all[len(all)-1], program, pytarget.Options{})
			address := tg.Exec("ctypes.addressof(word)")
			words := func() (map[string]uint64, error) { return readWord(tg.Pid(), address) }
			before := tg.Observe(words)
			tg.Exec(harm.source + "\n")
			after := tg.Observe(words)
			if diff := before.Diff(after, pytarget.Quiet); !strings.Contains(diff, harm.seen) {
				t.Errorf("the difference does not tell of %q:\n%s", harm.seen, diff)
			}
			if diff := before.Diff(after, pytarget.Busy); strings.Contains(diff, harm.seen) != harm.busy {
				t.Errorf("busy: the difference should tell of %q: %v\n%s", harm.seen, harm.busy, diff)
			}
		})
	}
}

func readWord(pid int, address string) (map[string]uint64, error) {
	var at uint64
	if _, err := fmt.Sscan(address, &at); err != nil {
		return nil, err
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	word := make([]byte, 1)
	_, err = memory.ReadAt(word, int64(at))
	return map[string]uint64{"word": uint64(word[0])}, err
}

// A target that comes to harm fails its test: each situation's check, the challenge and the end are tried with a
// target that was harmed on purpose.
func TestChecksFail(t *testing.T) {
	t.Parallel()
	situations := map[string]pytarget.Situation{}
	for _, s := range pytarget.Situations() {
		situations[s.Name] = s
	}
	interpreter := func(r *recorder, name string) pytarget.Interpreter {
		all := pytarget.Interpreters(r)
		i := slices.IndexFunc(all, func(in pytarget.Interpreter) bool { return situations[name].Applies(in) == nil })
		return all[i]
	}
	harmed := func(name, source string) func(r *recorder) {
		return func(r *recorder) {
			s := situations[name]
			tg := s.Start(r, interpreter(r, name))
			if source != "" {
				tg.Exec(source)
			}
			s.Check(tg)
		}
	}
	signalled := func(name string, sent ...syscall.Signal) func(r *recorder) {
		return func(r *recorder) {
			s := situations[name]
			tg := s.Start(r, interpreter(r, name))
			for _, one := range sent {
				tg.Signal(one)
				if one == unix.SIGSTOP {
					if err := unix.Waitid(unix.P_PID, tg.Pid(), nil, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
						r.Fatal(err)
					}
				}
			}
			s.Check(tg)
		}
	}
	for name, c := range map[string]struct {
		run  func(r *recorder)
		want string
	}{
		"busy":          {harmed("busy", "kept['x'] = {'key': 0}"), "AssertionError"},
		"challenge":     {harmed("idle", "import hashlib; hashlib.sha256 = hashlib.sha512"), "challenge"},
		"bignum":        {harmed("idle", "import pytarget; pytarget.pow = lambda a, b, c: 1"), "challenge"},
		"threads":       {harmed("threads", "results[3] = False; stop.set(); results.clear()"), "AssertionError"},
		"thread_churn":  {harmed("thread_churn", "started += 1"), "AssertionError"},
		"signals":       {harmed("signals", "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF]); None"), "no more SIGPROF"},
		"forks":         {harmed("forks", "os._exit = lambda code, exit=os._exit: exit(1)"), "AssertionError"},
		"recursion":     {harmed("recursion", "DEPTH = 3"), "AssertionError"},
		"tracemalloc":   {harmed("tracemalloc_before", "tracemalloc.stop()"), "AssertionError"},
		"collecting":    {harmed("collecting", "finalised += 1"), "AssertionError"},
		"code_churn":    {harmed("code_churn", "rounds = 0; step = None"), "AssertionError"},
		"asyncio":       {harmed("asyncio_tasks", "loop.close()"), "closed"},
		"address_space": {harmed("address_space", "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40)) if 0 else exec('ROOM = 1')"), "the limit is gone"},
		"greenlets":     {harmed("greenlets", "running[0].throw(greenlet.GreenletExit)"), "AssertionError"},
		"seccomp":       {harmed("seccomp_errno", "number = 39"), "AssertionError"},
		"subinterp":     {harmed("subinterpreters", "open(stop, 'w').close(); [thread.join(30) for thread in running]; None"), "AssertionError"},
		"exits":         {harmed("exits", "import atexit; atexit.register(os._exit, 3) if 0 else atexit.register(__import__('os')._exit, 3)"), "exit code 3"},
		"finalising":    {signalled("finalising", unix.SIGSEGV), "segmentation fault"},

		"stopped":           {signalled("stopped", unix.SIGCONT), "does not stay stopped"},
		"killed":            {signalled("idle", unix.SIGKILL), "killed"},
		"blocked EINTR":     {signalled("blocked_epoll_wait", unix.SIGSTOP, unix.SIGCONT), "EINTR"},
		"blocked early":     {signalled("blocked_pause", unix.SIGUSR1, unix.SIGKILL), "killed"},
		"interpreter error": {harmed("idle", "1 / 0"), "ZeroDivisionError"},
		"unasked end": {func(r *recorder) {
			tg := pytarget.Start(r, interpreter(r, "idle"), "", pytarget.Options{})
			tg.Signal(unix.SIGKILL)
			<-tg.Ended()
		}, "has ended"},
		"program error": {func(r *recorder) {
			pytarget.Start(r, interpreter(r, "idle"), "raise SystemExit(3)", pytarget.Options{})
		}, "exit status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &recorder{TB: t}
			if output := r.record(c.run); !r.failed || !strings.Contains(output, c.want) {
				t.Errorf("failed: %v, output lacks %q:\n%s", r.failed, c.want, output)
			}
		})
	}
}

// recorder is a test inside a test, whose failure is wanted.
type recorder struct {
	testing.TB
	failed   bool
	output   strings.Builder
	cleanups []func()
}

func (r *recorder) Helper()           {}
func (r *recorder) Cleanup(f func())  { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Failed() bool      { return r.failed }
func (r *recorder) Log(args ...any)   { fmt.Fprintln(&r.output, args...) }
func (r *recorder) Error(args ...any) { r.failed = true; r.Log(args...) }
func (r *recorder) Fatal(args ...any) { r.Error(args...); runtime.Goexit() }

func (r *recorder) Logf(format string, args ...any)   { r.Log(fmt.Sprintf(format, args...)) }
func (r *recorder) Errorf(format string, args ...any) { r.Error(fmt.Sprintf(format, args...)) }
func (r *recorder) Fatalf(format string, args ...any) { r.Fatal(fmt.Sprintf(format, args...)) }

// record runs the test to its end, with its cleanups, and returns what it said.
func (r *recorder) record(run func(r *recorder)) string {
	for _, f := range []func(){func() { run(r) }, func() {
		for _, f := range slices.Backward(r.cleanups) {
			f()
		}
	}} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			f()
		}()
		<-done
	}
	return r.output.String()
}

// Targets do not outlive their test.
func TestTargetsEnd(t *testing.T) {
	t.Parallel()
	var tg *pytarget.Target
	r := &recorder{TB: t}
	output := r.record(func(r *recorder) {
		all := pytarget.Interpreters(r)
		tg = pytarget.Start(r, all[0], "import os; child = os.fork()\nif child == 0:\n    __import__('signal').pause()", pytarget.Options{})
		tg.Exec("child")
	})
	if r.failed {
		t.Fatal(output)
	}
	<-tg.Ended()
	if err := unix.Kill(-tg.Pid(), 0); err != unix.ESRCH && !zombies(t, tg.Pid()) {
		t.Errorf("the target's group %d is still there: %v", tg.Pid(), err)
	}
}

// survivorEnv makes TestSurvivor start targets, tell their pids and wait to be killed.
const survivorEnv = "PYTARGET_TEST_SURVIVOR"

func TestSurvivor(t *testing.T) {
	if os.Getenv(survivorEnv) == "" {
		t.Skip("runs only as a part of TestTargetsDieWithTheTestProgram")
	}
	all := pytarget.Interpreters(t)
	for _, o := range []pytarget.Options{{}, {Container: true}} {
		// A sleeping target: one that reads requests would see their end.
		tg := pytarget.Start(t, all[len(all)-1], "import pytarget, signal", o)
		tg.Exec("pytarget.defer(signal.pause)")
		fmt.Println("target", tg.Pid())
	}
	fmt.Println("all")
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// A test program that is killed, or that go test ends for its time limit, leaves no target behind.
func TestTargetsDieWithTheTestProgram(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^TestSurvivor$", "-test.v")
	cmd.Env = append(os.Environ(), survivorEnv+"=1")
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pidfds []unix.PollFd
	lines := bufio.NewScanner(output)
	for lines.Scan() && lines.Text() != "all" {
		var pid int
		if n, _ := fmt.Sscanf(lines.Text(), "target %d", &pid); n == 1 {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			pidfds = append(pidfds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
	}
	if len(pidfds) != 2 {
		t.Fatalf("%d targets, want 2", len(pidfds))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // its end is what we asked for
	for i := range pidfds {
		const limit = 30000 // ms
		if n, err := unix.Poll(pidfds[i:i+1], limit); n != 1 || err != nil {
			t.Errorf("target %d lives on after its test program: %v", i, err)
		}
	}
}

// zombies tells whether all that is left of a process group has ended and only waits for its parent.
func zombies(t *testing.T, group int) bool {
	entries, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]int{}
	for _, entry := range entries {
		line, err := os.ReadFile(entry)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(line), ") ")
		if fields := strings.Fields(rest); len(fields) > 2 && fields[2] == fmt.Sprint(group) {
			states[fields[0]]++
		}
	}
	return slices.Equal(slices.Collect(maps.Keys(states)), []string{"Z"}) || len(states) == 0
}
