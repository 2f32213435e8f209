package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/profiler"
	"github.com/heaptap/heaptap/report"
)

func (a *app) statusCommand() *cobra.Command {
	var tree, asJSON bool
	c := &cobra.Command{
		Use:   "status PID",
		Short: "Show what is tracked, and what that costs",
		Long: "Shows the totals by allocator domain, live and ever, what tracking itself takes,\n" +
			"and what it does not see. The process is not stopped; with --on-signal a thread\n" +
			"of it is, for an instant, to ask whether the handler is still in place.",
		Example: example(
			"heaptap status 4711", "show it",
			"heaptap status 4711 --tree", "and its children",
			"heaptap status 4711 --json | jq .total.live_bytes", "for scripts"),
		GroupID:           groupTrack,
		Args:              exactly("PID"),
		ValidArgsFunction: a.completePid,
		RunE: func(c *cobra.Command, args []string) error {
			pid, err := a.target(c, args[0])
			if err != nil {
				return err
			}
			if tree {
				return a.statusTree(c.Context(), pid, asJSON)
			}
			s, err := a.Engine.ReadStatus(c.Context(), pid)
			if err != nil {
				return err
			}
			if asJSON {
				return a.writeJSON(statusJSON(s))
			}
			a.showStatus(s)
			return nil
		},
	}
	c.Flags().BoolVar(&tree, "tree", false, "of it and all tracked processes below it")
	jsonFlag(c, &asJSON)
	return c
}

// stateMeaning explains a state to somebody who has not read the design, and what to do where something is to be done.
func stateMeaning(s profiler.State) (meaning, hint string) {
	switch s {
	case profiler.Tracking:
		return "tracking", ""
	case profiler.Displaced:
		return "displaced: some hooks were taken out by somebody else",
			"`heaptap detach PID` and `heaptap attach PID` hook anew"
	case profiler.Incomplete:
		return "incomplete: an attach or detach was cut short", "`heaptap repair PID` gives everything back"
	case profiler.Passive:
		return "pass-through: detached, but something still points into the agent", "`heaptap detach PID` tries again"
	case profiler.Forked:
		return "forked: a child of a tracked process; hooks inherited, nothing recorded",
			"`heaptap detach PID` takes the hooks out"
	}
	return string(s), ""
}

func (a *app) showStatus(s *profiler.Status) {
	meaning, hint := stateMeaning(s.State)
	if s.State == profiler.Tracking && !s.Since.IsZero() {
		meaning += fmt.Sprintf(" since %s (%s), %s", s.Since.Format(time.DateTime),
			a.Now().Sub(s.Since).Round(time.Second), samplingText(s.SampleBytes))
	}
	width := a.Term.Width()
	hang(a.Stdout, "process  ", plain, fmt.Sprint(s.Pid), width)
	if s.Python.Version != "" {
		hang(a.Stdout, "python   ", plain, pythonText(s.Python), width)
	}
	hang(a.Stdout, "state    ", plain, meaning, width)

	if s.OnSignal != nil {
		hang(a.Stdout, "signal   ", plain, printable(outletText(s.OnSignal)), width)
	}

	if len(s.Totals) > 0 {
		a.showNumbers(s)
	}
	if len(s.NotSeen) > 0 {
		fmt.Fprintf(a.Stdout, "\nnot seen:\n")
	}
	for _, why := range s.NotSeen {
		hang(a.Stdout, "  - ", plain, printable(why), width)
	}
	if hint != "" {
		a.hint(hint)
	}
}

// outletText tells how it stands with files upon a signal.
func outletText(o *profiler.OutletStatus) string {
	text := profiler.SignalName(o.Signal)
	switch o.Place {
	case profiler.Foreign:
		return text + ": foreign: the program has put something else in the place of heaptap's handler; it writes no file"
	case profiler.PlaceUnknown:
		text += " (whether heaptap's handler is still in place is not known)"
	}
	text += fmt.Sprintf(" has it write %s; %s written", o.Pattern, plural(o.Written, "file", "files"))
	if o.Last != "" {
		text += ", the last is " + o.Last
	}
	if o.Failed > 0 {
		text += fmt.Sprintf("; %d could not be", o.Failed)
	}
	if o.Error != nil {
		text += fmt.Sprintf(", the last since: %v", o.Error)
	}
	if o.Passed > 0 {
		text += fmt.Sprintf("; %s came while one was being written", plural(o.Passed, "signal", "signals"))
	}
	return text
}

// showNumbers shows what is counted and what the counting takes.
func (a *app) showNumbers(s *profiler.Status) {
	fmt.Fprintln(a.Stdout)
	totalsGrid(s).write(a.Stdout, 0, a.stdoutStyle().header)

	if s.Memory != nil {
		fmt.Fprintln(a.Stdout)
		memoryGrid(s.Memory).write(a.Stdout, 0, a.stdoutStyle().header)
	}

	fmt.Fprintln(a.Stdout)
	facts := grid{align: []align{right, left}}
	if s.SampleBytes == 0 { // when sampling, most blocks are not seen, and nobody counts
		before := "the attach"
		if s.Parent != 0 {
			before = "the fork"
		}
		facts.add(countText(s.UnseenFrees), "frees of blocks not seen allocated, mostly from before "+before)
	}
	if s.Lost > 0 {
		facts.add(countText(s.Lost), "allocations NOT recorded, since a table was full")
	}
	if s.Follows {
		facts.add(countText(s.Followed), "forked children that got tables of their own")
	}
	if s.NotFollowed > 0 {
		facts.add(countText(s.NotFollowed), "forked children NOT tracked, for want of address space")
	}
	if s.PeakBytes > 0 {
		facts.add(sizeText(s.PeakBytes), "the most that was live at once")
	}
	if s.Resident > 0 && s.Memory == nil {
		facts.add(sizeText(s.Resident), "of the process in memory (RSS), heaptap's share included")
	}
	if m := s.Memory; m != nil {
		if m.Absent > 0 {
			facts.add(sizeText(m.Absent), "of what is live not in memory: never touched, or swapped out")
		}
		if m.Swapped > 0 {
			facts.add(sizeText(m.Swapped), "of the process swapped out")
		}
		facts.add(report.Size(m.HeapGrowth), "growth of the heap (brk) since the attach")
	}
	facts.add(countText(s.Stacks), "stack nodes")
	facts.add(countText(s.CodeObjects), "code objects")
	facts.add(countText(s.Threads), "threads that have allocated")
	facts.add(sizeText(s.AgentText+s.AgentTables), fmt.Sprintf("taken by heaptap: code %s, tables %s (%s of addresses)",
		sizeText(s.AgentText), sizeText(s.AgentTables), sizeText(s.AgentReserved)))
	facts.write(a.Stdout, 0, nil)
}

func totalsGrid(s *profiler.Status) *grid {
	g := &grid{align: []align{left, right, right, right, right, right, right}}
	g.add("domain", "live", "blocks", "allocated", "blocks", "freed", "blocks")
	row := func(name string, t profiler.Totals) {
		g.add(name, sizeText(t.LiveBytes), countText(t.LiveBlocks), sizeText(t.AllocBytes), countText(t.AllocBlocks),
			sizeText(t.FreedBytes), countText(t.FreedBlocks))
	}
	for _, t := range s.Totals {
		row(t.Domain.String(), t)
	}
	row("total", sumTotals(s.Totals))
	return g
}

// memoryGrid shows what the process's memory is made of.
func memoryGrid(m *profiler.Memory) *grid {
	g := &grid{align: []align{left, right, right, left}}
	g.add("memory", "resident", "share")
	row := func(name string, bytes uint64, what string) {
		g.add(name, sizeText(bytes), report.Percent(float64(bytes)/float64(max(m.RSS, 1))), what)
	}
	row("tracked", m.Tracked, "live blocks")
	row("beside it", m.Beside, "free, headers, and domains that are not tracked")
	row("files", m.FilesClean, fmt.Sprintf("code and constants; %s shared", sizeText(m.FilesShared)))
	row("files, written", m.FilesDirty, "variables of modules")
	row("stacks", m.Stacks, "of all threads")
	row("shared memory", m.Shared, "")
	row("heaptap's own", m.Heaptap, "code and tables")
	row("not explained", m.Unexplained, "from before the attach, or not seen")
	row("total (RSS)", m.RSS, "")
	return g
}

func sumTotals(list []profiler.Totals) (sum profiler.Totals) {
	for _, t := range list {
		sum.LiveBlocks += t.LiveBlocks
		sum.LiveBytes += t.LiveBytes
		sum.AllocBlocks += t.AllocBlocks
		sum.AllocBytes += t.AllocBytes
		sum.FreedBlocks += t.FreedBlocks
		sum.FreedBytes += t.FreedBytes
	}
	return sum
}
