// Package report turns a [heap.Snapshot] into something to look at or to read by a program: a table, a tree, a flame
// graph, folded stacks, speedscope's format, JSON, CSV. Each is one function from a snapshot and options to an
// [io.Writer]; the zero options give what most readers want.
//
// The package knows neither processes nor files nor terminals. Names in a snapshot come from the program that was
// profiled, and need not be trusted: in text for terminals control characters are spelled out, in HTML, JSON and CSV
// they are quoted.
//
// A snapshot must pass [heap.Snapshot.Check]. Functions only read it, and may run at the same time.
package report

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/heaptap/heaptap/heap"
)

// output is a buffered writer whose first error sticks.
type output struct {
	*bufio.Writer
	format string // for the error
}

func newOutput(w io.Writer, format string) output {
	return output{bufio.NewWriterSize(w, 64<<10), format}
}

func (o output) printf(format string, args ...any) { fmt.Fprintf(o.Writer, format, args...) }

// paragraph writes text on lines of at most width columns, if that is not 0; all but the first are indented.
func (o output) paragraph(text string, width int) {
	const indent = "  "
	line := ""
	for word := range strings.SplitSeq(text, " ") {
		switch {
		case line == "":
			line = word
		case width > 0 && Cells(line)+1+Cells(word) > width:
			o.printf("%s\n", line)
			line = indent + word
		default:
			line += " " + word
		}
		for width > leastRoom && Cells(line) > width { // one long word
			head := strings.TrimSuffix(Fit(line, width), "…")
			o.printf("%s\n", head)
			line = indent + line[len(head):]
		}
	}
	o.printf("%s\n", line)
}

func (o output) flush() error {
	if err := o.Flush(); err != nil {
		return fmt.Errorf("write %s report: %w", o.format, err)
	}
	return nil
}

// state says which blocks a metric counts.
func state(m heap.Metric) string {
	switch m {
	case heap.AllocBytes, heap.AllocBlocks:
		return "allocated"
	case heap.PeakBytes, heap.PeakBlocks:
		return "live at the peak"
	case heap.TempBlocks:
		return "freed at once"
	}
	return "live"
}

// inBytes and inBlocks are the metrics of the same blocks as m, in that unit.
func inBytes(m heap.Metric) heap.Metric {
	if m.Bytes() {
		return m
	}
	return m.Other()
}

func inBlocks(m heap.Metric) heap.Metric { return inBytes(m).Other() }

// summary describes the snapshot: "45.2 MiB live in 123,456 blocks, tracked for 1m30s, every block counted".
func summary(s *heap.Snapshot, m heap.Metric) string {
	total := s.Total()
	var b strings.Builder
	if m == heap.TempBlocks {
		fmt.Fprintf(&b, "%s of %s allocated blocks were %s", Count(total[m]), Count(total[heap.AllocBlocks]), state(m))
	} else {
		fmt.Fprintf(&b, "%s %s in %s %s", Size(total[inBytes(m)]), state(m), Count(total[inBlocks(m)]),
			plural(total[inBlocks(m)], "block", "blocks"))
	}
	if s.Duration > 0 {
		fmt.Fprintf(&b, ", tracked for %v", roundDuration(s.Duration))
	}
	if s.SampleBytes > 0 {
		fmt.Fprintf(&b, ", estimated from a sample every %s", Size(int64(s.SampleBytes)))
	} else {
		b.WriteString(", every block counted")
	}
	return b.String()
}

// roundDuration drops digits that nobody reads.
func roundDuration(d time.Duration) time.Duration {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second)
	case d >= time.Second:
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(time.Microsecond)
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// share is the part of total that v is; 0 where there is nothing.
func share(v, total int64) float64 {
	if total == 0 {
		return 0
	}
	return float64(v) / float64(total)
}
