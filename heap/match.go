package heap

import (
	"math"
	"slices"
	"strconv"
)

// verdict is what a test says of a block, or of the blocks of a record.
type verdict int8

const (
	unasked verdict = iota
	no
	maybe // labels do not tell
	yes
)

func verdictOf(b bool) verdict {
	if b {
		return yes
	}
	return no
}

// Block is one live block as a filter sees it. Stack and labels are indices in the tables of the snapshot that the
// [Matcher] was made for, as in a [Record].
type Block struct {
	Stack                int32
	Domain, Thread, Type int32
	Age                  int32 // seconds, exactly; UnknownAge
	Size                 uint64
}

// subject is what is judged: a block, or a record's blocks, whose age and size lie in ranges.
type subject struct {
	stack, domain, thread, typ int32
	process                    int32
	ageFrom, ageTo             int64 // seconds, ageTo excluded; both UnknownAge where unknown
	sizeFrom, sizeTo           int64 // sizeTo included
	blocks                     int64 // of the stack
	// notLive says that nothing of the record is live, so that a missing label is one that is not known.
	notLive bool
}

// Matcher is a filter at work on the blocks of one snapshot. It remembers its verdict on each stack and label, so that
// asking about a block is a few table lookups. It is for one goroutine.
type Matcher struct {
	f       *Filter
	s       *Snapshot
	process string // of records that do not say, "" where unknown
	block   *judge
	stack   *judge
	seen    seen
	unknown uint64 // blocks whose age would have decided, and was not known
}

// On returns a matcher for blocks of s, whose tables may still grow (as a [Builder] lets them).
func (f *Filter) On(s *Snapshot) *Matcher {
	return &Matcher{f: f, s: s, process: s.processOf(), block: newJudge(f.block), stack: newJudge(f.stack)}
}

// Block tells whether the block passes. Conditions on `blocks`, which is a number of blocks, are left to
// [Matcher.Finish].
func (m *Matcher) Block(b *Block) bool {
	if m.block == nil {
		return true
	}
	m.seen.add(m.s, b.Stack, b.Type, b.Domain, b.Thread, 0, int64(b.Size))
	m.seen.sizes.add(int64(b.Size), int64(b.Size))
	at := subject{
		stack: b.Stack, domain: b.Domain, thread: b.Thread, typ: b.Type,
		ageFrom: int64(b.Age), ageTo: int64(b.Age) + 1, sizeFrom: int64(b.Size), sizeTo: int64(b.Size),
	}
	if b.Age == UnknownAge {
		at.ageTo = int64(UnknownAge)
	} else {
		m.seen.ages.add(at.ageFrom, at.ageFrom)
	}
	v := m.judge(m.block, &at)
	if v == maybe {
		m.unknown++
	}
	return v == yes
}

// judge is an expression with the verdicts that it has given.
type judge struct {
	*expr
	kids   []*judge
	memory []verdict // by index of the one thing that the expression looks at, plus 1
	frames []verdict // of a test of frames: by frame
}

func newJudge(e *expr) *judge {
	if e == nil {
		return nil
	}
	j := &judge{expr: e}
	for _, k := range e.kids {
		j.kids = append(j.kids, newJudge(k))
	}
	return j
}

// judge returns what the expression says of the subject.
func (m *Matcher) judge(j *judge, at *subject) verdict {
	index := None
	switch j.axes { // what looks at one thing only is remembered
	case stackAxis:
		index = at.stack + 1
	case typeAxis:
		index = at.typ
	case domainAxis:
		index = at.domain
	case threadAxis:
		index = at.thread
	case processAxis:
		index = at.process
	}
	if index < 0 || at.notLive && index == 0 && j.axes != stackAxis && j.axes != processAxis {
		return m.decide(j, at)
	}
	if n := int(index) + 1; n > len(j.memory) {
		j.memory = append(j.memory, make([]verdict, max(n, 2*len(j.memory))-len(j.memory))...)
	}
	if j.memory[index] == unasked {
		j.memory[index] = m.decide(j, at)
	}
	return j.memory[index]
}

func (m *Matcher) decide(j *judge, at *subject) verdict {
	switch j.op {
	case opTest:
		return m.test(j, at)
	case opNot:
		return yes + no - m.judge(j.kids[0], at)
	case opAnd:
		v := yes
		for i := 0; i < len(j.kids) && v != no; i++ {
			v = min(v, m.judge(j.kids[i], at))
		}
		return v
	}
	v := no
	for i := 0; i < len(j.kids) && v != yes; i++ {
		v = max(v, m.judge(j.kids[i], at))
	}
	return v
}

func (m *Matcher) test(j *judge, at *subject) verdict {
	t := j.test
	switch {
	case t.field.axis == typeAxis:
		return m.label(t, at.typ, at)
	case t.field.axis == domainAxis:
		return m.label(t, at.domain, at)
	case t.field.axis == threadAxis:
		return m.label(t, at.thread, at)
	case t.field.axis == processAxis:
		return m.processTest(t, at.process)
	case t.field.frame:
		return m.frameTest(j, at.stack)
	}
	from, to := int64(0), int64(0)
	switch t.field.name {
	case "size":
		from, to = at.sizeFrom, at.sizeTo
	case "age":
		if at.ageTo < 0 {
			return maybe
		}
		from, to = at.ageFrom, at.ageTo-1
	case "blocks":
		from, to = at.blocks, at.blocks
	case "depth":
		for n := at.stack; n != None; n = m.s.Stacks[n].Parent {
			from++
		}
		to = from
	}
	return within(t, from, to)
}

// processTest judges the process of a record: its number, or its name.
func (m *Matcher) processTest(t *test, index int32) verdict {
	process := m.s.Text(index)
	if process == "" {
		process = m.process
	}
	if t.field.value == textValue {
		return verdictOf(t.ofText(process))
	}
	pid, _ := ProcessName(process)
	if pid == 0 {
		return maybe
	}
	return within(t, pid, pid)
}

// label judges a text.
func (m *Matcher) label(t *test, index int32, at *subject) verdict {
	if index == 0 && at.notLive {
		return maybe
	}
	return verdictOf(t.ofText(m.s.Text(index)))
}

// within judges numbers of which is known between what they lie, including both.
func within(t *test, from, to int64) verdict {
	low, high := t.span()
	switch {
	case low <= from && to <= high:
		return yes
	case to < low || high < from:
		return no
	}
	return maybe
}

// frameTest judges the innermost frame of a stack, or whether any frame of it does. What the interpreter's own machine code
// allocates, its caller does, too: at a dump such frames are still there.
func (m *Matcher) frameTest(j *judge, stack int32) verdict {
	if stack == None {
		return verdictOf(j.test.ofFrame(Frame{}))
	}
	if !j.test.anywhere {
		v := m.frame(j, m.s.Stacks[stack].Frame)
		if at := m.s.allocating(stack); v != yes && at != stack {
			v = m.frame(j, m.s.Stacks[at].Frame)
		}
		return v
	}
	for ; stack != None; stack = m.s.Stacks[stack].Parent {
		// What was said of a caller's stack holds for all that it called.
		if index := int(stack) + 1; index < len(j.memory) && j.memory[index] != unasked {
			return j.memory[index]
		}
		if m.frame(j, m.s.Stacks[stack].Frame) == yes {
			return yes
		}
	}
	return no
}

func (m *Matcher) frame(j *judge, frame int32) verdict {
	if int(frame) >= len(j.frames) {
		j.frames = append(j.frames, make([]verdict, len(m.s.Frames)-len(j.frames))...)
	}
	if j.frames[frame] == unasked {
		j.frames[frame] = verdictOf(j.test.ofFrame(m.s.Frames[frame]))
	}
	return j.frames[frame]
}

// ofFrame tells whether a frame passes the test; the zero frame stands for none.
func (t *test) ofFrame(f Frame) bool {
	switch t.field.name {
	case "own":
		_, own := f.ModuleName()
		return own
	case "line":
		return within(t, int64(f.Line), int64(f.Line)) == yes
	case "func":
		return t.ofText(f.Func)
	case "file":
		return t.ofText(f.File) || f.Native() && t.ofText(f.Module)
	}
	return t.ofModule(f.ModuleName())
}

// ofModule tells whether a module passes the test.
func (t *test) ofModule(module string, own bool) bool {
	if t.pattern != nil {
		return t.pattern.matchesModule(module, own)
	}
	return t.ofText(module)
}

// Apply returns the part of a snapshot that passes, judged by records: what the labels of a record leave open (an age
// within its bucket, a size between the record's smallest and largest) is left out, and Info says how much that is.
// Where nothing passes, the error is a *[NoMatchError].
func (f *Filter) Apply(s *Snapshot) (*Snapshot, error) {
	if f.all == nil {
		return s, nil
	}
	m := f.On(s)
	kept := *s
	kept.Records = nil
	var open Values
	for i := range s.Records {
		at := subjectOf(&s.Records[i], s.SampleBytes != 0)
		m.seen.addRecord(s, &s.Records[i], &at)
		v := yes
		if m.block != nil {
			v = m.judge(m.block, &at)
		}
		switch v {
		case yes:
			kept.Records = append(kept.Records, s.Records[i])
		case maybe:
			open.Add(s.Records[i].Values())
		}
	}
	return m.finish(&kept, open)
}

// Finish takes a snapshot of which all live blocks have passed [Matcher.Block], and does the rest: of what is not live
// (allocated once, live at the peak) only what passes stays, and of all that only stacks with the wanted number of
// blocks. It drops what nothing refers to any more, and notes the filter in Info. Where nothing is left, the error is a
// *[NoMatchError].
func (m *Matcher) Finish(s *Snapshot) (*Snapshot, error) {
	if m.f.all == nil {
		return s, nil
	}
	var open Values
	open[InuseBlocks] = int64(m.unknown)
	kept := *s
	kept.Records = slices.Clone(s.Records)
	if m.block != nil {
		kept.Records = slices.DeleteFunc(kept.Records, func(r Record) bool {
			at := subjectOf(&r, s.SampleBytes != 0)
			if !at.notLive {
				return false
			}
			v := m.judge(m.block, &at)
			if v == maybe {
				open.Add(r.Values())
			}
			return v != yes
		})
	}
	return m.finish(&kept, open)
}

func (m *Matcher) finish(s *Snapshot, open Values) (*Snapshot, error) {
	if m.stack != nil {
		m.keepStacks(s)
	}
	if !slices.ContainsFunc(s.Records, func(r Record) bool { return !r.Values().IsZero() }) {
		return nil, m.noMatch(open)
	}
	s = s.compact()
	s.Info = append(slices.Clone(s.Info), KeyValue{InfoFilter, m.f.String()})
	if text := openText(open); text != "" {
		s.Info = append(s.Info, KeyValue{InfoUndecided, text})
	}
	return s, nil
}

// keepStacks drops the records whose stack, by the number of its live blocks in the process, does not pass.
func (m *Matcher) keepStacks(s *Snapshot) {
	type place struct{ stack, process int32 }
	blocks := make(map[place]int64, len(s.Records))
	for i := range s.Records {
		r := &s.Records[i]
		blocks[place{r.Stack, r.Process}] += r.InuseBlocks
	}
	kept := slices.Clone(s.Records)
	s.Records = slices.DeleteFunc(kept, func(r Record) bool {
		at := subject{stack: r.Stack, process: r.Process, blocks: blocks[place{r.Stack, r.Process}]}
		return m.judge(m.stack, &at) != yes
	})
}

// subjectOf is what a record's labels say of its blocks.
func subjectOf(r *Record, sampled bool) subject {
	at := subject{
		stack: r.Stack, domain: r.Domain, thread: r.Thread, typ: r.Type, process: r.Process, notLive: r.InuseBlocks == 0,
		ageFrom: int64(r.Age), ageTo: int64(UnknownAge), sizeFrom: r.MinSize, sizeTo: r.MaxSize,
	}
	if r.Age != UnknownAge {
		at.ageTo = int64(AgeBucketEnd(r.Age))
	}
	if r.MaxSize == 0 && (r.InuseBytes > 0 || at.notLive) {
		at.sizeTo = math.MaxInt64 // not known
		if r.InuseBlocks == 1 && !sampled {
			at.sizeFrom, at.sizeTo = r.InuseBytes, r.InuseBytes
		}
	}
	return at
}

// Pid returns the number of the process that the snapshot is of, as its Info has it.
func (s *Snapshot) Pid() (int64, bool) {
	for _, kv := range s.Info {
		if kv.Key == InfoPid {
			pid, err := strconv.ParseInt(kv.Value, 10, 64)
			return pid, err == nil && pid > 0
		}
	}
	return 0, false
}

// Keys of Info that this package writes or reads.
const (
	InfoPid       = "pid"         // of the process
	InfoProcesses = "processes"   // of a merged snapshot, by their names
	InfoPython    = "python"      // version and flavour of its interpreter
	InfoCommand   = "command"     // its command line
	InfoFilter    = "filter"      // the filter that the snapshot's blocks have passed
	InfoUndecided = "not decided" // what the filter could not decide, and left out
)

// compact returns the snapshot without strings, frames and stacks that no record needs.
func (s *Snapshot) compact() *Snapshot {
	needed := make([]bool, len(s.Stacks))
	for i := range s.Records {
		if n := s.Records[i].Stack; n != None {
			needed[n] = true
		}
	}
	for i, n := range slices.Backward(s.Stacks) {
		if needed[i] && n.Parent != None {
			needed[n.Parent] = true
		}
	}
	small := *s
	small.Strings, small.Frames, small.Stacks = []string{""}, nil, nil
	stacks := make([]int32, len(s.Stacks))
	frames := make([]int32, len(s.Frames)) // new index + 1
	for i, n := range s.Stacks {
		if !needed[i] {
			continue
		}
		if frames[n.Frame] == 0 {
			small.Frames = append(small.Frames, s.Frames[n.Frame])
			frames[n.Frame] = int32(len(small.Frames))
		}
		stacks[i] = int32(len(small.Stacks))
		parent := n.Parent
		if parent != None {
			parent = stacks[parent]
		}
		small.Stacks = append(small.Stacks, Stack{Parent: parent, Frame: frames[n.Frame] - 1})
	}
	texts := make([]int32, max(1, len(s.Strings)))
	text := func(i int32) int32 {
		if i != 0 && texts[i] == 0 {
			texts[i] = int32(len(small.Strings))
			small.Strings = append(small.Strings, s.Strings[i])
		}
		return texts[i]
	}
	small.Records = slices.Clone(s.Records)
	for i := range small.Records {
		r := &small.Records[i]
		if r.Stack != None {
			r.Stack = stacks[r.Stack]
		}
		r.Domain, r.Thread, r.Type, r.Process = text(r.Domain), text(r.Thread), text(r.Type), text(r.Process)
	}
	return &small
}
