package cli

import (
	"context"

	"github.com/heaptap/heaptap/profiler"
)

// liveEngine is package profiler as it is.
type liveEngine struct{}

func (liveEngine) List(ctx context.Context) ([]profiler.Candidate, error) { return profiler.List(ctx) }

func (liveEngine) Attach(ctx context.Context, pid int, o profiler.AttachOptions) (*profiler.Attachment, error) {
	return profiler.Attach(ctx, pid, o)
}

func (liveEngine) ReadStatus(ctx context.Context, pid int) (*profiler.Status, error) {
	return profiler.ReadStatus(ctx, pid)
}

func (liveEngine) Observe(ctx context.Context, pid int) (*profiler.Observation, error) {
	return profiler.Observe(ctx, pid)
}

func (liveEngine) TakeDump(ctx context.Context, pid int, o profiler.DumpOptions) (*profiler.Dump, error) {
	return profiler.TakeDump(ctx, pid, o)
}

func (liveEngine) FindLeaks(ctx context.Context, pid int, o profiler.LeakOptions) (*profiler.LeakHunt, error) {
	return profiler.FindLeaks(ctx, pid, o)
}

func (liveEngine) Detach(ctx context.Context, pid int) (*profiler.Detachment, error) {
	return profiler.Detach(ctx, pid)
}

func (liveEngine) Repair(ctx context.Context, pid int) (*profiler.Detachment, error) {
	return profiler.Repair(ctx, pid)
}

func (liveEngine) Examine(ctx context.Context, pid int) ([]profiler.Check, error) {
	return profiler.Examine(ctx, pid)
}

func (liveEngine) AttachTree(
	ctx context.Context, pid int, o profiler.AttachOptions,
) ([]profiler.Member[*profiler.Attachment], error) {
	return profiler.AttachTree(ctx, pid, o)
}

func (liveEngine) StatusOfTree(ctx context.Context, pid int) ([]profiler.Member[*profiler.Status], error) {
	return profiler.StatusOfTree(ctx, pid)
}

func (liveEngine) TakeTreeDump(ctx context.Context, pid int, o profiler.DumpOptions) (*profiler.TreeDump, error) {
	return profiler.TakeTreeDump(ctx, pid, o)
}

func (liveEngine) DetachTree(ctx context.Context, pid int) ([]profiler.Member[*profiler.Detachment], error) {
	return profiler.DetachTree(ctx, pid)
}

func (liveEngine) RepairTree(ctx context.Context, pid int) ([]profiler.Member[*profiler.Detachment], error) {
	return profiler.RepairTree(ctx, pid)
}

func (liveEngine) Follow(ctx context.Context, pid int, o profiler.FollowOptions) error {
	return profiler.Follow(ctx, pid, o)
}

func (liveEngine) Start(ctx context.Context, o profiler.RunOptions) (*profiler.Run, error) {
	return profiler.Start(ctx, o)
}
