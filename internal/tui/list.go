package tui

import (
	"strings"

	"github.com/heaptap/heaptap/report"
)

// Cells of the list's columns.
const (
	sizeCells   = 10
	shareCells  = 6
	blocksCells = 11
	rateCells   = 11
	trendCells  = 10
)

// wideEnough is where the trend has room beside the names.
const wideEnough = 100

// headings are the columns' names, the one that rows are sorted by in capitals with a mark.
func (m *model) headings() string {
	if m.screen == treeScreen {
		return treeHeadings
	}
	name := func(c column, text string) string {
		if c == m.sort {
			return "▾" + strings.ToUpper(text)
		}
		return text
	}
	line := right(name(byLive, "live"), sizeCells) + right("%", shareCells) + right(name(byBlocks, "blocks"), blocksCells) +
		right(name(byRate, "rate/s"), rateCells) + right(name(byGrowth, "growth/s"), rateCells) + "  "
	if m.width >= wideEnough {
		line += pad("trend", trendCells) + "  "
	}
	return line + groupings[m.by].String()
}

func (m *model) drawList() []string {
	rows := m.visible()
	at := m.at(rows)
	if len(rows) == 0 && m.raw != nil {
		why := m.nothing
		switch {
		case why == "" && m.search != "":
			why = "no row contains " + m.search
		case why == "":
			why = "nothing has been allocated yet"
		}
		return []string{"", pad("  "+report.Printable(why), m.width)}
	}
	var lines []string
	for i := firstVisible(at, len(rows), m.bodyHeight()); i < len(rows) && len(lines) < m.bodyHeight(); i++ {
		lines = append(lines, m.drawRow(rows[i], i == at))
	}
	return lines
}

// firstVisible is the line at the top, so that line `at` of n is seen on a page.
func firstVisible(at, n, page int) int { return max(0, min(at-page/2, n-page)) }

func (m *model) drawRow(r *row, on bool) string {
	rate := bytesASecond(r.rate, false)
	if !tellsRate(groupings[m.by]) {
		rate = "?"
	}
	numbers := right(report.Size(r.live), sizeCells) + right(percent(r.live, m.series.all.live), shareCells) +
		right(report.Count(r.blocks), blocksCells) + right(rate, rateCells)
	growth := right(bytesASecond(r.growth, true), rateCells)
	used := sizeCells + shareCells + blocksCells + 2*rateCells + 2
	trend := ""
	if m.width >= wideEnough {
		trend = sparkline(r.trend, trendCells) + "  "
		used += trendCells + 2
	}
	name := pad(groupText(r.group, max(8, m.width-used)), max(8, m.width-used))
	if on {
		return selected.Render(pad(numbers+growth+"  "+trend+name, m.width))
	}
	return numbers + change(r.growth).Render(growth) + "  " + accent.Render(trend) + name
}
