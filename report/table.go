package report

import (
	"io"
	"strings"

	"github.com/heaptap/heaptap/heap"
)

// DefaultTop is the number of rows in a table that does not say.
const DefaultTop = 20

// TableOptions say what a [Table] shows.
type TableOptions struct {
	Metric     heap.Metric   // what rows are sorted by and shares are of
	By         heap.Grouping // a row for each line, function, type, ...
	Cumulative bool          // count blocks at every function on their stack, not only where they were allocated
	Top        int           // rows to show; 0 is DefaultTop, negative is all
	Width      int           // of the terminal in columns; 0 is no limit
	Stack      bool          // below the table, the largest stack of the first row
	Info       bool          // above the table, the snapshot's Info
	Churn      bool          // what comes and goes: see Table
}

// Table writes a table of the lines, functions, types... with the most memory: bytes, blocks, share, place. A row "rest" sums
// what is not shown, unless rows are cumulative (and so count blocks more than once).
//
// With Churn it is a table of what was allocated and freed again, by bytes, beside what is still live; Metric and Stack
// are then left out of account. TEMPORARY is the part of the blocks that were freed again at once.
func Table(w io.Writer, s *heap.Snapshot, o TableOptions) error {
	out := newOutput(w, "table")
	out.paragraph(summary(s, o.Metric), o.Width)
	if o.Info {
		for _, kv := range s.Info {
			out.paragraph(Printable(kv.Key)+": "+Printable(kv.Value), o.Width)
		}
	}
	if o.Churn {
		writeChurn(out, s, o)
		return out.flush()
	}
	total := s.Total()
	if total[o.Metric] == 0 {
		out.printf("Nothing was %s.\n", state(o.Metric))
		return out.flush()
	}
	rows, first := tableRows(s, o, total)
	out.printf("\n")
	writeRows(out, s, rows, o)
	if o.Stack && first != nil && (o.By == heap.ByLine || o.By == heap.ByFunction) {
		out.printf("\n")
		writeLargestStack(out, s, *first, o)
	}
	return out.flush()
}

// tableRow is a line of the table. A place that is no frame is a name.
type tableRow struct {
	values heap.Values
	own    heap.Values
	frame  heap.Frame
	stack  int32 // of rows by stack
	name   string
}

// tableRows returns the rows to show and the first that is a frame, nil where there is none.
func tableRows(s *heap.Snapshot, o TableOptions, total heap.Values) (shown []tableRow, first *heap.Row) {
	rows := s.By(o.By)
	heap.SortRows(rows, o.Metric, o.Cumulative)
	top := o.Top
	if top == 0 {
		top = DefaultTop
	}
	if top < 0 || top > len(rows) {
		top = len(rows)
	}
	var rest heap.Values
	hidden := int64(0)
	for i, r := range rows {
		values := r.Own
		if o.Cumulative {
			values = r.Cum
		}
		switch {
		case values[o.Metric] == 0:
		case i < top:
			shown = append(shown, tableRow{values: values, own: r.Own, frame: r.Frame, stack: r.Stack,
				name: groupName(o.By, r.Group)})
		default:
			rest.Add(r.Own)
			hidden++
		}
	}
	if len(shown) > 0 {
		first = &rows[0]
	}
	if hidden > 0 && !o.Cumulative {
		shown = append(shown, tableRow{values: rest, name: restName(o.By, hidden, "more")})
	}
	if v := s.Stackless(); v[o.Metric] > 0 && (o.By.Frames() || o.By == heap.ByStack) {
		shown = append(shown, tableRow{values: v, own: v, name: "no Python code was running"})
	}
	return append(shown, tableRow{values: total, own: total, name: "total"}), first
}

func writeRows(out output, s *heap.Snapshot, rows []tableRow, o TableOptions) {
	inB, inN := inBytes(o.Metric), inBlocks(o.Metric)
	total := rows[len(rows)-1].values[o.Metric]
	header := []string{"BYTES", "BLOCKS", "SHARE"}
	if o.Metric == heap.TempBlocks {
		header = []string{"TEMPORARY", "ALLOCATED", "SHARE"}
	}
	if o.Cumulative {
		header = append([]string{"OWN"}, header...)
	}
	lines := [][]string{header}
	for _, r := range rows {
		line := []string{Size(r.values[inB]), Count(r.values[inN]), Percent(share(r.values[o.Metric], total))}
		own := Size(r.own[inB])
		if o.Metric == heap.TempBlocks { // of which the bytes are not known
			line[0], line[1] = Count(r.values[o.Metric]), Count(r.values[heap.AllocBlocks])
			own = Count(r.own[o.Metric])
		}
		if o.Cumulative {
			line = append([]string{own}, line...)
		}
		lines = append(lines, line)
	}
	numbers := alignRight(lines)
	room := 0
	if o.Width > 0 {
		room = max(leastRoom, o.Width-Cells(numbers[0])-2) // a narrower terminal wraps
	}
	out.printf("%s  %s\n", numbers[0], strings.ToUpper(o.By.String()))
	for i, r := range rows {
		out.printf("%s  %s\n", numbers[i+1], r.fit(s, o.By, room))
	}
}

// fit is the row's name in at most room columns, if that is not 0.
func (r tableRow) fit(s *heap.Snapshot, by heap.Grouping, room int) string {
	switch {
	case r.name != "" && room > 0:
		return Fit(r.name, room)
	case r.name != "":
		return r.name
	case by == heap.ByStack:
		return fitStack(s, r.stack, room)
	}
	return FitPlace(r.frame, room)
}

// alignRight joins the columns of each line, two spaces apart, each as wide as its widest text.
func alignRight(lines [][]string) []string {
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, text := range line {
			widths[i] = max(widths[i], Cells(text))
		}
	}
	joined := make([]string, len(lines))
	for n, line := range lines {
		padded := make([]string, len(line))
		for i, text := range line {
			padded[i] = padLeft(text, widths[i])
		}
		joined[n] = strings.Join(padded, "  ")
	}
	return joined
}

// writeLargestStack writes the stack that contributes most to a row, innermost frame first.
func writeLargestStack(out output, s *heap.Snapshot, row heap.Row, o TableOptions) {
	stack, values, of := largestStack(s, row, o)
	if stack == heap.None {
		return
	}
	total := row.Own[o.Metric]
	if o.Cumulative {
		total = row.Cum[o.Metric]
	}
	title := "Stack of the first row, innermost call first:"
	if of > 1 {
		title = "Largest of the " + Count(of) + " stacks of the first row, with " +
			Percent(share(values[o.Metric], total)) + " of its " + Size(total) + ", innermost call first:"
		if !o.Metric.Bytes() {
			title = strings.Replace(title, Size(total), Count(total)+" blocks", 1)
		}
	}
	out.paragraph(title, o.Width)
	room := 0
	if o.Width > 0 {
		room = max(leastRoom, o.Width-4)
	}
	for _, f := range s.Callers(stack) {
		out.printf("    %s\n", FitPlace(f, room))
	}
}

// largestStack returns the stack with the most of what the row counts, its values, and how many stacks the row has.
func largestStack(s *heap.Snapshot, row heap.Row, o TableOptions) (largest int32, values heap.Values, of int64) {
	same := func(frame int32) bool {
		return o.By.Place(s.Frames[frame]) == row.Frame
	}
	holds := make([]bool, len(s.Stacks)) // whether the stack counts for the row
	largest = heap.None
	for i, own := range s.OwnByStack() {
		n := s.Stacks[i]
		holds[i] = same(n.Frame) || o.Cumulative && n.Parent != heap.None && holds[n.Parent]
		if !holds[i] || own[o.Metric] == 0 {
			continue
		}
		of++
		if largest == heap.None || own[o.Metric] > values[o.Metric] {
			largest, values = int32(i), own
		}
	}
	return largest, values, of
}
