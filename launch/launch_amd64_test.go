package launch

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/ptrace"
)

const shell = "/bin/sh"

func command(args ...string) Command {
	return Command{Path: args[0], Args: args, Env: os.Environ(), Caller: ThisCaller()}
}

// exitCode waits for a child of ours.
func exitCode(t *testing.T, pid int) int {
	t.Helper()
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		t.Fatal(err)
	}
	if !status.Exited() {
		t.Fatalf("process %d ended with status %#x", pid, status)
	}
	return status.ExitStatus()
}

// TestStart: a program is started, or it is said why not; also by way of a file with a name, for a moment.
func TestStart(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"plain": 0o600, "script": 0o700, "text": 0o700} {
		text := map[string]string{"script": "#!/nonexistent/interpreter\n", "text": "no program\n"}[name]
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]syscall.Errno{
		shell: 0, "/nonexistent": unix.ENOENT, dir: unix.EACCES, filepath.Join(dir, "plain"): unix.EACCES,
		filepath.Join(dir, "script"): unix.ENOENT, filepath.Join(dir, "text"): unix.ENOEXEC,
	} {
		for range 20 { // a launcher is seized while it is itself about to be executed, or later
			c := command(path, "-c", "exit 7")
			tracer := ptrace.Start()
			pid := 0
			err := tracer.Do(func() error {
				th, err := Start(t.Context(), tracer, c)
				if err == nil {
					pid = th.Tid
				}
				return err
			})
			if cerr := tracer.Close(); cerr != nil {
				t.Fatal(cerr)
			}
			check(t, "Start", path, pid, err, want)
		}
		pid, err := StartFree(command(path, "-c", "exit 7"))
		check(t, "StartFree", path, pid, err, want)
	}
	image, err := launcherImage(command(shell, "-c", "exit 7"), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	f, err := temporaryFile(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() != int64(len(image)) {
		t.Errorf("temporary file %v, %v", st, err)
	}
}

func check(t *testing.T, what, path string, pid int, err error, want syscall.Errno) {
	t.Helper()
	var e *ExecError
	switch {
	case want == 0 && err == nil:
		if code := exitCode(t, pid); code != 7 {
			t.Errorf("%s %s: exit code %d", what, path, code)
		}
	case !errors.As(err, &e) || e.Err != want || e.Path != path:
		t.Errorf("%s %s: %v, want %v", what, path, err, want)
	}
}

// TestGate: a process waits at its gate until that is opened, and goes on by itself when the keeper is gone or the tracer
// has let go on the way there. Then it is as it would have been.
func TestGate(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		keeper int
		arrive bool // the tracer waits for it
		open   bool
	}{
		{"opened", os.Getpid(), true, true},
		{"opened before", os.Getpid(), false, true},
		{"keeper gone", gone.Process.Pid, true, false},
		{"tracer gone", gone.Process.Pid, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			tracer := ptrace.Start()
			pid := 0
			err := tracer.Do(func() error {
				th, err := Start(t.Context(), tracer, command(shell, "-c", `test "$1" = x && exit 9`, "sh", "x"))
				if err != nil {
					return err
				}
				pid = th.Tid
				p, err := proc.Open(pid)
				if err != nil {
					return err
				}
				defer p.Close()
				var regs ptrace.Regs
				if err := th.Regs(&regs); err != nil {
					return err
				}
				g, err := Place(p, regs.SP(), c.keeper)
				if err != nil {
					return err
				}
				before, err := p.Auxv()
				if err != nil {
					return err
				}
				for c.arrive {
					if err := th.Resume(true, 0); err != nil {
						return err
					}
					stop, err := th.Wait(t.Context())
					if err != nil {
						return err
					}
					if err := th.Regs(&regs); err != nil {
						return err
					}
					if stop.Kind == ptrace.Syscall && g.Arrived(regs.PC()) {
						break
					}
				}
				if c.arrive {
					if err := g.Settle(); err != nil {
						return err
					}
				}
				if before[atEntry] != uint64(g.entry) {
					t.Errorf("the program's entry is %#x, the gate goes on to %v", before[atEntry], g.entry)
				}
				if err := th.Detach(0); err != nil {
					return err
				}
				if c.open {
					return g.Open()
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if code := exitCode(t, pid); code != 9 {
				t.Errorf("exit code %d", code)
			}
			if err := tracer.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestRelay: a signal is told, with who sent it, and does nothing else; afterwards all is as before.
func TestRelay(t *testing.T) {
	before, err := actionOf(unix.SIGUSR1)
	if err != nil {
		t.Fatal(err)
	}
	r, err := StartRelay(0, unix.SIGUSR1, unix.SIGPWR)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := StartRelay(0, unix.SIGUSR2); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a second relay: %v", err)
	}
	for _, sig := range []syscall.Signal{unix.SIGUSR1, unix.SIGPWR, unix.SIGUSR1} {
		if err := unix.Kill(os.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		if got := <-r.C; got != (Signal{Signal: sig}) {
			t.Errorf("%+v, want %v", got, sig)
		}
	}
	r.Close()
	if after, err := actionOf(unix.SIGUSR1); err != nil || after != before {
		t.Errorf("action %+v, was %+v, %v", after, before, err)
	}
}
