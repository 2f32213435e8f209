package profiler

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/internal/fault"
	"github.com/heaptap/heaptap/internal/pytarget"
)

// verbs are what heaptap does to a target, in the order in which it can be done.
var verbs = []string{"attach", "dump", "detach"}

// elsewhere are fault points that lie on none of the ways of attach, dump and detach, with the test that reaches them.
var elsewhere = map[string]string{
	"call/faulted":           "borrowed code has faulted: package call's tests of faults",
	"call/abandoned":         "borrowed code ran past its limit: package call's tests of timeouts",
	"call/marker-entered":    "code runs in a borrowed thread, and attaching runs none: package call's TestKillAtEachPoint",
	"call/marker-done":       "as before",
	"call/written":           "as before",
	"call/arena-mapped":      "as before",
	"call/arena-unmapped":    "as before",
	"call/parked":            "a called function did not return: package call's TestFailures and TestAbandoned",
	"call/refused":           "a called function was about to exit: package call's TestFailures",
	"ptrace/request":         "each of them: package call's TestKillAtEachRequest",
	"call/child":             "a called function has made a process: package call's TestChildren",
	"call/left":              "a called function jumped out of the call: package call's TestLongjmp",
	"ptrace/xstate-restored": "as before",
	"attach/signal-read":     "a signal is to be handled: TestKillOnSignal",
	"attach/signal-set":      "as before",
	"detach/signal":          "as before",
	"attach/named":           "an attach that holds the tables without privileges: TestHoldKilled",
}

// TestEveryPointIsHit: each fault point in the source of what an attach, dump and detach go through is on the way of one
// of them. A point that never is would be one at which nobody was ever killed.
func TestEveryPointIsHit(t *testing.T) {
	t.Parallel()
	tg := situation(t, "busy").Start(t, debian(t))
	hit := map[string]bool{}
	for range 2 {
		for _, verb := range verbs {
			if verb == "detach" { // tracemalloc leaves copies of hooks behind
				tg.Exec("import tracemalloc; tracemalloc.start(); tracemalloc.stop()")
			}
			for _, p := range pointsOf(t, tg, verb) {
				hit[p.name] = true
			}
		}
		useStack(tg)
	}
	source := pointsInSource(t, "attach|dump|detach|call|ptrace", "profiler", "call", "ptrace", "inject", "agent")
	for _, name := range source {
		if reason := elsewhere[name]; (reason == "") != hit[name] {
			t.Errorf("point %s is hit: %v, and said to be reached elsewhere: %q", name, hit[name], reason)
		}
	}
	for name := range hit {
		if !slices.Contains(source, name) {
			t.Errorf("point %s is hit, and not found in the source", name)
		}
	}
	for name := range elsewhere {
		if !slices.Contains(source, name) {
			t.Errorf("there is no point %s any more", name)
		}
	}
}

// useStack has the target use its whole stack once, so that no page of it is left untouched: a heaptap has to put its
// frames elsewhere then.
func useStack(tg *pytarget.Target) {
	tg.Exec("nested = []\nfor _ in range(900): nested = [nested]\nlen(repr(nested))")
}

// pointsInSource lists the fault points of the families given (as a regular expression) in packages that work on a target.
func pointsInSource(t *testing.T, families string, packages ...string) []string {
	t.Helper()
	checkout, err := pytarget.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	// A point's name is a literal in the call, or is handed on to one by advance(…, "entered", "done").
	literal := regexp.MustCompile(`"((?:` + families + `)/[a-z-]+)"`)
	for _, dir := range packages {
		files, err := filepath.Glob(filepath.Join(checkout, dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range literal.FindAllSubmatch(source, -1) {
				names[string(m[1])] = true
			}
		}
	}
	if len(names) < 5 {
		t.Fatalf("only %d points found in the source: %v", len(names), names)
	}
	return slices.Sorted(maps.Keys(names))
}

// point is one hit of a fault point.
type point struct {
	name string
	hit  int // 1 for the first
}

func (p point) rule(action string) string {
	return fmt.Sprintf("%s=%s#%d=%s", fault.Env, p.name, p.hit, action)
}

// pointsOf does one thing to a target in a process of its own, and returns the fault points that it hit, in order.
func pointsOf(t *testing.T, tg *pytarget.Target, verb string, env ...string) []point {
	t.Helper()
	log := filepath.Join(t.TempDir(), verb)
	if out, err := victimCommand(t, verb, tg.Pid(), append(env, fault.LogEnv+"="+log)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", verb, err, out)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	hits := map[string]int{}
	var points []point
	for name := range strings.FieldsSeq(string(text)) {
		if name == "ptrace/request" {
			continue // there are hundreds, with all other points among them
		}
		hits[name]++
		points = append(points, point{name, hits[name]})
	}
	return points
}

// thin keeps, of the points that are hit many times over (once for each thread or word), the first, a middle and the
// last one.
func thin(points []point) []point {
	last := map[string]int{}
	for _, p := range points {
		last[p.name] = max(last[p.name], p.hit)
	}
	return slices.DeleteFunc(points, func(p point) bool {
		n := last[p.name]
		return p.hit != 1 && p.hit != n && p.hit != (n+1)/2
	})
}

// TestKillAtEachPoint kills heaptap at each fault point of attach, dump and detach. The target computes on, right; a
// fresh heaptap says what it finds, gives everything back, and can attach again.
func TestKillAtEachPoint(t *testing.T) {
	t.Parallel()
	type subject struct {
		situation string
		in        pytarget.Interpreter
		all       bool // each hit of each point, not only some
	}
	subjects := []subject{{"busy", debian(t), true}, {"idle", debian(t), false}}
	for _, in := range chosen(t) {
		subjects = append(subjects, subject{"signals", in, false})
	}
	subjects = append(subjects, subject{"threads", debian(t), false}, subject{"thread_churn", debian(t), false}, subject{"forks", debian(t), false})
	for _, c := range subjects {
		t.Run(c.situation+"/"+c.in.Name, func(t *testing.T) {
			t.Parallel()
			s := situation(t, c.situation)
			tg := s.Start(t, c.in)
			k := &killing{tg: tg, activity: s.Activity, words: hookedWords(t, tg.Pid())}
			if c.situation == "signals" {
				useStack(tg)
			}
			k.before = tg.Observe(k.words)
			tg.Exec("None")
			kills := 0
			do := verbs
			if c.situation == "forks" {
				do = []string{"follow", "dump", "detach"}
			}
			for _, verb := range do {
				points := k.points(t, verb)
				if !c.all || testing.Short() {
					points = thin(points)
				}
				for _, p := range points {
					if k.at(t, verb, p); t.Failed() {
						return
					}
					kills++
				}
			}
			t.Logf("%d kills", kills)
			s.Check(tg)
		})
	}
}

// killing is a target whose heaptaps are killed.
type killing struct {
	tg       *pytarget.Target
	activity pytarget.Activity
	words    pytarget.Words
	before   pytarget.Observation
}

// prepare brings the target to where the verb can be done.
func (k *killing) prepare(t *testing.T, verb string) {
	t.Helper()
	if verb != "attach" && verb != "follow" {
		mustAttach(t, k.tg.Pid())
	}
}

// points are those of a verb done to this target, which is untracked before and after.
func (k *killing) points(t *testing.T, verb string) []point {
	t.Helper()
	k.prepare(t, verb)
	points := pointsOf(t, k.tg, verb)
	if verb != "detach" {
		mustDetach(t, k.tg.Pid())
	}
	return points
}

// at kills a heaptap at one point and sees that all is well.
func (k *killing) at(t *testing.T, verb string, p point) {
	t.Helper()
	pid := k.tg.Pid()
	defer func() {
		if t.Failed() {
			t.Logf("this was a kill in %s at %s, hit %d", verb, p.name, p.hit)
		}
	}()
	k.prepare(t, verb)
	// A target with threads or signals of its own may take a shorter way: then there was nothing to be killed at.
	if out, err := victimCommand(t, verb, pid, p.rule("kill")).CombinedOutput(); err != nil && !wasKilled(err) {
		t.Fatalf("%s: %v: %s", verb, err, out)
	}
	k.tg.Challenge()
	k.recover(t)
	k.tg.Unchanged(k.before, pytarget.Busy, k.words)
	mustAttach(t, pid)
	k.tg.Exec("None")
	mustDetach(t, pid)
}

// recover has a fresh heaptap look at what a killed one left, and give everything back: by detach or by repair, in turn.
func (k *killing) recover(t *testing.T) {
	t.Helper()
	pid := k.tg.Pid()
	s, err := ReadStatus(t.Context(), pid)
	if errors.Is(err, ErrNotTracked) {
		// It had not begun, or was done; but a thread may still be on its way back.
		if _, err := Repair(t.Context(), pid); err != nil && !errors.Is(err, ErrNotTracked) {
			t.Fatalf("repair: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	if s.State != Tracking && s.State != Incomplete {
		t.Fatalf("status: %+v", s)
	}
	give := Repair
	if s.State == Tracking {
		give = Detach
	}
	if d, err := give(t.Context(), pid); err != nil || !d.Unmapped || len(d.Foreign) != 0 {
		t.Fatalf("give back what is %s: %+v, %v", s.State, d, err)
	}
	mustBeUntracked(t, pid)
}

func wasKilled(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == unix.SIGKILL
}

// TestKilledIsIncomplete: at the points where an attach or detach has begun and is not done, and only there, status says
// that it is incomplete; an attach says so too, and changes nothing.
func TestKilledIsIncomplete(t *testing.T) {
	t.Parallel()
	tg := situation(t, "busy").Start(t, debian(t))
	words := hookedWords(t, tg.Pid())
	k := &killing{tg: tg, words: words, before: tg.Observe(words)}
	tg.Exec("None")
	for _, c := range []struct {
		verb, point string
		want        State // "" for not tracked
	}{
		{"attach", "attach/prepared", ""},
		{"attach", "attach/reserved", Incomplete},
		{"attach", "attach/ledger", Incomplete},
		{"attach", "attach/hooked", Incomplete},
		{"attach", "attach/state", Incomplete},
		{"attach", "attach/active", Tracking},
		{"dump", "dump/begun", Tracking},
		{"dump", "dump/frozen", Tracking},
		{"dump", "dump/copied", Tracking},
		{"detach", "detach/begun", Incomplete},
		{"detach", "detach/unhooked", Incomplete},
		{"detach", "detach/inactive", Incomplete},
		{"detach", "detach/searched", Incomplete},
		{"detach", "detach/quiet", Incomplete},
		{"detach", "detach/unmapped", ""},
	} {
		for _, give := range []func(context.Context, int) (*Detachment, error){Detach, Repair} {
			k.prepare(t, c.verb)
			if out, err := victimCommand(t, c.verb, tg.Pid(), point{c.point, 1}.rule("kill")).CombinedOutput(); !wasKilled(err) {
				t.Fatalf("%s at %s: %v: %s", c.verb, c.point, err, out)
			}
			if c.want == "" {
				mustBeUntracked(t, tg.Pid())
				continue
			}
			mustBe(t, tg.Pid(), c.want)
			if c.want == Incomplete {
				if a, err := Attach(t.Context(), tg.Pid(), AttachOptions{}); !errors.Is(err, ErrIncomplete) {
					t.Errorf("attach after a kill at %s: %+v, %v", c.point, a, err)
				}
				if d, err := TakeDump(t.Context(), tg.Pid(), DumpOptions{}); !errors.Is(err, ErrIncomplete) {
					t.Errorf("dump after a kill at %s: %+v, %v", c.point, d, err)
				}
			}
			tg.Challenge()
			if d, err := give(t.Context(), tg.Pid()); err != nil || !d.Unmapped || len(d.Foreign) != 0 {
				t.Fatalf("give back after a kill at %s: %+v, %v", c.point, d, err)
			}
			tg.Unchanged(k.before, pytarget.Busy, words)
		}
	}
}

// TestErrorAtEachPoint fails what can fail in the middle: an attach that fails has undone everything, a detach that fails
// can be done again.
func TestErrorAtEachPoint(t *testing.T) {
	t.Parallel()
	for _, in := range chosen(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			s := situation(t, "busy")
			tg := s.Start(t, in)
			words := hookedWords(t, tg.Pid())
			k := &killing{tg: tg, words: words, before: tg.Observe(words)}
			tg.Exec("None")
			for _, verb := range []string{"attach", "detach"} {
				failures := 0
				for _, p := range k.points(t, verb) {
					if !slices.Contains([]string{"attach/hook", "call/committing"}, p.name) {
						continue
					}
					failures++
					k.prepare(t, verb)
					var exit *exec.ExitError
					out, err := victimCommand(t, verb, tg.Pid(), p.rule("error")).CombinedOutput()
					if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "injected fault at "+p.name) {
						t.Fatalf("%s with an error at %v: %v: %s", verb, p, err, out)
					}
					if strings.Contains(string(out), "not fully restored") {
						t.Errorf("%s with an error at %v: %s", verb, p, out)
					}
					if verb == "detach" {
						mustBe(t, tg.Pid(), Incomplete)
						if d, err := Detach(t.Context(), tg.Pid()); err != nil || !d.Unmapped {
							t.Fatalf("detach after an error at %v: %+v, %v", p, d, err)
						}
					}
					mustBeUntracked(t, tg.Pid())
					tg.Challenge()
					tg.Unchanged(k.before, pytarget.Busy, words)
					if t.Failed() {
						t.Fatalf("after an error in %s at %v", verb, p)
					}
				}
				if failures == 0 {
					t.Errorf("nothing can fail in %s", verb)
				}
				t.Logf("%s: %d failures", verb, failures)
			}
			s.Check(tg)
		})
	}
}

// TestKillAtRandom kills heaptaps that attach, dump and detach without end, at random instants.
func TestKillAtRandom(t *testing.T) {
	t.Parallel()
	few := chosen(t)
	for i, name := range []string{"busy", "signals", "thread_churn", "forks"} {
		in := few[i%len(few)]
		t.Run(name+"/"+in.Name, func(t *testing.T) {
			t.Parallel()
			s := situation(t, name)
			tg := s.Start(t, in)
			k := &killing{tg: tg, activity: s.Activity, words: hookedWords(t, tg.Pid())}
			k.before = tg.Observe(k.words)
			tg.Exec("None")
			rnd := newRand(t)
			n := times(t, 100)
			left := map[State]int{}
			for i := range n {
				cmd := victimCommand(t, "soak", tg.Pid())
				var talk strings.Builder
				cmd.Stderr = &talk
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
					t.Fatalf("heaptap said %q: %v, %v", line, err, cmd.Wait())
				}
				letRun(t, rnd, 60*time.Millisecond)
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Wait(); !wasKilled(err) {
					t.Fatalf("kill %d: %v: %s", i, err, talk.String())
				}
				if i%2 == 0 {
					continue // the next heaptap finds what this one left
				}
				if st, err := ReadStatus(t.Context(), tg.Pid()); err == nil {
					left[st.State]++
				} else {
					left["not tracked"]++
				}
				k.recover(t)
				tg.Challenge()
				tg.Unchanged(k.before, pytarget.Busy, k.words)
				if t.Failed() {
					t.Fatalf("after kill %d", i)
				}
			}
			k.recover(t)
			t.Logf("%d kills, after which targets were %v", n, left)
			s.Check(tg)
		})
	}
}
