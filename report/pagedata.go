package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/heaptap/heaptap/heap"
)

// pageData is what the page's script reads. Columns are lists of equal length; "index" is one in Strings unless said
// otherwise.
type pageData struct {
	Views   []string    `json:"views"`
	Metrics []string    `json:"metrics"` // those that records have, by their names in pprof
	Strings []string    `json:"strings"`
	Frames  pageFrames  `json:"frames"`
	Nodes   pageNodes   `json:"nodes"`
	Records pageRecords `json:"records"`
	Diff    bool        `json:"diff"` // records have values of an older snapshot, too
	Cut     pageCut     `json:"cut"`
	Start   pageStart   `json:"start"`
	About   pageAbout   `json:"about"`
}

// pageFrames are the frames of calls.
type pageFrames struct {
	Func     []int32 `json:"func"`             // index
	File     []int32 `json:"file"`             // index
	Module   []int32 `json:"module"`           // index
	Line     []int   `json:"line"`             // 0 where unknown
	Function []int32 `json:"function"`         // number of the function: the same for its lines
	Native   []int   `json:"native,omitempty"` // 1 for machine code; empty where there is none
}

// pageNodes are the calls below the root, in preorder.
type pageNodes struct {
	// Up is for each node how many levels above the node before it its parent is: 0 for right below that.
	Up    []int   `json:"up"`
	Frame []int32 `json:"frame"` // index in Frames
}

// pageRecords are the blocks at calls, by label; the records of a node follow each other, in the order of nodes.
type pageRecords struct {
	Node   []int32 `json:"node"`   // index in Nodes, as distance from the record before (from -1)
	Type   []int32 `json:"type"`   // index
	Thread []int32 `json:"thread"` // index; empty where the page does not tell threads apart
	Domain []int32 `json:"domain"` // as Thread
	Age    []int32 `json:"age"`    // seconds, -1 where unknown; empty as Thread
	// Process is an index; empty as Thread, and where the page is of one process.
	Process []int32 `json:"process,omitempty"`
	// Values and Old have a column for each of Metrics: now, and in the older snapshot.
	Values [][]int64 `json:"values"`
	Old    [][]int64 `json:"old"`
}

// pageCut says what was summed to bound the page.
type pageCut struct {
	Frame int32  `json:"frame"` // index in Frames of the frame that stands for it; -1 where nothing was
	Label int32  `json:"label"` // index of the text that stands for dropped labels; -1 where none were
	Note  string `json:"note"`
}

// pageStart is what the page shows at first.
type pageStart struct {
	State  string `json:"state"` // "inuse", "alloc", "peak" or "temporary"
	Unit   string `json:"unit"`  // "space" or "objects"
	By     string `json:"by"`    // "line" or "function"
	Invert bool   `json:"invert"`
}

// pageAbout is what is known beside the calls.
type pageAbout struct {
	Now      pageSnapshot  `json:"now"`
	Old      *pageSnapshot `json:"old,omitempty"`
	Warnings []string      `json:"warnings"`
	// Ages are the spans of the ages of records: lower bound, end (-1 for none).
	Ages    [][2]int32   `json:"ages"`
	Sources []pageSource `json:"sources"`
	// SourcesNote says what the sources hold and what not; "" where none were asked for.
	SourcesNote string `json:"sourcesNote"`
}

// pageSnapshot is about one snapshot.
type pageSnapshot struct {
	Time     string      `json:"time"` // RFC 3339; "" where unknown
	Duration float64     `json:"duration"`
	Sample   uint64      `json:"sample"`
	Stacks   int         `json:"stacks"`
	Records  int         `json:"records"`
	Info     [][2]string `json:"info"`
	Peak     string      `json:"peak"` // when tracked memory was at its highest, RFC 3339; "" where unknown
	// Timeline are points of: seconds since the first, tracked bytes, resident bytes; -1 where not measured.
	Timeline [][3]float64 `json:"timeline"`
	RSS      int64        `json:"rss"` // bytes of the process in physical memory; -1 where unknown
	Own      int64        `json:"own"` // and of heaptap's in it; -1 where unknown
	// Parts of RSS, as [heap.InfoTracked] and the others name them; empty where it is not known what it is made of.
	Parts map[string]int64 `json:"parts"`
}

// pageSource is what is shown of a source file.
type pageSource struct {
	File string `json:"file"` // as frames name it
	// Note says what the reader must know: that the file is not the one that ran, or why there is no text.
	Note  string      `json:"note"`
	Parts []pageLines `json:"parts"`
}

// pageLines are lines of a file that follow each other.
type pageLines struct {
	First int      `json:"first"`
	Lines []string `json:"lines"`
}

func aboutOf(d *heap.Delta, o pageOptions) pageAbout {
	a := pageAbout{Now: aboutSnapshot(d.New), Warnings: []string{}, Ages: [][2]int32{}, Sources: []pageSource{}}
	for _, w := range d.Warnings {
		a.Warnings = append(a.Warnings, Printable(w))
	}
	if d.Old != nil {
		old := aboutSnapshot(d.Old)
		a.Old = &old
	}
	if o.sources != nil {
		a.Sources, a.SourcesNote = pageSources(d, o)
	}
	return a
}

// pageAges are the spans of the ages in the tree, the youngest first.
func pageAges(tree *calls) [][2]int32 {
	seen := map[int32]bool{}
	ages := [][2]int32{}
	for i := range tree.tallies {
		if age := tree.tallies[i].labels.age; age != heap.UnknownAge && !seen[age] {
			seen[age] = true
			end := heap.AgeBucketEnd(age)
			if end == math.MaxInt32 {
				end = -1
			}
			ages = append(ages, [2]int32{age, end})
		}
	}
	slices.SortFunc(ages, func(a, b [2]int32) int { return cmp.Compare(a[0], b[0]) })
	return ages
}

func aboutSnapshot(s *heap.Snapshot) pageSnapshot {
	p := pageSnapshot{Duration: s.Duration.Seconds(), Sample: s.SampleBytes, Stacks: len(s.Stacks),
		Records: len(s.Records), Info: [][2]string{}, Timeline: pageTimeline(s), RSS: -1, Own: -1,
		Parts: map[string]int64{}}
	if !s.Time.IsZero() {
		p.Time = s.Time.Format(time.RFC3339)
	}
	if !s.PeakTime.IsZero() {
		p.Peak = s.PeakTime.Format(time.RFC3339)
	}
	if n := len(s.Timeline); n > 0 && s.Timeline[n-1].RSS != heap.Unmeasured {
		p.RSS = int64(min(s.Timeline[n-1].RSS, math.MaxInt64))
	}
	for _, kv := range s.Info {
		switch kv.Key {
		case heap.InfoRSS:
			p.RSS = bytesOf(kv.Value, p.RSS)
		case heap.InfoHeaptap:
			p.Own = bytesOf(kv.Value, p.Own)
			p.Parts[kv.Key] = max(p.Own, 0)
		case heap.InfoTracked, heap.InfoBeside, heap.InfoFilesClean, heap.InfoFilesDirty, heap.InfoStacks,
			heap.InfoShared, heap.InfoUnexplained:
			p.Parts[kv.Key] = bytesOf(kv.Value, 0)
		}
		if len(p.Info) == maxInfos {
			continue
		}
		p.Info = append(p.Info, [2]string{cutText(Printable(kv.Key)), cut(Printable(kv.Value), maxInfoBytes)})
	}
	var sum int64
	for _, v := range p.Parts {
		sum += v
	}
	if sum != p.RSS { // another version's facts, or another program's
		clear(p.Parts)
	}
	return p
}

// bytesOf reads the value of a fact that is a number of bytes; what is none leaves the number as it was.
func bytesOf(value string, otherwise int64) int64 {
	n, err := strconv.ParseInt(strings.TrimSuffix(value, " bytes"), 10, 64)
	if err != nil || n < 0 {
		return otherwise
	}
	return n
}

// maxPoints bounds the timeline: more cannot be told apart on a screen.
const maxPoints = 1000

// pageTimeline is the snapshot's timeline; of spans with more points than can be told apart, the highest of each value
// stand for the others, so that no peak is lost.
func pageTimeline(s *heap.Snapshot) [][3]float64 {
	points := [][3]float64{}
	for i := range s.Timeline {
		p := &s.Timeline[i]
		at := [3]float64{p.Time.Sub(s.Timeline[0].Time).Seconds(), measured(p.Tracked), measured(p.RSS)}
		if slot := i * maxPoints / max(len(s.Timeline), maxPoints); slot < len(points) {
			last := &points[slot]
			last[1], last[2] = max(last[1], at[1]), max(last[2], at[2])
			continue
		}
		points = append(points, at)
	}
	return points
}

func measured(v uint64) float64 {
	if v == heap.Unmeasured {
		return -1
	}
	return float64(v)
}

// Bounds on facts: commands can be long, and foreign profiles have all kinds of comments.
const (
	maxInfoBytes = 16 << 10
	maxInfos     = 100
)

func startOf(o pageOptions) pageStart {
	state, unit, _ := strings.Cut(o.metric.String(), "_")
	by := "line"
	if o.by == heap.ByFunction {
		by = "function"
	}
	return pageStart{State: state, Unit: unit, By: by, Invert: o.invert}
}

// pageBuilder fills pageData from a tree.
type pageBuilder struct {
	data      pageData
	tree      *calls
	detailed  bool
	processes bool // are told apart
	metrics   []heap.Metric
	strings   map[string]int32
	texts     map[string]int32 // as strings, by the text before it was made printable
	frames    []int32          // for each of the tree's frames: index in the data + 1
	functions map[heap.Frame]int32
	labels    []int32 // for each of the tree's labels: index in the data + 1
}

// newPageData keeps at most maxNodes calls, and twice as many records.
func newPageData(tree *calls, about pageAbout, o pageOptions, maxNodes int) pageData {
	whole := tree.sums()[0]
	tree, cut := tree.prune(maxNodes, 2*maxNodes)
	about.Ages = pageAges(tree)
	b := pageBuilder{
		tree: tree, detailed: o.detailed(), processes: tree.hasProcesses(),
		strings: map[string]int32{}, texts: map[string]int32{}, functions: map[heap.Frame]int32{},
		frames: make([]int32, len(tree.frames)), labels: make([]int32, len(tree.labels)),
		data: pageData{
			Views: o.views, Start: startOf(o), About: about, Diff: about.Old != nil, Cut: pageCut{Frame: -1, Label: -1},
			// Arrays that stay empty are [] to the script, not null.
			Metrics: []string{}, Strings: []string{},
			Frames: pageFrames{Func: []int32{}, File: []int32{}, Module: []int32{}, Line: []int{}, Function: []int32{}},
			Nodes:  pageNodes{Up: []int{}, Frame: []int32{}},
			Records: pageRecords{Node: []int32{}, Type: []int32{}, Thread: []int32{}, Domain: []int32{}, Age: []int32{},
				Values: [][]int64{}, Old: [][]int64{}},
		},
	}
	r := &b.data.Records
	for m := range heap.NumMetrics {
		if whole[callsNow][m] > 0 || whole[callsOld][m] > 0 || m == o.metric || m == o.metric.Other() {
			b.metrics = append(b.metrics, m)
			b.data.Metrics = append(b.data.Metrics, m.String())
			r.Values = append(r.Values, []int64{})
			if b.data.Diff {
				r.Old = append(r.Old, []int64{})
			}
		}
	}
	b.addNodes(o.metric)
	if !slices.Contains(b.data.Frames.Native, 1) {
		b.data.Frames.Native = nil
	}
	b.noteCut(cut, whole)
	return b.data
}

func (b *pageBuilder) addNodes(m heap.Metric) {
	before, node, last := 0, int32(-1), int32(-1) // depth and number of the node, number of the record's before
	b.tree.preorder(m, func(i int32, depth int) {
		if depth == 0 {
			return
		}
		b.data.Nodes.Up = append(b.data.Nodes.Up, before-(depth-1))
		before = depth
		b.data.Nodes.Frame = append(b.data.Nodes.Frame, b.frame(b.tree.nodes[i].frame))
		node++
		for _, t := range b.tree.sorted(i, m) {
			b.record(node-last, t)
			last = node
		}
	})
}

func (b *pageBuilder) record(distance int32, t *callTally) {
	r := &b.data.Records
	r.Node = append(r.Node, distance)
	r.Type = append(r.Type, b.label(t.labels.typ))
	if b.detailed {
		r.Thread = append(r.Thread, b.label(t.labels.thread))
		r.Domain = append(r.Domain, b.label(t.labels.domain))
		r.Age = append(r.Age, t.labels.age)
		if b.processes {
			r.Process = append(r.Process, b.label(t.labels.process))
		}
	}
	for column, m := range b.metrics {
		r.Values[column] = append(r.Values[column], t.values[callsNow][m])
		if b.data.Diff {
			r.Old[column] = append(r.Old[column], t.values[callsOld][m])
		}
	}
}

// noteCut says what was left out. The page's reader must be able to tell how much it is.
func (b *pageBuilder) noteCut(cut callsCut, whole [2]heap.Values) {
	var notes []string
	part := func(v [2]heap.Values) string {
		text := Percent(share(v[callsNow][heap.InuseBytes], whole[callsNow][heap.InuseBytes])) + " of the live bytes"
		if whole[callsNow][heap.AllocBytes] > 0 {
			text += ", " + Percent(share(v[callsNow][heap.AllocBytes], whole[callsNow][heap.AllocBytes])) +
				" of all allocated"
		}
		return text
	}
	if cut.nodes > 0 {
		b.data.Cut.Frame = b.frame(b.tree.frameOf[heap.Frame{Func: cutName}])
		notes = append(notes, fmt.Sprintf("To bound the size of this page, its %s smallest calls of %s are summed as "+
			"“%s”: %s.", Count(int64(cut.nodes)), Count(int64(cut.of)), cutName, part(cut.values)))
	}
	if cut.tallies > 0 {
		b.data.Cut.Label = b.label(b.tree.labelOf[cutLabel])
		notes = append(notes, fmt.Sprintf("Types, threads and ages of the smallest %s groups of blocks are “%s”: %s.",
			Count(int64(cut.tallies)), cutLabel, part(cut.labelValues)))
	}
	b.data.Cut.Note = strings.Join(notes, " ")
}

func (b *pageBuilder) frame(i int32) int32 {
	if b.frames[i] == 0 {
		b.frames[i] = int32(len(b.data.Frames.Line)) + 1
		f := b.tree.frames[i]
		fn := heap.ByFunction.Place(f)
		number, known := b.functions[fn]
		if !known {
			number = int32(len(b.functions))
			b.functions[fn] = number
		}
		c := &b.data.Frames
		name, native := f.Func, 0
		if f.Native() {
			name, native = function(f), 1
		}
		c.Func = append(c.Func, b.text(name))
		c.File = append(c.File, b.text(fileOf(f)))
		c.Native = append(c.Native, native)
		module, _ := f.ModuleName()
		c.Module = append(c.Module, b.text(module))
		c.Line = append(c.Line, f.Line)
		c.Function = append(c.Function, number)
	}
	return b.frames[i] - 1
}

func (b *pageBuilder) label(i int32) int32 {
	if b.labels[i] == 0 {
		b.labels[i] = b.text(b.tree.labels[i]) + 1
	}
	return b.labels[i] - 1
}

// text returns the index of what the page shows of a text.
func (b *pageBuilder) text(t string) int32 {
	i, ok := b.texts[t]
	if !ok {
		i = number(b.strings, &b.data.Strings, cutText(Printable(t)))
		b.texts[t] = i
	}
	return i
}
