package heap

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Delta is what lies between two snapshots. Old and New have the same Strings, Frames and Stacks, so that an index
// means the same in both; otherwise they are as they were.
type Delta struct {
	Old, New *Snapshot
	Warnings []string // why the two may not be comparable, a sentence each
}

// Change is a quantity before and after.
type Change struct{ Old, New Values }

// Growth is New less Old.
func (c Change) Growth() Values {
	v := c.New
	for m := range v {
		v[m] -= c.Old[m]
	}
	return v
}

// Add adds d to c.
func (c *Change) Add(d Change) {
	c.Old.Add(d.Old)
	c.New.Add(d.New)
}

// IsZero tells whether there was and is nothing.
func (c Change) IsZero() bool { return c == Change{} }

// DeltaRow is what one group accounts for in both snapshots.
type DeltaRow struct {
	Group           // of rows by stack, the index is one of Delta's snapshots
	Own, Cum Change // as in a Row
}

// DeltaNode is a place in the tree of calls of both snapshots.
type DeltaNode struct {
	Frame    Frame // as in a Node
	Own, Cum Change
	Children []*DeltaNode
}

// Diff compares two snapshots. It shares Info, Timeline and the like with them, and copies what it has to number anew.
func Diff(old, new *Snapshot) *Delta {
	common := &Snapshot{}
	b := NewBuilder(common)
	d := &Delta{Old: b.adopt(old), New: b.adopt(new), Warnings: incomparable(old, new)}
	for _, s := range []*Snapshot{d.Old, d.New} {
		s.Strings, s.Frames, s.Stacks = common.Strings, common.Frames, common.Stacks
	}
	return d
}

// adopt adds the tables of s to the builder's snapshot, and returns s with records that refer there.
func (b *Builder) adopt(s *Snapshot) *Snapshot {
	frames := make([]int32, len(s.Frames))
	for i, f := range s.Frames {
		frames[i] = b.Frame(f)
	}
	stacks := make([]int32, len(s.Stacks))
	for i, n := range s.Stacks {
		parent := n.Parent
		if parent != None {
			parent = stacks[parent]
		}
		stacks[i] = b.Push(parent, frames[n.Frame])
	}
	texts := make([]int32, max(1, len(s.Strings)))
	for i, t := range s.Strings {
		texts[i] = b.Text(t)
	}
	adopted := *s
	adopted.Records = slices.Clone(s.Records)
	for i := range adopted.Records {
		r := &adopted.Records[i]
		if r.Stack != None {
			r.Stack = stacks[r.Stack]
		}
		r.Domain, r.Thread, r.Type, r.Process = texts[r.Domain], texts[r.Thread], texts[r.Type], texts[r.Process]
	}
	return &adopted
}

// restartSlack is by how much the reckoned beginnings of tracking may differ in two snapshots of one process: the
// clock may have been set a little meanwhile.
const restartSlack = 5 * time.Second

// incomparable says what makes a comparison of the two doubtful.
func incomparable(old, new *Snapshot) []string {
	var warnings []string
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	switch {
	case (old.SampleBytes == 0) != (new.SampleBytes == 0):
		exact, estimated := "old", "new"
		if old.SampleBytes != 0 {
			exact, estimated = estimated, exact
		}
		warn("the %s snapshot counted every block, the %s one is an estimate from samples: small differences mean nothing",
			exact, estimated)
	case old.SampleBytes != new.SampleBytes:
		warn("one is an estimate from a sample every %s bytes, the other every %s", formatSize(int64(old.SampleBytes)),
			formatSize(int64(new.SampleBytes)))
	case old.SampleBytes != 0:
		warn("both are estimates from a sample every %s bytes: differences of a few times that mean nothing",
			formatSize(int64(old.SampleBytes)))
	}
	same := true
	for _, fact := range []struct{ key, format string }{
		{InfoPid, "they are of two processes, %s and %s"},
		{InfoPython, "the interpreters differ: %s and %s"},
		{InfoCommand, "the commands differ: %s and %s"},
	} {
		a, b := old.fact(fact.key), new.fact(fact.key)
		if a != "" && b != "" && a != b {
			warn(fact.format, a, b)
			same = false
		}
	}
	if a, b := old.fact(InfoFilter), new.fact(InfoFilter); a != b {
		warn("they passed different filters: %s and %s", cmp.Or(a, "none"), cmp.Or(b, "none"))
	}
	if old.Time.IsZero() || new.Time.IsZero() {
		return warnings
	}
	if new.Time.Before(old.Time) {
		warn("the new snapshot was taken %v before the old one", old.Time.Sub(new.Time).Round(time.Second))
	}
	began := new.Time.Add(-new.Duration).Sub(old.Time.Add(-old.Duration))
	if same && old.Duration > 0 && new.Duration > 0 && began.Abs() > restartSlack {
		warn("tracking began anew between the two: what was allocated before is not in the new snapshot")
	}
	return warnings
}

// fact is the value of the first Info with that key, "" where there is none.
func (s *Snapshot) fact(key string) string {
	for _, kv := range s.Info {
		if kv.Key == key {
			return kv.Value
		}
	}
	return ""
}

// Total is the sum of all records.
func (d *Delta) Total() Change { return Change{d.Old.Total(), d.New.Total()} }

// Stackless returns the sum of the records without a stack.
func (d *Delta) Stackless() Change { return Change{d.Old.Stackless(), d.New.Stackless()} }

// Rows returns a row for each group that has blocks in either snapshot, in no particular order.
func (d *Delta) Rows(g Grouping) []DeltaRow {
	var rows []DeltaRow
	index := map[Group]int{}
	row := func(group Group) *DeltaRow {
		i, ok := index[group]
		if !ok {
			i = len(rows)
			index[group] = i
			rows = append(rows, DeltaRow{Group: group})
		}
		return &rows[i]
	}
	for _, r := range d.Old.By(g) {
		at := row(r.Group)
		at.Own.Old, at.Cum.Old = r.Own, r.Cum
	}
	for _, r := range d.New.By(g) {
		at := row(r.Group)
		at.Own.New, at.Cum.New = r.Own, r.Cum
	}
	return rows
}

// SortDelta sorts rows by growth of Own (or Cum) in the metric, the largest growth first, the largest decrease last;
// equal ones by file, line and function, or by name.
func SortDelta(rows []DeltaRow, m Metric, cumulative bool) {
	slices.SortFunc(rows, func(a, b DeltaRow) int {
		av, bv := a.Own, b.Own
		if cumulative {
			av, bv = a.Cum, b.Cum
		}
		return cmp.Or(cmp.Compare(bv.Growth()[m], av.Growth()[m]), compareGroups(a.Group, b.Group))
	})
}

// Tree returns the calls of both as one tree, as [Snapshot.Tree] does; g is ByLine or ByFunction. What is in one
// snapshot only is there, with zeros for the other.
func (d *Delta) Tree(g Grouping) *DeltaNode {
	group, groups := d.New.groups(g)
	before, after := d.Old.OwnByStack(), d.New.OwnByStack()
	type key struct {
		parent *DeltaNode
		group  int32
	}
	index := make(map[key]*DeltaNode, len(d.New.Stacks))
	root := &DeltaNode{Own: d.Stackless()}
	nodes := make([]*DeltaNode, len(d.New.Stacks)) // of each stack
	var order []*DeltaNode                         // parents first
	for i, n := range d.New.Stacks {
		parent := root
		if n.Parent != None {
			parent = nodes[n.Parent]
		}
		k := key{parent, group[n.Frame]}
		node := index[k]
		if node == nil {
			node = &DeltaNode{Frame: groups[k.group].Frame}
			index[k] = node
			parent.Children = append(parent.Children, node)
			order = append(order, node)
		}
		node.Own.Add(Change{before[i], after[i]})
		nodes[i] = node
	}
	for _, n := range slices.Backward(order) {
		n.sum()
	}
	root.sum()
	return root
}

// sum sets Cum from the children's, of which it drops the empty ones.
func (n *DeltaNode) sum() {
	n.Cum = n.Own
	for _, c := range n.Children {
		n.Cum.Add(c.Cum)
	}
	n.Children = slices.DeleteFunc(n.Children, func(c *DeltaNode) bool { return c.Cum.IsZero() })
}

// SortChildren sorts the node's children by how a metric of what is below them changed: the largest growth first, the
// largest decrease last; equal ones by file, line and function.
func (n *DeltaNode) SortChildren(m Metric) {
	slices.SortFunc(n.Children, func(a, b *DeltaNode) int {
		return cmp.Or(cmp.Compare(b.Cum.Growth()[m], a.Cum.Growth()[m]), compareFrames(a.Frame, b.Frame))
	})
}
