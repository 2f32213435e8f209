package inferior

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/ptrace"
)

// Thread names one thread of a process.
type Thread struct {
	Tid  int
	Name string // as the kernel keeps it (comm), at most 15 bytes
}

// String is "thread 4711 (worker)".
func (t Thread) String() string { return fmt.Sprintf("thread %d (%s)", t.Tid, t.Name) }

// NoThreadError says that no thread of the process is the one that was asked for.
type NoThreadError struct {
	Pid    int
	Wanted string
	Have   []Thread
}

func (e *NoThreadError) Error() string {
	return fmt.Sprintf("process %d has no thread %q", e.Pid, e.Wanted)
}

// AmbiguousThreadError says that several threads have the name that was asked for.
type AmbiguousThreadError struct {
	Name string
	Have []Thread
}

func (e *AmbiguousThreadError) Error() string {
	return fmt.Sprintf("%d threads are called %q", len(e.Have), e.Name)
}

// Threads lists the threads there are now, by ascending id.
func (p *Process) Threads() ([]Thread, error) {
	tids, err := p.process.Threads()
	if err != nil {
		return nil, err
	}
	out := make([]Thread, 0, len(tids))
	for _, tid := range tids {
		st, err := p.process.Stat(tid)
		switch {
		case errors.Is(err, proc.ErrGone):
			continue // ended since
		case err != nil:
			return nil, err
		case st.State == 'Z' || st.State == 'X':
			continue
		}
		out = append(out, Thread{tid, st.Comm})
	}
	return out, nil
}

// FindThread finds a thread by its id, or by its name where that is unambiguous. The error is a *[NoThreadError] or
// an *[AmbiguousThreadError].
func (p *Process) FindThread(which string) (Thread, error) {
	threads, err := p.Threads()
	if err != nil {
		return Thread{}, err
	}
	var named []Thread
	for _, t := range threads {
		if strconv.Itoa(t.Tid) == which {
			return t, nil
		}
		if strings.EqualFold(t.Name, which) {
			named = append(named, t)
		}
	}
	switch len(named) {
	case 0:
		return Thread{}, &NoThreadError{p.Pid(), which, threads}
	case 1:
		return named[0], nil
	}
	return Thread{}, &AmbiguousThreadError{which, named}
}

// defaultTimeout bounds every wait where the caller sets no limit.
const defaultTimeout = 10 * time.Second

// hold stops one thread while fn runs with it, and lets it go on every path.
func (p *Process) hold(ctx context.Context, tid int, fn func(*ptrace.Thread) error) error {
	p.stops.Lock()
	defer p.stops.Unlock()
	ctx, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	tracer := ptrace.Start()
	err := tracer.Do(func() error {
		th, err := tracer.Seize(p.Pid(), tid, 0)
		if err != nil {
			return err
		}
		// Only now is it sure that the number is still the process's: a seized thread keeps its own.
		if _, err := p.process.Stat(tid); err != nil {
			return fmt.Errorf("thread %d: %w", tid, err)
		}
		if err := p.process.Check(); err != nil {
			return err
		}
		if _, err := th.Stop(ctx); err != nil {
			return err
		}
		err = fn(th)
		return errors.Join(err, th.Detach(0))
	})
	return errors.Join(err, tracer.Close())
}
