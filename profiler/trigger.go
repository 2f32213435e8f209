package profiler

import (
	"errors"
	"time"
)

// Triggers decide from what looks at a process see when to take a dump. They know no process and no clock: all comes
// in by [Triggers.Observe]. Make them with [NewTriggers].
type Triggers struct {
	o TriggerOptions

	began    bool
	due      time.Time // of Every
	tracked  uint64    // the highest Peak that was dumped, or seen first
	rss      uint64    // the highest RSS, likewise
	disarmed bool      // RSSAbove has fired and RSS has not fallen far enough since
	least    []low     // of Growth's window: each lower than all that came later; the first is its minimum

	asked   []Reason // why the last dump was asked for
	pending []Reason // of a dump that failed
	failed  int      // in a row
	retry   time.Time
}

// TriggerOptions say when a dump is to be taken. Several triggers work side by side; at least one is needed.
type TriggerOptions struct {
	Every    time.Duration // at once, and then on a schedule that does not drift; 0: not
	AtPeak   bool          // when tracked bytes or RSS are a tenth, and 1 MiB, above the last such peak
	RSSAbove uint64        // bytes: when RSS comes to be above; again after it was 5 % below; 0: not
	Growth   Growth
}

// Growth is so many more tracked bytes within some time. The zero value is none.
type Growth struct {
	Bytes  uint64
	Within time.Duration
}

// Reason is a trigger that fired.
type Reason struct {
	Trigger TriggerKind
	// TrackedPeak, RSSPeak: the new peak and the one before it, bytes. RSSAbove: RSS and the limit. Grown: the bytes now
	// and those it grew from.
	Bytes, From uint64
	// Every: the schedule's interval. Grown: in what time it grew.
	Span time.Duration
}

// TriggerKind names a trigger, in JSON and in snapshots.
type TriggerKind string

// The kinds of triggers; a peak may be one of tracked bytes or of RSS.
const (
	Every       TriggerKind = "every"
	TrackedPeak TriggerKind = "peak"
	RSSPeak     TriggerKind = "rss-peak"
	RSSAbove    TriggerKind = "rss-above"
	Grown       TriggerKind = "growth"
)

// InfoTrigger is the key under which a snapshot's Info says what triggered it.
const InfoTrigger = "trigger"

const (
	leastPeakStep = 1 << 20 // bytes: below this a new peak is the noise of a small process
	// A dump that failed is asked for again: soon, since mostly another tracer is at the process for a moment, then
	// after twice that time, up to the most, since a full disk stays so.
	retryAfter = time.Second
	retryMost  = 64 * retryAfter
)

// low is a moment at which few bytes were live.
type low struct {
	at      time.Time
	tracked uint64
}

// NewTriggers makes triggers that have seen nothing yet.
func NewTriggers(o TriggerOptions) (*Triggers, error) {
	switch {
	case o.Every < 0 || o.Growth.Within < 0:
		return nil, errors.New("triggers: a time below zero")
	case (o.Growth.Bytes == 0) != (o.Growth.Within == 0):
		return nil, errors.New("triggers: growth takes both bytes and a time")
	case o == TriggerOptions{}:
		return nil, errors.New("triggers: none is set")
	}
	return &Triggers{o: o}, nil
}

// Due is when the next observation matters whatever is seen, by the schedule or to try again what failed; zero where
// there is no such time.
func (t *Triggers) Due() time.Time {
	if len(t.pending) > 0 && (t.due.IsZero() || t.retry.Before(t.due)) {
		return t.retry
	}
	return t.due
}

// Observe returns why a dump is to be taken now; nothing where none is. Where that dump fails, [Triggers.Failed] must
// be told; else it counts as taken.
func (t *Triggers) Observe(at time.Time, o Observation) []Reason {
	if !t.began {
		t.begin(at, o)
	}
	if len(t.asked) > 0 && len(t.pending) == 0 {
		t.failed = 0
	}
	reasons := t.every(nil, at)
	reasons = t.peaks(reasons, o)
	reasons = t.rssAbove(reasons, o)
	reasons = t.growth(reasons, at, o)
	if len(t.pending) > 0 && (len(reasons) > 0 || !at.Before(t.retry)) {
		reasons = merge(t.pending, reasons)
		t.pending = nil
	}
	t.asked = reasons
	return reasons
}

// Failed says that the dump that the last Observe asked for could not be taken. It is asked for again: a second later,
// then after two, and so on up to about a minute; or with the next that a trigger asks for.
func (t *Triggers) Failed(at time.Time) {
	t.pending, t.retry = t.asked, at.Add(min(retryAfter<<min(t.failed, 10), retryMost))
	t.failed++
}

// merge is old, with each reason of the same trigger replaced by its new one.
func merge(old, new []Reason) []Reason {
	fresh := map[TriggerKind]bool{}
	for _, r := range new {
		fresh[r.Trigger] = true
	}
	var all []Reason
	for _, r := range old {
		if !fresh[r.Trigger] {
			all = append(all, r)
		}
	}
	return append(all, new...)
}

// begin takes the state at the first look for what is not news. The schedule begins there.
func (t *Triggers) begin(at time.Time, o Observation) {
	t.began = true
	t.tracked, t.rss = o.peak(), o.RSS
	if t.o.Every > 0 {
		t.due = at
	}
}

// peak takes into account that the two numbers are not read at the same instant.
func (o Observation) peak() uint64 { return max(o.Peak, o.Tracked) }

// every leaves out the times of the schedule that have passed without a look.
func (t *Triggers) every(reasons []Reason, at time.Time) []Reason {
	if t.o.Every == 0 || at.Before(t.due) {
		return reasons
	}
	t.due = t.due.Add((at.Sub(t.due)/t.o.Every + 1) * t.o.Every)
	return append(reasons, Reason{Trigger: Every, Span: t.o.Every})
}

func (t *Triggers) peaks(reasons []Reason, o Observation) []Reason {
	if !t.o.AtPeak {
		return reasons
	}
	if peak := o.peak(); newPeak(peak, t.tracked) {
		reasons = append(reasons, Reason{Trigger: TrackedPeak, Bytes: peak, From: t.tracked})
		t.tracked = peak
	}
	if newPeak(o.RSS, t.rss) {
		if t.rss != 0 { // else it was not known till now
			reasons = append(reasons, Reason{Trigger: RSSPeak, Bytes: o.RSS, From: t.rss})
		}
		t.rss = o.RSS
	}
	return reasons
}

func newPeak(bytes, last uint64) bool {
	return bytes > last && bytes-last >= max(last/10, leastPeakStep)
}

func (t *Triggers) rssAbove(reasons []Reason, o Observation) []Reason {
	limit := t.o.RSSAbove
	switch {
	case limit == 0 || o.RSS == 0:
	case !t.disarmed && o.RSS > limit:
		t.disarmed = true
		reasons = append(reasons, Reason{Trigger: RSSAbove, Bytes: o.RSS, From: limit})
	case t.disarmed && o.RSS < limit-limit/20:
		t.disarmed = false
	}
	return reasons
}

// growth compares with the least of the window. When it has fired, the window begins anew, so that what goes on to
// grow fires again when it has grown as much again.
func (t *Triggers) growth(reasons []Reason, at time.Time, o Observation) []Reason {
	g := t.o.Growth
	if g.Bytes == 0 {
		return reasons
	}
	for len(t.least) > 0 && at.Sub(t.least[0].at) > g.Within {
		t.least = t.least[1:]
	}
	if len(t.least) > 0 {
		if from := t.least[0]; o.Tracked > from.tracked && o.Tracked-from.tracked >= g.Bytes {
			t.least = nil
			reasons = append(reasons,
				Reason{Trigger: Grown, Bytes: o.Tracked, From: from.tracked, Span: at.Sub(from.at)})
		}
	}
	for n := len(t.least); n > 0 && t.least[n-1].tracked >= o.Tracked; n-- {
		t.least = t.least[:n-1]
	}
	t.least = append(t.least, low{at, o.Tracked})
	return reasons
}
