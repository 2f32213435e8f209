package heap

import (
	"cmp"
	"slices"
)

// Grouping says which frames count as the same.
type Grouping int

// The groupings.
const (
	ByLine     Grouping = iota // the same function and line
	ByFunction                 // the same function, whatever the line
)

// Row is what one line or one function accounts for.
type Row struct {
	Frame Frame  // Line is 0 in rows by function
	Own   Values // of blocks that it allocated itself
	Cum   Values // of blocks that were allocated while it was on the stack; each block once, also under recursion
}

// ByLine returns a row for each line of each function on any stack, in no particular order. Blocks without a Python
// stack are in none of them; [Snapshot.Stackless] has those.
func (s *Snapshot) ByLine() []Row { return s.rows(ByLine) }

// ByFunction returns a row for each function, as [Snapshot.ByLine] does for lines.
func (s *Snapshot) ByFunction() []Row { return s.rows(ByFunction) }

// Stackless returns the sum of the records without a stack.
func (s *Snapshot) Stackless() Values {
	var v Values
	for i := range s.Records {
		if s.Records[i].Stack == None {
			v.Add(s.Records[i].Values())
		}
	}
	return v
}

// SortRows sorts rows by what the metric says of Own, or of Cum, largest first; equal ones by file, line and function.
func SortRows(rows []Row, m Metric, cumulative bool) {
	slices.SortFunc(rows, func(a, b Row) int {
		av, bv := a.Own, b.Own
		if cumulative {
			av, bv = a.Cum, b.Cum
		}
		return cmp.Or(cmp.Compare(bv[m], av[m]), compareFrames(a.Frame, b.Frame))
	})
}

func compareFrames(a, b Frame) int {
	return cmp.Or(
		cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Func, b.Func), cmp.Compare(a.FirstLine, b.FirstLine),
	)
}

// groups numbers the classes of equal frames: the class of each frame, and a frame for each class.
func (s *Snapshot) groups(g Grouping) (of []int32, frames []Frame) {
	of = make([]int32, len(s.Frames))
	index := make(map[Frame]int32, len(s.Frames))
	for i, f := range s.Frames {
		if g == ByFunction {
			f.Line = 0
		}
		of[i] = intern(index, &frames, f)
	}
	return of, frames
}

// OwnByStack returns for each stack the sum of its records.
func (s *Snapshot) OwnByStack() []Values {
	own := make([]Values, len(s.Stacks))
	for i := range s.Records {
		if r := &s.Records[i]; r.Stack != None {
			own[r.Stack].Add(r.Values())
		}
	}
	return own
}

func (s *Snapshot) rows(g Grouping) []Row {
	group, frames := s.groups(g)
	rows := make([]Row, len(frames))
	for i := range rows {
		rows[i].Frame = frames[i]
	}
	own := s.OwnByStack()
	total := slices.Clone(own)
	for i := len(s.Stacks) - 1; i >= 0; i-- { // children come after their parents
		if p := s.Stacks[i].Parent; p != None {
			total[p].Add(total[i])
		}
	}
	outermost := s.outermost(group, len(frames))
	for i, n := range s.Stacks {
		row := &rows[group[n.Frame]]
		row.Own.Add(own[i])
		if outermost[i] {
			row.Cum.Add(total[i])
		}
	}
	return slices.DeleteFunc(rows, func(r Row) bool { return r.Cum.IsZero() })
}

// outermost tells for each node of the trie whether no ancestor is of the same group: all blocks below a recursive
// function are below its outermost call.
func (s *Snapshot) outermost(group []int32, groups int) []bool {
	is := make([]bool, len(s.Stacks))
	on := make([]bool, groups) // groups on the path to the node at hand
	s.walk(func(node int32) {
		g := group[s.Stacks[node].Frame]
		is[node], on[g] = !on[g], true
	}, func(node int32) {
		if is[node] {
			on[group[s.Stacks[node].Frame]] = false
		}
	})
	return is
}

// walk visits the trie depth first: enter comes before the node's children, leave after them.
func (s *Snapshot) walk(enter, leave func(node int32)) {
	first, next := s.children()
	var path []int32
	node := first[0]
	for {
		if node != None {
			enter(node)
			path = append(path, node)
			node = first[node+1]
			continue
		}
		if len(path) == 0 {
			return
		}
		node = path[len(path)-1]
		path = path[:len(path)-1]
		leave(node)
		node = next[node]
	}
}

// children returns for each node+1 its first child (0 stands above the roots) and for each node its next sibling, None
// where there is none.
func (s *Snapshot) children() (first, next []int32) {
	first = make([]int32, len(s.Stacks)+1)
	next = make([]int32, len(s.Stacks))
	for i := range first {
		first[i] = None
	}
	for i := len(s.Stacks) - 1; i >= 0; i-- {
		p := s.Stacks[i].Parent + 1
		next[i] = first[p]
		first[p] = int32(i)
	}
	return first, next
}
