package heap

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// workers are the snapshots of three processes.
func workers() []Part {
	at := func(s int64) time.Time { return time.Unix(1_700_000_000+s, 0).UTC() }
	make := func(pid string, begin, end int64, command string, bytes int64) *Snapshot {
		s := &Snapshot{Time: at(end), Duration: time.Duration(end-begin) * time.Second, PeakTime: at(end),
			Timeline: []Point{{at(begin), 0, 10}, {at(end), uint64(bytes), Unmeasured}},
			Info:     []KeyValue{{InfoPid, pid}, {InfoPython, "3.14"}, {InfoCommand, command}, {"rss", "1000 bytes"}}}
		b := NewBuilder(s)
		main := Frame{Func: "<module>", File: "/srv/a.py", Line: 1}
		own := Frame{Func: "only" + pid, File: "/srv/a.py", Line: 2}
		s.Records = []Record{
			{Stack: b.Stack(main), Domain: b.Text("obj"), Thread: b.Text("MainThread"), Age: 5, InuseBytes: bytes, InuseBlocks: 10},
			{Stack: b.Stack(main, own), Domain: b.Text("mem"), Age: UnknownAge, AllocBytes: 1, AllocBlocks: 1},
			{Stack: None, Domain: b.Text("mem"), Age: UnknownAge, InuseBytes: 1, InuseBlocks: 1},
		}
		return s
	}
	return []Part{
		{"10 gunicorn: master [shop]", make("10", 0, 100, "gunicorn shop", 100)},
		{"11 gunicorn: worker [shop]", make("11", 20, 101, "gunicorn shop", 2000)},
		{"110 celery", make("110", 30, 99, "celery worker", 30000)},
	}
}

func mergeWorkers(t testing.TB) *Snapshot {
	t.Helper()
	s, err := Merge(workers())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMerge(t *testing.T) {
	s := mergeWorkers(t)
	at := func(s int64) time.Time { return time.Unix(1_700_000_000+s, 0).UTC() }
	if !s.Time.Equal(at(101)) || s.Duration != 101*time.Second || !s.PeakTime.IsZero() {
		t.Errorf("time %v, duration %v, peak %v", s.Time, s.Duration, s.PeakTime)
	}
	if diff := gocmp.Diff([]Point{{at(0), 0, 10}, {at(20), 0, 20}, {at(30), 0, 30}, {at(99), 30000, 30}, {at(100), 30100, 30},
		{at(101), 32100, 30}}, s.Timeline); diff != "" {
		t.Error(diff)
	}
	if diff := gocmp.Diff([]KeyValue{
		{InfoProcesses, "10 gunicorn: master [shop]; 11 gunicorn: worker [shop]; 110 celery"}, {InfoPython, "3.14"},
		{InfoCommand, "10 gunicorn: master [shop]: gunicorn shop"}, {"rss", "3000 bytes"},
		{InfoCommand, "11 gunicorn: worker [shop]: gunicorn shop"}, {InfoCommand, "110 celery: celery worker"},
	}, s.Info); diff != "" {
		t.Error(diff)
	}
	read, err := Read(bytes.NewReader(write(t, s)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(plain(s), plain(read)); diff != "" {
		t.Errorf("written (-), read (+):\n%s", diff)
	}
	want := map[string]int64{"10 gunicorn: master [shop]": 101, "11 gunicorn: worker [shop]": 2001, "110 celery": 30001}
	got := map[string]int64{}
	for _, r := range read.By(ByProcess) {
		got[r.Name] = r.Own[InuseBytes]
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	peaked := workers()
	peaked[2].Snapshot.Records[0].PeakBytes = 40000
	if joined, err := Merge(peaked); err != nil || joined.fact("peak") == "" || s.fact("peak") != "" ||
		joined.Total()[PeakBytes] != 40000 {
		t.Errorf("a joined peak: %v, %v", joined.Info, err)
	}
	// What is of several processes already can be merged with more.
	more := workers()[:1]
	more[0].Process = "12 other"
	again, err := Merge([]Part{{"", s}, more[0]})
	if err != nil {
		t.Fatal(err)
	}
	if rows := again.By(ByProcess); len(rows) != 4 || again.Total()[InuseBytes] != 32103+101 {
		t.Errorf("%d processes with %d bytes", len(rows), again.Total()[InuseBytes])
	}
	// Before and after of a tree: what grew, in which process.
	bigger := workers()
	bigger[1].Snapshot.Records[0].InuseBytes += 500
	after, err := Merge(bigger)
	if err != nil {
		t.Fatal(err)
	}
	d := Diff(s, after)
	for _, r := range d.Rows(ByProcess) {
		if grown := r.Own.Growth()[InuseBytes]; grown != map[string]int64{"11 gunicorn: worker [shop]": 500}[r.Name] {
			t.Errorf("process %q grew by %d", r.Name, grown)
		}
	}
	if len(d.Warnings) > 0 {
		t.Error(d.Warnings)
	}
}

func TestMergeOne(t *testing.T) {
	p := workers()[:1]
	s, err := Merge(p)
	if err != nil {
		t.Fatal(err)
	}
	if pid, _ := s.Pid(); pid != 10 || !s.PeakTime.Equal(p[0].Snapshot.PeakTime) ||
		s.Text(s.Records[0].Process) != p[0].Process {
		t.Errorf("pid %d, peak %v, process %q", pid, s.PeakTime, s.Text(s.Records[0].Process))
	}
	if p[0].Snapshot.Records[0].Process != 0 {
		t.Error("the part was changed")
	}
}

func TestMergeRefuses(t *testing.T) {
	huge := workers()
	for i := range huge {
		huge[i].Snapshot.Records[0].InuseBytes = math.MaxInt64 - 1
	}
	nameless, twice := workers(), workers()
	nameless[1].Process = ""
	twice[1].Process = twice[0].Process
	for want, parts := range map[string][]Part{
		"there are none": nil, "exceeds 64 bits": huge, "has no name": nameless, "two are of process 10": twice,
	} {
		if _, err := Merge(parts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
}

// However long the lists, the highest point stays.
func TestMergeTimelineBounded(t *testing.T) {
	parts := workers()
	for i := range parts {
		var line []Point
		for n := range int64(10_000) {
			line = append(line, Point{time.UnixMilli(n*10 + int64(i)).UTC(), uint64(n % 100), Unmeasured})
		}
		line[7777].Tracked = 1e9
		parts[i].Snapshot.Timeline = line
	}
	s, err := Merge(parts)
	if err != nil {
		t.Fatal(err)
	}
	most := uint64(0)
	for _, p := range s.Timeline {
		most = max(most, p.Tracked)
		if p.RSS != Unmeasured {
			t.Fatalf("rss %d, which nobody measured", p.RSS)
		}
	}
	if len(s.Timeline) != mergedPoints || most != 3e9 {
		t.Errorf("%d points, at most %d bytes", len(s.Timeline), most)
	}
}

func TestFilterProcess(t *testing.T) {
	s := mergeWorkers(t)
	where := func(expression string) FilterSpec { return FilterSpec{Where: []string{expression}} }
	for _, test := range []struct {
		spec FilterSpec
		want int64
	}{
		{FilterSpec{Process: []string{"10"}}, 101},
		{FilterSpec{Process: []string{"gunicorn"}}, 2102},
		{FilterSpec{Process: []string{"gunicorn: worker*"}}, 2001},
		{FilterSpec{Process: []string{"gunicorn: worker [shop]"}}, 2001},
		{FilterSpec{Process: []string{"!gunicorn"}}, 30001},
		{FilterSpec{Process: []string{"10", "celery"}}, 30102},
		{FilterSpec{Process: []string{"1*"}}, 32103},
		{where("pid == 11"), 2001},
		{where("pid > 10 && func == '<module>'"), 32000},
		{where("process ~ 'worker'"), 2001},
		{where("blocks > 20"), 0}, // each process by itself
		{where("blocks > 5 || pid == 10"), 32101},
	} {
		f, err := ParseFilter(test.spec)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := f.Apply(s)
		if test.want == 0 {
			if err == nil {
				t.Errorf("%v lets something pass", f)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", f, err)
			continue
		}
		if got := kept.Total()[InuseBytes]; got != test.want {
			t.Errorf("%v: %d bytes, want %d", f, got, test.want)
		}
	}
	f, err := ParseFilter(FilterSpec{Process: []string{"12"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Apply(s)
	none, ok := err.(*NoMatchError)
	if want := []string{"the processes are 10 gunicorn: master [shop], 11 gunicorn: worker [shop], 110 celery"}; !ok ||
		gocmp.Diff(want, none.There) != "" {
		t.Errorf("%v", err)
	}
	// A snapshot of one process is known by its pid and command.
	alone := workers()[2].Snapshot
	alone.Info[2].Value = "/usr/bin/celery worker"
	for process, want := range map[string]bool{"110": true, "celery": true, "cel*": true, "/usr/bin/celery worker": true, "11": false, "gunicorn": false} {
		f, err := ParseFilter(FilterSpec{Process: []string{process}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Apply(alone); (err == nil) != want {
			t.Errorf("--process %s: %v", process, err)
		}
	}
}

func TestUnderProcesses(t *testing.T) {
	s := mergeWorkers(t)
	split := s.UnderProcesses()
	if err := split.Check(); err != nil {
		t.Fatal(err)
	}
	for i := range s.Records {
		before, after := s.Callers(s.Records[i].Stack), split.Callers(split.Records[i].Stack)
		want := append(before, Frame{Func: s.Text(s.Records[i].Process)})
		if diff := gocmp.Diff(want, after); diff != "" {
			t.Errorf("record %d:\n%s", i, diff)
		}
	}
	if diff := gocmp.Diff(s.By(ByProcess), split.By(ByProcess)); diff != "" {
		t.Error(diff)
	}
	if alone := full(); alone.UnderProcesses() != alone {
		t.Error("a snapshot of one process was rewritten")
	}
}
