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
	out.printf("%s\n", fitRight(summary(s, o.Metric), orUnlimited(o.Width)))
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
		room := 0
		if o.Width > 0 {
			room = max(20, o.Width-cells(numbers[0])-2-cells(line.branch))
		}
		name := line.name
		if name == "" {
			name = fitPlace(line.frame, room)
		}
		out.printf("%s  %s%s\n", numbers[i+1], line.branch, name)
	}
	return out.flush()
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
		case float64(c.Cum[t.metric]) >= t.least:
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
	if float64(n.Own[t.metric]) >= t.least && n.Own[t.metric] > 0 {
		name := "allocated right here"
		if n.Frame == (heap.Frame{}) {
			name = "no Python code was running"
		}
		last = append(last, treeLine{values: n.Own, name: name})
	}
	if hidden > 0 {
		last = append(last, treeLine{values: others, name: Count(hidden) + " smaller " + plural(hidden, "call", "calls")})
	}
	if len(shown) == 0 {
		return // "right here" and "smaller" would only repeat the line above
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
	if len(shown) == 1 && (n.Own[t.metric] == 0 || float64(n.Own[t.metric]) < t.least) && float64(others[t.metric]) < t.least {
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
