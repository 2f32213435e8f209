package tui

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/report"
)

var update = flag.Bool("update", false, "write the golden screens anew")

var began = time.Date(2026, time.November, 23, 14, 0, 0, 0, time.UTC)

// shop is a heap at its n-th look, two seconds apart: a cache that grows, and requests that come and go.
func shop(n int) *heap.Snapshot {
	s := &heap.Snapshot{Time: began.Add(time.Duration(n) * 2 * time.Second)}
	b := heap.NewBuilder(s)
	main := heap.Frame{Func: "main", File: "/srv/shop/shop.py", Line: 120, FirstLine: 100}
	cache := b.Stack(main, heap.Frame{Func: "Cache.keep", File: "/srv/shop/cache.py", Line: 12, FirstLine: 10})
	serve := b.Stack(main, heap.Frame{Func: "serve", File: "/srv/shop/shop.py", Line: 40, FirstLine: 30})
	json := b.Stack(main, heap.Frame{Func: "serve", File: "/srv/shop/shop.py", Line: 41, FirstLine: 30},
		heap.Frame{Func: "loads", File: "/usr/lib/python3.11/json/__init__.py", Line: 346, FirstLine: 299})
	str, dict, worker := b.Text("str"), b.Text("dict"), b.Text("worker (17)")
	add := func(stack, typ int32, age int32, live, blocks, alloc int64) {
		s.Records = append(s.Records, heap.Record{Stack: stack, Type: typ, Thread: worker, Age: age,
			InuseBytes: live, InuseBlocks: blocks, MinSize: 1, MaxSize: live},
			heap.Record{Stack: stack, Thread: worker, Age: heap.UnknownAge, AllocBytes: alloc, AllocBlocks: blocks})
	}
	k := int64(n)
	add(cache, str, 60, 10<<20+k<<20, 1000+100*k, 20<<20+k<<20)
	add(serve, dict, 1, 1<<20-k<<10, 500, 100<<20+k<<24)
	add(json, str, 0, 3<<10, 7, 100<<20)
	add(heap.None, 0, 0, 5<<10, 2, 5<<10)
	s.Timeline = []heap.Point{{Time: s.Time, Tracked: heap.Unmeasured, RSS: 50 << 20}}
	return s
}

// watching is a model after some looks at the shop.
func watching(t *testing.T, looks int) *model {
	t.Helper()
	m := newModel(t.Context(), Options{Title: "top 4711", Interval: time.Second,
		Source: func(file string, line int) string {
			return fmt.Sprintf("\tsource of line %d", line)
		},
		Dump: func(context.Context) (string, error) { return "heap.pb.gz", nil },
	})
	for n := range looks {
		if _, cmd := m.Update(looked{snapshot: shop(n), took: time.Millisecond}); cmd == nil {
			t.Fatal("no next look is planned")
		}
	}
	return m
}

// press has the model take keys, by their names, and what they set off.
func press(m *model, keys ...string) {
	named := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "up": tea.KeyUp, "down": tea.KeyDown,
		"left": tea.KeyLeft, "right": tea.KeyRight, "tab": tea.KeyTab, "end": tea.KeyEnd, "space": tea.KeySpace,
		"backspace": tea.KeyBackspace}
	for _, key := range keys {
		code, ok := named[key]
		text := ""
		if !ok {
			code, text = []rune(key)[0], key
		}
		if _, cmd := m.Update(tea.KeyPressMsg{Code: code, Text: text}); cmd != nil {
			if msg, ok := cmd().(dumped); ok {
				m.Update(msg)
			}
		}
	}
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*m")

// plainScreen is what the model draws, without styles. No line is wider than the terminal.
func plainScreen(t *testing.T, m *model) string {
	t.Helper()
	text := escapes.ReplaceAllString(m.draw(), "")
	lines := strings.Split(text, "\n")
	if len(lines) != m.height {
		t.Errorf("%d lines on a screen of %d", len(lines), m.height)
	}
	for i, line := range lines {
		if report.Cells(line) > m.width {
			t.Errorf("line %d has %d cells, the screen %d: %q", i, report.Cells(line), m.width, line)
		}
		lines[i] = strings.TrimRight(line, " ")
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n") + "\n"
}

func golden(t *testing.T, name, have string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(have), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), have); diff != "" {
		t.Errorf("%s (-want +have):\n%s", name, diff)
	}
}

// Every screen, as it looks on the smallest terminal that one works at, and on a wide one.
func TestScreens(t *testing.T) {
	for _, tt := range []struct {
		name  string
		width int
		keys  []string
	}{
		{"lines", 80, nil},
		{"wide", 130, nil},
		{"functions", 80, []string{"2"}},
		{"types", 80, []string{"4", "s", "s", "s"}}, // rates are not known by type
		{"threads", 80, []string{"tab", "tab", "tab", "tab"}},
		{"growth", 80, []string{"s", "s", "s"}},
		{"search", 80, []string{"/", "s", "h", "o", "p", "enter"}},
		{"filter", 80, []string{"w", `type == "dict"`, "enter"}},
		{"filter-wrong", 80, []string{"w", "sizee > 1", "enter"}},
		{"filter-nothing", 80, []string{"w", "size > 1TiB", "enter"}},
		{"tree", 80, []string{"t", "*"}},
		{"tree-closed", 80, []string{"t", "*", "down", "left"}},
		{"detail", 80, []string{"down", "enter"}},
		{"detail-type", 80, []string{"4", "enter", "n"}},
		{"detail-thread", 80, []string{"5", "down", "enter"}},
		{"detail-stackless", 80, []string{"4", "end", "enter"}},
		{"help", 80, []string{"?"}},
		{"dump", 80, []string{"d"}},
		{"frozen", 80, []string{"space"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := watching(t, 4)
			m.Update(tea.WindowSizeMsg{Width: tt.width, Height: 24})
			press(m, tt.keys...)
			golden(t, tt.name, plainScreen(t, m))
		})
	}
}

// Before the first look, and on terminals too small for anything.
func TestSizes(t *testing.T) {
	golden(t, "first", plainScreen(t, watching(t, 0)))
	for width := 1; width <= 200; width += 7 {
		for _, keys := range [][]string{nil, {"t", "*"}, {"enter"}, {"?"}, {"w"}} {
			m := watching(t, 2)
			m.Update(tea.WindowSizeMsg{Width: max(width, 40), Height: 1 + width/4})
			press(m, keys...)
			plainScreen(t, m)
		}
	}
}

// The cursor stays on its row when others overtake it, and at the top when it was there.
func TestCursor(t *testing.T) {
	m := watching(t, 1)
	press(m, "2", "down")
	want := m.visible()[m.at(m.visible())].group
	grown := shop(2)
	grown.Records[4].InuseBytes = 1 << 40 // the last overtakes all
	m.Update(looked{snapshot: grown})
	if rows := m.visible(); rows[m.at(rows)].group != want {
		t.Errorf("cursor on %v, was on %v", rows[m.at(rows)].group, want)
	}
	press(m, "up", "up", "up")
	m.Update(looked{snapshot: shop(3)})
	if m.at(m.visible()) != 0 {
		t.Errorf("cursor has left the top")
	}
}

// While frozen nothing changes, and there is no look; a look that fails ends the view with its error.
func TestFreezeAndFail(t *testing.T) {
	m := watching(t, 2)
	press(m, "space")
	before := plainScreen(t, m)
	if _, cmd := m.Update(due{}); cmd != nil {
		t.Error("a look while frozen")
	}
	m.Update(looked{snapshot: shop(9)}) // was under way
	if after := plainScreen(t, m); after != before {
		t.Errorf("frozen, but (-before +after):\n%s", cmp.Diff(before, after))
	}
	gone := errors.New("process 4711 is gone")
	if _, cmd := m.Update(looked{err: gone}); cmd == nil || m.failed != gone {
		t.Errorf("failed: %v", m.failed)
	}
}

// A name cannot act on the terminal.
func TestHostileNames(t *testing.T) {
	s := shop(0)
	for i := range s.Frames {
		s.Frames[i].Func = "\x1b]0;mine\x07\x1b[2J" + s.Frames[i].Func
	}
	m := newModel(t.Context(), Options{Title: "\x1b[2J", Source: func(string, int) string { return "\x1b[2J" }})
	m.Update(looked{snapshot: s})
	for _, keys := range [][]string{nil, {"2"}, {"t", "*"}, {"t", "enter"}, {"esc"}} {
		press(m, keys...)
		if text := plainScreen(t, m); strings.ContainsAny(text, "\x1b\x07") {
			t.Errorf("keys %q: %q", keys, text)
		}
	}
}

// Plain output is lines with their time, and ends with the context.
func TestPlain(t *testing.T) {
	var out strings.Builder
	n := 0
	o := Options{Lines: 2, Grouping: heap.ByFunction, Interval: 2 * time.Second,
		Look: func(context.Context) (*heap.Snapshot, error) { n++; return shop(n - 1), nil }}
	end := errors.New("the end")
	err := Plain(t.Context(), &out, o, func(_ context.Context, d time.Duration) error {
		if d != o.Interval {
			t.Errorf("waits for %v", d)
		}
		if n == 3 {
			return end
		}
		return nil
	})
	if err != end {
		t.Errorf("ended with %v", err)
	}
	golden(t, "plain", out.String())
}
