package report

import (
	"io"
	"testing"

	"github.com/heaptap/heaptap/heap"
)

// churning is server with blocks that were freed at once.
func churning() *heap.Snapshot {
	s := server()
	for i := range s.Records {
		if i%2 == 0 {
			s.Records[i].TempBlocks = s.Records[i].AllocBlocks / 3
		}
	}
	return s
}

func TestChurnGolden(t *testing.T) {
	nothing := &heap.Snapshot{Records: []heap.Record{{Stack: heap.None, AllocBytes: 5, AllocBlocks: 1, InuseBytes: 5, InuseBlocks: 1}}}
	for file, report := range map[string]func(io.Writer) error{
		"server/churn.txt":           func(w io.Writer) error { return Table(w, churning(), TableOptions{Churn: true, Width: 100}) },
		"server/churn-uncounted.txt": func(w io.Writer) error { return Table(w, server(), TableOptions{Churn: true, Top: 3}) },
		"server/churn-functions.txt": func(w io.Writer) error {
			return Table(w, churning(), TableOptions{Churn: true, By: heap.ByFunction, Cumulative: true, Top: 5})
		},
		"server/temporary.txt": func(w io.Writer) error { return Table(w, churning(), TableOptions{Metric: heap.TempBlocks}) },
		"server/temporary-tree.txt": func(w io.Writer) error {
			return Tree(w, churning(), TreeOptions{Metric: heap.TempBlocks, By: heap.ByFunction})
		},
		"empty/churn.txt":     func(w io.Writer) error { return Table(w, nothing, TableOptions{Churn: true}) },
		"empty/temporary.txt": func(w io.Writer) error { return Table(w, nothing, TableOptions{Metric: heap.TempBlocks}) },
		"server/diff-temporary.txt": func(w io.Writer) error {
			return DeltaTable(w, heap.Diff(server(), churning()), TableOptions{Metric: heap.TempBlocks, Top: 3})
		},
	} {
		t.Run(file, func(t *testing.T) { golden(t, file, report) })
	}
}
