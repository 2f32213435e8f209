package report

import (
	"io"

	"github.com/heaptap/heaptap/heap"
)

// DefaultMinShare is the share of the total below which a [Tree] that does not say leaves calls out.
const DefaultMinShare = 0.01

// TreeOptions say what a [Tree] shows.
type TreeOptions struct {
	Metric   heap.Metric   // what branches are sorted by and shares are of
	By       heap.Grouping // calls from different lines of a function apart, or together
	MinShare float64       // leave out what has less of the total; 0 is DefaultMinShare, negative leaves out nothing
	Width    int           // of the terminal in columns; 0 is no limit
}

// Tree writes the calls as a tree, callers above callees, the largest first. A call is indented only where its caller
// has something else to show, so that deep stacks stay readable; a function that does nothing but call itself is shown
// once with the number of calls.
func Tree(w io.Writer, s *heap.Snapshot, o TreeOptions) error {
	out := newOutput(w, "tree")
	out.paragraph(summary(s, o.Metric), o.Width)
	root := branchOf(s.Tree(o.By), o.Metric)
	total := root.cum.New[o.Metric]
	if total == 0 {
		out.printf("Nothing was %s.\n", state(o.Metric))
		return out.flush()
	}
	if o.Metric == heap.TempBlocks { // of which the bytes are not known
		writeTree(out, root, o, []string{"TEMPORARY", "ALLOCATED", "SHARE"}, func(c heap.Change) []string {
			return []string{
				Count(c.New[o.Metric]), Count(c.New[heap.AllocBlocks]), Percent(share(c.New[o.Metric], total)),
			}
		})
		return out.flush()
	}
	writeTree(out, root, o, []string{"BYTES", "BLOCKS", "SHARE"}, func(c heap.Change) []string {
		return []string{
			Size(c.New[inBytes(o.Metric)]), Count(c.New[inBlocks(o.Metric)]), Percent(share(c.New[o.Metric], total)),
		}
	})
	return out.flush()
}

// branch is a place in the tree as it is drawn.
type branch struct {
	frame    heap.Frame
	own, cum heap.Change // of a snapshot alone: its values are New
	// How much there is to see right here and in all below. Of a snapshot it is the metric; of a difference, the
	// changes without their signs, so that growth and decrease do not hide each other.
	ownWeight, weight int64
	children          []*branch
}

// branchOf copies a tree, its children sorted.
func branchOf(n *heap.Node, m heap.Metric) *branch {
	n.SortChildren(m)
	b := &branch{
		frame: n.Frame, own: heap.Change{New: n.Own}, cum: heap.Change{New: n.Cum},
		ownWeight: n.Own[m], weight: n.Cum[m],
	}
	for _, c := range n.Children {
		b.children = append(b.children, branchOf(c, m))
	}
	return b
}

// writeTree draws what is below root, beside columns of numbers.
func writeTree(out output, root *branch, o TreeOptions, header []string, numbers func(heap.Change) []string) {
	minShare := o.MinShare
	if minShare == 0 {
		minShare = DefaultMinShare
	}
	t := treeLines{least: minShare * float64(root.weight)}
	t.add(treeLine{values: root.cum, name: "total"})
	t.children(root, "")

	table := [][]string{header}
	for _, l := range t.lines {
		table = append(table, numbers(l.values))
	}
	out.printf("\n")
	columns := alignRight(table)
	out.printf("%s\n", columns[0])
	for i, line := range t.lines {
		out.printf("%s  %s\n", columns[i+1], line.fit(o.Width-Cells(columns[0])-2, o.Width > 0))
	}
}

// leastRoom is the room in columns that a name gets on however narrow a terminal.
const leastRoom = 20

// fit returns the line's branch and name in at most width columns, if there is a limit.
func (l treeLine) fit(width int, limited bool) string {
	room, branch := 0, l.branch
	if limited {
		branch = fitLeft(branch, max(3, width-leastRoom))
		room = max(leastRoom, width-Cells(branch))
	}
	if l.name != "" && limited {
		return branch + Fit(l.name, room)
	}
	if l.name != "" {
		return branch + l.name
	}
	return branch + FitPlace(l.frame, room)
}

// treeLine is a line of the tree. A line without a name is a frame.
type treeLine struct {
	values heap.Change
	branch string // what is drawn before the name
	frame  heap.Frame
	name   string
}

// treeLines collects the lines that are to be shown.
type treeLines struct {
	least float64 // weight to be shown
	lines []treeLine
}

// worth tells whether so much is to be shown.
func (t *treeLines) worth(weight int64) bool { return weight > 0 && float64(weight) >= t.least }

func (t *treeLines) add(l treeLine) { t.lines = append(t.lines, l) }

// others are the branches that are left out.
type others struct {
	values heap.Change
	weight int64
	calls  int64
}

// parts splits what is below n into the branches to show and the sum of the others.
func (t *treeLines) parts(n *branch) (shown []*branch, rest others) {
	for _, c := range n.children {
		switch {
		case c.weight == 0: // another metric's
		case t.worth(c.weight):
			shown = append(shown, c)
		default:
			rest.values.Add(c.cum)
			rest.weight += c.weight
			rest.calls++
		}
	}
	return shown, rest
}

// children adds the branches of n; indent is drawn before them.
func (t *treeLines) children(n *branch, indent string) {
	shown, rest := t.parts(n)
	var last []treeLine // beside the branches: what n itself allocated, and what is left out
	if t.worth(n.ownWeight) {
		name := "allocated right here"
		if n.frame == (heap.Frame{}) {
			name = "no Python code was running"
		}
		last = append(last, treeLine{values: n.own, name: name})
	}
	if rest.calls > 0 {
		last = append(last, treeLine{values: rest.values, name: Count(rest.calls) + " smaller " + plural(rest.calls, "call",
			"calls")})
	}
	if len(shown) == 0 && !t.worth(rest.weight) {
		return // all was allocated right here, more or less
	}
	for i, c := range shown {
		branch, below := "├─ ", "│  "
		if i == len(shown)-1 && len(last) == 0 {
			branch, below = "└─ ", "   "
		}
		t.chain(c, indent+branch, indent+below)
	}
	for i, l := range last {
		l.branch = indent + "├─ "
		if i == len(last)-1 {
			l.branch = indent + "└─ "
		}
		t.add(l)
	}
}

// chain adds n and, while a call has nothing to show but one other call, that one right below it.
func (t *treeLines) chain(n *branch, indent, below string) {
	for {
		t.add(treeLine{values: n.cum, branch: indent, frame: n.frame})
		indent = below
		next, calls := t.skipRecursion(n)
		if calls > 0 {
			n = next
			name := "… " + Count(calls) + " more " + plural(calls, "call", "calls") + " of itself"
			t.add(treeLine{values: n.cum, branch: indent, name: name})
		}
		only := t.onlyCall(n)
		if only == nil {
			break
		}
		n = only
	}
	t.children(n, below)
}

// onlyCall returns the one call below n where there is nothing else worth a line, else nil.
func (t *treeLines) onlyCall(n *branch) *branch {
	shown, rest := t.parts(n)
	if len(shown) == 1 && !t.worth(n.ownWeight) && !t.worth(rest.weight) {
		return shown[0]
	}
	return nil
}

// skipRecursion follows n through calls of the same frame as long as each is the only one, and counts them. Fewer than
// three are not worth the words.
func (t *treeLines) skipRecursion(n *branch) (last *branch, calls int64) {
	last = n
	for {
		only := t.onlyCall(last)
		if only == nil || only.frame != n.frame {
			break
		}
		last = only
		calls++
	}
	if calls < 3 {
		return n, 0
	}
	return last, calls
}
