package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/inject"
	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/profiler"
	"github.com/heaptap/heaptap/ptrace"
)

// fakeEngine plays one scene: every operation on a process ends with its error or, where that is nil, with results that
// are always the same.
type fakeEngine struct {
	err error
	// variant names another result than the usual.
	variant string
}

// scenes are the errors of an engine by name, in the shapes in which package profiler passes them on.
func scenes() map[string]error {
	old := cpython.Version{Major: 2, Minor: 7, Micro: 18, Level: cpython.Final}
	of := func(err error) error { return fmt.Errorf("attach: %w", err) }
	return map[string]error{
		"gone":         of(fmt.Errorf("process 4711: %w", proc.ErrGone)),
		"reused":       of(fmt.Errorf("process 4711: %w", proc.ErrReused)),
		"zombie":       of(fmt.Errorf("process 4711: %w", proc.ErrZombie)),
		"not-python":   of(&cpython.NotPythonError{Pid: 4711}),
		"old":          of(&cpython.UnsupportedError{Identity: cpython.Identity{Version: old}, Why: "3.6 is the oldest"}),
		"32-bit":       of(&cpython.UnsupportedError{Why: "a 32-bit process (EM_386)"}),
		"compat":       of(&ptrace.ABIError{Tid: 4711, RegsSize: 68}),
		"starting":     of(&cpython.NotReadyError{Why: "it is not initialised: still starting, or already finalised"}),
		"traced":       of(&ptrace.TracedError{Pid: 4711, Tid: 4711, Tracer: 99, TracerName: "gdb"}),
		"denied":       of(&ptrace.PermissionError{Pid: 4711, Tid: 4711, Err: syscall.EPERM}),
		"denied-mem":   of(fmt.Errorf("process 4711: open /proc/4711/mem: %w", syscall.EACCES)),
		"not-tracked":  fmt.Errorf("process 4711: %w", profiler.ErrNotTracked),
		"other":        &profiler.OtherVersionError{Pid: 4711, Have: 1, Want: 2},
		"exec":         of(fmt.Errorf("process 4711: %w", call.ErrChanged)),
		"ended":        of(fmt.Errorf("seize thread 4711: %w", ptrace.ErrGone)),
		"no-thread":    of(fmt.Errorf("process 4711: %w", call.ErrNoThread)),
		"changed-word": of(fmt.Errorf("hook: %w", &inject.ChangedError{Addr: 8, Have: 1, Want: 2})),
		"busy":         fmt.Errorf("process 4711: %w", profiler.ErrBusy),
		"damaged":      fmt.Errorf("read tables: %w", &agent.BadTablesError{What: "node 7 is its own parent"}),
		"seccomp":      of(&call.SeccompError{Nr: 9}),
		"incomplete":   fmt.Errorf("process 4711: %w", profiler.ErrIncomplete),
		"no-room":      &profiler.AddressSpaceError{Pid: 4711, Limit: 1 << 30, Used: 1 << 30},
		"forbidden":    &profiler.SeccompError{Pid: 4711, Call: "mmap"},
		"slow":         of(&call.TimeoutError{Tid: 4711, Limit: time.Second, Err: context.DeadlineExceeded}),
		"fault":        of(&call.FaultError{Tid: 4711, Signal: syscall.SIGSEGV}),
		"stuck":        of(fmt.Errorf("wait for thread 4711: %w: %w", ptrace.ErrDeadline, context.DeadlineExceeded)),
		"changing":     of(fmt.Errorf("find Python in process 4711: %w", cpython.ErrBusy)),
		"not-restored": &profiler.RestoreError{Pid: 4711, What: "hook of obj malloc", Err: syscall.EIO},
		// Harm wins over what caused it.
		"harm": errors.Join(of(fmt.Errorf("process 4711: %w", proc.ErrReused)),
			&call.RestoreError{Tid: 4711, Err: syscall.EIO}),
		"odd": errors.New("something nobody thought of"),
	}
}

var fakeNow = time.Date(2026, time.November, 23, 14, 5, 6, 0, time.UTC)

func fakePython() profiler.Python {
	return profiler.Python{Version: "3.11.2", Flavour: "static", Path: "/usr/bin/python3.11"}
}

func (f fakeEngine) List(context.Context) ([]profiler.Candidate, error) {
	if f.variant == "alone" {
		return nil, nil
	}
	return []profiler.Candidate{
		{Pid: 812, RSS: 48 << 20, User: "www-data", Command: "/usr/bin/python3 -m uwsgi --ini /etc/shop.ini",
			Problem: "not permitted to look into it: another user's, or protected"},
		{Pid: 4711, Python: fakePython(), RSS: 130<<20 + 300<<10, User: "ada", Tracked: profiler.Tracking,
			Command: "python3 shop.py --port 8080 --catalogue /srv/shop/catalogue.json --workers 4 --verbose"},
		{Pid: 4712, Parent: 4711, Python: profiler.Python{Version: "3.13.0", Flavour: "shared", FreeThreaded: true, Path: "/lib/p.so"},
			RSS: 9 << 20, User: "ada", Command: "worker\x1b[31m --evil\n--name",
			Problem: "unsupported Python 3.13.0: a free-threaded build"},
		{Pid: 1234567, Parent: 812, Python: fakePython(), RSS: 3 << 30, User: "root", Tracked: profiler.Incomplete,
			Command: "python3 -c pass"},
	}, nil
}

func (f fakeEngine) Attach(_ context.Context, _ int, o profiler.AttachOptions) (*profiler.Attachment, error) {
	if f.err != nil {
		return nil, f.err
	}
	at := &profiler.Attachment{Python: fakePython(), Hooked: o.Domains, Pause: 112 * time.Microsecond, Tid: 4713,
		Took: 38400 * time.Microsecond, Already: f.variant == "already", Notes: []string{
			"3.11.2 itself was not compared with the layout tables, its neighbours were; the layout passed the probes"}}
	if len(at.Hooked) == 0 {
		at.Hooked = []profiler.Domain{profiler.Raw, profiler.Mem, profiler.Obj}
	}
	return at, nil
}

func (f fakeEngine) ReadStatus(context.Context, int) (*profiler.Status, error) {
	if f.err != nil {
		return nil, f.err
	}
	if f.variant == "incomplete" {
		return &profiler.Status{Pid: 4711, State: profiler.Incomplete, Python: fakePython()}, nil
	}
	var signal *profiler.OutletStatus
	if name, ok := strings.CutPrefix(f.variant, "signal-"); ok {
		signal = &profiler.OutletStatus{Signal: syscall.SIGUSR2, Pattern: "/tmp/heaptap-%p-%n.tables", Written: 3, Failed: 1, Passed: 2,
			Error: syscall.ENOSPC, Place: profiler.Place(name)}
	}
	return &profiler.Status{
		Pid: 4711, State: profiler.Tracking, Python: fakePython(), Since: fakeNow.Add(-130 * time.Second), OnSignal: signal,
		Totals: []profiler.Totals{
			{Domain: profiler.Raw, LiveBlocks: 812, LiveBytes: 1200 << 10, AllocBlocks: 90210, AllocBytes: 90 << 20,
				FreedBlocks: 89398, FreedBytes: 90<<20 - 1200<<10},
			{Domain: profiler.Mem, LiveBlocks: 4, LiveBytes: 512, AllocBlocks: 5, AllocBytes: 640,
				FreedBlocks: 1, FreedBytes: 128},
			{Domain: profiler.Obj, LiveBlocks: 1234567, LiveBytes: 130 << 20, AllocBlocks: 4123456789, AllocBytes: 3 << 40,
				FreedBlocks: 4122222222, FreedBytes: 3<<40 - 130<<20},
		},
		UnseenFrees: 51234, Stacks: 20480, CodeObjects: 733, Threads: 9, AgentText: 24 << 10, AgentTables: 9 << 20,
		AgentReserved: 64 << 30, PeakBytes: 150 << 20, Resident: 700 << 20,
		Memory: &profiler.Memory{RSS: 700 << 20, Tracked: 130 << 20, Beside: 35 << 20, FilesClean: 18 << 20, FilesDirty: 2 << 20,
			Stacks: 1 << 20, Shared: 256 << 10, Heaptap: 9 << 20, Unexplained: 504<<20 + 768<<10, FilesShared: 11 << 20,
			Absent: 1228 << 10, Swapped: 4 << 20, HeapGrowth: -3 << 20},
		NotSeen: []string{"blocks allocated before the attach",
			"memory that C code takes from malloc or mmap without Python's allocators, in numpy's arrays for example"},
	}, nil
}

func (f fakeEngine) Observe(context.Context, int) (*profiler.Observation, error) {
	return &profiler.Observation{Tracked: 3 << 20, Blocks: 9593, Peak: 4 << 20, RSS: 64 << 20}, f.err
}

func (f fakeEngine) TakeDump(_ context.Context, _ int, o profiler.DumpOptions) (*profiler.Dump, error) {
	if f.err != nil {
		return nil, f.err
	}
	s := fakeSnapshot()
	if f.variant == "later" {
		growSnapshot(s)
	}
	if o.Filter != nil {
		var err error
		if s, err = o.Filter.Apply(s); err != nil {
			return nil, err
		}
	}
	return &profiler.Dump{Snapshot: s, Pause: 4200 * time.Microsecond, Took: 31 * time.Millisecond,
		Blocks: uint64(s.Total()[heap.InuseBlocks])}, nil
}

func fakeSnapshot() *heap.Snapshot {
	s := &heap.Snapshot{Time: fakeNow, Duration: 130 * time.Second,
		Info: []heap.KeyValue{{Key: "python", Value: "3.11.2"}}}
	b := heap.NewBuilder(s)
	frame := func(name, file string, line, first int) heap.Frame {
		return heap.Frame{Func: name, File: file, Line: line, FirstLine: first}
	}
	run := frame("Thread.run", "/usr/lib/python3.11/threading.py", 982, 970)
	serve := frame("Handler.do_POST", "/srv/shop/shop.py", 139, 130)
	keep := frame("AnswerCache.keep", "/srv/shop/shop.py", 84, 83)
	parse := frame("loads", "/usr/lib/python3.11/json/__init__.py", 346, 300)
	obj, raw := b.Text("obj"), b.Text("raw")
	s.Records = []heap.Record{
		{Stack: b.Stack(run, serve, keep), Domain: obj, Age: heap.UnknownAge, InuseBytes: 2400 << 10, InuseBlocks: 408,
			AllocBytes: 2400 << 10, AllocBlocks: 408},
		{Stack: b.Stack(run, serve, parse), Domain: obj, Age: heap.UnknownAge, InuseBytes: 640 << 10, InuseBlocks: 9183,
			AllocBytes: 9 << 20, AllocBlocks: 90000},
		{Stack: heap.None, Domain: raw, Age: heap.UnknownAge, InuseBytes: 4096, InuseBlocks: 2,
			AllocBytes: 8192, AllocBlocks: 4},
	}
	return s
}

// FindLeaks finds that one stack leaks and another fills up, whatever the time.
func (f fakeEngine) FindLeaks(ctx context.Context, pid int, o profiler.LeakOptions) (*profiler.LeakHunt, error) {
	var series []*heap.Snapshot
	for k := range int64(o.Snapshots) {
		d, err := f.TakeDump(ctx, pid, o.Dump)
		if err != nil {
			return nil, err
		}
		s := d.Snapshot
		s.Time, s.Duration = s.Time.Add(time.Duration(k)*time.Minute), s.Duration+time.Duration(k)*time.Minute
		s.Records[0].InuseBytes += k * 300 << 10
		s.Records[0].InuseBlocks += k * 50
		if len(s.Records) > 1 {
			s.Records[1].InuseBytes += min(k, 2) * 100 << 10
			s.Records[1].InuseBlocks += min(k, 2) * 1000
		}
		series = append(series, s)
		o.Taken(int(k), d)
	}
	r, err := heap.Leaks(series)
	if err != nil {
		return nil, err
	}
	age := int32(600)
	return &profiler.LeakHunt{LeakReport: r, Pause: 4 * time.Millisecond, Containers: map[int32][]profiler.Container{
		r.Suspects[0].Stack: {{Type: "list", Length: 40800, Age: age}}}}, nil
}

// growSnapshot makes of a snapshot one of five minutes later: a leak has grown, a cache is gone.
func growSnapshot(s *heap.Snapshot) {
	s.Time, s.Duration = s.Time.Add(5*time.Minute), s.Duration+5*time.Minute
	grown, gone := &s.Records[0], &s.Records[1]
	for _, v := range []*int64{&grown.InuseBytes, &grown.InuseBlocks, &grown.AllocBytes, &grown.AllocBlocks} {
		*v *= 3
	}
	gone.InuseBytes, gone.InuseBlocks = 0, 0
}

func (f fakeEngine) Detach(context.Context, int) (*profiler.Detachment, error) {
	if f.err != nil {
		return nil, f.err
	}
	if f.variant == "wrapped" {
		return &profiler.Detachment{Restored: 8, Foreign: []string{"obj malloc holds 0x7f0000001000 of another tool"},
			Why: "another tool's hooks lead into it", Pause: 300 * time.Microsecond}, nil
	}
	return &profiler.Detachment{Restored: 12, Slots: 29, Unmapped: true, Pause: 300 * time.Microsecond}, nil
}

func (f fakeEngine) Repair(ctx context.Context, pid int) (*profiler.Detachment, error) {
	return f.Detach(ctx, pid)
}

func (f fakeEngine) Examine(context.Context, int) ([]profiler.Check, error) {
	checks := []profiler.Check{
		{Name: "kernel", Verdict: profiler.Fine, Fact: "Linux 6.1.0"},
		{Name: "seccomp", Verdict: profiler.Warns,
			Fact: "the process has a seccomp filter; attach evaluates it and refuses where it forbids mmap"},
	}
	if f.err != nil {
		checks = append(checks, profiler.Check{Name: "yama", Verdict: profiler.Blocks,
			Fact:     "kernel.yama.ptrace_scope is 1: without CAP_SYS_PTRACE only a process's own ancestors may trace it",
			WayRound: "sudo heaptap …, or sudo sysctl kernel.yama.ptrace_scope=0"})
	}
	return checks, nil
}

func (f fakeEngine) Start(context.Context, profiler.RunOptions) (*profiler.Run, error) {
	return nil, f.err
}
