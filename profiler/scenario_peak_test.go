package profiler

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/internal/pytarget"
)

// A step of a program's life, by a function of the programs: it takes a block of so many MiB under a name, changes the
// size of one that it has, or gives it back (size 0).
type step struct {
	function string // a, b or c, where a block is taken; "" where it is changed
	name     string
	size     int // units of peakUnit
}

// peakUnit is the size that blocks of peak scenarios are multiples of. Everything else that the interpreter takes
// meanwhile is less.
const peakUnit = 256 << 10

func (s step) python() string {
	switch {
	case s.size == 0:
		return fmt.Sprintf("give(%q)", s.name)
	case s.function == "":
		return fmt.Sprintf("grow(%q, %d)", s.name, s.size*peakUnit)
	}
	return fmt.Sprintf("%s(%q, %d)", s.function, s.name, s.size*peakUnit)
}

// steps reads steps from text: "a:x3 b:y2 x5 x0" is: a takes 3 units for x, b 2 for y, x becomes 5, x is given back.
func steps(text string) []step {
	var list []step
	for _, word := range strings.Fields(text) {
		var s step
		if function, rest, ok := strings.Cut(word, ":"); ok {
			s.function, word = function, rest
		}
		s.name = word[:1]
		fmt.Sscan(word[1:], &s.size)
		list = append(list, s)
	}
	return list
}

// peakOf plays the steps and returns what stood where at the highest point, in units, by stack; unique tells that no
// other moment with other blocks was as high.
func peakOf(list []step) (peak map[string]int, unique bool) {
	type block struct {
		stack string
		size  int
	}
	live := map[string]block{}
	highest := 0
	for _, s := range list {
		b := live[s.name]
		switch {
		case s.size == 0:
			delete(live, s.name)
		case s.function == "":
			live[s.name] = block{"grow", s.size}
		default:
			b.stack, b.size = "take < "+s.function, s.size
			live[s.name] = b
		}
		now, total := map[string]int{}, 0
		for _, b := range live {
			now[b.stack] += b.size
			total += b.size
		}
		switch {
		case total > highest:
			highest, peak, unique = total, now, true
		case total == highest:
			unique = false
		}
	}
	return peak, unique
}

// What stood where at the highest point, over lives that rise and fall in every way.
func TestScenarioPeaks(t *testing.T) {
	t.Parallel()
	library := outside(t)
	cases := []struct{ name, steps string }{
		{"kept", "a:x3"},
		{"given back", "a:x3 x0"},
		{"several", "a:x3 b:y4 c:z5"},
		{"all given back, then little", "a:x3 b:y4 x0 y0 c:z2"},
		{"higher each time", "a:x2 x0 b:y4 y0 c:z6 z0 a:x8 x0"},
		{"lower each time", "a:x8 x0 b:y6 y0 c:z4 z0"},
		{"at the end", "a:x2 x0 b:y1 a:x3 c:z5"},
		{"given back before", "a:x3 x0 b:y5 c:z1"},
		{"given back after", "a:x3 b:y5 x0 c:z1"},
		{"one of two of a stack", "a:x3 a:y4 x0 b:z6"},
		{"same again", "a:x3 b:y5 x0 a:x2 y0 a:y1 c:z7 z0"},
		{"up and down in the middle", "a:x9 b:y2 y0 b:y3 y0 c:z4 z0 x0 c:z12"},
		{"grown", "a:x2 x9 x1 b:y3"},
		{"grown after its peak", "a:x2 b:y8 y0 x5"},
		{"plateau", "a:x5 b:y1 y0 b:z2 z0 c:w3"},
	}
	for _, in := range staged(t) {
		for _, domain := range []Domain{Raw, Malloc} {
			t.Run(in.Name+"/"+domain.String(), func(t *testing.T) {
				t.Parallel()
				tg := stage(t, in, library, pytarget.Options{})
				tg.Exec("using = " + domain.String() + "; take('_', 1); give('_')")
				for _, c := range cases {
					tryPeak(t, tg, domain, c.name, steps(c.steps))
				}
				rnd := newRand(t)
				for i := range 5 {
					list := randomSteps(rnd, 60)
					tryPeak(t, tg, domain, fmt.Sprintf("random %d: %v", i, list), list)
				}
				tg.Challenge()
			})
		}
	}
}

// randomSteps draws lives whose peak is unique.
func randomSteps(rnd *rand.Rand, n int) []step {
	for {
		var list []step
		live := map[string]bool{}
		for range n {
			s := step{name: string(rune('p' + rnd.IntN(8))), size: 1 + rnd.IntN(40)}
			switch {
			case !live[s.name]:
				s.function = string(rune('a' + rnd.IntN(3)))
			case rnd.IntN(4) > 0:
				s.size = 0
			}
			live[s.name] = s.size > 0
			list = append(list, s)
		}
		if _, unique := peakOf(list); unique {
			return list
		}
	}
}

func tryPeak(t *testing.T, tg *pytarget.Target, domain Domain, name string, list []step) {
	t.Helper()
	want, unique := peakOf(list)
	if !unique {
		t.Fatalf("%s: two moments are the highest", name)
	}
	var program strings.Builder
	for _, s := range list {
		fmt.Fprintln(&program, s.python())
	}
	mustAttach(t, tg.Pid())
	tg.ExecFile(scenarioFile, program.String())
	s := mustDump(t, tg.Pid()).Snapshot
	mustDetach(t, tg.Pid())
	tg.Exec("for name in list(held): give(name)")

	got := map[string]int{}
	for _, r := range s.Records {
		if s.Text(r.Domain) != domain.String() || r.PeakBytes < peakUnit {
			continue
		}
		stack := strings.TrimSuffix(programStack(s.Callers(r.Stack), func(f heap.Frame) string { return f.Func }), " < <module>")
		if r.PeakBytes%peakUnit != 0 {
			t.Errorf("%s: %d bytes at %s", name, r.PeakBytes, stack)
		}
		got[stack] += int(r.PeakBytes / peakUnit)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: at the peak stood %v, want %v (units of %d bytes)", name, got, want, peakUnit)
	}
}

// Temporary is what is freed within as many allocations of its thread as was asked for.
func TestScenarioTemporary(t *testing.T) {
	t.Parallel()
	library := outside(t)
	cases := []struct {
		score  string
		within map[int]int64 // threshold: temporary blocks
	}{
		{"A", map[int]int64{1: 0, 8: 0}},
		{"Aa", map[int]int64{1: 1, 8: 1}},
		{"AaAaAa", map[int]int64{1: 3, 2: 3}},
		{"ABba", map[int]int64{1: 1, 2: 2}},
		{"ABab", map[int]int64{1: 1, 2: 2}},
		{"ABbCca", map[int]int64{1: 2, 2: 2, 3: 3}},
		{"ABCabc", map[int]int64{1: 1, 2: 2, 3: 3}},
		{"ABCDEFGHIabcdefghi", map[int]int64{1: 1, 7: 7, 8: 8}},
		{"ABCDEFGHIihgfedcba", map[int]int64{8: 8}},
	}
	for _, in := range staged(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := stage(t, in, library, pytarget.Options{})
			tg.Exec("worker = Worker()")
			for i, threshold := range []int{1, 2, 3, 7, 8} {
				domain := []Domain{Raw, Malloc}[i%2]
				tg.Exec("using = " + domain.String())
				if _, err := Attach(t.Context(), tg.Pid(), AttachOptions{Temporary: threshold}); err != nil {
					t.Fatal(err)
				}
				var program strings.Builder
				var want []int64
				for i, c := range cases {
					if n, ok := c.within[threshold]; ok {
						// A stack of its own for each: as many frames.
						fmt.Fprintf(&program, "deep(%d, played, b%q, 100000)\n", i, c.score)
						want = append(want, n)
					} else {
						want = append(want, -1)
					}
				}
				// What another thread frees is not temporary: it was not the last that *that* thread allocated.
				fmt.Fprintf(&program, "worker.tell(lambda: deep(%d, played, b'Z', 100000)); played(b'z', 0)\n", len(cases))
				want = append(want, 0)
				tg.ExecFile(scenarioFile, program.String())
				s := mustDump(t, tg.Pid()).Snapshot
				got := map[string]int64{}
				for _, r := range s.Records {
					stack := programStack(s.Callers(r.Stack), func(f heap.Frame) string { return f.Func })
					if s.Text(r.Domain) == domain.String() && strings.HasPrefix(stack, "played < ") {
						got[strings.Split(stack, " < ")[1]] += r.TempBlocks
					}
				}
				for i, n := range want {
					score := "freed by another thread"
					if i < len(cases) {
						score = cases[i].score
					}
					if have := got[repeated("deep", i+1)]; n >= 0 && have != n {
						t.Errorf("%s: %d temporary blocks within %d allocations, want %d", score, have, threshold, n)
					}
				}
				mustDetach(t, tg.Pid())
			}
			tg.Challenge()
		})
	}
}
