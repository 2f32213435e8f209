package call

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/heaptap/heaptap/internal/fault"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/ptrace"
)

// firstTry bounds the wait for a thread to stop when there are others to try.
const firstTry = 200 * time.Millisecond

func (pl *Plan) borrow(ctx context.Context, fn func(*Session) error) (Report, error) {
	var report Report
	if err := pl.ready(ctx, &report); err != nil {
		return report, err
	}
	err := pl.untilSafe(ctx, func() error {
		if pl.opts.StopAll {
			return pl.borrowStopped(ctx, &report, fn)
		}
		return pl.borrowOne(ctx, &report, fn)
	})
	return report, err
}

// borrowOne tries the candidates, once each. A *BusyError names those that should not be borrowed now.
func (pl *Plan) borrowOne(ctx context.Context, report *Report, fn func(*Session) error) error {
	tids, err := pl.candidates()
	if err != nil {
		return err
	}
	var busy BusyError
	// Threads without a place for a frame are passed over, but are better than none: fn may bring memory of its own.
	for _, needPlace := range []bool{len(tids) > 1, false} {
		for i, tid := range tids {
			limit := pl.opts.Timeout
			if i < len(tids)-1 {
				limit = min(limit, firstTry)
			}
			report.Tid = tid
			var called bool
			called, err = pl.borrowThread(ctx, tid, limit, needPlace, report, fn)
			if called || ctx.Err() != nil || !worthAnother(err) {
				return err
			}
			var b *BusyError
			if errors.As(err, &b) {
				busy.Threads = append(busy.Threads, b.Threads...)
				continue
			}
			note := fmt.Sprintf("thread %d could not be borrowed: %v", tid, err)
			if !slices.Contains(report.Notes, note) {
				report.Notes = append(report.Notes, note)
			}
		}
		if !needPlace || len(busy.Threads) > 0 {
			break
		}
	}
	if len(busy.Threads) > 0 {
		return &busy
	}
	return fmt.Errorf("%w: %w", ErrNoThread, err)
}

// worthAnother reports whether another thread may be borrowed where this one could not be.
func worthAnother(err error) bool {
	var noPlace *NoPlaceError
	var busy *BusyError
	return errors.Is(err, ptrace.ErrDeadline) || errors.Is(err, ptrace.ErrGone) || errors.As(err, &noPlace) ||
		errors.As(err, &busy)
}

// ready checks that the process is still the one that was prepared for, and lets a thread finish that another tracer
// was killed with.
func (pl *Plan) ready(ctx context.Context, report *Report) error {
	if err := pl.process.Check(); err != nil {
		return err
	}
	if err := pl.sameProgram(); err != nil {
		return err
	}
	return pl.finishOrphan(ctx, report)
}

// borrowThread borrows one thread; called says whether fn was called.
func (pl *Plan) borrowThread(ctx context.Context, tid int, limit time.Duration, needPlace bool, report *Report,
	fn func(*Session) error) (called bool, err error) {
	s := &Session{plan: pl, ctx: ctx}
	tracer := ptrace.Start()
	err = tracer.Do(func() error {
		stopCtx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		tracer.Favour()
		var err error
		var st proc.Stat
		if s.thread, st, err = pl.seize(tracer, tid, 0); err != nil {
			return err
		}
		tracer.MoveTo(st.CPU)
		s.thread.Expect()
		fault.Point("call/seized")
		began := time.Now()
		if _, err := s.thread.Stop(stopCtx); err != nil {
			return err
		}
		return s.use(began, report, func() error {
			if needPlace && s.memory == (region{}) {
				return &NoPlaceError{tid}
			}
			if err := pl.checkSafe(s.stopped()); err != nil {
				return err
			}
			if err := s.adopt(); err != nil {
				return err
			}
			called = true
			return fn(s)
		})
	})
	return called, errors.Join(err, tracer.Close())
}

// seize seizes a thread and only then makes sure that it is one of the process's: from then on its number cannot be
// given to another. One that is not runs on, and is let go when the tracer ends.
func (pl *Plan) seize(tracer *ptrace.Tracer, tid int, opts ptrace.Option) (*ptrace.Thread, proc.Stat, error) {
	th, err := tracer.Seize(pl.process.Pid, tid, opts)
	if err != nil {
		return nil, proc.Stat{}, err
	}
	st, err := pl.process.Stat(tid)
	if err == nil {
		err = pl.process.Check()
	}
	if errors.Is(err, proc.ErrGone) || errors.Is(err, proc.ErrReused) {
		err = fmt.Errorf("thread %d is not of process %d any more: %w", tid, pl.process.Pid, ptrace.ErrGone)
	}
	return th, st, err
}

// use runs fn with the thread, which has just stopped, and gives the thread back on every path, a panic included.
func (s *Session) use(began time.Time, report *Report, fn func() error) (err error) {
	s.began = began
	s.point("call/stopped", "thread stopped")
	defer func() {
		err = errors.Join(s.end(), err)
		report.Pause = time.Since(began)
		report.Threads = 1
		report.Notes = append(report.Notes, s.notes...)
	}()
	if err := s.begin(); err != nil {
		return err
	}
	return fn()
}

// finishOrphan lets a thread run to its end that the record says a tracer was killed with. The thread does so by
// itself; what is waited for is that it is done, since its frame lies where ours may go.
func (pl *Plan) finishOrphan(ctx context.Context, report *Report) error {
	b, err := mem.Bytes(pl.memory, pl.cave.record(), recordSize)
	if err != nil {
		return fmt.Errorf("read record: %w", err)
	}
	r := decodeRecord(b)
	pl.left = r.Arena
	if r.Tid == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pl.opts.Timeout)
	defer cancel()
	tracer := ptrace.Start()
	err = tracer.Do(func() error { return pl.finishThread(ctx, tracer, r) })
	err = errors.Join(err, tracer.Close())
	if err != nil && !errors.Is(err, ptrace.ErrGone) {
		return fmt.Errorf("thread %d was left in borrowed code: %w", r.Tid, err)
	}
	report.Notes = append(report.Notes, fmt.Sprintf("thread %d had been left borrowed by a tracer that was killed", r.Tid))
	record{Arena: r.Arena}.encode(b)
	return pl.memory.WriteAt(b, pl.cave.record())
}

// finishThread lets the record's thread run from system call to system call until it has restored itself: until its
// stack pointer is no longer in borrowed memory.
func (pl *Plan) finishThread(ctx context.Context, tracer *ptrace.Tracer, r record) error {
	th, _, err := pl.seize(tracer, int(r.Tid), 0)
	if err != nil {
		return err
	}
	stop, err := th.Stop(ctx)
	if err != nil {
		return err
	}
	var regs ptrace.Regs
	for {
		if err := th.Regs(&regs); err != nil {
			return err
		}
		if !pl.inBorrowed(r, regs.SP()) && !pl.cave.contains(regs.PC()) {
			return th.Detach(0)
		}
		var sig syscall.Signal
		if stop.Kind == ptrace.Signal {
			sig = stop.Signal
		}
		if err := th.Resume(true, sig); err != nil {
			return err
		}
		if stop, err = th.Wait(ctx); err != nil {
			return err
		}
		if stop.Kind == ptrace.Exited {
			return ptrace.ErrGone
		}
	}
}

// inBorrowed reports whether a stack pointer lies in a region of the record in which the frame is still intact: after
// the thread has restored itself, its own stack may one day come to where the region was.
func (pl *Plan) inBorrowed(r record, sp mem.Addr) bool {
	for _, g := range r.Region {
		if !g.contains(sp) {
			continue
		}
		if ret, err := mem.Pointer(pl.memory, g.frame()); err == nil && ret == pl.cave.sigreturn() {
			return true
		}
	}
	return false
}
