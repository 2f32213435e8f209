package profiler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/ptrace"
)

// What [FindLeaks] does that is not told otherwise: half a minute between snapshots shows trends through the noise of
// most servers, and ten intervals let chance explain a trend in one of a million cases.
const (
	DefaultLeakWindow    = 5 * time.Minute
	DefaultLeakSnapshots = 11
)

// LeakOptions say how to look for leaks.
type LeakOptions struct {
	Window    time.Duration // from the first snapshot to the last; 0 is DefaultLeakWindow
	Snapshots int           // 0 is DefaultLeakSnapshots; at least heap.LeakSnapshots
	Dump      DumpOptions

	// View turns each snapshot, as it was taken, into that by which is judged; nil leaves them as they are. The order of
	// records must stay.
	View func(*heap.Snapshot) *heap.Snapshot
	// Wait returns when it is time for snapshot next, of 1 to Snapshots-1. Nil waits by the clock, so that snapshots
	// are equally far apart.
	Wait func(ctx context.Context, next int) error
	// Taken is told of each snapshot; may be nil.
	Taken func(n int, d *Dump)
}

// LeakHunt is what [FindLeaks] found.
type LeakHunt struct {
	*heap.LeakReport
	// Containers are some of the containers that each suspect still keeps, by its stack; the oldest first. Whoever leaks
	// by holding on to too much often shows in their lengths.
	Containers map[int32][]Container
	Pause      time.Duration // the longest that the target stood still
	Took       time.Duration
	Notes      []string // what a user should know
}

// FindLeaks takes snapshots of a tracked process over a window and judges what grew by them, as [heap.Leaks] does. Where
// the process ends within the window, what was seen until then is judged, if it is enough.
func FindLeaks(ctx context.Context, pid int, o LeakOptions) (*LeakHunt, error) {
	began := time.Now()
	o.Window = cmp.Or(o.Window, DefaultLeakWindow)
	o.Snapshots = cmp.Or(o.Snapshots, DefaultLeakSnapshots)
	if o.Snapshots < heap.LeakSnapshots || o.Window < 0 {
		return nil, fmt.Errorf("look for leaks by %d snapshots in %v: it takes %d and a window", o.Snapshots, o.Window,
			heap.LeakSnapshots)
	}
	wait := o.Wait
	if wait == nil {
		wait = func(ctx context.Context, next int) error {
			return waitUntil(ctx, began.Add(o.Window*time.Duration(next)/time.Duration(o.Snapshots-1)))
		}
	}
	h := &LeakHunt{}
	var series []*heap.Snapshot
	var containers []Container
	for n := range o.Snapshots {
		if n > 0 {
			if err := wait(ctx, n); err != nil {
				return nil, err
			}
		}
		o.Dump.lengths = n == o.Snapshots-1
		d, err := TakeDump(ctx, pid, o.Dump)
		if ended(err) && len(series) >= heap.LeakSnapshots {
			h.Notes = append(h.Notes, fmt.Sprintf("the process ended within the window: %d of %d snapshots", n, o.Snapshots))
			break
		}
		if err != nil {
			return nil, fmt.Errorf("snapshot %d of %d: %w", n+1, o.Snapshots, err)
		}
		containers = d.containers
		if o.View != nil {
			series = append(series, o.View(d.Snapshot))
			viewContainers(containers, o.View)
		} else {
			series = append(series, d.Snapshot)
		}
		h.Pause = max(h.Pause, d.Pause)
		if n == 0 {
			h.Notes = append(h.Notes, d.Notes...)
		}
		if o.Taken != nil {
			o.Taken(n, d)
		}
	}
	var err error
	if h.LeakReport, err = heap.Leaks(series); err != nil {
		return nil, err
	}
	h.Containers = containersOf(h.LeakReport, containers)
	h.Took = time.Since(began)
	return h, nil
}

// ended tells whether the process is not there any more.
func ended(err error) bool {
	return errors.Is(err, proc.ErrGone) || errors.Is(err, proc.ErrZombie) || errors.Is(err, ptrace.ErrGone)
}

func waitUntil(ctx context.Context, at time.Time) error {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
