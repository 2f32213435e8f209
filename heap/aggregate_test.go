package heap

import (
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

func inuse(bytes, blocks int64) Values { return Values{InuseBytes: bytes, InuseBlocks: blocks} }

// recursive is main:1 -> walk:10 -> walk:12 -> walk:10, with blocks at several depths.
func recursive() *Snapshot {
	s := &Snapshot{}
	b := NewBuilder(s)
	main := Frame{Func: "main", File: "a.py", Line: 1}
	ten := Frame{Func: "walk", File: "a.py", Line: 10, FirstLine: 9}
	twelve := Frame{Func: "walk", File: "a.py", Line: 12, FirstLine: 9}
	// The same stack is there twice under different numbers, as a trie without merging would have it.
	s.Frames = append(s.Frames, main)
	s.Stacks = append(s.Stacks, Stack{Parent: None, Frame: 0})
	s.Records = []Record{
		{Stack: b.Stack(main), InuseBytes: 1, InuseBlocks: 1},
		{Stack: 0, InuseBytes: 2, InuseBlocks: 1},
		{Stack: b.Stack(main, ten), InuseBytes: 10, InuseBlocks: 1},
		{Stack: b.Stack(main, ten, twelve), InuseBytes: 100, InuseBlocks: 1},
		{Stack: b.Stack(main, ten, twelve, ten), InuseBytes: 1000, InuseBlocks: 1},
		{Stack: b.Stack(ten), InuseBytes: 10000, InuseBlocks: 1},
		{Stack: b.Stack(Frame{Func: "unused", File: "a.py", Line: 1})},
		{Stack: None, InuseBytes: 100000, InuseBlocks: 1},
	}
	return s
}

func TestRows(t *testing.T) {
	s := recursive()
	lines := s.ByLine()
	SortRows(lines, InuseBytes, false)
	want := []Row{
		{Group{Frame: Frame{Func: "walk", File: "a.py", Line: 10, FirstLine: 9}, Stack: None}, inuse(11010, 3), inuse(11110, 4)},
		{Group{Frame: Frame{Func: "walk", File: "a.py", Line: 12, FirstLine: 9}, Stack: None}, inuse(100, 1), inuse(1100, 2)},
		{Group{Frame: Frame{Func: "main", File: "a.py", Line: 1}, Stack: None}, inuse(3, 2), inuse(1113, 5)},
	}
	if diff := gocmp.Diff(want, lines); diff != "" {
		t.Errorf("by line: want (-), got (+):\n%s", diff)
	}
	functions := s.ByFunction()
	SortRows(functions, InuseBytes, true)
	want = []Row{
		{Group{Frame: Frame{Func: "walk", File: "a.py", FirstLine: 9}, Stack: None}, inuse(11110, 4), inuse(11110, 4)},
		{Group{Frame: Frame{Func: "main", File: "a.py"}, Stack: None}, inuse(3, 2), inuse(1113, 5)},
	}
	if diff := gocmp.Diff(want, functions); diff != "" {
		t.Errorf("by function: want (-), got (+):\n%s", diff)
	}
	if got, want := s.Stackless(), inuse(100000, 1); got != want {
		t.Errorf("without a stack %v, want %v", got, want)
	}
}

func TestTree(t *testing.T) {
	root := recursive().Tree(ByFunction)
	type flat struct {
		Depth    int
		Func     string
		Own, Cum int64
	}
	var got []flat
	var visit func(n *Node, depth int)
	visit = func(n *Node, depth int) {
		got = append(got, flat{depth, n.Frame.Func, n.Own[InuseBytes], n.Cum[InuseBytes]})
		n.SortChildren(InuseBytes)
		for _, c := range n.Children {
			visit(c, depth+1)
		}
	}
	visit(root, 0)
	want := []flat{
		{0, "", 100000, 111113}, {1, "walk", 10000, 10000},
		{1, "main", 3, 1113}, {2, "walk", 10, 1110}, {3, "walk", 100, 1100}, {4, "walk", 1000, 1000},
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
}

// The rows of a large snapshot against the plainest way to compute them.
func TestRowsOracle(t *testing.T) {
	s := synthetic(2000, 30, 5000)
	for _, g := range []Grouping{ByLine, ByFunction} {
		own, cum := map[Frame]Values{}, map[Frame]Values{}
		add := func(to map[Frame]Values, f Frame, v Values) {
			sum := to[f]
			sum.Add(v)
			to[f] = sum
		}
		for i := range s.Records {
			seen := map[Frame]bool{}
			for depth, f := range s.Callers(s.Records[i].Stack) {
				if g == ByFunction {
					f.Line = 0
				}
				if depth == 0 {
					add(own, f, s.Records[i].Values())
				}
				if !seen[f] {
					add(cum, f, s.Records[i].Values())
				}
				seen[f] = true
			}
		}
		rows := s.rows(g)
		for _, r := range rows {
			if r.Own != own[r.Frame] || r.Cum != cum[r.Frame] {
				t.Errorf("%v: own %v, cumulative %v; want %v, %v", r.Frame, r.Own, r.Cum, own[r.Frame], cum[r.Frame])
			}
		}
		if len(rows) != len(cum) {
			t.Errorf("%d rows, want %d", len(rows), len(cum))
		}
		if got := s.Tree(g).Cum; got != s.Total() {
			t.Errorf("the tree holds %v, want %v", got, s.Total())
		}
	}
}

func BenchmarkAggregate(b *testing.B) {
	s := synthetic(100_000, 30, 300_000)
	b.Logf("%d stacks in the trie", len(s.Stacks))
	b.Run("rows", func(b *testing.B) {
		for b.Loop() {
			SortRows(s.ByLine(), InuseBytes, false)
		}
	})
	b.Run("tree", func(b *testing.B) {
		for b.Loop() {
			s.Tree(ByFunction)
		}
	})
}
