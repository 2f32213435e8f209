package heap

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// twoShops are an earlier and a later snapshot whose tables are numbered differently.
func twoShops() (before, after *Snapshot) {
	before = shop()
	after = &Snapshot{Info: []KeyValue{{InfoPid, "4711"}}}
	b := NewBuilder(after)
	b.Text("unused")
	b.Stack(Frame{Func: "unused"})
	for i := range slices.Backward(before.Records) {
		r := before.Records[i]
		frames := before.Callers(r.Stack)
		slices.Reverse(frames)
		r.Stack = b.Stack(frames...)
		r.Domain, r.Thread, r.Type = b.Text(before.Text(r.Domain)), b.Text(before.Text(r.Thread)), b.Text(before.Text(r.Type))
		switch r.InuseBytes {
		case 1000: // grew
			r.InuseBytes, r.InuseBlocks = 1700, 17
		case 3000: // went
			continue
		case 50: // shrank
			r.InuseBytes, r.InuseBlocks = 20, 2
		}
		after.Records = append(after.Records, r)
	}
	after.Records = append(after.Records, Record{ // came
		Stack: b.Stack(Frame{Func: "<module>", File: "/srv/shop/server.py", Line: 120}, Frame{Func: "new", File: "/n.py", Line: 1}),
		Type:  b.Text("list"), Domain: b.Text("obj"), Age: 2, InuseBytes: 64, InuseBlocks: 1})
	return before, after
}

func TestDiffRows(t *testing.T) {
	before, after := twoShops()
	d := Diff(before, after)
	if len(d.Warnings) != 0 {
		t.Errorf("warnings %q", d.Warnings)
	}
	if got := d.Total(); got != (Change{before.Total(), after.Total()}) {
		t.Errorf("total %v", got)
	}
	flat := func(g Grouping) []string {
		rows := d.Rows(g)
		SortDelta(rows, InuseBytes, false)
		var list []string
		for _, r := range rows {
			name := r.Name
			if r.Frame != (Frame{}) {
				name = r.Frame.Func
			}
			if r.Own.Growth()[InuseBytes] != 0 {
				list = append(list, fmt.Sprintf("%s %+d", name, r.Own.Growth()[InuseBytes]))
			}
		}
		return list
	}
	for g, want := range map[Grouping]string{
		ByLine:     "Sessions.remember +700, new +64, zeros -30, JSONDecoder.decode -3000",
		ByFunction: "Sessions.remember +700, new +64, zeros -30, JSONDecoder.decode -3000",
		ByStack:    "Sessions.remember +700, new +64, zeros -30, JSONDecoder.decode -3000",
		ByModule:   "srv.shop.session +700, n +64, numpy.core.numeric -30, json.decoder -3000",
		ByType:     "dict +700, list +64, numpy.ndarray -30,  -3000",
		ByThread:   "MainThread (4711) +670,  +64, worker (4712) -3000",
		ByDomain:   "obj +734, mem -3000",
		ByAge:      "1m to 2m +700, 2s to 5s +64, 5s to 10s -30, 0s to 1s -3000",
	} {
		if got := strings.Join(flat(g), ", "); got != want {
			t.Errorf("by %v: %s, want %s", g, got, want)
		}
	}
}

// The rows and the tree of a difference are those of the two snapshots side by side.
func TestDiffOracle(t *testing.T) {
	old, new := synthetic(500, 20, 3000), synthetic(700, 25, 4000)
	d := Diff(old, new)
	for _, s := range []*Snapshot{d.Old, d.New} {
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
	}
	for g := range NumGroupings {
		side := func(s *Snapshot, r Row) string {
			return fmt.Sprint(r.Frame, r.Name, s.Callers(r.Stack))
		}
		want := map[string]Change{}
		cum := map[string]Change{}
		for i, s := range []*Snapshot{old, new} {
			for _, r := range s.By(g) {
				own, all := want[side(s, r)], cum[side(s, r)]
				if i == 0 {
					own.Old, all.Old = r.Own, r.Cum
				} else {
					own.New, all.New = r.Own, r.Cum
				}
				want[side(s, r)], cum[side(s, r)] = own, all
			}
		}
		rows := d.Rows(g)
		for _, r := range rows {
			key := side(d.New, Row{Group: r.Group})
			if r.Own != want[key] || r.Cum != cum[key] {
				t.Fatalf("by %v, %s: %v %v, want %v %v", g, key, r.Own, r.Cum, want[key], cum[key])
			}
		}
		if len(rows) != len(want) {
			t.Errorf("by %v: %d rows, want %d", g, len(rows), len(want))
		}
	}
	for _, g := range []Grouping{ByLine, ByFunction} {
		paths := map[string]Change{}
		var visit func(path string, n *Node, put func(c *Change, v Values))
		visit = func(path string, n *Node, put func(c *Change, v Values)) {
			path += fmt.Sprint(n.Frame)
			c := paths[path]
			put(&c, n.Cum)
			paths[path] = c
			for _, k := range n.Children {
				visit(path, k, put)
			}
		}
		visit("", old.Tree(g), func(c *Change, v Values) { c.Old = v })
		visit("", new.Tree(g), func(c *Change, v Values) { c.New = v })
		nodes := 0
		var compare func(path string, n *DeltaNode)
		compare = func(path string, n *DeltaNode) {
			path += fmt.Sprint(n.Frame)
			nodes++
			if n.Cum != paths[path] {
				t.Fatalf("%s: %v, want %v", path, n.Cum, paths[path])
			}
			n.SortChildren(InuseBytes)
			for i, k := range n.Children {
				if i > 0 && k.Cum.Growth()[InuseBytes] > n.Children[i-1].Cum.Growth()[InuseBytes] {
					t.Fatalf("%s: children out of order", path)
				}
				compare(path, k)
			}
		}
		compare("", d.Tree(g))
		if nodes != len(paths) {
			t.Errorf("the tree has %d nodes, want %d", nodes, len(paths))
		}
	}
}

func TestDiffOfNothing(t *testing.T) {
	d := Diff(&Snapshot{}, &Snapshot{})
	for g := range NumGroupings {
		if rows := d.Rows(g); len(rows) != 0 {
			t.Errorf("by %v: %v", g, rows)
		}
	}
	before, _ := twoShops()
	d = Diff(before, before)
	for _, r := range d.Rows(ByLine) {
		if !r.Own.New.IsZero() && r.Own.Old != r.Own.New {
			t.Errorf("a snapshot differs from itself: %v", r)
		}
	}
}

func TestDiffWarns(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	base := func() *Snapshot {
		return &Snapshot{Time: at, Duration: time.Minute, Info: []KeyValue{{InfoPid, "1"}, {InfoPython, "3.11.2 (static)"},
			{InfoCommand, "python3 a.py"}}}
	}
	later := func(s *Snapshot) {
		s.Time, s.Duration = at.Add(time.Hour), time.Hour+time.Minute
	}
	for want, change := range map[string]func(old, new *Snapshot){
		"": func(_, new *Snapshot) { later(new) },
		"the old snapshot counted every block, the new one is an estimate": func(_, new *Snapshot) { later(new); new.SampleBytes = 1 << 19 },
		"the new snapshot counted every block, the old one is an estimate": func(old, new *Snapshot) { later(new); old.SampleBytes = 1 << 19 },
		"one is an estimate from a sample every 1KiB bytes, the other every 512KiB": func(old, new *Snapshot) {
			later(new)
			old.SampleBytes, new.SampleBytes = 1<<10, 1<<19
		},
		"they are of two processes, 1 and 2":                   func(_, new *Snapshot) { later(new); new.Info[0].Value = "2" },
		"the interpreters differ: 3.11.2 (static) and 3.13":    func(_, new *Snapshot) { later(new); new.Info[1].Value = "3.13" },
		"the commands differ: python3 a.py and b":              func(_, new *Snapshot) { later(new); new.Info[2].Value = "b" },
		"the new snapshot was taken 1h0m0s before the old one": func(old, _ *Snapshot) { later(old) },
		"tracking began anew between the two":                  func(_, new *Snapshot) { later(new); new.Duration = time.Minute },
		`they passed different filters: none and type == "dict"`: func(_, new *Snapshot) {
			later(new)
			new.Info = append(new.Info, KeyValue{InfoFilter, `type == "dict"`})
		},
	} {
		old, new := base(), base()
		change(old, new)
		got := Diff(old, new).Warnings
		if want == "" && len(got) == 0 {
			continue
		}
		if diff := gocmp.Diff(1, len(got)); diff != "" || !strings.HasPrefix(got[0], want) {
			t.Errorf("warnings %q, want %q", got, want)
		}
	}
}

// Every way to group makes the whole.
func TestGroupings(t *testing.T) {
	s := synthetic(300, 20, 2000)
	s.Records = append(s.Records, Record{Stack: None, Age: UnknownAge, InuseBytes: 5, InuseBlocks: 1})
	for g := range NumGroupings {
		var own Values
		for _, r := range s.By(g) {
			own.Add(r.Own)
			if r.Own.IsZero() && r.Cum.IsZero() {
				t.Errorf("by %v: an empty row %+v", g, r)
			}
		}
		if g.Frames() || g == ByStack {
			own.Add(s.Stackless())
		}
		if own != s.Total() {
			t.Errorf("by %v: %v, want %v", g, own, s.Total())
		}
		if strings.Contains(g.String(), "(") {
			t.Errorf("grouping %d has no name", g)
		}
	}
}

func BenchmarkDiff(b *testing.B) {
	old, new := synthetic(100_000, 30, 300_000), synthetic(100_001, 30, 300_000)
	for b.Loop() {
		SortDelta(Diff(old, new).Rows(ByLine), InuseBytes, false)
	}
}
