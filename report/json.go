package report

import (
	"encoding/json"
	"io"
	"time"

	"github.com/heaptap/heaptap/heap"
)

// JSONVersion is the version of the schema of [JSON]. New fields leave it as it is; anything else raises it.
const JSONVersion = 1

// JSONOptions say what [JSON] writes.
type JSONOptions struct {
	Metric  heap.Metric // what Lines and Functions are sorted by, largest first
	Records bool        // also write Frames, Stacks and Records: all that the snapshot holds
}

// Document is what [JSON] writes. Numbers of a sampled snapshot are scaled to estimate the whole.
type Document struct {
	Format   string     `json:"format"`  // "heaptap"
	Version  int        `json:"version"` // JSONVersion
	Time     *time.Time `json:"time"`    // when the snapshot was taken, RFC 3339; null where unknown
	Duration float64    `json:"duration_seconds"`
	Sample   uint64     `json:"sample_bytes"` // mean distance between samples; 0 where every block was counted
	Info     []Fact     `json:"info"`

	PeakTime *time.Time `json:"peak_time"` // when tracked memory was at its highest; null where unknown
	Timeline []Moment   `json:"timeline"`  // from when tracking began

	Total     Amounts  `json:"total"`
	Stackless Amounts  `json:"stackless"` // part of the total that was allocated while no Python code was running
	Lines     []Source `json:"lines"`
	Functions []Source `json:"functions"` // Line is 0

	Modules []Named `json:"modules"` // own counts what was allocated there; blocks without a Python stack are in none
	Types   []Named `json:"types"`
	Threads []Named `json:"threads"`
	Domains []Named `json:"domains"`
	Ages    []Named `json:"ages"` // spans such as "1m to 2m"
	// Processes are those of a merged snapshot; absent in one of a single process.
	Processes []Named `json:"processes,omitempty"`

	Frames  []Place       `json:"frames,omitempty"`
	Stacks  []Call        `json:"stacks,omitempty"`
	Records []Measurement `json:"records,omitempty"`
}

// Moment is a point of the timeline; null is what was not measured then.
type Moment struct {
	Time    time.Time `json:"time"`
	Tracked *uint64   `json:"tracked_bytes"`
	RSS     *uint64   `json:"rss_bytes"`
}

// Fact is something to know about the snapshot.
type Fact struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Amounts are the metrics. Peak is when the tracked memory was at its highest, 0 where that was not measured.
type Amounts struct {
	InuseBytes  int64 `json:"inuse_bytes"`
	InuseBlocks int64 `json:"inuse_blocks"`
	AllocBytes  int64 `json:"alloc_bytes"`
	AllocBlocks int64 `json:"alloc_blocks"`
	PeakBytes   int64 `json:"peak_bytes"`
	PeakBlocks  int64 `json:"peak_blocks"`
	TempBlocks  int64 `json:"temporary_blocks"` // of those allocated: freed again within few allocations
}

// Place is a frame. What is not known is "" or 0.
type Place struct {
	Function  string `json:"function"`
	File      string `json:"file"`
	Line      int    `json:"line"`
	FirstLine int    `json:"first_line"` // of the function

	// Of machine code: the ELF object, its build-id, and where it is not symbolized, the address in it.
	Object  string `json:"object,omitempty"`
	BuildID string `json:"build_id,omitempty"`
	Address uint64 `json:"address,omitempty"`
}

// Source is a line or a function that allocates, or calls what does.
type Source struct {
	Place
	Own        Amounts `json:"own"`        // of blocks allocated right there
	Cumulative Amounts `json:"cumulative"` // and of those allocated by what it called, each block once
}

// Named is a module, a type or the like, and what it accounts for.
type Named struct {
	Name string `json:"name"` // "" where blocks have none that is known
	Amounts
}

// Call is a stack: a caller's stack and the frame of what it called.
type Call struct {
	Parent int32 `json:"parent"` // index in Stacks, smaller than this one's; -1 for none
	Frame  int32 `json:"frame"`  // index in Frames
}

// Measurement counts the blocks that agree in stack and labels.
type Measurement struct {
	Stack  int32  `json:"stack"` // index in Stacks; -1 for none
	Domain string `json:"domain"`
	Thread string `json:"thread"`
	Type   string `json:"type"`
	// Process is which of several processes: "4711 gunicorn: worker".
	Process string `json:"process,omitempty"`
	Age     *int32 `json:"age_seconds"` // lower bound; null where unknown
	Min     *int64 `json:"min_size"`    // bytes of the smallest live block; null where unknown
	Max     *int64 `json:"max_size"`    // and of the largest
	Amounts
}

// JSON writes the snapshot as one JSON object, a [Document].
func JSON(w io.Writer, s *heap.Snapshot, o JSONOptions) error {
	d := Document{
		Format: "heaptap", Version: JSONVersion, Duration: s.Duration.Seconds(), Sample: s.SampleBytes, Info: []Fact{},
		Timeline: []Moment{},
		Total:    amounts(s.Total()), Stackless: amounts(s.Stackless()),
		Lines: sources(s.ByLine(), o.Metric), Functions: sources(s.ByFunction(), o.Metric),
		Modules: named(s, heap.ByModule, o.Metric), Types: named(s, heap.ByType, o.Metric),
		Threads: named(s, heap.ByThread, o.Metric), Domains: named(s, heap.ByDomain, o.Metric),
		Ages: named(s, heap.ByAge, o.Metric),
	}
	if s.HasProcesses() {
		d.Processes = named(s, heap.ByProcess, o.Metric)
	}
	if !s.Time.IsZero() {
		d.Time = &s.Time
	}
	for _, kv := range s.Info {
		d.Info = append(d.Info, Fact(kv))
	}
	if !s.PeakTime.IsZero() {
		d.PeakTime = &s.PeakTime
	}
	for i := range s.Timeline {
		d.Timeline = append(d.Timeline, momentOf(&s.Timeline[i]))
	}
	if o.Records {
		d.addRecords(s)
	}
	out := newOutput(w, "json")
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false) // "<module>" is for people, too
	if !o.Records {
		e.SetIndent("", "  ")
	}
	// What goes wrong is the writer's fault, whose error sticks: the value itself can always be encoded.
	_ = e.Encode(d)
	return out.flush()
}

func (d *Document) addRecords(s *heap.Snapshot) {
	for _, f := range s.Frames {
		d.Frames = append(d.Frames, placeOf(f))
	}
	for _, n := range s.Stacks {
		d.Stacks = append(d.Stacks, Call(n))
	}
	for i := range s.Records {
		r := &s.Records[i]
		m := Measurement{
			Stack: r.Stack, Domain: s.Text(r.Domain), Thread: s.Text(r.Thread), Type: s.Text(r.Type),
			Process: s.Text(r.Process), Amounts: amounts(r.Values()),
		}
		if r.Age != heap.UnknownAge {
			m.Age = &r.Age
		}
		if r.MaxSize > 0 {
			m.Min, m.Max = &r.MinSize, &r.MaxSize
		}
		d.Records = append(d.Records, m)
	}
}

func momentOf(p *heap.Point) Moment {
	m := Moment{Time: p.Time}
	if p.Tracked != heap.Unmeasured {
		m.Tracked = &p.Tracked
	}
	if p.RSS != heap.Unmeasured {
		m.RSS = &p.RSS
	}
	return m
}

func amounts(v heap.Values) Amounts {
	return Amounts{
		v[heap.InuseBytes], v[heap.InuseBlocks], v[heap.AllocBytes], v[heap.AllocBlocks], v[heap.PeakBytes],
		v[heap.PeakBlocks], v[heap.TempBlocks],
	}
}

func placeOf(f heap.Frame) Place {
	return Place{Function: f.Func, File: f.File, Line: f.Line, FirstLine: f.FirstLine,
		Object: f.Module, BuildID: f.BuildID, Address: f.Addr}
}

func named(s *heap.Snapshot, by heap.Grouping, m heap.Metric) []Named {
	rows := s.By(by)
	heap.SortRows(rows, m, false)
	list := []Named{}
	for _, r := range rows {
		if !r.Own.IsZero() {
			list = append(list, Named{Name: r.Name, Amounts: amounts(r.Own)})
		}
	}
	return list
}

func sources(rows []heap.Row, m heap.Metric) []Source {
	heap.SortRows(rows, m, false)
	list := []Source{}
	for _, r := range rows {
		list = append(list, Source{Place: placeOf(r.Frame), Own: amounts(r.Own), Cumulative: amounts(r.Cum)})
	}
	return list
}
