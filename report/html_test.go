package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/heaptap/heaptap/heap"
)

// shop is server with everything that only the whole page shows: threads, a timeline, the process's size.
func shop() *heap.Snapshot {
	s := server()
	s.Info = append(s.Info, heap.KeyValue{Key: infoRSS, Value: fmt.Sprint(96<<20) + " bytes"},
		heap.KeyValue{Key: infoOwn, Value: fmt.Sprint(5<<20) + " bytes"})
	s.Strings = append(s.Strings, "worker-1", "worker-2")
	for i := range s.Records {
		if r := &s.Records[i]; len(s.Callers(r.Stack)) > 5 {
			r.Thread = int32(len(s.Strings) - 1 - i%2)
		}
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range 91 {
		tracked := uint64(i) * 420 << 10
		s.Timeline = append(s.Timeline, heap.Point{Time: s.Time.Add(time.Duration(i-90) * time.Second),
			Tracked: tracked + rng.Uint64N(2<<20), RSS: 57<<20 + tracked + rng.Uint64N(1<<20)})
	}
	return s
}

// earlier is shop a minute before: smaller in one place, larger in another, with something that went and without
// something that came.
func earlier() *heap.Snapshot {
	s := shop()
	s.Time = s.Time.Add(-time.Minute)
	kept := s.Records[:0]
	for i, r := range s.Records {
		switch v := r.Values(); i {
		case 0, 1:
			r.SetValues(live(v[heap.InuseBytes]/3, v[heap.InuseBlocks]/3))
		case 3:
			r.SetValues(live(v[heap.InuseBytes]*2, v[heap.InuseBlocks]*2))
		case 4:
			r.SetValues(live(v[heap.InuseBytes]+v[heap.InuseBytes]/9, v[heap.InuseBlocks]))
		case 5:
			continue
		}
		kept = append(kept, r)
	}
	s.Records = kept
	b := s.Records[0]
	b.Stack = s.Stacks[s.Records[1].Stack].Parent
	b.Type = 0
	b.SetValues(live(3<<20, 40))
	s.Records = append(s.Records, b)
	return s
}

// TestPageGolden holds the data of pages and the text of listings.
func TestPageGolden(t *testing.T) {
	data := func(write func(io.Writer) error) func(io.Writer) error {
		return func(w io.Writer) error {
			var page bytes.Buffer
			if err := write(&page); err != nil {
				return err
			}
			data, err := unpackFlame(page.String())
			if err != nil {
				return err
			}
			_, err = w.Write(data)
			return err
		}
	}
	delta := &heap.Delta{Old: earlier(), New: shop(), Warnings: []string{"not alike"}}
	for file, write := range map[string]func(io.Writer) error{
		"page.json": data(func(w io.Writer) error { return HTML(w, shop(), HTMLOptions{Sources: shopSources}) }),
		"page-empty.json": data(func(w io.Writer) error {
			return HTML(w, &heap.Snapshot{}, HTMLOptions{Sources: shopSources})
		}),
		"delta.json": data(func(w io.Writer) error {
			return DeltaHTML(w, delta, HTMLOptions{Metric: heap.InuseBlocks, By: heap.ByFunction})
		}),
		"delta-flame.json": data(func(w io.Writer) error { return DeltaFlame(w, delta, FlameOptions{MaxNodes: 12}) }),
		"listing.txt":      func(w io.Writer) error { return Listing(w, shop(), ListingOptions{Sources: shopSources}) },
		"listing-narrow.txt": func(w io.Writer) error {
			return Listing(w, shop(), ListingOptions{Sources: shopSources, Width: 56, Top: 4, Cumulative: true,
				Metric: heap.InuseBlocks})
		},
		"listing-empty.txt": func(w io.Writer) error {
			return Listing(w, &heap.Snapshot{}, ListingOptions{Sources: shopSources})
		},
		"listing-hostile.txt": func(w io.Writer) error {
			return Listing(w, hostile(), ListingOptions{Top: -1, Sources: func(name string) (SourceFile, error) {
				if strings.HasSuffix(name, "path.py") {
					return SourceFile{}, fs.ErrPermission
				}
				return SourceFile{Text: []byte("\xef\xbb\xbf\x1b[31m\r\n\tif x:\n\u202e \xff" + strings.Repeat("x", 450)), Path: "\x1b]0;"}, nil
			}})
		},
	} {
		t.Run(file, func(t *testing.T) { checkGolden(t, filepath.Join("testdata", "page", file), write) })
	}
}

// checkGolden compares what write writes with a file, or writes it anew.
func checkGolden(t *testing.T, path string, write func(io.Writer) error) {
	t.Helper()
	var got bytes.Buffer
	if err := write(&got); err != nil {
		t.Fatal(err)
	}
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

func htmlFile(t testing.TB, d *heap.Delta, o HTMLOptions) string {
	t.Helper()
	var b bytes.Buffer
	err := DeltaHTML(&b, d, o)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(file, b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	return file
}

// shopSources has some of the shop's files, one of them changed since.
func shopSources(name string) (SourceFile, error) {
	s := server()
	switch name {
	case "/srv/shop/session.py", "/srv/shop/catalog.py":
		var text strings.Builder
		for i := range 60 {
			fmt.Fprintf(&text, "    line_%d = remember(%q, </td>)\n", i+1, filepath.Base(name))
		}
		f := SourceFile{Text: []byte(text.String()), Modified: s.Time.Add(-time.Hour)}
		if name == "/srv/shop/catalog.py" {
			f.Modified = s.Time.Add(time.Minute)
			f.Path = "/home/me/shop/catalog.py"
		}
		return f, nil
	}
	return SourceFile{}, errors.New("no such file")
}

// TestPageScreenshots takes pictures of all views to look at, as TestScreenshots does.
func TestPageScreenshots(t *testing.T) {
	if *shots == "" {
		t.Skip("only with -screenshots")
	}
	s, old := shop(), earlier()
	if *shotFile != "" {
		f, err := os.Open(*shotFile)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if s, err = heap.Read(f); err != nil {
			t.Fatal(err)
		}
	}
	local := func(name string) (SourceFile, error) {
		text, err := os.ReadFile(name)
		return SourceFile{Text: text}, err
	}
	sources := Sources(shopSources)
	if *shotFile != "" {
		sources = local
	}
	b := startBrowser(t, 1366, 768)
	one := htmlFile(t, &heap.Delta{New: s}, HTMLOptions{Title: "shop", Sources: sources})
	two := htmlFile(t, &heap.Delta{Old: old, New: s, Warnings: []string{"made-up: the older one was sampled"}},
		HTMLOptions{Title: "shop, a minute later", Sources: sources})
	for _, theme := range []string{"light", "dark"} {
		for _, page := range []struct{ name, file string }{{"one", one}, {"two", two}} {
			for _, size := range []struct {
				name          string
				width, height int
			}{{"", 1366, 768}, {"-narrow", 420, 800}} {
				b.devtools("Emulation.setDeviceMetricsOverride", map[string]any{"width": size.width, "height": size.height,
					"deviceScaleFactor": 1, "mobile": false})
				b.devtools("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{
					"name": "prefers-color-scheme", "value": theme}}})
				b.open(page.file)
				b.settle()
				for i, view := range []string{"overview", "flame", "table", "tree", "ages", "source"} {
					b.press(fmt.Sprint(i + 1))
					if view == "flame" && page.name == "one" {
						b.press("o")
					}
					if view == "table" {
						b.eval(new(any), "document.querySelector('#view-table tr.row').click()")
					}
					b.settle()
					name := fmt.Sprintf("%s-%s-%s%s.png", page.name, view, theme, size.name)
					if err := os.WriteFile(filepath.Join(*shots, name), b.screenshot(), 0o666); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	b.expectQuiet()
}

// million is a snapshot of a million live blocks, in as many records as types, threads and ages make of them.
func million() *heap.Snapshot {
	s := large(100_000, 30)
	rng := rand.New(rand.NewPCG(5, 6))
	text := func(t string) int32 {
		s.Strings = append(s.Strings, t)
		return int32(len(s.Strings) - 1)
	}
	var types, threads [200]int32
	for i := range types {
		types[i] = text(fmt.Sprintf("package%d.Type%d", i%17, i))
		threads[i] = text(fmt.Sprintf("worker-%d", i))
	}
	obj := text("obj")
	ages := [...]int32{0, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600}
	leaves := s.Records
	s.Records = nil
	for blocks := 0; blocks < 1_000_000; {
		i := rng.IntN(len(leaves))
		n := 1 + int(rng.ExpFloat64()*1.2)
		r := heap.Record{Stack: leaves[i].Stack, Domain: obj, Thread: threads[i/100%20],
			Type: types[(i+int(rng.ExpFloat64()*2))%len(types)], Age: ages[int(rng.ExpFloat64()*3)%len(ages)]}
		size := int64(n * 16 * (1 + rng.IntN(40)))
		r.SetValues(live(size, int64(n)))
		s.Records = append(s.Records, r)
		blocks += n
	}
	return s
}

// Bounds on writing a page of a million blocks: generous, since machines differ and tests share them.
const millionWrite = 8 * time.Second

// A page stays within its bound whatever the snapshot, tells what it left out, and still answers.
func TestPageOfAMillionBlocks(t *testing.T) {
	s := million()
	begin := time.Now()
	var out bytes.Buffer
	if err := HTML(&out, s, HTMLOptions{}); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	t.Logf("%d stacks, %d records, page of %s in %v", len(s.Stacks), len(s.Records), Size(int64(out.Len())),
		took.Round(time.Millisecond))
	if out.Len() > DefaultMaxPageBytes {
		t.Errorf("the page has %s", Size(int64(out.Len())))
	}
	if took > millionWrite {
		t.Errorf("writing takes %v", took)
	}

	out.Reset()
	begin = time.Now()
	if err := HTML(&out, s, HTMLOptions{MaxBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	t.Logf("cut to %s in %v", Size(int64(out.Len())), time.Since(begin).Round(time.Millisecond))
	if out.Len() > 1<<20 || out.Len() < 1<<19 {
		t.Errorf("a page of at most 1 MiB has %s", Size(int64(out.Len())))
	}
	var d pageData
	data, err := unpackFlame(out.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	checkTotals(t, d, &heap.Delta{New: s})

	b := startBrowser(t, 1366, 768)
	timed := func(what string, limit time.Duration, do func()) {
		t.Helper()
		begin := time.Now()
		do()
		took := time.Since(begin)
		t.Logf("%s: %v", what, took.Round(time.Millisecond))
		if took > limit {
			t.Errorf("%s takes %v, want at most %v", what, took, limit)
		}
	}
	timed("load", largeLoad, func() { b.open(htmlFile(t, &heap.Delta{New: s}, HTMLOptions{})); b.settle() })
	if got, want := b.state().Total, float64(s.Total()[heap.InuseBytes]); got != want {
		t.Errorf("total %v, want %v", got, want)
	}
	timed("flame graph", largeStep, func() { b.press("2") })
	timed("types as colours", largeStep, func() { b.press("o") })
	timed("one type", largeStep, func() { b.clickOn("#side .type") })
	if s := b.state(); len(s.Only) != 1 || s.Total == 0 {
		t.Errorf("restricted: %+v", s)
	}
	timed("table", largeStep, func() { b.press("3") })
	timed("look into a row", largeStep, func() { b.clickOn("#view-table tr.row") })
	timed("search the table", largeStep, func() { b.press("/method_12" + keyEnter) })
	timed("tree", largeStep, func() { b.press("4") })
	timed("ages", largeStep, func() { b.press("5") })
	timed("all again", largeStep, func() { b.press(keyEscape + keyEscape) })
	if s := b.state(); len(s.Only) != 0 || s.Query != "" {
		t.Errorf("still restricted: %+v", s)
	}
	timed("overview", largeStep, func() { b.press("1") })
	b.expectQuiet()
}
