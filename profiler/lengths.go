package profiler

import (
	"cmp"
	"slices"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/heap"
)

// Container is a live object that holds others.
type Container struct {
	Frames []heap.Frame // of the stack that allocated it, innermost first
	Type   string
	Length int64 // items in it
	Age    int32 // seconds; heap.UnknownAge
}

// lengthSamples is how many containers of a stack are looked into.
const lengthSamples = 5

// lengthSampler keeps for each stack some of its containers, the oldest.
type lengthSampler struct {
	candidates map[int32][]candidate // by stack
	frames     map[int32][]heap.Frame
	found      []Container
}

type candidate struct {
	block agent.Block
	age   int32
}

// mayHaveLength tells whether objects with that label have a length.
func mayHaveLength(label string) bool {
	switch label {
	case "list", "tuple", "bytearray", "dict", "set", "frozenset", "collections.deque", "collections.OrderedDict",
		"collections.defaultdict":
		return true
	}
	return false
}

// add takes a block of such an object into account; a nil sampler does nothing.
func (l *lengthSampler) add(stack int32, label string, b agent.Block, age int32) {
	if l == nil || !mayHaveLength(label) {
		return
	}
	list := l.candidates[stack]
	if len(list) == lengthSamples {
		youngest := slices.MinFunc(list, func(a, b candidate) int { return cmp.Compare(a.age, b.age) })
		if youngest.age >= age {
			return
		}
		list = slices.DeleteFunc(list, func(c candidate) bool { return c.block.Addr == youngest.block.Addr })
	}
	l.candidates[stack] = append(list, candidate{b, age})
}

// name notes the frames of the stacks, whose numbers are those of s.
func (l *lengthSampler) name(s *heap.Snapshot) {
	if l == nil {
		return
	}
	l.frames = map[int32][]heap.Frame{}
	for stack := range l.candidates {
		l.frames[stack] = s.Callers(stack)
	}
}

// read looks into the containers, while the target runs. What is not there any more, or is something else by now, is
// left out.
func (l *lengthSampler) read(t *target, types *cpython.Types) {
	if l == nil || types == nil {
		return
	}
	raw := make([]byte, cpython.HeaderBytes)
	for stack, list := range l.candidates {
		for _, c := range list {
			b := raw[:min(c.block.Size, cpython.HeaderBytes)]
			if t.mem.ReadAt(b, c.block.Addr) != nil {
				continue
			}
			if o, ok := types.Object(b, c.block.Size); ok {
				if n, ok := types.Length(o, b); ok {
					l.found = append(l.found, Container{Frames: l.frames[stack], Type: o.Type.Name, Length: n, Age: c.age})
				}
			}
		}
	}
	l.candidates = nil
}

// viewContainers gives containers the frames that a view of their snapshot has.
func viewContainers(list []Container, view func(*heap.Snapshot) *heap.Snapshot) {
	s := &heap.Snapshot{}
	b := heap.NewBuilder(s)
	for _, c := range list {
		frames := slices.Clone(c.Frames)
		slices.Reverse(frames)
		s.Records = append(s.Records, heap.Record{Stack: b.Stack(frames...), Age: heap.UnknownAge})
	}
	s = view(s)
	for i := range list {
		list[i].Frames = s.Callers(s.Records[i].Stack)
	}
}

// containersOf sorts containers by the suspects that they belong to: those whose stack, or a caller of it, is accused.
func containersOf(r *heap.LeakReport, found []Container) map[int32][]Container {
	last := r.Series[len(r.Series)-1]
	frames, stacks := map[heap.Frame]int32{}, map[heap.Stack]int32{}
	for i, f := range last.Frames {
		frames[f] = int32(i)
	}
	for i, n := range last.Stacks {
		stacks[n] = int32(i)
	}
	suspect := map[int32]bool{}
	for _, s := range r.Suspects {
		suspect[s.Stack] = true
	}
	of := map[int32][]Container{}
	for _, c := range found {
		accused, at := heap.None, heap.None
		for _, f := range slices.Backward(c.Frames) { // the outermost first; the innermost suspect counts
			frame, known := frames[f]
			if !known {
				break
			}
			if at, known = stacks[heap.Stack{Parent: at, Frame: frame}]; !known {
				break
			}
			if suspect[at] {
				accused = at
			}
		}
		if accused != heap.None {
			of[accused] = append(of[accused], c)
		}
	}
	for stack := range of {
		slices.SortFunc(of[stack], func(a, b Container) int {
			return cmp.Or(cmp.Compare(b.Age, a.Age), cmp.Compare(b.Length, a.Length), cmp.Compare(a.Type, b.Type))
		})
		of[stack] = of[stack][:min(len(of[stack]), lengthSamples)]
	}
	return of
}
