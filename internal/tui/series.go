package tui

import (
	"cmp"
	"slices"
	"time"

	"github.com/heaptap/heaptap/heap"
)

// trendLength is how many looks a trend goes back.
const trendLength = 60

// row is a group of blocks over time.
type row struct {
	group        heap.Group
	name         string // of the group, whatever its length
	live, blocks int64
	alloc        int64   // bytes ever allocated
	rate         float64 // bytes allocated a second since the last look
	growth       float64 // bytes that are live more, a second
	trend        []int64 // bytes live at each look, the last one last
}

// column is what rows can be sorted by.
type column int

const (
	byLive column = iota
	byBlocks
	byRate
	byGrowth
	numColumns
)

func (c column) String() string { return [numColumns]string{"live", "blocks", "rate", "growth"}[c] }

// value is what the column says of a row.
func (c column) value(r *row) float64 {
	switch c {
	case byBlocks:
		return float64(r.blocks)
	case byRate:
		return r.rate
	case byGrowth:
		return r.growth
	}
	return float64(r.live)
}

// groupings are those that rows are shown by.
var groupings = [...]heap.Grouping{heap.ByLine, heap.ByFunction, heap.ByModule, heap.ByType, heap.ByThread}

// tellsRate says whether what was ever allocated is known by this grouping: the tables keep it by stack.
func tellsRate(g heap.Grouping) bool { return g.Frames() || g == heap.ByThread }

// series joins snapshots of one process, taken one after another, into rows over time.
type series struct {
	last *heap.Snapshot // the part that passes the filter
	span time.Duration  // between the last two looks; 0 after the first
	rows [len(groupings)]map[heap.Group]*row
	all  row // everything
}

// add takes the next snapshot.
func (s *series) add(next *heap.Snapshot) {
	s.span = 0
	if s.last != nil {
		s.span = next.Time.Sub(s.last.Time)
	}
	s.last = next
	total := next.Total()
	s.all.look(total, s.span)
	for i, g := range groupings {
		old := s.rows[i]
		s.rows[i] = make(map[heap.Group]*row, len(old))
		for _, r := range next.By(g) {
			is := old[r.Group]
			span := s.span
			if is == nil {
				is = &row{group: r.Group, name: groupText(r.Group, 0)}
				if old != nil { // all of it is new
					is.trend = make([]int64, len(s.all.trend)-1)
				} else {
					span = 0
				}
			}
			is.look(r.Own, span)
			s.rows[i][r.Group] = is
			delete(old, r.Group)
		}
		for group, gone := range old { // its allocations do not come back, its trend may
			if gone.live != 0 || s.anyTrend(gone) {
				gone.look(heap.Values{heap.AllocBytes: gone.alloc}, s.span)
				s.rows[i][group] = gone
			}
		}
	}
}

func (s *series) anyTrend(r *row) bool {
	return slices.ContainsFunc(r.trend, func(v int64) bool { return v != 0 })
}

// look adds what a snapshot says of the row. span is the time since the one before, 0 where there was none.
func (r *row) look(v heap.Values, span time.Duration) {
	r.rate, r.growth = 0, 0
	if seconds := span.Seconds(); seconds > 0 {
		r.rate = float64(v[heap.AllocBytes]-r.alloc) / seconds
		r.growth = float64(v[heap.InuseBytes]-r.live) / seconds
	}
	r.live, r.blocks, r.alloc = v[heap.InuseBytes], v[heap.InuseBlocks], v[heap.AllocBytes]
	r.trend = append(r.trend, r.live)
	if len(r.trend) > trendLength {
		r.trend = slices.Delete(r.trend, 0, len(r.trend)-trendLength)
	}
}

// sorted returns the rows of groupings[i], largest first by a column.
func (s *series) sorted(i int, by column) []*row {
	rows := make([]*row, 0, len(s.rows[i]))
	for _, r := range s.rows[i] {
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b *row) int {
		return cmp.Or(cmp.Compare(by.value(b), by.value(a)), cmp.Compare(b.live, a.live), cmp.Compare(a.name, b.name))
	})
	return rows
}

// holds tells whether a record belongs to the group.
func holds(s *heap.Snapshot, r *heap.Record, g heap.Grouping, group heap.Group) bool {
	switch g {
	case heap.ByType:
		return s.Text(r.Type) == group.Name
	case heap.ByThread:
		return s.Text(r.Thread) == group.Name
	}
	if r.Stack == heap.None {
		return false
	}
	f := s.Frames[s.Stacks[r.Stack].Frame]
	switch g {
	case heap.ByModule:
		module, _ := f.ModuleName()
		return module == group.Name
	}
	return g.Place(f) == group.Frame
}

// part is the snapshot with only the records of a group.
func part(s *heap.Snapshot, g heap.Grouping, group heap.Group) *heap.Snapshot {
	p := *s
	p.Records = nil
	for i := range s.Records {
		if r := &s.Records[i]; holds(s, r, g, group) {
			p.Records = append(p.Records, *r)
		}
	}
	return &p
}
