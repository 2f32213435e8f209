package profiler

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
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/internal/pytarget"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/ptrace"
)

// everything is what heaptap does to a process, by name.
var everything = map[string]func(context.Context, int) error{
	"attach": func(ctx context.Context, pid int) error { _, err := Attach(ctx, pid, AttachOptions{}); return err },
	"status": func(ctx context.Context, pid int) error { _, err := ReadStatus(ctx, pid); return err },
	"dump":   func(ctx context.Context, pid int) error { _, err := TakeDump(ctx, pid, DumpOptions{}); return err },
	"detach": func(ctx context.Context, pid int) error { _, err := Detach(ctx, pid); return err },
	"repair": func(ctx context.Context, pid int) error { _, err := Repair(ctx, pid); return err },
}

// refused requires that everything is refused with the same error.
func refused(t *testing.T, pid int, want func(error) bool) {
	t.Helper()
	for verb, do := range everything {
		if err := do(t.Context(), pid); !want(err) {
			t.Errorf("%s: %v", verb, err)
		}
	}
}

func is(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }

func TestNoProcess(t *testing.T) {
	t.Parallel()
	for _, pid := range []int{0, -1, 1 << 30} {
		refused(t, pid, is(proc.ErrGone))
	}
}

// TestEnded: a process that has ended and was not waited for yet is a zombie; then it is no more.
func TestEnded(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Only its end, not its status: that is what makes it a zombie.
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	refused(t, cmd.Process.Pid, is(proc.ErrZombie))
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	refused(t, cmd.Process.Pid, is(proc.ErrGone))
}

// waiting starts a program that waits until the test ends, and is then seen to be alive.
func waiting(t *testing.T, name string, args ...string) int {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); errors.Is(err, unix.ENOEXEC) {
		t.Skipf("this kernel runs no 32-bit programs: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p, err := proc.Open(cmd.Process.Pid); err != nil || p.Check() != nil {
			t.Errorf("%s is not alive: %v", name, err)
		}
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd.Process.Pid
}

func TestNotPython(t *testing.T) {
	t.Parallel()
	pid := waiting(t, "cat")
	var not *cpython.NotPythonError
	if _, err := Attach(t.Context(), pid, AttachOptions{}); !errors.As(err, &not) || not.Pid != pid {
		t.Errorf("attach: %v", err)
	}
	mustBeUntracked(t, pid)
}

// TestUnsupported: interpreters that are recognised and refused go on unharmed.
func TestUnsupported(t *testing.T) {
	t.Parallel()
	for _, in := range pytarget.Unsupported(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, "", pytarget.Options{})
			before := tg.Observe(nil)
			var unsupported *cpython.UnsupportedError
			if _, err := Attach(t.Context(), tg.Pid(), AttachOptions{}); !errors.As(err, &unsupported) {
				t.Errorf("attach: %v", err)
			} else if v := unsupported.Version.String(); v != in.Version {
				t.Errorf("the error speaks of version %s: %v", v, err)
			}
			tg.Unchanged(before, pytarget.Quiet, nil)
			tg.Challenge()
		})
	}
}

// TestThirtyTwoBit: a 32-bit process, here one that pauses for ever, is refused as what it is: Python, going by its name,
// or something else.
func TestThirtyTwoBit(t *testing.T) {
	t.Parallel()
	code := []byte{0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7} // mov $SYS_pause, %eax; int $0x80; again
	const base, headers = 0x8048000, 52 + 32
	b := []byte("\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	le := binary.LittleEndian
	b = le.AppendUint16(le.AppendUint16(b, 2), 3) // ET_EXEC, EM_386
	for _, v := range []uint32{1, base + headers, 52, 0, 0} {
		b = le.AppendUint32(b, v)
	}
	for _, v := range []uint16{52, 32, 1, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	for _, v := range []uint32{1, 0, base, base, headers + uint32(len(code)), headers + uint32(len(code)), 5, 4096} {
		b = le.AppendUint32(b, v) // PT_LOAD, r-x
	}
	start := func(name string) int {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, append(b, code...), 0o755); err != nil {
			t.Fatal(err)
		}
		return waiting(t, path)
	}
	var unsupported *cpython.UnsupportedError
	if _, err := Attach(t.Context(), start("python3.11"), AttachOptions{}); !errors.As(err, &unsupported) || !strings.Contains(err.Error(), "32-bit") {
		t.Errorf("attach to a Python: %v", err)
	}
	var not *cpython.NotPythonError
	if _, err := Attach(t.Context(), start("pause"), AttachOptions{}); !errors.As(err, &not) {
		t.Errorf("attach to something else: %v", err)
	}
}

// TestOtherUser: heaptap as somebody else may not touch the process, says so, and does not.
func TestOtherUser(t *testing.T) {
	t.Parallel()
	needRoot(t)
	tg := pytarget.Start(t, debian(t), "", pytarget.Options{})
	words := hookedWords(t, tg.Pid())
	before := tg.Observe(words)
	for verb := range everything {
		cmd := victimCommand(t, verb, tg.Pid())
		cmd.Path, cmd.Dir = "/proc/self/exe", "/" // where the test's folder is closed to others, this is still open
		const nobody = 65534
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		var exit *exec.ExitError
		if out, err := cmd.CombinedOutput(); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "permission denied") {
			t.Errorf("%s: %v: %s", verb, err, out)
		}
	}
	tg.Unchanged(before, pytarget.Quiet, words)
	tg.Challenge()
}

// TestTraced: what another debugger holds is left to it, and the error names it.
func TestTraced(t *testing.T) {
	t.Parallel()
	tg := pytarget.Start(t, debian(t), "", pytarget.Options{})
	words := hookedWords(t, tg.Pid())
	mustAttach(t, tg.Pid())
	tracer := ptrace.Start()
	if err := tracer.Do(func() error { _, err := tracer.Seize(tg.Pid(), tg.Pid(), 0); return err }); err != nil {
		t.Fatal(err)
	}
	traced := func(verb string, err error) {
		t.Helper()
		var by *ptrace.TracedError
		if !errors.As(err, &by) || by.Tracer != os.Getpid() || by.TracerName == "" {
			t.Errorf("%s: %v", verb, err)
		}
	}
	mustBe(t, tg.Pid(), Tracking) // status stops nothing
	traced("dump", everything["dump"](t.Context(), tg.Pid()))
	traced("detach", everything["detach"](t.Context(), tg.Pid()))
	mustBe(t, tg.Pid(), Incomplete) // the hooks are out, the agent waits for the debugger to leave
	traced("repair", everything["repair"](t.Context(), tg.Pid()))
	if err := tracer.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err := Repair(t.Context(), tg.Pid()); err != nil || !d.Unmapped {
		t.Fatalf("repair: %+v, %v", d, err)
	}

	before := tg.Observe(words)
	again := ptrace.Start()
	if err := again.Do(func() error { _, err := again.Seize(tg.Pid(), tg.Pid(), 0); return err }); err != nil {
		t.Fatal(err)
	}
	traced("attach", everything["attach"](t.Context(), tg.Pid()))
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	tg.Unchanged(before, pytarget.Quiet, words)
	tg.Challenge()
}

// TestNotTracked: what needs tracking says that there is none, and changes nothing.
func TestNotTracked(t *testing.T) {
	t.Parallel()
	tg := pytarget.Start(t, debian(t), "", pytarget.Options{})
	words := hookedWords(t, tg.Pid())
	before := tg.Observe(words)
	for verb, do := range everything {
		if verb == "attach" {
			continue
		}
		if err := do(t.Context(), tg.Pid()); !errors.Is(err, ErrNotTracked) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	tg.Unchanged(before, pytarget.Quiet, words)
}

// TestAlready: a second attach changes nothing.
func TestAlready(t *testing.T) {
	t.Parallel()
	tg := pytarget.Start(t, debian(t), "", pytarget.Options{})
	words := hookedWords(t, tg.Pid())
	mustAttach(t, tg.Pid())
	tracked := tg.Observe(words)
	if a, err := Attach(t.Context(), tg.Pid(), AttachOptions{}); err != nil || !a.Already {
		t.Errorf("second attach: %+v, %v", a, err)
	}
	tg.Unchanged(tracked, pytarget.Quiet, words)
	mustDetach(t, tg.Pid())
}

// TestOtherVersion: tables that another heaptap made are not touched: it alone knows how to.
func TestOtherVersion(t *testing.T) {
	t.Parallel()
	tg := pytarget.Start(t, debian(t), "", pytarget.Options{})
	words := hookedWords(t, tg.Pid())
	before := tg.Observe(words)
	mustAttach(t, tg.Pid())
	ours, err := open(tg.Pid())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.close()
	a, err := ours.tracked()
	if err != nil {
		t.Fatal(err)
	}
	at := a.tablesAt() + mem.Addr(unsafe.Offsetof(agent.Tables{}.Fingerprint))
	const other = 0x1234
	if err := mem.PutU64(ours.mem, at, other); err != nil {
		t.Fatal(err)
	}
	tracked := tg.Observe(words)
	refused(t, tg.Pid(), func(err error) bool {
		var version *OtherVersionError
		return errors.As(err, &version) && version.Have == other && version.Want == agent.Fingerprint() && version.Pid == tg.Pid()
	})
	tg.Unchanged(tracked, pytarget.Busy, words)
	if err := mem.PutU64(ours.mem, at, agent.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	mustDetach(t, tg.Pid())
	tg.Unchanged(before, pytarget.Busy, words)
}

// TestPidReused: between two steps of an attach its process ends, and another one gets its pid. Nothing is done to that.
func TestPidReused(t *testing.T) {
	t.Parallel()
	needRoot(t) // only root may choose a pid
	in := debian(t)
	old := pytarget.Start(t, in, "", pytarget.Options{})
	pid := old.Pid()
	ours, err := open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.close()
	found, err := cpython.Find(ours.proc, ours.mem)
	if err != nil {
		t.Fatal(err)
	}
	prepared, err := prepareAgent(ours, found, AttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	old.Exit(0)

	// A child with the pid that we want: clone3(2) with set_tid.
	fresh := pytarget.Start(t, in, fmt.Sprintf(`
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
ours, theirs = os.pipe()
want = ctypes.c_int(%d)
arguments = struct.pack("11Q", 0, 0, 0, 0, 17, 0, 0, 0, ctypes.addressof(want), 1, 0)
child = libc.syscall(ctypes.c_long(435), arguments, ctypes.c_size_t(len(arguments)))
if child == 0:
    os.write(theirs, b"ready")
    while True:
        os.read(0, 1)
        __import__("signal").pause()
assert child == want.value, os.strerror(ctypes.get_errno())
os.read(ours, 5)
`, pid), pytarget.Options{})
	before, err := pytarget.Observe(pid, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := prepared.place(t.Context()); !errors.Is(err, proc.ErrReused) {
		t.Errorf("place: %v", err)
	}
	if _, err := ours.capture(t.Context(), &placed{}, &agent.Capture{}, DumpOptions{}, &Dump{}, nil); err == nil {
		t.Error("a dump of a process that has ended")
	}
	after, err := pytarget.Observe(pid, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := before.Diff(after, pytarget.Quiet); diff != "" {
		t.Errorf("the process with the pid is not as before:\n%s", diff)
	}
	fresh.Exec("os.kill(child, 9); os.waitpid(child, 0)")
}

// forbids is a program under a seccomp filter that forbids one system call by killing the process.
func forbids(number int) string {
	return `
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
filter = b"".join(struct.pack("HBBI", *instruction) for instruction in [
    (0x20, 0, 0, 0), (0x15, 0, 1, ` + strconv.Itoa(number) + `), (0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7FFF0000)])
held = ctypes.create_string_buffer(filter, len(filter))
program = struct.pack("HxxxxxxP", len(filter) // 8, ctypes.addressof(held))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
`
}

// TestSeccomp: a call that cannot be done without and is forbidden stops the attach before it; one that can be done
// without, does not.
func TestSeccomp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		number int
		needed bool
	}{
		"madvise": {unix.SYS_MADVISE, true}, "gettid": {unix.SYS_GETTID, false}, "tgkill": {unix.SYS_TGKILL, false},
		"prctl": {unix.SYS_PRCTL, false}, "getppid": {unix.SYS_GETPPID, false}, "ftruncate": {unix.SYS_FTRUNCATE, false},
		"rt_sigprocmask": {unix.SYS_RT_SIGPROCMASK, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, debian(t), forbids(c.number), pytarget.Options{})
			words := hookedWords(t, tg.Pid())
			before := tg.Observe(words)
			_, err := Attach(t.Context(), tg.Pid(), AttachOptions{})
			var forbidden *SeccompError
			switch {
			case c.needed && (!errors.As(err, &forbidden) || forbidden.Call != name):
				t.Errorf("attach: %v", err)
			case !c.needed && err != nil:
				t.Errorf("attach: %v", err)
			case !c.needed:
				tg.Challenge()
				mustDump(t, tg.Pid())
				mustDetach(t, tg.Pid())
			}
			tg.Unchanged(before, pytarget.Busy, words)
			tg.Challenge()
		})
	}
}
