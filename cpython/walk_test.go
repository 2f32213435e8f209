package cpython

import (
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Walk gives what sys._current_frames() gives, for threads that stand in generators, coroutines, comprehensions,
// C callbacks, deep recursion, statements over many lines, and files with names of every string kind.
func TestWalkEqualsCurrentFrames(t *testing.T) {
	eachPython(t, func(t *testing.T, p program) {
		tg := startPython(t, p)
		var none any
		tg.eval("begin()", &none)
		var want map[string][][]any
		tg.eval("frames()", &want)
		in := tg.find()
		seen := 0
		for _, s := range tg.states(in) {
			for _, ts := range s.Threads {
				expect, ok := want[strconv.FormatUint(ts.ThreadID, 10)]
				if !ok {
					continue // the main thread
				}
				seen++
				frames, err := in.Walk(tg.mem, ts)
				if err != nil {
					t.Fatal(err)
				}
				var got [][]any
				for _, f := range frames {
					got = append(got, []any{f.File, float64(f.Line), f.Name, f.Qualname, float64(f.FirstLine)})
				}
				if diff := cmp.Diff(expect, got); diff != "" {
					t.Errorf("thread %d (-Python +heaptap):\n%s", ts.ThreadID, diff)
				}
			}
		}
		if seen != len(want) || seen < 11 {
			t.Errorf("%d threads seen, want %d", seen, len(want))
		}
	})
}

// A thread's state tells which kernel thread it is, and unique numbers.
func TestThreadStates(t *testing.T) {
	eachPython(t, func(t *testing.T, p program) {
		tg := startPython(t, p)
		var none any
		tg.eval("begin()", &none)
		in := tg.find()
		tids, err := tg.proc.Threads()
		if err != nil {
			t.Fatal(err)
		}
		alive := make(map[int]bool)
		for _, tid := range tids {
			alive[tid] = true
		}
		ids := make(map[uint64]bool)
		states := tg.states(in)
		for _, ts := range states[0].Threads {
			if in.Layout.Thread.NativeID.Known && !alive[ts.NativeID] {
				t.Errorf("thread state %v: no thread has id %d", ts.Addr, ts.NativeID)
			}
			ids[ts.ID] = true
		}
		if in.Layout.Thread.ID.Known && len(ids) != len(states[0].Threads) {
			t.Errorf("%d ids for %d threads", len(ids), len(states[0].Threads))
		}
	})
}

// While threads run, come and go, every answer is right or says that it could not be had, and Find succeeds.
func TestBusyTarget(t *testing.T) {
	eachPython(t, func(t *testing.T, p program) {
		tg := startPython(t, p)
		var none any
		tg.eval("spin()", &none)
		walked, busy := 0, 0
		for range 50 {
			in := tg.find()
			states, err := in.States(tg.mem)
			if errors.Is(err, ErrBusy) {
				busy++
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			for _, ts := range states[0].Threads {
				frames, err := in.Walk(tg.mem, ts)
				if errors.Is(err, ErrBusy) {
					busy++
					continue
				} else if err != nil {
					t.Fatal(err)
				}
				walked++
				if err := expectSpin(frames); err != nil {
					t.Error(err)
				}
			}
		}
		if walked == 0 {
			t.Errorf("no stack could be read, %d times busy", busy)
		}
		t.Logf("%d stacks read, %d times busy", walked, busy)
	})
}

// expectSpin checks that a stack of testdata/target.py is one that it can have.
func expectSpin(frames []Frame) error {
	allowed := map[string]bool{"<module>": true, "main": true, "spin": true, "busy": true, "forever": true,
		"<genexpr>": true, "decode": true}
	for _, f := range frames {
		if f.File == "<string>" && !allowed[f.Name] {
			return fmt.Errorf("frame of %s at %s:%d", f.Name, f.File, f.Line)
		}
		if f.Line < f.FirstLine {
			return fmt.Errorf("frame of %s at line %d, before its first %d", f.Name, f.Line, f.FirstLine)
		}
	}
	return nil
}
