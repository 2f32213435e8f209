package tui

import (
	"fmt"
	"slices"
	"strings"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/report"
)

// detail is the screen of one group: its types and ages, and its stacks with their source, one at a time.
type detail struct {
	grouping heap.Grouping
	group    heap.Group
	source   func(file string, line int) string

	part   *heap.Snapshot
	stacks []heap.Row // largest first
	at     int        // the stack that is shown
	frames []heap.Frame
	scroll int
}

func (d *detail) show(s *heap.Snapshot) {
	shown := d.frames
	d.part = part(s, d.grouping, d.group)
	d.stacks = d.part.By(heap.ByStack)
	heap.SortRows(d.stacks, heap.InuseBytes, false)
	d.stacks = slices.DeleteFunc(d.stacks, func(r heap.Row) bool { return r.Own[heap.InuseBytes] == 0 })
	// The stack that was shown stays, wherever it is now.
	d.at = max(0, min(d.at, len(d.stacks)-1))
	for i, r := range d.stacks {
		if shown != nil && slices.Equal(d.part.Callers(r.Stack), shown) {
			d.at = i
		}
	}
	d.pick()
}

func (d *detail) pick() {
	d.frames = nil
	if d.at < len(d.stacks) {
		d.frames = d.part.Callers(d.stacks[d.at].Stack)
	}
}

func (d *detail) key(key string, page int) {
	switch key {
	case "n", "right":
		d.at = min(d.at+1, max(0, len(d.stacks)-1))
		d.scroll = 0
		d.pick()
	case "p", "left":
		d.at, d.scroll = max(0, d.at-1), 0
		d.pick()
	default:
		if to, ok := moved(d.scroll, 2*len(d.frames), page, key); ok {
			d.scroll = to
		}
	}
}

func (d *detail) draw(width, height int) []string {
	total := d.part.Total()
	lines := []string{
		bold.Render(pad(groupText(d.group, width), width)),
		pad(fmt.Sprintf("%s live in %s blocks, %s ever allocated", report.Size(total[heap.InuseBytes]),
			report.Count(total[heap.InuseBlocks]), d.allocated(total)), width),
		pad("types  "+shares(d.part, heap.ByType, total), width),
		pad("ages   "+shares(d.part, heap.ByAge, total), width),
		"",
	}
	if len(d.stacks) == 0 {
		return append(lines, pad("no Python stack: allocated where no Python code was running", width))
	}
	own := d.stacks[d.at].Own
	lines = append(lines, accent.Render(pad(fmt.Sprintf("stack %d of %d: %s in %s blocks, innermost call first", d.at+1,
		len(d.stacks), report.Size(own[heap.InuseBytes]), report.Count(own[heap.InuseBlocks])), width)))
	var body []string
	for _, f := range d.frames {
		body = append(body, pad("  "+report.FitPlace(f, width-2), width))
		if text := d.sourceOf(f); text != "" {
			body = append(body, dim.Render(pad("      "+text, width)))
		}
	}
	room := max(1, height-len(lines))
	from := max(0, min(d.scroll, len(body)-room))
	return append(lines, body[from:min(len(body), from+room)]...)
}

func (d *detail) sourceOf(f heap.Frame) string {
	if d.source == nil || f.File == "" || f.Line == 0 {
		return ""
	}
	return report.Printable(strings.TrimSpace(strings.ReplaceAll(d.source(f.File, f.Line), "\t", " ")))
}

// allocated tells bytes ever allocated, where that is known of the group.
func (d *detail) allocated(v heap.Values) string {
	if !tellsRate(d.grouping) {
		return "unknown how much"
	}
	return report.Size(v[heap.AllocBytes])
}

// shares are the largest parts of the live bytes by a label: "dict 80.0 %, list 12.5 %".
func shares(s *heap.Snapshot, g heap.Grouping, total heap.Values) string {
	rows := s.By(g)
	heap.SortRows(rows, heap.InuseBytes, false)
	var parts []string
	for _, r := range rows[:min(len(rows), 8)] {
		if v := r.Own[heap.InuseBytes]; v > 0 {
			parts = append(parts, groupText(r.Group, 0)+" "+report.Percent(float64(v)/float64(total[heap.InuseBytes])))
		}
	}
	return strings.Join(parts, ", ")
}
