package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// quick runs the benchmark on one interpreter with tiny sizes and returns what it printed and what it wrote.
func quick(t *testing.T, args ...string) (string, *record) {
	t.Helper()
	top, err := moduleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := candidates(top)
	file := filepath.Join(t.TempDir(), "results.json")
	var out, talk bytes.Buffer
	// The last candidate is the machine's own Python.
	args = append([]string{"-quick", "-json", file, "-python", all[len(all)-1]}, args...)
	if err := run(t.Context(), args, &out, &talk); err != nil {
		t.Fatalf("bench %s: %v\n%s%s", strings.Join(args, " "), err, &out, &talk)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rec record
	if err := json.Unmarshal(text, &rec); err != nil {
		t.Fatal(err)
	}
	if len(rec.Results) != 1 {
		t.Fatalf("results of %d interpreters, want 1", len(rec.Results))
	}
	return out.String(), &rec
}

// standard are the workloads that need nothing but Python.
func standard() []workload {
	var all []workload
	for _, w := range workloads() {
		if w.needs == "" && !w.native {
			all = append(all, w)
		}
	}
	return all
}

func TestQuickPeers(t *testing.T) {
	const rounds = 2
	printed, rec := quick(t, "-rounds", "2", "-only", "overhead", "-modes", "none,again,tm1")
	o := rec.Results[0].Overhead
	if diff := cmp.Diff([]string{"none", "again", "tm1"}, o.Modes); diff != "" {
		t.Errorf("modes (-want +got):\n%s", diff)
	}
	for _, w := range standard() {
		if !strings.Contains(printed, w.title) {
			t.Errorf("the table has no %q", w.title)
		}
		for _, name := range o.Modes {
			c := o.cell(w.name, name)
			if c == nil {
				t.Fatalf("no cell for %s, %s", w.name, name)
			}
			if len(c.Rounds) != rounds {
				t.Fatalf("%s, %s: %d rounds, want %d", w.name, name, len(c.Rounds), rounds)
			}
			for i, m := range c.Rounds {
				if m == nil || m.Wall <= 0 || m.CPU <= 0 || m.Peak < 1<<20 || m.Check == "" {
					t.Errorf("%s, %s, round %d: %+v", w.name, name, i, m)
				}
			}
		}
	}
	// Tracking was really on: tracemalloc makes churn about ten times slower, of which noise does not take all.
	wall := metrics()[0].of
	if r := median(ratios(o.cell("churn", "tm1"), o.cell("churn", untracked), wall)); r < 2 {
		t.Errorf("churn with tracemalloc takes %.2f times as long as without", r)
	}
	for _, w := range workloads() {
		if w.native {
			continue
		}
		if why, absent := o.Absent[w.name]; absent && !strings.Contains(printed, why) {
			t.Errorf("%s is absent (%s), but the table does not say so", w.name, why)
		}
	}
}

func TestRatiosPairRounds(t *testing.T) {
	wall := func(m *measurement) float64 { return m.Wall }
	base := &cell{Rounds: []*measurement{{Wall: 1}, {Wall: 10}, nil, {Wall: 2}}}
	c := &cell{Rounds: []*measurement{{Wall: 2}, {Wall: 20}, {Wall: 5}, nil}}
	if diff := cmp.Diff([]float64{2, 2}, ratios(c, base, wall)); diff != "" {
		t.Errorf("ratios (-want +got):\n%s", diff)
	}
}

func TestVerdicts(t *testing.T) {
	cells := []*cell{
		{Workload: "w", Mode: untracked, Rounds: []*measurement{{Check: "7"}, {Check: "7"}}},
		{Workload: "w", Mode: "harmed", Rounds: []*measurement{{Check: "7"}, {Check: "8"}}},
		{Workload: "w", Mode: "failed", Rounds: []*measurement{nil, nil}, Error: "exit status 139"},
		{Workload: "w", Mode: "right", Rounds: []*measurement{{Check: "7"}, nil}},
	}
	want := []string{`w, harmed: computed "8", not "7"`, "w, failed: exit status 139"}
	if diff := cmp.Diff(want, verdicts(cells)); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
}

func TestStats(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want float64
	}{
		{"median of an odd number", median([]float64{9, 1, 5}), 5},
		{"median of an even number", median([]float64{4, 1, 2, 3}), 2.5},
		{"highest", quantile([]float64{3, 8, 1}, 1), 8},
		{"lowest", quantile([]float64{3, 8, 1}, 0), 1},
		{"geometric mean", geomean([]float64{1, 4}), 2},
	} {
		if math.Abs(c.got-c.want) > 1e-12 {
			t.Errorf("%s: %g, want %g", c.name, c.got, c.want)
		}
	}
	if !math.IsNaN(median(nil)) || !math.IsNaN(geomean(nil)) {
		t.Error("statistics of nothing are numbers")
	}
}

func TestGoal(t *testing.T) {
	for _, c := range []struct {
		got   float64
		whole bool
		want  string
	}{
		{1.4, true, "goal: x: 1.40 (at most 1.50): reached\n"},
		{1.6, true, "goal: x: 1.60 (at most 1.50): not reached\n"},
		{1.4, false, "goal: x: 1.40 (at most 1.50): not reached, as not all could be measured\n"},
		{math.NaN(), true, "goal: x: NaN (at most 1.50): not reached\n"},
	} {
		var out bytes.Buffer
		goal(&out, "x", c.got, 1.5, "%.2f", c.whole)
		if out.String() != c.want {
			t.Errorf("goal(%g, whole %v) printed %q, want %q", c.got, c.whole, &out, c.want)
		}
	}
}

func TestTargetThatDiesSaysWhy(t *testing.T) {
	tgt, err := start(t.Context(), interpreter{Path: "python3"})
	if err != nil {
		t.Fatal(err)
	}
	defer tgt.close()
	err = tgt.do("prepare nosuchworkload 1 1", nil)
	if err == nil || !strings.Contains(err.Error(), "No module named 'nosuchworkload'") {
		t.Errorf("error %v, want Python's own", err)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{"-modes", "nosuch"}, {"-workloads", "churn,nosuch"}, {"-only", "nosuch"}, {"-rounds", "0"}, {"x"},
	} {
		var out, talk bytes.Buffer
		if err := run(t.Context(), args, &out, &talk); err == nil {
			t.Errorf("bench %s: no error", strings.Join(args, " "))
		}
	}
}
