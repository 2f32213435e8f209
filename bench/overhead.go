package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// A measurement is one run of one workload in one mode.
type measurement struct {
	Wall  float64 `json:"wall_seconds"`
	CPU   float64 `json:"cpu_seconds"` // of all threads, user and system
	Peak  float64 `json:"peak_bytes"`  // highest resident size, from just before tracking began
	Check string  `json:"check"`       // what the workload computed: the same in all modes, or tracking has harmed it
}

// A cell is what was measured for one workload in one mode. A round that was left out is nil.
type cell struct {
	Workload string         `json:"workload"`
	Mode     string         `json:"mode"`
	Rounds   []*measurement `json:"rounds"`
	Error    string         `json:"error,omitempty"` // why the cell has no more rounds
	spent    time.Duration
}

// A metric is one of the three things compared.
type metric struct {
	name string
	of   func(*measurement) float64
}

func metrics() []metric {
	return []metric{
		{"wall time", func(m *measurement) float64 { return m.Wall }},
		{"CPU time", func(m *measurement) float64 { return m.CPU }},
		{"peak RSS", func(m *measurement) float64 { return m.Peak }},
	}
}

// ratios compares a cell with the untracked one round by round, so that what slowed a whole round down cancels out.
func ratios(c, base *cell, of func(*measurement) float64) []float64 {
	var all []float64
	for i := range min(len(c.Rounds), len(base.Rounds)) {
		if m, b := c.Rounds[i], base.Rounds[i]; m != nil && b != nil && of(b) > 0 {
			all = append(all, of(m)/of(b))
		}
	}
	return all
}

// An overhead is the comparison of all workloads and modes for one interpreter.
type overhead struct {
	Part      string            `json:"part"`
	Workloads []string          `json:"workloads"`
	Modes     []string          `json:"modes"`
	Absent    map[string]string `json:"absent"` // why, by workload or mode
	Cells     []*cell           `json:"cells"`
	Failures  []string          `json:"failures"` // runs that failed or computed something else: never noise
}

func (o *overhead) cell(workload, mode string) *cell {
	for _, c := range o.Cells {
		if c.Workload == workload && c.Mode == mode {
			return c
		}
	}
	return nil
}

// measureOverhead runs every workload in every mode in turn, round after round. Each round begins with another mode, so
// that none always follows the same one. The native part has the native workloads, the other the others.
func (b *bench) measureOverhead(ctx context.Context, in interpreter, part string) (*overhead, error) {
	chosen := slices.DeleteFunc(slices.Clone(b.workloads), func(w workload) bool { return w.native != (part == "native") })
	if len(chosen) == 0 {
		return nil, nil
	}
	o := &overhead{Part: part, Absent: map[string]string{}}
	var usable []mode
	for _, m := range b.modes {
		if b.allModes && m.only != "" && m.only != part {
			continue
		}
		if why, absent := in.Absent[m.needs]; absent {
			o.Absent[m.name] = why
			continue
		}
		usable = append(usable, m)
		o.Modes = append(o.Modes, m.name)
	}
	for _, w := range chosen {
		if why, absent := in.Absent[w.needs]; absent {
			o.Absent[w.name] = why
			continue
		}
		o.Workloads = append(o.Workloads, w.name)
		cells := make([]*cell, len(usable))
		for i, m := range usable {
			cells[i] = &cell{Workload: w.name, Mode: m.name, Rounds: make([]*measurement, b.rounds)}
		}
		o.Cells = append(o.Cells, cells...)
		for round := range b.rounds {
			for i := range usable {
				at := (i + round) % len(usable)
				if err := b.measure(ctx, in, w, usable[at], cells[at], round); err != nil {
					return nil, err
				}
			}
		}
		o.Failures = append(o.Failures, verdicts(cells)...)
	}
	return o, nil
}

// measure fills one round of a cell, unless the cell has failed or used up its time. It returns an error only when
// ctx has ended.
func (b *bench) measure(ctx context.Context, in interpreter, w workload, m mode, c *cell, round int) error {
	if c.Error != "" {
		return nil
	}
	if round > 0 && m.name != untracked && m.name != again && c.spent > b.patience {
		return nil
	}
	began := time.Now()
	got, err := b.once(ctx, in, w, m)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.spent += time.Since(began)
	if err != nil {
		c.Error = err.Error()
		b.progress("%s, round %d: %s, %s: %v", in, round+1, w.name, m.title, err)
		return nil
	}
	c.Rounds[round] = got
	b.progress("%s, round %d: %s, %s: %.2f s", in, round+1, w.name, m.title, got.Wall)
	return nil
}

// once is one run: start, prepare, switch tracking on, run, look. What comes before the run is not counted.
func (b *bench) once(ctx context.Context, in interpreter, w workload, m mode) (*measurement, error) {
	t, err := start(ctx, in)
	if err != nil {
		return nil, err
	}
	defer t.close()
	if err := t.do(b.prepare(w, 1), nil); err != nil {
		return nil, err
	}
	if err := t.resetPeak(); err != nil {
		return nil, err
	}
	if err := m.start(ctx, t, b.tap); err != nil {
		return nil, err
	}
	var got struct {
		Wall, CPU float64
		Check     string
	}
	if err := t.do("run", &got); err != nil {
		return nil, err
	}
	peak, err := t.peak()
	if err != nil {
		return nil, err
	}
	if m.heaptap {
		if _, err := b.tap.status(ctx, t.pid); err != nil {
			return nil, err
		}
	}
	return &measurement{Wall: got.Wall, CPU: got.CPU, Peak: float64(peak), Check: got.Check}, t.exit()
}

// prepare is the driver's command for a workload, its size multiplied.
func (b *bench) prepare(w workload, times int) string {
	size := w.size
	if b.quick {
		size = w.small
	}
	return fmt.Sprintf("prepare %s %d %d", w.name, size*times, w.small)
}

// verdicts lists what went wrong in a workload's cells, whatever the numbers: failed runs, and results that differ from
// those of the untracked program.
func verdicts(cells []*cell) []string {
	var bad []string
	want := ""
	for _, c := range cells {
		if c.Error != "" {
			bad = append(bad, fmt.Sprintf("%s, %s: %s", c.Workload, c.Mode, c.Error))
		}
		for _, m := range c.Rounds {
			switch {
			case m == nil:
			case want == "":
				want = m.Check
			case m.Check != want:
				bad = append(bad, fmt.Sprintf("%s, %s: computed %q, not %q", c.Workload, c.Mode, m.Check, want))
			}
		}
	}
	return bad
}
