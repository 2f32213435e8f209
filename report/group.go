package report

import (
	"strings"

	"github.com/heaptap/heaptap/heap"
)

// groupName is the name of a group that is no frame; "" for one that is.
func groupName(by heap.Grouping, g heap.Group) string {
	switch {
	case by == heap.ByLine || by == heap.ByFunction || by == heap.ByStack:
		return ""
	case g.Name == "":
		return "- (" + by.String() + " not known)"
	}
	return Printable(g.Name)
}

// restName says that n more groups are not shown: "rest: 3 more lines".
func restName(by heap.Grouping, n int64, which string) string {
	many := by.String() + "s"
	if by == heap.ByProcess {
		many = "processes"
	}
	return "rest: " + Count(n) + " " + which + " " + plural(n, by.String(), many)
}

// fitStack is a stack on one line, innermost call first, in at most width cells; a width of 0 is no limit.
func fitStack(s *heap.Snapshot, stack int32, width int) string {
	var b strings.Builder
	used := 0
	for i, f := range s.Callers(stack) {
		text := FitPlace(f, 0)
		if i > 0 {
			text = " ← " + text
		}
		if used += Cells(text); width > 0 && used > width {
			if i == 0 {
				return FitPlace(f, width)
			}
			return Fit(b.String()+text, width)
		}
		b.WriteString(text)
	}
	return b.String()
}
