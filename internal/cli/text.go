package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// plural is "1 block", "2 blocks".
func plural(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return countText(n) + " " + many
}

// durationText shows a duration with about three significant digits in a unit that fits.
func durationText(d time.Duration) string {
	switch {
	case d < time.Microsecond:
		return strconv.FormatInt(int64(d), 10) + " ns"
	case d < 100*time.Millisecond:
		return significant(float64(d)/float64(time.Millisecond)) + " ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}

func significant(v float64) string {
	switch {
	case v < 1:
		return fmt.Sprintf("%.2f", v)
	case v < 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.0f", v)
	}
}

// printable makes text from a target fit for a terminal: whatever could steer it, or break a line, becomes "?" or a
// space.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}

// clip shortens s to width columns, the last of which then shows that there was more. Width 0 leaves it whole.
func clip(s string, width int) string {
	if width <= 0 || utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}

// wrap breaks text into lines of at most width columns at its spaces; width 0 gives one line.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case width > 0 && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

// hang writes text wrapped to width, first behind a painted label, further lines indented as far as the label is wide.
func hang(w io.Writer, label string, paint func(string) string, text string, width int) {
	indent := utf8.RuneCountInString(label)
	for i, line := range wrapFor(text, width, indent) {
		if i == 0 {
			fmt.Fprintln(w, paint(label)+line)
		} else {
			fmt.Fprintf(w, "%*s%s\n", indent, "", line)
		}
	}
}

// plain paints nothing.
func plain(s string) string { return s }

// leastRoom is the width below which text is not wrapped any narrower: a terminal that narrow wraps by itself.
const leastRoom = 20

// wrapFor wraps text for the columns that an indent leaves of width; width 0 gives one line.
func wrapFor(text string, width, indent int) []string {
	if width > 0 {
		width = max(width-indent, leastRoom)
	}
	return wrap(text, width)
}

// align says on which side of its cell a column's text stands.
type align bool

const (
	left  align = false
	right align = true
)

// grid is a table of text whose columns are as wide as they must be, two spaces apart. The last column may be clipped
// to the terminal's width.
type grid struct {
	align []align
	rows  [][]string
}

func (g *grid) add(cells ...string) { g.rows = append(g.rows, cells) }

// write prints the rows; style, where not nil, is applied to whole lines by row number.
func (g *grid) write(w io.Writer, width int, style func(row int, line string) string) {
	widths := make([]int, len(g.align))
	for _, row := range g.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range g.rows {
		var b strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i > 0 {
				b.WriteString("  ")
			}
			if g.align[i] == right {
				b.WriteString(pad + cell)
			} else {
				b.WriteString(cell + pad)
			}
		}
		line := clip(strings.TrimRight(b.String(), " "), width)
		if style != nil {
			line = style(n, line)
		}
		fmt.Fprintln(w, line)
	}
}
