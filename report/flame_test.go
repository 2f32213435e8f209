package report

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/heaptap/heaptap/heap"
)

var (
	shots    = flag.String("screenshots", "", "folder for pictures of the flame graph, which TestScreenshots takes")
	shotFile = flag.String("snapshot", "", "snapshot file that TestScreenshots shows, in place of a made-up one")
)

func flameFile(t testing.TB, s *heap.Snapshot, o FlameOptions) string {
	t.Helper()
	var b bytes.Buffer
	if err := Flame(&b, s, o); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "flame.html")
	if err := os.WriteFile(file, b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	return file
}

// pageState is what the page says of itself.
type pageState struct {
	View, State, Unit, By, Colour, Width, Query, Theme string
	Group, Sort                                        string
	Inverted, Down                                     bool
	Only                                               map[string]string
	Zoom                                               []string
	Selected                                           *string
	Total                                              float64
	Rows, Boxes                                        int
}

func (b *browser) state() (s pageState) { b.t.Helper(); b.eval(&s, "window.heaptap.state()"); return s }

// pageBox is where a box is in the window.
type pageBox struct {
	X, Y, Width, Height, Value float64
	Row                        int
}

// box returns the first box of the function.
func (b *browser) box(function string) pageBox {
	b.t.Helper()
	var box *pageBox
	b.eval(&box, "window.heaptap.box(arguments[0])", function)
	if box == nil {
		b.t.Fatalf("no box for %s", function)
	}
	return *box
}

func (b *browser) clickBox(function string) {
	b.t.Helper()
	box := b.box(function)
	b.click(box.X+box.Width/2, box.Y+box.Height/2)
}

func (b *browser) expectZoom(want ...string) {
	b.t.Helper()
	if diff := cmp.Diff(want, b.state().Zoom); diff != "" && len(want)+len(b.state().Zoom) > 0 {
		b.t.Errorf("zoomed: want (-), got (+)\n%s", diff)
	}
}

func (b *browser) expectQuiet() {
	b.t.Helper()
	if list := b.complaints(); len(list) > 0 {
		b.t.Errorf("the browser complains:\n%s", strings.Join(list, "\n"))
	}
}

func TestFlameInBrowser(t *testing.T) {
	b := startBrowser(t, 1280, 800)
	b.open(flameFile(t, server(), FlameOptions{Title: "shop"}))
	var width float64
	b.eval(&width, "document.getElementById('stage').clientWidth")

	t.Run("first look", func(t *testing.T) {
		b.t = t
		s := b.state()
		if s.State != "inuse" || s.Unit != "space" || s.By != "line" || s.Inverted ||
			s.Total != float64(server().Total()[heap.InuseBytes]) {
			t.Errorf("state %+v", s)
		}
		for _, want := range []string{"shop", "live in"} {
			if !strings.Contains(b.text("header"), want) {
				t.Errorf("the header lacks %q: %s", want, b.text("header"))
			}
		}
		module := b.box("<module>")
		share := float64(server().Total()[heap.InuseBytes]-96<<10) / s.Total
		if got := module.Width / width; got < share-0.001 || got > share+0.001 {
			t.Errorf("<module> has %.4f of the width, want %.4f", got, share)
		}
	})
	t.Run("tooltip", func(t *testing.T) {
		b.t = t
		box := b.box("Sessions.remember")
		b.point(box.X+20, box.Y+8)
		tip := b.text("#tip")
		for _, want := range []string{"Sessions.remember", "/srv/shop/session.py:33", "25.0 MiB", "147,456 blocks",
			"Allocated", "right here18.0 MiB"} {
			if !strings.Contains(tip, want) {
				t.Errorf("the tooltip lacks %q: %s", want, tip)
			}
		}
		b.point(5, 5)
		if b.shown("#tip") {
			t.Error("the tooltip stays")
		}
	})
	t.Run("click zooms", func(t *testing.T) {
		b.t = t
		b.clickBox("Handler.do_GET")
		path := b.state().Zoom
		if len(path) != 6 || path[5] != "Handler.do_GET" {
			t.Fatalf("zoomed to %q", path)
		}
		if box := b.box("Handler.do_GET"); box.Width != width {
			t.Errorf("the zoomed box is %v wide, want %v", box.Width, width)
		}
		if got := b.text("#crumbs"); got != "all›<module>›main›BaseServer.serve_forever›"+
			"ThreadingMixIn.process_request›"+
			"BaseHTTPRequestHandler.handle_one_request›Handler.do_GET" {
			t.Errorf("breadcrumb %s", got)
		}
		b.clickOn("#crumbs button:nth-of-type(3)")
		b.expectZoom("<module>", "main")
		b.call("POST", "/back", map[string]any{})
		b.settle()
		b.expectZoom(path...)
		b.clickBox("<module>") // a caller above
		b.expectZoom("<module>")
		b.press(keyBackspace)
		b.expectZoom()
	})
	t.Run("search", func(t *testing.T) {
		b.t = t
		b.press("/SESSION.py")
		if got, want := b.text("#matched"), "67.3 % · 25.6 MiB · 3 lines"; got != want {
			t.Errorf("matched %q, want %q", got, want)
		}
		b.press(keyEnter)
		if s := b.state().Selected; s == nil || *s != "Sessions.remember" {
			t.Errorf("selected %v, want the first match", s)
		}
		b.press(keyEscape)
		if s := b.state(); s.Query != "" || b.text("#matched") != "" {
			t.Errorf("the search goes on: %+v", s)
		}
		b.press("//^(walk|load) /")
		if got := b.text("#matched"); !strings.HasSuffix(got, "3 lines") {
			t.Errorf("a regular expression matched %q", got)
		}
		b.press(keyEscape + "//(/")
		if got := b.text("#matched"); got != "not a regular expression" {
			t.Errorf("matched %q", got)
		}
		b.press(keyEscape + "/zzz" + keyEscape)
	})
	t.Run("switches", func(t *testing.T) {
		b.t = t
		b.clickOn("#units button:nth-of-type(2)")
		if s := b.state(); s.Unit != "objects" || s.Total != float64(server().Total()[heap.InuseBlocks]) {
			t.Errorf("blocks: %+v", s)
		}
		b.clickOn("#states button:nth-of-type(2)")
		if s := b.state(); s.State != "alloc" || s.Total != float64(server().Total()[heap.AllocBlocks]) {
			t.Errorf("allocated: %+v", s)
		}
		b.press("ba")
		if s := b.state(); s.State != "inuse" || s.Unit != "space" {
			t.Errorf("back: %+v", s)
		}
		lines := b.box("Sessions.remember").Value
		b.press("l")
		if functions := b.box("Sessions.remember").Value; lines != 25<<20 || functions != 25<<20+640<<10 {
			t.Errorf("Sessions.remember has %v by line, %v by function", lines, functions)
		}
		b.press("l")
		b.press("t")
		dark := b.state().Theme
		b.press("t")
		if light := b.state().Theme; light == dark {
			t.Errorf("the theme stays %s", light)
		}
	})
	t.Run("invert", func(t *testing.T) {
		b.t = t
		b.press("i")
		top := b.box("Sessions.remember")
		if top.Row != 1 || top.Value != 18<<20 || !b.state().Inverted {
			t.Errorf("inverted, Sessions.remember is %+v", top)
		}
		b.click(top.X+5, top.Y+5)
		if caller := b.box("Handler.do_GET"); caller.Row != 2 || caller.Width != width {
			t.Errorf("its caller is %+v", caller)
		}
		b.clickOn("#direction button:nth-of-type(1)")
		b.expectZoom()
	})
	t.Run("keyboard", func(t *testing.T) {
		b.t = t
		selected := func(keys, want string) {
			t.Helper()
			b.press(keys)
			if s := b.state().Selected; s == nil || *s != want {
				t.Errorf("selected %v, want %s", s, want)
			}
		}
		selected(keyDown, "<module>")
		selected(keyDown+keyDown, "BaseServer.serve_forever")
		selected(keyRight, "load")
		selected(keyLeft+keyUp, "main")
		b.press(keyEnter)
		b.expectZoom("<module>", "main")
		b.press(keyEscape)
		b.expectZoom()
		b.press("?")
		if !b.shown("#keys") {
			t.Error("? does not open the help")
		}
		b.press("i") // belongs to the dialog
		b.press(keyEscape)
		if s := b.state(); b.shown("#keys") || s.Inverted {
			t.Errorf("the help is open, or took a key: %+v", s)
		}
	})
	t.Run("address", func(t *testing.T) {
		b.t = t
		b.press("bl/catalog" + keyEnter + keyEnter) // the first match, then zoom to it
		before := b.state()
		if len(before.Zoom) != 3 || before.Zoom[2] != "load" || before.Query != "catalog" {
			t.Fatalf("state %+v", before)
		}
		b.call("POST", "/refresh", map[string]any{})
		b.settle()
		after := b.state()
		after.Selected = before.Selected // is not kept
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("a reload changes the page:\n%s", diff)
		}
	})
	t.Run("print", func(t *testing.T) {
		b.t = t
		if pdf := b.pdf(); !bytes.HasPrefix(pdf, []byte("%PDF-")) {
			t.Error("no PDF")
		}
		var now float64
		b.eval(&now, "document.getElementById('canvas').getBoundingClientRect().width")
		if now != width {
			t.Errorf("after printing the canvas is %v wide, was %v", now, width)
		}
	})
	b.t = t
	b.expectQuiet()
}

// Traps in names must neither run nor break the page; an empty snapshot must have one.
func TestFlameOddPages(t *testing.T) {
	b := startBrowser(t, 1000, 700)
	b.open(flameFile(t, hostile(), FlameOptions{Title: "</title><script>alert(1)</script>"}))
	box := b.box("</script><script>document.title='owned'</script>")
	b.point(box.X+5, box.Y+5)
	if got := b.text("#tip .place"); got != "/tmp/<img src=x onerror=alert(1)>.py:1" {
		t.Errorf("tooltip %s", got)
	}
	if got, want := b.text("title"), "</title><script>alert(1)</script> · heaptap"; got != want {
		t.Errorf("title %q, want %q", got, want)
	}
	for _, name := range []string{`\x1b[31mred\x1b[0m`, `\u202etxt.exe`, `bad\xff\xfeutf8`, "größe.<locals>.計算",
		"[unknown]", "__proto__"} {
		b.box(name)
	}
	b.press("/__proto__" + keyEscape)
	b.clickOn("#facts")
	if got := b.text("#info"); !strings.Contains(got, "</script><script>alert(1)</script>") {
		t.Errorf("facts %s", got)
	}
	b.press(keyEscape)
	b.expectQuiet()

	b.open(flameFile(t, &heap.Snapshot{}, FlameOptions{}))
	if s := b.state(); s.Rows != 1 || s.Total != 0 {
		t.Errorf("empty: %+v", s)
	}
	b.press(keyDown + keyEnter + "iablb/x" + keyEnter + keyEscape + keyEscape)
	b.expectQuiet()

	b.open(flameFile(t, sampled(), FlameOptions{Metric: heap.PeakBlocks, By: heap.ByFunction, Invert: true}))
	if s := b.state(); s.State != "peak" || s.Unit != "objects" || s.By != "function" || !s.Inverted || s.Total != 280 {
		t.Errorf("at first: %+v", s)
	}
	b.expectQuiet()

	b.open(flameFile(t, server(), FlameOptions{MaxNodes: 8}))
	if note := b.text("#note"); !b.shown("#note") || !strings.HasPrefix(note,
		"To bound the size of this page, its 25 smallest calls of 33 are summed") {
		t.Errorf("the page does not say what it left out: %q", note)
	}
	b.box("[smaller calls, not in this page]")
	b.expectQuiet()

	b.open(flameFile(t, deep(5000), FlameOptions{}))
	if s := b.state(); s.Rows != 5003 {
		t.Errorf("deep: %+v", s)
	}
	b.press("/leaf" + keyEnter) // scrolls there
	if leaf := b.box("leaf"); leaf.Y < 0 || leaf.Y > 700 {
		t.Errorf("the leaf is at %+v", leaf)
	}
	b.expectQuiet()
}

// Bounds for a page of 100,000 stacks, generous since machines differ: a reader must not wait long for anything.
const (
	largeLoad = 8 * time.Second
	largeStep = 2 * time.Second
	largeFile = DefaultMaxPageBytes
)

func TestFlameLarge(t *testing.T) {
	s := large(100_000, 30)
	file := flameFile(t, s, FlameOptions{})
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d stacks in the trie, page of %s", len(s.Stacks), Size(info.Size()))
	if info.Size() > largeFile {
		t.Errorf("the page has %s, want at most %s", Size(info.Size()), Size(largeFile))
	}
	b := startBrowser(t, 1280, 800)
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
	timed("load", largeLoad, func() { b.open(file); b.settle() })
	if got, want := b.state().Total, float64(s.Total()[heap.InuseBytes]); got != want {
		t.Errorf("total %v, want %v", got, want)
	}
	timed("move", largeStep, func() { b.press(keyDown + keyDown + keyDown) })
	timed("zoom", largeStep, func() { b.press(keyEnter) })
	timed("zoom out", largeStep, func() { b.press(keyEscape) })
	timed("search", largeStep, func() { b.press("/method_12") })
	timed("end search", largeStep, func() { b.press(keyEscape) })
	timed("blocks", largeStep, func() { b.press("b") })
	timed("functions", largeStep, func() { b.press("l") })
	timed("invert", largeStep, func() { b.press("i") })
	timed("zoom inverted", largeStep, func() { b.press(keyDown + keyEnter) })
	if zoom := b.state().Zoom; len(zoom) != 1 {
		t.Errorf("zoomed to %q", zoom)
	}
	b.expectQuiet()
}

// pageDataOf is the data of a page with at most n calls.
func pageDataOf(d *heap.Delta, o pageOptions, n int) pageData {
	tree := newCalls()
	tree.add(d.New, callsNow, o.detailed())
	if d.Old != nil {
		tree.add(d.Old, callsOld, o.detailed())
	}
	return newPageData(tree, aboutOf(d, o), o, n)
}

// The cut must keep the totals, and say what it took.
func TestPageBounded(t *testing.T) {
	delta := &heap.Delta{Old: sampled(), New: server()}
	for _, o := range []pageOptions{FlameOptions{}.page(), HTMLOptions{}.page()} {
		for _, n := range []int{1, 2, 5, 10, 20} {
			d := pageDataOf(delta, o, n)
			if d.Cut.Frame < 0 || d.Cut.Note == "" {
				t.Errorf("of %d nodes: nothing is cut", n)
			}
			kept := 0
			for _, f := range d.Nodes.Frame {
				if f != d.Cut.Frame {
					kept++
				}
			}
			if kept != n {
				t.Errorf("%d nodes, want %d", kept, n)
			}
			checkTotals(t, d, delta)
		}
		if d := pageDataOf(delta, o, 1000); d.Cut != (pageCut{Frame: -1, Label: -1}) {
			t.Errorf("a small snapshot is cut: %+v", d.Cut)
		}
	}
	if d := pageDataOf(delta, HTMLOptions{}.page(), 3); d.Cut.Label < 0 || d.Strings[d.Cut.Label] != cutLabel ||
		!strings.Contains(d.Cut.Note, cutLabel) {
		t.Errorf("of 3 nodes: labels are not cut: %+v", d.Cut)
	}
}

// checkTotals compares the sums of the records with those of the snapshots.
func checkTotals(t *testing.T, d pageData, delta *heap.Delta) {
	t.Helper()
	for when, columns := range [][][]int64{d.Records.Values, d.Records.Old} {
		if !d.Diff && when == callsOld {
			continue
		}
		total := [...]*heap.Snapshot{delta.New, delta.Old}[when].Total()
		for column, name := range d.Metrics {
			var sum int64
			for _, v := range columns[column] {
				sum += v
			}
			for m := range heap.NumMetrics {
				if m.String() == name && sum != total[m] {
					t.Errorf("%s of snapshot %d is %d, want %d", name, when, sum, total[m])
				}
			}
		}
	}
}

// TestScreenshots takes pictures to look at, and the one in the README:
//
//	go test ./report -run TestScreenshots -screenshots /DIR [-snapshot /FILE]
//
// The paths are absolute. readme-light.png and readme-dark.png have 1600 by 900 pixels, the others are for the eye.
func TestScreenshots(t *testing.T) {
	if *shots == "" {
		t.Skip("only with -screenshots")
	}
	s := server()
	title := "shop"
	if *shotFile != "" {
		f, err := os.Open(*shotFile)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if s, err = heap.Read(f); err != nil {
			t.Fatal(err)
		}
		title = strings.TrimSuffix(filepath.Base(*shotFile), filepath.Ext(*shotFile))
	}
	save := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(*shots, name), data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	b := startBrowser(t, 1600, 900)
	size := func(width, height int) {
		b.devtools("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height,
			"deviceScaleFactor": 1, "mobile": false})
	}
	scheme := func(name string) {
		b.devtools("Emulation.setEmulatedMedia",
			map[string]any{"features": []any{map[string]string{"name": "prefers-color-scheme", "value": name}}})
	}
	file := flameFile(t, s, FlameOptions{Title: title})
	for _, theme := range []string{"light", "dark"} {
		size(1600, 900)
		scheme(theme)
		b.open(file)
		b.settle()
		save("readme-"+theme+".png", b.screenshot())
		size(1280, 720)
		b.press("/session" + keyEnter)
		save("search-"+theme+".png", b.screenshot())
		b.press(keyEscape + "i")
		save("inverted-"+theme+".png", b.screenshot())
		b.press("i?")
		save("help-"+theme+".png", b.screenshot())
		b.press(keyEscape + keyDown + keyDown + keyDown + keyEnter)
		if zoom := b.state().Zoom; len(zoom) > 0 {
			box := b.box(zoom[len(zoom)-1])
			b.point(box.X+box.Width/3, box.Y+2*box.Height+5)
		}
		save("zoom-"+theme+".png", b.screenshot())
		b.press(keyEscape)
		save("print-"+theme+".pdf", b.pdf())
		size(420, 800)
		b.settle()
		save("narrow-"+theme+".png", b.screenshot())
	}
	size(1280, 720)
	b.open(flameFile(t, large(20_000, 40), FlameOptions{MaxNodes: 50_000}))
	b.settle()
	save("large-dark.png", b.screenshot())
	save("print-dark.pdf", b.pdf())
	if pdftoppm, err := exec.LookPath("pdftoppm"); err == nil {
		out, err := exec.Command(pdftoppm, "-png", "-r", strconv.Itoa(80), filepath.Join(*shots, "print-dark.pdf"),
			filepath.Join(*shots, "print")).CombinedOutput()
		if err != nil {
			t.Errorf("pdftoppm: %v\n%s", err, out)
		}
	}
}
