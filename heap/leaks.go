package heap

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// How leaks are told from growth that is none.
//
// Of each stack there is a series: what is live of what it allocated, at each of the snapshots. Snapshots count, not
// seconds: where they are taken at equal intervals that is the same, and where they are taken after equal amounts of
// work it is what matters. A stack is accused when its series in bytes (or, where they came in steps, in blocks)
//
//   - grew: by leakLeastBytes or by a block from each snapshot to the next, on average;
//   - has a trend: the Mann-Kendall test counts the pairs of snapshots of which the later one is not larger. Were there
//     no trend, all orders would be equally likely, and the probability of so few such pairs at most leakChance;
//   - did not come all at once: the largest step is at most leakLargestStep of the growth. What is made once (an import,
//     a table) is not accused;
//   - did not go back: all steps down together are at most leakRetreat of the growth. What fills and is emptied is not
//     accused, as long as it was emptied within the window;
//   - goes on: it grows in the last third at leakLateRate of its average rate at least. A cache that fills levels off:
//     one that approaches its size exponentially, with a time constant of half the window or less, is cleared here;
//   - keeps what it got: of what it grew by in the first half of the window, leakSurvival at least is still alive, as far
//     as ages tell. A queue that is served in turn, only too slowly, has only new entries.
//
// A stack that is seldom run has too few blocks to be judged. Its series is added to its caller's, so that many small
// ones below a common call are judged there, together. What was judged is not counted again above.
const (
	// LeakSnapshots is the least number of snapshots that can tell a leak: with one less not even growth at each step
	// would be unlikely enough.
	LeakSnapshots = 5

	leakChance      = 0.01
	leakLeastBytes  = 1024
	leakLargestStep = 0.6
	leakRetreat     = 0.2
	leakLateRate    = 0.5
	leakSurvival    = 0.5

	// leakShare is the part of the largest suspect's growth below which another is cleared: what a program does beside its
	// leaks has a trend now and then. When the large ones are mended, what is left of the small ones is large. What was
	// allocated outside Python is no measure: it has no line, and may be all kinds of things.
	leakShare = 0.05
)

// LeakReport is what a series of snapshots tells about leaks.
type LeakReport struct {
	Series   []*Snapshot   // over common tables: Strings, Frames and Stacks are the same in all
	Window   time.Duration // from the first to the last
	Suspects []Suspect     // the fastest growth in bytes first
	Cleared  []Cleared     // what grew as well, and why it is not accused; the largest growth first
	Warnings []string      // why the snapshots may not be comparable, a sentence each
}

// Growing is a stack whose blocks became more.
type Growing struct {
	Stack  int32   // index in the series' Stacks; None where no Python code was running
	Below  bool    // the blocks were allocated by various calls below the stack, each too few to judge
	Bytes  []int64 // live at each snapshot
	Blocks []int64
}

// Suspect is what probably is a leak.
type Suspect struct {
	Growing
	BytesPerMinute, BlocksPerMinute float64
	// Chance is the probability that something without a trend looks like this.
	Chance float64
	// Survivors is how many bytes that were allocated in the first half of the window are still alive, at least and at
	// most; ages are known by bucket. Both 0 where ages are not known.
	SurvivorsLeast, SurvivorsMost int64
	Types                         []LeakPart // what grew, by type, the largest growth first
	// Reused says that most of what grew is of types of which the interpreter keeps freed objects to use them again
	// elsewhere. Then the stack is where memory was taken for them, and who holds them may be another.
	Reused bool
	Ages   []LeakPart // what is live at the end, by age, the youngest first
}

// LeakPart is a part of a suspect.
type LeakPart struct {
	Name          string // of a type, "" where unknown; or of a bucket of ages
	Bytes, Blocks int64
}

// Cleared is what grew and is not accused.
type Cleared struct {
	Growing
	Why string // "levels off: ..."
}

// Growth is by how much the live bytes and blocks grew.
func (g Growing) Growth() (bytes, blocks int64) {
	last := len(g.Bytes) - 1
	return g.Bytes[last] - g.Bytes[0], g.Blocks[last] - g.Blocks[0]
}

// Leaks judges a series of snapshots of one process, oldest first. Errors: fewer than [LeakSnapshots], or not in the
// order of time.
func Leaks(series []*Snapshot) (*LeakReport, error) {
	if len(series) < LeakSnapshots {
		return nil, fmt.Errorf("%d snapshots cannot tell a leak: it takes %d", len(series), LeakSnapshots)
	}
	common := &Snapshot{}
	b := NewBuilder(common)
	r := &LeakReport{}
	for i, s := range series {
		if i > 0 && !s.Time.After(series[i-1].Time) {
			return nil, errors.New("the snapshots are not in the order of time")
		}
		r.Series = append(r.Series, b.adopt(s))
	}
	for _, s := range r.Series {
		s.Strings, s.Frames, s.Stacks = common.Strings, common.Frames, common.Stacks
	}
	first, last := series[0], series[len(series)-1]
	r.Window = last.Time.Sub(first.Time)
	r.Warnings = incomparable(first, last)
	r.judge()
	slices.SortFunc(r.Suspects, func(a, b Suspect) int {
		return cmp.Or(cmp.Compare(b.BytesPerMinute, a.BytesPerMinute), cmp.Compare(b.BlocksPerMinute, a.BlocksPerMinute),
			cmp.Compare(a.Stack, b.Stack))
	})
	if i := slices.IndexFunc(r.Suspects, func(s Suspect) bool { return s.Stack != None }); i >= 0 {
		largest := r.Suspects[i].BytesPerMinute
		r.Suspects = slices.DeleteFunc(r.Suspects, func(s Suspect) bool {
			little := s.BytesPerMinute < largest*leakShare
			if little {
				why := fmt.Sprintf("grows little: %.1f %% of the largest suspect's rate", 100*s.BytesPerMinute/largest)
				r.Cleared = append(r.Cleared, Cleared{s.Growing, why})
			}
			return little
		})
	}
	slices.SortFunc(r.Cleared, func(a, b Cleared) int {
		aBytes, _ := a.Growth()
		bBytes, _ := b.Growth()
		return cmp.Or(cmp.Compare(bBytes, aBytes), cmp.Compare(a.Stack, b.Stack))
	})
	return r, nil
}

// judge goes from the innermost calls outwards.
func (r *LeakReport) judge() {
	n := len(r.Series)
	stacks := r.Series[0].Stacks
	// The series of stack i begins at (i+1)*n; that of blocks without a stack at 0.
	bytes, blocks := make([]int64, (len(stacks)+1)*n), make([]int64, (len(stacks)+1)*n)
	below := make([]bool, len(stacks)+1) // holds blocks of calls below
	for k, s := range r.Series {
		for i := range s.Records {
			at := (int(s.Records[i].Stack)+1)*n + k
			bytes[at] += s.Records[i].InuseBytes
			blocks[at] += s.Records[i].InuseBlocks
		}
	}
	parts := newLeakParts(r)
	for i := len(stacks); i >= 0; i-- {
		g := Growing{Stack: int32(i) - 1, Below: below[i], Bytes: bytes[i*n : i*n+n], Blocks: blocks[i*n : i*n+n]}
		grownBytes, grownBlocks := g.Growth()
		if i > 0 && !enough(grownBytes, grownBlocks, n) {
			parent := int(stacks[i-1].Parent) + 1
			if parent > 0 && slices.ContainsFunc(g.Blocks, func(v int64) bool { return v != 0 }) {
				for k := range n {
					bytes[parent*n+k] += g.Bytes[k]
					blocks[parent*n+k] += g.Blocks[k]
				}
				below[parent] = true
				parts.moveUp(int32(i)-1, int32(parent)-1)
			}
			continue
		}
		if grownBytes <= 0 && grownBlocks <= 0 {
			continue
		}
		r.conclude(g, parts)
	}
}

// enough tells whether there is enough growth, or decrease, to judge by itself.
func enough(bytes, blocks int64, snapshots int) bool {
	return max(blocks, -blocks) >= 2*int64(snapshots-1) || max(bytes, -bytes) >= 8*leakLeastBytes
}

// conclude accuses or clears.
func (r *LeakReport) conclude(g Growing, parts *leakParts) {
	judged := judgeSeries(g.Bytes)
	// A table that doubles now and then has most bytes in one step; then the blocks decide, if there is more than that.
	if byBlocks := judgeSeries(g.Blocks); judged.besides >= leakLeastBytes && byBlocks.why == "" {
		judged = byBlocks
	}
	grown, grownBlocks := g.Growth()
	if judged.why == "" && grown < leakLeastBytes && grownBlocks < int64(len(g.Blocks)-1) {
		judged.why = "too little to tell"
	}
	minutes := r.Window.Minutes()
	s := Suspect{
		Growing: g, BytesPerMinute: float64(grown) / minutes, BlocksPerMinute: float64(grownBlocks) / minutes,
		Chance: judged.chance,
	}
	var known bool
	s.Types, s.Ages = parts.of(g.Stack)
	s.Reused = mostlyReused(s.Types)
	s.SurvivorsLeast, s.SurvivorsMost, known = parts.survivors(g.Stack)
	half := (len(g.Bytes) - 1) / 2
	if early := g.Bytes[half] - g.Bytes[0]; judged.why == "" && known && early > 0 &&
		float64(s.SurvivorsMost) < leakSurvival*float64(early) {
		judged.why = "replaces its blocks: of what came in the first half of the window most is gone"
	}
	if judged.why != "" {
		r.Cleared = append(r.Cleared, Cleared{Growing: g, Why: judged.why})
		return
	}
	r.Suspects = append(r.Suspects, s)
}

// mostlyReused tells whether most blocks of what grew are of types with free lists.
func mostlyReused(types []LeakPart) bool {
	var reused, unknown, all int64
	for _, t := range types {
		switch all += t.Blocks; t.Name {
		// CPython's Objects/{tuple,list,dict,float,method,slice}object.c, Python/context.c, Modules/_asynciomodule.c. What
		// lies on such a list has no type that can be told.
		case "":
			unknown += t.Blocks
		case "tuple", "list", "dict", "dict (keys)", "float", "method", "builtin_function_or_method", "slice",
			"_contextvars.Context", "_asyncio.FutureIter":
			reused += t.Blocks
		}
	}
	return reused > 0 && 2*(reused+unknown) > all
}

// judgement is what is said of a series; why is "" where it is accused.
type judgement struct {
	why     string
	besides int64 // where most came at once, growth besides that
	chance  float64
}

// judgeSeries applies the tests that need nothing but numbers.
func judgeSeries(x []int64) judgement {
	last := len(x) - 1
	growth := float64(x[last] - x[0])
	if growth <= 0 {
		return judgement{why: "did not grow"}
	}
	j := judgement{chance: trendChance(x)}
	largest, retreat := int64(0), int64(0)
	for i := 1; i <= last; i++ {
		step := x[i] - x[i-1]
		largest = max(largest, step)
		retreat -= min(step, 0)
	}
	third := max(2, (last+2)/3)
	late := float64(x[last]-x[last-third]) / float64(third) / (growth / float64(last))
	switch {
	case float64(retreat) > leakRetreat*growth:
		j.why = fmt.Sprintf("comes and goes: it shrank by %.0f %% of its growth in between", 100*float64(retreat)/growth)
	case float64(largest) > leakLargestStep*growth:
		j.besides = x[last] - x[0] - largest
		j.why = fmt.Sprintf("came at once: %.0f %% of the growth in one step", 100*min(1, float64(largest)/growth))
	case late < leakLateRate:
		j.why = fmt.Sprintf("levels off: it grows at %.0f %% of its average rate in the end", 100*max(0, late))
	case j.chance > leakChance:
		j.why = fmt.Sprintf("no trend: chance alone looks like this with %.0f %%", 100*j.chance)
	}
	return j
}

// trendChance is the probability that n different numbers in random order have at most as many pairs of which the later
// one is not larger as x has: the exact Mann-Kendall test for growth, equal numbers counting against it.
func trendChance(x []int64) float64 {
	against := 0
	for i := range x {
		for k := i + 1; k < len(x); k++ {
			if x[k] <= x[i] {
				against++
			}
		}
	}
	// chances[k] is the probability of k inversions in a random order of as many numbers as have been added. The next
	// number makes 0 to n inversions, each equally likely.
	chances := []float64{1}
	for n := 1; n < len(x); n++ {
		next := make([]float64, len(chances)+n)
		for k, p := range chances {
			for more := 0; more <= n; more++ {
				next[k+more] += p / float64(n+1)
			}
		}
		chances = next
	}
	sum := 0.0
	for k := 0; k <= against && k < len(chances); k++ {
		sum += chances[k]
	}
	return min(1, sum)
}

// leakParts finds the records of a stack, and of those that were added to it.
type leakParts struct {
	r       *LeakReport
	records [2][][]int32 // of the first and the last snapshot: records by stack + 1
	early   [2]int64     // seconds of age at the end, of what came in the first half of the window: from, to
}

func newLeakParts(r *LeakReport) *leakParts {
	p := &leakParts{r: r}
	ends := p.ends()
	for side, s := range ends {
		p.records[side] = make([][]int32, len(s.Stacks)+1)
		for i := range s.Records {
			if rec := &s.Records[i]; rec.InuseBlocks > 0 {
				p.records[side][rec.Stack+1] = append(p.records[side][rec.Stack+1], int32(i))
			}
		}
	}
	middle := r.Series[(len(r.Series)-1)/2]
	p.early = [2]int64{
		int64(ends[1].Time.Sub(middle.Time).Seconds()), int64(math.Ceil(ends[1].Time.Sub(ends[0].Time).Seconds())),
	}
	return p
}

func (p *leakParts) ends() [2]*Snapshot {
	return [2]*Snapshot{p.r.Series[0], p.r.Series[len(p.r.Series)-1]}
}

func (p *leakParts) moveUp(stack, parent int32) {
	for side := range p.records {
		p.records[side][parent+1] = append(p.records[side][parent+1], p.records[side][stack+1]...)
		p.records[side][stack+1] = nil
	}
}

// of returns what grew by type and what is live at the end by age.
func (p *leakParts) of(stack int32) (types, ages []LeakPart) {
	byType, byAge := map[int32]LeakPart{}, map[int32]LeakPart{}
	for side, s := range p.ends() {
		sign := int64(2*side - 1) // the first snapshot's is taken away
		for _, i := range p.records[side][stack+1] {
			rec := &s.Records[i]
			part := byType[rec.Type]
			part.Name = s.Text(rec.Type)
			part.Bytes += sign * rec.InuseBytes
			part.Blocks += sign * rec.InuseBlocks
			byType[rec.Type] = part
			if side == 1 {
				part := byAge[rec.Age]
				part.Name = AgeText(rec.Age)
				part.Bytes += rec.InuseBytes
				part.Blocks += rec.InuseBlocks
				byAge[rec.Age] = part
			}
		}
	}
	for _, part := range byType {
		if part.Bytes > 0 || part.Blocks > 0 {
			types = append(types, part)
		}
	}
	slices.SortFunc(types, func(a, b LeakPart) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(b.Blocks, a.Blocks), cmp.Compare(a.Name, b.Name))
	})
	var bounds []int32
	for bound := range byAge {
		bounds = append(bounds, bound)
	}
	slices.Sort(bounds)
	for _, bound := range bounds {
		ages = append(ages, byAge[bound])
	}
	return types, ages
}

// survivors bounds the bytes that came in the first half of the window and are live at its end.
func (p *leakParts) survivors(stack int32) (least, most int64, known bool) {
	last := p.ends()[1]
	known = true
	for _, i := range p.records[1][stack+1] {
		rec := &last.Records[i]
		if rec.Age == UnknownAge {
			return 0, 0, false
		}
		// A clock's whole seconds, cut off at both ends: an age is right to a second.
		from, to := int64(rec.Age)-1, int64(AgeBucketEnd(rec.Age))+1
		if from >= p.early[0] && to <= p.early[1] {
			least += rec.InuseBytes
		}
		if to > p.early[0] && from <= p.early[1] {
			most += rec.InuseBytes
		}
	}
	return least, most, known
}
