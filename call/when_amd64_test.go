package call

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
)

// inside is a Busy that names the range in which a thread stands, of those given. It asks the program counter and what
// looks like return addresses among the first words of the stack.
func inside(pl **Plan, name string, from, to mem.Addr) func(StoppedThread) (string, error) {
	return func(t StoppedThread) (string, error) {
		const words = 256
		for i := range words {
			a := t.PC
			if i > 0 {
				v, err := mem.U64((*pl).memory, t.SP+mem.Addr(8*i))
				if err != nil {
					break // the end of the stack
				}
				a = mem.Addr(v)
			}
			if from <= a && a < to {
				return "in " + name, nil
			}
		}
		return "", nil
	}
}

// TestSafe has a thread that is in the allocator most of the time, and calls malloc and free in it. Where it is not, a
// call is as if the program itself had made it; glibc's checks would notice the other.
func TestSafe(t *testing.T) {
	tg := start(t, compile(t, "alloc"))
	allocator := tg.allocator()
	var pl *Plan
	looks, busy := 0, 0
	in := inside(&pl, "the allocator", allocator.Lo, allocator.Hi)
	for _, tid := range []int{tg.second(), 0} {
		pl = tg.plan(Options{Tid: tid, Name: "allocator", Busy: func(st StoppedThread) (string, error) {
			why, err := in(st)
			looks++
			if why != "" {
				busy++
			}
			return why, err
		}})
		malloc, free := tg.function("malloc"), tg.function("free")
		for range 150 * soak(t) {
			_, err := pl.Borrow(deadline(t), func(s *Session) error {
				if s.Tid() != tg.second() {
					return fmt.Errorf("borrowed thread %d", s.Tid())
				}
				for _, size := range []uint64{24, 5000, 300000} {
					r, err := s.Call(malloc, ints(size))
					if err != nil || r.RAX == 0 {
						return fmt.Errorf("malloc: %#x, %w", r.RAX, err)
					}
					if _, err := s.Call(free, ints(r.RAX)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d looks, %d found it busy", looks, busy)
	if busy == 0 {
		t.Error("it was never busy")
	}
	if answer := tg.do("check"); !strings.Contains(answer, " bad 0") {
		t.Error(answer)
	}
	tg.finish()
}

// allocator is about where glibc's allocator is: its exported functions, and some static ones before and behind.
func (tg *target) allocator() region {
	r := region{Lo: ^mem.Addr(0)}
	for _, name := range []string{"malloc", "free", "calloc", "realloc", "malloc_trim", "malloc_info", "mallopt"} {
		at := tg.function(name)
		r.Lo, r.Hi = min(r.Lo, at), max(r.Hi, at)
	}
	return region{r.Lo - 0x4000, r.Hi + 0x1000}
}

// TestBusy: no thread is ever safe. Nothing is borrowed, and the error names who and where.
func TestBusy(t *testing.T) {
	tg := start(t, compile(t, "functions"))
	before := tg.settled()
	errAsk := errors.New("cannot tell")
	for _, all := range []bool{false, true} {
		o := Options{StopAll: all, Timeout: 500 * time.Millisecond}
		o.Busy = func(st StoppedThread) (string, error) { return fmt.Sprintf("busy at %v", st.PC), nil }
		never := func(*Session) error { t.Error("borrowed"); return nil }
		_, err := tg.plan(o).Borrow(deadline(t), never)
		var be *BusyError
		if !errors.As(err, &be) || len(be.Threads) != 2 || be.Limit != o.Timeout || !strings.Contains(err.Error(), "busy at") {
			t.Errorf("%v", err)
		}
		o.Busy = func(StoppedThread) (string, error) { return "", errAsk }
		if _, err := tg.plan(o).Borrow(deadline(t), never); !errors.Is(err, errAsk) {
			t.Errorf("%v", err)
		}
		// One thread is safe: it is the one that is taken, where others may go on.
		o.Busy = func(st StoppedThread) (string, error) {
			if st.Tid == tg.proc.Pid {
				return "", nil
			}
			return "busy", nil
		}
		report, err := tg.plan(o).Borrow(deadline(t), func(s *Session) error { return nil })
		if all && !errors.As(err, &be) || !all && (err != nil || report.Tid != tg.proc.Pid) {
			t.Errorf("stop all: %v, borrowed %d: %v", all, report.Tid, err)
		}
		o.When = Now
		if _, err := tg.plan(o).Borrow(deadline(t), func(s *Session) error { return nil }); err != nil {
			t.Errorf("now: %v", err)
		}
	}
	_, err := Prepare(tg.proc, Options{Name: "nobody"})
	if err == nil {
		_, err = tg.plan(Options{Name: "nobody"}).Borrow(deadline(t), func(*Session) error { return nil })
	}
	if !errors.Is(err, ErrNoThread) || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("%v", err)
	}
	tg.sound(before)
	tg.finish()
}

// TestEntry waits until a thread is in a function.
func TestEntry(t *testing.T) {
	tg := start(t, compile(t, "functions"))
	at := tg.function("compute")
	const size = 0x80
	pl := tg.plan(Options{When: Entry, Entry: at, EntrySize: size})
	for range 5 {
		report, err := pl.Borrow(deadline(t), func(s *Session) error {
			r := s.Regs()
			if pc := r.PC(); pc < at || pc >= at+size {
				return fmt.Errorf("at %v", pc)
			}
			return nil
		})
		if err != nil || report.Tid != tg.second() {
			t.Fatal(report.Tid, err)
		}
	}
	pl = tg.plan(Options{When: Entry, Entry: tg.function("go_spin"), EntrySize: 2, Timeout: 50 * time.Millisecond})
	var be *BusyError
	if _, err := pl.Borrow(deadline(t), func(*Session) error { return nil }); !errors.As(err, &be) {
		t.Error(err)
	}
	tg.finish()
}

// TestStopAll: the others stand while a function runs.
func TestStopAll(t *testing.T) {
	tg := start(t, compile(t, "functions"))
	at := tg.variable("rounds")
	for _, all := range []bool{true, false} {
		pl := tg.plan(Options{Tid: tg.proc.Pid, StopAll: all})
		report, err := pl.Borrow(deadline(t), func(s *Session) error {
			before, err := mem.U64(pl.memory, at)
			if err != nil {
				return err
			}
			if _, err := s.Call(tg.function("go_sleep"), ints(50)); err != nil {
				return err
			}
			after, err := mem.U64(pl.memory, at)
			if all != (before == after) {
				return fmt.Errorf("all stopped: %v, rounds went from %d to %d", all, before, after)
			}
			return err
		})
		if err != nil || all && report.Tid != tg.proc.Pid {
			t.Errorf("%+v, %v", report, err)
		}
	}
	tg.do("check")
	tg.finish()
}

// TestTrace: the steps come in the protocol's order, with the thread held.
func TestTrace(t *testing.T) {
	tg := start(t, compile(t, "functions"))
	var names []string
	var last time.Duration
	pl := tg.plan(Options{Tid: tg.second(), Trace: func(st Step) {
		if st.Tid != tg.second() || st.Since < last || st.Detail == "" {
			t.Errorf("%+v after %v", st, last)
		}
		last = st.Since
		names = append(names, strings.TrimPrefix(st.Name, "call/"))
	}})
	_, err := pl.Borrow(deadline(t), func(s *Session) error {
		_, err := s.Call(tg.function("self"), Args{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, want := range []string{"stopped", "saved", "recorded", "framed", "armed", "blocked", "syscall-entered",
		"syscall-done", "arena-mapped", "written", "armed", "marker-entered", "marker-done", "arena-unmapped", "restoring",
		"restored", "tidied", "detached"} {
		i := slices.Index(names[at:], want)
		if i < 0 {
			t.Fatalf("no %s behind %v in %v", want, names[:at], names)
		}
		at += i + 1
	}
	tg.finish()
}

// TestHeldSignals: signals that come during a call are delivered after it, none is lost, and a function that lets them in
// gets them.
func TestHeldSignals(t *testing.T) {
	tg := start(t, compile(t, "functions"))
	tid := tg.second()
	handled := tg.variable("handled")
	pl := tg.plan(Options{Tid: tid})
	for i, function := range []string{"self", "go_unblock"} {
		_, err := pl.Borrow(deadline(t), func(s *Session) error {
			if _, err := s.Call(tg.function("self"), Args{}); err != nil {
				return err
			}
			if err := unix.Tgkill(tg.proc.Pid, tid, unix.SIGUSR1); err != nil {
				return err
			}
			if _, err := s.Call(tg.function(function), Args{}); err != nil {
				return err
			}
			n, err := mem.U64(pl.memory, handled)
			if (function == "self") != (n == uint64(i)) {
				return fmt.Errorf("%s: %d handled", function, n)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		tg.do("check")
		// The thread takes it on its way back, for which it needs a processor.
		n, err := mem.U64(pl.memory, handled)
		for ctx := deadline(t); err == nil && n <= uint64(i) && ctx.Err() == nil; n, err = mem.U64(pl.memory, handled) {
			runtime.Gosched()
		}
		if n != uint64(i)+1 {
			t.Errorf("%s: %d signals handled afterwards, %v", function, n, err)
		}
	}
	if st, err := tg.proc.Status(tid); err != nil || st.SigBlk != 0 {
		t.Errorf("signal mask %#x, %v", st.SigBlk, err)
	}
	tg.finish()
}
