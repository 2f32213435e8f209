package heap

// Delta is what lies between two snapshots. Old and New have the same Strings, Frames and Stacks, so that an index
// means the same in both; otherwise they are as they were.
type Delta struct {
	Old, New *Snapshot
	Warnings []string // why the two may not be comparable
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

// DeltaRow is what one line, function, stack, type... accounts for in both snapshots.
type DeltaRow struct {
	Group           // whose it is
	Own, Cum Change // as in a Row
}

// DeltaNode is a place in the tree of calls of both snapshots.
type DeltaNode struct {
	Frame    Frame // as in a Node
	Own, Cum Change
	Children []*DeltaNode
}

// Group names a row: by a frame, a stack or a text.
type Group struct {
	Frame Frame  // of rows by line (Line is 0 by function); the innermost frame of rows by stack; else zero
	Stack int32  // of rows by stack; else None
	Name  string // of rows by a label or by module; "" where there is none
}

// Diff compares two snapshots.
func Diff(old, new *Snapshot) *Delta { return &Delta{Old: old, New: new} }

// Rows returns a row for each group that has blocks in either snapshot, in no particular order.
func (d *Delta) Rows(g Grouping) []DeltaRow { return nil }

// Total is the sum of all records.
func (d *Delta) Total() Change { return Change{d.Old.Total(), d.New.Total()} }

// Tree returns the calls of both as one tree, as [Snapshot.Tree] does; g is ByLine or ByFunction.
func (d *Delta) Tree(g Grouping) *DeltaNode { return &DeltaNode{} }

// SortChildren sorts the node's children by how a metric of what is below them changed: the largest growth first, the
// largest decrease last; equal ones by file, line and function.
func (n *DeltaNode) SortChildren(m Metric) {}

// SortDelta sorts rows by growth of Own (or Cum) in the metric, the largest growth first.
func SortDelta(rows []DeltaRow, m Metric, cumulative bool) {}
