package profiler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/proc"
)

// Member is a process of a tree, and what came of doing something with it.
type Member[T any] struct {
	Pid, Parent int
	Name        string // its first thread's
	Result      T      // the zero value where there is an Err
	Err         error
}

// label is what the records of the process carry in a snapshot of several.
func (m Member[T]) label() string { return fmt.Sprintf("%d %s", m.Pid, m.Name) }

// tree lists a process and those below it, parents before their children. Of those that ended or came meanwhile some
// are in it. A process whose parent has ended is another's child, and not found; a vfork's child that has not executed its
// program yet is a part of its parent.
func tree[T any](pid int) ([]Member[T], error) {
	p, err := proc.Open(pid)
	if err != nil {
		return nil, err
	}
	if err := p.Check(); err != nil {
		return nil, err
	}
	st, err := p.Stat(pid)
	if err != nil {
		return nil, err
	}
	list := []Member[T]{{Pid: pid, Parent: st.Ppid, Name: st.Comm}}
	for i := 0; i < len(list); i++ {
		p := &proc.Process{Pid: list[i].Pid}
		children, err := p.Children()
		if err != nil && !isGone(err) {
			return nil, err
		}
		for _, child := range children {
			known := slices.ContainsFunc(list, func(m Member[T]) bool { return m.Pid == child })
			st, err := (&proc.Process{Pid: child}).Stat(child)
			if !known && err == nil && !sharesMemory(child, list[i].Pid) {
				list = append(list, Member[T]{Pid: child, Parent: list[i].Pid, Name: st.Comm})
			}
		}
	}
	return list, nil
}

// isGone reports whether a process has ended, or is about to.
func isGone(err error) bool {
	return errors.Is(err, proc.ErrGone) || errors.Is(err, proc.ErrReused) || errors.Is(err, proc.ErrZombie)
}

// isPython reports whether there is, or was, an interpreter to do something with.
func isPython(err error) bool { return !errors.As(err, new(*cpython.NotPythonError)) }

// eachOfTree does something with each process of a tree, its root first, and looks again until there is none that it was
// not done with, or so many times. Processes that are no Python, or that have ended, are not in the list.
func eachOfTree[T any](
	ctx context.Context, pid, looks int, do func(context.Context, int) (T, error),
) ([]Member[T], error) {
	done := map[int]bool{}
	var list []Member[T]
	for range looks {
		now, err := tree[T](pid)
		if err != nil && len(list) == 0 {
			return nil, err
		}
		now = slices.DeleteFunc(now, func(m Member[T]) bool { return done[m.Pid] })
		if len(now) == 0 {
			return list, nil
		}
		work := func(m *Member[T]) {
			if m.Err = context.Cause(ctx); m.Err == nil {
				m.Result, m.Err = do(ctx, m.Pid)
			}
		}
		var g errgroup.Group
		g.SetLimit(atOnce)
		for i := range now {
			done[now[i].Pid] = true
			if i == 0 { // the uppermost: what it forks later has what was done to it
				work(&now[i])
			} else {
				g.Go(func() error { work(&now[i]); return nil })
			}
		}
		if err := errors.Join(g.Wait(), context.Cause(ctx)); err != nil {
			return list, err
		}
		for _, m := range now {
			if !isGone(m.Err) && isPython(m.Err) {
				list = append(list, m)
			}
		}
	}
	return list, nil
}

// mostLooks bounds the looks at a tree that is changed. What is new at a look was forked, since the one before, by a
// process that nothing had been done to yet: in a tree that forks without end, there soon is no such process.
const mostLooks = 10

// AttachTree is [Attach] for a process and all Python processes below it, parents first, so that with o.Follow no child
// is missed. It fails when there is none to attach to; else each Member has its own error.
func AttachTree(ctx context.Context, pid int, o AttachOptions) ([]Member[*Attachment], error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	list, err := eachOfTree(ctx, pid, mostLooks, func(ctx context.Context, of int) (*Attachment, error) {
		if of == pid {
			return Attach(ctx, of, o)
		}
		return attachChild(ctx, of, o)
	})
	return list, treeError(pid, list, err, &cpython.NotPythonError{Pid: pid})
}

// DetachTree is [Detach] for all tracked processes of a tree, and for those that have their parent's hooks only.
func DetachTree(ctx context.Context, pid int) ([]Member[*Detachment], error) {
	list, err := eachOfTree(ctx, pid, mostLooks, Detach)
	list = slices.DeleteFunc(list, func(m Member[*Detachment]) bool { return errors.Is(m.Err, ErrNotTracked) })
	return list, treeError(pid, list, err, fmt.Errorf("process %d and those below it: %w", pid, ErrNotTracked))
}

// RepairTree is [Repair] for all processes of a tree in which there is something of heaptap.
func RepairTree(ctx context.Context, pid int) ([]Member[*Detachment], error) {
	list, err := eachOfTree(ctx, pid, mostLooks, Repair)
	list = slices.DeleteFunc(list, func(m Member[*Detachment]) bool { return errors.Is(m.Err, ErrNotTracked) })
	return list, treeError(pid, list, err, fmt.Errorf("process %d and those below it: %w", pid, ErrNotTracked))
}

// StatusOfTree is [ReadStatus] for all tracked processes of a tree.
func StatusOfTree(ctx context.Context, pid int) ([]Member[*Status], error) {
	list, err := eachOfTree(ctx, pid, 1, ReadStatus)
	list = slices.DeleteFunc(list, func(m Member[*Status]) bool { return errors.Is(m.Err, ErrNotTracked) })
	return list, treeError(pid, list, err, fmt.Errorf("process %d and those below it: %w", pid, ErrNotTracked))
}

// treeError is the error of doing something with a tree, none where it succeeded for at least one of its processes.
// That of one which could not be restored is never hidden.
func treeError[T any](pid int, list []Member[T], err, none error) error {
	if err != nil {
		return err
	}
	var first error
	succeeded := false
	for _, m := range list {
		var harm *RestoreError
		if errors.As(m.Err, &harm) {
			return m.Err
		}
		if !isGone(m.Err) {
			first = cmp.Or(first, m.Err)
		}
		succeeded = succeeded || m.Err == nil
	}
	switch {
	case succeeded:
		return nil
	case first != nil:
		return first
	}
	return none
}

// atOnce is with how many processes of a tree something is done at the same time, at most.
const atOnce = 4

// TreeDump is one snapshot of several processes, and what it cost.
type TreeDump struct {
	Snapshot *heap.Snapshot
	Members  []Member[*Dump] // without their snapshots; those that ended meanwhile are in it, with an Err
	// Untracked are those of which nothing is in the snapshot since they are not tracked: mostly no Pythons.
	Untracked []Member[*Dump]
	Pause     time.Duration // the longest of any process
	Took      time.Duration
}

// TakeTreeDump makes one snapshot of all tracked processes of a tree, each of whose records says in Process which it is
// of. Each process stands still for itself, so that the snapshot is of no single instant.
func TakeTreeDump(ctx context.Context, pid int, o DumpOptions) (*TreeDump, error) {
	began := time.Now()
	list, err := tree[*Dump](pid)
	if err != nil {
		return nil, err
	}
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range list {
		g.Go(func() error {
			list[i].Result, list[i].Err = TakeDump(ctx, list[i].Pid, o)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	d := &TreeDump{}
	for _, m := range list {
		if errors.Is(m.Err, ErrNotTracked) {
			d.Untracked = append(d.Untracked, m)
		} else {
			d.Members = append(d.Members, m)
		}
	}
	list = d.Members
	var parts []heap.Part
	for i, m := range list {
		if m.Err != nil {
			continue
		}
		parts = append(parts, heap.Part{Process: m.label(), Snapshot: m.Result.Snapshot})
		d.Pause = max(d.Pause, m.Result.Pause)
		list[i].Result.Snapshot = nil
	}
	none := fmt.Errorf("process %d and those below it: %w", pid, ErrNotTracked)
	if err := treeError(pid, list, nil, none); err != nil {
		return nil, err
	}
	if d.Snapshot, err = heap.Merge(parts); err != nil {
		return nil, err
	}
	d.Took = time.Since(began)
	return d, nil
}
