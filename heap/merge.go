package heap

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Part is the snapshot of one of several processes.
type Part struct {
	// Process names it in the merged snapshot: its number, a space, what people call it ("4711 gunicorn: worker").
	// Records that name their process already keep that name.
	Process  string
	Snapshot *Snapshot
}

// Merge makes one snapshot of those of several processes, whose records say by their Process from which they are.
//
// Time is the latest of the parts', Duration reaches back to the earliest beginning. Timeline is the sum over the
// processes that were tracked at each moment. Processes have their peaks at different times, therefore a merged
// snapshot has no PeakTime, and its peak_* metrics are what each of the processes had at its own. Of Info, what holds
// for all parts stands there once, amounts ("1234 bytes") are added up, and what differs has the process before its
// value.
//
// Errors: no parts, a part without a name, two of one name, totals beyond 64 bits. The parts must pass
// [Snapshot.Check], and are not changed.
func Merge(parts []Part) (*Snapshot, error) {
	if len(parts) == 0 {
		return nil, errors.New("merge snapshots: there are none")
	}
	merged := &Snapshot{}
	b := NewBuilder(merged)
	named := map[string]bool{}
	for _, p := range parts {
		adopted := b.adopt(p.Snapshot)
		label := b.Text(p.Process)
		for _, r := range adopted.Records {
			if r.Process == 0 {
				r.Process = label
			}
			if r.Process == 0 {
				return nil, errors.New("merge snapshots: a process has no name")
			}
			merged.Records = append(merged.Records, r)
		}
		if p.Process != "" && named[p.Process] {
			return nil, fmt.Errorf("merge snapshots: two are of process %s", p.Process)
		}
		named[p.Process] = true
		if p.Snapshot.Time.After(merged.Time) {
			merged.Time = p.Snapshot.Time
		}
		merged.SampleBytes = max(merged.SampleBytes, p.Snapshot.SampleBytes)
	}
	for _, p := range parts {
		if !p.Snapshot.Time.IsZero() {
			merged.Duration = max(merged.Duration, merged.Time.Sub(p.Snapshot.Time)+p.Snapshot.Duration)
		}
	}
	merged.Timeline = sumTimelines(parts)
	merged.Info = mergeInfo(parts)
	if len(parts) == 1 {
		merged.PeakTime = parts[0].Snapshot.PeakTime
	}
	if err := merged.Check(); err != nil {
		return nil, fmt.Errorf("merge snapshots: %w", err)
	}
	return merged, nil
}

// mergeInfo joins what is known of the parts.
func mergeInfo(parts []Part) []KeyValue {
	if len(parts) == 1 {
		return slices.Clone(parts[0].Snapshot.Info)
	}
	var processes []string
	for _, p := range parts {
		if p.Process != "" {
			processes = append(processes, p.Process)
		}
	}
	info := []KeyValue{{InfoProcesses, strings.Join(processes, "; ")}}
	if len(processes) == 0 {
		info = nil
	}
	seen := map[KeyValue]int{} // in how many parts
	amounts := map[string]amount{}
	for _, p := range parts {
		for _, kv := range distinct(p.Snapshot.Info) {
			seen[kv]++
			amounts[kv.Key] = amounts[kv.Key].plus(kv.Value)
		}
	}
	for _, p := range parts {
		for _, kv := range distinct(p.Snapshot.Info) {
			switch n := seen[kv]; {
			case kv.Key == InfoPid: // Process says it
			case amounts[kv.Key].of == len(parts):
				info = append(info, KeyValue{kv.Key, strconv.FormatUint(amounts[kv.Key].bytes, 10) + amountUnit})
				amounts[kv.Key] = amount{of: -1}
			case amounts[kv.Key].of < 0: // is in the sum
			case n == len(parts):
				info = append(info, kv)
				seen[kv] = -1
			case n > 0:
				if p.Process != "" {
					kv.Value = p.Process + commentSeparator + kv.Value
				}
				info = append(info, kv)
			}
		}
	}
	if slices.ContainsFunc(parts, func(p Part) bool { return p.Snapshot.SampleBytes != parts[0].Snapshot.SampleBytes }) {
		var rates []string
		for _, p := range parts {
			rate := "every block counted"
			if n := p.Snapshot.SampleBytes; n != 0 {
				rate = "a sample every " + formatSize(int64(n)) + " bytes"
			}
			rates = append(rates, p.Process+commentSeparator+rate)
		}
		info = append(info, KeyValue{"sampled differently", strings.Join(rates, "; ")})
	}
	if slices.ContainsFunc(parts, func(p Part) bool { return p.Snapshot.Total()[PeakBytes] > 0 }) {
		info = append(info, KeyValue{"peak", "what each process had at its own, which were at different times"})
	}
	return info
}

// amountUnit follows the number in facts that are an amount of memory ("rss: 1234 bytes"). These are added up.
const amountUnit = " bytes"

// amount is a sum over parts.
type amount struct {
	bytes uint64
	of    int // in how many parts it is such an amount, once in each; negative once it was told
	not   bool
}

func (a amount) plus(value string) amount {
	n, err := strconv.ParseUint(strings.TrimSuffix(value, amountUnit), 10, 64)
	if err != nil || !strings.HasSuffix(value, amountUnit) || a.not || n > math.MaxInt64-a.bytes {
		return amount{not: true}
	}
	return amount{bytes: a.bytes + n, of: a.of + 1}
}

func distinct(info []KeyValue) []KeyValue {
	var list []KeyValue
	for _, kv := range info {
		if !slices.Contains(list, kv) {
			list = append(list, kv)
		}
	}
	return list
}

// mergedPoints is how many points a sum of timelines has at most.
const mergedPoints = 4096

// sumTimelines adds timelines. Each process counts from its first point on, with what it had last.
func sumTimelines(parts []Part) []Point {
	type step struct {
		Point
		part int
	}
	var steps []step
	for i, p := range parts {
		for _, at := range p.Snapshot.Timeline {
			steps = append(steps, step{at, i})
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return a.Time.Compare(b.Time) })
	last := make([]Point, len(parts))
	for i := range last {
		last[i] = Point{Tracked: Unmeasured, RSS: Unmeasured}
	}
	sum := Point{Tracked: Unmeasured, RSS: Unmeasured}
	change := func(total *uint64, before *uint64, now uint64) {
		if now == Unmeasured {
			return
		}
		was := *before
		if was == Unmeasured {
			was = 0
		}
		if *total == Unmeasured {
			*total = 0
		}
		*total = min(*total-was+now, Unmeasured-1)
		*before = now
	}
	var points []Point
	for _, s := range steps {
		change(&sum.Tracked, &last[s.part].Tracked, s.Tracked)
		change(&sum.RSS, &last[s.part].RSS, s.RSS)
		sum.Time = s.Time
		if n := len(points); n > 0 && points[n-1].Time.Equal(s.Time) {
			points[n-1] = sum
			continue
		}
		points = append(points, sum)
	}
	return thin(points, mergedPoints)
}

// thin leaves at most n points: of neighbours the one with the most tracked memory, so that no peak is lost.
func thin(points []Point, n int) []Point {
	if len(points) <= n {
		return points
	}
	var kept []Point
	for i := range n {
		part := points[i*len(points)/n : (i+1)*len(points)/n]
		kept = append(kept, slices.MaxFunc(part, func(a, b Point) int {
			return cmp.Compare(a.Tracked+1, b.Tracked+1) // Unmeasured is the least
		}))
	}
	return kept
}

// ProcessName takes a Record's Process apart: the number of the process, 0 where it has none, and what people call it.
func ProcessName(process string) (pid int64, name string) {
	number, name, _ := strings.Cut(process, " ")
	pid, err := strconv.ParseInt(number, 10, 64)
	if err != nil || pid <= 0 {
		return 0, process
	}
	return pid, name
}

// processOf is the label of the process of a snapshot of one, as far as its Info tells.
func (s *Snapshot) processOf() string {
	command := s.fact(InfoCommand)
	pid, ok := s.Pid()
	if !ok {
		return command
	}
	return strings.TrimSuffix(fmt.Sprintf("%d %s", pid, command), " ")
}

// HasProcesses tells whether the snapshot is one of several processes, which can be told apart.
func (s *Snapshot) HasProcesses() bool {
	return slices.ContainsFunc(s.Records, func(r Record) bool { return r.Process != 0 })
}

// UnderProcesses is the snapshot with each stack called by its process, whose Process label is the function of the
// outermost frame: so reports of calls tell processes apart. Where there is only one process, it is s itself.
func (s *Snapshot) UnderProcesses() *Snapshot {
	if !s.HasProcesses() {
		return s
	}
	split := *s
	split.Strings, split.Frames, split.Stacks = nil, nil, nil
	b := NewBuilder(&split)
	split.Strings = s.Strings // their indices stay
	frames := make([]int32, len(s.Frames))
	for i, f := range s.Frames {
		frames[i] = b.Frame(f)
	}
	roots := map[int32]int32{}
	type place struct{ process, stack int32 }
	nodes := map[place]int32{} // of split, one for each process that comes to a node of s
	under := func(p place) int32 {
		// Down from the nearest caller that is there already: recursion could go deep.
		var path []int32
		at := p
		for at.stack != None {
			if _, known := nodes[at]; known {
				break
			}
			path = append(path, at.stack)
			at.stack = s.Stacks[at.stack].Parent
		}
		node, known := nodes[at]
		if !known {
			if node, known = roots[p.process]; !known {
				node = None
				if p.process != 0 {
					node = b.Push(None, b.Frame(Frame{Func: s.Text(p.process)}))
				}
				roots[p.process] = node
			}
		}
		for _, stack := range slices.Backward(path) {
			node = b.Push(node, frames[s.Stacks[stack].Frame])
			nodes[place{p.process, stack}] = node
		}
		return node
	}
	split.Records = slices.Clone(s.Records)
	for i := range split.Records {
		r := &split.Records[i]
		r.Stack = under(place{r.Process, r.Stack})
	}
	return &split
}
