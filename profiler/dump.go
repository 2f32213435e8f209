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
	a, err := t.tracked()
	if err != nil {
		return nil, err
	}
	switch s := a.state(); s {
	case Tracking:
	case Forked:
		return nil, fmt.Errorf("process %d is a forked child of a tracked process, and is not followed: %w", pid, ErrNotTracked)
	case Incomplete:
		return nil, fmt.Errorf("process %d: %w", pid, ErrIncomplete)
	default:
		return nil, fmt.Errorf("process %d (%s): %w", pid, s, ErrNotTracked)
	}
	d := &Dump{}
	c := &agent.Capture{}
	copyTables := func() error {
		limit, err := t.tablesLimit(a)
		if err != nil {
			return err
		}
		return c.Copy(t.mem, a.tablesAt(), limit)
	}
	fault.Point("dump/begun")
	if err := copyTables(); err != nil {
		return nil, err
	}
	taken := time.Now()
	if !o.NoPause {
		plan, err := call.Prepare(t.proc, call.Options{})
		if err != nil {
			return nil, err
		}
		limit, err := t.tablesLimit(a)
		if err != nil {
			return nil, err
		}
		report, err := plan.Freeze(ctx, func() error {
			fault.Point("dump/frozen")
			taken = time.Now()
			return c.Copy(t.mem, a.tablesAt(), limit)
		})
		if err != nil {
			return nil, err
		}
		d.Pause = report.Pause
		d.Notes = append(d.Notes, report.Notes...)
	}
	fault.Point("dump/copied")
	limit, err := t.tablesLimit(a)
	if err != nil {
		return nil, err
	}
	if err := c.CopyNames(t.mem, a.tablesAt(), limit); err != nil {
		return nil, err
	}
	if err := t.proc.Check(); err != nil {
		return nil, err
	}
	info := snapshotInfo{pid: pid, command: t.command(), taken: taken, pause: d.Pause, paused: !o.NoPause}
	d.Snapshot, d.Blocks, err = buildSnapshot(c, info)
	if err != nil {
		return nil, err
	}
	d.Took = time.Since(began)
	return d, nil
}

// tablesLimit bounds what may be copied: what the tables occupy, with room for what comes meanwhile.
func (t *target) tablesLimit(a *placed) (uint64, error) {
	resident, err := t.proc.Resident(a.tables)
	return 2*resident + 64<<20, err
}

// command is the target's command line, for people.
func (t *target) command() string {
	b, err := os.ReadFile(t.proc.Path("cmdline"))
	if err != nil {
		return ""
	}
	return strings.TrimRight(strings.ReplaceAll(string(b), "\x00", " "), " ")
}
