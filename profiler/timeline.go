package profiler

import (
	"slices"
	"time"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/heap"
)

// noteResident adds to the tables how much of the process is in memory now, so that every later dump can tell how it
// was at each time that somebody looked. It returns that number.
func (t *target) noteResident(a *placed) (uint64, error) {
	status, err := t.proc.Status(t.proc.Pid)
	if err != nil {
		return 0, err
	}
	epoch, err := epochAt(a.header, time.Now())
	if err != nil || epoch < 0 || a.header.Config.Clock == 0 {
		return status.VmRSS, err
	}
	return status.VmRSS, agent.AddResident(t.mem, a.tablesAt(), a.header, agent.Epoch(uint64(epoch)), status.VmRSS)
}

// timeline joins what the agent noted of tracked bytes with what tracers noted of resident ones. Points of one second
// are one. taken is when now, the clock's second, was.
func timeline(c *agent.Capture, taken time.Time, now int64) []heap.Point {
	if c.Header.Config.Clock == 0 {
		return nil
	}
	at := map[uint32]heap.Point{}
	point := func(epoch uint32) heap.Point {
		if p, ok := at[epoch]; ok {
			return p
		}
		return heap.Point{Time: momentOf(epoch, taken, now), Tracked: heap.Unmeasured, RSS: heap.Unmeasured}
	}
	shift := sampleShift(&c.Header)
	for _, p := range c.Timeline() {
		is := point(p.Epoch)
		is.Tracked = p.Bytes >> shift
		at[p.Epoch] = is
	}
	for _, p := range c.Resident() {
		is := point(p.Epoch)
		is.RSS = p.Bytes
		at[p.Epoch] = is
	}
	points := make([]heap.Point, 0, len(at))
	for _, p := range at {
		points = append(points, p)
	}
	slices.SortFunc(points, func(a, b heap.Point) int { return a.Time.Compare(b.Time) })
	return points
}

// momentOf is when the age clock began to show an epoch.
func momentOf(epoch uint32, taken time.Time, now int64) time.Time {
	ago := now - int64(agent.Seconds(epoch))
	return taken.Add(-time.Duration(ago) * time.Second).Truncate(time.Millisecond)
}

// sampleShift is the number of fraction bits of the tables' counters.
func sampleShift(h *agent.Tables) int {
	if h.Config.SampleBytes != 0 {
		return agent.ScaleBits
	}
	return 0
}
