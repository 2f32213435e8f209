package call

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/internal/fault"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// tracerEnv makes this test binary a tracer to be killed: "PID TID CODE DATA SIZE HOW".
const tracerEnv = "HEAPTAP_TEST_TRACER"

func TestMain(m *testing.M) {
	if spec := os.Getenv(tracerEnv); spec != "" {
		if err := traceForever(spec); err != nil {
			fmt.Fprintln(os.Stderr, "tracer:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// traceForever borrows the thread again and again until it is killed. It writes a line before the first time.
func traceForever(spec string) error {
	var pid, tid int
	var code, data uint64
	var how string
	a := arena{}
	if _, err := fmt.Sscan(spec, &pid, &tid, &code, &data, &a.size, &how); err != nil {
		return err
	}
	a.code, a.data = mem.Addr(code), mem.Addr(data)
	p, err := proc.Open(pid)
	if err != nil {
		return err
	}
	pl, err := Prepare(p, Options{Tid: tid})
	if err != nil {
		return err
	}
	fmt.Println("tracing")
	for i := uint64(0); ; i++ {
		var err error
		switch how {
		case "borrow":
			_, err = pl.Borrow(context.Background(), func(s *Session) error { return a.cycle(s, i) })
		case "call":
			_, err = pl.Borrow(context.Background(), func(s *Session) error { return a.callCycle(s, i) })
		case "all":
			_, err = pl.BorrowAll(context.Background(), func(s *Session, _ []StoppedThread) error { return a.cycle(s, i) })
		case "freeze":
			_, err = pl.Freeze(context.Background(), func() error { return nil })
		}
		if err != nil {
			return err
		}
	}
}

// tracer starts this test binary as a tracer of the target's thread, and waits until it traces.
func (tg *target) tracer(how string, a arena, tid int, env ...string) *exec.Cmd {
	tg.t.Helper()
	self, err := os.Executable()
	if err != nil {
		tg.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), env...),
		fmt.Sprintf("%s=%d %d %d %d %d %s", tracerEnv, tg.proc.Pid, tid, uint64(a.code), uint64(a.data), a.size, how))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		tg.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tg.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		tg.t.Fatalf("tracer said %q: %v, %v", line, err, cmd.Wait())
	}
	return cmd
}

// killed waits for a tracer's end and fails unless it was killed.
func (tg *target) killed(cmd *exec.Cmd) {
	tg.t.Helper()
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		tg.t.Fatalf("tracer: %v, want killed", err)
	}
}

// health is what must be the same before and after.
type health struct {
	Masks []string // per thread: blocked, ignored, caught signals
	Maps  []string
}

// health reads the target's masks and mappings once no thread is borrowed any more, which a fresh tracer sees to.
func (tg *target) health() health {
	tg.t.Helper()
	var h health
	tids, err := tg.proc.Threads()
	if err != nil {
		tg.t.Fatal(err)
	}
	for _, tid := range tids {
		st, err := tg.proc.Status(tid)
		if err != nil {
			tg.t.Fatal(err)
		}
		h.Masks = append(h.Masks, fmt.Sprintf("%d: %x %x %x", tid, st.SigBlk, st.SigIgn, st.SigCgt))
	}
	maps, err := tg.proc.Maps()
	if err != nil {
		tg.t.Fatal(err)
	}
	for _, m := range maps {
		h.Maps = append(h.Maps, fmt.Sprintf("%+v", m))
	}
	return h
}

// recover lets a fresh tracer work, which also lets the thread finish what a killed one began: it reports how many.
func (tg *target) recover(a arena, tid int) (orphans int) {
	tg.t.Helper()
	pl := tg.plan(Options{Tid: tid})
	report, err := pl.Borrow(deadline(tg.t), func(s *Session) error {
		if fn, err := mem.U64(pl.memory, a.data); err != nil || fn == 0 {
			return errors.Join(err, a.cycle(s, 1))
		}
		return a.callCycle(s, 1) // also on what the killed one had mapped
	})
	if err != nil {
		tg.t.Fatalf("fresh tracer: %v", err)
	}
	return len(report.Notes)
}

// settled is the health of a target whose threads have all come to what they do: testdata/regs.c, after an answer.
func (tg *target) settled() health {
	tg.t.Helper()
	tg.do("check")
	return tg.health()
}

func (tg *target) sound(before health) {
	tg.t.Helper()
	if answer := tg.do("check"); !strings.Contains(answer, " bad 0 ") {
		tg.t.Fatal(answer)
	}
	after := tg.health()
	if diff := cmp.Diff(before, after); diff != "" {
		tg.t.Error(diff)
	}
}

// points are the instants of one borrowing, as the log of fault points gives them.
func points(t *testing.T, tg *target, how string, a arena, tid int) []string {
	t.Helper()
	log := filepath.Join(t.TempDir(), "points")
	last := map[string]string{"borrow": "call/detached", "call": "call/detached", "all": "call/released", "freeze": "call/released"}[how]
	cmd := tg.tracer(how, a, tid, fault.LogEnv+"="+log, fault.Env+"="+last+"#3=kill")
	tg.killed(cmd)
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(b))
	slices.Sort(names)
	return slices.Compact(names)
}

// mustReach are the points that a borrowing must have, by kind.
var mustReach = map[string][]string{
	"borrow": {"call/seized", "call/stopped", "call/saved", "call/recorded", "call/framed", "call/committing",
		"call/armed", "call/blocked", "call/syscall-entered", "call/syscall-done", "call/marker-entered", "call/marker-done",
		"call/restoring", "ptrace/xstate-restored", "ptrace/mask-restored", "ptrace/interrupted", "ptrace/regs-restored",
		"call/restored", "call/tidied", "call/detached"},
	"call": {"call/arena-mapped", "call/written", "call/marker-entered", "call/marker-done", "call/arena-unmapped",
		"call/detached"},
	"all":    {"call/all-seized", "call/all-stopped", "call/armed", "call/detached", "call/released"},
	"freeze": {"call/all-seized", "call/all-stopped", "call/released"},
}

// TestKillAtEachPoint kills a tracer at each of the instants of a borrowing.
func TestKillAtEachPoint(t *testing.T) {
	code := payload(t)
	bin := compile(t, "regs", "-mno-red-zone")
	for _, c := range []struct{ how, mode string }{
		{"borrow", "quiet"}, {"borrow", "storm"}, {"call", "storm"}, {"all", "storm"}, {"freeze", "storm"},
	} {
		t.Run(c.how+" "+c.mode, func(t *testing.T) {
			var args []string
			if c.mode != "quiet" {
				args = append(args, c.mode)
			}
			tg := start(t, bin, args...)
			a := tg.install(tg.plan(Options{}), code)
			tg.table(tg.plan(Options{}), a)
			tid := tg.second()
			names := points(t, tg, c.how, a, tid)
			for _, must := range mustReach[c.how] {
				if !slices.Contains(names, must) {
					t.Errorf("point %s is never reached", must)
				}
			}
			tg.recover(a, tid)
			before := tg.settled()
			for _, name := range names {
				for hit := 1; hit <= 3; hit++ { // the points of commits are hit several times in one borrowing
					tg.killed(tg.tracer(c.how, a, tid, fmt.Sprintf("%s=%s#%d=kill", fault.Env, name, hit)))
					tg.recover(a, tid)
					tg.sound(before)
					if t.Failed() {
						t.Fatalf("after a kill at %s#%d", name, hit)
					}
				}
			}
			tg.finish()
		})
	}
}

// TestKillAtEachRequest kills a tracer after each ptrace request of a borrowing that calls functions.
func TestKillAtEachRequest(t *testing.T) {
	code := payload(t)
	bin := compile(t, "regs", "-mno-red-zone")
	for _, mode := range []string{"storm", "handler"} {
		t.Run(mode, func(t *testing.T) {
			tg := start(t, bin, mode)
			a := tg.install(tg.plan(Options{}), code)
			tg.table(tg.plan(Options{}), a)
			tid := tg.second()
			n := tg.requests(a, tid)
			tg.recover(a, tid)
			before := tg.settled()
			orphans, step := 0, 2/min(soak(t), 2)
			first := int(time.Now().UnixNano()) % step // every other request in each run, by default
			for hit := 1 + first; hit <= n; hit += step {
				tg.killed(tg.tracer("call", a, tid, fmt.Sprintf("%s=ptrace/request#%d=kill", fault.Env, hit)))
				orphans += tg.recover(a, tid)
				tg.sound(before)
				if t.Failed() {
					t.Fatalf("after a kill at request %d", hit)
				}
			}
			t.Logf("%d requests, %d threads were left in borrowed code", n, orphans)
			tg.finish()
		})
	}
}

// TestKillAtEachRequestBlocking is the same for threads in blocking system calls, one after the other.
func TestKillAtEachRequestBlocking(t *testing.T) {
	tg := start(t, compile(t, "blocking", "-lrt"))
	a := tg.install(tg.plan(Options{}), payload(t))
	tg.table(tg.plan(Options{}), a)
	tids, err := tg.proc.Threads()
	if err != nil {
		t.Fatal(err)
	}
	n := tg.requests(a, tids[0])
	tg.recover(a, tids[0])
	before := tg.health()
	orphans, step := 0, 2/min(soak(t), 2)
	first := int(time.Now().UnixNano()) % step
	for hit := 1 + first; hit <= n; hit += step {
		tid := tids[(hit+first)%len(tids)]
		tg.killed(tg.tracer("call", a, tid, fmt.Sprintf("%s=ptrace/request#%d=kill", fault.Env, hit)))
		orphans += tg.recover(a, tid)
		tg.unleaked(before, tids)
		if t.Failed() {
			t.Fatalf("after a kill at request %d", hit)
		}
	}
	t.Logf("%d requests over %d threads, %d were left in borrowed code", n, len(tids), orphans)
	for _, b := range tg.blockingAnswers() {
		if b.rounds == 0 || b.wrong != 0 || b.tooShort != 0 {
			t.Errorf("%+v", b)
		}
	}
	tg.finish()
}

// unleaked checks that nothing of ours is left in a target whose threads have masks of their own at times, so that these
// cannot be compared; but none has ours.
func (tg *target) unleaked(before health, tids []int) {
	tg.t.Helper()
	if diff := cmp.Diff(before.Maps, tg.health().Maps); diff != "" {
		tg.t.Error(diff)
	}
	const leaked = blockedSignals &^ (1<<(unix.SIGKILL-1) | 1<<(unix.SIGSTOP-1))
	for _, tid := range tids {
		if st, err := tg.proc.Status(tid); err != nil || st.SigBlk == leaked {
			tg.t.Errorf("thread %d: signal mask %#x, %v", tid, st.SigBlk, err)
		}
	}
}

// requests counts the ptrace requests from the start of one borrowing that calls functions to its end.
func (tg *target) requests(a arena, tid int) int {
	tg.t.Helper()
	log := filepath.Join(tg.t.TempDir(), "requests")
	tg.killed(tg.tracer("call", a, tid, fault.LogEnv+"="+log, fault.Env+"=call/detached#1=kill"))
	b, err := os.ReadFile(log)
	if err != nil {
		tg.t.Fatal(err)
	}
	n := strings.Count(string(b), "ptrace/request\n")
	if n < 50 {
		tg.t.Fatalf("%d requests in a borrowing", n)
	}
	return n
}

// TestErrorAtCommit has a commit fail, as when the target is killed by somebody else: nothing has changed yet.
func TestErrorAtCommit(t *testing.T) {
	bin := compile(t, "regs", "-mno-red-zone")
	tg := start(t, bin)
	a := tg.install(tg.plan(Options{}), payload(t))
	tid := tg.second()
	before := tg.settled()
	for hit := 1; hit <= 3; hit++ {
		cmd := tg.tracer("borrow", a, tid, fmt.Sprintf("%s=call/committing#%d=error", fault.Env, hit))
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("tracer: %v", err)
		}
		tg.sound(before)
	}
	tg.finish()
}

// killAtRandom kills n tracers at random instants and reports how many left a thread for the next to finish.
func (tg *target) killAtRandom(rnd *rand.Rand, n int, a arena, how []string, tids []int, check func()) (orphans int) {
	tg.t.Helper()
	for i := range n {
		tid := tids[rnd.IntN(len(tids))]
		cmd := tg.tracer(how[rnd.IntN(len(how))], a, tid)
		for end := time.Now().Add(time.Duration(rnd.Int64N(int64(4 * time.Millisecond)))); time.Now().Before(end); {
		}
		if err := cmd.Process.Kill(); err != nil {
			tg.t.Fatal(err)
		}
		tg.killed(cmd)
		if i%2 == 0 { // else the next tracer finds what this one left
			orphans += tg.recover(a, tid)
			check()
		}
		if tg.t.Failed() {
			tg.t.Fatalf("after kill %d", i)
		}
	}
	orphans += tg.recover(a, tids[0])
	check()
	return orphans
}

func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// TestKillAtRandom kills tracers of a computing thread at random instants.
func TestKillAtRandom(t *testing.T) {
	tg := start(t, compile(t, "regs", "-mno-red-zone"), "storm")
	a := tg.install(tg.plan(Options{}), payload(t))
	tg.table(tg.plan(Options{}), a)
	tids := []int{tg.second()}
	tg.recover(a, tids[0])
	before := tg.settled()
	n := 120 * soak(t)
	how := []string{"borrow", "call", "call", "all"}
	orphans := tg.killAtRandom(newRand(t), n, a, how, tids, func() { tg.sound(before) })
	t.Logf("%d kills, %d threads were left in borrowed code", n, orphans)
	tg.finish()
}

// TestKillBlocking kills tracers of threads in blocking system calls at random instants. Then, and only then, a thread
// may see EINTR where its remaining time was in the kernel; nothing may be lost, doubled or too short.
func TestKillBlocking(t *testing.T) {
	tg := start(t, compile(t, "blocking", "-lrt"))
	a := tg.install(tg.plan(Options{}), payload(t))
	tg.table(tg.plan(Options{}), a)
	tids, err := tg.proc.Threads()
	if err != nil {
		t.Fatal(err)
	}
	tg.recover(a, tids[0])
	before := tg.health()
	n := 120 * soak(t)
	how := []string{"borrow", "call", "call", "all", "freeze"}
	orphans := tg.killAtRandom(newRand(t), n, a, how, tids, func() {
		tg.unleaked(before, tids)
	})
	eintr := 0
	for _, b := range tg.blockingAnswers() {
		if b.eintr > 0 {
			t.Logf("%s: %d of %d rounds answered EINTR", b.name, b.eintr, b.rounds)
		}
		eintr += b.eintr
		if b.rounds == 0 || b.wrong != 0 || b.tooShort != 0 {
			t.Errorf("%+v", b)
		}
	}
	t.Logf("%d kills, %d threads were left in borrowed code, %d EINTR", n, orphans, eintr)
	tg.finish()
}
