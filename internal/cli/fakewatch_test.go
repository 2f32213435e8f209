package cli

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/profiler"
	"github.com/heaptap/heaptap/ptrace"
)

// watchedEngine plays one minute in the life of a process, by a clock that goes on only when somebody waits: it grows
// and shrinks, a debugger is at it for a while, and then comes what end names.
type watchedEngine struct {
	fakeEngine
	clock *fakeClock
	end   string
}

// asWatched gives the environment the engine and the clock of such a life where variant is "watch-END".
func asWatched(env *Env, variant string) {
	end, ok := strings.CutPrefix(variant, "watch-")
	if !ok {
		return
	}
	clock := &fakeClock{now: fakeNow, signal: end == "signal"}
	env.Now, env.Sleep = func() time.Time { return clock.now }, clock.sleep
	env.Engine = watchedEngine{fakeEngine{}, clock, end}
}

// fakeClock goes on by waiting only.
type fakeClock struct {
	now    time.Time
	signal bool // comes when the minute is over
}

func (c *fakeClock) elapsed() time.Duration { return c.now.Sub(fakeNow) }

func (c *fakeClock) sleep(ctx context.Context, d time.Duration) error {
	c.now = c.now.Add(d)
	if c.signal && c.elapsed() >= time.Minute {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGINT); err != nil {
			return err
		}
		<-ctx.Done()
	}
	return context.Cause(ctx)
}

func (e watchedEngine) Observe(context.Context, int) (*profiler.Observation, error) {
	at := e.clock.elapsed()
	o := &profiler.Observation{Since: fakeNow.Add(-time.Hour), Tracked: 100 << 20, Blocks: 9593, Peak: 100 << 20, RSS: 200 << 20}
	switch {
	case at >= time.Minute && e.end == "gone":
		return nil, fmt.Errorf("process 4711: %w", proc.ErrGone)
	case at >= time.Minute && e.end == "detached":
		return nil, fmt.Errorf("process 4711: %w", profiler.ErrNotTracked)
	case at >= time.Minute:
		o.Since = fakeNow.Add(time.Minute)
	case at >= 40*time.Second && at < 42*time.Second:
		return nil, fmt.Errorf("process 4711: %w", profiler.ErrIncomplete)
	case at >= 20*time.Second:
		o.Tracked, o.Peak, o.RSS = 90<<20, 130<<20, 310<<20
	case at >= 10*time.Second:
		o.Tracked, o.Peak, o.RSS = 130<<20, 130<<20, 210<<20
	}
	return o, nil
}

func (e watchedEngine) TakeDump(ctx context.Context, pid int, o profiler.DumpOptions) (*profiler.Dump, error) {
	if at := e.clock.elapsed(); at >= 20*time.Second && at < 30*time.Second {
		return nil, &ptrace.TracedError{Pid: pid, Tid: pid, Tracer: 99, TracerName: "gdb"}
	}
	return e.fakeEngine.TakeDump(ctx, pid, o)
}
