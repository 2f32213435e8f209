package report

import (
	"io"
	"strconv"
	"strings"

	"github.com/heaptap/heaptap/heap"
)

// FoldedOptions say what [Folded] writes.
type FoldedOptions struct {
	Metric heap.Metric // the number behind each stack
}

// noStackName stands for the stack of blocks that were allocated outside Python.
const noStackName = "[no Python stack]"

// Folded writes a line for each stack, as Brendan Gregg's flame graph scripts and their relatives read it: the frames
// from the outermost inwards, separated by semicolons, a space, the metric. A frame is "function (file:line)"; a
// semicolon in a name becomes a comma and a line break an escape, so that every line splits as it should.
func Folded(w io.Writer, s *heap.Snapshot, o FoldedOptions) error {
	out := newOutput(w, "folded")
	root := s.Tree(heap.ByLine)
	if v := root.Own[o.Metric]; v > 0 {
		out.printf("%s %d\n", noStackName, v)
	}
	writeFolded(out, root, nil, o.Metric)
	return out.flush()
}

// writeFolded writes the stacks below n; prefix is the line so far.
func writeFolded(out output, n *heap.Node, prefix []byte, m heap.Metric) {
	n.SortChildren(m)
	for _, c := range n.Children {
		line := prefix
		if len(line) > 0 {
			line = append(line, ';')
		}
		line = append(line, foldedFrame(c.Frame)...)
		if v := c.Own[m]; v > 0 {
			out.Write(line)
			out.WriteByte(' ')
			out.WriteString(strconv.FormatInt(v, 10))
			out.WriteByte('\n')
		}
		writeFolded(out, c, line, m)
	}
}

func foldedFrame(f heap.Frame) string {
	text := function(f)
	if where := location(f); where != "" {
		text += " (" + where + ")"
	}
	return strings.ReplaceAll(text, ";", ",")
}
