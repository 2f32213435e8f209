package heap

import (
	"cmp"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Write writes the snapshot as a gzipped pprof profile in the shape of Go's heap profile: sample types alloc_objects,
// alloc_space, inuse_objects and inuse_space (the default), preceded by temporary_objects and peak_* where any record has such; labels type, domain,
// thread and, where there are several, process (texts), age (seconds) and bytes (the size of the live blocks, or two: the smallest and the largest); stacks
// leaf first; Info, PeakTime and Timeline as comments "key: value".
//
// Records are written in the order of their stacks in the trie.
//
// Errors are those of w, and that the snapshot does not pass [Snapshot.Check].
func (s *Snapshot) Write(w io.Writer) error {
	if err := s.Check(); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	// Stacks repeat so much that the fastest level makes the file a fifth larger than the default in a quarter of the
	// time.
	zw, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	e := encoder{w: zw, s: s, strings: map[string]uint64{}}
	e.text("") // the format wants the empty string first
	e.profile()
	e.flush()
	if e.err == nil {
		e.err = zw.Close()
	}
	if e.err != nil {
		return fmt.Errorf("write snapshot: %w", e.err)
	}
	return nil
}

// flushAt is the number of pending bytes at which an encoder hands them on.
const flushAt = 64 << 10

// encoder writes one profile. The first error sticks.
type encoder struct {
	w       io.Writer
	err     error
	pending []byte // of the profile, not yet written

	s       *Snapshot
	strings map[string]uint64
	table   []string // the strings, in the order of their numbers
}

// text returns the number of a string in the profile's table. The format demands UTF-8; what is not becomes U+FFFD.
func (e *encoder) text(t string) uint64 {
	n, ok := e.strings[t]
	if !ok {
		n = uint64(len(e.table))
		e.strings[t] = n
		e.table = append(e.table, strings.ToValidUTF8(t, "\uFFFD"))
	}
	return n
}

// emit adds a field of the profile itself.
func (e *encoder) emit(field int, body []byte) {
	e.pending = appendBytes(e.pending, field, body)
	if len(e.pending) >= flushAt {
		e.flush()
	}
}

func (e *encoder) flush() {
	if e.err == nil {
		_, e.err = e.w.Write(e.pending)
	}
	e.pending = e.pending[:0]
}

func (e *encoder) profile() {
	total := e.s.Total()
	peak := total[PeakBytes] != 0 || total[PeakBlocks] != 0
	columns := slices.DeleteFunc(slices.Clone(columnOrder[:]), func(m Metric) bool {
		return m == TempBlocks && total[m] == 0 || (m == PeakBytes || m == PeakBlocks) && !peak
	})
	for _, m := range columns {
		e.emit(profileSampleType, e.valueType(m.String(), metricNames[m].unit))
	}
	locations := len(e.s.Frames)
	e.samples(columns, uint64(locations+1))
	e.locations()

	if !e.s.Time.IsZero() {
		e.pending = appendVarint(e.pending, profileTimeNanos, uint64(e.s.Time.UnixNano()))
	}
	e.pending = appendVarint(e.pending, profileDurationNanos, uint64(e.s.Duration))
	e.emit(profilePeriodType, e.valueType(periodType, unitBytes))
	e.pending = appendVarint(e.pending, profilePeriod, max(e.s.SampleBytes, exactPeriod))
	for _, kv := range e.s.Info {
		e.comment(kv)
	}
	if !e.s.PeakTime.IsZero() {
		e.comment(KeyValue{keyPeakTime, e.s.PeakTime.UTC().Format(momentForm)})
	}
	if len(e.s.Timeline) > 0 {
		e.comment(KeyValue{keyTimeline, formatTimeline(e.s.Timeline)})
	}
	e.pending = appendVarint(e.pending, profileDefaultType, e.text(InuseBytes.String()))
	for _, t := range e.table {
		e.emit(profileString, []byte(t))
	}
}

func (e *encoder) comment(kv KeyValue) {
	e.pending = appendVarint(e.pending, profileComment, e.text(kv.Key+commentSeparator+kv.Value))
}

func (e *encoder) valueType(name, unit string) []byte {
	b := appendVarint(nil, valueTypeType, e.text(name))
	return appendVarint(b, valueTypeUnit, e.text(unit))
}

// samples writes the records. A frame's location has the frame's index + 1 as its number; absent is the location that
// stands for no stack.
func (e *encoder) samples(columns []Metric, absent uint64) {
	labels := e.labels()
	var body, packed []byte
	for _, i := range e.order() {
		r := &e.s.Records[i]
		packed = packed[:0]
		for n := r.Stack; n != None; n = e.s.Stacks[n].Parent {
			packed = binary.AppendUvarint(packed, uint64(e.s.Stacks[n].Frame)+1)
		}
		if r.Stack == None {
			packed = binary.AppendUvarint(packed, absent)
		}
		body = appendBytes(body[:0], sampleLocation, packed)

		packed = packed[:0]
		values := r.Values()
		for _, m := range columns {
			packed = binary.AppendUvarint(packed, uint64(values[m]))
		}
		body = appendBytes(body, sampleValue, packed)
		body = labels.append(body, r)
		e.emit(profileSample, body)
	}
}

// order returns the indices of the records such that neighbours have like stacks: depth first in the trie. The file
// becomes smaller, and [Read] looks up only what differs from the record before.
func (e *encoder) order() []int32 {
	rank := make([]int32, len(e.s.Stacks)+1) // of stack+1; those without a stack come first
	next := int32(1)
	e.s.walk(func(node int32) { rank[node+1], next = next, next+1 }, func(int32) {})
	order := make([]int32, len(e.s.Records))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		return cmp.Compare(rank[e.s.Records[a].Stack+1], rank[e.s.Records[b].Stack+1])
	})
	return order
}

// labelTexts are the numbers that labels need in the profile's string table.
type labelTexts struct {
	strings                            []uint64 // for each of the snapshot's strings
	domain, thread, typ, age, ageUnits uint64
	size, sizeUnits                    uint64
	process                            uint64 // 0 where no record has it
	scratch                            []byte
}

func (e *encoder) labels() *labelTexts {
	l := &labelTexts{
		strings: make([]uint64, max(1, len(e.s.Strings))),
		domain:  e.text(keyDomain), thread: e.text(keyThread), typ: e.text(keyType),
		age: e.text(keyAge), ageUnits: e.text(unitAge), size: e.text(keySize), sizeUnits: e.text(unitBytes),
	}
	if slices.ContainsFunc(e.s.Records, func(r Record) bool { return r.Process != 0 }) {
		l.process = e.text(keyProcess)
	}
	for i, t := range e.s.Strings {
		l.strings[i] = e.text(t)
	}
	return l
}

// append adds the labels of r to the body of its sample.
func (l *labelTexts) append(body []byte, r *Record) []byte {
	for _, label := range [...]struct {
		key  uint64
		text int32
	}{{l.domain, r.Domain}, {l.thread, r.Thread}, {l.typ, r.Type}, {l.process, r.Process}} {
		if label.text == 0 {
			continue
		}
		l.scratch = appendVarint(l.scratch[:0], labelKey, label.key)
		l.scratch = appendVarint(l.scratch, labelStr, l.strings[label.text])
		body = appendBytes(body, sampleLabel, l.scratch)
	}
	if r.Age != UnknownAge {
		body = l.number(body, l.age, uint64(r.Age), l.ageUnits)
	}
	if r.MaxSize > 0 {
		body = l.number(body, l.size, uint64(r.MinSize), l.sizeUnits)
	}
	if r.MaxSize > r.MinSize {
		body = l.number(body, l.size, uint64(r.MaxSize), l.sizeUnits)
	}
	return body
}

func (l *labelTexts) number(body []byte, key, v, units uint64) []byte {
	l.scratch = appendVarint(l.scratch[:0], labelKey, key)
	l.scratch = appendVarint(l.scratch, labelNum, v)
	l.scratch = appendVarint(l.scratch, labelUnit, units)
	return appendBytes(body, sampleLabel, l.scratch)
}

// pythonMapping is the number of the mapping of Python code.
const pythonMapping = 1

// locations writes a location for each frame and one for the absent stack, their functions and the mappings.
func (e *encoder) locations() {
	e.mapping(pythonMapping, mappingName, "", true)
	mappings := e.modules()

	functions := map[Frame]uint64{}
	var body, line []byte
	for i := range len(e.s.Frames) + 1 {
		f := Frame{Func: noStack}
		if i < len(e.s.Frames) {
			f = e.s.Frames[i]
		}
		body = appendVarint(body[:0], locationID, uint64(i+1))
		if f.Native() {
			body = appendVarint(body, locationMapping, mappings[module{f.Module, f.BuildID}])
			if f.Addr != 0 {
				body = appendVarint(body, locationAddress, f.Addr)
			}
		} else {
			body = appendVarint(body, locationMapping, pythonMapping)
		}
		if !f.Native() || f.symbolized() {
			line = appendVarint(line[:0], lineFunction, e.function(functions, f))
			line = appendVarint(line, lineLine, uint64(f.Line))
			body = appendBytes(body, locationLine, line)
		}
		e.emit(profileLocation, body)
	}
}

// module is an ELF object.
type module struct{ path, buildID string }

// symbolized tells whether anything is known of a frame of machine code but its address.
func (f Frame) symbolized() bool {
	return f.Func != "" || f.File != "" || f.Line != 0 || f.FirstLine != 0
}

// modules writes a mapping for each ELF object and returns their numbers. One of which something is symbolized counts as
// symbolized, so that pprof leaves it alone.
func (e *encoder) modules() map[module]uint64 {
	var order []module
	symbolized := map[module]bool{}
	for _, f := range e.s.Frames {
		if !f.Native() {
			continue
		}
		m := module{f.Module, f.BuildID}
		if _, known := symbolized[m]; !known {
			order = append(order, m)
		}
		symbolized[m] = symbolized[m] || f.symbolized()
	}
	numbers := map[module]uint64{}
	for i, m := range order {
		numbers[m] = uint64(pythonMapping + 1 + i)
		e.mapping(numbers[m], m.path, m.buildID, symbolized[m])
	}
	return numbers
}

// mapping writes a mapping.
func (e *encoder) mapping(id uint64, file, buildID string, symbolized bool) {
	body := appendVarint(nil, mappingID, id)
	body = appendVarint(body, mappingFile, e.text(file))
	if buildID != "" {
		body = appendVarint(body, mappingBuildID, e.text(buildID))
	}
	if symbolized {
		body = appendVarint(body, mappingHasFunctions, 1)
		body = appendVarint(body, mappingHasFilenames, 1)
		body = appendVarint(body, mappingHasLineNumbers, 1)
	}
	e.emit(profileMapping, body)
}

// function returns the number of the function of f, which it writes when it is new. The system name stays empty: where
// both names are equal, pprof takes them for C++ and cuts what stands in angle brackets, all of "<module>".
func (e *encoder) function(functions map[Frame]uint64, f Frame) uint64 {
	f = Frame{Func: f.Func, File: f.File, FirstLine: f.FirstLine}
	n, ok := functions[f]
	if !ok {
		n = uint64(len(functions) + 1)
		functions[f] = n
		body := appendVarint(nil, functionID, n)
		body = appendVarint(body, functionName, e.text(f.Func))
		body = appendVarint(body, functionFile, e.text(f.File))
		body = appendVarint(body, functionStartLine, uint64(f.FirstLine))
		e.emit(profileFunction, body)
	}
	return n
}

// appendVarint adds a field that holds a number.
func appendVarint(b []byte, field int, v uint64) []byte {
	b = binary.AppendUvarint(b, uint64(field)<<3|wireVarint)
	return binary.AppendUvarint(b, v)
}

// appendBytes adds a field that holds a string, a message or packed numbers.
func appendBytes(b []byte, field int, body []byte) []byte {
	b = binary.AppendUvarint(b, uint64(field)<<3|wireBytes)
	b = binary.AppendUvarint(b, uint64(len(body)))
	return append(b, body...)
}
