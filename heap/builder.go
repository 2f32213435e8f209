package heap

// Builder fills the tables of a Snapshot so that equal strings, frames and stacks are stored once. It is for one
// goroutine. Make one with [NewBuilder].
type Builder struct {
	s       *Snapshot
	strings map[string]int32
	frames  map[Frame]int32
	stacks  map[Stack]int32
}

// NewBuilder returns a builder that adds to s, whose tables must be empty.
func NewBuilder(s *Snapshot) *Builder {
	s.Strings = append(s.Strings[:0], "")
	return &Builder{
		s:       s,
		strings: map[string]int32{"": 0},
		frames:  map[Frame]int32{},
		stacks:  map[Stack]int32{},
	}
}

// Text returns the index of text in Snapshot.Strings.
func (b *Builder) Text(text string) int32 { return intern(b.strings, &b.s.Strings, text) }

// Frame returns the index of f in Snapshot.Frames.
func (b *Builder) Frame(f Frame) int32 { return intern(b.frames, &b.s.Frames, f) }

// Push returns the index in Snapshot.Stacks of the stack in which frame was called from the stack parent (None for a
// root).
func (b *Builder) Push(parent, frame int32) int32 {
	return intern(b.stacks, &b.s.Stacks, Stack{Parent: parent, Frame: frame})
}

// Stack returns the index in Snapshot.Stacks of the stack with the given frames, root (outermost) first; None where
// there are none.
func (b *Builder) Stack(frames ...Frame) int32 {
	stack := None
	for _, f := range frames {
		stack = b.Push(stack, b.Frame(f))
	}
	return stack
}

func intern[T comparable](index map[T]int32, table *[]T, v T) int32 {
	if i, ok := index[v]; ok {
		return i
	}
	i := int32(len(*table))
	*table = append(*table, v)
	index[v] = i
	return i
}
