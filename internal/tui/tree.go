package tui

import (
	"fmt"
	"slices"
	"strings"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/report"
)

// tree is the screen of calls, callers above. What is open stays so from look to look.
type tree struct {
	root   *heap.Node
	open   map[string]bool // by path
	path   string          // where the cursor is
	cursor int
}

// branch is a line of the tree.
type branch struct {
	node  *heap.Node
	path  string
	depth int
}

const treeHeadings = "      live     %       own  calls"

func (t *tree) show(s *heap.Snapshot, g heap.Grouping) { t.root = s.Tree(g) }

// lines are what is open, in order.
func (t *tree) lines() []branch {
	if t.root == nil {
		return nil
	}
	return t.below(nil, branch{t.root, "", 0})
}

func (t *tree) below(lines []branch, b branch) []branch {
	lines = append(lines, b)
	if !t.open[b.path] {
		return lines
	}
	b.node.SortChildren(heap.InuseBytes)
	for _, c := range b.node.Children {
		if c.Cum[heap.InuseBytes] > 0 {
			lines = t.below(lines, branch{c, b.path + fmt.Sprintf("\x00%s\x01%s\x01%d", c.Frame.File, c.Frame.Func, c.Frame.Line), b.depth + 1})
		}
	}
	return lines
}

// at is the cursor's line: the same node as before, or, where that has gone, the same line.
func (t *tree) at(lines []branch) int {
	if i := slices.IndexFunc(lines, func(b branch) bool { return b.path == t.path }); i >= 0 {
		return i
	}
	return max(0, min(t.cursor, len(lines)-1))
}

func (t *tree) key(key string, page int) {
	lines := t.lines()
	if len(lines) == 0 {
		return
	}
	at := t.at(lines)
	if next, ok := moved(at, len(lines), page, key); ok {
		t.move(lines, next)
		return
	}
	b := lines[at]
	switch key {
	case "right", "l", "enter":
		if key == "enter" && t.open[b.path] {
			delete(t.open, b.path)
			return
		}
		t.open[b.path] = true
	case "left", "h":
		if t.open[b.path] && b.depth > 0 {
			delete(t.open, b.path)
			return
		}
		for at > 0 && lines[at].depth >= b.depth {
			at--
		}
		t.move(lines, at)
	case "*":
		t.openAll(b.node, b.path)
	}
}

func (t *tree) move(lines []branch, to int) { t.cursor, t.path = to, lines[to].path }

// openAll opens what is below, as far as one way leads on, and everywhere else where a tenth of the node's bytes are.
func (t *tree) openAll(n *heap.Node, path string) {
	least := n.Cum[heap.InuseBytes] / 10
	before := len(t.open)
	t.open[path] = true
	for _, b := range t.below(nil, branch{n, path, 0})[1:] {
		if b.node.Cum[heap.InuseBytes] > least {
			t.open[b.path] = true
		}
	}
	if len(t.open) > before { // what has come to light may go on
		t.openAll(n, path)
	}
}

func (t *tree) draw(width, height int) []string {
	all := t.lines()
	at := t.at(all)
	var lines []string
	for i := firstVisible(at, len(all), height); i < len(all) && len(lines) < height; i++ {
		line := t.drawBranch(all[i], width)
		if i == at {
			line = selected.Render(line)
		}
		lines = append(lines, line)
	}
	return lines
}

func (t *tree) drawBranch(b branch, width int) string {
	v := b.node.Cum[heap.InuseBytes]
	numbers := right(report.Size(v), sizeCells) + right(percent(v, t.root.Cum[heap.InuseBytes]), shareCells) +
		right(report.Size(b.node.Own[heap.InuseBytes]), sizeCells) + "  "
	mark := "  "
	if slices.ContainsFunc(b.node.Children, func(c *heap.Node) bool { return c.Cum[heap.InuseBytes] > 0 }) {
		mark = "▸ "
		if t.open[b.path] {
			mark = "▾ "
		}
	}
	indent := strings.Repeat(" ", min(2*b.depth, width/3)) + mark
	name := "everything"
	if b.depth > 0 {
		name = report.FitPlace(b.node.Frame, max(8, width-len(numbers)-report.Cells(indent)))
	}
	return pad(numbers+indent+name, width)
}
