package call

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/heaptap/heaptap/ptrace"
)

// Waiting for a safe point is looking: a thread is stopped, asked about, and let run on if it is busy. There is no
// breakpoint in it. A breakpoint of any kind outlives a tracer that is killed, and the thread that then comes to it dies
// (doc/safety.md has the measurement).
const (
	firstLook   = 100 * time.Microsecond // between two looks, at first
	longestLook = 5 * time.Millisecond
)

// untilSafe calls try until no thread is in the way, or the time limit is over.
func (pl *Plan) untilSafe(ctx context.Context, try func() error) error {
	end := time.Now().Add(pl.opts.Timeout)
	seen := make(map[int]string)
	for nap := firstLook; ; nap = min(2*nap, longestLook) {
		err := try()
		var busy *BusyError
		if !errors.As(err, &busy) {
			return err
		}
		for _, t := range busy.Threads {
			seen[t.Tid] = t.Why
		}
		if time.Now().Add(nap).After(end) {
			return pl.busyError(seen)
		}
		select {
		case <-time.After(nap):
		case <-ctx.Done():
			return errors.Join(pl.busyError(seen), ctx.Err())
		}
	}
}

func (pl *Plan) busyError(seen map[int]string) error {
	e := &BusyError{Limit: pl.opts.Timeout}
	for _, tid := range slices.Sorted(maps.Keys(seen)) {
		e.Threads = append(e.Threads, BusyThread{tid, seen[tid]})
	}
	return e
}

// waits reports whether the plan's options make a borrowing wait for an instant.
func (o *Options) waits() bool { return o.When == Entry || o.When == Safe && o.Busy != nil }

// checkSafe is a *BusyError where the thread, stopped, should not be borrowed now.
func (pl *Plan) checkSafe(t StoppedThread) error {
	why := ""
	switch o := &pl.opts; {
	case !o.waits():
		return nil
	case o.When == Entry:
		if uint64(t.PC-o.Entry) >= max(o.EntrySize, 1) {
			why = fmt.Sprintf("not in the function at %v", o.Entry)
		}
	default:
		var err error
		if why, err = o.Busy(t); err != nil {
			return fmt.Errorf("thread %d: is it at a safe point: %w", t.Tid, err)
		}
	}
	if why == "" {
		return nil
	}
	return &BusyError{Limit: pl.opts.Timeout, Threads: []BusyThread{{t.Tid, why}}}
}

// stopped is where the borrowed thread stands.
func (s *Session) stopped() StoppedThread {
	r := s.state.Regs
	return StoppedThread{Tid: s.Tid(), PC: r.PC(), SP: r.SP(), Regs: r}
}

// borrowStopped borrows a thread with all others held.
func (pl *Plan) borrowStopped(ctx context.Context, report *Report, fn func(*Session) error) error {
	tids, err := pl.candidates()
	if err != nil {
		return err
	}
	return pl.all(ctx, report, func(w *world, began time.Time) (*ptrace.Thread, error) {
		threads, err := w.describe()
		if err != nil {
			return nil, err
		}
		if err := pl.checkAllSafe(threads, tids); err != nil {
			return nil, err
		}
		s := &Session{plan: pl, ctx: ctx, world: w}
		if s.thread = w.first(tids); s.thread == nil {
			return nil, ErrNoThread
		}
		report.Tid = s.Tid()
		return s.thread, s.use(began, report, func() error {
			if err := s.adopt(); err != nil {
				return err
			}
			return fn(s)
		})
	})
}

// checkAllSafe asks about every thread, since a lock that a held thread has is held as long as it. Only of those that may
// be borrowed one must be at the entry that is waited for.
func (pl *Plan) checkAllSafe(threads []StoppedThread, candidates []int) error {
	all := &BusyError{Limit: pl.opts.Timeout}
	free := false
	for _, t := range threads {
		candidate := slices.Contains(candidates, t.Tid)
		if t.Held || pl.opts.When == Entry && !candidate {
			continue
		}
		err := pl.checkSafe(t)
		var busy *BusyError
		switch {
		case errors.As(err, &busy):
			all.Threads = append(all.Threads, busy.Threads...)
		case err != nil:
			return err
		default:
			free = true
		}
	}
	if len(all.Threads) > 0 && !(pl.opts.When == Entry && free) {
		return all
	}
	return nil
}

// first is the first of the threads that can be borrowed, nil if none can.
func (w *world) first(tids []int) *ptrace.Thread {
	for _, tid := range tids {
		if o := w.known[tid]; o != nil && !o.held {
			return o.thread
		}
	}
	return nil
}
