package heap

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// curve says how many blocks of 100 bytes a stack has at snapshot k of n.
type curve func(k, n int) int64

// window makes a series of snapshots of the curves, a minute apart; the age of blocks is unknown.
func window(n int, curves map[string]curve) []*Snapshot {
	var series []*Snapshot
	for k := range n {
		s := &Snapshot{Time: time.Unix(1_700_000_000, 0).Add(time.Duration(k) * time.Minute), Duration: time.Hour +
			time.Duration(k)*time.Minute}
		b := NewBuilder(s)
		for name, c := range curves {
			blocks := c(k, n)
			var frames []Frame
			for _, part := range strings.Split(name, "/") {
				frames = append(frames, Frame{Func: part, File: "/srv/app.py", Line: 1})
			}
			s.Records = append(s.Records, Record{Stack: b.Stack(frames...), Type: b.Text("dict"), Age: UnknownAge,
				InuseBlocks: blocks, InuseBytes: 100 * blocks})
		}
		series = append(series, s)
	}
	return series
}

func accused(t *testing.T, series []*Snapshot) (suspects map[string]Suspect, cleared map[string]string) {
	t.Helper()
	r, err := Leaks(series)
	if err != nil {
		t.Fatal(err)
	}
	suspects, cleared = map[string]Suspect{}, map[string]string{}
	name := func(stack int32) string {
		if stack == None {
			return "-"
		}
		return r.Series[0].Frames[r.Series[0].Stacks[stack].Frame].Func
	}
	for _, s := range r.Suspects {
		suspects[name(s.Stack)] = s
	}
	for _, c := range r.Cleared {
		cleared[name(c.Stack)] = c.Why
	}
	return suspects, cleared
}

func TestLeaks(t *testing.T) {
	for _, n := range []int{5, 6, 8, 11, 21, 31} {
		suspects, cleared := accused(t, window(n, map[string]curve{
			"main/leak":      func(k, _ int) int64 { return 500 + 50*int64(k) },
			"main/uneven":    func(k, _ int) int64 { return 30*int64(k) + 10*int64(k%2) },
			"main/growing":   func(k, _ int) int64 { return int64(20 * k * k) },
			"main/constant":  func(int, int) int64 { return 700 },
			"main/warming":   func(k, n int) int64 { return int64(1000 * (1 - math.Exp(-5*float64(k)/float64(n)))) },
			"main/full":      func(k, n int) int64 { return min(300*int64(k)/int64(n)*2, 300) },
			"main/once":      func(k, n int) int64 { return map[bool]int64{true: 900}[k > n/3] },
			"main/sawtooth":  func(k, _ int) int64 { return 400 * int64(k%4) },
			"main/shrinking": func(k, _ int) int64 { return 5000 - 40*int64(k) },
			"main/late":      func(k, n int) int64 { return map[bool]int64{true: 1000}[k == n-1] },
		}))
		for _, want := range []string{"leak", "uneven", "growing"} {
			if _, ok := suspects[want]; !ok {
				t.Errorf("%d snapshots: %s is not accused: %s", n, want, cleared[want])
			}
		}
		if len(suspects) != 3 {
			t.Errorf("%d snapshots: %d suspects: %v", n, len(suspects), suspects)
		}
		for name, why := range map[string]string{
			"warming": "", "full": "levels off", "once": "came at once", "late": "came at once", "sawtooth": "",
		} {
			if got, ok := cleared[name]; !strings.HasPrefix(got, why) || !ok && name != "sawtooth" {
				t.Errorf("%d snapshots: %s: %q, want %q", n, name, got, why)
			}
		}
		if s := suspects["leak"]; math.Abs(s.BytesPerMinute-5000) > 1e-6 || math.Abs(s.BlocksPerMinute-50) > 1e-6 ||
			s.Below || s.Chance > leakChance {
			t.Errorf("%d snapshots: %+v", n, s)
		}
		s := suspects["leak"]
		if len(s.Types) != 1 || s.Types[0] != (LeakPart{"dict", 5000 * int64(n-1), 50 * int64(n-1)}) || len(s.Ages) != 1 {
			t.Errorf("types %v, ages %v", s.Types, s.Ages)
		}
	}
}

// Many calls, each made too seldom to be judged, are judged where they meet; a cache beside them is not swept along.
func TestLeaksBelow(t *testing.T) {
	curves := map[string]curve{
		"main/cache": func(k, n int) int64 { return min(1000*int64(k)/int64(n)*2, 1000) },
	}
	for i := range 40 {
		name := "main/handle/render/" + strings.Repeat("x", i+1)
		curves[name] = func(k, n int) int64 { return map[bool]int64{true: 2}[k > i%(n-1)] }
	}
	suspects, cleared := accused(t, window(9, curves))
	if s, ok := suspects["render"]; len(suspects) != 1 || !ok || !s.Below || s.Bytes[8]-s.Bytes[0] != 8000 {
		t.Errorf("suspects %+v, cleared %v", suspects, cleared)
	}
}

// A queue that gets longer while it is served keeps none of its blocks; a leak keeps them all.
func TestLeaksSurvival(t *testing.T) {
	series := window(6, map[string]curve{"main/x": func(k, _ int) int64 { return 100 * int64(k) }})
	for want, ages := range map[string][]int32{
		"leak": {0, 60, 120, 120, 120}, "queue": {0, 1, 1, 2, 5},
	} {
		last := *series[5]
		last.Records = nil
		for _, age := range ages {
			r := series[5].Records[0]
			r.InuseBytes, r.InuseBlocks, r.Age = 10000, 100, age
			last.Records = append(last.Records, r)
		}
		suspects, cleared := accused(t, append(series[:5:5], &last))
		switch s, ok := suspects["x"]; {
		case want == "leak" && (!ok || s.SurvivorsMost != 30000 || s.SurvivorsLeast != 0):
			t.Errorf("a leak: %+v, %v", s, cleared)
		case want == "queue" && (ok || !strings.HasPrefix(cleared["x"], "replaces its blocks")):
			t.Errorf("a queue: %+v, %v", suspects, cleared)
		}
	}
}

func TestLeaksRefuses(t *testing.T) {
	series := window(5, map[string]curve{"main": func(k, _ int) int64 { return int64(k) }})
	if _, err := Leaks(series[:4]); err == nil || err.Error() != "4 snapshots cannot tell a leak: it takes 5" {
		t.Error(err)
	}
	series[2], series[3] = series[3], series[2]
	if _, err := Leaks(series); err == nil || err.Error() != "the snapshots are not in the order of time" {
		t.Error(err)
	}
	if r, err := Leaks([]*Snapshot{0: {Time: time.Unix(1, 0)}, 1: {Time: time.Unix(2, 0)}, 2: {Time: time.Unix(3, 0)},
		3: {Time: time.Unix(4, 0)}, 4: {Time: time.Unix(5, 0)}}); err != nil || len(r.Suspects)+len(r.Cleared) != 0 {
		t.Errorf("nothing: %+v, %v", r, err)
	}
}

// The test for a trend against trying out all orders.
func TestTrendChance(t *testing.T) {
	var x [6]int64
	total := 0
	counts := map[int]int{} // by number of pairs in the wrong order
	var permute func(used, n int)
	permute = func(used, n int) {
		if n == len(x) {
			wrong := 0
			for i := range x {
				for k := i + 1; k < len(x); k++ {
					if x[k] < x[i] {
						wrong++
					}
				}
			}
			counts[wrong]++
			total++
			return
		}
		for v := range len(x) {
			if used>>v&1 == 0 {
				x[n] = int64(v)
				permute(used|1<<v, n+1)
			}
		}
	}
	permute(0, 0)
	sum := 0
	for wrong, order := range [][]int64{{0, 1, 2, 3, 4, 5}, {1, 0, 2, 3, 4, 5}, {1, 0, 3, 2, 4, 5}, {1, 0, 3, 2, 5, 4}} {
		sum += counts[wrong]
		if got, want := trendChance(order), float64(sum)/float64(total); math.Abs(got-want) > 1e-12 {
			t.Errorf("%v: %g, want %g", order, got, want)
		}
	}
	if got := trendChance([]int64{5, 5, 5, 5, 5}); got < 1-1e-9 {
		t.Errorf("constant numbers have a trend with %g", got)
	}
}

// What has no trend is hardly ever accused: noise around a level, walks without direction.
func TestLeaksFalseAlarms(t *testing.T) {
	rng := rand.New(rand.NewPCG(20261124, 0))
	const runs = 20_000
	for name, limit := range map[string]float64{"noise": 0.002, "walk": 0.025} {
		wrong := 0
		for range runs {
			x := make([]int64, 11)
			at := int64(10_000)
			for k := range x {
				switch name {
				case "noise":
					x[k] = 10_000 + rng.Int64N(2000)
				case "walk":
					at += rng.Int64N(2001) - 1000
					x[k] = at
				}
			}
			if judgeSeries(x).why == "" {
				wrong++
			}
		}
		if share := float64(wrong) / runs; share > limit {
			t.Errorf("%s is accused in %.2f %% of the cases", name, 100*share)
		}
	}
	// And a leak below the noise of a busy server is found: it grows by the noise's width over the window.
	found := 0
	for range runs {
		x := make([]int64, 11)
		for k := range x {
			x[k] = 10_000 + 200*int64(k) + rng.Int64N(200)
		}
		if judgeSeries(x).why == "" {
			found++
		}
	}
	if share := float64(found) / runs; share < 0.95 {
		t.Errorf("a leak in noise is found in %.1f %% of the cases", 100*share)
	}
}

func BenchmarkLeaks(b *testing.B) {
	var series []*Snapshot
	for k := range 11 {
		s := synthetic(50_000, 30, 100_000)
		s.Time = s.Time.Add(time.Duration(k) * time.Minute)
		series = append(series, s)
	}
	for b.Loop() {
		if _, err := Leaks(series); err != nil {
			b.Fatal(err)
		}
	}
}
