package profiler

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/internal/fault"
)

// TakeDump makes a snapshot of what is live. The target stands still only while its tables are copied; the first,
// unhurried copy before that makes sure that our memory for it is there.
func TakeDump(ctx context.Context, pid int, o DumpOptions) (*Dump, error) {
	began := time.Now()
	t, err := open(pid)
	if err != nil {
		return nil, err
	}
	defer t.close()
	a, err := t.tracking()
	if err != nil {
		return nil, err
	}
	resident, err := t.noteResident(a)
	if err != nil {
		return nil, err
	}
	d := &Dump{}
	c := &agent.Capture{Running: o.NoPause}
	types := findTypes(t, o.ending)
	defer types.close()
	taken, err := t.capture(ctx, a, c, o, d, types)
	if err != nil {
		return nil, err
	}
	if err := t.nameThreads(c); err != nil {
		return nil, err
	}
	labels := types.resolve(t, c, a.tablesAt())
	d.Notes = append(d.Notes, labels.notes...)
	info := snapshotInfo{pid: pid, command: t.command(), taken: taken, pause: d.Pause, paused: !o.NoPause,
		resident: resident}
	if info.memory, err = t.memoryAt(a, c); err != nil {
		d.Notes = append(d.Notes, fmt.Sprintf("what the process's memory is made of is not known: %v", err))
	}
	var lengths *lengthSampler
	if o.lengths {
		lengths = &lengthSampler{candidates: map[int32][]candidate{}}
	}
	d.Snapshot, d.Blocks, err = buildSnapshot(c, labels, o.Filter, lengths, info)
	if err != nil {
		return nil, err
	}
	if lengths != nil {
		lengths.read(t, labels.types)
		d.containers = lengths.found
	}
	d.Took = time.Since(began)
	return d, nil
}

// tracking returns the agent that tracks the target now, with no more against it than displaced hooks.
func (t *target) tracking() (*placed, error) {
	a, err := t.tracked()
	if err != nil {
		return nil, err
	}
	switch s := a.state(); s {
	case Tracking:
		return a, nil
	case Forked:
		return nil, fmt.Errorf("process %d is a forked child of a tracked process, and is not followed: %w",
			t.proc.Pid, ErrNotTracked)
	case Incomplete:
		return nil, fmt.Errorf("process %d: %w", t.proc.Pid, ErrIncomplete)
	default:
		return nil, fmt.Errorf("process %d (%s): %w", t.proc.Pid, s, ErrNotTracked)
	}
}

// capture copies the tables, and what types needs with them, and says when. What it cost goes to d.
func (t *target) capture(
	ctx context.Context, a *placed, c *agent.Capture, o DumpOptions, d *Dump, types *typeSource,
) (time.Time, error) {
	var taken time.Time
	limit, err := t.tablesLimit(a)
	if err != nil {
		return taken, err
	}
	copyTables := func() error {
		taken = time.Now()
		return c.Copy(t.mem, a.tablesAt(), limit)
	}
	fault.Point("dump/begun")
	if err := copyTables(); err != nil {
		return taken, err
	}
	if o.NoPause {
		if err := t.refreshUnlocked(a); err != nil {
			return taken, err
		}
	} else {
		// A detach that meets a thread held by us has to stop half way: it comes before or after.
		unlock, err := t.lock()
		if err != nil {
			return taken, err
		}
		defer unlock()
		if err := t.refreshFrames(a); err != nil {
			return taken, err
		}
		plan, err := call.Prepare(t.proc, call.Options{})
		if err != nil {
			return taken, err
		}
		types.plan(t, c)
		report, err := plan.Freeze(ctx, func() error {
			fault.Point("dump/frozen")
			if err := copyTables(); err != nil {
				return err
			}
			types.copy(c, time.Now().Add(pauseBudget))
			return nil
		})
		if err != nil {
			return taken, err
		}
		d.Pause = report.Pause
		d.Notes = append(d.Notes, report.Notes...)
	}
	fault.Point("dump/copied")
	if err := c.CopyNames(t.mem, a.tablesAt(), limit); err != nil {
		return taken, err
	}
	return taken, t.proc.Check()
}

// tablesLimit bounds what may be copied of an agent's tables.
func (t *target) tablesLimit(a *placed) (uint64, error) {
	resident, err := t.proc.Resident(a.tables)
	return limitOf(resident), err
}

// command is the target's command line, for people.
func (t *target) command() string {
	b, err := os.ReadFile(t.proc.Path("cmdline"))
	if err != nil {
		return ""
	}
	return strings.TrimRight(strings.ReplaceAll(string(b), "\x00", " "), " ")
}
