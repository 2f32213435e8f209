package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// write writes the record as JSON to the named file, or, for "", to a new one in dir, and returns its name.
func (rec *record) write(name, dir string) (string, error) {
	if name == "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
		name = filepath.Join(dir, "bench-"+rec.Started.UTC().Format("20060102-150405")+".json")
	}
	text, err := json.MarshalIndent(rec, "", "\t")
	if err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return name, os.WriteFile(name, append(text, '\n'), 0o644)
}

// failures lists everything that is wrong whatever the numbers.
func (rec *record) failures() []string {
	var all []string
	add := func(what, err string) {
		if err != "" {
			all = append(all, what+": "+err)
		}
	}
	for _, r := range rec.Results {
		in := r.Interpreter.String()
		for _, o := range []*overhead{r.Overhead, r.Native} {
			if o != nil {
				for _, f := range o.Failures {
					add(in, f)
				}
			}
		}
		if r.Tables != nil {
			for _, w := range r.Tables.Weights {
				add(in+", tables of "+w.Workload, w.Error)
			}
			for _, g := range r.Tables.Growths {
				add(in+", growth of tables of "+g.Workload, g.Error)
			}
		}
		for _, p := range r.Pauses {
			add(fmt.Sprintf("%s, pause with %d threads", in, p.Threads), p.Error)
		}
		for _, d := range r.Dumps {
			add(in+", dump of "+d.Program, d.Error)
		}
		if r.Calls != nil {
			add(in+", calls", r.Calls.Error)
		}
	}
	return all
}

func (rec *record) print(out io.Writer) {
	fmt.Fprintln(out, rec.Machine)
	if rec.Quick {
		fmt.Fprintln(out, "quick: sizes are tiny, the numbers mean nothing")
	}
	for _, r := range rec.Results {
		fmt.Fprintf(out, "\n== %s ==\n", r.Interpreter)
		if r.Overhead != nil {
			r.Overhead.print(out)
		}
		if r.Native != nil {
			fmt.Fprintln(out, "\nnative workloads")
			r.Native.print(out)
		}
		if r.Tables != nil {
			r.Tables.print(out)
		}
		if r.Pauses != nil {
			printPauses(out, r.Pauses)
		}
		if r.Dumps != nil {
			printDumps(out, r.Dumps)
		}
		if r.Calls != nil {
			r.Calls.print(out)
		}
		if r.Kills != nil {
			printKills(out, r.Kills)
		}
	}
	for _, f := range rec.failures() {
		fmt.Fprintln(out, "\nFAILED:", f)
	}
}

// columns writes rows of tab-separated cells, aligned to the right except for the first column.
func columns(out io.Writer, rows []string) {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	width := 0
	for _, row := range rows {
		first, _, _ := strings.Cut(row, "\t")
		width = max(width, len(first))
	}
	for _, row := range rows {
		first, rest, _ := strings.Cut(row, "\t")
		fmt.Fprintf(tw, "%-*s\t%s\t\n", width, first, rest)
	}
	tw.Flush()
	for line := range strings.Lines(b.String()) {
		fmt.Fprintln(out, strings.TrimRight(line, " \n"))
	}
}

func (o *overhead) print(out io.Writer) {
	o.printNoise(out)
	for _, m := range metrics() {
		o.printMetric(out, m)
	}
	o.printGoals(out)
	for _, name := range slices.Sorted(maps.Keys(o.Absent)) {
		fmt.Fprintf(out, "absent: %s (%s)\n", name, o.Absent[name])
	}
}

// printNoise tells from the second untracked run what a ratio is worth here.
func (o *overhead) printNoise(out io.Writer) {
	for _, metric := range metrics() {
		var medians, single []float64
		for _, w := range o.Workloads {
			c, base := o.cell(w, again), o.cell(w, untracked)
			if c == nil {
				continue
			}
			if all := ratios(c, base, metric.of); len(all) > 0 {
				medians, single = append(medians, median(all)), append(single, all...)
			}
		}
		if len(single) == 0 {
			continue
		}
		fmt.Fprintf(out, "noise (untracked against untracked), %s: geometric mean %.3f, workloads %.3f to %.3f, "+
			"runs %.3f to %.3f\n", metric.name, geomean(medians), slices.Min(medians), slices.Max(medians), slices.Min(single),
			slices.Max(single))
	}
}

// columnsOf lists the modes that have a column: all but the one that the others are compared with.
func (o *overhead) columnsOf() []mode {
	var all []mode
	for _, m := range modes() {
		if m.name != untracked && slices.Contains(o.Modes, m.name) {
			all = append(all, m)
		}
	}
	return all
}

func (o *overhead) printMetric(out io.Writer, metric metric) {
	head := []string{metric.name + ", x untracked", "untracked"}
	for _, m := range o.columnsOf() {
		head = append(head, m.title)
	}
	rows := []string{strings.Join(head, "\t")}
	for _, w := range o.Workloads {
		base := o.cell(w, untracked)
		row := []string{titleOf(w), amount(metric, base)}
		for _, m := range o.columnsOf() {
			row = append(row, o.ratioText(w, m.name, base, metric))
		}
		rows = append(rows, strings.Join(row, "\t"))
	}
	for _, sum := range []struct {
		name string
		of   func([]float64) float64
	}{{"geometric mean", geomean}, {"highest", func(v []float64) float64 { return quantile(v, 1) }}} {
		row := []string{sum.name, ""}
		for _, m := range o.columnsOf() {
			row = append(row, number(sum.of(o.medians(m.name, metric))))
		}
		rows = append(rows, strings.Join(row, "\t"))
	}
	fmt.Fprintln(out)
	columns(out, rows)
}

// medians are a mode's ratios, one for each workload that could be measured.
func (o *overhead) medians(mode string, metric metric) []float64 {
	var all []float64
	for _, w := range o.Workloads {
		if r := ratios(o.cell(w, mode), o.cell(w, untracked), metric.of); len(r) > 0 {
			all = append(all, median(r))
		}
	}
	return all
}

// ratioText is one ratio; a star says that it is from fewer rounds than the others.
func (o *overhead) ratioText(workload, mode string, base *cell, metric metric) string {
	c := o.cell(workload, mode)
	all := ratios(c, base, metric.of)
	if c.Error != "" || len(all) == 0 {
		return "failed"
	}
	text := number(median(all))
	if len(all) < len(c.Rounds) {
		text += "*"
	}
	return text
}

// printGoals puts the goals beside what was reached. A failed workload counts as not reached.
func (o *overhead) printGoals(out io.Writer) {
	fmt.Fprintln(out)
	wall := metrics()[0]
	for _, m := range o.columnsOf() {
		all := o.medians(m.name, wall)
		whole := len(all) == len(o.Workloads)
		mean, worst := m.geomean, m.worst
		if o.Part == "native" {
			mean, worst = m.native, 0
		}
		if mean > 0 {
			goal(out, m.title+", geometric mean of wall time", geomean(all), mean, "%.3f", whole)
		}
		if worst > 0 {
			goal(out, m.title+", highest of wall time", quantile(all, 1), worst, "%.2f", whole)
		}
	}
	for _, w := range o.Workloads {
		for _, m := range o.columnsOf() {
			if c := o.cell(w, m.name); c.Error == "" && slices.Contains(c.Rounds, nil) {
				fmt.Fprintln(out, "* fewer rounds: it took too long (-patience)")
				return
			}
		}
	}
}

// goal prints one number beside what it should be at most; format is for both.
func goal(out io.Writer, what string, got, want float64, format string, whole bool) {
	verdict := "not reached"
	switch {
	case !whole:
		verdict = "not reached, as not all could be measured"
	case got <= want: // NaN is not
		verdict = "reached"
	}
	fmt.Fprintf(out, "goal: %s: "+format+" (at most "+format+"): %s\n", what, got, want, verdict)
}

func amount(metric metric, c *cell) string {
	var all []float64
	for _, m := range c.Rounds {
		if m != nil {
			all = append(all, metric.of(m))
		}
	}
	v := median(all)
	switch {
	case metric.name == "peak RSS":
		return fmt.Sprintf("%.1f MiB", v/(1<<20))
	case v < 0.1:
		return fmt.Sprintf("%.1f ms", v*1e3)
	}
	return fmt.Sprintf("%.2f s", v)
}

func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func titleOf(workload string) string {
	for _, w := range append(workloads(), growing()...) {
		if w.name == workload {
			return w.title
		}
	}
	return workload
}

func (r *tablesReport) print(out io.Writer) {
	rows := []string{"tables of what is kept\tblocks\tlive MiB\ttables MiB\ttables / live"}
	for _, w := range r.Weights {
		if w.Error == "" {
			rows = append(rows, fmt.Sprintf("%s\t%d\t%.1f\t%.1f\t%.3f", titleOf(w.Workload), w.LiveBlocks,
				mib(w.LiveBytes), mib(w.TablesBytes), w.Ratio))
		}
	}
	fmt.Fprintln(out)
	columns(out, rows)
	rows = []string{"tables when nothing is kept\tMiB\t10 x as long, MiB\tratio\tstacks\tcode objects"}
	for _, g := range r.Growths {
		if g.Error == "" {
			rows = append(rows, fmt.Sprintf("%s\t%.2f\t%.2f\t%.3f\t%d to %d\t%d to %d", titleOf(g.Workload), mib(g.Once),
				mib(g.TenTimes), g.Ratio, g.Stacks[0], g.Stacks[1], g.Codes[0], g.Codes[1]))
		}
	}
	fmt.Fprintln(out)
	columns(out, rows)
	fmt.Fprintln(out)
	for _, w := range r.Weights {
		goal(out, "tables / live bytes, "+titleOf(w.Workload), w.Ratio, weightGoal, "%.2f", w.Error == "")
	}
	for _, g := range r.Growths {
		goal(out, "tables after 10 x as long, "+titleOf(g.Workload), g.Ratio, growthGoal, "%.2f", g.Error == "")
	}
}

func mib(bytes uint64) float64 { return float64(bytes) / (1 << 20) }

func printPauses(out io.Writer, all []attachPause) {
	rows := []string{"pause, ms\tn\tmedian\tp99\tlongest"}
	row := func(name string, s spread) {
		rows = append(rows, fmt.Sprintf("%s\t%d\t%.3f\t%.3f\t%.3f", name, s.Count, s.Median*1e3, s.P99*1e3, s.Worst*1e3))
	}
	for _, p := range all {
		if p.Error != "" {
			continue
		}
		row(fmt.Sprintf("attach, %d threads", p.Threads), p.Attach)
		row(fmt.Sprintf("detach, %d threads", p.Threads), p.Detach)
		row("  longest gap seen by the busy thread", p.Seen)
		row("  the same without an attach", p.Quiet)
	}
	fmt.Fprintln(out)
	columns(out, rows)
	fmt.Fprintln(out)
	for _, p := range all {
		goal(out, fmt.Sprintf("attach pause, median ms, %d threads", p.Threads), p.Attach.Median*1e3, attachGoal*1e3, "%.3f",
			p.Error == "")
	}
}

func printDumps(out io.Writer, all []dumpCost) {
	rows := []string{"dump\tblocks\ttrie nodes\tfile MiB\tpause ms\tdump s\ttable s\tboth s\tboth, longest s"}
	for _, d := range all {
		if d.Error != "" {
			continue
		}
		rows = append(rows, fmt.Sprintf("%s\t%d\t%d\t%.1f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f", d.Program, d.Blocks, d.Stacks,
			float64(d.File)/(1<<20), d.Pause.Median*1e3, d.Dump.Median, d.Table.Median, d.Both.Median, d.Both.Worst))
	}
	fmt.Fprintln(out)
	columns(out, rows)
	fmt.Fprintln(out)
	for _, d := range all {
		goal(out, "dump pause, median ms, "+d.Program, d.Pause.Median*1e3, dumpPauseGoal*1e3, "%.1f", d.Error == "")
		goal(out, "dump and table, median s, "+d.Program, d.Both.Median, dumpTableGoal, "%.2f", d.Error == "")
	}
}
