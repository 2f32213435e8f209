package report

import (
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/heaptap/heaptap/heap"
)

// csvHeader are the columns of [CSV].
var csvHeader = [...]string{
	"inuse_bytes", "inuse_blocks", "alloc_bytes", "alloc_blocks", "peak_bytes", "peak_blocks",
	"temporary_blocks", "domain", "thread", "type", "age_seconds", "min_size", "max_size", "function", "file", "line", "stack",
}

// CSV writes a row for each record (RFC 4180, a header line, line ends \n): its values, its labels, the innermost
// frame, and the whole stack with the innermost frame first, each as "file:line function", separated by "; ". What is
// not known is empty. A merged snapshot has a last column, process. In the stack, semicolons of names are commas.
func CSV(w io.Writer, s *heap.Snapshot) error {
	out := csv.NewWriter(w)
	header, processes := csvHeader[:], s.HasProcesses()
	if processes {
		header = append(slices.Clone(header), "process")
	}
	err := out.Write(header)
	frames := make([]string, len(s.Frames))
	for i, f := range s.Frames {
		frames[i] = strings.ReplaceAll(place(f), ";", ",")
	}
	var stack strings.Builder
	for i := 0; i < len(s.Records) && err == nil; i++ {
		r := &s.Records[i]
		stack.Reset()
		for n := r.Stack; n != heap.None; n = s.Stacks[n].Parent {
			if n != r.Stack {
				stack.WriteString("; ")
			}
			stack.WriteString(frames[s.Stacks[n].Frame])
		}
		row := csvRow(s, r, stack.String())
		if processes {
			row = append(row, s.Text(r.Process))
		}
		err = out.Write(row)
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

func csvRow(s *heap.Snapshot, r *heap.Record, stack string) []string {
	var row []string
	for _, v := range r.Values() {
		row = append(row, strconv.FormatInt(v, 10))
	}
	row = append(row, s.Text(r.Domain), s.Text(r.Thread), s.Text(r.Type))
	age, smallest, largest := "", "", ""
	if r.Age != heap.UnknownAge {
		age = strconv.Itoa(int(r.Age))
	}
	if r.MaxSize > 0 {
		smallest, largest = strconv.FormatInt(r.MinSize, 10), strconv.FormatInt(r.MaxSize, 10)
	}
	row = append(row, age, smallest, largest)
	var leaf heap.Frame
	if r.Stack != heap.None {
		leaf = s.Frames[s.Stacks[r.Stack].Frame]
	}
	line := ""
	if leaf.Line > 0 {
		line = strconv.Itoa(leaf.Line)
	}
	name := leaf.Func
	if leaf.Native() {
		name = function(leaf)
	}
	return append(row, name, fileOf(leaf), line, stack)
}
