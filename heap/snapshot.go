// Package heap is the model of what a process keeps in its memory: who allocated it, by which stack, of which type,
// for how long. A [Snapshot] is what a dump gives and what every report reads; its file form is a pprof profile.
//
// The package knows nothing of processes and nothing of presentation. A Snapshot is plain data: fill it (by hand or
// with a [Builder]), then treat it as read-only; any number of goroutines may read it at the same time.
package heap

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// None is the index that means "nothing": the parent of a root, the stack of a block allocated outside Python.
const None int32 = -1

// UnknownAge is the Age of blocks whose age is not known.
const UnknownAge int32 = -1

// MaxDepth is the most frames that a stack may have. Python's default limit is 1000; far beyond the bound here,
// functions that follow calls into calls would themselves run out of stack.
const MaxDepth = 1 << 18

// Frame is one place in a program.
//
// A frame of machine code (see [Frame.Native]) says where it is by Module, BuildID and Addr, which mean the same on any
// machine; its Func, File and Line are known once it is symbolized.
type Frame struct {
	Func      string // qualified name where known, "" where unknown
	File      string // "" where unknown
	Line      int    // the line that was executing, 0 where unknown
	FirstLine int    // the line where the function begins, 0 where unknown

	Module  string // of machine code: path of the ELF object as the process saw it, "[vdso]"; else ""
	BuildID string // the object's build-id in hexadecimal, "" where it has none
	// Addr is the ELF virtual address (before relocation) within the instruction that was executing, mostly a call; 0 in a
	// frame that was symbolized.
	Addr uint64
}

// Native tells whether the frame is one of machine code, not of Python.
func (f Frame) Native() bool { return f.Module != "" }

// Stack is a node of the trie of call stacks. The node stands for the whole stack from the root down to its Frame, the
// innermost one.
type Stack struct {
	Parent int32 // index in Snapshot.Stacks of the caller's node, always smaller than the node's own; None at the root
	Frame  int32 // index in Snapshot.Frames
}

// Record counts the blocks that agree in stack and labels. Several records may share a stack.
//
// Values are never negative. Those of a sampled snapshot are already scaled to estimate the whole.
type Record struct {
	Stack  int32 // index in Snapshot.Stacks; None where no Python code was running
	Domain int32 // index in Snapshot.Strings: class of allocator, "raw", "mem", "obj"
	Thread int32 // index in Snapshot.Strings: name of the thread that allocated
	Type   int32 // index in Snapshot.Strings: type of the object in the block
	Age    int32 // seconds since allocation, the lower bound of its bucket (see AgeBucket); UnknownAge

	// Process is which of several processes the blocks are in, an index in Snapshot.Strings: "4711 gunicorn: worker"; 0
	// in a snapshot of one.
	Process int32

	// The smallest and the largest of the live blocks (of a sampled snapshot: of those that were sampled), bytes; both
	// 0 where that is not known.
	MinSize, MaxSize int64

	InuseBytes, InuseBlocks int64 // live when the snapshot was taken
	AllocBytes, AllocBlocks int64 // ever allocated since tracking began
	PeakBytes, PeakBlocks   int64 // live when the process's tracked memory was at its highest
	TempBlocks              int64 // of those ever allocated: freed again at once, within few allocations of their thread
}

// KeyValue is a fact about a snapshot for human readers: the interpreter's version, the command, what was not seen.
type KeyValue struct {
	Key   string // not empty, without newline and without ": "
	Value string
}

// Point is a moment in the life of a process.
type Point struct {
	Time    time.Time // to the millisecond
	Tracked uint64    // bytes that tracking saw allocated and not yet freed; Unmeasured
	RSS     uint64    // bytes of the process in physical memory; Unmeasured
}

// Unmeasured is the value of a Point that nobody took.
const Unmeasured = math.MaxUint64

// Snapshot is the state of a heap at one instant. The zero value is a valid, empty snapshot.
type Snapshot struct {
	Time        time.Time     // when it was taken
	Duration    time.Duration // since tracking began
	SampleBytes uint64        // mean distance between samples; 0 where every block was counted
	PeakTime    time.Time     // when tracked memory was at its highest, to the millisecond; zero where unknown
	Timeline    []Point       // from when tracking began, in the order of time

	Strings []string // texts of labels; the first, where there is one, is ""
	Frames  []Frame
	Stacks  []Stack
	Records []Record
	Info    []KeyValue // in the order in which a reader should see them
}

// Metric is one of the values of a record.
type Metric int

// The metrics, in the order of [Values].
const (
	InuseBytes Metric = iota
	InuseBlocks
	AllocBytes
	AllocBlocks
	PeakBytes
	PeakBlocks
	TempBlocks
	NumMetrics
)

// String is the metric's name as pprof has it: "inuse_space" for InuseBytes.
func (m Metric) String() string {
	if m >= 0 && m < NumMetrics {
		return metricNames[m].name
	}
	return fmt.Sprintf("metric(%d)", int(m))
}

// Bytes tells whether the metric counts bytes, not blocks.
func (m Metric) Bytes() bool { return m == InuseBytes || m == AllocBytes || m == PeakBytes }

// Other is the metric of the same blocks in the other unit: blocks for bytes, bytes for blocks. Temporary blocks are
// counted only: TempBlocks is its own other.
func (m Metric) Other() Metric {
	if m == TempBlocks {
		return m
	}
	return m ^ 1
}

// Values holds all metrics of something, indexed by Metric.
type Values [NumMetrics]int64

// Add adds w to v.
func (v *Values) Add(w Values) {
	for m := range v {
		v[m] += w[m]
	}
}

// IsZero tells whether every value is 0.
func (v Values) IsZero() bool { return v == Values{} }

// Values returns the record's values.
func (r *Record) Values() Values {
	return Values{r.InuseBytes, r.InuseBlocks, r.AllocBytes, r.AllocBlocks, r.PeakBytes, r.PeakBlocks,
		r.TempBlocks}
}

// SetValues sets the record's values.
func (r *Record) SetValues(v Values) {
	r.InuseBytes, r.InuseBlocks = v[InuseBytes], v[InuseBlocks]
	r.AllocBytes, r.AllocBlocks = v[AllocBytes], v[AllocBlocks]
	r.PeakBytes, r.PeakBlocks = v[PeakBytes], v[PeakBlocks]
	r.TempBlocks = v[TempBlocks]
}

// Text returns the string that a record's label refers to.
func (s *Snapshot) Text(i int32) string {
	if i == 0 {
		return ""
	}
	return s.Strings[i]
}

// Total returns the sum of all records.
func (s *Snapshot) Total() Values {
	var t Values
	for i := range s.Records {
		t.Add(s.Records[i].Values())
	}
	return t
}

// Callers returns the frames of a stack, leaf (innermost) first. It is empty for None.
func (s *Snapshot) Callers(stack int32) []Frame {
	var frames []Frame
	for ; stack != None; stack = s.Stacks[stack].Parent {
		frames = append(frames, s.Frames[s.Stacks[stack].Frame])
	}
	return frames
}

// Check tells whether the snapshot keeps the rules that are stated on its types: indices in range, parents before
// children, no stack deeper than MaxDepth, values not negative, and totals that fit an int64 (so that no sum of values
// can overflow). Functions of this package and of its users may panic on a snapshot that does not; [Read] returns only
// snapshots that do.
func (s *Snapshot) Check() error {
	if len(s.Strings) > 0 && s.Strings[0] != "" {
		return errors.New("check snapshot: the first string is not empty")
	}
	for i, f := range s.Frames {
		if f.Line < 0 || f.FirstLine < 0 {
			return fmt.Errorf("check snapshot: frame %d: line %d in a function from line %d", i, f.Line, f.FirstLine)
		}
	}
	depth := make([]int32, len(s.Stacks))
	for i, n := range s.Stacks {
		if n.Parent < None || int(n.Parent) >= i {
			return fmt.Errorf("check snapshot: stack %d: parent %d is not before it", i, n.Parent)
		}
		if n.Parent != None {
			depth[i] = depth[n.Parent] + 1
		}
		if depth[i] >= MaxDepth {
			return fmt.Errorf("check snapshot: stack %d has more than %d frames", i, MaxDepth)
		}
		if n.Frame < 0 || int(n.Frame) >= len(s.Frames) {
			return fmt.Errorf("check snapshot: stack %d: frame %d of %d", i, n.Frame, len(s.Frames))
		}
	}
	var total Values
	for i := range s.Records {
		if err := s.checkRecord(&s.Records[i], &total); err != nil {
			return fmt.Errorf("check snapshot: record %d: %w", i, err)
		}
	}
	if err := checkTimeline(s.Timeline); err != nil {
		return fmt.Errorf("check snapshot: %w", err)
	}
	for _, kv := range s.Info {
		if err := kv.check(); err != nil {
			return fmt.Errorf("check snapshot: info %q: %w", kv.Key, err)
		}
	}
	return nil
}

func (s *Snapshot) checkRecord(r *Record, total *Values) error {
	if r.Stack < None || int(r.Stack) >= len(s.Stacks) {
		return fmt.Errorf("stack %d of %d", r.Stack, len(s.Stacks))
	}
	for _, text := range [...]int32{r.Domain, r.Thread, r.Type, r.Process} {
		if text < 0 || text > 0 && int(text) >= len(s.Strings) {
			return fmt.Errorf("label text %d of %d", text, len(s.Strings))
		}
	}
	if r.Age < UnknownAge {
		return fmt.Errorf("age %d s", r.Age)
	}
	if r.MinSize < 0 || r.MaxSize < r.MinSize {
		return fmt.Errorf("blocks of %d to %d bytes", r.MinSize, r.MaxSize)
	}
	for m, v := range r.Values() {
		if v < 0 {
			return fmt.Errorf("%v is negative: %d", Metric(m), v)
		}
		if v > math.MaxInt64-total[m] {
			return fmt.Errorf("%v: the total exceeds 64 bits", Metric(m))
		}
		total[m] += v
	}
	return nil
}
