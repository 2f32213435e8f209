package report

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/heaptap/heaptap/heap"
)

// leaking are snapshots of a server with a leak, a cache that fills up and names that are traps.
func leaking(t *testing.T) *heap.LeakReport {
	t.Helper()
	var series []*heap.Snapshot
	for k := range int64(7) {
		x := newSheet()
		x.s.Time, x.s.Duration = x.s.Time.Add(time.Duration(k)*time.Minute), x.s.Duration+time.Duration(k)*time.Minute
		main := "/srv/shop/server.py:120 <module>"
		x.add("obj", "dict", 30, live(40<<10*(k+1), 40*(k+1)), main, "/srv/shop/session.py:33 Sessions.remember")
		x.add("obj", "dict", 120, live(60<<10*(k+1), 60*(k+1)), main, "/srv/shop/session.py:33 Sessions.remember")
		x.add("obj", "tuple", heap.UnknownAge, live(9000*(k+1), 90*(k+1)), main, "/srv/\x1b[31m.py:4 evil\x07")
		full := min(k, 2)
		x.add("obj", "str", 60, live(50<<10*full, 40*full), main, "/srv/shop/pages.py:30 render")
		series = append(series, x.s)
	}
	r, err := heap.Leaks(series)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLeaksGolden(t *testing.T) {
	r := leaking(t)
	if len(r.Suspects) != 2 || len(r.Cleared) != 1 {
		t.Fatalf("%d suspects, %d cleared", len(r.Suspects), len(r.Cleared))
	}
	age := int32(300)
	lengths := map[int32][]LeakedLength{r.Suspects[0].Stack: {{"dict", 3, &age}, {"dict", 51200, nil}}}
	nothing := &heap.LeakReport{Series: r.Series, Window: r.Window}
	for file, report := range map[string]func(io.Writer) error{
		"leaks/leaks.txt":  func(w io.Writer) error { return Leaks(w, r, LeakOptions{Lengths: lengths}) },
		"leaks/narrow.txt": func(w io.Writer) error { return Leaks(w, r, LeakOptions{Width: 60, Top: 1}) },
		"leaks/none.txt":   func(w io.Writer) error { return Leaks(w, nothing, LeakOptions{}) },
		"leaks/leaks.json": func(w io.Writer) error { return LeaksJSON(w, r, LeakOptions{Lengths: lengths}) },
	} {
		t.Run(file, func(t *testing.T) { golden(t, file, report) })
	}
	var text, doc bytes.Buffer
	if err := Leaks(&text, r, LeakOptions{Width: 60}); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text.String()) {
		if line = strings.TrimSuffix(line, "\n"); Cells(line) > 60 || strings.ContainsFunc(line, unicode.IsControl) {
			t.Errorf("%q", line)
		}
	}
	if err := LeaksJSON(&doc, r, LeakOptions{}); err != nil {
		t.Fatal(err)
	}
	var parsed LeakDocument
	if err := json.Unmarshal(doc.Bytes(), &parsed); err != nil || len(parsed.Suspects) != 2 || len(parsed.Times) != 7 {
		t.Errorf("%v: %+v", err, parsed)
	}
}
