package tui

import (
	"fmt"
	"math"
	"strings"

	"charm.land/lipgloss/v2"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/report"
)

// Styles use the terminal's own sixteen colours, so that they fit any theme, and never are the only sign of anything.
var (
	bold     = lipgloss.NewStyle().Bold(true)
	dim      = lipgloss.NewStyle().Faint(true)
	selected = lipgloss.NewStyle().Reverse(true)
	grows    = lipgloss.NewStyle().Foreground(lipgloss.Red)
	shrinks  = lipgloss.NewStyle().Foreground(lipgloss.Green)
	accent   = lipgloss.NewStyle().Foreground(lipgloss.Cyan)
)

// pad returns text in exactly width cells, left-aligned, cut at the end where it is longer.
func pad(text string, width int) string {
	text = report.Fit(text, width)
	return text + strings.Repeat(" ", max(0, width-report.Cells(text)))
}

// right returns text right-aligned in width cells.
func right(text string, width int) string {
	return strings.Repeat(" ", max(0, width-report.Cells(text))) + text
}

// bytesASecond formats a rate; nothing for none.
func bytesASecond(v float64, signed bool) string {
	n := int64(math.Round(v))
	switch {
	case n == 0:
		return "·"
	case signed && n > 0:
		return "+" + report.Size(n)
	}
	return report.Size(n)
}

var bars = []rune("▁▂▃▄▅▆▇█")

// sparkline draws the last width values, each relative to the largest.
func sparkline(values []int64, width int) string {
	if len(values) > width {
		values = values[len(values)-width:]
	}
	var most int64
	for _, v := range values {
		most = max(most, v)
	}
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", width-len(values)))
	for _, v := range values {
		if most == 0 || v == 0 {
			b.WriteByte(' ')
			continue
		}
		b.WriteRune(bars[min(len(bars)-1, int(float64(v)/float64(most)*float64(len(bars))))])
	}
	return b.String()
}

// groupText names a group in at most width cells; 0 is no limit.
func groupText(g heap.Group, width int) string {
	text := report.Printable(g.Name)
	switch {
	case g.Frame != heap.Frame{}:
		return report.FitPlace(g.Frame, width)
	case text == "":
		text = "-"
	}
	if width > 0 {
		text = report.Fit(text, width)
	}
	return text
}

// change is the style of a number that grows or shrinks.
func change(v float64) lipgloss.Style {
	switch {
	case v >= 0.5:
		return grows
	case v <= -0.5:
		return shrinks
	}
	return dim
}

// percent is a share of a whole.
func percent(n, of int64) string {
	if of == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", 100*float64(n)/float64(of))
}
