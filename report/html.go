package report

import (
	"io"

	"github.com/heaptap/heaptap/heap"
)

// HTMLOptions say what [HTML] and [DeltaHTML] show at first, and what the page holds.
type HTMLOptions struct {
	Metric  heap.Metric   // what is counted
	By      heap.Grouping // calls from different lines of a function apart, or together
	Title   string        // "" for "heap"
	Sources Sources       // for the source of the lines with the most memory; nil leaves it out
	// MaxBytes bounds the page: the smallest calls beyond are summed, which the page says. 0 is DefaultMaxPageBytes.
	MaxBytes int
}

// HTML writes all of a snapshot as one HTML page that needs no network and allows itself none: an overview, the
// memory over time, a flame graph, tables, a tree, ages and the source of the lines with the most memory. All views can
// be restricted by type, thread, domain and age, and searched, by mouse or keyboard.
func HTML(w io.Writer, s *heap.Snapshot, o HTMLOptions) error {
	return writePage(w, "html", &heap.Delta{New: s}, o.page())
}

// DeltaHTML writes what lies between two snapshots as such a page.
func DeltaHTML(w io.Writer, d *heap.Delta, o HTMLOptions) error {
	return writePage(w, "html", d, o.page())
}

func (o HTMLOptions) page() pageOptions {
	views := []string{viewOverview, viewFlame, viewTable, viewTree, viewAges}
	if o.Sources != nil {
		views = append(views, viewSource)
	}
	return pageOptions{metric: o.Metric, by: o.By, title: o.Title, maxBytes: o.MaxBytes, sources: o.Sources, views: views}
}
