package report

import (
	"io"

	"github.com/heaptap/heaptap/heap"
)

// FlameOptions say what [Flame] and [DeltaFlame] show at first; the reader can switch all of it but the last two.
type FlameOptions struct {
	Metric heap.Metric   // what widths stand for
	By     heap.Grouping // calls from different lines of a function apart, or together
	Invert bool          // what allocated on top, its callers below
	Title  string        // "" for "heap"
	// MaxNodes bounds the page: the smallest calls beyond are summed, which the page says. 0 is DefaultMaxNodes.
	MaxNodes int
}

// Flame writes a flame graph as one HTML page that needs no network and allows itself none: zoom, search with the
// share that matches, inversion, bytes or blocks, live or allocated, types as colours or alone, all by mouse or
// keyboard.
//
// The page holds the tree of calls by line, gzipped, and lays it out as far as it is looked at. It has at most
// DefaultMaxPageBytes; the smallest calls beyond are summed, too.
func Flame(w io.Writer, s *heap.Snapshot, o FlameOptions) error {
	return writePage(w, "flame", &heap.Delta{New: s}, o.page())
}

// DeltaFlame writes what lies between two snapshots as a flame graph: grown and shrunk are told apart by colour, by
// pattern and by sign, so that the page also serves on paper. Widths are what changed, or either snapshot.
func DeltaFlame(w io.Writer, d *heap.Delta, o FlameOptions) error {
	return writePage(w, "flame", d, o.page())
}

func (o FlameOptions) page() pageOptions {
	return pageOptions{metric: o.Metric, by: o.By, invert: o.Invert, title: o.Title, maxNodes: o.MaxNodes,
		views: []string{viewFlame}}
}
