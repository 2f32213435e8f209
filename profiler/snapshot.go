package profiler

import (
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
	pid      int
	command  string
	taken    time.Time
	pause    time.Duration
	paused   bool
	resident uint64 // bytes of the process in memory
	own      uint64 // of these heaptap's own
}

// ageBuckets are the lower bounds, in seconds, into which ages are sorted.
var ageBuckets = [...]int32{0, 1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600}

// buildSnapshot turns a copy of the tables into a snapshot, and counts the live blocks.
func buildSnapshot(c *agent.Capture, types *typeLabels, info snapshotInfo) (*heap.Snapshot, uint64, error) {
	h := &c.Header
	s := &heap.Snapshot{
		Time: info.taken, Duration: info.taken.Sub(time.Unix(0, int64(h.Started))), SampleBytes: h.Config.SampleBytes,
	}
	b := &snapshotBuilder{
		c: c, b: heap.NewBuilder(s), nodes: c.Nodes(), types: types,
		frames: map[frameKey]int32{}, threadText: map[int32]int32{},
	}
	b.first = make([]int32, len(b.nodes))
	for d, name := range agent.DomainNames {
		b.domainText[d] = b.b.Text(name)
	}
	now, err := epochAt(h, info.taken)
	if err != nil {
		return nil, 0, err
	}
	blocks, err := b.countLive(now)
	if err != nil {
		return nil, 0, err
	}
	b.countStats()
	if h.Config.Clock != 0 && h.PeakBytes != 0 {
		s.PeakTime = momentOf(h.PeakEpoch, info.taken, now)
	}
	s.Timeline = timeline(c, info.taken, now)
	if err := b.resolve(s); err != nil {
		return nil, 0, err
	}
	s.Info = describeSnapshot(h, info)
	return s, blocks, s.Check()
}

func describeSnapshot(h *agent.Tables, info snapshotInfo) []heap.KeyValue {
	kv := []heap.KeyValue{
		{Key: "python", Value: pythonOf(h).Version + " (" + pythonOf(h).Flavour + ")"},
		{Key: "pid", Value: strconv.Itoa(info.pid)},
	}
	if info.command != "" {
		kv = append(kv, heap.KeyValue{Key: "command", Value: info.command})
	}
	if info.resident != 0 {
		kv = append(kv, heap.KeyValue{Key: "rss", Value: fmt.Sprintf("%d bytes", info.resident)},
			heap.KeyValue{Key: "heaptap's own", Value: fmt.Sprintf("%d bytes", info.own)})
	}
	if h.Config.Temporary != 0 {
		kv = append(kv, heap.KeyValue{Key: "temporary", Value: fmt.Sprintf("freed within %d allocations of its thread", h.Config.Temporary)})
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

// snapshotBuilder sums blocks by stack and labels. Records of a node form a chain, so that summing needs no map.
type snapshotBuilder struct {
	c     *agent.Capture
	b     *heap.Builder
	nodes []agent.Node
	types *typeLabels

	first []int32 // for each node: index+1 of its first tally
	tally []tally

	frames     map[frameKey]int32
	threadText map[int32]int32 // thread number to label
	domainText [agent.Domains]int32
}

type tally struct {
	next   int32 // index+1
	node   uint32
	domain int8  // -1: all
	bucket int8  // index in ageBuckets; -1: unknown
	typ    int32 // index in types.names; 0: unknown
	record heap.Record
}

func (b *snapshotBuilder) at(node uint32, domain, bucket int8, typ int32) *heap.Record {
	for i := b.first[node]; i != 0; i = b.tally[i-1].next {
		if t := &b.tally[i-1]; t.domain == domain && t.bucket == bucket && t.typ == typ {
			return &t.record
		}
	}
	b.tally = append(b.tally, tally{next: b.first[node], node: node, domain: domain, bucket: bucket, typ: typ})
	b.first[node] = int32(len(b.tally))
	return &b.tally[len(b.tally)-1].record
}

// countLive sums the live map. Sampled blocks stand for the blocks that were not sampled: a block of s bytes is sampled
// with probability 1-exp(-s/rate).
func (b *snapshotBuilder) countLive(now int64) (uint64, error) {
	rate := float64(b.c.Header.Config.SampleBytes)
	typeOf := b.types.lookup()
	var blocks uint64
	for blk, err := range b.c.Blocks() {
		if err != nil {
			return 0, err
		}
		blocks++
		bucket := int8(-1)
		if b.c.Header.Config.Clock != 0 {
			bucket = ageBucket(now - int64(agent.Seconds(blk.Epoch)))
		}
		r := b.at(blk.Node, int8(blk.Domain), bucket, typeOf(blk.Addr))
		if rate == 0 {
			r.InuseBlocks++
			r.InuseBytes += int64(blk.Size)
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

func ageBucket(age int64) int8 {
	i, found := slices.BinarySearchFunc(ageBuckets[:], age, func(b int32, age int64) int { return int(int64(b) - age) })
	if !found {
		i--
	}
	return int8(max(i, 0))
}

// countStats adds what is known by stack only, not by domain: what was ever allocated, and what was live at the peak.
func (b *snapshotBuilder) countStats() {
	shift := sampleShift(&b.c.Header)
	stats := b.c.Stats()
	for n := agent.FirstNode; n < len(b.nodes); n++ {
		s := &stats[n]
		if s.AllocBlocks == 0 {
			continue
		}
		domain := int8(-1)
		if node := &b.nodes[n]; node.Code == agent.CodeDomain && node.Instr >= 0 && node.Instr < agent.Domains {
			domain = int8(node.Instr)
		}
		r := b.at(uint32(n), domain, -1, 0)
		r.AllocBlocks = int64(s.AllocBlocks >> shift)
		r.AllocBytes = int64(s.AllocBytes >> shift)
		blocks, bytes := b.c.AtPeak(s)
		// What a thread without the GIL is about to free may be half counted.
		r.PeakBlocks = max(int64(blocks), 0) >> shift
		r.PeakBytes = max(int64(bytes), 0) >> shift
		r.TempBlocks = int64(s.Temporary)
	}
}

// resolve gives the tallies their stacks and labels and puts them into the snapshot.
func (b *snapshotBuilder) resolve(s *heap.Snapshot) error {
	// Which nodes are needed? A parent has a smaller number than its children.
	needed := make([]bool, len(b.nodes))
	for i := range b.tally {
		needed[b.tally[i].node] = true
	}
	for n := len(b.nodes) - 1; n >= agent.FirstNode; n-- {
		if needed[n] {
			if p := b.nodes[n].Parent; int(p) >= n {
				return fmt.Errorf("agent's tables are damaged: stack %d has parent %d", n, p)
			}
			needed[b.nodes[n].Parent] = true
		}
	}
	stack := make([]int32, len(b.nodes))
	thread := make([]int32, len(b.nodes))
	for n := range b.nodes {
		stack[n] = heap.None
		if !needed[n] || n < agent.FirstNode {
			continue
		}
		node := &b.nodes[n]
		if node.Parent == 0 && node.Code == agent.CodeRoot {
			thread[n] = b.thread(node.Instr)
			continue
		}
		thread[n] = thread[node.Parent]
		if node.Code == agent.CodeDomain { // its blocks have its parent's stack
			stack[n] = stack[node.Parent]
			continue
		}
		frame, err := b.frame(node.Code, node.Instr)
		if err != nil {
			return err
		}
		stack[n] = b.b.Push(stack[node.Parent], frame)
	}
	typeText := make([]int32, len(b.types.names))
	for i, name := range b.types.names {
		typeText[i] = b.b.Text(name)
	}
	s.Records = make([]heap.Record, len(b.tally))
	for i := range b.tally {
		t := &b.tally[i]
		r := t.record
		r.Stack, r.Thread, r.Age = stack[t.node], thread[t.node], heap.UnknownAge
		r.Type = typeText[t.typ]
		if t.domain >= 0 {
			r.Domain = b.domainText[t.domain]
		}
		if t.bucket >= 0 {
			r.Age = ageBuckets[t.bucket]
		}
		s.Records[i] = r
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
	switch number {
	case agent.CodeCut:
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
