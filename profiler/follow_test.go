package profiler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/internal/pytarget"
)

// eras are interpreters of three different times.
func eras(t *testing.T) []pytarget.Interpreter {
	t.Helper()
	list := slices.DeleteFunc(chosen(t), func(in pytarget.Interpreter) bool {
		return !slices.Contains([]int{8, 11, 14}, in.Minor())
	})
	if len(list) == 0 {
		return chosen(t)[:1]
	}
	return list
}

// mustFollow attaches so that forked children are followed.
func mustFollow(t testing.TB, pid int) {
	t.Helper()
	if a, err := Attach(t.Context(), pid, AttachOptions{Follow: true}); err != nil || a.Already || len(a.Notes) != 0 {
		t.Fatalf("attach: %+v, %v", a, err)
	}
}

// TestForkFollowed: a forked child has tables of its own from its first allocation on, with its own blocks and no
// others, and so has its own child. What is done to one of them is nothing to the others.
func TestForkFollowed(t *testing.T) {
	t.Parallel()
	for _, in := range chosen(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, family, pytarget.Options{})
			words := hookedWords(t, tg.Pid())
			before := tg.Observe(words)
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
			if s := mustBe(t, child, Tracking); s.Parent != tg.Pid() || !s.Follows || s.Lost != 0 || sumOf(s).AllocBlocks == 0 {
				t.Errorf("the child's status: %+v", s)
			}
			if s := mustBe(t, tg.Pid(), Tracking); s.Followed != 1 || s.NotFollowed != 0 || s.Parent != 0 {
				t.Errorf("the parent's status: %+v", s)
			}
			d, err := TakeTreeDump(t.Context(), tg.Pid(), DumpOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if by := byProcess(d.Snapshot); len(by) != 2 || len(d.Members) != 2 || len(d.Untracked) != 0 {
				t.Errorf("processes %v of %+v", by, d.Members)
			}
			// The parent is rid of the agent; the child is tracked on.
			mustDetach(t, tg.Pid())
			mustBe(t, child, Tracking)
			if got := tg.Exec("ask(1000)"); got != "True" {
				t.Errorf("the child computes wrong after its parent's detach")
			}
			if d := mustDump(t, child); d.Blocks == 0 {
				t.Error("the child has no live blocks")
			}
			mustFollow(t, tg.Pid())
			mustDetach(t, child)
			mustBeUntracked(t, child)
			mustFollow(t, child)
			if got := tg.Exec("ask(1000)"); got != "True" {
				t.Errorf("the child computes wrong")
			}
			list, err := DetachTree(t.Context(), tg.Pid())
			if err != nil || len(list) != 2 || list[0].Pid != tg.Pid() || list[1].Pid != child {
				t.Fatalf("detach: %+v, %v", list, err)
			}
			for _, m := range list {
				if m.Err != nil || !m.Result.Unmapped || m.Result.Restored != 12 {
					t.Errorf("detach of %d: %+v, %v", m.Pid, m.Result, m.Err)
				}
				mustBeUntracked(t, m.Pid)
			}
			if diff := mappedBy(t, tg.Pid(), child); diff != "" {
				t.Errorf("the child has other memory than its parent: %s", diff)
			}
			if code := tg.Exec("end()"); code != "7" {
				t.Errorf("the child's exit code is %s, want 7", code)
			}
			// One that never comes to allocate anything before its parent's detach is left with hooks that do nothing.
			mustFollow(t, tg.Pid())
			tg.Exec("fork()")
			mustDetach(t, tg.Pid())
			if got := tg.Exec("ask(100), end()"); got != "(True, 7)" {
				t.Errorf("the child answers %s", got)
			}
			tg.Unchanged(before, pytarget.Busy, words)
			tg.Challenge()
		})
	}
}

func sumOf(s *Status) (sum Totals) {
	for _, d := range s.Totals {
		sum.AllocBlocks += d.AllocBlocks
		sum.LiveBlocks += d.LiveBlocks
		sum.LiveBytes += d.LiveBytes
	}
	return sum
}

// byProcess is the live bytes of each process in a snapshot.
func byProcess(s *heap.Snapshot) map[string]int64 {
	sum := map[string]int64{}
	for _, r := range s.Records {
		sum[s.Strings[r.Process]] += r.InuseBytes
	}
	return sum
}

// mappedBy compares what two processes have mapped but for private memory without a name.
func mappedBy(t *testing.T, a, b int) string {
	t.Helper()
	var of [2][]string
	for i, pid := range []int{a, b} {
		o, err := pytarget.Observe(pid, nil)
		if err != nil {
			t.Fatal(err)
		}
		of[i] = o.Mapped
	}
	if !slices.Equal(of[0], of[1]) {
		return fmt.Sprintf("%s\nand\n%s", strings.Join(of[0], "\n"), strings.Join(of[1], "\n"))
	}
	return ""
}

// TestThousandForks: a thousand forked children allocate and free; what our tables say of each is what the child itself
// counted, to the block and byte. Parents are forked themselves, some children have threads, and some run while another
// thread of their parent allocates.
func TestThousandForks(t *testing.T) {
	t.Parallel()
	const program = `
import os, random, sys, threading

SMALLEST, LARGEST = 5000, 9000 # bytes of a block that nothing else has here

def work(seed):
    r = random.Random(seed)
    kept, count, total = {}, 0, 0
    for i in range(r.randrange(20, 300)):
        b = bytes(r.randrange(SMALLEST, LARGEST))
        count += 1
        total += sys.getsizeof(b)
        if r.random() < 0.6:
            kept[i] = b
        elif kept and r.random() < 0.5:
            kept.popitem()
        del b
    return kept, count, total

def child(seed, out, wait):
    mine = [work(seed)]
    if seed % 5 == 0:
        t = threading.Thread(target=lambda: mine.append(work(-seed)))
        t.start()
        t.join()
    live = [len(m[0]) for m in mine], [sum(sys.getsizeof(b) for b in m[0].values()) for m in mine]
    told = "%d %d %d %d %d;" % (os.getpid(), sum(live[0]), sum(live[1]), sum(m[1] for m in mine), sum(m[2] for m in mine))
    os.write(out, told.encode())
    os.read(wait, 1)
    os._exit(0)

def forks(first, n):
    global release, children
    told, out = os.pipe()
    wait, release = os.pipe()
    children = []
    for seed in range(first, first + n):
        pid = os.fork()
        if pid == 0:
            os.close(release)
            child(seed, out, wait)
        children.append(pid)
    os.close(out)
    os.close(wait)
    text = b""
    while text.count(b";") < n:
        text += os.read(told, 1 << 16)
    os.close(told)
    return text.decode()

def done():
    os.close(release)
    return [os.waitpid(pid, 0)[1] for pid in children]

stop = False
def churn():
    kept = []
    while not stop:
        kept.append(bytes(random.randrange(SMALLEST, LARGEST)))
        del kept[:-50]
`
	const atOnce = 50
	for i, in := range eras(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, program, pytarget.Options{})
			mustFollow(t, tg.Pid())
			if i == 0 {
				tg.Exec("t = threading.Thread(target=churn); t.start()")
			}
			rounds := times(t, 1000/atOnce/len(eras(t))+1)
			if testing.Short() {
				rounds = 2
			}
			for round := range rounds {
				text := strings.Trim(tg.Exec(fmt.Sprintf("forks(%d, %d)", 1+round*atOnce, atOnce)), "';")
				for line := range strings.SplitSeq(text, ";") {
					var pid int
					var want counted
					if _, err := fmt.Sscan(line, &pid, &want.live, &want.liveBytes, &want.alloc, &want.allocBytes); err != nil {
						t.Fatalf("%q: %v", line, err)
					}
					if got := countBlocks(t, pid, 5000, 10000); got != want {
						t.Errorf("child %d of round %d: %+v, itself says %+v", pid, round, got, want)
					}
				}
				if got := tg.Exec("set(done())"); got != "{0}" {
					t.Fatalf("the children ended with %s", got)
				}
			}
			if s := mustBe(t, tg.Pid(), Tracking); s.Followed != uint64(rounds*atOnce) || s.NotFollowed != 0 {
				t.Errorf("%d of %d children followed, %d not", s.Followed, rounds*atOnce, s.NotFollowed)
			}
			if i == 0 {
				tg.Exec("stop = True; t.join()")
			}
			mustDetach(t, tg.Pid())
			tg.Challenge()
		})
	}
}

// counted is what is known of the blocks of some size.
type counted struct{ live, liveBytes, alloc, allocBytes uint64 }

// countBlocks counts a process's blocks of a size within [least, most) by the agent's tables; what was ever allocated,
// by the stacks that have such blocks or had them.
func countBlocks(t *testing.T, pid int, least, most uint64) counted {
	t.Helper()
	tg, err := open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer tg.close()
	a, err := tg.tracking()
	if err != nil {
		t.Fatal(err)
	}
	var c agent.Capture
	limit, err := tg.tablesLimit(a)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Copy(tg.mem, a.tablesAt(), limit); err != nil {
		t.Fatal(err)
	}
	var sum counted
	var all, ever, freed uint64
	for b, err := range c.Blocks() {
		if err != nil {
			t.Fatal(err)
		}
		all++
		if b.Size >= least && b.Size < most {
			sum.live++
			sum.liveBytes += b.Size
		}
	}
	for _, s := range c.Stats() {
		ever += s.AllocBlocks
		gone, _ := c.Freed(&s)
		freed += gone
		if s.AllocBlocks > 0 && s.AllocBytes/s.AllocBlocks >= least && s.AllocBytes/s.AllocBlocks < most {
			sum.alloc += s.AllocBlocks
			sum.allocBytes += s.AllocBytes
		}
	}
	if all != ever-freed {
		t.Errorf("process %d: %d blocks live, %d allocated and %d freed", pid, all, ever, freed)
	}
	return sum
}

// following runs [Follow] beside a test.
type following struct {
	t      *testing.T
	events chan FollowEvent
	seen   map[int]FollowEvent // by pid: the last one
	ended  chan error
	stop   context.CancelFunc
}

func follow(t *testing.T, pid int) *following {
	ctx, stop := context.WithCancel(t.Context())
	f := &following{t: t, events: make(chan FollowEvent), ended: make(chan error, 1), stop: stop, seen: map[int]FollowEvent{}}
	go func() {
		f.ended <- Follow(ctx, pid, FollowOptions{Attach: AttachOptions{Follow: true}, Tell: func(e FollowEvent) error {
			select {
			case f.events <- e:
			case <-ctx.Done():
			}
			return nil
		}})
	}()
	t.Cleanup(stop)
	return f
}

// until waits for events until as many processes are tracked.
func (f *following) until(n int) { f.untilAre(n, FollowForked, FollowAttached) }

// untilAre waits for events until of as many processes the last one is of such a kind.
func (f *following) untilAre(n int, kinds ...FollowKind) {
	f.t.Helper()
	tracked := func() (n int) {
		for _, e := range f.seen {
			if slices.Contains(kinds, e.Kind) {
				n++
			}
		}
		return n
	}
	limit := time.NewTimer(time.Minute) // far longer than it takes
	defer limit.Stop()
	for {
		if tracked() == n {
			return
		}
		select {
		case e := <-f.events:
			if e.Err != nil {
				f.t.Fatalf("%+v: %v", e, e.Err)
			}
			f.seen[e.Pid] = e
		case err := <-f.ended:
			f.t.Fatalf("following ended: %v", err)
		case <-limit.C:
			f.t.Fatalf("%d processes are tracked, not %d: %+v", tracked(), n, f.seen)
		}
	}
}

// TestMultiprocessing: the workers of a pool are tracked, however they are started, and one snapshot has them all.
func TestMultiprocessing(t *testing.T) {
	t.Parallel()
	const program = `
import multiprocessing, os, sys, types

code = """
import os
kept = []
def grow(n):
    kept.append(bytes(n))
    return os.getpid()
def serve(c):
    while True:
        n = c.recv()
        if n is None:
            return
        c.send(grow(n))
"""
here = os.path.join(os.environ.get("TMPDIR", "/tmp"), "heaptap_pool_%d" % os.getpid())

def start(method, n):
    global pool, context, pipes
    os.makedirs(here)
    with open(os.path.join(here, "heaptap_grow.py"), "w") as f:
        f.write(code)
    sys.path.insert(0, here)
    main = sys.modules["__main__"]
    main.__spec__ = None # a spawned worker has nothing to run of this program
    if hasattr(main, "__file__"):
        del main.__file__
    import heaptap_grow
    context = multiprocessing.get_context(method)
    pool = []
    for i in range(n):
        ours, theirs = context.Pipe()
        p = context.Process(target=heaptap_grow.serve, args=(theirs,))
        p.start()
        pool.append((p, ours))

def grow(n):
    for p, c in pool:
        c.send(n)
    return sorted(c.recv() for p, c in pool) == sorted(p.pid for p, c in pool)

def end():
    import shutil
    for p, c in pool:
        c.send(None)
        p.join()
    shutil.rmtree(here)
    return set(p.exitcode for p, c in pool)
`
	for _, in := range eras(t) {
		for _, method := range []string{"fork", "spawn", "forkserver"} {
			t.Run(in.Name+"/"+method, func(t *testing.T) {
				t.Parallel()
				tg := pytarget.Start(t, in, program, pytarget.Options{})
				words := hookedWords(t, tg.Pid())
				mustFollow(t, tg.Pid())
				f := follow(t, tg.Pid())
				f.until(1)
				const workers = 3
				tg.Exec(fmt.Sprintf("start(%q, %d)", method, workers))
				// The forkserver, and what tracks its resources, are Pythons too.
				want := map[string]int{"fork": 1 + workers, "spawn": 2 + workers, "forkserver": 3 + workers}[method]
				f.until(want)
				if got := tg.Exec("grow(1234567)"); got != "True" {
					t.Fatalf("workers: %s", got)
				}
				d, err := TakeTreeDump(t.Context(), tg.Pid(), DumpOptions{})
				if err != nil {
					t.Fatal(err)
				}
				grown := 0
				for process, bytes := range growth(d.Snapshot) {
					if grown++; bytes < 1234567 || bytes > 1234567+64 {
						t.Errorf("process %q has grown by %d", process, bytes)
					}
				}
				if grown != workers || len(d.Members) != want {
					t.Errorf("%d processes have grown, of %d: %v", grown, len(d.Members), slices.Collect(maps.Keys(byProcess(d.Snapshot))))
				}
				f.stop()
				if err := <-f.ended; !errors.Is(err, context.Canceled) {
					t.Errorf("following ended: %v", err)
				}
				list, err := DetachTree(t.Context(), tg.Pid())
				if err != nil || len(list) != want {
					t.Errorf("detach: %+v, %v", list, err)
				}
				if got := tg.Exec("grow(10)"); got != "True" {
					t.Fatalf("workers: %s", got)
				}
				if got := tg.Exec("end()"); got != "{0}" {
					t.Errorf("the workers ended with %s", got)
				}
				if _, err := words(); err != nil {
					t.Error(err)
				}
				tg.Challenge()
			})
		}
	}
}

// growth is by process what was allocated in functions named grow.
func growth(s *heap.Snapshot) map[string]int64 {
	sum := map[string]int64{}
	for _, r := range s.Records {
		if r.Stack >= 0 && r.InuseBytes > 1<<20 && s.Frames[s.Stacks[r.Stack].Frame].Func == "grow" {
			sum[s.Strings[r.Process]] += r.InuseBytes
		}
	}
	return sum
}

// TestSampledForkFollowed: in a sampled process's forked children the estimate is without bias, too.
func TestSampledForkFollowed(t *testing.T) {
	t.Parallel()
	const program = `
import os
kept = []

def work():
    for i in range(10000):
        kept.append(bytes(3000))

def fork():
    global release, child
    told, out = os.pipe()
    wait, release = os.pipe()
    child = os.fork()
    if child == 0:
        work()
        os.write(out, b"x")
        os.read(wait, 1)
        os._exit(0)
    os.read(told, 1)
    return child

def end():
    os.write(release, b"x")
    return os.waitpid(child, 0)[1]
`
	const rate, children, want = 8 << 10, 4, 10000 * 3033
	for _, in := range eras(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, program, pytarget.Options{})
			if _, err := Attach(t.Context(), tg.Pid(), AttachOptions{SampleBytes: rate, Follow: true}); err != nil {
				t.Fatal(err)
			}
			sum := 0.0
			for range children {
				var child int
				if _, err := fmt.Sscan(tg.Exec("fork()"), &child); err != nil {
					t.Fatal(err)
				}
				d := mustDump(t, child)
				for _, r := range d.Snapshot.Records {
					if r.Stack >= 0 && d.Snapshot.Frames[d.Snapshot.Stacks[r.Stack].Frame].Func == "work" && r.MinSize >= 3000 && r.MaxSize < 3100 {
						sum += float64(r.InuseBytes)
					}
				}
				tg.Exec("end()")
			}
			// A block of 3033 bytes is sampled with probability p; the estimate of n blocks has a relative deviation of
			// sqrt((1-p)/p/n). Six of them are passed once in 500 million times.
			p := 1 - math.Exp(-3033.0/rate)
			limit := 6 * math.Sqrt((1-p)/p/(children*10000))
			if off := sum/(children*want) - 1; math.Abs(off) > limit {
				t.Errorf("the estimate is off by %.4f, which is more than %.4f", off, limit)
			}
			mustDetach(t, tg.Pid())
		})
	}
}

// TestFollowForbidden: where a seccomp filter forbids what following takes, forked children are not followed, and an
// attach says so.
func TestFollowForbidden(t *testing.T) {
	t.Parallel()
	const filter = `
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
mremap = 25
code = b"".join(struct.pack("HBBI", *i) for i in [
    (0x20, 0, 0, 0), (0x15, 0, 1, mremap), (0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7FFF0000)])
held = ctypes.create_string_buffer(code, len(code))
program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(held))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
`
	if runtime.GOARCH != "amd64" {
		t.Skip("the filter has x86-64's numbers")
	}
	tg := pytarget.Start(t, debian(t), family+filter, pytarget.Options{})
	a, err := Attach(t.Context(), tg.Pid(), AttachOptions{Follow: true})
	if err != nil || !strings.Contains(strings.Join(a.Notes, "\n"), "may not let mremap through") {
		t.Fatalf("attach: %+v, %v", a, err)
	}
	var child int
	if _, err := fmt.Sscan(tg.Exec("fork()"), &child); err != nil {
		t.Fatal(err)
	}
	if got := tg.Exec("ask(1000)"); got != "True" {
		t.Errorf("the child computes wrong")
	}
	mustBe(t, child, Forked)
	if s := mustBe(t, tg.Pid(), Tracking); s.Follows || s.Followed != 0 {
		t.Errorf("status: %+v", s)
	}
	mustDetach(t, child)
	mustDetach(t, tg.Pid())
	if got := tg.Exec("ask(1000), end()"); got != "(True, 7)" {
		t.Errorf("the child answers %s", got)
	}
}

// TestNativeForkFollowed: native allocations of a forked child are its own, too: mappings that it makes, and what a
// library allocates that it has loaded after the fork. What was mapped before belongs to the parent.
func TestNativeForkFollowed(t *testing.T) {
	t.Parallel()
	const program = `
import mmap, os
before = mmap.mmap(-1, 5 << 20)

def fork():
    global release, child
    told, out = os.pipe()
    wait, release = os.pipe()
    child = os.fork()
    if child == 0:
        before.close()
        mine = mmap.mmap(-1, 3 << 20)
        gone = mmap.mmap(-1, 2 << 20)
        gone.close()
        import sqlite3
        def fill():
            db = sqlite3.connect(":memory:")
            db.execute("create table t (x)")
            db.executemany("insert into t values (?)", [("x" * 1000,)] * 5000)
            return db
        db = fill()
        os.write(out, b"x")
        os.read(wait, 1)
        db.close()
        os._exit(0)
    os.read(told, 1)
    return child

def end():
    os.write(release, b"x")
    return os.waitpid(child, 0)[1]
`
	tg := pytarget.Start(t, debian(t), program, pytarget.Options{})
	mustFollow(t, tg.Pid())
	var child int
	if _, err := fmt.Sscan(tg.Exec("fork()"), &child); err != nil {
		t.Fatal(err)
	}
	of := map[string]Totals{}
	for _, sum := range mustBe(t, child, Tracking).Totals {
		of[sum.Domain.String()] = sum
	}
	if m := of["mmap"]; m.LiveBytes < 3<<20 || m.LiveBytes >= 5<<20 || m.FreedBytes < 2<<20 || m.FreedBytes >= 5<<20 {
		t.Errorf("mappings: %+v", m)
	}
	if m := of["malloc"]; m.LiveBytes < 5000*1000 {
		t.Errorf("malloc: %+v", m)
	}
	for _, sum := range mustBe(t, tg.Pid(), Tracking).Totals {
		if d := sum.Domain.String(); (d == "mmap" || d == "malloc") && sum.LiveBytes > 1<<20 {
			t.Errorf("the parent's: %+v", sum)
		}
	}
	if got := tg.Exec("end()"); got != "0" {
		t.Errorf("the child ended with %s", got)
	}
	mustDetach(t, tg.Pid())
	tg.Challenge()
}
