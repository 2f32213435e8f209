package profiler

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/heaptap/heaptap/heap"
)

// Containers get the stacks that a view of their snapshot has, so that they are found below its suspects.
func TestViewContainers(t *testing.T) {
	main := heap.Frame{Func: "main", File: "a.py", Line: 1}
	hidden := heap.Frame{Module: "/usr/bin/python3.11", BuildID: "01", Addr: 1}
	raw := heap.Frame{Module: "/srv/ext.so", BuildID: "02", Addr: 2}
	named := heap.Frame{Func: "grow", File: "ext.c", Line: 3, Module: "/srv/ext.so", BuildID: "02"}
	list := []Container{{Frames: []heap.Frame{raw, hidden, main}, Type: "list"}, {Frames: []heap.Frame{main}, Type: "dict"},
		{Frames: []heap.Frame{hidden, raw, main}, Type: "set"}}
	viewContainers(list, func(s *heap.Snapshot) *heap.Snapshot {
		chains := make([][]heap.Frame, len(s.Frames))
		for i, f := range s.Frames {
			if f == raw {
				chains[i] = []heap.Frame{named}
			}
		}
		return s.ReplaceFrames(chains).View(heap.MixedFrames)
	})
	want := [][]heap.Frame{{named, main}, {main}, {named, main}}
	for i, c := range list {
		if diff := cmp.Diff(want[i], c.Frames); diff != "" {
			t.Errorf("%s: %s", c.Type, diff)
		}
	}
	viewContainers(nil, func(s *heap.Snapshot) *heap.Snapshot { return s })
}
