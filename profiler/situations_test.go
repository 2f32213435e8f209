package profiler

import (
	"slices"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/internal/pytarget"
)

// costly are the situations that take seconds by nature; they are tried with the chosen interpreters, all others with
// every one.
func costly(s pytarget.Situation) bool {
	return strings.HasPrefix(s.Name, "blocked_") || slices.Contains([]string{"threads", "regex", "signals"}, s.Name)
}

// TestSituations: whatever a process is doing when heaptap comes, it goes on as if nothing had happened, while it is
// tracked and after: its own check passes, and its memory map, descriptors, threads, signal state and hooked words are
// as before.
func TestSituations(t *testing.T) {
	t.Parallel()
	few := chosen(t)
	every := pytarget.Interpreters(t)
	if testing.Short() {
		every = few
	}
	for _, in := range every {
		for _, s := range pytarget.Situations() {
			if costly(s) && !slices.Contains(few, in) || s.Name == "finalising" { // which has its own test
				continue
			}
			t.Run(in.Name+"/"+s.Name, func(t *testing.T) {
				t.Parallel()
				if s.Responsive {
					throughResponsive(t, s, in)
				} else {
					throughSilent(t, s, in)
				}
			})
		}
	}
}

// throughResponsive takes a target that answers through attach, dump and detach.
func throughResponsive(t *testing.T, s pytarget.Situation, in pytarget.Interpreter) {
	tg := s.Start(t, in)
	pid := tg.Pid()
	words := hookedWords(t, pid)
	before := tg.Observe(words)
	// First without a question in between: what is quiet has to be the same to the last private page.
	mustAttach(t, pid)
	mustBe(t, pid, Tracking)
	mustDump(t, pid)
	mustDetach(t, pid)
	mustBeUntracked(t, pid)
	tg.Unchanged(before, s.Activity, words)

	// In so little address space, tables with native stacks have not room for all, and say so.
	mustAttachWith(t, pid, AttachOptions{Native: in == debian(t) && s.Name != "address_space"})
	tg.Challenge()
	status := mustBe(t, pid, Tracking)
	if status.Python.Version != in.Version {
		t.Errorf("status says Python %s", status.Python.Version)
	}
	if status.Lost != 0 {
		t.Errorf("%d allocations lost", status.Lost)
	}
	for _, total := range status.Totals {
		if total.AllocBlocks == 0 && (total.Domain == Mem || total.Domain == Obj) {
			t.Errorf("a target that has computed has allocated nothing in domain %s", total.Domain)
		}
	}
	if d := mustDump(t, pid); d.Blocks == 0 {
		t.Error("a target that has computed has no live blocks")
	}
	mustDetach(t, pid)
	tg.Unchanged(before, pytarget.Busy, words)
	s.Check(tg)
}

// throughSilent takes a target that cannot answer through attach, dump and detach.
func throughSilent(t *testing.T, s pytarget.Situation, in pytarget.Interpreter) {
	tg := s.Start(t, in)
	pid := tg.Pid()
	words := hookedWords(t, pid)
	before, err := pytarget.Observe(pid, words)
	if err != nil {
		t.Fatal(err)
	}
	mustAttach(t, pid)
	mustBe(t, pid, Tracking)
	mustDump(t, pid)
	mustDetach(t, pid)
	mustBeUntracked(t, pid)
	tg.Unchanged(before, s.Activity, words)
	s.Check(tg)
}

// TestSituationsTracked: the same, but heaptap stays: each target goes through its situation, and to its end, tracked,
// with native stacks, which ask most of the hooks. They are the same for every version; the newest and Debian's stripped
// one stand for all.
func TestSituationsTracked(t *testing.T) {
	t.Parallel()
	all := pytarget.Interpreters(t)
	for _, in := range []pytarget.Interpreter{debian(t), all[len(all)-1]} {
		for _, s := range pytarget.Situations() {
			if s.Name == "finalising" {
				continue
			}
			t.Run(in.Name+"/"+s.Name, func(t *testing.T) {
				t.Parallel()
				tg := s.Start(t, in)
				mustAttachWith(t, tg.Pid(), AttachOptions{Native: true})
				if s.Responsive {
					tg.Challenge()
					tg.Exec("None")
					mustDump(t, tg.Pid())
				}
				s.Check(tg)
			})
		}
	}
}
