package profiler

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/heaptap/heaptap/internal/pytarget"
)

// TestCycles attaches, dumps and detaches again and again. A target that rests is the same to the last page and
// descriptor after all of it; one that computes is right, and has neither gained mappings nor memory.
func TestCycles(t *testing.T) {
	t.Parallel()
	for _, in := range chosen(t) {
		t.Run(in.Name+"/idle", func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, "", pytarget.Options{})
			words := hookedWords(t, tg.Pid())
			before, size := tg.Observe(words), vmSize(t, tg.Pid())
			cycle(t, tg.Pid(), times(t, 100))
			if now := vmSize(t, tg.Pid()); now != size {
				t.Errorf("address space of %d bytes has become %d", size, now)
			}
			tg.Unchanged(before, pytarget.Quiet, words)
			tg.Challenge()
		})
	}
	t.Run("busy", func(t *testing.T) {
		t.Parallel()
		busy := situation(t, "busy")
		tg := busy.Start(t, debian(t))
		tg.Challenge()
		words := hookedWords(t, tg.Pid())
		before, size := tg.Observe(words), vmSize(t, tg.Pid())
		for range times(t, 10) {
			cycle(t, tg.Pid(), 100)
			tg.Challenge()
		}
		const slack = 32 << 20 // what Python takes and keeps for its own work
		if now := vmSize(t, tg.Pid()); now > size+slack {
			t.Errorf("address space of %d bytes has become %d", size, now)
		}
		tg.Unchanged(before, pytarget.Busy, words)
		busy.Check(tg)
	})
}

func cycle(t *testing.T, pid, n int) {
	t.Helper()
	began := time.Now()
	var pause time.Duration
	for range n {
		pause = max(pause, mustAttach(t, pid).Pause)
		mustDump(t, pid)
		mustDetach(t, pid)
	}
	t.Logf("%d cycles, %v each, longest attach pause %v", n, time.Since(began)/time.Duration(n), pause)
}

// TestRandomInstants attaches at random instants under storms of allocation, threads, signals, forks, collections and
// code objects, lets the target run on tracked for a random time, and detaches.
func TestRandomInstants(t *testing.T) {
	t.Parallel()
	few := chosen(t)
	for i, name := range []string{"busy", "thread_churn", "signals", "forks", "collecting", "code_churn", "recursion", "subinterpreters"} {
		in := few[i%len(few)]
		t.Run(name+"/"+in.Name, func(t *testing.T) {
			t.Parallel()
			s := situation(t, name)
			tg := s.Start(t, in)
			words := hookedWords(t, tg.Pid())
			before := tg.Observe(words)
			tg.Exec("None") // from here on it works
			rnd := newRand(t)
			n := times(t, 125)
			for i := range n {
				letRun(t, rnd, 3*time.Millisecond)
				if name == "forks" {
					mustFollow(t, tg.Pid())
				} else {
					mustAttachWith(t, tg.Pid(), AttachOptions{Native: i%10 == 0})
				}
				letRun(t, rnd, 3*time.Millisecond)
				if i%5 == 0 {
					mustDump(t, tg.Pid())
				}
				mustDetach(t, tg.Pid())
				if i%25 == 0 {
					tg.Challenge()
				}
			}
			tg.Unchanged(before, s.Activity, words)
			s.Check(tg)
		})
	}
}

// TestBusy: two heaptaps at one target exclude each other; the one that comes second says so, and nothing is broken.
func TestBusy(t *testing.T) {
	t.Parallel()
	tg := situation(t, "busy").Start(t, debian(t))
	words := hookedWords(t, tg.Pid())
	before := tg.Observe(words)
	tg.Exec("None")
	const heaptaps = 4
	results := make(chan error)
	for range heaptaps {
		go func() {
			var err error
			for range times(t, 50) {
				if _, err = Attach(t.Context(), tg.Pid(), AttachOptions{}); err == nil {
					_, err = Detach(t.Context(), tg.Pid())
				}
				if err != nil && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrNotTracked) {
					break
				}
				err = nil
			}
			results <- err
		}()
	}
	for range heaptaps {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if _, err := Repair(t.Context(), tg.Pid()); err != nil && !errors.Is(err, ErrNotTracked) {
		t.Error(err)
	}
	tg.Unchanged(before, pytarget.Busy, words)

	locked, err := open(tg.Pid())
	if err != nil {
		t.Fatal(err)
	}
	defer locked.close()
	unlock, err := locked.lock()
	if err != nil {
		t.Fatal(err)
	}
	for what, do := range map[string]func() error{
		"attach": func() error { _, err := Attach(t.Context(), tg.Pid(), AttachOptions{}); return err },
		"detach": func() error { _, err := Detach(t.Context(), tg.Pid()); return err },
		"repair": func() error { _, err := Repair(t.Context(), tg.Pid()); return err },
	} {
		if err := do(); !errors.Is(err, ErrBusy) {
			t.Errorf("%s of a target that another heaptap works on: %v", what, err)
		}
	}
	unlock()
	mustAttach(t, tg.Pid())
	mustDetach(t, tg.Pid())
}

// TestTablesDoNotGrow: what is tracked costs by what lives, not by how long: code objects and threads that come and go
// leave nothing behind. The target goes through as much work three times over; after the first, tables stay as they are.
func TestTablesDoNotGrow(t *testing.T) {
	t.Parallel()
	const program = `
import threading

def codes(n):
    for i in range(n):
        names = {}
        exec(compile("def f(n):\n    return [str(i) for i in range(n)]\n", "made %d" % (i % 50), "exec"), names)
        names["f"](5)

def threads(n):
    for i in range(n):
        t = threading.Thread(target=lambda: [str(i) for i in range(50)])
        t.start()
        t.join()

def blocks(n):
    for i in range(n):
        [bytearray(j) for j in range(200)]
`
	for _, in := range chosen(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, program, pytarget.Options{})
			mustAttach(t, tg.Pid())
			work := func() *Status {
				tg.Exec(fmt.Sprintf("codes(2000); threads(%d); blocks(100)", times(t, 300)))
				return mustBe(t, tg.Pid(), Tracking)
			}
			work() // malloc's arenas of the threads come one after another, and each has its part of the tables
			first := work()
			work()
			third := work()
			// A thread may be seen ended a moment late, and its successor takes another record: a few, not hundreds.
			const few = 5
			if third.Threads > first.Threads+few || third.CodeObjects > first.CodeObjects+10 || third.Stacks > first.Stacks+first.Stacks/4 {
				t.Errorf("tables grow: %d threads, %d code objects, %d stacks have become %d, %d, %d",
					first.Threads, first.CodeObjects, first.Stacks, third.Threads, third.CodeObjects, third.Stacks)
			}
			if third.AgentTables > first.AgentTables+first.AgentTables/4 {
				t.Errorf("tables grow from %d to %d bytes", first.AgentTables, third.AgentTables)
			}
			if third.Lost != 0 {
				t.Errorf("%d allocations lost", third.Lost)
			}
			mustDetach(t, tg.Pid())
		})
	}
}
