package profiler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/internal/fault"
	"github.com/heaptap/heaptap/internal/pytarget"
	"github.com/heaptap/heaptap/launch"
)

// ran is a command that was run to its end.
type ran struct {
	*RunEnd
	tracked []*Attachment
	notes   []string
}

// runCommand runs a command, with what stands in env added to our environment, to its end.
func runCommand(ctx context.Context, o AttachOptions, env []string, args ...string) (ran, error) {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return ran{}, err
	}
	c := launch.Command{Path: path, Args: args, Env: append(os.Environ(), env...), Caller: launch.ThisCaller()}
	command, err := Start(ctx, RunOptions{Attach: o, Command: c})
	if err != nil {
		return ran{}, err
	}
	var r ran
	for e := range command.Events() {
		switch {
		case e.Tracked != nil:
			r.tracked = append(r.tracked, e.Tracked)
		case e.Note != "":
			r.notes = append(r.notes, e.Note)
		default:
			r.RunEnd = e.Ended
		}
	}
	return r, nil
}

func mustRun(t *testing.T, o AttachOptions, env []string, args ...string) ran {
	t.Helper()
	r, err := runCommand(t.Context(), o, env, args...)
	if err != nil {
		t.Fatal(err)
	}
	if r.Held != nil {
		t.Cleanup(func() { r.Held.Close() })
	}
	return r
}

// runVictim runs the command that a JSON list names, and ends as it does. It is this test binary as `heaptap run`.
func runVictim(list string) error {
	var args []string
	if err := json.Unmarshal([]byte(list), &args); err != nil {
		return err
	}
	for _, name := range []string{victimEnv, fault.Env, fault.LogEnv} {
		defer os.Unsetenv(name)
	}
	r, err := runCommand(context.Background(), AttachOptions{}, nil, args...)
	if err != nil {
		return err
	}
	if r.Code != 0 || r.Signal != 0 || r.Held == nil {
		return fmt.Errorf("%+v: %v", r.RunEnd, r.notes)
	}
	return nil
}

// within is a command line that runs an interpreter, in its own root where it has one.
func within(in pytarget.Interpreter, args ...string) []string {
	if in.Root == "" {
		return append([]string{in.Path}, args...)
	}
	return append([]string{"chroot", in.Root, in.Path}, args...)
}

// runnable returns interpreters that can be run in a root of their own, where that takes a privilege we have.
func runnable(t *testing.T) []pytarget.Interpreter {
	t.Helper()
	of := map[int]bool{}
	return slices.DeleteFunc(pytarget.Interpreters(t), func(in pytarget.Interpreter) bool {
		if in.Root != "" && os.Geteuid() != 0 || in.Embedded {
			return true
		}
		seen := of[in.Minor()] && in.Path != "/usr/bin/python3.11"
		of[in.Minor()] = true
		return seen
	})
}

// heldBlocks counts, in the tables of a dead process, blocks of the domains that pymalloc serves.
func heldBlocks(t *testing.T, h *Held) int {
	t.Helper()
	c := &agent.Capture{Running: true}
	if err := c.Copy(heldMemory{h.file, h.at}, h.at, 1<<40); err != nil {
		t.Fatal(err)
	}
	n := 0
	for b, err := range c.Blocks() {
		if err != nil {
			t.Fatal(err)
		}
		if Domain(b.Domain) == Mem || Domain(b.Domain) == Obj {
			n++
		}
	}
	return n
}

// countAndDie leaves a number of blocks that the interpreter itself has counted, and is killed.
const countAndDie = `
import os, sys
keep = [bytes(n) for n in range(1000)]
fd = int(sys.argv[1])
os.write(fd, b'%d' % sys.getallocatedblocks())
os.kill(os.getpid(), 9)
`

// TestRunFromTheFirst: tracking begins with the interpreter's first block. What the interpreter says that its allocator has
// given out, since it began, is what is known to be live, also when the process was killed and the count comes from what
// it has left. Only what is allocated between the two counts, for the first one itself, may be missing in it.
func TestRunFromTheFirst(t *testing.T) {
	t.Parallel()
	const between = 8
	type how struct {
		name string
		env  []string
		args []string
	}
	for _, in := range runnable(t) {
		for _, h := range []how{
			{"plain", nil, nil},
			{"debug", []string{"PYTHONMALLOC=pymalloc_debug"}, nil},
			{"tracing", []string{"PYTHONTRACEMALLOC=1"}, nil},
			{"dev", nil, []string{"-X", "dev"}},
		} {
			if h.name != "plain" && in.Minor()%3 != 2 { // 3.8, 3.11, 3.14
				continue
			}
			t.Run(in.Name+"/"+h.name, func(t *testing.T) {
				t.Parallel()
				reader, writer := unnamedPipe(t)
				r := mustRun(t, AttachOptions{}, h.env,
					within(in, append(slices.Clone(h.args), "-c", countAndDie, strconv.Itoa(int(writer.Fd())))...)...)
				if r.Signal != unix.SIGKILL || len(r.tracked) != 1 || r.Held == nil {
					t.Fatalf("%+v, notes %q", r, r.notes)
				}
				text := make([]byte, 32)
				n, err := reader.Read(text)
				if err != nil {
					t.Fatal(err)
				}
				want, err := strconv.Atoi(string(text[:n]))
				if err != nil {
					t.Fatal(err)
				}
				if got := heldBlocks(t, r.Held); got < want-1 || got > want+between {
					t.Errorf("%d blocks are known to be live, the interpreter has %d; notes %q", got, want, r.notes)
				}
				d, err := r.Held.Dump(DumpOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if live := d.Snapshot.Total()[heap.InuseBytes]; live < 1000*999/2 {
					t.Errorf("%d bytes live in the snapshot", live)
				}
				if !strings.Contains(strings.Join(d.Notes, " "), "types of objects are not known") {
					t.Errorf("notes %q", d.Notes)
				}
			})
		}
	}
}

// unnamedPipe is a pipe whose writing end commands inherit.
func unnamedPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	return r, w
}

// TestRunEnds: how a command ends is told, whether a Python was in it or not, by whatever way it came.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	python := debian(t).Path
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!"+python+"\nimport sys\nsys.exit(len(sys.argv))\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		args    []string
		code    int
		signal  syscall.Signal
		tracked int
	}{
		{"code", []string{python, "-c", "raise SystemExit(7)"}, 7, 0, 1},
		{"exit", []string{python, "-c", "import os; os._exit(255)"}, 255, 0, 1},
		{"segfault", []string{python, "-c", "import ctypes; ctypes.string_at(0)"}, 0, unix.SIGSEGV, 1},
		{"abort", []string{python, "-c", "import os; os.abort()"}, 0, unix.SIGABRT, 1},
		{"term", []string{python, "-c", "import os; os.kill(os.getpid(), 15)"}, 0, unix.SIGTERM, 1},
		{"script", []string{script, "a", "b"}, 3, 0, 1},
		{"wrapped", []string{"sh", "-c", `exec env A=1 sh -c 'exec "$0" -c "raise SystemExit(9)"' ` + python}, 9, 0, 1},
		{"again", []string{python, "-c", "import os, sys; os.execv(sys.executable, ['python', '-c', 'raise SystemExit(5)'])"}, 5, 0, 2},
		{"child", []string{"sh", "-c", python + " -c 'raise SystemExit(4)'; exit $?"}, 4, 0, 0},
		{"none", []string{"sh", "-c", "exit 3"}, 3, 0, 0},
		{"none, killed", []string{"sh", "-c", "kill -KILL $$"}, 0, unix.SIGKILL, 0},
		{"old", []string{"/nonexistent"}, 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.name == "old" {
				var e *launch.ExecError
				_, err := Start(t.Context(), RunOptions{Command: launch.Command{Path: c.args[0], Args: c.args}})
				if !errors.As(err, &e) || e.Err != unix.ENOENT {
					t.Errorf("%v", err)
				}
				return
			}
			r := mustRun(t, AttachOptions{}, nil, c.args...)
			if r.Code != c.code || r.Signal != c.signal {
				t.Errorf("ended with code %d or signal %v, want %d or %v; notes %q", r.Code, r.Signal, c.code, c.signal, r.notes)
			}
			// A Python that another one executes is found when it runs already, and may be at its end before.
			if len(r.tracked) > c.tracked || len(r.tracked) < min(c.tracked, 1) || (r.Held != nil) != (c.tracked > 0) {
				t.Errorf("tracked %d times, want %d; notes %q", len(r.tracked), c.tracked, r.notes)
			}
		})
	}
}

// TestRunTraceable: while a command runs, others can trace it.
func TestRunTraceable(t *testing.T) {
	t.Parallel()
	reader, writer := unnamedPipe(t)
	in := debian(t)
	program := fmt.Sprintf("import os, time\nkeep = [[] for _ in range(1000)]\nos.write(%d, b'!')\ntime.sleep(1000)", writer.Fd())
	c := launch.Command{Path: in.Path, Args: []string{in.Path, "-c", program}, Env: os.Environ(), Caller: launch.ThisCaller()}
	command, err := Start(t.Context(), RunOptions{Command: c})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan *RunEnd, 1)
	go func() {
		for e := range command.Events() {
			if e.Ended != nil {
				ended <- e.Ended
			}
		}
	}()
	if _, err := reader.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	d, err := TakeDump(t.Context(), command.Pid(), DumpOptions{})
	if err != nil {
		t.Errorf("dump: %v", err)
	} else if d.Pause == 0 || d.Snapshot.Total()[heap.InuseBlocks] < 1000 {
		t.Errorf("dump: %+v", d)
	}
	// Stopped and continued as a job, which takes nothing from those who wait for it.
	for _, s := range []syscall.Signal{unix.SIGSTOP, unix.SIGCONT} {
		if err := command.Signal(s); err != nil {
			t.Fatal(err)
		}
		until(t, func() bool { return command.Stopped() == (s == unix.SIGSTOP) })
	}
	if _, err := Detach(t.Context(), command.Pid()); err != nil {
		t.Errorf("detach: %v", err)
	}
	if err := command.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	end := <-ended
	if end.Signal != unix.SIGTERM || end.Held == nil {
		t.Errorf("end %+v", end)
	}
	end.Held.Close()
}

// until asks again and again.
func until(t *testing.T, is func() bool) {
	t.Helper()
	for !is() {
		if t.Context().Err() != nil {
			t.Fatal("it never came")
		}
	}
}

// TestRunKilled kills a `heaptap run` at its fault points. The command goes on, and does what it should.
func TestRunKilled(t *testing.T) {
	t.Parallel()
	var hitting sync.Mutex
	hit := map[string]bool{}
	t.Cleanup(func() {
		for _, name := range pointsInSource(t, "launch|run|hold", "launch", "profiler") {
			if !hit[name] && !t.Failed() {
				t.Errorf("nothing was killed at %s", name)
			}
		}
	})
	in := debian(t)
	const program = `
import os, hashlib
os.environ.pop('HEAPTAP_TEST_VICTIM'), os.environ.pop('HEAPTAP_FAULT', 0), os.environ.pop('HEAPTAP_FAULT_LOG', 0)
blocks = [os.urandom(n % 700) for n in range(3000)]
again = [b[::-1] for b in blocks]
ok = all(x[::-1] == y for x, y in zip(blocks, again))
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
traced = int(status['TracerPid'])
blocked = int(status['SigBlk'], 16)
print('fine' if ok and not blocked else 'ok %s blocked %x' % (ok, blocked))
`
	for _, c := range []struct {
		name string
		args []string
		env  []string
	}{
		{"python", []string{in.Path, "-c", program}, nil},
		{"wrapped", []string{"sh", "-c", `exec "$0" "$@"`, in.Path, "-c", program}, nil},
		{"debug", []string{in.Path, "-c", program}, []string{"PYTHONMALLOC=debug"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			list, err := json.Marshal(c.args)
			if err != nil {
				t.Fatal(err)
			}
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			victim := func(env ...string) (string, error) {
				cmd := exec.CommandContext(t.Context(), self)
				cmd.Env = append(append(append(os.Environ(), c.env...), env...), victimEnv+"=run "+string(list))
				var out bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &out
				err := cmd.Run() // which waits for the pipe's end: for the command's
				return out.String(), err
			}
			log := filepath.Join(t.TempDir(), "log")
			if out, err := victim(fault.LogEnv + "=" + log); err != nil || out != "fine\n" {
				t.Fatalf("%v: %s", err, out)
			}
			text, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			kills := 0
			for _, p := range runPoints(string(text)) {
				hitting.Lock()
				hit[p.name] = true
				hitting.Unlock()
				out, err := victim(p.rule("kill"))
				if err != nil && !wasKilled(err) {
					t.Fatalf("kill at %v: %v: %s", p, err, out)
				}
				if wasKilled(err) {
					kills++
				}
				if out != "fine\n" {
					t.Errorf("after a kill at %v, the command says %q", p, out)
				}
			}
			if kills < 20 {
				t.Errorf("only %d kills", kills)
			}
			t.Logf("%d kills", kills)
		})
	}
}

// runPoints are the fault points in a log, of those that are hit very often only some.
func runPoints(log string) []point {
	hits := map[string]int{}
	var points []point
	for name := range strings.FieldsSeq(log) {
		hits[name]++
		points = append(points, point{name, hits[name]})
	}
	return thin(points)
}

// TestHold: the tables outlive a process, however its own heaptap got hold of them.
func TestHold(t *testing.T) {
	t.Parallel()
	for _, named := range []bool{false, true} {
		t.Run(fmt.Sprintf("named=%v", named), func(t *testing.T) {
			t.Parallel()
			tg := situation(t, "idle").Start(t, debian(t))
			before := tg.Observe(nil)
			tg.Exec("None")
			at, err := attachHolding(t, tg.Pid(), named)
			if err != nil {
				t.Fatal(err)
			}
			defer at.Held.Close()
			if st, err := ReadStatus(t.Context(), tg.Pid()); err != nil || st.State != Tracking {
				t.Fatalf("status %+v, %v", st, err)
			}
			// Only that it is tracked is to be seen of it: its descriptors are as before.
			mustDetach(t, tg.Pid())
			tg.Unchanged(before, pytarget.Busy, nil)
			if at, err = attachHolding(t, tg.Pid(), named); err != nil {
				t.Fatal(err)
			}
			defer at.Held.Close()
			tg.Exec("keep = [bytes(1000) for _ in range(100)]")
			tg.Forgive()
			tg.Signal(unix.SIGKILL)
			if end, err := at.Held.Wait(t.Context()); err != nil || end != Ended {
				t.Fatalf("%q, %v", end, err)
			}
			d, err := at.Held.Dump(DumpOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if live := d.Snapshot.Total()[heap.InuseBytes]; live < 100*1000 {
				t.Errorf("%d bytes are live", live)
			}
		})
	}
}

// attachHolding attaches as a privileged heaptap does, or as one without privileges.
func attachHolding(t *testing.T, pid int, named bool) (*Attachment, error) {
	t.Helper()
	return Attach(t.Context(), pid, AttachOptions{Hold: true, named: named})
}

// TestRunFollow: the last snapshot has the forked children as well, and those that run a Python of their own, each as it
// was at its end.
func TestRunFollow(t *testing.T) {
	t.Parallel()
	in := debian(t)
	const program = `
import os, subprocess, sys
go = sys.argv[1]
wait = "open(" + repr(go) + ").read()"
for n in (1, 2):
    if not os.fork():
        keep = bytes(n * 10000000)
        exec(wait)
        os.kill(os.getpid(), 9)
    os.wait()
subprocess.run([sys.executable, '-c', wait + "; import os; keep = bytes(40000000); os.kill(os.getpid(), 9)"])
keep = bytes(80000000)
os.kill(os.getpid(), 9)
`
	// Each child waits until somebody opens the other end: until it is tracked, and known to be.
	door := filepath.Join(t.TempDir(), "door")
	if err := unix.Mkfifo(door, 0o600); err != nil {
		t.Fatal(err)
	}
	c := launch.Command{Path: in.Path, Args: []string{in.Path, "-c", program, door}, Env: os.Environ(), Caller: launch.ThisCaller()}
	open := func(FollowEvent) {
		f, err := os.OpenFile(door, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		f.Close()
	}
	command, err := Start(t.Context(), RunOptions{Attach: AttachOptions{Follow: true}, Command: c, seen: open})
	if err != nil {
		t.Fatal(err)
	}
	var end *RunEnd
	for e := range command.Events() {
		if e.Note != "" {
			t.Log(e.Note)
		}
		end = e.Ended
	}
	if end == nil || end.Signal != unix.SIGKILL || end.Held == nil {
		t.Fatalf("%+v", end)
	}
	defer end.Held.Close()
	d, err := end.Dump(DumpOptions{})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]int64{}
	for _, r := range d.Snapshot.Records {
		have[d.Snapshot.Strings[r.Process]] += r.InuseBytes
	}
	var sizes []int64
	for _, bytes := range have {
		sizes = append(sizes, bytes/10000000)
	}
	slices.Sort(sizes)
	want := []int64{1, 2, 4, 8}
	if !mayOpenMappings() {
		want = []int64{4, 8} // forked children cannot be held
	}
	if !slices.Equal(sizes, want) {
		t.Errorf("processes %v, want sizes of %v times 10 MB", have, want)
	}
}

// TestHoldKilled kills an attach that has the process make the tables' file, while the process has its descriptor. That is
// given back with the rest.
func TestHoldKilled(t *testing.T) {
	t.Parallel()
	for _, give := range []func(context.Context, int) (*Detachment, error){Detach, Repair} {
		tg := situation(t, "busy").Start(t, debian(t))
		before := tg.Observe(nil)
		tg.Exec("None")
		for _, p := range []point{{"attach/named", 1}, {"attach/mapped", 1}, {"attach/mapped", 4}} {
			if out, err := victimCommand(t, "hold", tg.Pid(), p.rule("kill")).CombinedOutput(); !wasKilled(err) {
				t.Fatalf("killed at %v: %v: %s", p, err, out)
			}
			tg.Challenge()
			mustBe(t, tg.Pid(), Incomplete)
			if d, err := give(t.Context(), tg.Pid()); err != nil || !d.Unmapped {
				t.Fatalf("give back after a kill at %v: %+v, %v", p, d, err)
			}
			tg.Unchanged(before, pytarget.Busy, nil)
		}
	}
}

// TestRunAtEnd: an interpreter that ends by itself is looked at before it frees its objects, with their types; its exit
// functions have run by then. Afterwards it ends as it would have.
func TestRunAtEnd(t *testing.T) {
	t.Parallel()
	const program = `
import atexit, os, sys
class Kept(object):
    def __init__(self):
        self.value = [None] * 10
keep = [Kept() for _ in range(1234)]
atexit.register(lambda: keep.extend(bytearray(1 << 20) for _ in range(3)))
class Last(object):
    def __del__(self, write=os.write, fd=int(sys.argv[1])):
        write(fd, b'freed')
last = Last()
raise SystemExit(17)
`
	for _, in := range runnable(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			reader, writer := unnamedPipe(t)
			r := mustRun(t, AttachOptions{}, nil, within(in, "-c", program, strconv.Itoa(int(writer.Fd())))...)
			if r.Code != 17 || r.Signal != 0 || r.Held == nil {
				t.Fatalf("%+v, notes %q", r.RunEnd, r.notes)
			}
			text := make([]byte, 32)
			if n, err := reader.Read(text); err != nil || string(text[:n]) != "freed" {
				t.Errorf("at its end it said %q, %v", text, err)
			}
			d, err := r.Dump(DumpOptions{})
			if err != nil {
				t.Fatal(err)
			}
			blocks, bytes := map[string]int64{}, map[string]int64{}
			for _, rec := range d.Snapshot.Records {
				blocks[d.Snapshot.Strings[rec.Type]] += rec.InuseBlocks
				bytes[d.Snapshot.Strings[rec.Type]] += rec.InuseBytes
			}
			kept := blocks["Kept"] + blocks["__main__.Kept"]
			if kept != 1234 || bytes["bytearray (buffer)"]+bytes["bytearray"]+bytes["bytes"] < 3<<20 {
				t.Errorf("%d of its class, of all types: %v; notes %q, %q", kept, bytes, r.notes, d.Notes)
			}
		})
	}
}
