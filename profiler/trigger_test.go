package profiler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heaptap/heaptap/internal/pytarget"
)

// look is one line of a made-up series: at a second, so many MiB tracked and resident, and what is to fire then. peak is
// the highest that tracked was since the look before, where that is above both.
type look struct {
	at, tracked, rss, peak float64
	want                   string
}

const mib = 1 << 20

func (l look) observation() Observation {
	bytes := func(v float64) uint64 { return uint64(v * mib) }
	return Observation{Tracked: bytes(l.tracked), RSS: bytes(l.rss), Peak: bytes(max(l.peak, l.tracked))}
}

func second(v float64) time.Time {
	return time.Date(2026, 11, 24, 1, 0, 0, 0, time.UTC).Add(time.Duration(v * float64(time.Second)))
}

// fired writes reasons as "peak 10→12", in MiB, and spans.
func fired(reasons []Reason) string {
	var all []string
	for _, r := range reasons {
		s := string(r.Trigger)
		if r.Bytes != 0 {
			s += fmt.Sprintf(" %v→%v", float64(r.From)/mib, float64(r.Bytes)/mib)
		}
		if r.Span != 0 {
			s += " " + r.Span.String()
		}
		all = append(all, s)
	}
	return strings.Join(all, ", ")
}

func newTriggers(t *testing.T, o TriggerOptions) *Triggers {
	t.Helper()
	triggers, err := NewTriggers(o)
	if err != nil {
		t.Fatal(err)
	}
	return triggers
}

func TestTriggers(t *testing.T) {
	for name, test := range map[string]struct {
		o      TriggerOptions
		series []look
	}{
		"every: at once, then on schedule, whenever the looks are": {TriggerOptions{Every: 30 * time.Second}, []look{
			{at: 0.2, want: "every 30s"}, {at: 1}, {at: 30.1}, {at: 30.2, want: "every 30s"},
			{at: 61.7, want: "every 30s"}, // late; the next is not
			{at: 90.1}, {at: 90.2, want: "every 30s"},
			{at: 200, want: "every 30s"}, // three were missed: one dump, and on with the schedule
			{at: 210.1}, {at: 210.3, want: "every 30s"},
		}},
		"peak: a tenth above the last one": {TriggerOptions{AtPeak: true}, []look{
			{at: 0, tracked: 100, rss: 300}, {at: 1, tracked: 109.9, rss: 300},
			{at: 2, tracked: 110, rss: 300, want: "peak 100→110"},
			{at: 3, tracked: 50, rss: 300}, {at: 4, tracked: 120, rss: 300},
			{at: 5, tracked: 60, peak: 121, rss: 300, want: "peak 110→121"}, // between looks, and gone again
			{at: 6, tracked: 60, peak: 121, rss: 300},
		}},
		"peak: of RSS alone, of both at once": {TriggerOptions{AtPeak: true}, []look{
			{at: 0, tracked: 100, rss: 300}, {at: 1, tracked: 100, rss: 330, want: "rss-peak 300→330"},
			{at: 2, tracked: 100, rss: 200}, {at: 3, tracked: 100, rss: 340},
			{at: 4, tracked: 200, rss: 400, want: "peak 100→200, rss-peak 330→400"},
		}},
		"peak: a small process has to grow by a MiB": {TriggerOptions{AtPeak: true}, []look{
			{at: 0, tracked: 0.1, rss: 8}, {at: 1, tracked: 0.9, rss: 8.9},
			{at: 2, tracked: 1.2, rss: 8.9, want: "peak 0.09999942779541016→1.1999998092651367"},
		}},
		"peak: RSS that becomes known is no news": {TriggerOptions{AtPeak: true}, []look{
			{at: 0, tracked: 100}, {at: 1, tracked: 100, rss: 300}, {at: 2, tracked: 100, rss: 360, want: "rss-peak 300→360"},
			{at: 3, tracked: 100}, {at: 4, tracked: 100, rss: 380},
		}},
		"rss: once for each crossing": {TriggerOptions{RSSAbove: 200 * mib}, []look{
			{at: 0, rss: 150}, {at: 1, rss: 200}, {at: 2, rss: 201, want: "rss-above 200→201"}, {at: 3, rss: 500},
			{at: 4, rss: 195}, {at: 5, rss: 205}, // not 5 % below meanwhile
			{at: 6}, {at: 7, rss: 210}, // not known is not below
			{at: 8, rss: 189}, {at: 9, rss: 201, want: "rss-above 200→201"},
		}},
		"rss: already above": {TriggerOptions{RSSAbove: 200 * mib}, []look{
			{at: 0, rss: 300, want: "rss-above 200→300"}, {at: 1, rss: 300},
		}},
		"growth: against the least of the window": {TriggerOptions{Growth: Growth{100 * mib, time.Minute}}, []look{
			{at: 0, tracked: 500}, {at: 10, tracked: 400}, {at: 20, tracked: 450}, {at: 40, tracked: 499},
			{at: 70, tracked: 500, want: "growth 400→500 1m0s"},
			{at: 71, tracked: 550}, {at: 80, tracked: 600, want: "growth 500→600 10s"}, // and on
			{at: 81, tracked: 650},
		}},
		"growth: too slow": {TriggerOptions{Growth: Growth{100 * mib, time.Minute}}, []look{
			{at: 0, tracked: 400}, {at: 30, tracked: 449}, {at: 60.1, tracked: 500}, {at: 91, tracked: 548},
			{at: 121, tracked: 599}, {at: 122, tracked: 648, want: "growth 548→648 31s"},
		}},
		"growth: one look in a window": {TriggerOptions{Growth: Growth{100 * mib, time.Minute}}, []look{
			{at: 0, tracked: 400}, {at: 600, tracked: 900}, {at: 1200, tracked: 1400},
		}},
		"several together": {
			TriggerOptions{Every: 10 * time.Second, AtPeak: true, RSSAbove: 250 * mib, Growth: Growth{50 * mib, time.Minute}},
			[]look{
				{at: 0, tracked: 100, rss: 200, want: "every 10s"},
				{at: 10, tracked: 160, rss: 260, want: "every 10s, peak 100→160, rss-peak 200→260, rss-above 250→260, growth 100→160 10s"},
				{at: 11, tracked: 160, rss: 260},
			}},
	} {
		t.Run(name, func(t *testing.T) {
			triggers := newTriggers(t, test.o)
			for _, l := range test.series {
				if got := fired(triggers.Observe(second(l.at), l.observation())); got != l.want {
					t.Errorf("at %v s: %q, want %q", l.at, got, l.want)
				}
			}
		})
	}
}

// A dump that failed is asked for again, with its reasons, later or with the next; and not once it was taken.
func TestTriggersFailed(t *testing.T) {
	triggers := newTriggers(t, TriggerOptions{Every: time.Minute, RSSAbove: 200 * mib})
	for _, l := range []struct {
		look
		fails bool
		due   float64
	}{
		{look{at: 0, rss: 100, want: "every 1m0s"}, false, 60},
		{look{at: 10, rss: 201, want: "rss-above 200→201"}, true, 11},
		{look{at: 10.9, rss: 201}, false, 11},
		{look{at: 11, rss: 100, want: "rss-above 200→201"}, true, 13}, // fails again; RSS may be what it likes
		{look{at: 13, rss: 100, want: "rss-above 200→201"}, true, 17},
		{look{at: 57, rss: 100, want: "rss-above 200→201"}, true, 60}, // after 8 s; the schedule is first
		{look{at: 60, rss: 210, want: "every 1m0s, rss-above 200→210"}, true, 76},
		{look{at: 76, rss: 210, want: "every 1m0s, rss-above 200→210"}, false, 120},
		{look{at: 119, rss: 210}, false, 120},
		{look{at: 120, rss: 210, want: "every 1m0s"}, true, 121}, // soon again, after one that was taken
		{look{at: 180, rss: 210, want: "every 1m0s"}, false, 240},
	} {
		if got := fired(triggers.Observe(second(l.at), l.observation())); got != l.want {
			t.Errorf("at %v s: %q, want %q", l.at, got, l.want)
		}
		if l.fails {
			triggers.Failed(second(l.at))
		}
		if due := triggers.Due(); !due.Equal(second(l.due)) {
			t.Errorf("at %v s: due at %v, want %v", l.at, due, second(l.due))
		}
	}
}

func TestTriggersRefused(t *testing.T) {
	for _, o := range []TriggerOptions{
		{}, {Every: -1}, {Growth: Growth{Bytes: 1}}, {Growth: Growth{Within: 1}}, {Growth: Growth{1, -1}},
	} {
		if _, err := NewTriggers(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

// The window's minimum is that of all looks in it since the last firing, on random series.
func TestGrowthRandomly(t *testing.T) {
	rnd := newRand(t)
	for range 200 {
		growth := Growth{uint64(1 + rnd.IntN(30)), time.Duration(1+rnd.IntN(20)) * time.Second}
		triggers := newTriggers(t, TriggerOptions{Growth: growth})
		var window []low
		at := second(0)
		for i := range 200 {
			at = at.Add(time.Duration(rnd.IntN(3)) * time.Second)
			now := low{at, uint64(rnd.IntN(60))}
			window = slices.DeleteFunc(window, func(l low) bool { return at.Sub(l.at) > growth.Within })
			want := slices.ContainsFunc(window, func(l low) bool { return now.tracked >= l.tracked+growth.Bytes })
			if want {
				window = nil
			}
			window = append(window, now)
			if got := triggers.Observe(at, Observation{Tracked: now.tracked}); (len(got) == 1) != want {
				t.Fatalf("look %d, %+v: %v, want %v", i, growth, got, want)
			}
		}
	}
}

// Triggers over a real process, in made-up time: what it does between two looks is what they see.
func TestTriggersLive(t *testing.T) {
	tg := pytarget.Start(t, debian(t), "kept = []", pytarget.Options{})
	mustAttach(t, tg.Pid())
	triggers := newTriggers(t, TriggerOptions{
		Every: time.Hour, AtPeak: true, Growth: Growth{50 * mib, time.Minute},
	})
	var last *Observation
	observe := func(at float64) []TriggerKind {
		t.Helper()
		var err error
		if last, err = Observe(t.Context(), tg.Pid()); err != nil {
			t.Fatal(err)
		}
		kinds := []TriggerKind{}
		for _, r := range triggers.Observe(second(at), *last) {
			kinds = append(kinds, r.Trigger)
		}
		return kinds
	}
	for _, step := range []struct {
		at     float64
		do     string
		want   []TriggerKind
		least  uint64 // live, MiB
		within uint64 // MiB of that
	}{
		{0, "None", []TriggerKind{Every}, 0, 1},
		{1, "kept.append(bytearray(60 << 20))", []TriggerKind{TrackedPeak, RSSPeak, Grown}, 60, 1},
		{2, "kept.append(bytearray(1 << 20))", []TriggerKind{}, 61, 1},
		{3, "kept.clear()", []TriggerKind{}, 0, 1},
		{4, "bytearray(200 << 20) and None", []TriggerKind{TrackedPeak}, 0, 1}, // came and went
		{5, "kept.append(bytearray(45 << 20))", []TriggerKind{}, 45, 1},
		{70, "kept.append(bytearray(45 << 20))", []TriggerKind{RSSPeak}, 90, 1}, // too slow for growth
	} {
		tg.Exec(step.do)
		if got := observe(step.at); !slices.Equal(got, step.want) {
			t.Errorf("after %s: %v, want %v", step.do, got, step.want)
		}
		if last.Tracked < step.least*mib || last.Tracked > (step.least+step.within)*mib || last.RSS == 0 {
			t.Errorf("after %s: %+v, want %d MiB", step.do, last, step.least)
		}
	}

	agreeWithStatus(t, tg.Pid())
	mustDetach(t, tg.Pid())
	if _, err := Observe(t.Context(), tg.Pid()); !is(ErrNotTracked)(err) {
		t.Errorf("after detach: %v, want %v", err, ErrNotTracked)
	}
}

// agreeWithStatus requires that the quick look and the thorough one see the same, between two looks that do: the target
// may still be on its way from its last answer to rest.
func agreeWithStatus(t *testing.T, pid int) {
	t.Helper()
	var before, after, thorough Observation
	for range 1000 {
		first, err := Observe(t.Context(), pid)
		if err != nil {
			t.Fatal(err)
		}
		s := mustBe(t, pid, Tracking)
		second, err := Observe(t.Context(), pid)
		if err != nil {
			t.Fatal(err)
		}
		before, after = *first, *second
		thorough = Observation{Since: s.Since, Peak: s.PeakBytes, RSS: s.Resident}
		for _, d := range s.Totals {
			thorough.Tracked += d.LiveBytes
			thorough.Blocks += d.LiveBlocks
		}
		if before == after {
			break
		}
	}
	if before != after {
		t.Fatalf("the target does not come to rest: %+v, then %+v", before, after)
	}
	if thorough != before {
		t.Errorf("a look sees %+v, status %+v", before, thorough)
	}
}
