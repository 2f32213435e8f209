package main

import (
	"strings"
	"testing"
)

// TestQuickHeaptap runs every part of the benchmark with the heaptap of this checkout. The numbers mean nothing at these
// sizes, but each run has checked that tracking was on, lost nothing, and changed no result.
func TestQuickHeaptap(t *testing.T) {
	printed, rec := quick(t, "-rounds", "1", "-modes", "none,exact,sampled,native")
	r := rec.Results[0]
	for _, w := range standard() {
		for _, name := range []string{"exact", "sampled"} {
			if c := r.Overhead.cell(w.name, name); c == nil || len(c.Rounds) != 1 || c.Rounds[0] == nil {
				t.Errorf("%s, %s: not measured: %+v", w.name, name, c)
			}
		}
	}
	for _, w := range workloads() {
		if !w.native {
			continue
		}
		if why, absent := r.Native.Absent[w.name]; absent {
			t.Logf("%s is not measured: %s", w.name, why)
			continue
		}
		for _, name := range []string{"exact", "native"} {
			if c := r.Native.cell(w.name, name); c == nil || len(c.Rounds) != 1 || c.Rounds[0] == nil {
				t.Errorf("%s, %s: not measured: %+v", w.name, name, c)
			}
		}
	}
	for _, g := range r.Tables.Growths {
		if g.Once == 0 || g.TenTimes == 0 {
			t.Errorf("growth of %s: %+v", g.Workload, g)
		}
	}
	for _, w := range r.Tables.Weights {
		if w.LiveBlocks == 0 || w.TablesBytes == 0 {
			t.Errorf("weight of %s: %+v", w.Workload, w)
		}
	}
	for _, p := range r.Pauses {
		if p.Attach.Count == 0 || p.Attach.Median <= 0 || p.Detach.Median <= 0 {
			t.Errorf("pause with %d threads: %+v", p.Threads, p)
		}
	}
	for _, d := range r.Dumps {
		// Blocks are counted by the dump itself; the programs keep at least a thousand, and a hundred thousand.
		want := map[string]int64{"onestack": 1_000, "manystacks": 100_000}[d.Program]
		if d.Blocks < want || d.Pause.Median <= 0 {
			t.Errorf("dump of %s: %+v, want at least %d blocks", d.Program, d, want)
		}
	}
	if c := r.Calls; c.Pause.Median <= 0 || c.Command.Median <= c.Pause.Median || c.PerSecond <= 0 {
		t.Errorf("calls: %+v", c)
	}
	if len(r.Kills) == 0 || r.Kills[0].Unharmed != r.Kills[0].Tries {
		t.Errorf("kills: %+v", r.Kills)
	}
	for _, what := range []string{"heaptap exact", "tables / live bytes", "attach pause", "dump and table",
		"pause of a call"} {
		if !strings.Contains(printed, what) {
			t.Errorf("nothing printed about %q:\n%s", what, printed)
		}
	}
}
