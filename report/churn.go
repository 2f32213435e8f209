package report

import (
	"cmp"
	"slices"
	"strings"

	"github.com/heaptap/heaptap/heap"
)

// freed is what was allocated and is not live any more, bytes.
func freed(v heap.Values) int64 { return v[heap.AllocBytes] - v[heap.InuseBytes] }

// writeChurn writes the rows that freed most.
func writeChurn(out output, s *heap.Snapshot, o TableOptions) {
	rows := s.By(o.By)
	values := func(r heap.Row) heap.Values {
		if o.Cumulative {
			return r.Cum
		}
		return r.Own
	}
	heap.SortRows(rows, heap.AllocBytes, o.Cumulative)
	slices.SortStableFunc(rows, func(a, b heap.Row) int { return cmp.Compare(freed(values(b)), freed(values(a))) })
	rows = slices.DeleteFunc(rows, func(r heap.Row) bool { return freed(values(r)) <= 0 })
	if len(rows) == 0 {
		out.printf("Nothing was freed.\n")
		return
	}
	top := cmp.Or(o.Top, DefaultTop)
	var rest heap.Values
	hidden := int64(0)
	var shown []tableRow
	for i, r := range rows {
		if top >= 0 && i >= top {
			rest.Add(r.Own)
			hidden++
			continue
		}
		shown = append(shown, tableRow{values: values(r), frame: r.Frame, stack: r.Stack, name: groupName(o.By, r.Group)})
	}
	if hidden > 0 && !o.Cumulative {
		shown = append(shown, tableRow{values: rest, name: restName(o.By, hidden, "more")})
	}
	total := s.Total()
	shown = append(shown, tableRow{values: total, name: "total"})
	lines := [][]string{{"FREED", "ALLOCATED", "BLOCKS", "LIVE", "TEMPORARY"}}
	for _, r := range shown {
		temporary := "-" // not counted
		if total[heap.TempBlocks] > 0 {
			temporary = Percent(share(r.values[heap.TempBlocks], r.values[heap.AllocBlocks]))
		}
		lines = append(lines, []string{
			Size(freed(r.values)), Size(r.values[heap.AllocBytes]), Count(r.values[heap.AllocBlocks]),
			Size(r.values[heap.InuseBytes]), temporary,
		})
	}
	numbers := alignRight(lines)
	room := 0
	if o.Width > 0 {
		room = max(leastRoom, o.Width-Cells(numbers[0])-2)
	}
	out.printf("\n%s  %s\n", numbers[0], strings.ToUpper(o.By.String()))
	for i, r := range shown {
		out.printf("%s  %s\n", numbers[i+1], r.fit(s, o.By, room))
	}
}
