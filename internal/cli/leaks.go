package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/profiler"
	"github.com/heaptap/heaptap/report"
)

func (a *app) leaksCommand() *cobra.Command {
	var flags filterFlags
	var native nativeFlags
	var o profiler.LeakOptions
	var out string
	var top int
	var asJSON bool
	c := &cobra.Command{
		Use:   "leaks PID",
		Short: "Watch a tracked process and tell what leaks",
		Long: "Takes snapshots of a tracked process over some minutes and tells what was\n" +
			"allocated early, is still alive, and grew steadily. What fills up, levels off,\n" +
			"comes at once or comes and goes is not accused, if the window is long enough to\n" +
			"see it: a cache that takes an hour to fill looks like a leak for minutes.",
		Example: example(
			"heaptap leaks 4711", "watch for five minutes",
			"heaptap leaks 4711 --for 1h --snapshots 31", "slow leaks, big caches",
			"heaptap leaks 4711 --own", "only what own code allocates",
			"heaptap leaks 4711 --json -o leaks.json", "for programs"),
		GroupID:           groupTrack,
		Args:              exactly("PID"),
		ValidArgsFunction: a.completePid,
		RunE: func(c *cobra.Command, args []string) error {
			pid, err := a.target(c, args[0])
			if err != nil {
				return err
			}
			if o.Window <= 0 {
				return wrongUse(c, "--for %v: give a time to watch, such as 5m", o.Window)
			}
			if o.Snapshots < heap.LeakSnapshots {
				return wrongUse(c, "--snapshots %d: it takes %d to tell a leak", o.Snapshots, heap.LeakSnapshots)
			}
			if o.Dump.Filter, err = flags.parse(); err != nil {
				return err
			}
			if o.View, err = a.view(c, &native, pid); err != nil {
				return err
			}
			return a.leaks(c, pid, out, top, asJSON, o)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.DurationVar(&o.Window, "for", profiler.DefaultLeakWindow, "how long to watch")
	f.IntVar(&o.Snapshots, "snapshots", profiler.DefaultLeakSnapshots, "how many snapshots to take in that time")
	f.IntVar(&top, "top", report.DefaultSuspects, "show the `N` fastest; 0 is all")
	f.StringVarP(&out, "output", "o", "-", "write to `FILE`; - is standard output")
	f.BoolVar(&o.Dump.NoPause, "no-pause", false, "read while the process runs on")
	f.BoolVar(&asJSON, "json", false, "print JSON: suspects, and what is not accused, with their series")
	native.add(a, c)
	flags.add(a, c)
	a.fixedCompletion(c, "for", "1m", "5m", "30m", "2h")
	return c
}

// leaks watches and writes what was found.
func (a *app) leaks(c *cobra.Command, pid int, out string, top int, asJSON bool, o profiler.LeakOptions) error {
	fmt.Fprintf(a.Stderr, "watching process %d for %v, %d snapshots\n", pid, o.Window, o.Snapshots)
	o.Taken = func(n int, d *profiler.Dump) {
		if !a.Term.Stderr {
			return
		}
		live := d.Snapshot.Total()[heap.InuseBytes]
		fmt.Fprintf(a.Stderr, "  %d of %d at %s: %s live\n", n+1, o.Snapshots, d.Snapshot.Time.Format(time.TimeOnly),
			sizeText(uint64(live)))
	}
	h, err := a.Engine.FindLeaks(c.Context(), pid, o)
	if err != nil {
		return err
	}
	a.notes(h.Notes)
	a.notes(h.Warnings)
	show := report.LeakOptions{Top: top, Lengths: map[int32][]report.LeakedLength{}}
	if top == 0 {
		show.Top = -1 // package report's zero is its default
	}
	for stack, list := range h.Containers {
		for _, c := range list {
			l := report.LeakedLength{Type: c.Type, Length: c.Length}
			if c.Age != heap.UnknownAge {
				l.Age = &c.Age
			}
			show.Lengths[stack] = append(show.Lengths[stack], l)
		}
	}
	if out == "-" {
		show.Width = a.Term.Width()
	}
	size, err := a.output(out, func(w io.Writer) error {
		if asJSON {
			return report.LeaksJSON(w, h.LeakReport, show)
		}
		return report.Leaks(w, h.LeakReport, show)
	})
	if err == nil && out != "-" {
		fmt.Fprintf(a.Stderr, "wrote %s (%s)\n", a.stderrStyle().bold(printable(out)), sizeText(uint64(size)))
	}
	return err
}
