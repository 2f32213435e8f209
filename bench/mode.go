package main

import (
	"context"
	"fmt"
	"path"
)

// A mode is a way of tracking a run, or of not tracking it.
type mode struct {
	name, title string
	start       func(ctx context.Context, t *target, tap *tool) error
	needs       string  // a library that must be there, "" for none
	heaptap     bool    // by the heaptap program
	geomean     float64 // goal for the geometric mean of the wall time ratios, 0 for none
	worst       float64 // goal for the highest of them, 0 for none
	native      float64 // goal for the geometric mean over native workloads, 0 for none
	only        string  // the part that it is for when none is chosen, "" for all
}

// The two modes without tracking. The second is there to show what the measuring itself is worth: any difference from
// the first is noise.
const (
	untracked = "none"
	again     = "again"
)

// sampleBytes is the distance between samples that heaptap offers for always-on use, as Go's heap profiler does.
const sampleBytes = 512 << 10

func modes() []mode {
	nothing := func(context.Context, *target, *tool) error { return nil }
	attach := func(flags ...string) func(context.Context, *target, *tool) error {
		return func(ctx context.Context, t *target, tap *tool) error {
			_, err := tap.attach(ctx, t.pid, flags...)
			return err
		}
	}
	frames := func(n int) func(context.Context, *target, *tool) error {
		return func(_ context.Context, t *target, _ *tool) error { return t.do(fmt.Sprintf("tracemalloc %d", n), nil) }
	}
	memray := func(python, native int) func(context.Context, *target, *tool) error {
		return func(_ context.Context, t *target, _ *tool) error {
			return t.do(fmt.Sprintf("memray %s %d %d", path.Join(t.within, "memray.bin"), python, native), nil)
		}
	}
	return []mode{
		{name: untracked, title: "no tracking", start: nothing},
		{name: again, title: "none again", start: nothing},
		{name: "python", title: "python domains", start: attach("--domains", "raw,mem,obj"), heaptap: true,
			only: "native"},
		{name: "exact", title: "heaptap exact", start: attach(), heaptap: true, geomean: 1.5, worst: 3, native: 1.3},
		{name: "native", title: "heaptap --native", start: attach("--native"), heaptap: true, native: 2, only: "native"},
		{name: "sampled", title: "heaptap 512K", start: attach("--sample", fmt.Sprint(sampleBytes)), heaptap: true,
			geomean: 1.03},
		{name: "tm1", title: "tracemalloc 1", start: frames(1), needs: "tracemalloc", only: "overhead"},
		{name: "tm25", title: "tracemalloc 25", start: frames(25), needs: "tracemalloc",
			only: "overhead"},
		{name: "memray", title: "memray", start: memray(0, 0), needs: "memray"},
		{name: "memray-py", title: "memray python", start: memray(1, 0), needs: "memray", only: "overhead"},
		{name: "memray-native", title: "memray --native", start: memray(0, 1), needs: "memray", only: "native"},
	}
}
