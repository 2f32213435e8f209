package profiler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/heaptap/heaptap/heap"
)

// children are the processes below a command that are followed: each is held, and when it ends its tables become a
// snapshot, which is smaller than they are.
type children struct {
	run    *Run
	cancel context.CancelFunc
	done   chan struct{} // closed when nobody is followed any more
	held   map[int]*child
	parts  []heap.Part
	names  map[string]bool
}

type child struct {
	*Held
	name string
}

// followChildren begins to follow what the command starts.
func (r *Run) followChildren(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	c := &children{run: r, cancel: cancel, done: make(chan struct{}), held: map[int]*child{}, names: map[string]bool{}}
	r.children = c
	go func() {
		defer close(c.done)
		o := FollowOptions{Attach: r.o.Attach, Tell: c.tell, except: r.pid}
		o.Attach.AwaitEnd = false
		if err := Follow(ctx, r.pid, o); err != nil && ctx.Err() == nil && !isGone(err) {
			r.note("children are not followed any more: " + err.Error())
		}
	}()
}

// tell takes up a process that is tracked now, and puts away one that is not any more.
func (c *children) tell(e FollowEvent) error {
	switch e.Kind {
	case FollowForked:
		held, err := holdForked(e.Pid)
		if errors.As(err, new(*NotHeldError)) {
			c.run.note("forked children cannot be held by one without CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE: they are not in " +
				"the last snapshot")
		}
		switch {
		case err == nil:
			c.held[e.Pid] = &child{held, e.Name}
		case !isGone(err) && !errors.As(err, new(*NotHeldError)):
			c.run.note(fmt.Sprintf("child %d (%s): %v", e.Pid, e.Name, err))
		}
	case FollowAttached:
		if e.Attachment.Held != nil {
			c.held[e.Pid] = &child{e.Attachment.Held, e.Name}
		}
	case FollowFailed:
		c.run.note(fmt.Sprintf("child %d (%s) is not tracked: %v", e.Pid, e.Name, e.Err))
	case FollowEnded:
		if held := c.held[e.Pid]; held != nil {
			delete(c.held, e.Pid)
			c.putAway(held)
		}
	}
	if seen := c.run.o.seen; seen != nil && (e.Kind == FollowForked || e.Kind == FollowAttached) {
		seen(e)
	}
	return nil
}

const (
	forkedStep  = 2 * time.Millisecond
	forkedLimit = 200 * time.Millisecond
)

// holdForked holds the tables of a forked child, which may be about to move them to where its parent's were.
func holdForked(pid int) (*Held, error) {
	for end := time.Now().Add(forkedLimit); ; {
		h, err := Hold(context.Background(), pid)
		if !errors.Is(err, ErrNotTracked) || time.Now().After(end) {
			return h, err
		}
		if err := pause(context.Background(), forkedStep); err != nil {
			return nil, err
		}
	}
}

// putAway makes a snapshot of a child's tables and lets go of them.
func (c *children) putAway(h *child) {
	defer h.Close()
	d, err := h.Dump(DumpOptions{})
	if err != nil {
		c.run.note(fmt.Sprintf("child %d (%s): %v", h.pid, h.name, err))
		return
	}
	label := Member[struct{}]{Pid: h.pid, Name: h.name}.label()
	for name, i := label, 2; c.names[label]; i++ { // it has executed another Python
		label = fmt.Sprintf("%s (%d)", name, i)
	}
	c.names[label] = true
	c.parts = append(c.parts, heap.Part{Process: label, Snapshot: d.Snapshot})
}

// end ends the following, and returns what there was of children. Those that go on without the command are as they are now.
func (c *children) end() []heap.Part {
	c.cancel()
	<-c.done
	for _, h := range c.held {
		c.putAway(h)
	}
	return c.parts
}

// Dump makes the last snapshot: of the command's Python and of its children's, by process where there are several.
func (e *RunEnd) Dump(o DumpOptions) (*Dump, error) {
	var d *Dump
	var err error
	switch {
	case e.Held != nil:
		if d, err = e.Held.Dump(o); err != nil || len(e.Children) == 0 {
			return d, err
		}
	case len(e.Children) == 0:
		return nil, ErrNotTracked
	default:
		d = &Dump{Notes: []string{deadNote}}
	}
	parts := e.Children
	if e.Held != nil {
		parts = append([]heap.Part{{Process: fmt.Sprintf("%d %s", e.Held.pid, e.name), Snapshot: d.Snapshot}}, parts...)
	}
	d.Snapshot, err = heap.Merge(parts)
	return d, err
}
