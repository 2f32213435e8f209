package cli

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/heaptap/heaptap/launch"
	"github.com/heaptap/heaptap/profiler"
)

// Env is the only door through which a command reaches the world outside: streams, clock, terminal, engine.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer // data
	Stderr io.Writer // talk
	Getenv func(string) string
	Now    func() time.Time
	Sleep  func(context.Context, time.Duration) error // returns the context's error when that ends first
	Term   Terminal
	Engine Engine
	Open   func(pid int) (Inferior, error) // for the commands that act on any process
	// Interruptible derives a context that ends with the first SIGINT or SIGTERM. After stop, signals act as if
	// heaptap had never asked for them.
	Interruptible func(context.Context) (ctx context.Context, stop context.CancelFunc)
	// Relay has signals told to us, all but those in the set ignored; Die ends heaptap by a signal.
	Relay func(ignored uint64, signals ...syscall.Signal) (*launch.Relay, error)
	Die   func(syscall.Signal)
}

// Terminal says what stands behind the standard streams.
type Terminal struct {
	Stdout, Stderr bool       // is a terminal
	Width          func() int // columns of stdout; 0: not limited
}

// Engine is what the commands need of package profiler.
type Engine interface {
	List(context.Context) ([]profiler.Candidate, error)
	Attach(context.Context, int, profiler.AttachOptions) (*profiler.Attachment, error)
	ReadStatus(context.Context, int) (*profiler.Status, error)
	Observe(context.Context, int) (*profiler.Observation, error)
	TakeDump(context.Context, int, profiler.DumpOptions) (*profiler.Dump, error)
	FindLeaks(context.Context, int, profiler.LeakOptions) (*profiler.LeakHunt, error)
	Detach(context.Context, int) (*profiler.Detachment, error)
	Repair(context.Context, int) (*profiler.Detachment, error)
	Examine(context.Context, int) ([]profiler.Check, error)
	Start(context.Context, profiler.RunOptions) (*profiler.Run, error)

	AttachTree(context.Context, int, profiler.AttachOptions) ([]profiler.Member[*profiler.Attachment], error)
	StatusOfTree(context.Context, int) ([]profiler.Member[*profiler.Status], error)
	TakeTreeDump(context.Context, int, profiler.DumpOptions) (*profiler.TreeDump, error)
	DetachTree(context.Context, int) ([]profiler.Member[*profiler.Detachment], error)
	RepairTree(context.Context, int) ([]profiler.Member[*profiler.Detachment], error)
	Follow(context.Context, int, profiler.FollowOptions) error
}

// System is the real world.
func System() Env {
	return Env{
		Stdin:         os.Stdin,
		Stdout:        os.Stdout,
		Stderr:        os.Stderr,
		Getenv:        os.Getenv,
		Now:           time.Now,
		Sleep:         sleep,
		Term:          systemTerminal(),
		Engine:        liveEngine{},
		Open:          openLive,
		Interruptible: untilSignal,
		Relay:         launch.StartRelay,
		Die:           launch.Die,
	}
}

func systemTerminal() Terminal {
	out := int(os.Stdout.Fd())
	t := Terminal{Stdout: term.IsTerminal(out), Stderr: term.IsTerminal(int(os.Stderr.Fd()))}
	t.Width = func() int {
		if w, _, err := term.GetSize(out); err == nil && w > 0 {
			return w
		}
		if w, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && w > 0 {
			return w
		}
		return 0
	}
	return t
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// untilSignal lets the first signal end the context. The default action is back at once, so that a second Ctrl-C ends
// heaptap even where it does not listen; the target is safe from that (design section 3).
func untilSignal(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) { // as nohup has it
			signal.Notify(signals, s)
		}
	}
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(&interruptedError{signal: s.(syscall.Signal)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(context.Canceled)
	}
}

// interruptedError says that a signal ended the work.
type interruptedError struct{ signal syscall.Signal }

func (e *interruptedError) Error() string { return "stopped by signal: " + e.signal.String() }

// Is makes an interruption look like the cancelling that it caused.
func (e *interruptedError) Is(target error) bool { return target == context.Canceled }
