package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/profiler"
)

// What a watch tells of its events: lines on stderr, or with --json lines of JSON on stdout instead.

// watchEvent begins the JSON of each event.
type watchEvent struct {
	Event string    `json:"event"`
	Time  time.Time `json:"time"`
	Pid   int       `json:"pid"`
}

type seenValue struct {
	Time       time.Time `json:"time"`
	LiveBlocks uint64    `json:"live_blocks"`
	LiveBytes  uint64    `json:"live_bytes"`
	PeakBytes  uint64    `json:"peak_bytes"`
	RSSBytes   uint64    `json:"rss_bytes"`
}

func (s *seen) json() seenValue { return seenValue{s.at, s.Blocks, s.Tracked, s.Peak, s.RSS} }

func (s *seen) text() string {
	return fmt.Sprintf("%s live in %s, peak %s, RSS %s", sizeText(s.Tracked), plural(s.Blocks, "block", "blocks"),
		sizeText(s.Peak), sizeText(s.RSS))
}

type reasonValue struct {
	Trigger   profiler.TriggerKind `json:"trigger"`
	Text      string               `json:"text"`
	Bytes     uint64               `json:"bytes"`
	FromBytes uint64               `json:"from_bytes"`
	SpanNS    int64                `json:"span_ns"`
}

func reasonsJSON(reasons []profiler.Reason) []reasonValue {
	values := make([]reasonValue, len(reasons))
	for i, r := range reasons {
		values[i] = reasonValue{r.Trigger, reasonText(r), r.Bytes, r.From, int64(r.Span)}
	}
	return values
}

func reasonText(r profiler.Reason) string {
	switch r.Trigger {
	case profiler.Every:
		return "every " + heap.FormatAge(int64(r.Span/time.Second))
	case profiler.TrackedPeak:
		return fmt.Sprintf("peak of %s, %s before", sizeText(r.Bytes), sizeText(r.From))
	case profiler.RSSPeak:
		return fmt.Sprintf("RSS peak of %s, %s before", sizeText(r.Bytes), sizeText(r.From))
	case profiler.RSSAbove:
		return fmt.Sprintf("RSS of %s above %s", sizeText(r.Bytes), sizeText(r.From))
	case profiler.Grown:
		return fmt.Sprintf("grown by %s in %s to %s", sizeText(r.Bytes-r.From), durationText(r.Span), sizeText(r.Bytes))
	}
	return string(r.Trigger)
}

func reasonsText(reasons []profiler.Reason) string {
	texts := make([]string, len(reasons))
	for i, r := range reasons {
		texts[i] = reasonText(r)
	}
	return strings.Join(texts, "; ")
}

// emit writes a line of JSON.
func (w *watch) emit(v any) error {
	enc := json.NewEncoder(w.Stdout)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return &outputError{"standard output", err}
	}
	return nil
}

func (w *watch) event(name string) watchEvent { return watchEvent{name, w.Now(), w.pid} }

// say writes a line that begins with the time.
func (w *watch) say(format string, args ...any) {
	w.talk(w.Now().Format(time.TimeOnly)+"  ", w.stderrStyle().dim, fmt.Sprintf(format, args...))
}

func (w *watch) tellBegin() error {
	if w.json {
		return w.emit(struct {
			watchEvent
			Last seenValue `json:"last"`
		}{w.event("begin"), w.last.json()})
	}
	w.say("watching process %d: %s", w.pid, w.last.text())
	return nil
}

func (w *watch) tellDump(
	reasons []profiler.Reason, path string, size int64, d *profiler.Dump, removed []string,
) error {
	if w.json {
		return w.emit(struct {
			Event string `json:"event"`
			dumpValue
			Reasons []reasonValue `json:"reasons"`
			Removed []string      `json:"removed"`
		}{"dump", dumpJSON(w.pid, path, size, d), reasonsJSON(reasons), list(removed)})
	}
	pause := "not paused"
	if !w.noPause {
		pause = "paused for " + durationText(d.Pause)
	}
	w.say("%s: wrote %s (%s), %s live, %s", reasonsText(reasons), path, sizeText(uint64(size)),
		sizeText(uint64(d.Snapshot.Total()[heap.InuseBytes])), pause)
	for _, name := range removed {
		w.say("removed %s", name)
	}
	w.notes(d.Notes)
	w.noteUndecided(d.Snapshot)
	return nil
}

// tellFailure tells of a snapshot that could not be taken or written.
func (w *watch) tellFailure(reasons []profiler.Reason, err error, again bool) error {
	if w.json {
		return w.emit(struct {
			watchEvent
			Reasons []reasonValue `json:"reasons"`
			Error   string        `json:"error"`
			Again   bool          `json:"again"`
		}{w.event("failed"), reasonsJSON(reasons), err.Error(), again})
	}
	then := ""
	if again {
		then = "; it will be tried again"
	}
	w.say("%s: no snapshot: %s%s", reasonsText(reasons), err, then)
	return nil
}

// tellBlind tells of a look that failed.
func (w *watch) tellBlind(err error) error {
	if w.json {
		return w.emit(struct {
			watchEvent
			Error string `json:"error"`
		}{w.event("blind"), err.Error()})
	}
	w.say("nothing to be seen: %s; looking again", err)
	return nil
}

// tellEnd tells what is known at the end of a watch, and why it ends.
func (w *watch) tellEnd(err error) error {
	if w.json {
		kept := []string{}
		for _, f := range w.files {
			kept = append(kept, f.path)
		}
		return w.emit(struct {
			watchEvent
			Error   string    `json:"error"`
			Last    seenValue `json:"last"`
			Written int       `json:"written"`
			Kept    []string  `json:"kept"`
		}{w.event("end"), err.Error(), w.last.json(), w.written, kept})
	}
	what := "end of the watch"
	if exitCode(err) == ExitNoProcess {
		what = fmt.Sprintf("process %d has ended, no more can be read of it", w.pid)
	}
	w.say("%s; last seen at %s: %s", what, w.last.at.Format(time.TimeOnly), w.last.text())
	written := "no snapshot written"
	if w.written > 0 {
		written = plural(uint64(w.written), "snapshot", "snapshots") + " written"
	}
	if n := len(w.files); n < w.written {
		written += fmt.Sprintf(", the newest %d kept", n)
	}
	w.say("%s", written)
	return nil
}
