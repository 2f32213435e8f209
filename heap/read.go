package heap

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// Bounds on what a file may make [Read] use. A snapshot of 300,000 records in stacks 1000 deep stays below them.
const (
	maxFileBytes = 1 << 30 // uncompressed
	maxNodes     = 1 << 25 // of the trie
	maxPushes    = 1 << 28 // frames in which samples differ from the one before
)

// ErrNotHeap is wrapped by the errors of [Read] for a valid profile of something else than memory.
var ErrNotHeap = errors.New("not a heap profile")

// Read reads a snapshot as [Snapshot.Write] writes it, or any other heap profile in pprof's format (profile.proto,
// gzipped or not): those of Go, of tcmalloc and jemalloc by way of pprof, of Node.js, of Datadog's Python profiler.
//
// Of a foreign profile it takes the sample types that it knows and the labels type, domain, thread, process, age and
// bytes; Info names the sample types that were left out. Addresses without a symbol become functions named by them. It refuses
// profiles without a known sample type in bytes ([ErrNotHeap]) and those with negative values, which are differences.
//
// The bytes need not be trusted: whatever they are, the answer is a snapshot that passes [Snapshot.Check] or an error.
func Read(r io.Reader) (*Snapshot, error) {
	data, err := readAll(r)
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	d := decoder{data: data}
	if err := d.decode(); err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	return &d.s, nil
}

// readAll returns the uncompressed content of r.
func readAll(r io.Reader) ([]byte, error) {
	in := bufio.NewReader(r)
	magic, err := in.Peek(2)
	if err != nil && err != io.EOF {
		return nil, err
	}
	var plain io.Reader = in
	if string(magic) == "\x1f\x8b" {
		zr, err := gzip.NewReader(in)
		if err != nil {
			return nil, err
		}
		plain = zr
	}
	var data bytes.Buffer // whose growth by doubling copies less than io.ReadAll's
	_, err = data.ReadFrom(io.LimitReader(plain, maxFileBytes+1))
	switch {
	case err != nil:
		return nil, err
	case data.Len() == 0:
		return nil, errors.New("the file is empty")
	case data.Len() > maxFileBytes:
		return nil, fmt.Errorf("more than %d bytes when uncompressed", maxFileBytes)
	}
	return data.Bytes(), nil
}

// decoder reads one profile in two passes: the tables, which may stand behind the samples, then the samples.
type decoder struct {
	data []byte
	s    Snapshot

	strings     []string
	sampleTypes []valueType
	period      uint64
	periodType  valueType
	comments    []uint64
	mappings    map[uint64]mapping
	functions   map[uint64]function
	locations   locations

	columns []int // for each sample type: a Metric, or notRead

	build  *Builder
	ids    []uint64 // of the sample at hand: its locations, leaf first,
	values []uint64 // and its values
	last   []uint64 // of the sample before: its locations, leaf first,
	nodes  []int32  // and, root first, the stack down to each of them
	pushed int      // frames that were looked up
}

// valueType is a pair of strings' numbers.
type valueType struct{ name, unit uint64 }

type function struct{ name, file, firstLine uint64 }

// mapping has the numbers of its strings; whole says that addresses in it are the ELF object's own.
type mapping struct {
	file, buildID uint64
	whole         bool
}

type line struct{ function, line uint64 }

type location struct {
	mapping, address uint64
	lines            []line  // innermost first
	frames           []int32 // the same in the snapshot, outermost first,
	done             bool    // where they have been made
}

// notRead is the column of a sample type that heaptap does not know.
const notRead = -1

func (d *decoder) decode() error {
	d.mappings = map[uint64]mapping{}
	d.functions = map[uint64]function{}
	if err := eachField(d.data, d.table); err != nil {
		return fmt.Errorf("not a pprof profile: %w", err)
	}
	if len(d.strings) == 0 || d.strings[0] != "" {
		return errors.New("not a pprof profile: its string table does not begin with an empty string")
	}
	if err := d.chooseColumns(); err != nil {
		return err
	}
	d.build = NewBuilder(&d.s)
	sample := 0
	err := eachField(d.data, func(f field) error {
		if f.number != profileSample {
			return nil
		}
		sample++
		if err := d.sample(f); err != nil {
			return fmt.Errorf("sample %d: %w", sample, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := d.header(); err != nil {
		return err
	}
	return d.s.Check()
}

// table takes one field of the profile that is not a sample.
func (d *decoder) table(f field) error {
	switch f.number {
	case profileSample:
		_, err := f.body()
		return err
	case profileSampleType:
		v, err := f.valueType()
		d.sampleTypes = append(d.sampleTypes, v)
		return err
	case profilePeriodType:
		v, err := f.valueType()
		d.periodType = v
		return err
	case profileMapping:
		return d.mapping(f)
	case profileLocation:
		return d.location(f)
	case profileFunction:
		return d.function(f)
	case profileString:
		b, err := f.body()
		d.strings = append(d.strings, string(b))
		return err
	case profileComment:
		var err error
		d.comments, err = f.appendNumbers(d.comments)
		return err
	case profileTimeNanos:
		if !d.s.Time.IsZero() {
			return errors.New("several profiles one after the other")
		}
		n, err := f.number64()
		if n != 0 {
			d.s.Time = time.Unix(0, int64(n)).UTC()
		}
		return err
	case profileDurationNanos:
		n, err := f.number64()
		d.s.Duration = max(0, time.Duration(n))
		return err
	case profilePeriod:
		n, err := f.number64()
		d.period = n
		return err
	}
	return nil
}

// scalars reads a message of numbers: to[i] receives field i+1.
func (f field) scalars(to ...*uint64) error {
	body, err := f.body()
	if err != nil {
		return err
	}
	return eachField(body, func(f field) (err error) {
		if f.number <= len(to) && to[f.number-1] != nil {
			*to[f.number-1], err = f.number64()
		}
		return err
	})
}

func (f field) valueType() (v valueType, err error) {
	to := [2]*uint64{valueTypeType - 1: &v.name, valueTypeUnit - 1: &v.unit}
	return v, f.scalars(to[:]...)
}

func (d *decoder) mapping(f field) error {
	var id, start, limit, offset uint64
	var m mapping
	to := [mappingBuildID]*uint64{
		mappingID - 1: &id, mappingStart - 1: &start, mappingLimit - 1: &limit, mappingOffset - 1: &offset,
		mappingFile - 1: &m.file, mappingBuildID - 1: &m.buildID,
	}
	err := f.scalars(to[:]...)
	m.whole = start == 0 && offset == 0 && (limit == 0 || limit == math.MaxUint64)
	d.mappings[id] = m
	return err
}

func (d *decoder) function(f field) error {
	var id uint64
	var fn function
	to := [functionStartLine]*uint64{
		functionID - 1: &id, functionName - 1: &fn.name, functionFile - 1: &fn.file,
		functionStartLine - 1: &fn.firstLine,
	}
	err := f.scalars(to[:]...)
	if _, twice := d.functions[id]; twice || id == 0 {
		return fmt.Errorf("function %d is there twice, or 0", id)
	}
	d.functions[id] = fn
	return err
}

func (d *decoder) location(f field) error {
	body, err := f.body()
	if err != nil {
		return err
	}
	var id uint64
	var l location
	err = eachField(body, func(f field) (err error) {
		switch f.number {
		case locationID:
			id, err = f.number64()
		case locationMapping:
			l.mapping, err = f.number64()
		case locationAddress:
			l.address, err = f.number64()
		case locationLine:
			var ln line
			err = f.scalars(&ln.function, &ln.line)
			l.lines = append(l.lines, ln)
		}
		return err
	})
	if err != nil {
		return err
	}
	return d.locations.add(id, l)
}

// locations finds a location by its number. Nearly every profile numbers them 1, 2, 3, …, for which a slice does.
type locations struct {
	all    []location
	sparse map[uint64]int // index in all; nil while the numbers are dense
}

func (t *locations) add(id uint64, l location) error {
	if id == 0 {
		return errors.New("a location has the number 0")
	}
	if t.sparse == nil && id != uint64(len(t.all)+1) {
		t.sparse = map[uint64]int{}
		for i := range t.all {
			t.sparse[uint64(i+1)] = i
		}
	}
	if t.sparse != nil {
		if _, twice := t.sparse[id]; twice {
			return fmt.Errorf("location %d is there twice", id)
		}
		t.sparse[id] = len(t.all)
	}
	t.all = append(t.all, l)
	return nil
}

func (t *locations) find(id uint64) (*location, error) {
	if t.sparse != nil {
		if i, ok := t.sparse[id]; ok {
			return &t.all[i], nil
		}
	} else if id-1 < uint64(len(t.all)) {
		return &t.all[id-1], nil
	}
	return nil, fmt.Errorf("location %d does not exist", id)
}

func (d *decoder) text(n uint64) (string, error) {
	if n >= uint64(len(d.strings)) {
		return "", fmt.Errorf("string %d of %d", n, len(d.strings))
	}
	return d.strings[n], nil
}

func (d *decoder) texts(v valueType) (name, unit string, err error) {
	if name, err = d.text(v.name); err != nil {
		return "", "", err
	}
	unit, err = d.text(v.unit)
	return name, unit, err
}

// foreignMetric returns the metric to which others give this name.
func foreignMetric(name string) (Metric, bool) {
	switch name {
	case "space", "heap-space": // pprof's older heap profiles and Node.js; Datadog's Python profiler
		return InuseBytes, true
	case "objects":
		return InuseBlocks, true
	case "alloc-space":
		return AllocBytes, true
	case "alloc-samples":
		return AllocBlocks, true
	}
	return 0, false
}

// chooseColumns decides which metric each value of a sample is.
func (d *decoder) chooseColumns() error {
	var seen [NumMetrics]bool
	var all []string
	for _, t := range d.sampleTypes {
		name, unit, err := d.texts(t)
		if err != nil {
			return err
		}
		all = append(all, name+" in "+unit)
		m, ok := metricOf(name, unit)
		if !ok {
			d.columns = append(d.columns, notRead)
			d.s.Info = append(d.s.Info, KeyValue{Key: "sample type not read", Value: name + " in " + unit})
			continue
		}
		if seen[m] {
			return fmt.Errorf("two sample types are %v", m)
		}
		seen[m] = true
		d.columns = append(d.columns, int(m))
	}
	if !seen[InuseBytes] && !seen[AllocBytes] {
		return fmt.Errorf("%w: its sample types are: %s", ErrNotHeap, strings.Join(all, ", "))
	}
	return nil
}

func metricOf(name, unit string) (Metric, bool) {
	m := Metric(slices.IndexFunc(metricNames[:], func(n struct{ name, unit string }) bool { return n.name == name }))
	if m < 0 {
		foreign, ok := foreignMetric(name)
		if !ok {
			return 0, false
		}
		m = foreign
	}
	return m, unit == metricNames[m].unit
}

// sample adds a record.
func (d *decoder) sample(f field) error {
	d.ids, d.values = d.ids[:0], d.values[:0]
	r := Record{Age: UnknownAge}
	err := eachField(f.bytes, func(f field) (err error) {
		switch f.number {
		case sampleLocation:
			d.ids, err = f.appendNumbers(d.ids)
		case sampleValue:
			d.values, err = f.appendNumbers(d.values)
		case sampleLabel:
			err = d.label(&r, f)
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(d.values) != len(d.columns) {
		return fmt.Errorf("%d values for %d sample types", len(d.values), len(d.columns))
	}
	var values Values
	for i, m := range d.columns {
		if m != notRead {
			values[m] = int64(d.values[i])
		}
	}
	r.SetValues(values)
	if r.Stack, err = d.stack(); err != nil {
		return err
	}
	d.s.Records = append(d.s.Records, r)
	return nil
}

// label takes a label of the record, if it is one that heaptap knows.
func (d *decoder) label(r *Record, f field) error {
	var key, str, num, unit uint64
	to := [labelUnit]*uint64{labelKey - 1: &key, labelStr - 1: &str, labelNum - 1: &num, labelUnit - 1: &unit}
	if err := f.scalars(to[:]...); err != nil {
		return err
	}
	name, err := d.text(key)
	if err != nil {
		return err
	}
	text, err := d.text(str)
	if err != nil {
		return err
	}
	units, err := d.text(unit)
	if err != nil {
		return err
	}
	switch {
	case name == keyType:
		r.Type = d.build.Text(text)
	case name == keyDomain:
		r.Domain = d.build.Text(text)
	case name == keyThread:
		r.Thread = d.build.Text(text)
	case name == keyProcess:
		r.Process = d.build.Text(text)
	case name == keyAge && units == unitAge && num <= math.MaxInt32:
		r.Age = int32(num)
	case name == keySize && units == unitBytes && num <= math.MaxInt64:
		// One label for blocks of one size, two for the smallest and the largest.
		if r.MaxSize == 0 {
			r.MinSize = int64(num)
		}
		r.MinSize, r.MaxSize = min(r.MinSize, int64(num)), max(r.MaxSize, int64(num))
	}
	return nil
}

// stack returns the stack of the locations d.ids, leaf first. Only what differs from the sample before is looked up.
func (d *decoder) stack() (int32, error) {
	n := len(d.ids)
	shared := 0
	for shared < n && shared < len(d.last) && d.ids[n-1-shared] == d.last[len(d.last)-1-shared] {
		shared++
	}
	node := None
	if shared > 0 {
		node = d.nodes[shared-1]
	}
	d.nodes = d.nodes[:shared]
	for i := n - 1 - shared; i >= 0; i-- {
		frames, err := d.frames(d.ids[i])
		if err != nil {
			return None, err
		}
		if d.pushed += len(frames); d.pushed > maxPushes {
			return None, errors.New("too many frames")
		}
		for _, f := range frames {
			node = d.build.Push(node, f)
		}
		d.nodes = append(d.nodes, node)
	}
	if len(d.s.Stacks) > maxNodes {
		return None, fmt.Errorf("more than %d different calls", maxNodes)
	}
	d.ids, d.last = d.last, d.ids
	return node, nil
}

// frames returns the frames of a location, outermost first; none for the one that stands for an absent stack.
func (d *decoder) frames(id uint64) ([]int32, error) {
	l, err := d.locations.find(id)
	if err != nil {
		return nil, err
	}
	if l.done {
		return l.frames, nil
	}
	l.done = true
	native, err := d.native(l)
	if err != nil {
		return nil, fmt.Errorf("location %d: %w", id, err)
	}
	if len(l.lines) == 0 {
		f := native
		if !f.Native() {
			f = Frame{Func: fmt.Sprintf("%#x", l.address)}
			if f.File, err = d.text(d.mappings[l.mapping].file); err != nil {
				return nil, err
			}
		}
		l.frames = []int32{d.build.Frame(f)}
	}
	for _, ln := range slices.Backward(l.lines) {
		f, err := d.frame(ln)
		if err != nil {
			return nil, fmt.Errorf("location %d: %w", id, err)
		}
		if f != (Frame{Func: noStack}) {
			f.Module, f.BuildID, f.Addr = native.Module, native.BuildID, native.Addr
			l.frames = append(l.frames, d.build.Frame(f))
		}
	}
	return l.frames, nil
}

// native returns where in an ELF object a location is; the zero frame where its address is not one of an object's own,
// as in profiles of Go programs, whose mappings say where the object was loaded.
func (d *decoder) native(l *location) (Frame, error) {
	m := d.mappings[l.mapping]
	if l.address == 0 && m.buildID == 0 || !m.whole {
		return Frame{}, nil
	}
	module, err := d.text(m.file)
	if err != nil || module == "" {
		return Frame{}, err
	}
	id, err := d.text(m.buildID)
	return Frame{Module: module, BuildID: id, Addr: l.address}, err
}

func (d *decoder) frame(ln line) (Frame, error) {
	if ln.function == 0 {
		return Frame{Line: lineNumber(ln.line)}, nil
	}
	fn, ok := d.functions[ln.function]
	if !ok {
		return Frame{}, fmt.Errorf("function %d does not exist", ln.function)
	}
	name, err := d.text(fn.name)
	if err != nil {
		return Frame{}, err
	}
	file, err := d.text(fn.file)
	return Frame{Func: name, File: file, Line: lineNumber(ln.line), FirstLine: lineNumber(fn.firstLine)}, err
}

// lineNumber is n, or 0 (unknown) where no file has such a line.
func lineNumber(n uint64) int {
	if n > math.MaxInt32 {
		return 0
	}
	return int(n)
}

// header sets what concerns the snapshot as a whole.
func (d *decoder) header() error {
	name, unit, err := d.texts(d.periodType)
	if err != nil {
		return err
	}
	if name == periodType && unit == unitBytes && d.period > exactPeriod && d.period <= math.MaxInt64 {
		d.s.SampleBytes = d.period
	}
	for _, n := range d.comments {
		comment, err := d.text(n)
		if err != nil {
			return err
		}
		d.comment(parseComment(comment))
	}
	return nil
}

// comment takes a comment for what it says. One that only looks like a time or a timeline is a fact like others.
func (d *decoder) comment(kv KeyValue) {
	switch kv.Key {
	case keyPeakTime:
		if at, err := time.Parse(momentForm, kv.Value); err == nil && d.s.PeakTime.IsZero() {
			d.s.PeakTime = at
			return
		}
	case keyTimeline:
		if points, err := parseTimeline(kv.Value); err == nil && d.s.Timeline == nil {
			d.s.Timeline = points
			return
		}
	}
	d.s.Info = append(d.s.Info, kv)
}

func parseComment(comment string) KeyValue {
	key, value, _ := strings.Cut(comment, commentSeparator)
	kv := KeyValue{Key: key, Value: value}
	if kv.check() != nil || !strings.Contains(comment, commentSeparator) {
		return KeyValue{Key: foreignComment, Value: comment}
	}
	return kv
}
