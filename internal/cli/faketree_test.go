package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/profiler"
)

// The fake engine's tree is a server with a worker, and another that ends just when something is done with it.

func fakeTree[T any](f fakeEngine, of func(pid int) T) ([]profiler.Member[T], error) {
	if f.err != nil {
		return nil, f.err
	}
	return []profiler.Member[T]{
		{Pid: 4711, Parent: 1, Name: "gunicorn", Result: of(4711)},
		{Pid: 4715, Parent: 4711, Name: "gunicorn", Result: of(4715)},
		{Pid: 4716, Parent: 4711, Name: "gunicorn", Err: fmt.Errorf("process 4716: %w", proc.ErrGone)},
	}, nil
}

func (f fakeEngine) AttachTree(
	ctx context.Context, _ int, o profiler.AttachOptions,
) ([]profiler.Member[*profiler.Attachment], error) {
	return fakeTree(f, func(pid int) *profiler.Attachment {
		at, _ := f.Attach(ctx, pid, o)
		at.Already = pid == 4715
		return at
	})
}

func (f fakeEngine) StatusOfTree(ctx context.Context, _ int) ([]profiler.Member[*profiler.Status], error) {
	return fakeTree(f, func(pid int) *profiler.Status {
		s, _ := f.ReadStatus(ctx, pid)
		s.Pid = pid
		return s
	})
}

func (f fakeEngine) TakeTreeDump(ctx context.Context, _ int, o profiler.DumpOptions) (*profiler.TreeDump, error) {
	var parts []heap.Part
	list, err := fakeTree(f, func(pid int) *profiler.Dump {
		d, _ := f.TakeDump(ctx, pid, o)
		parts = append(parts, heap.Part{Process: fmt.Sprintf("%d gunicorn", pid), Snapshot: d.Snapshot})
		d.Notes = []string{"a note"}
		return d
	})
	if err != nil {
		return nil, err
	}
	d := &profiler.TreeDump{Members: list, Pause: 5 * time.Millisecond, Took: 40 * time.Millisecond,
		Untracked: []profiler.Member[*profiler.Dump]{{Pid: 4800, Parent: 4711, Name: "sh"}}}
	d.Snapshot, err = heap.Merge(parts)
	return d, err
}

func (f fakeEngine) DetachTree(ctx context.Context, _ int) ([]profiler.Member[*profiler.Detachment], error) {
	return fakeTree(f, func(pid int) *profiler.Detachment {
		d, _ := f.Detach(ctx, pid)
		return d
	})
}

func (f fakeEngine) RepairTree(ctx context.Context, pid int) ([]profiler.Member[*profiler.Detachment], error) {
	return f.DetachTree(ctx, pid)
}

func (f fakeEngine) Follow(_ context.Context, pid int, o profiler.FollowOptions) error {
	if f.err != nil {
		return f.err
	}
	for _, e := range []profiler.FollowEvent{
		{Kind: profiler.FollowAttached, Pid: pid, Parent: 1, Name: "gunicorn",
			Attachment: &profiler.Attachment{Python: fakePython(), Already: true}},
		{Kind: profiler.FollowForked, Pid: 4715, Parent: pid, Name: "gunicorn"},
		{Kind: profiler.FollowAttached, Pid: 4717, Parent: 4715, Name: "python3",
			Attachment: &profiler.Attachment{Python: fakePython(), Pause: 112 * time.Microsecond, Tid: 4717}},
		{Kind: profiler.FollowFailed, Pid: 4718, Parent: pid, Name: "ev\x1bil", Err: scenes()["traced"]},
		{Kind: profiler.FollowEnded, Pid: 4715, Parent: pid, Name: "gunicorn"},
	} {
		if err := o.Tell(e); err != nil {
			return err
		}
	}
	return nil
}
