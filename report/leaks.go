package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/heaptap/heaptap/heap"
)

// DefaultSuspects is the number of suspects that a [Leaks] report that does not say shows.
const DefaultSuspects = 10

// LeakOptions say what a [Leaks] report shows.
type LeakOptions struct {
	Top     int                      // suspects to show; 0 is DefaultSuspects, negative is all
	Width   int                      // of the terminal in columns; 0 is no limit
	Lengths map[int32][]LeakedLength // of containers that a suspect keeps, by its stack; may be nil
}

// LeakedLength is how many items a container holds.
type LeakedLength struct {
	Type   string `json:"type"`
	Length int64  `json:"length"`
	Age    *int32 `json:"age_seconds"` // null where unknown
}

// Leaks writes for people what a series of snapshots tells about leaks: each suspect with its rate, how it grew, types,
// ages and stack; and what grew as well and is not accused.
func Leaks(w io.Writer, r *heap.LeakReport, o LeakOptions) error {
	out := newOutput(w, "leaks")
	n := int64(len(r.Suspects))
	out.paragraph(fmt.Sprintf("%s in %d snapshots within %v", leaksFound(n), len(r.Series), roundDuration(r.Window)), o.Width)
	top := o.Top
	if top == 0 {
		top = DefaultSuspects
	}
	for i, s := range r.Suspects {
		if top >= 0 && i >= top {
			out.printf("\n%s more, each slower than these\n", Count(n-int64(i)))
			break
		}
		writeSuspect(out, r, i+1, s, o)
	}
	writeCleared(out, r, o)
	return out.flush()
}

func leaksFound(n int64) string {
	if n == 0 {
		return "no leak found"
	}
	return Count(n) + " " + plural(n, "suspect", "suspects")
}

// indented writes a paragraph all of whose lines are indented.
func (o output) indented(text string, width int) {
	const indent = "  "
	o.printf(indent)
	if width > 0 {
		width = max(leastRoom, width-len(indent))
	}
	o.paragraph(text, width)
}

// writeSuspect writes one suspect.
func writeSuspect(out output, r *heap.LeakReport, number int, s heap.Suspect, o LeakOptions) {
	line := func(format string, args ...any) { out.indented(fmt.Sprintf(format, args...), o.Width) }
	last := len(s.Bytes) - 1
	out.printf("\n%d. %s, %s blocks a minute\n", number, signedSize(int64(s.BytesPerMinute)),
		signedCount(int64(s.BlocksPerMinute)))
	line("%s  %s in %s blocks became %s in %s", spark(s.Bytes), Size(s.Bytes[0]), Count(s.Blocks[0]), Size(s.Bytes[last]),
		Count(s.Blocks[last]))
	if text := partsText(s.Types, "type not known"); text != "" {
		line("grew: %s", text)
	}
	if text := partsText(s.Ages, "age not known"); text != "" {
		line("live by age: %s", text)
	}
	if s.SurvivorsMost > 0 {
		line("kept of what came in the first half: %s to %s", Size(s.SurvivorsLeast), Size(s.SurvivorsMost))
	}
	if list := o.Lengths[s.Stack]; len(list) > 0 {
		var texts []string
		for _, l := range list {
			texts = append(texts, fmt.Sprintf("%s of %s", Printable(l.Type), Count(l.Length)))
		}
		line("some that it keeps: %s", strings.Join(texts, ", "))
	}
	if s.Reused {
		line("Python reuses freed objects of these types: who holds them may be another place")
	}
	if s.Below {
		line("by various calls below:")
	}
	room := 0
	if o.Width > 0 {
		room = max(leastRoom, o.Width-4)
	}
	if s.Stack == heap.None {
		out.printf("    no Python code was running\n")
	}
	for _, f := range r.Series[0].Callers(s.Stack) {
		out.printf("    %s\n", FitPlace(f, room))
	}
}

// partsText lists the largest parts.
func partsText(parts []heap.LeakPart, unknown string) string {
	const most = 4
	var texts []string
	for i, p := range parts {
		if i == most {
			texts = append(texts, fmt.Sprintf("%d more", len(parts)-i))
			break
		}
		name := Printable(p.Name)
		if name == "" {
			name = unknown
		}
		texts = append(texts, fmt.Sprintf("%s %s (%s)", name, Size(p.Bytes), Count(p.Blocks)))
	}
	return strings.Join(texts, ", ")
}

// spark draws numbers as bars of eight heights, from the smallest to the largest.
func spark(numbers []int64) string {
	const bars = "▁▂▃▄▅▆▇█"
	low, high := numbers[0], numbers[0]
	for _, v := range numbers {
		low, high = min(low, v), max(high, v)
	}
	var b strings.Builder
	for _, v := range numbers {
		height := 0
		if high > low {
			height = int(float64(v-low) / float64(high-low) * 7.999)
		}
		b.WriteRune([]rune(bars)[height])
	}
	return b.String()
}

// clearedShown is how many of those that are not accused are shown.
const clearedShown = 5

func writeCleared(out output, r *heap.LeakReport, o LeakOptions) {
	if len(r.Cleared) == 0 {
		return
	}
	out.printf("\nGrew, too, but is not accused:\n")
	table := [][]string{}
	for i, c := range r.Cleared {
		if i == clearedShown {
			break
		}
		bytes, _ := c.Growth()
		table = append(table, []string{signedSize(bytes)})
	}
	numbers := alignRight(table)
	for i, text := range numbers {
		c := r.Cleared[i]
		place := "no Python code was running"
		if c.Stack != heap.None {
			room := 0
			if o.Width > 0 {
				room = max(leastRoom, o.Width-Cells(text)-2)
			}
			place = FitPlace(r.Series[0].Frames[r.Series[0].Stacks[c.Stack].Frame], room)
		}
		out.printf("%s  %s\n", text, place)
		out.indented(c.Why, o.Width)
	}
}

// LeakJSONVersion is the version of the schema of [LeaksJSON]. New fields leave it as it is; anything else raises it.
const LeakJSONVersion = 1

// LeakDocument is what [LeaksJSON] writes.
type LeakDocument struct {
	Format   string        `json:"format"` // "heaptap-leaks"
	Version  int           `json:"version"`
	Times    []time.Time   `json:"times"` // of the snapshots
	Window   float64       `json:"window_seconds"`
	Suspects []LeakSuspect `json:"suspects"` // the fastest growth in bytes first
	Cleared  []LeakCleared `json:"cleared"`  // what grew as well, and why it is not accused
	Warnings []string      `json:"warnings"`
}

// LeakSeries is a stack and how its live blocks became more.
type LeakSeries struct {
	Stack  []Place `json:"stack"` // innermost first
	Below  bool    `json:"below"` // allocated by various calls below the stack
	Bytes  []int64 `json:"bytes"` // at each of Times
	Blocks []int64 `json:"blocks"`
}

// LeakSuspect is what probably is a leak.
type LeakSuspect struct {
	LeakSeries
	BytesPerMinute  float64        `json:"bytes_per_minute"`
	BlocksPerMinute float64        `json:"blocks_per_minute"`
	Chance          float64        `json:"chance"` // that something without a trend looks like this
	SurvivorsLeast  int64          `json:"survivors_least_bytes"`
	SurvivorsMost   int64          `json:"survivors_most_bytes"`
	Reused          bool           `json:"reused"` // of types that are reused: who holds them may be another
	Types           []LeakPart     `json:"types"`
	Ages            []LeakPart     `json:"ages"`
	Lengths         []LeakedLength `json:"lengths"`
}

// LeakPart is a part of a suspect.
type LeakPart struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	Blocks int64  `json:"blocks"`
}

// LeakCleared is what grew and is not accused.
type LeakCleared struct {
	LeakSeries
	Why string `json:"why"`
}

// LeaksJSON writes all of a report as one JSON object, a [LeakDocument].
func LeaksJSON(w io.Writer, r *heap.LeakReport, o LeakOptions) error {
	doc := LeakDocument{
		Format: "heaptap-leaks", Version: LeakJSONVersion, Window: r.Window.Seconds(), Suspects: []LeakSuspect{},
		Cleared: []LeakCleared{}, Warnings: append([]string{}, r.Warnings...),
	}
	for _, s := range r.Series {
		doc.Times = append(doc.Times, s.Time)
	}
	series := func(g heap.Growing) LeakSeries {
		l := LeakSeries{Stack: []Place{}, Below: g.Below, Bytes: g.Bytes, Blocks: g.Blocks}
		for _, f := range r.Series[0].Callers(g.Stack) {
			l.Stack = append(l.Stack, placeOf(f))
		}
		return l
	}
	parts := func(list []heap.LeakPart) []LeakPart {
		all := []LeakPart{}
		for _, p := range list {
			all = append(all, LeakPart(p))
		}
		return all
	}
	for _, s := range r.Suspects {
		doc.Suspects = append(doc.Suspects, LeakSuspect{
			LeakSeries: series(s.Growing), BytesPerMinute: s.BytesPerMinute, BlocksPerMinute: s.BlocksPerMinute,
			Chance: s.Chance, SurvivorsLeast: s.SurvivorsLeast, SurvivorsMost: s.SurvivorsMost, Reused: s.Reused,
			Types: parts(s.Types), Ages: parts(s.Ages), Lengths: append([]LeakedLength{}, o.Lengths[s.Stack]...),
		})
	}
	for _, c := range r.Cleared {
		doc.Cleared = append(doc.Cleared, LeakCleared{series(c.Growing), c.Why})
	}
	out := newOutput(w, "json")
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	_ = e.Encode(doc) // what goes wrong is the writer's fault, whose error sticks
	return out.flush()
}
