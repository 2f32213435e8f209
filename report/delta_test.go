package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/heaptap/heaptap/heap"
)

// laterServer is the snapshot server() some minutes on: its leak has grown, a cache has filled, a catalogue has gone.
func laterServer() *heap.Snapshot {
	s := server()
	s.Time, s.Duration = s.Time.Add(5*time.Minute), s.Duration+5*time.Minute
	for i := range s.Records {
		r := &s.Records[i]
		v := r.Values()
		scale := func(old, new int64) {
			for m := range v {
				v[m] = v[m] * new / old
			}
		}
		switch s.Text(r.Type) {
		case "dict", "str":
			scale(2, 5)
		case "Product":
			scale(4, 1)
		case "Template":
			scale(100, 101)
		case "tuple":
			scale(1, 0)
		}
		r.SetValues(v)
	}
	b := newSheet()
	b.add("obj", "list", 1, live(256<<10, 1000), "/srv/shop/server.py:120 <module>", "/srv/shop/orders.py:7 queue")
	d := heap.Diff(s, b.s) // numbers both over common tables
	joined := *d.Old
	joined.Records = append(joined.Records, d.New.Records...)
	return &joined
}

func deltas() map[string]*heap.Delta {
	return map[string]*heap.Delta{
		"server": heap.Diff(server(), laterServer()), "same": heap.Diff(server(), server()),
		"hostile": heap.Diff(&heap.Snapshot{}, hostile()), "sampled": heap.Diff(sampled(), &heap.Snapshot{}),
		"empty": heap.Diff(&heap.Snapshot{}, &heap.Snapshot{}),
	}
}

func deltaReports() map[string]func(io.Writer, *heap.Delta) error {
	type report = func(io.Writer, *heap.Delta) error
	all := map[string]report{
		"diff-tree.txt": func(w io.Writer, d *heap.Delta) error { return DeltaTree(w, d, TreeOptions{}) },
		"diff-tree-narrow.txt": func(w io.Writer, d *heap.Delta) error {
			return DeltaTree(w, d, TreeOptions{By: heap.ByFunction, Metric: heap.InuseBlocks, Width: 60, MinShare: -1})
		},
		"diff-folded.txt": func(w io.Writer, d *heap.Delta) error { return DeltaFolded(w, d, FoldedOptions{}) },
		"diff.json":       func(w io.Writer, d *heap.Delta) error { return DeltaJSON(w, d, TableOptions{By: heap.ByStack}) },
		"diff.csv":        func(w io.Writer, d *heap.Delta) error { return DeltaCSV(w, d, TableOptions{By: heap.ByFunction}) },
		"diff-top.txt":    func(w io.Writer, d *heap.Delta) error { return DeltaTable(w, d, TableOptions{Top: 3, Width: 60}) },
		"diff-cumulative.txt": func(w io.Writer, d *heap.Delta) error {
			return DeltaTable(w, d, TableOptions{By: heap.ByFunction, Cumulative: true, Metric: heap.AllocBlocks})
		},
	}
	for g := range heap.NumGroupings {
		all["diff-by-"+g.String()+".txt"] = func(w io.Writer, d *heap.Delta) error {
			return DeltaTable(w, d, TableOptions{By: g, Width: 100})
		}
	}
	return all
}

// golden compares what a report writes with a file in testdata.
func golden(t *testing.T, path string, report func(io.Writer) error) {
	t.Helper()
	var got bytes.Buffer
	if err := report(&got); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join("testdata", path)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("differs from %s (go test -update writes it anew):\n%s", path, diff)
	}
}

func TestDeltaGolden(t *testing.T) {
	for name, d := range deltas() {
		if name == "same" || name == "sampled" {
			continue // the same formats; what is special about them is tested below
		}
		for file, report := range deltaReports() {
			if name != "server" && strings.HasPrefix(file, "diff-by-") {
				continue
			}
			t.Run(name+"/"+file, func(t *testing.T) {
				golden(t, filepath.Join(name, file), func(w io.Writer) error { return report(w, d) })
			})
		}
	}
}

func TestTableByGolden(t *testing.T) {
	for g := heap.ByStack; g < heap.NumGroupings; g++ {
		t.Run(g.String(), func(t *testing.T) {
			golden(t, "server/table-by-"+g.String()+".txt", func(w io.Writer) error {
				return Table(w, server(), TableOptions{By: g, Width: 100, Stack: true})
			})
		})
	}
}

// A difference of a snapshot with itself is nothing, in every format.
func TestDeltaOfSame(t *testing.T) {
	d := deltas()["same"]
	for file, report := range deltaReports() {
		var b bytes.Buffer
		if err := report(&b, d); err != nil {
			t.Fatal(err)
		}
		switch {
		case strings.HasSuffix(file, ".csv") && strings.Count(b.String(), "\n") != 1,
			strings.HasSuffix(file, ".txt") && !strings.Contains(file, "folded") && !strings.Contains(b.String(), "Nothing changed"),
			strings.HasSuffix(file, ".json") && !strings.Contains(b.String(), `"rows": []`):
			t.Errorf("%s:\n%s", file, b.String())
		}
	}
}

// What programs read says the same as the model: the growth of all rows is the growth of the total.
func TestDeltaSums(t *testing.T) {
	for name, d := range deltas() {
		want := d.Total().Growth()
		for _, by := range []heap.Grouping{heap.ByLine, heap.ByType, heap.ByStack, heap.ByAge} {
			o := TableOptions{By: by}
			var asJSON, asCSV, folded bytes.Buffer
			err := errors.Join(DeltaJSON(&asJSON, d, o), DeltaCSV(&asCSV, d, o), DeltaFolded(&folded, d, FoldedOptions{}))
			if err != nil {
				t.Fatal(err)
			}
			var doc DeltaDocument
			if err := json.Unmarshal(asJSON.Bytes(), &doc); err != nil {
				t.Fatal(err)
			}
			var outside heap.Values
			if by.Frames() || by == heap.ByStack {
				outside = d.Stackless().Growth()
			}
			sum := outside[heap.InuseBytes]
			for _, r := range doc.Rows {
				sum += r.Own.Growth.InuseBytes
				if r.Own.New.InuseBytes-r.Own.Old.InuseBytes != r.Own.Growth.InuseBytes {
					t.Errorf("%s: row %+v", name, r)
				}
			}
			if sum != want[heap.InuseBytes] || doc.Growth.InuseBytes != sum || doc.By != by.String() {
				t.Errorf("%s: JSON by %s sums to %d, want %d", name, doc.By, sum, want[heap.InuseBytes])
			}
			rows, err := csv.NewReader(&asCSV).ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			sum = outside[heap.InuseBytes]
			for _, row := range rows[1:] {
				v, err := strconv.ParseInt(row[0], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				sum += v
			}
			if sum != want[heap.InuseBytes] {
				t.Errorf("%s: CSV by %v sums to %d, want %d", name, by, sum, want[heap.InuseBytes])
			}
			sum = 0
			for line := range strings.Lines(folded.String()) {
				parts := strings.Split(strings.TrimSpace(line), " ")
				old, errOld := strconv.ParseInt(parts[len(parts)-2], 10, 64)
				new, errNew := strconv.ParseInt(parts[len(parts)-1], 10, 64)
				if err := errors.Join(errOld, errNew); err != nil {
					t.Fatalf("%s: %q: %v", name, line, err)
				}
				sum += new - old
			}
			if sum != want[heap.InuseBytes] {
				t.Errorf("%s: folded stacks sum to %d, want %d", name, sum, want[heap.InuseBytes])
			}
		}
	}
}

// Text for a terminal is no wider than that, and has nothing that it would act upon.
func TestDeltaTerminalText(t *testing.T) {
	for name, d := range deltas() {
		for _, width := range []int{72, 80, 200} {
			for g := range heap.NumGroupings {
				var b bytes.Buffer
				err := errors.Join(DeltaTable(&b, d, TableOptions{Width: width, By: g, Top: -1}),
					DeltaTree(&b, d, TreeOptions{Width: width, MinShare: -1}))
				if err != nil {
					t.Fatal(err)
				}
				for line := range strings.Lines(b.String()) {
					line = strings.TrimSuffix(line, "\n")
					if strings.ContainsFunc(line, unicode.IsControl) || Cells(line) > width {
						t.Errorf("%s by %v in %d columns: %q", name, g, width, line)
					}
				}
			}
		}
	}
}

// What is shown of many rows are those that changed most, growth first.
func TestDeltaTop(t *testing.T) {
	var b bytes.Buffer
	if err := DeltaTable(&b, deltas()["server"], TableOptions{Top: 2}); err != nil {
		t.Fatal(err)
	}
	lines := slices.Collect(strings.Lines(b.String()))
	if len(lines) != 7 || !strings.Contains(lines[3], "session.py:33") || !strings.Contains(lines[4], "session.py:18") ||
		!strings.Contains(lines[5], "more changed lines") {
		t.Errorf("\n%s", b.String())
	}
	b.Reset()
	if err := DeltaTable(&b, heap.Diff(laterServer(), server()), TableOptions{Top: 2}); err != nil {
		t.Fatal(err)
	}
	if lines := slices.Collect(strings.Lines(b.String())); !strings.Contains(lines[4], "session.py:33") ||
		!strings.HasPrefix(strings.TrimSpace(lines[4]), "-27.0 MiB") {
		t.Errorf("the other way round:\n%s", b.String())
	}
}
