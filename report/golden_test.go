package report

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/heaptap/heaptap/heap"
)

var update = flag.Bool("update", false, "write the golden files in testdata anew")

// reports are the reports that have golden files, by the name of the file.
func reports() map[string]func(io.Writer, *heap.Snapshot) error {
	table := func(o TableOptions) func(io.Writer, *heap.Snapshot) error {
		return func(w io.Writer, s *heap.Snapshot) error { return Table(w, s, o) }
	}
	tree := func(o TreeOptions) func(io.Writer, *heap.Snapshot) error {
		return func(w io.Writer, s *heap.Snapshot) error { return Tree(w, s, o) }
	}
	return map[string]func(io.Writer, *heap.Snapshot) error{
		"table.txt":     table(TableOptions{Stack: true, Info: true}),
		"table-top.txt": table(TableOptions{Top: 3, Width: 60, Stack: true, Info: true}),
		"table-blocks.txt": table(TableOptions{Metric: heap.InuseBlocks, By: heap.ByFunction, Top: -1,
			Stack: true}),
		"table-cumulative.txt": table(TableOptions{By: heap.ByFunction, Cumulative: true, Width: 80, Stack: true}),
		"table-alloc.txt":      table(TableOptions{Metric: heap.AllocBytes, Top: 2}),
		"table-peak.txt":       table(TableOptions{Metric: heap.PeakBytes}),
		"tree.txt":             tree(TreeOptions{}),
		"tree-narrow.txt": tree(TreeOptions{Metric: heap.InuseBlocks, By: heap.ByFunction, MinShare: 0.1,
			Width: 64}),
		"tree-all.txt": tree(TreeOptions{Metric: heap.AllocBytes, MinShare: -1}),
		"folded.txt":   func(w io.Writer, s *heap.Snapshot) error { return Folded(w, s, FoldedOptions{}) },
		"speedscope.json": func(w io.Writer, s *heap.Snapshot) error {
			return Speedscope(w, s, SpeedscopeOptions{Name: "golden"})
		},
		"report.json": func(w io.Writer, s *heap.Snapshot) error { return JSON(w, s, JSONOptions{}) },
		"report-records.json": func(w io.Writer, s *heap.Snapshot) error {
			return JSON(w, s,
				JSONOptions{Records: true})
		},
		"records.csv": CSV,
		"flame.json": func(w io.Writer, s *heap.Snapshot) error {
			var page bytes.Buffer
			if err := Flame(&page, s, FlameOptions{Title: "golden"}); err != nil {
				return err
			}
			data, err := unpackFlame(page.String())
			if err != nil {
				return err
			}
			_, err = w.Write(data)
			return err
		},
	}
}

func snapshots() map[string]*heap.Snapshot {
	return map[string]*heap.Snapshot{"empty": {}, "server": server(), "sampled": sampled(), "hostile": hostile()}
}

var flameDataElement = regexp.MustCompile(`(?s)<script type="text/plain" id="data">([A-Za-z0-9+/=]*)</script>`)

// unpackFlame returns the data in a flame page.
func unpackFlame(page string) ([]byte, error) {
	m := flameDataElement.FindStringSubmatch(page)
	if m == nil {
		return nil, errors.New("the page has no data")
	}
	packed, err := base64.StdEncoding.DecodeString(m[1])
	if err != nil {
		return nil, err
	}
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(zr)
}

func TestGolden(t *testing.T) {
	for name, s := range snapshots() {
		for file, report := range reports() {
			t.Run(name+"/"+file, func(t *testing.T) {
				var got bytes.Buffer
				if err := report(&got, s); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join("testdata", name, file)
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
			})
		}
	}
}

// A report must come out the same whatever the order of records and tables.
func TestOrderDoesNotMatter(t *testing.T) {
	for name, s := range snapshots() {
		x := newSheet()
		x.s.Time, x.s.Duration, x.s.SampleBytes, x.s.Info = s.Time, s.Duration, s.SampleBytes, s.Info
		for i := range slices.Backward(s.Records) {
			r := s.Records[i]
			frames := s.Callers(r.Stack)
			slices.Reverse(frames)
			r.Domain, r.Thread, r.Type = x.b.Text(s.Text(r.Domain)), x.b.Text(s.Text(r.Thread)),
				x.b.Text(s.Text(r.Type))
			r.Stack = x.b.Stack(frames...)
			x.s.Records = append(x.s.Records, r)
		}
		for file, report := range reports() {
			if strings.HasPrefix(file, "speedscope") || strings.HasPrefix(file, "report-records") ||
				file == "records.csv" {
				continue // these keep the snapshot's own order
			}
			var want, got bytes.Buffer
			if err := errors.Join(report(&want, s), report(&got, x.s)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want.String(), got.String()); diff != "" {
				t.Errorf("%s/%s: reversed (+):\n%s", name, file, diff)
			}
		}
	}
}

// Text for a terminal has no character that the terminal would act upon, and no line that is too wide.
func TestTerminalText(t *testing.T) {
	for name, s := range snapshots() {
		for _, width := range []int{40, 60, 80, 200} {
			var b bytes.Buffer
			err := errors.Join(Table(&b, s, TableOptions{Width: width, Top: -1, Stack: true, Info: true}),
				Tree(&b, s, TreeOptions{Width: width, MinShare: -1}))
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(b.String()) {
				line = strings.TrimSuffix(line, "\n")
				if !utf8.ValidString(line) || strings.ContainsFunc(line, unicode.IsControl) || strings.Contains(line,
					"\u202e") {
					t.Errorf("%s: %q", name, line)
				}
				if width >= 60 && Cells(line) > width {
					t.Errorf("%s: %d columns in %d: %s", name, Cells(line), width, line)
				}
			}
		}
	}
}

// Every line of folded output splits into frames and a number, and the numbers make the total.
func TestFoldedSplits(t *testing.T) {
	for name, s := range snapshots() {
		var b bytes.Buffer
		if err := Folded(&b, s, FoldedOptions{Metric: heap.AllocBlocks}); err != nil {
			t.Fatal(err)
		}
		var total int64
		for line := range strings.Lines(b.String()) {
			space := strings.LastIndexByte(line, ' ')
			v, err := strconv.ParseInt(strings.TrimSpace(line[space:]), 10, 64)
			if err != nil {
				t.Fatalf("%s: %q: %v", name, line, err)
			}
			total += v
			if frames := strings.Split(line[:space], ";"); name == "hostile" && len(frames) != 2 {
				t.Errorf("%d frames in %q", len(frames), line)
			}
		}
		if total != s.Total()[heap.AllocBlocks] {
			t.Errorf("%s: total %d, want %d", name, total, s.Total()[heap.AllocBlocks])
		}
	}
}

func TestCSVParses(t *testing.T) {
	for name, s := range snapshots() {
		var b bytes.Buffer
		if err := CSV(&b, s); err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(&b).ReadAll()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var total int64
		for _, row := range rows[1:] {
			v, err := strconv.ParseInt(row[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			total += v
		}
		if total != s.Total()[heap.InuseBytes] {
			t.Errorf("%s: %d bytes, want %d", name, total, s.Total()[heap.InuseBytes])
		}
	}
}

// The JSON report is the Document that its documentation says, and its parts agree with each other.
func TestJSONDocument(t *testing.T) {
	for name, s := range snapshots() {
		var b bytes.Buffer
		if err := JSON(&b, s, JSONOptions{Records: true}); err != nil {
			t.Fatal(err)
		}
		var d Document
		decoder := json.NewDecoder(&b)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d.Format != "heaptap" || d.Version != 1 || d.Total != amounts(s.Total()) ||
			len(d.Records) != len(s.Records) {
			t.Errorf("%s: %+v", name, d)
		}
		for part, sources := range map[string][]Source{"lines": d.Lines, "functions": d.Functions} {
			sum := d.Stackless.InuseBytes
			for _, source := range sources {
				sum += source.Own.InuseBytes
			}
			if sum != d.Total.InuseBytes {
				t.Errorf("%s: the %s have %d bytes of %d", name, part, sum, d.Total.InuseBytes)
			}
		}
	}
}

// Speedscope refuses weights that do not match samples, and frames out of range.
func TestSpeedscopeIsConsistent(t *testing.T) {
	for name, s := range snapshots() {
		var b bytes.Buffer
		if err := Speedscope(&b, s, SpeedscopeOptions{Metric: heap.AllocBytes}); err != nil {
			t.Fatal(err)
		}
		var file speedscopeFile
		if err := json.Unmarshal(b.Bytes(), &file); err != nil {
			t.Fatal(err)
		}
		for i, m := range []heap.Metric{heap.AllocBytes, heap.AllocBlocks} {
			p := file.Profiles[i]
			var sum int64
			for j, sample := range p.Samples {
				sum += p.Weights[j]
				for _, frame := range sample {
					if frame < 0 || int(frame) >= len(file.Shared.Frames) {
						t.Errorf("%s: frame %d of %d", name, frame, len(file.Shared.Frames))
					}
				}
			}
			if len(p.Samples) != len(p.Weights) || sum != p.End || sum != s.Total()[m] {
				t.Errorf("%s: %s: %d samples, %d weights that sum to %d of %d", name, p.Name, len(p.Samples),
					len(p.Weights), sum, p.End)
			}
		}
	}
}

// The page must hold nothing that makes a browser fetch, and none of the names as markup.
func TestFlameIsSelfContained(t *testing.T) {
	var b bytes.Buffer
	if err := Flame(&b, hostile(),
		FlameOptions{Title: `"><script src="http://example.org/x.js"></script>`}); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	tag := regexp.MustCompile(`(?i)<(script|link|img|iframe|object|embed|video|audio|source|base|form)\b[^>]*>`)
	var tags []string
	for _, m := range tag.FindAllString(page, -1) {
		tags = append(tags, m)
	}
	want := []string{
		`<link rel="icon" href="data:,">`, `<form method="dialog">`, `<form method="dialog">`,
		`<script type="text/plain" id="data">`, `<script>`,
	}
	if diff := cmp.Diff(want, tags); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(page, `content="default-src &#39;none&#39;; script-src &#39;sha256-`) {
		t.Error("the page has no content security policy")
	}
}

func TestErrors(t *testing.T) {
	full := errors.New("disk full")
	for file, report := range reports() {
		if file == "flame.json" {
			report = func(w io.Writer, s *heap.Snapshot) error { return Flame(w, s, FlameOptions{}) }
		}
		err := report(failing{full}, server())
		if !errors.Is(err, full) || !strings.HasPrefix(err.Error(), "write ") {
			t.Errorf("%s: error %v", file, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
