package tui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/heaptap/heaptap/heap"
)

// Plain writes each look as lines of text, for logs, until the context ends (its cause) or a look fails. wait waits
// between two looks.
func Plain(ctx context.Context, out io.Writer, o Options, wait func(context.Context, time.Duration) error) error {
	var s series
	by := max(0, slices.Index(groupings[:], o.Grouping))
	for {
		next, err := o.Look(ctx)
		if err != nil {
			return err
		}
		var none *heap.NoMatchError
		shown := next
		if o.Filter != nil {
			if shown, err = o.Filter.Apply(next); errors.As(err, &none) {
				empty := *next
				empty.Records = nil
				shown = &empty
			} else if err != nil {
				return err
			}
		}
		s.add(shown)
		if err := s.print(out, by, o.Lines); err != nil {
			return err
		}
		if err := wait(ctx, o.Interval); err != nil {
			return err
		}
	}
}

// print writes the last look: a line for everything and one for each of the largest rows, each with its time.
func (s *series) print(out io.Writer, by, lines int) error {
	at := s.last.Time.Format("2006-01-02T15:04:05")
	line := func(r *row, name string, known bool) error {
		rate := "-"
		if known {
			rate = fmt.Sprintf("%.0f", r.rate)
		}
		_, err := fmt.Fprintf(out, "%s live=%d blocks=%d rate=%s growth=%.0f %s\n", at, r.live, r.blocks, rate, r.growth, name)
		return err
	}
	if err := line(&s.all, "total", true); err != nil {
		return err
	}
	rows := s.sorted(by, byLive)
	for _, r := range rows[:min(lines, len(rows))] {
		name := groupings[by].String() + "=" + r.name
		if err := line(r, name, tellsRate(groupings[by])); err != nil {
			return err
		}
	}
	return nil
}
