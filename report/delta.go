package report

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/heaptap/heaptap/heap"
)

// DeltaTable writes what changed between two snapshots as a table: growth in bytes and blocks, before, after, place. It
// holds the rows that changed most, growth first, decreases last; a row "rest" sums the others. o.Stack and o.Info are
// left out of account.
func DeltaTable(w io.Writer, d *heap.Delta, o TableOptions) error {
	out := newOutput(w, "table")
	out.paragraph(deltaSummary(d, o.Metric), o.Width)
	rows := changed(d, o)
	if len(rows) == 0 {
		out.printf("Nothing changed in what is %s.\n", state(o.Metric))
		return out.flush()
	}
	shown := slices.Clone(rows)
	top := cmp.Or(o.Top, DefaultTop)
	if top >= 0 && top < len(rows) {
		slices.SortStableFunc(shown, func(a, b deltaRow) int { return cmp.Compare(b.weight(o.Metric), a.weight(o.Metric)) })
		shown = shown[:top]
		slices.SortFunc(shown, func(a, b deltaRow) int { return cmp.Compare(a.rank, b.rank) })
	}
	shown = append(shown, restOf(rows, shown, o)...)
	shown = append(shown, deltaRow{change: d.Total(), name: "total"})

	table := [][]string{deltaHeader(o.Metric)}
	for _, r := range shown {
		table = append(table, deltaNumbers(r.change, o.Metric))
	}
	numbers := alignRight(table)
	room := 0
	if o.Width > 0 {
		room = max(leastRoom, o.Width-Cells(numbers[0])-2)
	}
	out.printf("\n%s  %s\n", numbers[0], strings.ToUpper(o.By.String()))
	for i, r := range shown {
		row := tableRow{name: r.name, frame: r.group.Frame, stack: r.group.Stack}
		out.printf("%s  %s\n", numbers[i+1], row.fit(d.New, o.By, room))
	}
	return out.flush()
}

// deltaRow is a line of the table. A place that is no frame is a name.
type deltaRow struct {
	change heap.Change
	group  heap.Group
	name   string
	rank   int // by growth
}

// weight is by how much the row changed, up or down.
func (r deltaRow) weight(m heap.Metric) int64 { return abs(r.change.Growth()[m]) }

func abs(v int64) int64 { return max(v, -v) }

// changed returns the rows that changed in the metric, the largest growth first.
func changed(d *heap.Delta, o TableOptions) []deltaRow {
	all := d.Rows(o.By)
	heap.SortDelta(all, o.Metric, o.Cumulative)
	var rows []deltaRow
	for _, r := range all {
		change := r.Own
		if o.Cumulative {
			change = r.Cum
		}
		row := deltaRow{change: change, group: r.Group, name: groupName(o.By, r.Group), rank: len(rows)}
		if row.weight(o.Metric) > 0 {
			rows = append(rows, row)
		}
	}
	return rows
}

// restOf sums the rows that are not shown, and what was allocated without a Python stack.
func restOf(rows, shown []deltaRow, o TableOptions) []deltaRow {
	if o.Cumulative {
		return nil // blocks are counted more than once
	}
	seen := map[int]bool{}
	for _, r := range shown {
		seen[r.rank] = true
	}
	var rest deltaRow
	hidden := int64(0)
	for _, r := range rows {
		if !seen[r.rank] {
			rest.change.Add(r.change)
			hidden++
		}
	}
	if hidden == 0 {
		return nil
	}
	rest.name = restName(o.By, hidden, "more changed")
	return []deltaRow{rest}
}

func deltaHeader(m heap.Metric) []string {
	if m == heap.TempBlocks {
		return []string{"GROWTH", "BEFORE", "AFTER"}
	}
	return []string{"GROWTH", "BLOCKS", "BEFORE", "AFTER"}
}

// deltaNumbers are the columns of a change: growth and blocks, before and after in bytes.
func deltaNumbers(c heap.Change, m heap.Metric) []string {
	growth := c.Growth()
	if m == heap.TempBlocks {
		return []string{signedCount(growth[m]), Count(c.Old[m]), Count(c.New[m])}
	}
	inB, inN := inBytes(m), inBlocks(m)
	return []string{signedSize(growth[inB]), signedCount(growth[inN]), Size(c.Old[inB]), Size(c.New[inB])}
}

func signedSize(n int64) string {
	if n > 0 {
		return "+" + Size(n)
	}
	return Size(n)
}

func signedCount(n int64) string {
	if n > 0 {
		return "+" + Count(n)
	}
	return Count(n)
}

// deltaSummary describes a difference: "3.0 MiB live became 4.2 MiB in 5m0s: +1.2 MiB, +512 blocks".
func deltaSummary(d *heap.Delta, m heap.Metric) string {
	total := d.Total()
	numbers := deltaNumbers(total, m)
	var b strings.Builder
	if m == heap.TempBlocks {
		fmt.Fprintf(&b, "%s temporary blocks became %s", numbers[1], numbers[2])
	} else {
		fmt.Fprintf(&b, "%s %s became %s", numbers[2], state(m), numbers[3])
	}
	if span := d.New.Time.Sub(d.Old.Time); !d.Old.Time.IsZero() && span > 0 {
		fmt.Fprintf(&b, " in %v", roundDuration(span))
	}
	b.WriteString(": " + numbers[0])
	if m != heap.TempBlocks {
		fmt.Fprintf(&b, ", %s blocks", numbers[1])
	}
	return b.String()
}

// DeltaTree writes what changed between two snapshots as a tree of calls, as [Tree] writes one of them: the largest
// growth first. MinShare is of all changes, up and down.
func DeltaTree(w io.Writer, d *heap.Delta, o TreeOptions) error {
	out := newOutput(w, "tree")
	out.paragraph(deltaSummary(d, o.Metric), o.Width)
	root := deltaBranch(d.Tree(o.By), o.Metric)
	if root.weight == 0 {
		out.printf("Nothing changed in what is %s.\n", state(o.Metric))
		return out.flush()
	}
	writeTree(out, root, o, deltaHeader(o.Metric), func(c heap.Change) []string { return deltaNumbers(c, o.Metric) })
	return out.flush()
}

// deltaBranch copies a tree, its children sorted.
func deltaBranch(n *heap.DeltaNode, m heap.Metric) *branch {
	n.SortChildren(m)
	b := &branch{frame: n.Frame, own: n.Own, cum: n.Cum, ownWeight: abs(n.Own.Growth()[m])}
	b.weight = b.ownWeight
	for _, c := range n.Children {
		below := deltaBranch(c, m)
		b.weight += below.weight
		b.children = append(b.children, below)
	}
	return b
}

// DeltaFolded writes a line for each stack with its metric before and after, as Brendan Gregg's difffolded.pl does and
// flamegraph.pl reads it: the frames as [Folded] writes them, a space, the old number, a space, the new one. Stacks
// that did not change are there, too: widths of a differential flame graph are those of the new snapshot.
func DeltaFolded(w io.Writer, d *heap.Delta, o FoldedOptions) error {
	out := newOutput(w, "folded")
	root := d.Tree(heap.ByLine)
	line := func(stack string, c heap.Change) {
		if c.Old[o.Metric] != 0 || c.New[o.Metric] != 0 {
			out.printf("%s %d %d\n", stack, c.Old[o.Metric], c.New[o.Metric])
		}
	}
	line(noStackName, root.Own)
	var below func(n *heap.DeltaNode, prefix []byte)
	below = func(n *heap.DeltaNode, prefix []byte) {
		n.SortChildren(o.Metric)
		for _, c := range n.Children {
			stack := prefix
			if len(stack) > 0 {
				stack = append(stack, ';')
			}
			stack = append(stack, foldedFrame(c.Frame)...)
			line(string(stack), c.Own)
			below(c, stack)
		}
	}
	below(root, nil)
	return out.flush()
}

// DeltaJSONVersion is the version of the schema of [DeltaJSON]. New fields leave it as it is; anything else raises it.
const DeltaJSONVersion = 1

// DeltaDocument is what [DeltaJSON] writes.
type DeltaDocument struct {
	Format   string        `json:"format"`  // "heaptap-diff"
	Version  int           `json:"version"` // DeltaJSONVersion
	Old      DeltaSide     `json:"old"`
	New      DeltaSide     `json:"new"`
	Warnings []string      `json:"warnings"` // why the two may not be comparable
	Growth   Amounts       `json:"growth"`   // of the totals
	By       string        `json:"by"`       // line, function, stack, module, type, ...
	Rows     []DeltaSource `json:"rows"`     // what changed in any metric, growth first
}

// DeltaSide is one of the two snapshots.
type DeltaSide struct {
	Time     *time.Time `json:"time"` // RFC 3339; null where unknown
	Duration float64    `json:"duration_seconds"`
	Sample   uint64     `json:"sample_bytes"` // mean distance between samples; 0 where every block was counted
	Info     []Fact     `json:"info"`
	Total    Amounts    `json:"total"`
}

// DeltaSource is a row: a frame, a stack or a name, as By says.
type DeltaSource struct {
	Place
	Name       string       `json:"name,omitempty"`  // of a module, type, thread, domain or age; "" is not known
	Stack      []Place      `json:"stack,omitempty"` // by stack: innermost first
	Own        DeltaAmounts `json:"own"`
	Cumulative DeltaAmounts `json:"cumulative"` // and of what was called from there; where By is no frame, the same
}

// DeltaAmounts are the metrics before, after, and by how much they grew.
type DeltaAmounts struct {
	Old    Amounts `json:"old"`
	New    Amounts `json:"new"`
	Growth Amounts `json:"growth"`
}

// DeltaJSON writes a difference as one JSON object, a [DeltaDocument]. Of o count Metric, By and Cumulative, which say
// how rows are grouped and sorted; all that changed are there.
func DeltaJSON(w io.Writer, d *heap.Delta, o TableOptions) error {
	doc := DeltaDocument{
		Format: "heaptap-diff", Version: DeltaJSONVersion, Old: sideOf(d.Old), New: sideOf(d.New),
		Warnings: append([]string{}, d.Warnings...), Growth: amounts(d.Total().Growth()), By: o.By.String(),
		Rows: []DeltaSource{},
	}
	rows := d.Rows(o.By)
	heap.SortDelta(rows, o.Metric, o.Cumulative)
	for _, r := range rows {
		if (r.Own.Growth() == heap.Values{}) && (r.Cum.Growth() == heap.Values{}) {
			continue
		}
		row := DeltaSource{Place: placeOf(r.Frame), Name: r.Name, Own: deltaAmounts(r.Own), Cumulative: deltaAmounts(r.Cum)}
		for _, f := range d.New.Callers(r.Stack) {
			row.Stack = append(row.Stack, placeOf(f))
		}
		doc.Rows = append(doc.Rows, row)
	}
	out := newOutput(w, "json")
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	_ = e.Encode(doc) // what goes wrong is the writer's fault, whose error sticks
	return out.flush()
}

func deltaAmounts(c heap.Change) DeltaAmounts {
	return DeltaAmounts{amounts(c.Old), amounts(c.New), amounts(c.Growth())}
}

func sideOf(s *heap.Snapshot) DeltaSide {
	side := DeltaSide{Duration: s.Duration.Seconds(), Sample: s.SampleBytes, Info: []Fact{}, Total: amounts(s.Total())}
	if !s.Time.IsZero() {
		side.Time = &s.Time
	}
	for _, kv := range s.Info {
		side.Info = append(side.Info, Fact(kv))
	}
	return side
}

// deltaCSVHeader are the columns of [DeltaCSV].
var deltaCSVHeader = [...]string{
	"growth_bytes", "growth_blocks", "old_bytes", "old_blocks", "new_bytes", "new_blocks",
	"name", "function", "file", "line", "stack",
}

// DeltaCSV writes a row for each line, function, type... that changed in the metric, the largest growth first (RFC 4180,
// a header line, line ends \n). Of o count Metric, By and Cumulative.
func DeltaCSV(w io.Writer, d *heap.Delta, o TableOptions) error {
	out := csv.NewWriter(w)
	err := out.Write(deltaCSVHeader[:])
	inB, inN := inBytes(o.Metric), inBlocks(o.Metric)
	for _, r := range changed(d, o) {
		var row []string
		for _, v := range []heap.Values{r.change.Growth(), r.change.Old, r.change.New} {
			row = append(row, strconv.FormatInt(v[inB], 10), strconv.FormatInt(v[inN], 10))
		}
		line := ""
		if r.group.Frame.Line > 0 {
			line = strconv.Itoa(r.group.Frame.Line)
		}
		var stack []string
		for _, f := range d.New.Callers(r.group.Stack) {
			stack = append(stack, strings.ReplaceAll(place(f), ";", ","))
		}
		name := r.group.Frame.Func
		if r.group.Frame.Native() {
			name = function(r.group.Frame)
		}
		row = append(row, r.group.Name, name, fileOf(r.group.Frame), line, strings.Join(stack, "; "))
		if err == nil {
			err = out.Write(row)
		}
	}
	out.Flush()
	if err == nil {
		err = out.Error()
	}
	if err != nil {
		return fmt.Errorf("write csv report: %w", err)
	}
	return nil
}
