package profiler

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/internal/pytarget"
)

// asking is a program with a folder for files, that can send itself a signal: to one thread, so that the handler has
// returned when kill has.
const asking = `
import os, signal, tempfile, threading
folder = tempfile.mkdtemp()
def ask(number=signal.SIGUSR2):
    signal.pthread_kill(threading.get_ident(), number)
def keep_these(n):
    return [bytearray(100 + i % 50) for i in range(n)]
calls = []
def handler(number, frame):
    calls.append(number)
def files():
    return sorted(os.listdir(folder))
first = threading.Thread(target=files) # glibc handles a signal of its own from then on
first.start()
first.join()
`

// folderOf is the target's folder as it names it, and as we do.
func folderOf(t *testing.T, tg *pytarget.Target) (theirs, ours string) {
	t.Helper()
	theirs = strings.Trim(tg.Exec("folder"), `'"`)
	return theirs, fmt.Sprintf("/proc/%d/root%s", tg.Pid(), theirs)
}

// attachOnSignal attaches so that USR2 has a file written into the target's folder, which it returns.
func attachOnSignal(t *testing.T, tg *pytarget.Target) (folder string) {
	t.Helper()
	theirs, ours := folderOf(t, tg)
	o := AttachOptions{OnSignal: OnSignal{Signal: unix.SIGUSR2, Pattern: theirs + "/%p-%n.tables"}}
	if a, err := Attach(t.Context(), tg.Pid(), o); err != nil || a.Already {
		t.Fatalf("attach: %+v, %v", a, err)
	}
	return ours
}

// readTables reads a file that was written upon a signal.
func readTables(t *testing.T, path string) *Dump {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := ReadTables(f)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return d
}

// filesIn are those of a folder, by their names.
func filesIn(t *testing.T, folder string) []string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, filepath.Join(folder, e.Name()))
	}
	return names
}

// liveIn sums what stacks with a function hold.
func liveIn(s *heap.Snapshot, function string) (blocks, bytes int64) {
	for _, r := range s.Records {
		if slices.ContainsFunc(s.Callers(r.Stack), func(f heap.Frame) bool { return strings.HasSuffix(f.Func, function) }) {
			blocks, bytes = blocks+r.InuseBlocks, bytes+r.InuseBytes
		}
	}
	return blocks, bytes
}

// onSignalOf is what status says.
func onSignalOf(t *testing.T, tg *pytarget.Target) *OutletStatus {
	t.Helper()
	s := mustBe(t, tg.Pid(), Tracking)
	if s.OnSignal == nil {
		t.Fatal("status says nothing of a signal")
	}
	return s.OnSignal
}

// TestOnSignal: the file that a process writes upon a signal says what a dump says, also with threads that allocate all
// the time, a hundred times in a row, and nothing is left of it after the detach.
func TestOnSignal(t *testing.T) {
	t.Parallel()
	for _, in := range chosen(t) {
		if !slices.Contains([]int{6, 11, 14}, in.Minor()) {
			continue
		}
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, asking, pytarget.Options{})
			words := hookedWords(t, tg.Pid())
			before := tg.Observe(words)
			folder := attachOnSignal(t, tg)
			tg.Exec("kept = keep_these(3000)")
			tg.Exec("ask()")
			d, want := readTables(t, onlyOne(t, filesIn(t, folder))), mustDump(t, tg.Pid())
			blocks, bytes := liveIn(d.Snapshot, "keep_these")
			wantBlocks, wantBytes := liveIn(want.Snapshot, "keep_these")
			if blocks != wantBlocks || bytes != wantBytes || blocks < 3000 {
				t.Errorf("%d blocks of %d bytes, a dump says %d of %d", blocks, bytes, wantBlocks, wantBytes)
			}
			info := map[string]string{}
			for _, kv := range d.Snapshot.Info {
				info[kv.Key] = kv.Value
			}
			if info["written"] != "by the process itself, upon signal USR2" || info["command"] == "" || info["rss"] == "" ||
				!strings.HasPrefix(info["python"], in.Version) {
				t.Errorf("it says %v", info)
			}
			if age := want.Snapshot.Time.Sub(d.Snapshot.Time); age < 0 || age > patienceOfTest {
				t.Errorf("written at %v, the dump after it was at %v", d.Snapshot.Time, want.Snapshot.Time)
			}
			tg.Exec(`
going = True
def busy():
    while going:
        some = [(i, str(i)) for i in range(50)]
threads = [threading.Thread(target=busy) for _ in range(4)]
for thread in threads: thread.start()
for i in range(100):
    keep = keep_these(20)
    ask()
`)
			s := onSignalOf(t, tg)
			names := filesIn(t, folder)
			if s.Place != InPlace || s.Written != 101 || s.Failed != 0 || s.Passed != 0 || s.Error != nil || len(names) != 101 ||
				s.Last != strings.Replace(folder, fmt.Sprintf("/proc/%d/root", tg.Pid()), "", 1)+fmt.Sprintf("/%d-100.tables", innermost(t, tg)) {
				t.Errorf("%d files, %+v", len(names), s)
			}
			for _, name := range names {
				d := readTables(t, name)
				if blocks, bytes := liveIn(d.Snapshot, "keep_these"); blocks < wantBlocks || bytes < wantBytes {
					t.Fatalf("%s: %d blocks of %d bytes, not %d of %d", name, blocks, bytes, wantBlocks, wantBytes)
				}
			}
			tg.Exec("going = False\nfor thread in threads: thread.join()\ndel threads, thread, keep, kept")
			tg.Exec("for name in files(): os.remove(os.path.join(folder, name))")
			mustDetach(t, tg.Pid())
			tg.Unchanged(before, pytarget.Busy, words)
			tg.Challenge()
		})
	}
}

// patienceOfTest is longer than anything here takes.
const patienceOfTest = 5 * 60 * 1e9

func onlyOne(t *testing.T, names []string) string {
	t.Helper()
	if len(names) != 1 {
		t.Fatalf("%d files, not one: %v", len(names), names)
	}
	return names[0]
}

// innermost is the target's pid as it sees it.
func innermost(t *testing.T, tg *pytarget.Target) int {
	t.Helper()
	p, err := open(tg.Pid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	pid, err := p.innermostPid()
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestOnSignalChains: a handler that was there is called as if we were not; one that comes later wins, and is left alone.
func TestOnSignalChains(t *testing.T) {
	t.Parallel()
	tg := pytarget.Start(t, debian(t), asking+"signal.signal(signal.SIGUSR2, handler)\n", pytarget.Options{})
	words := hookedWords(t, tg.Pid())
	before := tg.Observe(words)
	folder := attachOnSignal(t, tg)
	if got := tg.Exec("ask(); ask(); len(calls)"); got != "2" || len(filesIn(t, folder)) != 2 {
		t.Errorf("%s calls, %v", got, filesIn(t, folder))
	}
	if s := onSignalOf(t, tg); s.Place != InPlace || s.Written != 2 {
		t.Errorf("%+v", s)
	}
	mustDetach(t, tg.Pid())
	if got := tg.Exec("ask(); len(calls)"); got != "3" || len(filesIn(t, folder)) != 2 {
		t.Errorf("after the detach: %s calls, %v", got, filesIn(t, folder))
	}
	tg.Unchanged(before, pytarget.Busy, words)

	attachOnSignal(t, tg)
	if got := tg.Exec("signal.signal(signal.SIGUSR2, handler); ask(); len(calls)"); got != "4" || len(filesIn(t, folder)) != 2 {
		t.Errorf("with a handler since: %s calls, %v", got, filesIn(t, folder))
	}
	if s := onSignalOf(t, tg); s.Place != Foreign {
		t.Errorf("%+v", s)
	}
	d, err := Detach(t.Context(), tg.Pid())
	if err != nil || !d.Unmapped || len(d.Foreign) != 0 { // what is there now is what was there before
		t.Errorf("detach: %+v, %v", d, err)
	}
	if got := tg.Exec("ask(); len(calls)"); got != "5" {
		t.Errorf("after the detach: %s calls", got)
	}
	tg.Exec("signal.signal(signal.SIGUSR2, signal.SIG_IGN)")
	a, err := Attach(t.Context(), tg.Pid(), AttachOptions{OnSignal: OnSignal{Signal: unix.SIGUSR2}})
	if err != nil || !slices.ContainsFunc(a.Notes, func(n string) bool { return strings.Contains(n, "was ignored") }) {
		t.Errorf("attach: %+v, %v", a, err)
	}
	tg.Exec("signal.signal(signal.SIGUSR2, signal.SIG_DFL)")
	if s := onSignalOf(t, tg); s.Place != Foreign {
		t.Errorf("%+v", s)
	}
	d, err = Detach(t.Context(), tg.Pid())
	if err != nil || !d.Unmapped || len(d.Foreign) != 1 || !strings.Contains(d.Foreign[0], "USR2") {
		t.Errorf("detach: %+v, %v", d, err)
	}
	tg.Challenge()
}

// TestOnSignalKept: what keeps our handler to call it later keeps the agent in its place, as a pass-through.
func TestOnSignalKept(t *testing.T) {
	t.Parallel()
	tg := pytarget.Start(t, debian(t), asking+"import faulthandler\nlog = open(os.path.join(folder, 'log'), 'w')\n", pytarget.Options{})
	folder := attachOnSignal(t, tg)
	tg.Exec("faulthandler.register(signal.SIGUSR2, file=log, chain=True)")
	tg.Exec("ask()")
	if names := filesIn(t, folder); len(names) != 2 {
		t.Errorf("a handler that chains gave %v", names)
	}
	d, err := Detach(t.Context(), tg.Pid())
	if err != nil || d.Unmapped || d.Why == "" {
		t.Errorf("detach: %+v, %v", d, err)
	}
	tg.Exec("ask()")
	if names := filesIn(t, folder); len(names) != 2 {
		t.Errorf("a pass-through wrote %v", names)
	}
	tg.Exec("faulthandler.unregister(signal.SIGUSR2)")
	if d, err := Detach(t.Context(), tg.Pid()); err != nil {
		t.Errorf("detach again: %+v, %v", d, err)
	}
	tg.Challenge()
}

// TestOnSignalBlocked: a call that a signal meets goes on, or is interrupted, as it would be without us.
func TestOnSignalBlocked(t *testing.T) {
	t.Parallel()
	const reading = asking + `
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def read_meanwhile(times):
    r, w = os.pipe()
    result = []
    def read():
        buffer = ctypes.create_string_buffer(8)
        ctypes.set_errno(0)
        n = libc.read(r, buffer, 8)
        result.append((n, ctypes.get_errno()))
    thread = threading.Thread(target=read)
    thread.start()
    state = "/proc/self/task/%d/syscall" % thread.native_id
    for _ in range(times):
        while thread.is_alive() and not open(state).read().startswith("0 "): pass
        if thread.is_alive(): signal.pthread_kill(thread.ident, signal.SIGUSR2)
    while thread.is_alive() and not result and len(files()) < times and not calls: pass
    os.write(w, b"12345678")
    thread.join()
    os.close(r); os.close(w)
    return result[0]
`
	t.Run("goes on", func(t *testing.T) {
		t.Parallel()
		tg := pytarget.Start(t, debian(t), reading, pytarget.Options{})
		folder := attachOnSignal(t, tg)
		if got := tg.Exec("read_meanwhile(5)"); got != "(8, 0)" || len(filesIn(t, folder)) == 0 {
			t.Errorf("read gave %s, %v", got, filesIn(t, folder))
		}
		mustDetach(t, tg.Pid())
		tg.Challenge()
	})
	t.Run("interrupted", func(t *testing.T) {
		t.Parallel()
		tg := pytarget.Start(t, debian(t), reading+"signal.signal(signal.SIGUSR2, handler)\n", pytarget.Options{})
		without := tg.Exec("read_meanwhile(1)")
		folder := attachOnSignal(t, tg)
		if got := tg.Exec("calls.clear(); read_meanwhile(1)"); got != without || got != "(-1, 4)" || len(filesIn(t, folder)) != 1 {
			t.Errorf("read gave %s, and %s without us; %v", got, without, filesIn(t, folder))
		}
		mustDetach(t, tg.Pid())
		tg.Challenge()
	})
}

// TestOnSignalCannot: where no file can be written none is left, the target goes on, and status says why.
func TestOnSignalCannot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before, after string
		options       pytarget.Options
		want          error
	}{
		"folder removed":        {after: "os.rmdir(folder)", want: unix.ENOENT},
		"descriptors used up":   {after: "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (3, 4096))", want: unix.EMFILE},
		"size of files limited": {after: "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (20000, -1))", want: unix.EFBIG},
		"open forbidden":        {after: strings.ReplaceAll(forbids(unix.SYS_OPENAT), "0x80000000", "0x00050001"), want: unix.EPERM},
		"full disk": {before: "import ctypes\nassert ctypes.CDLL(None).mount(b'tmpfs', folder.encode(), b'tmpfs', 0, b'size=64k') == 0",
			options: pytarget.Options{Container: true, UserNamespace: true}, want: unix.ENOSPC},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, debian(t), asking+c.before, c.options)
			folder := attachOnSignal(t, tg)
			tg.Exec("kept = keep_these(3000)")
			tg.Exec(c.after + "\nask()")
			s := onSignalOf(t, tg)
			if !errors.Is(s.Error, c.want) || s.Failed != 1 || s.Written != 0 || s.Last != "" || s.Place != InPlace {
				t.Errorf("%+v, want %v", s, c.want)
			}
			if entries, err := os.ReadDir(folder); len(entries) != 0 {
				t.Errorf("left: %v, %v", entries, err)
			}
			tg.Challenge()
			mustDetach(t, tg.Pid())
			tg.Challenge()
		})
	}
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		tg := pytarget.Start(t, debian(t), asking+forbids(unix.SYS_OPENAT), pytarget.Options{})
		words := hookedWords(t, tg.Pid())
		before := tg.Observe(words)
		var forbidden *SeccompError
		_, err := Attach(t.Context(), tg.Pid(), AttachOptions{OnSignal: OnSignal{Signal: unix.SIGUSR2}})
		if !errors.As(err, &forbidden) || forbidden.Call != "openat" {
			t.Errorf("attach: %v", err)
		}
		tg.Unchanged(before, pytarget.Busy, words)
		mustAttach(t, tg.Pid())
		mustDetach(t, tg.Pid())
	})
	t.Run("no folder", func(t *testing.T) {
		t.Parallel()
		tg := pytarget.Start(t, debian(t), asking, pytarget.Options{})
		_, err := Attach(t.Context(), tg.Pid(), AttachOptions{OnSignal: OnSignal{Signal: unix.SIGUSR2, Pattern: "/no/such/%p"}})
		if !errors.Is(err, unix.ENOENT) {
			t.Errorf("attach: %v", err)
		}
		mustBeUntracked(t, tg.Pid())
	})
}

// TestOnSignalForked: a child that is not followed writes nothing, is not killed, and its handlers are called.
func TestOnSignalForked(t *testing.T) {
	t.Parallel()
	tg := pytarget.Start(t, debian(t), asking, pytarget.Options{})
	folder := attachOnSignal(t, tg)
	got := tg.Exec(`
child = os.fork()
if child == 0:
    ask()
    signal.signal(signal.SIGUSR2, handler)
    ask()
    os._exit(40 + len(calls))
os.waitpid(child, 0)[1] >> 8
`)
	if got != "41" || len(filesIn(t, folder)) != 0 {
		t.Errorf("the child ended with %s; %v", got, filesIn(t, folder))
	}
	tg.Exec("ask()")
	readTables(t, onlyOne(t, filesIn(t, folder)))
	mustDetach(t, tg.Pid())
	tg.Challenge()
}

// TestKillOnSignal kills heaptap at each fault point of an attach that asks for files upon a signal, and of the detach
// after it. The signal is then as it was, or is handled; the target computes on; a fresh heaptap gives everything back.
func TestKillOnSignal(t *testing.T) {
	t.Parallel()
	tg := pytarget.Start(t, debian(t), asking+"signal.signal(signal.SIGUSR2, handler)\n", pytarget.Options{})
	theirs, folder := folderOf(t, tg)
	words := hookedWords(t, tg.Pid())
	k := &killing{tg: tg, activity: pytarget.Busy, words: words, before: tg.Observe(words)}
	env := onSignalEnv + "=" + theirs + "/%n"
	calls := 0
	for _, verb := range []string{"attach", "detach"} {
		prepare := func() {
			if verb == "detach" {
				attachOnSignal(t, tg)
			}
		}
		prepare()
		points := pointsOf(t, tg, verb, env)
		if verb == "attach" {
			mustDetach(t, tg.Pid())
		}
		hit := func(name string) bool {
			return slices.ContainsFunc(points, func(p point) bool { return p.name == name })
		}
		if verb == "attach" && (!hit("attach/signal-read") || !hit("attach/signal-set")) || verb == "detach" && !hit("detach/signal") {
			t.Fatalf("%s goes by %v", verb, points)
		}
		for _, p := range thin(points) {
			prepare()
			if out, err := victimCommand(t, verb, tg.Pid(), env, p.rule("kill")).CombinedOutput(); err != nil && !wasKilled(err) {
				t.Fatalf("%s: %v: %s", verb, err, out)
			}
			calls++
			if got := tg.Exec("ask(); len(calls)"); got != fmt.Sprint(calls) {
				t.Fatalf("killed at %v: the handler was called %s times, not %d", p, got, calls)
			}
			tg.Challenge()
			k.recover(t)
			tg.Exec("for name in files(): os.remove(os.path.join(folder, name))")
			tg.Unchanged(k.before, pytarget.Busy, words)
			if t.Failed() {
				t.Fatalf("killed at %v", p)
			}
		}
	}
	if n := len(filesIn(t, folder)); n != 0 {
		t.Errorf("%d files", n)
	}
}

// TestOnSignalOptions: what cannot be done is said before anything is.
func TestOnSignalOptions(t *testing.T) {
	for _, o := range []OnSignal{
		{Signal: unix.SIGKILL}, {Signal: unix.SIGSEGV}, {Signal: unix.SIGTERM}, {Signal: unix.SIGCHLD}, {Signal: 33}, {Signal: 65},
		{Signal: -1}, {Pattern: "/tmp/x"}, {Signal: unix.SIGUSR1, Pattern: "relative"}, {Signal: unix.SIGUSR1, Pattern: "/a\x00b"},
		{Signal: unix.SIGUSR1, Pattern: "/" + strings.Repeat("x", 2000)}, {Signal: unix.SIGUSR1, Pattern: "/tmp/%p/x"},
	} {
		if got, err := o.Resolve(); err == nil {
			t.Errorf("%+v: %+v", o, got)
		}
	}
	for pattern, want := range map[string]string{
		"": DefaultPattern, "/tmp/x.tables": "/tmp/x-%n.tables", "/tmp/%%n": "/tmp/%%n-%n", "/tmp/%n": "/tmp/%n",
	} {
		if got, err := (OnSignal{Signal: syscall.Signal(40), Pattern: pattern}).Resolve(); got.Pattern != want || err != nil {
			t.Errorf("%q: %q, %v", pattern, got.Pattern, err)
		}
	}
}
