package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/profiler"
	"github.com/heaptap/heaptap/report"
)

// reportOptions is what the flags of report say.
type reportOptions struct {
	by         string
	show       string
	blocks     bool
	cumulative bool
	top        int
	stack      bool
	info       bool
	minShare   float64
	invert     bool
	records    bool
	source     bool
	sourceRoot string

	filter   filterFlags
	native   nativeFlags
	metric   heap.Metric
	grouping heap.Grouping
	split    bool   // the calls of each process apart
	width    int    // of the terminal that the report goes to; 0: not limited
	title    string // of pages
}

// reportFormat is one way to show a snapshot.
type reportFormat struct {
	name, meaning string
	flags         []string // that it listens to, beside those of every format
	file          string   // extension of the file that it goes to by default, "" for standard output
	write         func(io.Writer, *heap.Snapshot, reportOptions) error
}

func reportFormats() []reportFormat {
	return []reportFormat{
		{"table", "lines, functions, types... with the most memory",
			[]string{"by", "show", "blocks", "cumulative", "top", "stack", "info", "source", "source-root"},
			"", func(w io.Writer, s *heap.Snapshot, o reportOptions) error {
				err := report.Table(w, s, o.table())
				if err != nil || !o.source {
					return err
				}
				return o.listing(w, s)
			}},
		{"tree", "calls, callers above callees", []string{"by", "show", "blocks", "min-share"},
			"", func(w io.Writer, s *heap.Snapshot, o reportOptions) error {
				return report.Tree(w, s, report.TreeOptions{Metric: o.metric, By: o.grouping, MinShare: o.minShare / 100,
					Width: o.width})
			}},
		{"flame", "a flame graph: one HTML page for any browser", []string{"by", "show", "blocks", "invert"},
			".html", func(w io.Writer, s *heap.Snapshot, o reportOptions) error {
				return report.Flame(w, s, report.FlameOptions{Metric: o.metric, By: o.grouping, Invert: o.invert, Title: o.title})
			}},
		{"html", "all of it: one page with flame graph, tables, tree, ages, source",
			[]string{"by", "show", "blocks", "source", "source-root"},
			".html", func(w io.Writer, s *heap.Snapshot, o reportOptions) error {
				return report.HTML(w, s, report.HTMLOptions{Metric: o.metric, By: o.grouping, Title: o.title,
					Sources: o.sources()})
			}},
		{"folded", "a line for each stack, for flame graph scripts", []string{"by", "show", "blocks"},
			"", func(w io.Writer, s *heap.Snapshot, o reportOptions) error {
				return report.Folded(w, s, report.FoldedOptions{Metric: o.metric})
			}},
		{"speedscope", "for www.speedscope.app", []string{"by", "show", "blocks"},
			"", func(w io.Writer, s *heap.Snapshot, o reportOptions) error {
				return report.Speedscope(w, s, report.SpeedscopeOptions{Metric: o.metric, Name: o.title})
			}},
		{"json", "for programs: totals, lines, functions, types...", []string{"show", "blocks", "records"},
			"", func(w io.Writer, s *heap.Snapshot, o reportOptions) error {
				return report.JSON(w, s, report.JSONOptions{Metric: o.metric, Records: o.records})
			}},
		{"csv", "for spreadsheets: a row for each stack and label", nil,
			"", func(w io.Writer, s *heap.Snapshot, _ reportOptions) error { return report.CSV(w, s) }},
		{"pprof", "a snapshot with names for native calls, for pprof and others", nil,
			"-report.pb.gz", func(w io.Writer, s *heap.Snapshot, _ reportOptions) error { return s.Write(w) }},
	}
}

func (a *app) reportCommand() *cobra.Command {
	var o reportOptions
	var as, out string
	formats := reportFormats()
	c := &cobra.Command{
		Use:   "report FILE",
		Short: "Show where the memory was allocated",
		Long: "Shows a snapshot that `heaptap dump` wrote, the file that `heaptap attach\n" +
			"--on-signal` had a process write, or any other heap profile in pprof's\n" +
			"format; - is standard input.\n\n" + formatsHelp(formats),
		Example: example(
			"heaptap report now.pb.gz --stack", "and the largest stack",
			"heaptap report now.pb.gz --by cumulative", "with what they called",
			"heaptap report now.pb.gz --by type --own --older 5m", "what own code keeps",
			"heaptap report now.pb.gz --show churn", "what comes and goes",
			"heaptap report now.pb.gz --as tree", "who called whom",
			"heaptap report now.pb.gz --as flame -o now.html", "for the browser",
			"heaptap report now.pb.gz --as html", "all, for a browser",
			"heaptap report now.pb.gz --source", "beside the source"),
		GroupID:           groupReport,
		Args:              exactly("FILE"),
		ValidArgsFunction: completeSnapshot,
		RunE: func(c *cobra.Command, args []string) error {
			i := slices.IndexFunc(formats, func(f reportFormat) bool { return f.name == as })
			if i < 0 {
				return wrongUse(c, "%q is no kind of report: %s", as, strings.Join(formatNames(formats), ", "))
			}
			if err := o.resolve(c, formats[i].name, formats[i].flags); err != nil {
				return err
			}
			filter, err := o.filter.parse()
			if err != nil {
				return err
			}
			view, err := a.view(c, &o.native, 0)
			if err != nil {
				return err
			}
			return a.report(args[0], out, formats[i], filter, view, o)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&as, "as", "table", "the `KIND` of report: "+strings.Join(formatNames(formats), ", "))
	f.StringVarP(&out, "output", "o", "", "write to `FILE`; - is standard output, the default save for flame and html")
	o.addFlags(a, c)
	f.BoolVar(&o.stack, "stack", false, "table: the largest stack of the first row, too")
	f.BoolVar(&o.info, "info", false, "table: what is known about the snapshot, too")
	f.BoolVar(&o.source, "source", false, "table, html: the source of those lines, too; html has it unless false")
	f.StringVar(&o.sourceRoot, "source-root", "", "table, html: look for source below `DIR`, too")
	f.BoolVar(&o.records, "records", false, "json: every stack and label, too")
	a.fixedCompletion(c, "as", formatNames(formats)...)
	o.native.add(a, c)
	o.filter.add(a, c)
	return c
}

// addFlags gives a command the flags that say what is counted and how it is grouped.
func (o *reportOptions) addFlags(a *app, c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.show, "show", "live", "which blocks: "+strings.Join(shown(), ", "))
	f.BoolVar(&o.blocks, "blocks", false, "sort and weigh by blocks, not by bytes")
	f.StringVar(&o.by, "by", "line", "tell apart by "+strings.Join(groupings(), ", "))
	f.BoolVar(&o.cumulative, "cumulative", false, "table: count what callees allocated, too")
	f.IntVar(&o.top, "top", report.DefaultTop, "table: the `N` largest rows; 0 is all")
	f.Float64Var(&o.minShare, "min-share", 100*report.DefaultMinShare,
		"tree: leave out what has less than `PERCENT`; 0 is nothing")
	f.BoolVar(&o.invert, "invert", false, "flame: what allocated first, its callers below")
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "metric" {
			name = "show"
		}
		return pflag.NormalizedName(name)
	})
	a.fixedCompletion(c, "by", groupings()...)
	a.fixedCompletion(c, "show", shown()...)
}

// groupings are the values of --by.
func groupings() []string {
	var names []string
	for g := range heap.NumGroupings {
		names = append(names, g.String())
		if g == heap.ByFunction {
			names = append(names, byCumulative)
		}
	}
	return names
}

// byCumulative is by function, with what it called.
const byCumulative = "cumulative"

// shown are the values of --show.
func shown() []string { return []string{"live", "allocated", "peak", "temporary", "churn"} }

func (o reportOptions) table() report.TableOptions {
	return report.TableOptions{Metric: o.metric, By: o.grouping, Cumulative: o.cumulative, Top: o.top, Width: o.width,
		Stack: o.stack, Info: o.info, Churn: o.show == "churn"}
}

func formatNames(formats []reportFormat) []string {
	names := make([]string, len(formats))
	for i, f := range formats {
		names[i] = f.name
	}
	return names
}

func formatsHelp(formats []reportFormat) string {
	g := grid{align: []align{left, left}}
	for _, f := range formats {
		g.add("  "+f.name, f.meaning)
	}
	var b strings.Builder
	g.write(&b, 0, nil)
	return b.String()
}

// resolve checks the flags and turns them into what package report wants.
func (o *reportOptions) resolve(c *cobra.Command, format string, heard []string) error {
	heard = append([]string{"as", "output", "help", "for", "no-pause", "json"},
		slices.Concat(heard, filterNames(), nativeNames())...)
	var deaf error
	c.Flags().Visit(func(f *pflag.Flag) {
		if !slices.Contains(heard, f.Name) {
			deaf = wrongUse(c, "--%s does nothing with --as %s", f.Name, format)
		}
	})
	if deaf != nil {
		return deaf
	}
	switch o.show {
	case "churn":
		if format != "table" {
			return wrongUse(c, "--show churn is a table: leave --as %s out", format)
		}
		o.metric = heap.AllocBytes
	case "temporary":
		if !slices.Contains([]string{"table", "tree", "folded", "json", "csv"}, format) {
			return wrongUse(c, "--show temporary counts blocks only; --as %s wants bytes, too", format)
		}
		o.metric = heap.TempBlocks
	case "live":
		o.metric = heap.InuseBytes
	case "allocated":
		o.metric = heap.AllocBytes
	case "peak":
		o.metric = heap.PeakBytes
	default:
		return wrongUse(c, "--show %q: it is one of %s", o.show, strings.Join(shown(), ", "))
	}
	if o.blocks {
		o.metric = o.metric.Other()
	}
	if err := o.resolveGrouping(c, format); err != nil {
		return err
	}
	if !c.Flags().Changed("source") {
		o.source = format == "html" || o.sourceRoot != ""
	}
	if o.minShare == 0 {
		o.minShare = -1 // package report's zero is its default
	}
	if o.top == 0 {
		o.top = -1
	}
	return nil
}

// resolveGrouping takes --by.
func (o *reportOptions) resolveGrouping(c *cobra.Command, format string) error {
	by := o.by
	if by == byCumulative {
		by, o.cumulative = heap.ByFunction.String(), true
	}
	for o.grouping = 0; o.grouping < heap.NumGroupings && o.grouping.String() != by; {
		o.grouping++
	}
	if o.grouping == heap.NumGroupings {
		return wrongUse(c, "--by %q: it is one of %s", o.by, strings.Join(groupings(), ", "))
	}
	tabular := slices.Contains([]string{"table", "json", "csv"}, format)
	switch {
	case !tabular && o.grouping == heap.ByProcess:
		o.grouping, o.split = heap.ByLine, true
	case (format == "folded" || format == "speedscope") && c.Flags().Changed("by"):
		return wrongUse(c, "--by %s does nothing with --as %s, which tells lines apart, and processes if asked to", o.by, format)
	case !tabular && (o.grouping != heap.ByLine && o.grouping != heap.ByFunction || o.by == byCumulative):
		return wrongUse(c, "--by %s is for tables; --as %s tells apart by line, function or process", o.by, format)
	case o.source && o.grouping != heap.ByLine && o.grouping != heap.ByFunction:
		return wrongUse(c, "--source shows lines; it does nothing with --by %s", o.by)
	}
	return nil
}

// listing writes the source below a table.
func (o reportOptions) listing(w io.Writer, s *heap.Snapshot) error {
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	return report.Listing(w, s, report.ListingOptions{Metric: o.metric, Cumulative: o.cumulative, Top: o.top,
		Width: o.width, Sources: o.sources()})
}

// sources finds source files; nil where none are wanted.
func (o reportOptions) sources() report.Sources {
	if !o.source {
		return nil
	}
	return sourceFinder{o.sourceRoot}.find
}

// report shows the snapshot in the file at path.
func (a *app) report(
	path, out string, format reportFormat, filter *heap.Filter, view func(*heap.Snapshot) *heap.Snapshot, o reportOptions,
) error {
	s, err := a.readSnapshot(path)
	if err != nil {
		return err
	}
	if s, err = a.apply(filter, view(s)); err != nil {
		return err
	}
	if o.split {
		s = s.UnderProcesses()
	}
	o.title = titleOf(path)
	return a.writeReport(out, format.file, &o, func(w io.Writer) error { return format.write(w, s, o) })
}

// titleOf is what a page about a file is called.
func titleOf(path string) string {
	if path == "-" {
		return "heaptap"
	}
	return strings.TrimSuffix(strings.TrimSuffix(filepath.Base(path), ".pb.gz"), ".tables")
}

// writeReport runs write on what out names, or where that is "", on a file called like the report with the extension,
// or standard output where there is none. It sets the options' width.
func (a *app) writeReport(out, extension string, o *reportOptions, write func(io.Writer) error) error {
	if out == "" {
		out = "-"
		if extension != "" {
			out = o.title + extension
		}
	}
	if out == "-" {
		o.width = a.Term.Width()
	}
	size, err := a.output(out, write)
	if err == nil && out != "-" {
		fmt.Fprintf(a.Stderr, "wrote %s (%s)\n", a.stderrStyle().bold(printable(out)), sizeText(uint64(size)))
	}
	return err
}

func (a *app) readSnapshot(path string) (*heap.Snapshot, error) {
	name, in := path, a.Stdin
	if path == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(path)
		if err != nil {
			return nil, &inputError{path, err}
		}
		defer f.Close()
		in = f
	}
	s, notes, err := readEither(in)
	if err != nil {
		return nil, &inputError{name, err}
	}
	a.notes(notes)
	return s, nil
}

// readEither reads a snapshot, or tables that a process wrote upon a signal.
func readEither(in io.Reader) (s *heap.Snapshot, notes []string, err error) {
	r := bufio.NewReader(in)
	if first, err := r.Peek(profiler.TablesMagic); err != nil || !profiler.IsTables(first) {
		s, err := heap.Read(r)
		return s, nil, err
	}
	d, err := profiler.ReadTables(r)
	if err != nil {
		return nil, nil, err
	}
	return d.Snapshot, d.Notes, nil
}
