package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/heaptap/heaptap/profiler"
)

// followFlag is the value of attach --follow.
type followFlag string

const (
	followAll   followFlag = "all"
	followForks followFlag = "forks"
)

func (f *followFlag) String() string { return string(*f) }
func (f *followFlag) Type() string   { return "WHAT" }
func (f *followFlag) Set(s string) error {
	if v := followFlag(s); v == followAll || v == followForks {
		*f = v
		return nil
	}
	return fmt.Errorf("%q is neither all nor forks", s)
}

// memberValue is a process of a tree in JSON.
type memberValue struct {
	Pid    int    `json:"pid"`
	Parent int    `json:"parent"`
	Name   string `json:"name"`
	Error  string `json:"error"`
	Result any    `json:"result"`
}

type treeValue struct {
	Pid       int           `json:"pid"`
	Processes []memberValue `json:"processes"`
}

func membersJSON[T any](list []profiler.Member[T], result func(pid int, r T) any) []memberValue {
	out := make([]memberValue, 0, len(list))
	for _, m := range list {
		v := memberValue{Pid: m.Pid, Parent: m.Parent, Name: m.Name}
		if m.Err != nil {
			v.Error = m.Err.Error()
		} else {
			v.Result = result(m.Pid, m.Result)
		}
		out = append(out, v)
	}
	return out
}

// memberNotes tells of the processes with which it did not work.
func memberNotes[T any](a *app, list []profiler.Member[T]) {
	for _, m := range list {
		if m.Err != nil {
			a.note(fmt.Sprintf("%d %s: %v", m.Pid, printable(m.Name), m.Err))
		}
	}
}

// treeGrid shows what there is to show of each process of a tree with a result, in columns between its number and its
// name.
func treeGrid[T any](a *app, list []profiler.Member[T], names []string, cells func(T) []string) {
	g := &grid{align: slices.Concat([]align{right}, slices.Repeat([]align{right}, len(names)), []align{left})}
	g.add(slices.Concat([]string{"PID"}, names, []string{"NAME"})...)
	for _, m := range list {
		if m.Err == nil {
			g.add(slices.Concat([]string{strconv.Itoa(m.Pid)}, cells(m.Result), []string{printable(m.Name)})...)
		}
	}
	g.write(a.Stdout, a.Term.Width(), a.stdoutStyle().header)
}

func succeeded[T any](list []profiler.Member[T]) (n uint64) {
	for _, m := range list {
		if m.Err == nil {
			n++
		}
	}
	return n
}

// attachTree attaches to one process or to a tree, and stays where more may come.
func (a *app) attachTree(
	ctx context.Context, pid int, o profiler.AttachOptions, tree bool, follow followFlag, asJSON bool,
) error {
	if follow == followAll {
		return a.follow(ctx, pid, o, tree, asJSON)
	}
	list, err := a.Engine.AttachTree(ctx, pid, o)
	if err != nil {
		return err
	}
	if asJSON {
		return a.writeJSON(treeValue{pid, membersJSON(list, func(pid int, at *profiler.Attachment) any {
			return attachmentJSON(pid, o, at)
		})})
	}
	fmt.Fprintf(a.Stdout, "tracking %s\n", a.stdoutStyle().bold(plural(succeeded(list), "process", "processes")))
	treeGrid(a, list, []string{"PYTHON", "PAUSE"}, func(at *profiler.Attachment) []string {
		pause := durationText(at.Pause)
		if at.Already {
			pause = "tracked already"
		}
		return []string{versionText(at.Python), pause}
	})
	memberNotes(a, list)
	var told []string
	for _, m := range list {
		if m.Err == nil {
			for _, n := range m.Result.Notes {
				if !slices.Contains(told, n) {
					told = append(told, n)
				}
			}
		}
	}
	a.notes(told)
	if a.Term.Stderr {
		a.hint(fmt.Sprintf("look with `heaptap status %d --tree`, take a snapshot with `heaptap dump %d --tree`", pid, pid))
	}
	return nil
}

// followValue is an event of attach --follow in JSON.
type followValue struct {
	Event  profiler.FollowKind `json:"event"`
	Time   time.Time           `json:"time"`
	Pid    int                 `json:"pid"`
	Parent int                 `json:"parent"`
	Name   string              `json:"name"`
	Result *attachmentValue    `json:"result,omitempty"`
	Error  string              `json:"error,omitempty"`
}

// follow attaches, and then to whatever comes below the process, until the last has ended. It tells of each.
func (a *app) follow(ctx context.Context, pid int, o profiler.AttachOptions, tree, asJSON bool) error {
	tell := a.tellFollowed
	if asJSON {
		tell = func(e profiler.FollowEvent) error {
			v := followValue{Event: e.Kind, Time: a.Now(), Pid: e.Pid, Parent: e.Parent, Name: e.Name}
			if e.Attachment != nil {
				at := attachmentJSON(e.Pid, o, e.Attachment)
				v.Result = &at
			}
			if e.Err != nil {
				v.Error = e.Err.Error()
			}
			enc := json.NewEncoder(a.Stdout)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(v); err != nil {
				return &outputError{"standard output", err}
			}
			return nil
		}
	}
	// First in a way that fails if it cannot be. A process that runs no Python yet, as a shell, may come to do so.
	if !tree {
		at, err := a.Engine.Attach(ctx, pid, o)
		if err != nil {
			return err
		}
		a.notes(at.Notes)
	}
	if !asJSON {
		fmt.Fprintf(a.Stdout, "following process %s and what comes of it\n", a.stdoutStyle().bold(strconv.Itoa(pid)))
		if a.Term.Stderr {
			a.hint("Ctrl-C ends the following, not the tracking")
		}
	}
	return a.Engine.Follow(ctx, pid, profiler.FollowOptions{Attach: o, Tell: tell})
}

// tellFollowed writes a line about an event.
func (a *app) tellFollowed(e profiler.FollowEvent) error {
	what := string(e.Kind)
	switch e.Kind {
	case profiler.FollowForked:
		what = fmt.Sprintf("forked from %d, tracked", e.Parent)
	case profiler.FollowAttached:
		what = "tracked, CPython " + versionText(e.Attachment.Python)
		if !e.Attachment.Already {
			what += ", pause " + durationText(e.Attachment.Pause)
		}
	case profiler.FollowFailed:
		what = fmt.Sprintf("NOT tracked: %v", e.Err)
	case profiler.FollowEnded:
		what = "gone: ended, or another program"
	}
	_, err := fmt.Fprintf(a.Stdout, "%s  %7d %s: %s\n", a.Now().Format(time.TimeOnly), e.Pid, printable(e.Name), printable(what))
	if err != nil {
		return &outputError{"standard output", err}
	}
	return nil
}

// statusTree shows a line for each tracked process of a tree.
func (a *app) statusTree(ctx context.Context, pid int, asJSON bool) error {
	list, err := a.Engine.StatusOfTree(ctx, pid)
	if err != nil {
		return err
	}
	if asJSON {
		return a.writeJSON(treeValue{pid, membersJSON(list, func(_ int, s *profiler.Status) any { return statusJSON(s) })})
	}
	treeGrid(a, list, []string{"STATE", "LIVE", "BLOCKS", "PEAK", "RSS", "LOST"}, func(s *profiler.Status) []string {
		sum := sumTotals(s.Totals)
		return []string{string(s.State), sizeText(sum.LiveBytes), countText(sum.LiveBlocks), sizeText(s.PeakBytes),
			sizeText(s.Resident), countText(s.Lost)}
	})
	memberNotes(a, list)
	return nil
}

// dumpTreeValue is what dump --tree prints in JSON.
type dumpTreeValue struct {
	dumpValue
	Processes []memberValue `json:"processes"`
	Untracked []memberName  `json:"untracked"`
}

type memberName struct {
	Pid    int    `json:"pid"`
	Parent int    `json:"parent"`
	Name   string `json:"name"`
}

type memberDump struct {
	PauseNS int64    `json:"pause_ns"`
	TookNS  int64    `json:"took_ns"`
	Notes   []string `json:"notes"`
}

// dumpTree writes one snapshot of a tree.
func (a *app) dumpTree(ctx context.Context, pid int, path string, o profiler.DumpOptions, asJSON bool) error {
	var d *profiler.TreeDump
	size, err := a.output(path, func(w io.Writer) (err error) {
		if d, err = a.Engine.TakeTreeDump(ctx, pid, o); err != nil {
			return err
		}
		return d.Snapshot.Write(w)
	})
	if err != nil {
		return err
	}
	sum := &profiler.Dump{Snapshot: d.Snapshot, Pause: d.Pause, Took: d.Took}
	untracked := make([]memberName, 0, len(d.Untracked))
	for _, m := range d.Untracked {
		untracked = append(untracked, memberName{m.Pid, m.Parent, m.Name})
	}
	if asJSON {
		return a.writeJSON(dumpTreeValue{dumpJSON(pid, path, size, sum),
			membersJSON(d.Members, func(_ int, d *profiler.Dump) any {
				return memberDump{int64(d.Pause), int64(d.Took), list(d.Notes)}
			}), untracked})
	}
	sum.Notes = append(sum.Notes, fmt.Sprintf("of %s, which `heaptap report --by process` tells apart",
		plural(succeeded(d.Members), "process", "processes")))
	for _, m := range d.Members {
		if m.Err == nil {
			for _, n := range m.Result.Notes {
				sum.Notes = append(sum.Notes, fmt.Sprintf("%d %s: %s", m.Pid, printable(m.Name), n))
			}
		}
	}
	a.showDump(path, size, o.NoPause, sum)
	memberNotes(a, d.Members)
	if len(untracked) > 0 {
		text := "not tracked, and not in it:"
		for i, m := range untracked {
			if i > 0 {
				text += ","
			}
			text += fmt.Sprintf(" %d %s", m.Pid, printable(m.Name))
		}
		a.note(text)
	}
	return nil
}

// endTree detaches from all processes of a tree.
func (a *app) endTree(ctx context.Context, e ending, pid int, asJSON bool) error {
	list, err := e.doTree(ctx, pid)
	if e.untracked != "" && errors.Is(err, profiler.ErrNotTracked) {
		a.note(e.untracked)
		err = nil
	}
	if err != nil {
		return err
	}
	if asJSON {
		return a.writeJSON(treeValue{pid, membersJSON(list, func(pid int, d *profiler.Detachment) any {
			return detachmentJSON(pid, d)
		})})
	}
	fmt.Fprintf(a.Stdout, "%s %s\n", e.done, a.stdoutStyle().bold(plural(succeeded(list), "process", "processes")))
	treeGrid(a, list, []string{"WORDS", "PAUSE", "AGENT"}, func(d *profiler.Detachment) []string {
		agent := "gone"
		if !d.Unmapped {
			agent = "stays"
		}
		return []string{countText(uint64(d.Restored)), durationText(d.Pause), agent}
	})
	memberNotes(a, list)
	for _, m := range list {
		if m.Err == nil && !m.Result.Unmapped {
			a.note(fmt.Sprintf("%d %s: the agent stays mapped, and lets everything through: %s", m.Pid, printable(m.Name),
				m.Result.Why))
		}
		if m.Err == nil {
			a.notes(m.Result.Foreign)
		}
	}
	return nil
}
