package ptrace

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/proc"
)

// program is a target from testdata.
type program struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   io.WriteCloser
	proc *proc.Process
}

func start(t *testing.T, source string, flags ...string) *program {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "target")
	args := append([]string{"-O1", "-pthread", "-o", bin, filepath.Join("testdata", source)}, flags...)
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc %v: %v\n%s", args, err, out)
	}
	p := &program{t: t, cmd: exec.Command(bin)}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%s said %q, %v", source, line, err)
	}
	if p.proc, err = proc.Open(p.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return p
}

// finish ends the target's input, and expects it to end well.
func (p *program) finish() {
	p.t.Helper()
	p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		p.t.Error(err)
	}
}

// on runs fn on a tracer of its own.
func on(t *testing.T, fn func(*Tracer, context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tracer := Start()
	if err := tracer.Do(func() error { return fn(tracer, ctx) }); err != nil {
		t.Error(err)
	}
	if err := tracer.Close(); err != nil {
		t.Error(err)
	}
}

// awaitCall waits until the first thread is blocked in a system call.
func (p *program) awaitCall(nr int) {
	p.t.Helper()
	for p.t.Context().Err() == nil {
		b, err := os.ReadFile(p.proc.Path("syscall"))
		if err != nil {
			p.t.Fatal(err)
		}
		if strings.HasPrefix(string(b), strconv.Itoa(nr)+" ") {
			return
		}
	}
}

func TestStopAndRestore(t *testing.T) {
	p := start(t, "waits.c")
	p.awaitCall(unix.SYS_READ)
	on(t, func(tracer *Tracer, ctx context.Context) error {
		th, err := tracer.Seize(p.proc.Pid, p.proc.Pid, 0)
		if err != nil {
			return err
		}
		if stop, err := th.Stop(ctx); err != nil || stop.Kind != Event {
			t.Errorf("%v, %v", stop, err)
		}
		state, err := th.Save(make([]byte, 16<<10))
		if err != nil {
			return err
		}
		if !state.Regs.InSyscall() || state.Regs.Syscall() != unix.SYS_READ || state.Regs.Result() != restartSys {
			t.Errorf("stopped in %d with %d, want read to restart", state.Regs.Syscall(), state.Regs.Result())
		}
		changed := state.Regs
		changed.R15 ^= 0xff
		if err := th.SetRegs(&changed); err != nil {
			return err
		}
		if err := th.SetSigMask(^uint64(0)); err != nil {
			return err
		}
		// What Restore writes it also reads back.
		if err := th.Restore(&state, make([]byte, 16<<10)); err != nil {
			return err
		}
		bad := state
		bad.Mask = 1 << (unix.SIGKILL - 1) // the kernel does not let it be blocked
		if err := th.Restore(&bad, make([]byte, 16<<10)); err == nil {
			t.Error("a mask that did not take was not noticed")
		}
		if err := th.Restore(&state, make([]byte, 16<<10)); err != nil {
			return err
		}
		return th.Detach(0)
	})
	p.finish()
}

// TestClose leaves a stopped, a running and an interrupted thread to the end of the tracer's OS thread.
func TestClose(t *testing.T) {
	for _, how := range []string{"stopped", "running", "interrupted", "goexit"} {
		t.Run(how, func(t *testing.T) {
			p := start(t, "waits.c")
			tracer := Start()
			err := tracer.Do(func() error {
				th, err := tracer.Seize(p.proc.Pid, p.proc.Pid, 0)
				if err != nil {
					return err
				}
				switch how {
				case "stopped":
					_, err = th.Stop(t.Context())
				case "interrupted":
					err = th.Interrupt()
				case "goexit":
					runtime.Goexit()
				}
				return err
			})
			if (err != nil) != (how == "goexit") {
				t.Error(err)
			}
			if err := tracer.Close(); err != nil {
				t.Error(err)
			}
			if st, err := p.proc.Status(p.proc.Pid); err != nil || st.TracerPid != 0 {
				t.Errorf("traced by %d after the tracer's end, %v", st.TracerPid, err)
			}
			if err := tracer.Do(func() error { return nil }); !errors.Is(err, ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
			p.finish()
		})
	}
}

func TestErrors(t *testing.T) {
	p := start(t, "waits.c")
	pid := p.proc.Pid
	var leaked *Thread
	on(t, func(tracer *Tracer, ctx context.Context) error {
		th, err := tracer.Seize(pid, pid, 0)
		if err != nil {
			return err
		}
		leaked = th

		var te *TracedError
		on(t, func(second *Tracer, _ context.Context) error {
			if _, err := second.Seize(pid, pid, 0); !errors.As(err, &te) || te.Tracer != os.Getpid() ||
				te.TracerTid != tracer.Tid() || !strings.HasPrefix(te.TracerName, "ptrace") {
				t.Errorf("seized twice: %v", err)
			}
			if err := th.Interrupt(); !errors.Is(err, ErrWrongThread) {
				t.Errorf("on another OS thread: %v", err)
			}
			if _, err := th.Wait(ctx); !errors.Is(err, ErrWrongThread) {
				t.Errorf("wait on another OS thread: %v", err)
			}
			return nil
		})

		for _, prepare := range []func(){func() {}, th.Expect} {
			prepare()
			for range 3 {
				short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
				if stop, err := th.Wait(short); !errors.Is(err, ErrDeadline) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("wait for a thread that runs: %v, %v", stop, err)
				}
				cancel()
				if stop, err := th.Wait(short); !errors.Is(err, ErrDeadline) {
					t.Errorf("wait with a context that has ended: %v, %v", stop, err)
				}
			}
		}

		// The end of the target while it is stopped, and afterwards.
		if _, err := th.Stop(ctx); err != nil {
			return err
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			return err
		}
		if stop, err := th.Wait(ctx); err != nil || stop.Kind != Exited || stop.Code != int(unix.SIGKILL) {
			t.Errorf("killed: %v, %v", stop, err)
		}
		var regs Regs
		if err := th.Regs(&regs); !errors.Is(err, ErrGone) {
			t.Errorf("registers of the dead: %v", err)
		}
		if _, err := tracer.Seize(pid, pid, 0); !errors.Is(err, ErrGone) {
			t.Errorf("seize the dead: %v", err)
		}
		return nil
	})
	if err := leaked.Interrupt(); !errors.Is(err, ErrWrongThread) {
		t.Errorf("after the tracer: %v", err)
	}
}

func TestZombie(t *testing.T) {
	p := start(t, "waits.c")
	p.in.Close()
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, p.proc.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	on(t, func(tracer *Tracer, _ context.Context) error {
		if _, err := tracer.Seize(p.proc.Pid, p.proc.Pid, 0); !errors.Is(err, ErrGone) {
			t.Errorf("a zombie: %v", err)
		}
		if _, err := tracer.Seize(1<<30, 1<<30, 0); !errors.Is(err, ErrGone) {
			t.Errorf("nobody: %v", err)
		}
		return nil
	})
}

// TestSignals stops a thread to which signals are being sent: each is delivered, none is lost.
func TestSignals(t *testing.T) {
	p := start(t, "waits.c")
	on(t, func(tracer *Tracer, ctx context.Context) error {
		for range 200 {
			th, err := tracer.Seize(p.proc.Pid, p.proc.Pid, 0)
			if err != nil {
				return err
			}
			if err := unix.Kill(p.proc.Pid, unix.SIGWINCH); err != nil { // ignored, but a tracer sees it
				return err
			}
			if stop, err := th.Stop(ctx); err != nil || stop.Kind != Event {
				return errors.Join(errors.New(stop.String()), err)
			}
			if err := th.Detach(0); err != nil {
				return err
			}
		}
		return nil
	})
	p.finish()
}

func TestCompat(t *testing.T) {
	p := start(t, "ia32.S", "-m32", "-nostdlib", "-static", "-no-pie")
	on(t, func(tracer *Tracer, ctx context.Context) error {
		th, err := tracer.Seize(p.proc.Pid, p.proc.Pid, 0)
		if err != nil {
			return err
		}
		if _, err := th.Stop(ctx); err != nil {
			return err
		}
		_, err = th.Save(make([]byte, 16<<10))
		var ae *ABIError
		if !errors.As(err, &ae) || ae.RegsSize != 68 {
			t.Errorf("32-bit thread: %v", err)
		}
		return th.Detach(0)
	})
	p.finish()
}

// TestPermission tries to trace without any right to it, in a child that gives its capabilities up.
func TestPermission(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	p := start(t, "waits.c")
	cmd := exec.Command(forAll(t))
	cmd.Env = append(os.Environ(), strangerEnv+"="+p.proc.Path())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := string(out)
	for _, want := range []string{"operation not permitted", "another user", "no CAP_SYS_PTRACE"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not say %q", got, want)
		}
	}
	p.finish()
}

// forAll is a copy of this test binary that every user may run.
func forAll(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "heaptap-ptrace")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tracer")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

const strangerEnv = "HEAPTAP_TEST_STRANGER"

func TestMain(m *testing.M) {
	path := os.Getenv(strangerEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	var pid int
	for _, c := range filepath.Base(path) {
		pid = 10*pid + int(c-'0')
	}
	tracer := Start()
	err := tracer.Do(func() error {
		_, err := tracer.Seize(pid, pid, 0)
		return err
	})
	var pe *PermissionError
	if !errors.As(err, &pe) {
		os.Stdout.WriteString("not a PermissionError: ")
	}
	os.Stdout.WriteString(err.Error())
	os.Exit(0)
}

func TestFirstThread(t *testing.T) {
	// However the runtime places the goroutine, the tracer must not own the process's first OS thread.
	for range 20 {
		tracer := Start()
		if tracer.Tid() == os.Getpid() || tracer.Tid() == 0 {
			t.Errorf("tracer is thread %d of %d", tracer.Tid(), os.Getpid())
		}
		if err := tracer.Close(); err != nil {
			t.Error(err)
		}
	}
}
