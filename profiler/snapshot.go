package profiler

import (
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/heap"
)

// snapshotInfo is what a snapshot says of its making.
type snapshotInfo struct {
	now      *int64 // the age clock's second when it was taken; nil where this machine's clock tells
	by       string // what asked the process itself to write its tables; "" where we copied them
	pid      int
	command  string
	taken    time.Time
	pause    time.Duration
	paused   bool
	resident uint64  // bytes of the process in memory
	memory   *Memory // what that is made of; nil where it is not known
}

// buildSnapshot turns a copy of the tables into a snapshot, and counts the live blocks, also those that filter leaves out.
func buildSnapshot(
	c *agent.Capture, types *typeLabels, filter *heap.Filter, lengths *lengthSampler, info snapshotInfo,
) (*heap.Snapshot, uint64, error) {
	h := &c.Header
	s := &heap.Snapshot{
		Time: info.taken, Duration: info.taken.Sub(time.Unix(0, int64(h.Started))), SampleBytes: h.Config.SampleBytes,
		Info: describeSnapshot(h, info),
	}
	var now int64
	var err error
	if info.now != nil {
		now = *info.now
	} else if now, err = epochAt(h, info.taken); err != nil {
		return nil, 0, err
	}
	b := newSnapshotBuilder(c, s, types, now)
	b.lengths = lengths
	if filter != nil {
		b.match = filter.On(s)
	}
	blocks, err := b.countLive()
	if err != nil {
		return nil, 0, err
	}
	if err := b.countStats(); err != nil {
		return nil, 0, err
	}
	if h.Config.Clock != 0 && h.PeakBytes != 0 {
		s.PeakTime = momentOf(h.PeakEpoch, info.taken, now)
	}
	s.Timeline = timeline(c, info.taken, now)
	s.Records = b.records()
	lengths.name(s)
	if err := s.Check(); err != nil {
		return nil, 0, err
	}
	if b.match != nil {
		s, err = b.match.Finish(s)
	}
	return s, blocks, err
}

func describeSnapshot(h *agent.Tables, info snapshotInfo) []heap.KeyValue {
	kv := []heap.KeyValue{
		{Key: "python", Value: pythonOf(h).Version + " (" + pythonOf(h).Flavour + ")"},
		{Key: "pid", Value: strconv.Itoa(info.pid)},
	}
	if info.command != "" {
		kv = append(kv, heap.KeyValue{Key: "command", Value: info.command})
	}
	switch {
	case info.memory != nil:
		kv = append(kv, info.memory.info()...)
	case info.resident != 0:
		kv = append(kv, heap.KeyValue{Key: heap.InfoRSS, Value: fmt.Sprintf("%d bytes", info.resident)})
	}
	if h.Config.Temporary != 0 {
		kv = append(kv, heap.KeyValue{Key: "temporary", Value: fmt.Sprintf("freed within %d allocations of its thread", h.Config.Temporary)})
	}
	if info.by != "" {
		kv = append(kv, heap.KeyValue{Key: "written", Value: "by the process itself, upon " + info.by})
	}
	if info.paused {
		kv = append(kv, heap.KeyValue{Key: "pause", Value: info.pause.String()})
	} else {
		kv = append(kv, heap.KeyValue{Key: "pause", Value: "none: blocks that came or went meanwhile may be missing or doubled"})
	}
	return kv
}

type frameKey struct {
	code  uint32
	instr int32
}

// snapshotBuilder sums blocks by stack and labels. Tallies of a node form a chain, so that summing needs no map.
type snapshotBuilder struct {
	c       *agent.Capture
	b       *heap.Builder
	nodes   []agent.Node
	types   *typeLabels
	lengths *lengthSampler // nil: not wanted
	match   *heap.Matcher  // nil: everything
	now     int64          // age clock

	first []int32 // for each node: index+1 of its first tally
	tally []tally

	stacks     []int32 // for each node: its stack in the snapshot, or unresolved
	threads    []int32 // for each node: label
	frames     map[frameKey]int32
	threadText map[int32]int32 // thread number to label
	domainText [agent.Domains]int32
	typeText   []int32 // of types.names
}

// unresolved stands for the stack of a node that nobody has asked for.
const unresolved int32 = -2

func newSnapshotBuilder(c *agent.Capture, s *heap.Snapshot, types *typeLabels, now int64) *snapshotBuilder {
	b := &snapshotBuilder{
		c: c, b: heap.NewBuilder(s), nodes: c.Nodes(), types: types, now: now,
		frames: map[frameKey]int32{}, threadText: map[int32]int32{},
	}
	b.first = make([]int32, len(b.nodes))
	b.threads = make([]int32, len(b.nodes))
	b.stacks = slices.Repeat([]int32{unresolved}, len(b.nodes))
	for d, name := range agent.DomainNames {
		b.domainText[d] = b.b.Text(name)
	}
	for _, name := range types.names {
		b.typeText = append(b.typeText, b.b.Text(name))
	}
	return b
}

// tally is a record that is being counted.
type tally struct {
	next   int32 // index+1
	node   uint32
	record heap.Record
}

// at is the record of the node's stack with these labels.
func (b *snapshotBuilder) at(node uint32, domain, typ, age int32) *heap.Record {
	for i := b.first[node]; i != 0; i = b.tally[i-1].next {
		if r := &b.tally[i-1].record; r.Domain == domain && r.Age == age && r.Type == typ {
			return r
		}
	}
	b.tally = append(b.tally, tally{next: b.first[node], node: node, record: heap.Record{
		Stack: b.stacks[node], Thread: b.threads[node], Domain: domain, Type: typ, Age: age,
	}})
	b.first[node] = int32(len(b.tally))
	return &b.tally[len(b.tally)-1].record
}

// countLive sums the blocks of the live map that pass. Sampled blocks stand for the blocks that were not sampled: a block
// of s bytes is sampled with probability 1-exp(-s/rate).
func (b *snapshotBuilder) countLive() (uint64, error) {
	rate := float64(b.c.Header.Config.SampleBytes)
	typeOf := b.types.lookup()
	var blocks uint64
	for blk, err := range b.c.Blocks() {
		if err != nil {
			return 0, err
		}
		blocks++
		if err := b.resolve(blk.Node); err != nil {
			return 0, err
		}
		label := typeOf(blk.Addr)
		domain, typ := b.domainText[blk.Domain], b.typeText[label]
		age, bucket := heap.UnknownAge, heap.UnknownAge
		if b.c.Header.Config.Clock != 0 {
			exact := max(b.now-int64(agent.Seconds(blk.Epoch)), 0)
			age, bucket = int32(min(exact, math.MaxInt32)), heap.AgeBucket(exact)
		}
		if b.match != nil && !b.match.Block(&heap.Block{
			Stack: b.stacks[blk.Node], Domain: domain, Thread: b.threads[blk.Node], Type: typ, Age: age, Size: blk.Size,
		}) {
			continue
		}
		b.lengths.add(b.stacks[blk.Node], b.types.names[label], blk, age)
		r := b.at(blk.Node, domain, typ, bucket)
		size := int64(blk.Size)
		if r.InuseBlocks == 0 || size < r.MinSize {
			r.MinSize = size
		}
		r.MaxSize = max(r.MaxSize, size)
		if rate == 0 || Domain(blk.Domain) == Mmap || Domain(blk.Domain) == File { // mappings are never sampled
			r.InuseBlocks++
			r.InuseBytes += size
			continue
		}
		weight := 1 / -math.Expm1(-float64(max(blk.Size, 1))/rate)
		r.InuseBlocks += int64(math.Round(weight))
		r.InuseBytes += int64(math.Round(weight * float64(blk.Size)))
	}
	return blocks, nil
}

// epochAt is the age clock's second at a moment of this machine's clock.
func epochAt(h *agent.Tables, at time.Time) (int64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		return 0, fmt.Errorf("clock: %w", err)
	}
	return now.Sec - int64(time.Since(at).Seconds()) - int64(h.Config.ClockBase), nil
}

// countStats adds what is known by stack only, not by domain: what was ever allocated, and what was live at the peak.
func (b *snapshotBuilder) countStats() error {
	shift := sampleShift(&b.c.Header)
	stats := b.c.Stats()
	for i := range stats {
		s := &stats[i]
		if s.AllocBlocks == 0 || b.c.Running && int(s.Node) >= len(b.nodes) {
			continue
		}
		if err := b.resolve(s.Node); err != nil {
			return err
		}
		domain := int32(0)
		if node := &b.nodes[s.Node]; node.Code == agent.CodeDomain && node.Instr >= 0 && node.Instr < agent.Domains {
			domain = b.domainText[node.Instr]
		}
		r := b.at(s.Node, domain, 0, heap.UnknownAge)
		r.AllocBlocks = int64(s.AllocBlocks >> shift)
		r.AllocBytes = int64(s.AllocBytes >> shift)
		blocks, bytes := b.c.AtPeak(s)
		// What a thread without the GIL is about to free may be half counted.
		r.PeakBlocks = max(int64(blocks), 0) >> shift
		r.PeakBytes = max(int64(bytes), 0) >> shift
		if o := b.c.Others(s); o != nil {
			r.TempBlocks = int64(o.Temporary)
		}
	}
	return nil
}

// records are the tallies.
func (b *snapshotBuilder) records() []heap.Record {
	records := make([]heap.Record, len(b.tally))
	for i := range b.tally {
		records[i] = b.tally[i].record
	}
	return records
}

// resolve finds a node's stack and thread, and those of the nodes above it.
func (b *snapshotBuilder) resolve(n uint32) error {
	if int(n) >= len(b.nodes) {
		return fmt.Errorf("agent's tables are damaged: stack %d of %d", n, len(b.nodes))
	}
	if b.stacks[n] != unresolved {
		return nil
	}
	var below []uint32
	for ; b.stacks[n] == unresolved && n >= agent.FirstNode; n = b.nodes[n].Parent {
		if p := b.nodes[n].Parent; p >= n {
			return fmt.Errorf("agent's tables are damaged: stack %d has parent %d", n, p)
		}
		below = append(below, n)
	}
	if n < agent.FirstNode {
		b.stacks[n] = heap.None
	}
	for _, n := range slices.Backward(below) {
		node := &b.nodes[n]
		b.threads[n] = b.threads[node.Parent]
		switch {
		case node.Parent == 0 && node.Code == agent.CodeRoot:
			b.stacks[n], b.threads[n] = heap.None, b.thread(node.Instr)
		case node.Code == agent.CodeDomain: // its blocks have its parent's stack
			b.stacks[n] = b.stacks[node.Parent]
		default:
			frame, err := b.frame(node.Code, node.Instr)
			if err != nil {
				return err
			}
			b.stacks[n] = b.b.Push(b.stacks[node.Parent], frame)
		}
	}
	return nil
}

// thread is the label of a thread, by its number.
func (b *snapshotBuilder) thread(number int32) int32 {
	if len(b.threadText) == 0 {
		for i, t := range b.c.Threads() {
			name := cString(t.Name[:])
			if t.Tid != 0 {
				name = fmt.Sprintf("%s (%d)", name, t.Tid)
			}
			if t.Lives > 1 {
				name += fmt.Sprintf(" and %d before it", t.Lives-1)
			}
			b.threadText[b.c.ThreadNumber(i)] = b.b.Text(name)
		}
	}
	return b.threadText[number]
}

func cString(b []byte) string {
	if i := slices.Index(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// frame is the snapshot's frame for a place in a code object.
func (b *snapshotBuilder) frame(code uint32, instr int32) (int32, error) {
	key := frameKey{code, instr}
	if f, ok := b.frames[key]; ok {
		return f, nil
	}
	f, err := b.describeFrame(code, instr)
	if err != nil {
		return 0, err
	}
	b.frames[key] = b.b.Frame(f)
	return b.frames[key], nil
}

func (b *snapshotBuilder) describeFrame(number uint32, instr int32) (heap.Frame, error) {
	if number&agent.CodeObject != 0 {
		path, buildID, err := b.c.Object(number)
		if err != nil {
			return heap.Frame{}, fmt.Errorf("native frame: %w", err)
		}
		return heap.Frame{Module: string(path), BuildID: hex.EncodeToString(buildID), Addr: uint64(uint32(instr))}, nil
	}
	switch number {
	case agent.CodeCut:
		if instr == agent.CutNative {
			return heap.Frame{Func: heap.NativeCut}, nil
		}
		return heap.Frame{Func: "[outer frames not kept]"}, nil
	case agent.CodeUnknown, agent.CodeNone, agent.CodeRoot:
		return heap.Frame{Func: "[unknown code]"}, nil
	}
	codes := b.c.Codes()
	if int(number) >= len(codes) {
		return heap.Frame{}, fmt.Errorf("agent's tables are damaged: code object %d of %d", number, len(codes))
	}
	c := &codes[number]
	f := heap.Frame{FirstLine: max(int(c.FirstLine), 0)}
	var err error
	if f.File, err = b.text(c.File); err != nil {
		return f, err
	}
	if f.Func, err = b.text(c.Qualname); err != nil {
		return f, err
	}
	if f.Func == "" {
		if f.Func, err = b.text(c.Name); err != nil {
			return f, err
		}
	}
	table, err := b.c.Bytes(c.Lines)
	if err != nil {
		return f, err
	}
	h := &b.c.Header.Python
	offset := int(instr) * int(h.InstrUnit)
	if line, ok := cpython.Line(cpython.LineFormat(h.LineFormat), int(c.FirstLine), table, offset); ok {
		f.Line = line
	}
	return f, nil
}

func (b *snapshotBuilder) text(blob agent.Blob) (string, error) {
	raw, err := b.c.Bytes(blob)
	if err != nil || len(raw) == 0 {
		return "", err
	}
	s, err := cpython.DecodeUnicode(int(blob.Kind), raw)
	if err == nil && blob.Cut != 0 {
		s += "…"
	}
	return s, err
}
