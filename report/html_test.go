package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"image/color"
	"image/png"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/heaptap/heaptap/heap"
)

// shop is server with everything that only the whole page shows: threads, a timeline, the process's size.
func shop() *heap.Snapshot {
	s := server()
	for _, fact := range []struct {
		key string
		mib int
	}{{heap.InfoRSS, 96}, {heap.InfoTracked, 38}, {heap.InfoBeside, 20}, {heap.InfoFilesClean, 8}, {heap.InfoFilesDirty, 2},
		{heap.InfoStacks, 1}, {heap.InfoShared, 0}, {heap.InfoHeaptap, 5}, {heap.InfoUnexplained, 22}} {
		s.Info = append(s.Info, heap.KeyValue{Key: fact.key, Value: fmt.Sprint(fact.mib<<20) + " bytes"})
	}
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
				text := "\xef\xbb\xbf\x1b[31m\r\n\tif x:\n\u202e \xff" + strings.Repeat("x", 450)
				return SourceFile{Text: []byte(text), Path: "\x1b]0;"}, nil
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

// texts returns the texts of all elements that the selector finds.
func (b *browser) texts(selector string) (texts []string) {
	b.t.Helper()
	b.eval(&texts, "[...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)
	return texts
}

// expectTexts compares the first texts that a selector finds.
func (b *browser) expectTexts(selector string, want ...string) {
	b.t.Helper()
	got := b.texts(selector)
	if diff := cmp.Diff(want, got[:min(len(got), len(want))]); diff != "" {
		b.t.Errorf("%s: want (-), got (+)\n%s", selector, diff)
	}
}

// expectText wants each text in that of the first element that the selector finds.
func (b *browser) expectText(selector string, want ...string) {
	b.t.Helper()
	got := b.text(selector)
	for _, text := range want {
		if !strings.Contains(got, text) {
			b.t.Errorf("%s lacks %q: %s", selector, text, got)
		}
	}
}

func TestPageInBrowser(t *testing.T) {
	b := startBrowser(t, 1366, 768)
	b.open(htmlFile(t, &heap.Delta{New: shop()}, HTMLOptions{Title: "shop", Sources: shopSources}))
	step := func(name string, do func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { b.t = t; do(t); b.expectQuiet() })
		b.t = t
	}
	step("overview", func(t *testing.T) {
		b.expectTexts("#tabs button", "Overview", "Flame graph", "Table", "Tree", "Ages", "Source")
		b.expectTexts("#view-overview .card .value", "38.1 MiB", "178.3 MiB", "exact")
		b.expectTexts("#view-overview .parts dt", "tracked and live", "beside it", "files", "files, written", "stacks",
			"heaptap’s own", "not explained", "resident (RSS)")
		b.expectText("#view-overview .parts", "tracked and live38.0 MiB39.6 %", "heaptap’s own5.0 MiB5.2 %",
			"not explained22.0 MiB22.9 %", "resident (RSS)96.0 MiB")
		b.expectTexts("#view-overview .rank .name", "Sessions.remember", "Session.__init__", "product")
		b.expectText("#view-overview", "python3 /srv/shop/server.py --port 8000",
			"1,234 blocks from before the attach were freed since")
		b.expectText("#view-overview .says", "tracked and live", "resident (RSS)")
		var at struct{ X, Y float64 }
		b.eval(&at, "(r => ({x: r.right - 20, y: r.top + 60}))(document.querySelector('.chart').getBoundingClientRect())")
		b.point(at.X, at.Y)
		b.expectText("#view-overview .says", "after 1 min ", "resident 9")
	})
	step("a line leads to the flame graph", func(t *testing.T) {
		b.clickOn("#view-overview .rank")
		if s := b.state(); s.View != "flame" || s.Selected == nil || *s.Selected != "Sessions.remember" {
			t.Errorf("%+v", s)
		}
		b.press(keyEscape + keyEscape)
		b.expectZoom()
	})
	step("types restrict", func(t *testing.T) {
		b.expectTexts("#side .name", "dict", "str", "Product", "type not known")
		b.clickOn("#side li:nth-child(2) button")
		if s := b.state(); s.Only["type"] != "str" || s.Total != 7<<20+300<<10 {
			t.Errorf("%+v", s)
		}
		b.expectText("#chips", "only type str")
		b.press("a")
		b.press("a")
		b.press("3")
		b.expectTexts("#view-table tr.row .name", "Session.__init__", "<genexpr>")
		b.clickOn("#chips button")
		if s := b.state(); len(s.Only) != 0 {
			t.Errorf("%+v", s)
		}
		b.press("2o")
		b.expectTexts("#legend span", "dict", "str", "Product")
		if box := b.box("main"); box.Value != 38_789_120 {
			t.Errorf("main is %v", box.Value)
		}
		b.point(b.box("main").X+30, b.box("main").Y+5)
		b.expectText("#tip .types", "dict 48.7 %", "str 19.7 %")
		b.press("y")
		if b.shown("#side") {
			t.Error("the list of types stays")
		}
		b.press("yo")
	})
	step("table", func(t *testing.T) {
		b.press("3")
		b.expectTexts("#view-table tbody td:first-child span:first-child", "18.0 MiB", "7.0 MiB", "5.0 MiB")
		b.clickOn("#view-table th button[data-column=cum]")
		b.expectTexts("#view-table tr.row .name", "<module>", "main")
		b.clickOn("#view-table th button[data-column=cum]")
		var sorted string
		b.eval(&sorted, "document.querySelector('#view-table th[aria-sort]').getAttribute('aria-sort')")
		if sorted != "ascending" || b.texts("#view-table tr.row .name")[0] == "<module>" {
			t.Errorf("sorted %s: %q", sorted, b.texts("#view-table tr.row .name"))
		}
		b.clickOn("#view-table th button[data-column=name]")
		b.expectTexts("#view-table tr.row .place", "/srv/shop/catalog.py:21", "/srv/shop/catalog.py:57")
		for _, group := range []struct {
			name string
			rows []string
		}{
			{"type", []string{"dict", "str", "Product"}}, {"thread", []string{"worker-2", "worker-1", "MainThread"}},
			{"module", []string{"srv.shop.session", "srv.shop.catalog"}}, {"domain", []string{"obj", "mem", "raw"}},
			{"function", []string{"Sessions.remember", "Session.__init__"}},
		} {
			b.clickOn("#view-table .switch button[data-value=" + group.name + "]")
			b.expectTexts("#view-table tr.row .name", group.rows...)
		}
		b.press("/session" + keyEnter)
		b.expectTexts("#view-table tr.row .name", "Sessions.remember", "Session.__init__")
		if n := len(b.texts("#view-table tr.row")); n != 2 {
			t.Errorf("%d rows match", n)
		}
		b.eval(new(any), "document.querySelector('#view-table tr.row').focus()")
		b.press(keyEnter)
		b.expectText("#view-table .detail", "18.0 MiB dict", "640.0 KiB list", "Largest of 2 stacks",
			"/srv/shop/server.py:120 <module>")
		b.press(keyDown + keyEnter)
		if n := len(b.texts("#view-table .detail")); n != 2 {
			t.Errorf("%d rows are open", n)
		}
		b.clickOn("#view-table .detail button")
		if s := b.state(); s.View != "flame" || s.By != "function" || *s.Selected != "Sessions.remember" {
			t.Errorf("%+v", s)
		}
		b.call("POST", "/back", map[string]any{})
		b.settle()
		if s := b.state(); s.View != "table" || s.Query != "session" {
			t.Errorf("back: %+v", s)
		}
		b.press(keyEscape + "l")
	})
	step("tree", func(t *testing.T) {
		b.press("4")
		names := b.texts("#view-tree .item .name")
		if len(names) < 15 || !strings.Contains(names[2], "main") {
			t.Fatalf("%q", names)
		}
		b.clickOn("#view-tree .item:nth-child(3)") // main
		if n := len(b.texts("#view-tree .item")); n != 5 {
			t.Errorf("%d rows are left below a closed main", n)
		}
		b.press(keyRight + keyRight + keyDown)
		var focused string
		b.eval(&focused, "document.activeElement.textContent")
		if !strings.Contains(focused, "ThreadingMixIn.process_request") {
			t.Errorf("the keys lead to %q", focused)
		}
		b.press("/walk")
		if n := len(b.texts("#view-tree .item.hit")); n == 0 {
			t.Error("the search finds nothing")
		}
		b.press(keyEscape)
	})
	step("ages", func(t *testing.T) {
		b.press("5")
		b.expectTexts("#view-ages .age .name", "less than 1 s", "1 s to 2 s")
		b.clickOn("#view-ages .age[data-age='64']")
		if s := b.state(); s.Only["age"] != "1 min 4 s to 1 min 5 s" || s.Total != 25<<20 {
			t.Errorf("%+v", s)
		}
		b.expectTexts("#view-ages .rank .name", "Sessions.remember", "Session.__init__")
		b.press("a")
		b.expectText("#view-ages", "Ages are known of live blocks only")
		b.press("a" + keyEscape)
		if s := b.state(); len(s.Only) != 0 {
			t.Errorf("%+v", s)
		}
	})
	step("source", func(t *testing.T) {
		b.press("6")
		b.expectText("#view-source", "2 of 13 files could be had")
		b.expectText("#view-source .panel", "/srv/shop/session.py 25.6 MiB", `18.0 MiB25.0 MiB33    line_33 = remember("`)
		b.expectTexts("#view-source .warning", "found as /home/me/shop/catalog.py; changed since the snapshot was taken: "+
			"these may not be the lines that ran; has only 60 lines: it is not the file that ran")
		b.press("/line_33")
		if n := len(b.texts("#view-source tr.hit")); n != 1 {
			t.Errorf("%d lines match", n)
		}
		b.press(keyEscape)
	})
	step("address", func(t *testing.T) {
		b.press("3")
		b.clickOn("#view-table .switch button[data-value=type]")
		b.press("/dict" + keyEnter + "b")
		before := b.state()
		b.call("POST", "/refresh", map[string]any{})
		b.settle()
		after := b.state()
		after.Rows, after.Boxes = before.Rows, before.Boxes // of the graph, which has not been looked at
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("a reload changes the page:\n%s", diff)
		}
		b.press(keyEscape + "b")
	})
	step("tabs by keyboard", func(t *testing.T) {
		b.eval(new(any), "document.getElementById('tab-table').focus()")
		b.press(keyRight)
		if s := b.state(); s.View != "tree" {
			t.Errorf("%+v", s)
		}
	})
	step("themes", func(t *testing.T) {
		for _, theme := range []string{"dark", "light"} {
			b.devtools("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{
				"name": "prefers-color-scheme", "value": theme}}})
			if s := b.state(); s.Theme != theme {
				t.Errorf("%s: %+v", theme, s)
			}
			for i := range 6 {
				b.press(fmt.Sprint(i + 1))
				b.expectContrast()
			}
		}
		b.press("t")
		if s := b.state(); s.Theme != "dark" {
			t.Errorf("%+v", s)
		}
		b.press("t")
	})
	step("every width", func(t *testing.T) {
		for _, width := range []int{1366, 800, 420, 320} {
			b.devtools("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 768,
				"deviceScaleFactor": 1, "mobile": false})
			for i := range 6 {
				b.press(fmt.Sprint(i + 1))
				var wide float64
				b.eval(&wide, "document.documentElement.scrollWidth")
				if int(wide) > width {
					t.Errorf("view %d is %v wide on a screen of %d", i+1, wide, width)
				}
				b.expectNames()
			}
		}
	})
	step("print", func(t *testing.T) {
		for i := range 6 {
			b.press(fmt.Sprint(i + 1))
			if pdf := b.pdf(); !bytes.HasPrefix(pdf, []byte("%PDF-")) {
				t.Error("no PDF")
			}
		}
	})
}

// expectNames wants a name on whatever can be used, and roles that fit together.
func (b *browser) expectNames() {
	b.t.Helper()
	var nameless []string
	b.eval(&nameless, `[...document.querySelectorAll('button, input, [role], svg, [tabindex]')].filter(e =>
		e.checkVisibility() && !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim()))
		.map(e => e.outerHTML.slice(0, 200))`)
	if len(nameless) > 0 {
		b.t.Errorf("elements without a name: %q", nameless)
	}
}

// leastContrast is what WCAG 2 asks for of text (level AA).
const leastContrast = 4.5

// expectContrast compares the colours of texts with what they stand on, where that is one colour.
func (b *browser) expectContrast() {
	b.t.Helper()
	var poor []string
	b.eval(&poor, `(least => {
		const rgb = s => { const c = document.createElement('canvas').getContext('2d'); c.fillStyle = s;
			c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
		const linear = v => (v /= 255, v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
		const light = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
		const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
			if (rgb(c)[3] === 255) return rgb(c); } return [255, 255, 255, 255]; };
		const bad = new Set();
		for (const e of document.querySelectorAll('header *, main *, footer *')) {
			const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
			if (!own || !e.checkVisibility()) continue;
			const a = light(rgb(getComputedStyle(e).color)), b = light(ground(e));
			const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
			if (ratio < least) bad.add(ratio.toFixed(2) + ' ' + e.tagName + '.' + e.className + ' ' +
				e.textContent.slice(0, 40));
		}
		return [...bad].slice(0, 8);
	})(arguments[0])`, leastContrast)
	if len(poor) > 0 {
		b.t.Errorf("%s, %s: text is hard to read: %q", b.state().View, b.state().Theme, poor)
	}
}

// The page reckons as package heap does: own and total of each line and function, each block once under recursion.
func TestPageReckons(t *testing.T) {
	b := startBrowser(t, 1366, 768)
	for _, s := range []*heap.Snapshot{server(), deep(9), large(3, 12)} {
		b.open(htmlFile(t, &heap.Delta{New: s}, HTMLOptions{}))
		b.press("3")
		for _, g := range []struct {
			name string
			rows []heap.Row
		}{{"line", s.ByLine()}, {"function", s.ByFunction()}} {
			b.clickOn("#view-table .switch button[data-value=" + g.name + "]")
			var want []string
			for _, r := range g.rows {
				if r.Cum[heap.InuseBytes] > 0 {
					want = append(want, fmt.Sprint(Size(r.Own[heap.InuseBytes]), Size(r.Cum[heap.InuseBytes]), function(r.Frame),
						location(r.Frame)))
				}
			}
			if v := s.Stackless()[heap.InuseBytes]; v > 0 {
				want = append(want, fmt.Sprint(Size(v), Size(v), noStackName, ""))
			}
			var got []string
			b.eval(&got, `[...document.querySelectorAll('#view-table tr.row')].map(r => r.cells[0].textContent +
				r.cells[4].textContent + (r.querySelector('.name') || {}).textContent +
				(r.querySelector('.place') || {textContent: ''}).textContent)`)
			slices.Sort(want)
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("by %s: want (-), got (+)\n%s", g.name, diff)
			}
		}
	}
}

// The tree in a page's data has the same calls and sums as the snapshot's.
func TestPageTree(t *testing.T) {
	for name, s := range map[string]*heap.Snapshot{"server": server(), "hostile": hostile(), "large": large(300, 20)} {
		want := map[string]int64{}
		root := s.Tree(heap.ByLine)
		var walk func(n *heap.Node, path string)
		walk = func(n *heap.Node, path string) {
			for _, c := range n.Children {
				below := path + "\n" + function(c.Frame) + " " + location(c.Frame)
				want[below] += c.Own[heap.InuseBytes] // hostile names may look alike
				walk(c, below)
			}
		}
		walk(root, "")
		if v := root.Own[heap.InuseBytes]; v > 0 {
			want["\n"+noStackName+" "] = v
		}
		d := pageDataOf(&heap.Delta{New: s}, FlameOptions{}.page(), 1<<20)
		got := map[string]int64{}
		var path []string
		var nodes []string
		for i, up := range d.Nodes.Up {
			f := d.Nodes.Frame[i]
			fn, file := d.Strings[d.Frames.Func[f]], d.Strings[d.Frames.File[f]]
			if fn == "" {
				fn = "[unknown]"
			}
			if d.Frames.Line[f] > 0 && file != "" {
				file = fmt.Sprintf("%s:%d", file, d.Frames.Line[f])
			}
			above := ""
			path = path[:len(path)-up]
			if len(path) > 0 {
				above = path[len(path)-1]
			}
			path = append(path, above+"\n"+fn+" "+file)
			nodes = append(nodes, path[len(path)-1])
			got[path[len(path)-1]] += 0
		}
		at := -1
		for i, step := range d.Records.Node {
			at += int(step)
			got[nodes[at]] += d.Records.Values[0][i]
		}
		if name == "hostile" { // whose names are cut
			for _, m := range []map[string]int64{want, got} {
				for path := range m {
					if len(path) > maxNameBytes {
						delete(m, path)
					}
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: want (-), got (+)\n%s", name, diff)
		}
	}
}

// anything makes a snapshot of whatever the model allows.
func anything(rng *rand.Rand) *heap.Snapshot {
	s := &heap.Snapshot{SampleBytes: uint64(rng.IntN(2)) << 19}
	if rng.IntN(4) > 0 {
		s.Strings = []string{"", "a", "\xff", "</script>", cutLabel}
	}
	for range rng.IntN(20) {
		s.Frames = append(s.Frames, heap.Frame{Func: []string{"", "f", "\x00", cutName, noStackName}[rng.IntN(5)],
			File: []string{"", "/a.py", "<b>"}[rng.IntN(3)], Line: rng.IntN(3), FirstLine: rng.IntN(2)})
	}
	if len(s.Frames) > 0 {
		for i := range rng.IntN(200) {
			s.Stacks = append(s.Stacks, heap.Stack{Parent: int32(rng.IntN(i+1)) - 1, Frame: int32(rng.IntN(len(s.Frames)))})
		}
	}
	for range rng.IntN(400) {
		label := func() int32 { return int32(rng.IntN(max(1, len(s.Strings)))) }
		r := heap.Record{Stack: int32(rng.IntN(len(s.Stacks)+1)) - 1, Type: label(), Thread: label(), Domain: label(),
			Age: int32(rng.IntN(5)) - 1}
		var v heap.Values
		for m := range v {
			v[m] = int64(rng.IntN(3)) * int64(rng.IntN(1000))
		}
		r.SetValues(v)
		s.Records = append(s.Records, r)
	}
	return s
}

// Whatever the snapshots and however small the page, it is written and its sums are theirs.
func TestPageOfAnything(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		d := &heap.Delta{New: anything(rng)}
		if rng.IntN(2) == 0 {
			d.Old = anything(rng)
		}
		for _, s := range []*heap.Snapshot{d.New, d.Old} {
			if s != nil && s.Check() != nil {
				t.Fatal(s.Check())
			}
		}
		o := HTMLOptions{Metric: heap.Metric(rng.IntN(int(heap.NumMetrics))), By: heap.Grouping(rng.IntN(2))}.page()
		n := 1 + rng.IntN(100)
		checkTotals(t, pageDataOf(d, o, n), d)
		if t.Failed() {
			t.Fatalf("with at most %d calls, metric %v", n, o.metric)
		}
		if err := writePage(io.Discard, "html", d, o); err != nil {
			t.Fatal(err)
		}
	}
}

// A long timeline keeps its peaks; what nobody measured stays unknown.
func TestPageTimeline(t *testing.T) {
	s := &heap.Snapshot{}
	begin := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	for i := range 10 * maxPoints {
		p := heap.Point{Time: begin.Add(time.Duration(i) * time.Second), Tracked: 100, RSS: heap.Unmeasured}
		if i == 4321 {
			p.Tracked = 5000
		}
		s.Timeline = append(s.Timeline, p)
	}
	points := pageTimeline(s)
	peak := 0.0
	for i, p := range points {
		peak = max(peak, p[1])
		if p[2] != -1 || i > 0 && p[0] <= points[i-1][0] {
			t.Fatalf("point %d: %v after %v", i, p, points[max(0, i-1)])
		}
	}
	if len(points) != maxPoints || peak != 5000 {
		t.Errorf("%d points with a peak of %v", len(points), peak)
	}
	if points := pageTimeline(&heap.Snapshot{Timeline: s.Timeline[:3]}); len(points) != 3 || points[2][0] != 2 {
		t.Errorf("three points: %v", points)
	}
}

func TestDeltaInBrowser(t *testing.T) {
	b := startBrowser(t, 1366, 768)
	delta := &heap.Delta{Old: earlier(), New: shop(), Warnings: []string{"made-up: not alike"}}
	b.open(htmlFile(t, delta, HTMLOptions{Title: "shop"}))
	old, now := float64(delta.Old.Total()[heap.InuseBytes]), float64(delta.New.Total()[heap.InuseBytes])
	b.expectText("#view-overview .warning", "made-up: not alike")
	b.expectTexts("#view-overview .card .value", "+10.3 MiB")
	b.expectText("#view-overview .card", "27.8 MiB → 38.1 MiB", "+37.2 %")
	b.expectTexts("#view-overview .rank .name", "Sessions.remember", "product", "Session.__init__")

	b.press("2")
	for _, box := range []struct {
		name, change string
		value        float64
	}{
		{"Session.__init__", "grown", 7<<20 - 7<<20/3}, {"product", "shrunk", 5 << 20}, {"BaseLoader.load", "new", 2 << 20},
	} {
		var got struct {
			Change string
			Value  float64
		}
		b.eval(&got, "window.heaptap.box(arguments[0])", box.name)
		if got.Change != box.change || got.Value < box.value-1 || got.Value > box.value+1 {
			t.Errorf("%s: %+v, want %+v", box.name, got, box)
		}
	}
	b.expectTexts("#legend span", "+ new", "+ grown", "as before", "− shrunk", "− gone")
	b.point(b.box("product").X+20, b.box("product").Y+5)
	b.expectText("#tip", "Live−5.0 MiB−50.0 %10.0 MiB → 5.0 MiB−20,480 blocks")
	change := b.state().Total
	b.press("w")
	if s := b.state(); s.Width != "now" || s.Total != now {
		t.Errorf("%+v, want %v now", s, now)
	}
	b.press("w")
	if s := b.state(); s.Width != "old" || s.Total != old {
		t.Errorf("%+v, want %v before", s, old)
	}
	b.expectText("#note", "what is new is not to be seen")
	b.press("w")
	if s := b.state(); s.Total != change || change < now-old {
		t.Errorf("%+v, want %v changed", s, change)
	}
	b.press("3")
	b.expectTexts("#view-table tr.row .name", "Sessions.remember", "Session.__init__", "BaseLoader.load")
	b.clickOn("#view-table th button[data-column=growth]")
	b.expectTexts("#view-table tr.row .name", "product", "load")
	b.clickOn("#view-table .switch button[data-value=type]")
	b.expectTexts("#view-table tr.row .name", "dict", "str", "Template")
	b.press("4")
	b.expectText("#view-tree .item:nth-child(2)", "+10.3 MiB", "<module>")
	b.press("5")
	b.expectText("#view-ages .age[data-age='64']", "+13.7 MiB")
	b.expectQuiet()

	b.open(htmlFile(t, &heap.Delta{Old: shop(), New: &heap.Snapshot{}}, HTMLOptions{}))
	b.press("2")
	var got struct{ Change string }
	b.eval(&got, "window.heaptap.box('main')")
	if got.Change != "gone" {
		t.Errorf("all went, and main is %q", got.Change)
	}
	b.press("13456")
	b.expectQuiet()
}

// What was allocated may be known by stack only: then a restriction to a type leaves nothing of it, and that is said.
func TestPageSaysWhatIsNotKnown(t *testing.T) {
	s := shop()
	for i, r := range s.Records {
		all := r
		all.Type, all.Age, all.InuseBytes, all.InuseBlocks = 0, heap.UnknownAge, 0, 0
		s.Records[i].AllocBytes, s.Records[i].AllocBlocks = 0, 0
		s.Records = append(s.Records, all)
	}
	s.Timeline, s.Info = nil, nil
	b := startBrowser(t, 1366, 768)
	b.open(htmlFile(t, &heap.Delta{New: s}, HTMLOptions{}))
	b.expectText("#view-overview", "This snapshot does not say how large the process was.",
		"This snapshot has no timeline.")
	// Snapshots of older versions, and those of other programs, do not say what resident memory is made of.
	s.Info = []heap.KeyValue{{Key: heap.InfoRSS, Value: fmt.Sprint(96<<20) + " bytes"},
		{Key: heap.InfoHeaptap, Value: fmt.Sprint(5<<20) + " bytes"}}
	b.open(htmlFile(t, &heap.Delta{New: s}, HTMLOptions{}))
	b.expectTexts("#view-overview .parts dt", "tracked and live", "heaptap’s own", "not explained", "resident (RSS)")
	b.expectText("#view-overview .parts", "not explained52.9 MiB55.1 %")
	b.press("2")
	b.clickOn("#side .type")
	if b.shown("#note") {
		t.Errorf("there is a note: %s", b.text("#note"))
	}
	b.press("a")
	b.expectText("#note", "What was allocated is known by stack only, not by type.")
	b.expectQuiet()
}

// The two sides of a comparison must be told apart without their hues: what shrank is painted in stripes, what grew is
// not, and either has its sign.
func TestDeltaWithoutColour(t *testing.T) {
	b := startBrowser(t, 1366, 768)
	var out bytes.Buffer
	if err := DeltaFlame(&out, &heap.Delta{Old: earlier(), New: shop()}, FlameOptions{}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "delta.html")
	if err := os.WriteFile(file, out.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, theme := range []string{"light", "dark"} {
		b.devtools("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{
			"name": "prefers-color-scheme", "value": theme}}})
		b.open(file)
		b.settle()
		shot, err := png.Decode(bytes.NewReader(b.screenshot()))
		if err != nil {
			t.Fatal(err)
		}
		// The right end of the boxes has no text. How often does brightness change along a row of pixels?
		edges := func(name string) (n int, mean float64) {
			box := b.box(name)
			y, last := int(box.Y)+4, -1
			x0, x1 := int(box.X+box.Width)-44, int(box.X+box.Width)-4
			for x := x0; x < x1; x++ {
				grey := int(color.GrayModel.Convert(shot.At(x, y)).(color.Gray).Y)
				if last >= 0 && max(grey-last, last-grey) > 24 {
					n++
				}
				mean, last = mean+float64(grey)/float64(x1-x0), grey
			}
			return n, mean
		}
		shrunk, _ := edges("product")
		grown, _ := edges("Session.__init__")
		if shrunk < 6 || grown > 1 {
			t.Errorf("%s: brightness changes %d times in what shrank, %d times in what grew", theme, shrunk, grown)
		}
	}
	b.expectQuiet()
}

// Traps in names must neither run nor break any view.
func TestPageOddNames(t *testing.T) {
	b := startBrowser(t, 1366, 768)
	sources := func(string) (SourceFile, error) {
		return SourceFile{Text: []byte("</script><script>document.title='owned'</script>\n" +
			"<img src=x onerror=alert(1)>\n")}, nil
	}
	for _, d := range []*heap.Delta{
		{New: hostile()}, {Old: hostile(), New: shop(), Warnings: []string{"</script><b>"}}, {New: &heap.Snapshot{}},
		{Old: &heap.Snapshot{}, New: &heap.Snapshot{}}, {New: sampled()},
	} {
		b.open(htmlFile(t, d, HTMLOptions{Title: "</title><script>alert(1)</script>", Sources: sources}))
		for view := range 6 {
			b.press(fmt.Sprint(view + 1))
			b.press("/<" + keyEnter + keyEscape + "ablio" + keyEscape)
			var rows int
			b.eval(&rows, "document.querySelectorAll('.view:not([hidden]) tr.row').length")
			for row := range min(rows, 3) {
				b.eval(new(any), "document.querySelectorAll('#view-table tr.row')[arguments[0]].click()", row)
			}
			var foreign int
			b.eval(&foreign, "document.querySelectorAll('main img, main script, main p > b').length")
			if title := b.text("title"); title != "</title><script>alert(1)</script> · heaptap" || foreign > 0 {
				t.Errorf("view %d: title %q, %d elements out of names", view+1, title, foreign)
			}
		}
		b.expectQuiet()
	}
}

var olderFile = flag.String("older", "", "snapshot that TestPageScreenshots compares with, in place of a made-up one")

func readShot(t *testing.T, name string) *heap.Snapshot {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := heap.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestPageScreenshots takes pictures of all views to look at, as TestScreenshots does.
func TestPageScreenshots(t *testing.T) {
	if *shots == "" {
		t.Skip("only with -screenshots")
	}
	s, old := shop(), earlier()
	if *shotFile != "" {
		s = readShot(t, *shotFile)
	}
	if *olderFile != "" {
		old = readShot(t, *olderFile)
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
					if size.name == "" && theme == "light" {
						file := filepath.Join(*shots, fmt.Sprintf("%s-%s.pdf", page.name, view))
						if err := os.WriteFile(file, b.pdf(), 0o666); err != nil {
							t.Fatal(err)
						}
					}
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

// However alike blocks are and however many names they have, a page keeps its bound and its totals.
func TestPageOfManyNames(t *testing.T) {
	const blocks = 30_000
	s := &heap.Snapshot{}
	b := heap.NewBuilder(s)
	for i := range blocks {
		f := heap.Frame{Func: strings.Repeat("f", 300) + fmt.Sprint(i%5000), File: "/srv/x.py", Line: i % 9}
		r := heap.Record{Type: b.Text(fmt.Sprintf("%d%s", i, strings.Repeat("Type", 100))), Age: int32(i),
			Stack:      b.Stack(f),
			InuseBytes: 64, InuseBlocks: 1}
		s.Records = append(s.Records, r)
		s.Info = append(s.Info, heap.KeyValue{Key: "fact", Value: fmt.Sprint(i)})
	}
	for _, most := range []int{300 << 10, DefaultMaxPageBytes} {
		var out bytes.Buffer
		if err := HTML(&out, s, HTMLOptions{MaxBytes: most}); err != nil {
			t.Fatal(err)
		}
		data, err := unpackFlame(out.String())
		if err != nil {
			t.Fatal(err)
		}
		var d pageData
		if err := json.Unmarshal(data, &d); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s of at most %s: %s", Size(int64(out.Len())), Size(int64(most)), d.Cut.Note)
		if out.Len() > most || d.Cut.Note == "" != (most == DefaultMaxPageBytes) {
			t.Errorf("a page of at most %d has %d bytes, and says %q", most, out.Len(), d.Cut.Note)
		}
		checkTotals(t, d, &heap.Delta{New: s})
	}
	if err := HTML(io.Discard, s, HTMLOptions{MaxBytes: 1000}); err == nil {
		t.Error("a page of 1000 bytes was written")
	}
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
