package call

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/internal/fault"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/ptrace"
)

// StoppedThread is where a thread of a stopped process stands.
type StoppedThread struct {
	Tid    int
	PC, SP mem.Addr
	Regs   ptrace.Regs // all of its registers, zero where it is Held
	// Held is a thread in uninterruptible sleep (a vfork's parent): it did not stop, but will, before it executes
	// another instruction of its own.
	Held bool
}

// other is a thread of a stopped process.
type other struct {
	thread *ptrace.Thread
	held   bool
	job    bool // it is stopped by a signal as well, with its whole process
}

// world is all threads of a process, stopped.
type world struct {
	plan    *Plan
	tracer  *ptrace.Tracer
	threads []*other
	known   map[int]*other
	notes   []string
}

// heldAfter is how long a thread may take to stop before its state is looked at.
const heldAfter = 20 * time.Millisecond

func newWorld(pl *Plan, tracer *ptrace.Tracer) *world {
	return &world{plan: pl, tracer: tracer, known: make(map[int]*other)}
}

// seize seizes all threads there are now, which stops none, so that the threads they create are seized from the start.
func (w *world) seize() error {
	tids, err := w.plan.process.Threads()
	if err != nil {
		return err
	}
	w.threads = slices.Grow(w.threads, len(tids)+16)
	_, err = w.add(tids)
	return err
}

// add seizes those of the threads that are new and returns them. A thread that has ended meanwhile is none.
func (w *world) add(tids []int) ([]*other, error) {
	from := len(w.threads)
	for _, tid := range tids {
		if w.known[tid] != nil {
			continue
		}
		th, _, err := w.plan.seize(w.tracer, tid, ptrace.TraceClone)
		var traced *ptrace.TracedError
		switch {
		case errors.Is(err, ptrace.ErrGone):
			continue
		case errors.As(err, &traced) && traced.TracerTid == w.tracer.Tid():
			th = w.tracer.Adopt(tid)
		case err != nil:
			return nil, err
		}
		o := &other{thread: th}
		w.known[tid] = o
		w.threads = append(w.threads, o)
	}
	return slices.Clone(w.threads[from:]), nil // its own: threads that end are taken out of w.threads
}

// stop stops all threads: those that are known, then those that appeared, until none does. The first thread comes last, so
// that a signal to the process still finds it running.
func (w *world) stop(ctx context.Context) error {
	for fresh := slices.Clone(w.threads); len(fresh) > 0; {
		if i := slices.Index(fresh, w.known[w.plan.process.Pid]); i >= 0 {
			fresh = append(slices.Delete(fresh, i, i+1), w.known[w.plan.process.Pid])
		}
		for _, o := range fresh {
			if err := o.thread.Interrupt(); err != nil && !errors.Is(err, ptrace.ErrGone) {
				return err
			}
		}
		short, cancel := context.WithTimeout(ctx, heldAfter)
		defer cancel()
		for _, o := range fresh {
			if err := w.settle(ctx, short, o); err != nil {
				return err
			}
		}
		if w.complete() {
			return nil
		}
		tids, err := w.plan.process.Threads()
		if err != nil {
			return err
		}
		if fresh, err = w.add(tids); err != nil {
			return err
		}
	}
	return nil
}

// complete reports whether the process has as many threads as are known: the directory of its threads has a link for
// each. It costs a hundredth of listing them.
func (w *world) complete() bool {
	var st unix.Stat_t
	err := unix.Stat(w.plan.process.Path("task"), &st)
	return err == nil && int(st.Nlink)-2 == len(w.threads)
}

// settle waits for one thread that was interrupted: when short ends, its state decides whether to wait longer. One that
// ended is forgotten.
func (w *world) settle(ctx, short context.Context, o *other) error {
	stop, err := o.thread.Settle(short)
	if errors.Is(err, ptrace.ErrDeadline) && ctx.Err() == nil {
		st, serr := w.plan.process.Stat(o.thread.Tid)
		if serr == nil && st.State == 'D' {
			o.held = true
			w.notes = append(w.notes, fmt.Sprintf("thread %d sleeps uninterruptibly and is held there", o.thread.Tid))
			return nil
		}
		stop, err = o.thread.Settle(ctx)
	}
	o.job = err == nil && stop.Kind == ptrace.Event && stop.Signal != unix.SIGTRAP
	if errors.Is(err, ptrace.ErrGone) {
		delete(w.known, o.thread.Tid)
		w.threads = slices.DeleteFunc(w.threads, func(x *other) bool { return x == o })
		return nil
	}
	return err
}

// deliver has the first thread take the signals to the process that came while all stood still. The kernel gives such a
// signal to the first thread if that does not block it (complete_signal in kernel/signal.c); when none runs, it leaves it
// to whichever comes back first. Programs count on the first: Python's handlers run there only, and its wait does not end
// because another thread has noticed a signal.
func (w *world) deliver(ctx context.Context) error {
	first := w.known[w.plan.process.Pid]
	if first == nil || first.held || first.job || len(w.threads) < 2 {
		return nil
	}
	for range deliverMost {
		status, err := w.plan.process.Status(w.plan.process.Pid)
		if err != nil || status.ShdPnd&^status.SigBlk == 0 {
			return err
		}
		if err := first.thread.Resume(false, 0); err != nil {
			return err
		}
		short, cancel := context.WithTimeout(ctx, heldAfter)
		_, err = first.thread.Settle(short) // where its handler begins
		cancel()
		if errors.Is(err, ptrace.ErrDeadline) { // somebody has taken the signal back
			_, err = first.thread.Stop(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// deliverMost bounds the signals that are delivered, of which there are 64 kinds.
const deliverMost = 64

// release lets all threads go but the one given. It goes on after an error, and returns what could not be given back.
func (w *world) release(except *ptrace.Thread) error {
	var errs []error
	for _, o := range w.threads {
		if o.held || o.thread == except {
			continue // the kernel detaches from a thread that does not stop when the tracer's OS thread ends
		}
		if err := o.thread.Detach(0); err != nil && !errors.Is(err, ptrace.ErrGone) {
			errs = append(errs, &RestoreError{Tid: o.thread.Tid, Err: err})
		}
	}
	fault.Point("call/released")
	return errors.Join(errs...)
}

// describe reads where each thread stands.
func (w *world) describe() ([]StoppedThread, error) {
	out := make([]StoppedThread, 0, len(w.threads))
	for _, o := range w.threads {
		t := StoppedThread{Tid: o.thread.Tid, Held: o.held}
		if o.held {
			t.PC, t.SP = w.plan.blockedAt(t.Tid)
		} else {
			err := o.thread.Regs(&t.Regs)
			if errors.Is(err, ptrace.ErrGone) {
				continue
			}
			if err != nil {
				return nil, err
			}
			t.PC, t.SP = t.Regs.PC(), t.Regs.SP()
		}
		out = append(out, t)
	}
	return out, nil
}

// all stops every thread, runs fn, and lets them go on every path.
func (pl *Plan) all(ctx context.Context, report *Report, fn func(*world, time.Time) (*ptrace.Thread, error)) error {
	if err := pl.ready(ctx, report); err != nil {
		return err
	}
	tracer := ptrace.Start()
	w := newWorld(pl, tracer)
	err := tracer.Do(func() (err error) {
		stopCtx, cancel := context.WithTimeout(ctx, pl.opts.Timeout)
		defer cancel()
		tracer.Favour()
		tracer.Quiet()
		if err := w.seize(); err != nil {
			return err
		}
		fault.Point("call/all-seized")
		began := time.Now()
		var released *ptrace.Thread
		defer func() {
			err = errors.Join(w.release(released), err)
			report.Pause = time.Since(began)
			report.Threads = len(w.threads)
		}()
		if err := w.stop(stopCtx); err != nil {
			return err
		}
		fault.Point("call/all-stopped")
		if released, err = fn(w, began); err != nil || released != nil {
			return err
		}
		if err := w.deliver(stopCtx); err != nil && !errors.Is(err, ptrace.ErrGone) {
			w.notes = append(w.notes, fmt.Sprintf("a signal that came meanwhile may be taken by any thread: %v", err))
		}
		return nil
	})
	report.Notes = append(report.Notes, w.notes...)
	return errors.Join(err, tracer.Close())
}

func (pl *Plan) freeze(ctx context.Context, fn func() error) (Report, error) {
	var report Report
	err := pl.all(ctx, &report, func(*world, time.Time) (*ptrace.Thread, error) { return nil, fn() })
	return report, err
}

func (pl *Plan) borrowAll(ctx context.Context, fn func(*Session, []StoppedThread) error) (Report, error) {
	var report Report
	tids, err := pl.candidates()
	if err != nil {
		return report, err
	}
	err = pl.all(ctx, &report, func(w *world, began time.Time) (*ptrace.Thread, error) {
		// All are disturbed alike: the first thread comes first, since its stack has room for a frame in any program.
		s := &Session{plan: pl, ctx: ctx, world: w}
		if s.thread = w.first(append([]int{pl.process.Pid}, tids...)); s.thread == nil {
			return nil, ErrNoThread
		}
		report.Tid = s.Tid()
		threads, err := w.describe()
		if err != nil {
			return nil, err
		}
		return s.thread, s.use(began, &report, func() error {
			if err := s.adopt(); err != nil {
				return err
			}
			return fn(s, threads)
		})
	})
	return report, err
}

// Redirect makes a stopped thread of a [Plan.BorrowAll] go on at pc. It takes effect at once and is not undone. The
// borrowed thread itself can be redirected only before its first system call or run.
func (s *Session) Redirect(tid int, pc mem.Addr) error {
	fail := func(err error) error { return fmt.Errorf("redirect thread %d to %v: %w", tid, pc, err) }
	if tid == s.Tid() {
		if s.armed {
			return fail(errors.New("it is in use"))
		}
		if s.state.Regs.InSyscall() {
			return fail(errors.New("it is in a system call"))
		}
		s.state.Regs.SetPC(pc)
		s.framed = false
		return s.thread.SetRegs(&s.state.Regs)
	}
	if s.world == nil || s.world.known[tid] == nil {
		return fail(errors.New("it is not stopped"))
	}
	o := s.world.known[tid]
	if o.held {
		return fail(errors.New("it is in uninterruptible sleep"))
	}
	var regs ptrace.Regs
	if err := o.thread.Regs(&regs); err != nil {
		return fail(err)
	}
	if regs.InSyscall() {
		return fail(errors.New("it is in a system call"))
	}
	regs.SetPC(pc)
	return o.thread.SetRegs(&regs)
}

// Substitute gives general registers of a stopped thread of a [Plan.BorrowAll] other values where they hold certain ones, by
// pairs of old and new, and reports whether there was one. It takes effect at once and is not undone. A thread in a
// system call stays in it as it was: its number, result and place are written as they were read.
func (s *Session) Substitute(tid int, values map[uint64]uint64) (bool, error) {
	fail := func(err error) (bool, error) { return false, fmt.Errorf("change registers of thread %d: %w", tid, err) }
	if tid == s.Tid() {
		if s.armed {
			return fail(errors.New("it is in use"))
		}
		if !s.state.Regs.Substitute(values) {
			return false, nil
		}
		s.framed = false
		return true, s.thread.SetRegs(&s.state.Regs)
	}
	if s.world == nil || s.world.known[tid] == nil {
		return fail(errors.New("it is not stopped"))
	}
	o := s.world.known[tid]
	if o.held {
		return fail(errors.New("it is in uninterruptible sleep"))
	}
	var regs ptrace.Regs
	if err := o.thread.Regs(&regs); err != nil {
		return fail(err)
	}
	if !regs.Substitute(values) {
		return false, nil
	}
	return true, o.thread.SetRegs(&regs)
}
