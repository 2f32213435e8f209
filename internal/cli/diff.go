package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/profiler"
	"github.com/heaptap/heaptap/report"
)

// deltaFormat is one way to show a difference.
type deltaFormat struct {
	name, meaning string
	flags         []string // that it listens to, beside those of every format
	file          string   // extension of the file that it goes to by default, "" for standard output
	write         func(io.Writer, *heap.Delta, reportOptions) error
}

func deltaFormats() []deltaFormat {
	return []deltaFormat{
		{"table", "what grew most, and what shrank", []string{"by", "show", "blocks", "cumulative", "top"},
			"", func(w io.Writer, d *heap.Delta, o reportOptions) error { return report.DeltaTable(w, d, o.table()) }},
		{"tree", "calls, callers above callees", []string{"by", "show", "blocks", "min-share"},
			"", func(w io.Writer, d *heap.Delta, o reportOptions) error {
				return report.DeltaTree(w, d, report.TreeOptions{Metric: o.metric, By: o.grouping, MinShare: o.minShare / 100,
					Width: o.width})
			}},
		{"flame", "a differential flame graph: one HTML page for any browser", []string{"by", "show", "blocks", "invert"},
			".html", func(w io.Writer, d *heap.Delta, o reportOptions) error {
				return report.DeltaFlame(w, d, report.FlameOptions{Metric: o.metric, By: o.grouping, Invert: o.invert,
					Title: o.title})
			}},
		{"html", "all of it: one HTML page with flame graph, tables, tree, ages, source",
			[]string{"by", "show", "blocks", "source", "source-root"},
			".html", func(w io.Writer, d *heap.Delta, o reportOptions) error {
				return report.DeltaHTML(w, d, report.HTMLOptions{Metric: o.metric, By: o.grouping, Title: o.title,
					Sources: o.sources()})
			}},
		{"folded", "a line for each stack with both numbers, for flame graph scripts", []string{"show", "blocks"},
			"", func(w io.Writer, d *heap.Delta, o reportOptions) error {
				return report.DeltaFolded(w, d, report.FoldedOptions{Metric: o.metric})
			}},
		{"json", "for programs", []string{"by", "show", "blocks", "cumulative"},
			"", func(w io.Writer, d *heap.Delta, o reportOptions) error { return report.DeltaJSON(w, d, o.table()) }},
		{"csv", "for spreadsheets", []string{"by", "show", "blocks", "cumulative"},
			"", func(w io.Writer, d *heap.Delta, o reportOptions) error { return report.DeltaCSV(w, d, o.table()) }},
	}
}

// diffWindow is how long a diff of a process takes that does not say.
const diffWindow = time.Minute

func (a *app) diffCommand() *cobra.Command {
	var o reportOptions
	var as, out string
	var window time.Duration
	var noPause, asJSON bool
	formats := deltaFormats()
	g := grid{align: []align{left, left}}
	var names []string
	for _, f := range formats {
		g.add("  "+f.name, f.meaning)
		names = append(names, f.name)
	}
	var help strings.Builder
	g.write(&help, 0, nil)
	c := &cobra.Command{
		Use:   "diff OLD NEW | PID",
		Short: "Show what grew between two snapshots, or while you wait",
		Long: "Compares two snapshots, growth first; or takes two of a tracked process, some\n" +
			"time apart, and compares those.\n\n" + help.String(),
		Example: example(
			"heaptap diff old.pb.gz new.pb.gz", "which lines grew",
			"heaptap diff old.pb.gz new.pb.gz --by type", "which types",
			"heaptap diff old.pb.gz new.pb.gz --as flame", "a flame graph, for the browser",
			"heaptap diff 4711 --for 60s --own", "of a process, from now on"),
		GroupID:           groupReport,
		ValidArgsFunction: a.completeDiff,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) > 2 {
				return wrongUse(c, "give two snapshots, OLD and NEW, or the PID of a tracked process")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if asJSON {
				as = "json"
			}
			i := slices.IndexFunc(formats, func(f deltaFormat) bool { return f.name == as })
			if i < 0 {
				return wrongUse(c, "%q is no kind of diff: %s", as, strings.Join(names, ", "))
			}
			if o.show == "churn" {
				return wrongUse(c, "--show churn is for reports; --show allocated says what came between the two")
			}
			if err := o.resolve(c, formats[i].name, formats[i].flags); err != nil {
				return err
			}
			filter, err := o.filter.parse()
			if err != nil {
				return err
			}
			d, err := a.delta(c, args, filter, &o.native, window, noPause)
			if err != nil {
				return err
			}
			if o.split {
				warnings := d.Warnings
				d = heap.Diff(d.Old.UnderProcesses(), d.New.UnderProcesses())
				d.Warnings = warnings
			}
			a.notes(d.Warnings)
			o.title = "diff"
			if len(args) == 2 {
				o.title = titleOf(args[0]) + "-" + titleOf(args[1])
			}
			return a.writeReport(out, formats[i].file, &o, func(w io.Writer) error { return formats[i].write(w, d, o) })
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&as, "as", "table", "the `KIND` of diff: "+strings.Join(names, ", "))
	f.StringVarP(&out, "output", "o", "", "write to `FILE`; - is standard output, the default save for flame and html")
	f.DurationVar(&window, "for", diffWindow, "with a PID: how long to wait between the two snapshots")
	f.BoolVar(&noPause, "no-pause", false, "with a PID: read while the process runs on")
	o.addFlags(a, c)
	f.BoolVar(&o.source, "source", false, "html: the source of the lines; it is there unless this is false")
	f.StringVar(&o.sourceRoot, "source-root", "", "html: look for source below `DIR`, too")
	f.BoolVar(&asJSON, "json", false, "the same as --as json")
	o.native.add(a, c)
	o.filter.add(a, c)
	a.fixedCompletion(c, "as", names...)
	a.fixedCompletion(c, "for", "10s", "1m", "5m", "1h")
	return c
}

// completeDiff offers snapshots, and as the first argument processes, too.
func (a *app) completeDiff(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 && prefix != "" && strings.Trim(prefix, "0123456789") == "" {
		return a.completePid(c, args, prefix)
	}
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return []string{"gz"}, cobra.ShellCompDirectiveFilterFileExt
}

// delta reads two snapshots, or takes them of a process.
func (a *app) delta(
	c *cobra.Command, args []string, filter *heap.Filter, native *nativeFlags, window time.Duration, noPause bool,
) (*heap.Delta, error) {
	if len(args) == 1 {
		pid, err := a.target(c, args[0])
		if err != nil {
			return nil, wrongUse(c, "%q is not a process id; two snapshots are compared, OLD and NEW", args[0])
		}
		view, err := a.view(c, native, pid)
		if err != nil {
			return nil, err
		}
		both, err := a.takeTwo(c, pid, filter, window, noPause)
		if err != nil {
			return nil, err
		}
		return heap.Diff(view(both[0]), view(both[1])), nil
	}
	for _, name := range []string{"for", "no-pause"} {
		if c.Flags().Changed(name) {
			return nil, wrongUse(c, "--%s is for the PID of a process; these are two snapshots", name)
		}
	}
	if args[0] == "-" && args[1] == "-" {
		return nil, wrongUse(c, "standard input can be one of the two snapshots only")
	}
	view, err := a.view(c, native, 0)
	if err != nil {
		return nil, err
	}
	var both [2]*heap.Snapshot
	for i, path := range args {
		s, err := a.readSnapshot(path)
		if err != nil {
			return nil, err
		}
		both[i] = view(s)
	}
	return a.filteredDiff(filter, both)
}

// filteredDiff compares what passes a filter. That nothing does in one of the two is no error: it has come or gone.
func (a *app) filteredDiff(filter *heap.Filter, both [2]*heap.Snapshot) (*heap.Delta, error) {
	if filter == nil {
		return heap.Diff(both[0], both[1]), nil
	}
	var kept [2]*heap.Snapshot
	var none error
	for i, s := range both {
		var err error
		if kept[i], err = filter.Apply(s); err != nil {
			if none != nil {
				return nil, err
			}
			none = err
			empty := *s
			empty.Records = nil
			empty.Info = append(slices.Clone(s.Info), heap.KeyValue{Key: heap.InfoFilter, Value: filter.String()})
			kept[i] = &empty
			continue
		}
		a.noteUndecided(kept[i])
	}
	return heap.Diff(kept[0], kept[1]), nil
}

// takeTwo takes two snapshots of a process, filtered as they are taken.
func (a *app) takeTwo(
	c *cobra.Command, pid int, filter *heap.Filter, window time.Duration, noPause bool,
) (both [2]*heap.Snapshot, err error) {
	if window <= 0 {
		return both, wrongUse(c, "--for %v: give a time to wait, such as 60s", window)
	}
	var missed []error // where nothing passed the filter
	for i := range both {
		if i > 0 {
			fmt.Fprintf(a.Stderr, "waiting for %v between the two snapshots of process %d\n", window, pid)
			if err := a.Sleep(c.Context(), window); err != nil {
				return both, err
			}
		}
		d, err := a.Engine.TakeDump(c.Context(), pid, profiler.DumpOptions{NoPause: noPause, Filter: filter})
		if none := new(heap.NoMatchError); errors.As(err, &none) {
			missed = append(missed, err)
			both[i] = &heap.Snapshot{Time: a.Now(), Info: []heap.KeyValue{{Key: heap.InfoFilter, Value: filter.String()}}}
			continue
		}
		if err != nil {
			return both, err
		}
		both[i] = d.Snapshot
		if i == 1 {
			a.notes(d.Notes)
			a.noteUndecided(d.Snapshot)
		}
	}
	if len(missed) == len(both) {
		return both, missed[0]
	}
	return both, nil
}
