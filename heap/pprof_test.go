package heap

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/pprof/profile"
)

// full is a snapshot that uses everything the model has.
func full() *Snapshot {
	s := &Snapshot{
		Time: time.Unix(1_700_000_000, 123).UTC(), Duration: 90 * time.Second, SampleBytes: 512 << 10,
		Info: []KeyValue{{"python", "3.14.0"}, {"command", "python3 -c 'a: b'"}, {"not seen",
			"blocks from before:\nthe attach"}},
		PeakTime: time.UnixMilli(1_699_999_999_500).UTC(),
		Timeline: []Point{{time.UnixMilli(1_699_999_910_000).UTC(), 0, 10 << 20},
			{time.UnixMilli(1_699_999_960_000).UTC(), 3 << 40, Unmeasured},
			{time.UnixMilli(1_700_000_000_000).UTC(), 1 << 40, 1<<63 - 1}},
	}
	b := NewBuilder(s)
	module := Frame{Func: "<module>", File: "/srv/a.py", Line: 10, FirstLine: 1}
	get := Frame{Func: "Handler.get", File: "/srv/b.py", Line: 20, FirstLine: 18}
	nested := Frame{Func: "Handler.get.<locals>.<lambda>", File: "/srv/b.py", Line: 21, FirstLine: 21}
	shallow := b.Stack(module)
	deep := b.Stack(module, get, get, nested)
	other := b.Stack(module, get, Frame{Func: "größe", File: "/srv/日本.py", Line: 1})
	obj, mem, worker := b.Text("obj"), b.Text("mem"), b.Text("worker 1")
	dict := b.Text("dict")
	s.Records = []Record{
		{Stack: deep, Domain: obj, Thread: worker, Type: dict, Age: 0, MinSize: 16, MaxSize: 200, InuseBytes: 640,
			InuseBlocks: 10, AllocBytes: 6400, AllocBlocks: 100, PeakBytes: 700, PeakBlocks: 11, TempBlocks: 60},
		{Stack: shallow, Domain: mem, Age: 64, MinSize: 1 << 40, MaxSize: 1 << 40, InuseBytes: 1 << 40, InuseBlocks: 1, AllocBytes: 1 << 40,
			AllocBlocks: 1},
		{Stack: deep, Domain: mem, Age: UnknownAge, AllocBytes: 16, AllocBlocks: 1},
		{Stack: None, Domain: mem, Age: UnknownAge, InuseBytes: 48, InuseBlocks: 3, AllocBytes: 48, AllocBlocks: 3},
		{Stack: other, Domain: obj, Age: 1, InuseBytes: 1, InuseBlocks: 1, AllocBytes: 1, AllocBlocks: 1},
	}
	return s
}

// plain is a snapshot without index numbers and order of records, for comparison.
func plain(s *Snapshot) any {
	type record struct {
		Stack                []Frame
		Domain, Thread, Type string
		Process              string
		Age                  int32
		MinSize, MaxSize     int64
		Values               Values
	}
	var records []record
	for i := range s.Records {
		r := &s.Records[i]
		records = append(records, record{s.Callers(r.Stack), s.Text(r.Domain), s.Text(r.Thread), s.Text(r.Type), s.Text(r.Process), r.Age,
			r.MinSize, r.MaxSize, r.Values()})
	}
	slices.SortFunc(records, func(a, b record) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return struct {
		Time        time.Time
		Duration    time.Duration
		SampleBytes uint64
		Info        []KeyValue
		PeakTime    time.Time
		Timeline    []Point
		Records     []record
	}{s.Time, s.Duration, s.SampleBytes, s.Info, s.PeakTime, s.Timeline, records}
}

// machineCode is a snapshot of two processes with frames of machine code, some of them symbolized.
func machineCode() *Snapshot {
	s := full()
	b := &Builder{s: s, strings: map[string]int32{}, frames: map[Frame]int32{}, stacks: map[Stack]int32{}}
	at := func(addr uint64) Frame { return Frame{Module: "/usr/lib/libm.so.6", BuildID: "c0ffee01", Addr: addr} }
	inlined := at(0x1238)
	inlined.Func, inlined.File, inlined.Line, inlined.FirstLine = "inlined", "/src/m.h", 3, 2
	outer := at(0)
	outer.Func, outer.File, outer.Line = "std::vector<int>::push_back(int)", "/src/m.cc", 30
	raw := Frame{Module: "/srv/ext.so", BuildID: "00ff", Addr: 0x400}
	other := Frame{Module: "/srv/ext.so", BuildID: "01ff", Addr: 0x400}
	python := Frame{Func: "<module>", File: "/srv/a.py", Line: 10, FirstLine: 1}
	one, two := b.Text("1 gunicorn: master"), b.Text("2 gunicorn: worker")
	malloc := b.Text("malloc")
	for i, stack := range []int32{
		b.Stack(python, outer, inlined), b.Stack(python, raw), b.Stack(python, other), b.Stack(raw, at(0x9000)),
		b.Stack(Frame{Module: "[vdso]", Addr: 0x77}),
	} {
		s.Records = append(s.Records, Record{Stack: stack, Domain: malloc, Age: UnknownAge, Process: []int32{one, two, 0}[i%3],
			InuseBytes: 16, InuseBlocks: 1, AllocBytes: 16, AllocBlocks: 1})
	}
	return s
}

func write(t testing.TB, s *Snapshot) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	exact := full()
	exact.SampleBytes = 0
	noPeak := full()
	noPeak.Records = noPeak.Records[1:]
	for name, s := range map[string]*Snapshot{
		"empty": {}, "full": full(), "exact": exact, "no peak": noPeak, "native": machineCode(), "synthetic": synthetic(200, 30, 1000),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Read(bytes.NewReader(write(t, s)))
			if err != nil {
				t.Fatal(err)
			}
			s.Time = s.Time.UTC()
			if diff := gocmp.Diff(plain(s), plain(got)); diff != "" {
				t.Errorf("written (-), read (+):\n%s", diff)
			}
			if s.Total() != got.Total() {
				t.Errorf("total %v, was %v", got.Total(), s.Total())
			}
		})
	}
}

// The file must be what the format's own package takes it for.
func TestWriteIsPprof(t *testing.T) {
	p, err := profile.Parse(bytes.NewReader(write(t, full())))
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, st := range p.SampleType {
		types = append(types, st.Type+"/"+st.Unit)
	}
	want := "temporary_objects/count peak_objects/count peak_space/bytes alloc_objects/count alloc_space/bytes " +
		"inuse_objects/count inuse_space/bytes"
	if got := strings.Join(types, " "); got != want {
		t.Errorf("sample types %s, want %s", got, want)
	}
	if p.DefaultSampleType != "inuse_space" || p.PeriodType.Type != "space" || p.PeriodType.Unit != "bytes" ||
		p.Period != 512<<10 {
		t.Errorf("default %q, period %d %+v", p.DefaultSampleType, p.Period, p.PeriodType)
	}
	if diff := gocmp.Diff([]string{"python: 3.14.0", "command: python3 -c 'a: b'",
		"not seen: blocks from before:\nthe attach", "peak at: 2023-11-14T22:13:19.500Z",
		"timeline: 1699999910000,0,10485760 50000,3298534883328, 40000,-2199023255552,9223372036844290047"}, p.Comments); diff != "" {
		t.Error(diff)
	}
	first := p.Sample[2] // in the order of the trie: without a stack, <module>, the deep one
	var stack []string
	for _, l := range first.Location {
		stack = append(stack, fmt.Sprintf("%s:%d", l.Line[0].Function.Name, l.Line[0].Line))
	}
	if got, want := strings.Join(stack, " "),
		"Handler.get.<locals>.<lambda>:21 Handler.get:20 Handler.get:20 <module>:10"; got != want {
		t.Errorf("first stack %s, want %s", got, want)
	}
	if diff := gocmp.Diff([]int64{60, 11, 700, 100, 6400, 10, 640}, first.Value); diff != "" {
		t.Error(diff)
	}
	if diff := gocmp.Diff(map[string][]string{"type": {"dict"}, "domain": {"obj"}, "thread": {"worker 1"}},
		first.Label); diff != "" {
		t.Error(diff)
	}
	if diff := gocmp.Diff(map[string][]int64{"age": {0}, "bytes": {16, 200}}, first.NumLabel); diff != "" {
		t.Error(diff)
	}
	if diff := gocmp.Diff(map[string][]string{"age": {"seconds"}, "bytes": {"bytes", "bytes"}}, first.NumUnit); diff != "" {
		t.Error(diff)
	}

	withoutPeak := full()
	withoutPeak.Records = withoutPeak.Records[1:]
	p, err = profile.Parse(bytes.NewReader(write(t, withoutPeak)))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.SampleType) != 4 {
		t.Errorf("%d sample types without a peak", len(p.SampleType))
	}
}

// Frames of machine code are what pprof expects of them: a mapping for each object with its build-id, addresses, and no
// lines where nothing is known.
func TestWriteNativeIsPprof(t *testing.T) {
	p, err := profile.Parse(bytes.NewReader(write(t, machineCode())))
	if err != nil {
		t.Fatal(err)
	}
	var mappings []string
	for _, m := range p.Mapping {
		mappings = append(mappings, fmt.Sprintf("%s %s %v", m.File, m.BuildID, m.HasFunctions))
	}
	want := []string{"python  true", "/usr/lib/libm.so.6 c0ffee01 true", "/srv/ext.so 00ff false", "/srv/ext.so 01ff false",
		"[vdso]  false"}
	if diff := gocmp.Diff(want, mappings); diff != "" {
		t.Error(diff)
	}
	var stacks []string
	for _, s := range p.Sample {
		if len(s.Label["process"]) == 0 && s.Label["domain"][0] != "malloc" {
			continue
		}
		var stack strings.Builder
		for _, l := range s.Location {
			fmt.Fprintf(&stack, "%s+%#x", filepath.Base(l.Mapping.File), l.Address)
			for _, line := range l.Line {
				fmt.Fprintf(&stack, "(%s:%d)", line.Function.Name, line.Line)
			}
			stack.WriteByte(' ')
		}
		stacks = append(stacks, stack.String()+strings.Join(s.Label["process"], ","))
	}
	slices.Sort(stacks)
	want = []string{
		"[vdso]+0x77 2 gunicorn: worker",
		"ext.so+0x400 python+0x0(<module>:10) ",
		"ext.so+0x400 python+0x0(<module>:10) 2 gunicorn: worker",
		"libm.so.6+0x1238(inlined:3) libm.so.6+0x0(std::vector<int>::push_back(int):30) python+0x0(<module>:10) " +
			"1 gunicorn: master",
		"libm.so.6+0x9000 ext.so+0x400 1 gunicorn: master",
	}
	if diff := gocmp.Diff(want, stacks); diff != "" {
		t.Error(diff)
	}
}

// Addresses of a profile whose mappings say where objects were loaded are no addresses within those objects.
func TestReadLoadedAddresses(t *testing.T) {
	m := &profile.Mapping{ID: 1, Start: 0x400000, Limit: 0x500000, File: "/srv/server", BuildID: "c0ffee"}
	l := &profile.Location{ID: 1, Mapping: m, Address: 0x401234}
	p := &profile.Profile{
		SampleType: []*profile.ValueType{{Type: "inuse_space", Unit: "bytes"}},
		Mapping:    []*profile.Mapping{m}, Location: []*profile.Location{l},
		Sample: []*profile.Sample{{Location: []*profile.Location{l}, Value: []int64{1}}},
	}
	var file bytes.Buffer
	if err := p.Write(&file); err != nil {
		t.Fatal(err)
	}
	s, err := Read(&file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff([]Frame{{Func: "0x401234", File: "/srv/server"}}, s.Frames); diff != "" {
		t.Error(diff)
	}
}

// What we read of a file by the format's own encoder is what it holds, packed or not, in whatever order.
func TestReadOfLibrary(t *testing.T) {
	want := full()
	p, err := profile.Parse(bytes.NewReader(write(t, want)))
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range p.Location { // numbers that are not 1, 2, 3
		l.ID = uint64(1000 - 7*i)
	}
	var b bytes.Buffer
	if err := p.WriteUncompressed(&b); err != nil {
		t.Fatal(err)
	}
	got, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(plain(want), plain(got)); diff != "" {
		t.Errorf("want (-), read (+):\n%s", diff)
	}
}

// The heap profile of this very process, by Go's runtime.
func TestReadGoHeapProfile(t *testing.T) {
	var b bytes.Buffer
	keep := make([][]byte, 64)
	for i := range keep {
		keep[i] = make([]byte, 1<<20)
	}
	runtime.GC()
	if err := pprof.Lookup("heap").WriteTo(&b, 0); err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(keep)
	s, err := Read(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if s.SampleBytes != uint64(runtime.MemProfileRate) {
		t.Errorf("sampled every %d bytes, want %d", s.SampleBytes, runtime.MemProfileRate)
	}
	p, err := profile.Parse(&b)
	if err != nil {
		t.Fatal(err)
	}
	var total Values
	for _, sample := range p.Sample { // alloc_objects, alloc_space, inuse_objects, inuse_space
		total.Add(Values{InuseBytes: sample.Value[3], InuseBlocks: sample.Value[2], AllocBytes: sample.Value[1],
			AllocBlocks: sample.Value[0]})
	}
	if s.Total() != total {
		t.Errorf("total %v, want %v", s.Total(), total)
	}
	for _, row := range s.ByFunction() {
		if strings.HasSuffix(row.Frame.Func, "TestReadGoHeapProfile") && row.Own[InuseBytes] >= 48<<20 {
			return
		}
	}
	t.Error("the 64 MiB that this test keeps are not under its name")
}

func TestReadForeign(t *testing.T) {
	fn := &profile.Function{ID: 7, Name: "inner", Filename: "x.c", StartLine: -1}
	caller := &profile.Function{ID: 8, Name: "outer", Filename: "x.c"}
	m := &profile.Mapping{ID: 3, Start: 0xb000, Limit: 0xc000, File: "/lib/libx.so"}
	inlined := &profile.Location{ID: 1, Mapping: m, Line: []profile.Line{{Function: fn, Line: 5}, {Function: caller,
		Line: -9}}}
	bare := &profile.Location{ID: 2, Mapping: m, Address: 0xbeef}
	p := &profile.Profile{
		SampleType: []*profile.ValueType{{Type: "cpu-time", Unit: "nanoseconds"}, {Type: "heap-space", Unit: "bytes"},
			{Type: "alloc-samples", Unit: "count"}},
		Sample: []*profile.Sample{
			{Location: []*profile.Location{inlined, bare}, Value: []int64{-1, 100, 2}},
			{Value: []int64{5, 1, 1}},
		},
		Location: []*profile.Location{inlined, bare}, Function: []*profile.Function{fn, caller},
		Mapping:  []*profile.Mapping{m},
		Comments: []string{"no separator", ": no key"},
	}
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	s, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	want := []Frame{{Func: "inner", File: "x.c", Line: 5}, {Func: "outer", File: "x.c"}, {Func: "0xbeef",
		File: "/lib/libx.so"}}
	if diff := gocmp.Diff(want, s.Callers(s.Records[0].Stack)); diff != "" {
		t.Error(diff)
	}
	if s.Records[1].Stack != None {
		t.Errorf("a sample without locations has the stack %v", s.Callers(s.Records[1].Stack))
	}
	if got, want := s.Total(), (Values{InuseBytes: 101, AllocBlocks: 3}); got != want {
		t.Errorf("total %v, want %v", got, want)
	}
	wantInfo := []KeyValue{{"sample type not read", "cpu-time in nanoseconds"}, {"comment", "no separator"}, {"comment",
		": no key"}}
	if diff := gocmp.Diff(wantInfo, s.Info); diff != "" {
		t.Error(diff)
	}
}

func TestReadRefuses(t *testing.T) {
	encode := func(change func(p *profile.Profile)) []byte {
		f := &profile.Function{ID: 1, Name: "f"}
		l := &profile.Location{ID: 1, Line: []profile.Line{{Function: f}}}
		p := &profile.Profile{
			SampleType: []*profile.ValueType{{Type: "inuse_space", Unit: "bytes"}},
			Sample: []*profile.Sample{{Location: []*profile.Location{l}, Value: []int64{1}},
				{Location: []*profile.Location{l}, Value: []int64{1}}},
			Location: []*profile.Location{l}, Function: []*profile.Function{f}, TimeNanos: 1,
		}
		change(p)
		var b bytes.Buffer
		if err := p.WriteUncompressed(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	fine := encode(func(*profile.Profile) {})
	var cpu bytes.Buffer
	if err := pprof.StartCPUProfile(&cpu); err != nil {
		t.Fatal(err)
	}
	pprof.StopCPUProfile()
	gzipped := write(t, full())

	for _, c := range []struct {
		name, want string
		data       []byte
		is         error
	}{
		{"nothing", "the file is empty", nil, nil},
		{"text", "not a pprof profile", []byte("heap profile: 1: 1 [1: 1] @ heap/1\n"), nil},
		{"cpu profile", "not a heap profile: its sample types are: samples in count, cpu in nanoseconds", cpu.Bytes(),
			ErrNotHeap},
		{"wrong unit", "not a heap profile: its sample types are: inuse_space in kilobytes",
			encode(func(p *profile.Profile) { p.SampleType[0].Unit = "kilobytes" }), ErrNotHeap},
		{"difference", "inuse_space is negative: -4", encode(func(p *profile.Profile) { p.Sample[1].Value[0] = -4 }),
			nil},
		{"overflow", "inuse_space: the total exceeds 64 bits",
			encode(func(p *profile.Profile) { p.Sample[1].Value[0] = math.MaxInt64 }), nil},
		{"values", "sample 2: 2 values for 1 sample types",
			encode(func(p *profile.Profile) { p.Sample[1].Value = []int64{1, 2} }), nil},
		{"location", "sample 1: location 2 does not exist",
			encode(func(p *profile.Profile) { p.Sample[0].Location = []*profile.Location{{ID: 2}} }), nil},
		{"function", "function 9 does not exist",
			encode(func(p *profile.Profile) { p.Location[0].Line[0].Function = &profile.Function{ID: 9} }), nil},
		{"twice", "two sample types are inuse_space", encode(func(p *profile.Profile) {
			p.SampleType = append(p.SampleType, &profile.ValueType{Type: "space", Unit: "bytes"})
		}), nil},
		{"concatenated", "location 1 is there twice", append(bytes.Clone(fine), fine...), nil},
		{"truncated", "the data end within a field", fine[:len(fine)-3], nil},
		{"truncated gzip", "unexpected EOF", gzipped[:len(gzipped)-20], io.ErrUnexpectedEOF},
		{"broken gzip", "gzip: invalid header", []byte("\x1f\x8bxxxxxxxxxxxxxxxx"), gzip.ErrHeader},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Read(bytes.NewReader(c.data))
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(),
				"read snapshot: ") {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("error %v is not %v", err, c.is)
			}
		})
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, change := range map[string]func(*Snapshot){
		"parent 3 is not before it":     func(s *Snapshot) { s.Stacks[3].Parent = 3 },
		"frame 99 of":                   func(s *Snapshot) { s.Stacks[3].Frame = 99 },
		"stack 99 of":                   func(s *Snapshot) { s.Records[1].Stack = 99 },
		"label text 99 of":              func(s *Snapshot) { s.Records[1].Type = 99 },
		"age -2 s":                      func(s *Snapshot) { s.Records[1].Age = -2 },
		"alloc_objects is negative":     func(s *Snapshot) { s.Records[1].AllocBlocks = -1 },
		"the first string is not empty": func(s *Snapshot) { s.Strings[0] = "x" },
		"has more than 262144 frames": func(s *Snapshot) {
			for range MaxDepth {
				s.Stacks = append(s.Stacks, Stack{Parent: int32(len(s.Stacks)) - 1})
			}
		},
		"blocks of 9 to 8 bytes": func(s *Snapshot) { s.Records[1].MinSize, s.Records[1].MaxSize = 9, 8 },
		"point 1 of the timeline is before point 0": func(s *Snapshot) {
			s.Timeline[1].Time = s.Timeline[0].Time.Add(-time.Second)
		},
		"line -1 in a function":          func(s *Snapshot) { s.Frames[1].Line = -1 },
		"has neither a newline nor \": ": func(s *Snapshot) { s.Info[0].Key = "a: b" },
	} {
		s := full()
		change(s)
		if err := s.Write(io.Discard); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want %q", err, name)
		}
	}
	if err := full().Write(failingWriter{}); !errors.Is(err, errFull) {
		t.Errorf("error %v, want %v", err, errFull)
	}
}

var errFull = errors.New("disk full")

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errFull }

func TestInvalidUTF8(t *testing.T) {
	s := &Snapshot{}
	b := NewBuilder(s)
	s.Records = []Record{{Stack: b.Stack(Frame{Func: "a\xffb", File: "\x80.py", Line: 1}), Age: UnknownAge,
		InuseBytes: 1, InuseBlocks: 1}}
	got, err := Read(bytes.NewReader(write(t, s)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff([]Frame{{Func: "a\uFFFDb", File: "\uFFFD.py", Line: 1}}, got.Frames); diff != "" {
		t.Error(diff)
	}
}

// go tool pprof takes the file as it is: no complaint, names uncut, the right numbers.
func TestGoToolPprof(t *testing.T) {
	file := filepath.Join(t.TempDir(), "snapshot.pb.gz")
	if err := os.WriteFile(file, write(t, full()), 0o666); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(runtime.GOROOT(), "bin", "go"),
			append(append([]string{"tool", "pprof"}, args...), file)...)
		cmd.Env = append(os.Environ(), "PPROF_TMPDIR="+t.TempDir())
		var out, talk bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &talk
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, talk.String())
		}
		if talk.Len() > 0 {
			t.Errorf("%v says:\n%s", cmd, talk.String())
		}
		return out.String()
	}
	top := run("-top", "-sample_index=inuse_objects", "-nodefraction=0")
	for _, want := range []string{
		"Type: inuse_objects", "10 66.67%", "Handler.get.<locals>.<lambda>", "<module>", "[no Python stack]", "größe",
	} {
		if !strings.Contains(top, want) {
			t.Errorf("pprof -top lacks %q:\n%s", want, top)
		}
	}
	if lines := run("-top", "-lines", "-nodefraction=0"); !strings.Contains(lines, "<module> /srv/a.py:10") ||
		!strings.Contains(lines, "Type: inuse_space") {
		t.Errorf("pprof -top -lines:\n%s", lines)
	}
	if err := os.WriteFile(file, write(t, machineCode()), 0o666); err != nil {
		t.Fatal(err)
	}
	mixed := run("-symbolize=none", "-traces")
	for _, want := range []string{"std::vector", "inlined", "[ext.so]", "[libm.so.6]"} {
		if !strings.Contains(mixed, want) {
			t.Errorf("pprof -traces of native frames lacks %q:\n%s", want, mixed)
		}
	}
	if err := os.WriteFile(file, write(t, full()), 0o666); err != nil {
		t.Fatal(err)
	}
	if tags := run("-tags"); !strings.Contains(tags, "dict") || !strings.Contains(tags, "1.1mins") &&
		!strings.Contains(tags, "64s") {
		t.Errorf("pprof -tags:\n%s", tags)
	}
}

// FuzzRead: no bytes make Read panic; what it accepts is a snapshot that survives another round; and it agrees with
// the format's own package wherever both accept.
func FuzzRead(f *testing.F) {
	var small bytes.Buffer
	p, err := profile.Parse(bytes.NewReader(write(f, full())))
	if err != nil {
		f.Fatal(err)
	}
	if err := p.WriteUncompressed(&small); err != nil {
		f.Fatal(err)
	}
	f.Add(small.Bytes())
	f.Add(write(f, &Snapshot{}))
	f.Add(write(f, full()))
	f.Add(write(f, machineCode()))
	f.Add([]byte("heap profile: 1: 1 [1: 1] @ heap/1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		s.ByLine()
		s.Tree(ByFunction)
		again, err := Read(bytes.NewReader(write(t, s)))
		if err != nil {
			t.Fatalf("own file: %v", err)
		}
		if s.Total() != again.Total() || len(s.Records) != len(again.Records) {
			t.Fatalf("total %v of %d records, then %v of %d", s.Total(), len(s.Records), again.Total(),
				len(again.Records))
		}
		p, err := profile.ParseUncompressed(data)
		if err != nil || p.CheckValid() != nil {
			return
		}
		var bytesInUse int64
		for i, st := range p.SampleType {
			if m, ok := metricOf(st.Type, st.Unit); ok && m == InuseBytes {
				for _, sample := range p.Sample {
					bytesInUse += sample.Value[i]
				}
			}
		}
		if got := s.Total()[InuseBytes]; got != bytesInUse {
			t.Fatalf("%d bytes in use, the profile package finds %d", got, bytesInUse)
		}
	})
}

func BenchmarkFile(b *testing.B) {
	s := synthetic(100_000, 30, 300_000)
	data := write(b, s)
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := s.Write(io.Discard); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(data)), "file-bytes")
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Read(bytes.NewReader(data)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
