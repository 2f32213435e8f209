package report

import (
	"errors"
	"io"

	"github.com/heaptap/heaptap/heap"
)

// DefaultMaxNodes is the number of calls in a flame graph that does not say.
const DefaultMaxNodes = 250_000

// FlameOptions say what [Flame] shows at first; the reader can switch.
type FlameOptions struct {
	Metric   heap.Metric   // what widths stand for
	By       heap.Grouping // calls from different lines of a function apart, or together
	Invert   bool          // what allocated on top, its callers below
	Title    string        // "" for "heap"
	MaxNodes int           // bound on the page's size: the smallest calls beyond are summed and said; 0 is DefaultMaxNodes
}

// Flame writes a flame graph as one HTML page that needs nothing else.
func Flame(w io.Writer, s *heap.Snapshot, o FlameOptions) error {
	return errors.New("write flame report: not built yet")
}
