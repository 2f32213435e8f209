package pytarget

import (
	"embed"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed python/programs/*.py
var programs embed.FS

// Situation is something that a process may be doing, or a condition that it may be in, when heaptap comes.
//
//	tg := situation.Start(t, interpreter) // in the situation, and proven to be
//	...                                   // attach, dump, detach
//	situation.Check(tg)                   // it went on as if nothing had happened; ends the situation
type Situation struct {
	Name    string
	About   string
	Options Options
	// Responsive tells that the target answers (Exec, Challenge, Observe) while it is in the situation.
	Responsive bool
	Activity   Activity

	program string                     // Python source
	applies func(in Interpreter) error // why not; nil: everywhere
	enter   func(tg *Target) error     // after the program's top level has run
	leave   func(tg *Target) error     // before check(), to make the target answer again
	exit    bool                       // the check is that the process ends by itself, with code 0
}

func (s Situation) String() string { return s.Name }

// Applies tells why the interpreter cannot be in the situation; nil if it can.
func (s Situation) Applies(in Interpreter) error {
	if s.Options.Chroot && in.Root == "" {
		return fmt.Errorf("%s has no root of its own", in)
	}
	if s.Options.UserNamespace && os.Geteuid() == 0 {
		// The target is an ordinary user on this machine: it must be let through to its program.
		if !reachable(in.Root + in.Path) {
			return fmt.Errorf("other users have no way to %s%s", in.Root, in.Path)
		}
	}
	if s.applies != nil {
		return s.applies(in)
	}
	return nil
}

// Start starts a target and brings it into the situation. Where the interpreter cannot be in it, the test is skipped
// with the reason.
func (s Situation) Start(t testing.TB, in Interpreter) *Target {
	t.Helper()
	if err := s.Applies(in); err != nil {
		t.Skipf("%s does not apply: %v", s, err)
	}
	tg := Start(t, in, s.program, s.Options)
	if s.enter != nil {
		if err := s.enter(tg); err != nil {
			t.Fatalf("%s in %s: enter: %v", s, in, tg.explain(err))
		}
	}
	return tg
}

// Check ends the situation and fails the test unless the target went through it unharmed: its own check passes and it
// computes right, or it ends as it should.
func (s Situation) Check(tg *Target) {
	tg.t.Helper()
	if s.leave != nil {
		if err := s.leave(tg); err != nil {
			tg.t.Fatalf("%s in %s: %v", s, tg.Interpreter, err)
		}
	}
	if s.exit {
		if code := tg.Exit(0); code != 0 {
			tg.t.Errorf("%s in %s: exit code %d\n%s", s, tg.Interpreter, code, tg.Output())
		}
		return
	}
	tg.Exec("globals().get('check', int)()")
	tg.Challenge()
}

// Situations lists every situation, the blocked ones last.
func Situations() []Situation {
	working := func(name, about string) Situation {
		return Situation{Name: name, About: about, Responsive: true, Activity: Busy, program: program(name)}
	}
	list := []Situation{
		{Name: "idle", About: "waits for a request in read(2)", Responsive: true},
		working("busy", "allocates and frees all the time"),
		working("threads", "256 threads that wait, sleep and work"),
		working("thread_churn", "threads that start and end all the time"),
		working("signals", "a storm of SIGALRM, SIGPROF and SIGUSR1 with handlers"),
		working("forks", "forks all the time"),
		working("recursion", "2,500 frames deep"),
		working("tracemalloc_before", "tracemalloc was started first"),
		working("collecting", "the garbage collector runs nearly all the time"),
		working("code_churn", "code objects are made and thrown away by exec()"),
		working("asyncio_tasks", "an event loop with many tasks"),
		working("address_space", "RLIMIT_AS leaves 64 MiB"),
		working("subinterpreters", "three sub-interpreters allocate in threads"),
	}
	greenlets := working("greenlets", "greenlets switch in the middle of their work")
	greenlets.applies = func(in Interpreter) error { return imports(in, "greenlet") }
	list = append(list, greenlets)

	for _, mode := range []string{"errno", "kill"} {
		s := working("seccomp", "a filter forbids memfd_create: "+mode)
		s.Name += "_" + mode
		s.program = fmt.Sprintf("MODE = %q\n", mode) + s.program
		list = append(list, s)
	}
	for _, allocator := range []string{"malloc", "malloc_debug", "debug", "pymalloc_debug"} {
		s := working("busy", "PYTHONMALLOC="+allocator)
		s.Name = "pythonmalloc_" + allocator
		s.Options.Env = []string{"PYTHONMALLOC=" + allocator}
		list = append(list, s)
	}
	for _, c := range []struct {
		name, about string
		options     Options
	}{
		{"container", "new pid, mount, IPC, UTS and network namespaces", Options{Container: true}},
		{"container_user", "the same in a user namespace, as nobody outside", Options{Container: true, UserNamespace: true}},
		{"chroot", "a root of its own in our mount namespace", Options{Chroot: true}},
	} {
		s := working("busy", c.about)
		s.Name, s.Options = c.name, c.options
		list = append(list, s)
	}

	list = append(list,
		Situation{Name: "stopped", About: "stopped by SIGSTOP, and has to stay so", program: program("busy"), Activity: Busy,
			enter: func(tg *Target) error {
				if err := tg.process.Signal(syscall.SIGSTOP); err != nil {
					return err
				}
				return until(tg, "is stopped", func() (bool, error) { return taskState(tg.Pid(), tg.Pid(), 'T') })
			},
			leave: func(tg *Target) error {
				// Whoever stops being traced goes back into the stop by itself, a moment later and before any code.
				stopped := func() (bool, error) { return taskState(tg.Pid(), tg.Pid(), 'T') }
				if err := within(tg, time.Second, "is stopped", stopped); err != nil {
					return fmt.Errorf("the target does not stay stopped: %w\n%s", err, describe(tg.Pid()))
				}
				return tg.process.Signal(syscall.SIGCONT)
			}},
		Situation{Name: "regex", About: "stuck in C with the GIL held, computing", program: program("regex"), Activity: Busy,
			enter: func(tg *Target) error {
				if _, err := tg.Try("enter()"); err != nil {
					return err
				}
				return until(tg, "has computed", spends(tg.Pid(), 100*time.Millisecond))
			},
			leave: func(tg *Target) error { return tg.process.Signal(syscall.SIGUSR1) }},
		Situation{Name: "finalising", About: "in a finaliser while the interpreter ends", program: program("finalising"),
			Responsive: true, exit: true},
		Situation{Name: "exits", About: "ends as usual while something is attached", program: program("busy"), Activity: Busy,
			Responsive: true, exit: true},
	)
	for _, call := range blockingCalls() {
		list = append(list, blockedIn(call))
	}
	return list
}

func program(name string) string {
	source, err := programs.ReadFile("python/programs/" + name + ".py")
	if err != nil {
		panic(err) // a name in this file that has no program, which every test meets
	}
	return string(source)
}

// imports tells whether the interpreter has a module.
func imports(in Interpreter, module string) error {
	cmd := command(in, Options{})
	cmd.Args[len(cmd.Args)-1] = "import " + module
	if output, err := cmd.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(output)), "\n")
		return fmt.Errorf("%s: %s (%w)", in, lines[len(lines)-1], err)
	}
	return nil
}

// reachable tells whether any user may run the program at path.
func reachable(path string) bool {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i := range parts {
		var st unix.Stat_t
		if unix.Stat("/"+strings.Join(parts[:i+1], "/"), &st) != nil || st.Mode&1 == 0 {
			return false
		}
	}
	return true
}
