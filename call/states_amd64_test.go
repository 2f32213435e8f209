package call

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/ptrace"
)

// borrowOften borrows n times, and expects code to run in the target.
func (tg *target) borrowOften(n int, opts Options) {
	tg.t.Helper()
	ctx := deadline(tg.t)
	a := tg.install(tg.plan(opts), add7)
	pl := tg.plan(opts)
	for i := range n {
		_, err := pl.Borrow(ctx, func(s *Session) error {
			if i%2 == 0 {
				s.UseMemory(a.data, a.size)
			}
			r, err := s.Call(a.code, ints(uint64(i), 1))
			if err == nil && r.RAX != uint64(i)+2 {
				err = fmt.Errorf("called f, got %d, want %d", r.RAX, i+2)
			}
			return err
		})
		if err != nil {
			tg.t.Fatalf("borrowing %d: %v", i, err)
		}
	}
	if got := tg.do("ping"); got != "ok" {
		tg.t.Errorf("target answered %q", got)
	}
}

func TestLinkage(t *testing.T) {
	for _, flags := range []string{"", "-static", "-static-pie", "-no-pie", "-Wl,-z,noseparate-code"} {
		t.Run(flags, func(t *testing.T) {
			bin := compile(t, "threads", strings.Fields(flags)...)
			tg := start(t, bin, "3", "compute")
			tg.borrowOften(50, Options{})
			tg.borrowOften(50, Options{Tid: tg.second()})
			tg.finish()
		})
	}
}

func TestGoTarget(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "gotarget")
	cmd := exec.Command("go", "build", "-o", bin, "./testdata/gotarget")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	tg := start(t, bin)
	for range 20 {
		tg.borrowOften(20, Options{})
	}
	tg.borrowOften(100, Options{Tid: tg.proc.Pid})
	tg.finish()
}

// TestPlace borrows each thread often, from its own stack: the target may not pay with memory for each time.
func TestPlace(t *testing.T) {
	ctx := deadline(t)
	tg := start(t, compile(t, "threads"), "3", "compute")
	tids, err := tg.proc.Threads()
	if err != nil {
		t.Fatal(err)
	}
	touched := func() (n int) {
		t.Helper()
		st, err := tg.proc.Status(tg.proc.Pid)
		if err != nil {
			t.Fatal(err)
		}
		return int(st.VmRSS / pageSize)
	}
	places := make(map[mem.Addr]bool)
	borrow := func(tid int) {
		pl := tg.plan(Options{Tid: tid})
		pl.shelf = 0 // nowhere else
		_, err := pl.Borrow(ctx, func(s *Session) error {
			_, err := s.Syscall(unix.SYS_GETPPID)
			places[s.frame.at.AlignDown(pageSize)] = true
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tid := range tids {
		borrow(tid)
	}
	before := touched()
	for range 200 {
		for _, tid := range tids {
			borrow(tid)
		}
	}
	const kernelBatch = 256 // counts per processor are summed up late
	if after := touched(); after > before+kernelBatch {
		t.Errorf("resident pages went from %d to %d", before, after)
	}
	if len(places) != len(tids) {
		t.Errorf("%d places for %d threads", len(places), len(tids))
	}
	tg.finish()
}

func TestVforkParent(t *testing.T) {
	ctx := deadline(t)
	tg := start(t, compile(t, "states"), "vfork")
	tg.borrowOften(10, Options{})
	held := tg.second()

	pl := tg.plan(Options{})
	report, err := pl.BorrowAll(ctx, func(s *Session, all []StoppedThread) error {
		for _, st := range all {
			if st.Held != (st.Tid == held) || st.PC == 0 {
				t.Errorf("%+v, of which %d is in vfork", st, held)
			}
		}
		_, err := s.Syscall(unix.SYS_GETPID)
		return err
	})
	if err != nil || len(report.Notes) == 0 {
		t.Errorf("%+v, %v", report, err)
	}

	pl = tg.plan(Options{Tid: held, Timeout: 50 * time.Millisecond})
	if _, err := pl.Borrow(ctx, func(*Session) error { return nil }); !errors.Is(err, ptrace.ErrDeadline) {
		t.Errorf("borrowed a thread that is in vfork: %v", err)
	}
	if st, err := tg.proc.Status(held); err != nil || st.TracerPid != 0 {
		t.Errorf("still traced by %d, %v", st.TracerPid, err)
	}
	tg.do("ping")
	tg.finish()
}

func TestZombieLeader(t *testing.T) {
	tg := start(t, compile(t, "states"), "zombie")
	tg.borrowOften(10, Options{})
	pl := tg.plan(Options{})
	if _, err := pl.Freeze(deadline(t), func() error { return nil }); err != nil {
		t.Error(err)
	}
	tg.finish()
}

func TestFreezeStorm(t *testing.T) {
	ctx := deadline(t)
	tg := start(t, compile(t, "states"), "storm")
	n, err := strconv.ParseUint(tg.line(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	counter := mem.Addr(n)
	pl := tg.plan(Options{})
	for range 100 * soak(t) {
		_, err := pl.Freeze(ctx, func() error {
			before, err := mem.U64(pl.memory, counter)
			if err != nil {
				return err
			}
			for range 1000 {
				now, err := mem.U64(pl.memory, counter)
				if err != nil {
					return err
				}
				if now != before {
					return fmt.Errorf("counter went from %d to %d", before, now)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	tids, err := tg.proc.Threads()
	if err != nil {
		t.Fatal(err)
	}
	for _, tid := range tids {
		if st, err := tg.proc.Status(tid); err == nil && st.TracerPid != 0 {
			t.Errorf("thread %d is still traced by %d", tid, st.TracerPid)
		}
	}
	tg.do("ping")
	tg.finish()
}

func TestRestartableSequence(t *testing.T) {
	ctx := deadline(t)
	tg := start(t, compile(t, "states"), "rseq")
	n, err := strconv.ParseUint(tg.line(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	epoch := mem.Addr(n)
	a := tg.install(tg.plan(Options{}), add7)
	pl := tg.plan(Options{Tid: tg.second()})
	for i := range 1000 * soak(t) {
		_, err := pl.Borrow(ctx, func(s *Session) error {
			if i%2 == 0 {
				s.UseMemory(a.data, a.size)
			}
			if err := mem.PutU64(pl.memory, epoch, uint64(i)+1); err != nil {
				return err
			}
			_, err := s.Syscall(unix.SYS_GETPPID)
			if i%5 == 0 && err == nil {
				return s.die()
			}
			return err
		})
		if err != nil && !errors.Is(err, errDie) {
			t.Fatal(err)
		}
	}
	answer := tg.do("check")
	t.Log(answer)
	var sections, aborts, broken int
	if _, err := fmt.Sscanf(answer, "sections %d aborts %d broken %d", &sections, &aborts, &broken); err != nil {
		t.Fatal(err)
	}
	if sections == 0 || aborts == 0 || broken != 0 {
		t.Errorf("want sections and aborts, and none broken: %s", answer)
	}
	tg.finish()
}

func TestSeccomp(t *testing.T) {
	ctx := deadline(t)
	bin := compile(t, "states")
	const none = 1 << 30
	for _, c := range []struct {
		state     string
		forbidden uint64
	}{
		{"seccomp-kill", unix.SYS_MMAP},
		{"seccomp-errno", unix.SYS_GETPPID},
		{"seccomp-trap", unix.SYS_GETPID},
		{"seccomp-deadly", unix.SYS_SCHED_YIELD},
		{"seccomp-strict", unix.SYS_MMAP},
		{"mdwe", none},
	} {
		t.Run(c.state, func(t *testing.T) {
			tg := start(t, bin, c.state)
			if c.state == "seccomp-strict" {
				tg.do("ping") // strict since before this answer
			}
			pl := tg.plan(Options{})
			for _, nr := range []uint64{unix.SYS_MMAP, unix.SYS_GETPPID, unix.SYS_GETPID, unix.SYS_READ} {
				allowed, known := pl.Allowed(nr)
				want := nr != c.forbidden && (c.state != "seccomp-strict" || nr == unix.SYS_READ)
				if allowed != want || !known {
					t.Errorf("system call %d: allowed %v known %v, want %v", nr, allowed, known, want)
				}
			}
			_, err := pl.Borrow(ctx, func(s *Session) error {
				if c.forbidden == none {
					_, err := mapArena(s)
					return err
				}
				var se *SeccompError
				if _, err := s.Syscall(c.forbidden, 0, 4096, 0, 0x22, ^uint64(0), 0); !errors.As(err, &se) {
					return fmt.Errorf("forbidden call: %v", err)
				}
				_, err := s.Syscall(unix.SYS_READ, ^uint64(0), 0, 0)
				if !errors.Is(err, syscall.EBADF) {
					return fmt.Errorf("read: %v", err)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			tg.do("ping")
			if c.forbidden != unix.SYS_MMAP {
				tg.borrowOften(5, Options{}) // a marker is found that the filter admits
			}
			if name := map[uint64]string{unix.SYS_GETPID: "getpid", unix.SYS_SCHED_YIELD: "sched_yield"}[c.forbidden]; name != "" {
				_, err := tg.plan(Options{}).Borrow(ctx, func(s *Session) error {
					_, err := s.Call(tg.function(name), Args{})
					var se *SeccompError
					if !errors.As(err, &se) || se.Nr != c.forbidden {
						return fmt.Errorf("called %s: %w", name, err)
					}
					_, err = s.Call(tg.function("getuid"), Args{})
					return err
				})
				if err != nil {
					t.Error(err)
				}
				tg.do("ping")
			}
			tg.finish()
		})
	}
}

func TestExec(t *testing.T) {
	ctx := deadline(t)
	tg := start(t, compile(t, "states"), "plain")
	pl := tg.plan(Options{})
	if err := tg.send("exec"); err != nil {
		t.Fatal(err)
	}
	if got := tg.line(); got != "ready" {
		t.Fatalf("after exec: %q", got)
	}
	for _, f := range []func() error{
		func() error { _, err := pl.Borrow(ctx, func(*Session) error { return nil }); return err },
		func() error { _, err := pl.Freeze(ctx, func() error { return nil }); return err },
	} {
		if err := f(); !errors.Is(err, ErrChanged) {
			t.Errorf("after exec: %v", err)
		}
	}
	tg.finish()
}

// send sends a line that has no answer.
func (tg *target) send(line string) error {
	_, err := tg.in.Write([]byte(line + "\n"))
	return err
}

// TestStopped borrows from a job that is stopped by a signal: it stays stopped, and its parent notices nothing.
func TestStopped(t *testing.T) {
	ctx := deadline(t)
	tg := start(t, compile(t, "threads"), "3", "compute")
	pid := tg.proc.Pid
	a := tg.install(tg.plan(Options{}), add7)
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, unix.WUNTRACED, nil); err != nil || !ws.Stopped() {
		t.Fatalf("wait: %v, %v", ws, err)
	}
	pl := tg.plan(Options{})
	for i := range 50 {
		var err error
		switch i % 3 {
		case 0:
			_, err = pl.Borrow(ctx, func(s *Session) error {
				s.UseMemory(a.data, a.size)
				_, err := s.Run(a.code)
				return err
			})
		case 1:
			_, err = pl.Freeze(ctx, func() error { return nil })
		case 2:
			_, err = pl.BorrowAll(ctx, func(s *Session, _ []StoppedThread) error {
				_, err := s.Syscall(unix.SYS_GETPID)
				return err
			})
		}
		if err != nil {
			t.Fatal(err)
		}
		tg.awaitState(ctx, 'T') // it stops anew as it is let go
	}
	if got, err := unix.Wait4(pid, &ws, unix.WUNTRACED|unix.WCONTINUED|unix.WNOHANG, nil); err != nil || got != 0 {
		t.Errorf("the parent saw %v (%d, %v)", ws, got, err)
	}
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	tg.do("ping")
	tg.finish()
}

// TestStopDuring has a job stopped by a signal while one of its threads runs borrowed code: that goes on to its end, and
// the job is stopped afterwards.
func TestStopDuring(t *testing.T) {
	ctx := deadline(t)
	tg := start(t, compile(t, "threads"), "3", "compute")
	pid := tg.proc.Pid
	// 1: cmpq $0, (%rdi); je 1b; mov $5, %eax; ret
	a := tg.install(tg.plan(Options{}), []byte{0x48, 0x83, 0x3f, 0, 0x74, 0xfa, 0xb8, 5, 0, 0, 0, 0xc3})
	pl := tg.plan(Options{Tid: pid})
	started := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := pl.Borrow(ctx, func(s *Session) error {
			s.UseMemory(a.data+4096, a.size-4096)
			close(started)
			got, err := s.Run(a.code, uint64(a.data))
			if err == nil && got != 5 {
				err = fmt.Errorf("ran to %d", got)
			}
			return err
		})
		done <- err
	}()
	<-started
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// The other threads are stopped once the borrowed one has taken part in the stop.
	tids, err := tg.proc.Threads()
	if err != nil {
		t.Fatal(err)
	}
	for st, err := tg.proc.Stat(tids[1]); st.State != 'T' && ctx.Err() == nil; st, err = tg.proc.Stat(tids[1]) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := pl.memory.WriteAt([]byte{1}, a.data); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	tg.awaitState(ctx, 'T')
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	tg.do("ping")
	tg.finish()
}

// awaitState waits until the first thread is in a state.
func (tg *target) awaitState(ctx context.Context, want byte) {
	tg.t.Helper()
	for {
		st, err := tg.proc.Stat(tg.proc.Pid)
		if err == nil && st.State == want {
			return
		}
		if err != nil || ctx.Err() != nil {
			tg.t.Fatalf("state %c, want %c: %v, %v", st.State, want, err, ctx.Err())
		}
	}
}

func TestTraced(t *testing.T) {
	ctx := deadline(t)
	tg := start(t, compile(t, "threads"), "1")
	tracer := ptrace.Start()
	defer tracer.Close()
	if err := tracer.Do(func() error {
		_, err := tracer.Seize(tg.proc.Pid, tg.proc.Pid, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	_, err := tg.plan(Options{}).Borrow(ctx, func(*Session) error { return nil })
	var te *ptrace.TracedError
	if !errors.As(err, &te) || te.Tracer != os.Getpid() || te.TracerName == "" {
		t.Errorf("%v (%+v)", err, te)
	}
}

// Code for a borrowed thread that goes wrong.
var (
	codeFault = []byte{0x48, 0x8b, 0x07, 0xc3}              // mov (%rdi), %rax; ret
	codeTrap  = []byte{0xcc, 0xc3}                          // int3
	codeLoop  = []byte{0xeb, 0xfe}                          // jmp .
	codeWait  = []byte{0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xc3} // pause(2)
)

// TestFaults runs code that faults or never ends: it is undone, and the same borrowing goes on.
func TestFaults(t *testing.T) {
	ctx := deadline(t)
	bin := compile(t, "regs", "-mno-red-zone")
	for _, c := range []struct {
		name   string
		code   []byte
		signal syscall.Signal // 0: never ends
	}{
		{"segmentation fault", codeFault, unix.SIGSEGV},
		{"trap", codeTrap, unix.SIGTRAP},
		{"endless loop", codeLoop, 0},
		{"endless wait", codeWait, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			tg := start(t, bin, "storm")
			tid := tg.second()
			a := tg.install(tg.plan(Options{}), c.code)
			// The limit holds for the wait for the stop as well, which takes its time on a busy machine.
			limit, rounds := 10*time.Second, 20
			if c.signal == 0 {
				limit, rounds = 500*time.Millisecond, 6
			}
			pl := tg.plan(Options{Tid: tid, Timeout: limit})
			before := tg.settled()
			for i := range rounds {
				_, err := pl.Borrow(ctx, func(s *Session) error {
					s.UseMemory(a.data, a.size)
					_, err := s.Run(a.code, 0x10)
					var fe *FaultError
					var te *TimeoutError
					switch {
					case c.signal == 0 && !errors.As(err, &te):
						return fmt.Errorf("no time limit: %w", err)
					case c.signal != 0 && (!errors.As(err, &fe) || fe.Signal != c.signal):
						return fmt.Errorf("no fault: %w", err)
					case c.signal == unix.SIGSEGV && (fe.Addr != 0x10 || fe.PC != a.code):
						return fmt.Errorf("fault elsewhere: %w", err)
					}
					if i%2 == 0 {
						return nil
					}
					_, err = s.Syscall(unix.SYS_GETPID)
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			tg.sound(before)
			tg.finish()
		})
	}
}

// TestOrphan leaves a thread in the middle of code, as a killed tracer would, and lets the next one find it.
func TestOrphan(t *testing.T) {
	ctx := deadline(t)
	// Waits until the word at rdi is not 0: 1: cmpq $0, (%rdi); je 1b; ret
	tg := start(t, compile(t, "regs", "-mno-red-zone"))
	a := tg.install(tg.plan(Options{}), []byte{0x48, 0x83, 0x3f, 0x00, 0x74, 0xfa, 0xc3})
	pl := tg.plan(Options{Tid: tg.second()})
	before := tg.settled()
	_, err := pl.Borrow(ctx, func(s *Session) error {
		s.UseMemory(a.data+4096, a.size-4096)
		if _, err := s.enter(a.code, &Args{Int: [maxArgs]uint64{uint64(a.data)}}); err != nil {
			return err
		}
		return s.die()
	})
	if !errors.Is(err, errDie) {
		t.Fatal(err)
	}
	short := tg.plan(Options{Timeout: 30 * time.Millisecond})
	if _, err := short.Borrow(ctx, func(*Session) error { return nil }); !errors.Is(err, ptrace.ErrDeadline) {
		t.Errorf("borrowed while another thread is in borrowed code: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		report, err := tg.plan(Options{}).Borrow(ctx, func(s *Session) error {
			_, err := s.Syscall(unix.SYS_GETPID)
			return err
		})
		if err == nil && len(report.Notes) == 0 {
			err = errors.New("the orphan was not noticed")
		}
		done <- err
	}()
	if err := pl.memory.WriteAt(binary.LittleEndian.AppendUint64(nil, 1), a.data); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	tg.sound(before)
	tg.finish()
}

// A signal to the process is the first thread's where that does not block it (complete_signal in Linux' kernel/signal.c
// asks it first), and programs count on that: Python's handlers run in the first thread only, and a wait of its that
// another thread's signal does not interrupt would go on. It is the first's, too, when it comes while all stand still.
func TestSignalWhileFrozen(t *testing.T) {
	ctx := deadline(t)
	tg := start(t, compile(t, "signals"))
	pl := tg.plan(Options{})
	pid := tg.cmd.Process.Pid
	taken := map[string]int{}
	for sent := 0; sent < 200*soak(t); {
		blocked := false
		_, err := pl.Freeze(ctx, func() error {
			status, err := tg.proc.Status(pid)
			if blocked = status.SigBlk != 0; blocked || err != nil {
				return err // it has not left the handler of the last one
			}
			return unix.Kill(pid, unix.SIGUSR1)
		})
		if err != nil {
			t.Fatal(err)
		}
		if !blocked {
			taken[tg.line()]++
			sent++
		}
	}
	if taken["other"] != 0 {
		t.Errorf("signals taken by %v", taken)
	}
	tg.finish()
}
