package profiler

import (
	"slices"
	"testing"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/internal/pytarget"
)

const tides = `
def tide(first, blocks):
    out = []
    for i in range(blocks):
        out.append(bytes(first + i))
    return out

def low_tide(): return tide(1000, 200)

def high_tide():
    out = []
    for i in range(500):
        out.append(bytes(2000 + i))
    return out

def ripples():
    for i in range(700):
        bytes(5000)
`

// of sums a metric over the records whose innermost frame is in a function.
func of(s *heap.Snapshot, function string, m heap.Metric) (sum int64) {
	for i := range s.Records {
		r := &s.Records[i]
		if r.Stack != heap.None && s.Frames[s.Stacks[r.Stack].Frame].Func == function {
			sum += r.Values()[m]
		}
	}
	return sum
}

// What stood where at the peak is known although it has gone since, by function; what is freed at once is counted.
func TestPeak(t *testing.T) {
	for _, in := range chosen(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, "", pytarget.Options{})
			tg.ExecFile("tides.py", tides)
			if _, err := Attach(t.Context(), tg.Pid(), AttachOptions{Temporary: 1}); err != nil {
				t.Fatal(err)
			}
			tg.Exec("kept = low_tide(); high_tide(); None")
			before := mustDump(t, tg.Pid()).Snapshot
			tg.Exec("later = low_tide(); ripples()")
			d := mustDump(t, tg.Pid())
			s := d.Snapshot

			// The objects and the items of the list; and, where they are not old ones used again, the list and two numbers.
			blocks, bytes := of(s, "high_tide", heap.PeakBlocks), of(s, "high_tide", heap.PeakBytes)
			if least := int64(500*(2000+2499)/2 + 500*33); blocks < 501 || blocks > 504 || bytes < least || bytes > least+8000 {
				t.Errorf("%d blocks of %d bytes of high_tide stood at the peak, want 504 and little over %d", blocks, bytes, least)
			}
			if have := of(s, "high_tide", heap.InuseBlocks); have != 0 {
				t.Errorf("%d blocks of high_tide are live", have)
			}
			if have, at := s.Total()[heap.PeakBytes], before.Total()[heap.PeakBytes]; have != at {
				t.Errorf("the peak was %d bytes and is %d, though nothing rose above it", at, have)
			}
			if live := s.Total(); live[heap.InuseBytes] >= live[heap.PeakBytes] || live[heap.PeakBytes] < 500*2250 {
				t.Errorf("%d bytes live, peak %d", live[heap.InuseBytes], live[heap.PeakBytes])
			}
			if have := of(s, "ripples", heap.TempBlocks); have < 700 || have > 710 {
				t.Errorf("%d temporary blocks in ripples, want 700 and little more", have)
			}
			if s.PeakTime.Before(s.Time.Add(-s.Duration-2e9)) || s.PeakTime.After(s.Time) {
				t.Errorf("peak at %v, tracking for %v until %v", s.PeakTime, s.Duration, s.Time)
			}
			checkTimeline(t, s)
			tg.Challenge()
			mustDetach(t, tg.Pid())
		})
	}
}

func checkTimeline(t *testing.T, s *heap.Snapshot) {
	t.Helper()
	if !slices.IsSortedFunc(s.Timeline, func(a, b heap.Point) int { return a.Time.Compare(b.Time) }) {
		t.Errorf("timeline is not in order: %v", s.Timeline)
	}
	tracked, resident := 0, 0
	for _, p := range s.Timeline {
		if p.Tracked != heap.Unmeasured {
			tracked++
		}
		if p.RSS != heap.Unmeasured {
			resident++
			if p.RSS < 1<<20 || p.RSS > 1<<32 {
				t.Errorf("resident set of %d bytes", p.RSS)
			}
		}
	}
	if tracked == 0 || resident == 0 {
		t.Errorf("timeline has %d points of tracked memory and %d of the resident set", tracked, resident)
	}
}
