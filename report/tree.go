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
	root := s.Tree(o.By)
	total := root.Cum[o.Metric]
	if total == 0 {
		out.printf("Nothing was %s.\n", state(o.Metric))
		return out.flush()
	}
	minShare := o.MinShare
	if minShare == 0 {
		minShare = DefaultMinShare
	}
	t := treeLines{metric: o.Metric, least: minShare * float64(total)}
	t.add(treeLine{values: root.Cum, name: "total"})
	t.children(root, "")

	out.printf("\n")
	numbers := alignRight(t.numbers(total))
	out.printf("%s\n", numbers[0])
	for i, line := range t.lines {
		out.printf("%s  %s\n", numbers[i+1], line.fit(o.Width-cells(numbers[0])-2, o.Width > 0))
	}
	return out.flush()
}

// leastRoom is the room in columns that a name gets on however narrow a terminal.
const leastRoom = 20

// fit returns the line's branch and name in at most width columns, if there is a limit.
func (l treeLine) fit(width int, limited bool) string {
	room, branch := 0, l.branch
	if limited {
		branch = fitLeft(branch, max(3, width-leastRoom))
		room = max(leastRoom, width-cells(branch))
	}
	if l.name != "" && limited {
		return branch + fitRight(l.name, room)
	}
	if l.name != "" {
		return branch + l.name
	}
	return branch + fitPlace(l.frame, room)
}

// treeLine is a line of the tree. A line without a name is a frame.
type treeLine struct {
	values heap.Values
	branch string // what is drawn before the name
	frame  heap.Frame
	name   string
}

// treeLines collects the lines that are to be shown.
type treeLines struct {
	metric heap.Metric
	least  float64 // of the metric, to be shown
	lines  []treeLine
}

// worth tells whether a value is to be shown.
func (t *treeLines) worth(v heap.Values) bool {
	return v[t.metric] > 0 && float64(v[t.metric]) >= t.least
}

func (t *treeLines) add(l treeLine) { t.lines = append(t.lines, l) }

func (t *treeLines) numbers(total int64) [][]string {
	numbers := [][]string{{"BYTES", "BLOCKS", "SHARE"}}
	for _, l := range t.lines {
		v := l.values
		numbers = append(numbers, []string{
			Size(v[inBytes(t.metric)]), Count(v[inBlocks(t.metric)]), Percent(share(v[t.metric], total)),
		})
	}
	return numbers
}

// parts splits what is below n into the branches to show and the sum of the others.
func (t *treeLines) parts(n *heap.Node) (shown []*heap.Node, others heap.Values, hidden int64) {
	n.SortChildren(t.metric)
	for _, c := range n.Children {
		switch {
		case c.Cum[t.metric] == 0: // another metric's
		case t.worth(c.Cum):
			shown = append(shown, c)
		default:
			others.Add(c.Cum)
			hidden++
		}
	}
	return shown, others, hidden
}

// children adds the branches of n; indent is drawn before them.
func (t *treeLines) children(n *heap.Node, indent string) {
	shown, others, hidden := t.parts(n)
	var last []treeLine // beside the branches: what n itself allocated, and what is left out
	if t.worth(n.Own) {
		name := "allocated right here"
		if n.Frame == (heap.Frame{}) {
			name = "no Python code was running"
		}
		last = append(last, treeLine{values: n.Own, name: name})
	}
	if hidden > 0 {
		last = append(last, treeLine{values: others, name: Count(hidden) + " smaller " + plural(hidden, "call",
			"calls")})
	}
	if len(shown) == 0 && !t.worth(others) {
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
func (t *treeLines) chain(n *heap.Node, branch, below string) {
	for {
		t.add(treeLine{values: n.Cum, branch: branch, frame: n.Frame})
		branch = below
		next, calls := t.skipRecursion(n)
		if calls > 0 {
			n = next
			name := "… " + Count(calls) + " more " + plural(calls, "call", "calls") + " of itself"
			t.add(treeLine{values: n.Cum, branch: branch, name: name})
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
func (t *treeLines) onlyCall(n *heap.Node) *heap.Node {
	shown, others, _ := t.parts(n)
	if len(shown) == 1 && !t.worth(n.Own) && !t.worth(others) {
		return shown[0]
	}
	return nil
}

// skipRecursion follows n through calls of the same frame as long as each is the only one, and counts them. Fewer than
// three are not worth the words.
func (t *treeLines) skipRecursion(n *heap.Node) (last *heap.Node, calls int64) {
	last = n
	for {
		only := t.onlyCall(last)
		if only == nil || only.Frame != n.Frame {
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
