package heap

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Grouping says which blocks are counted together.
type Grouping int

// The groupings: by frame, by whole stack, by module of the frame's file, by label.
const (
	ByLine     Grouping = iota // the same function and line
	ByFunction                 // the same function, whatever the line
	ByStack                    // the same frames all the way
	ByModule                   // a frame in the same module, see ModuleOf
	ByType
	ByThread
	ByDomain
	ByAge // the same bucket of ages
	ByProcess
	NumGroupings
)

// String is the grouping's name on the command line.
func (g Grouping) String() string {
	names := [NumGroupings]string{"line", "function", "stack", "module", "type", "thread", "domain", "age", "process"}
	if g >= 0 && g < NumGroupings {
		return names[g]
	}
	return fmt.Sprintf("grouping(%d)", int(g))
}

// Frames tells whether groups are of frames, so that a block belongs to one of them by its innermost frame and to
// others by its callers. Otherwise a block belongs to one group only.
func (g Grouping) Frames() bool { return g == ByLine || g == ByFunction || g == ByModule }

// Group names what is counted together.
type Group struct {
	Frame Frame  // of rows by line (Line is 0 by function); the innermost frame of rows by stack; else zero
	Stack int32  // of rows by stack: index in Snapshot.Stacks; else None
	Name  string // of rows by module or label; "" where blocks have none
}

// Row is what one group accounts for.
type Row struct {
	Group
	Own Values // of blocks that it allocated itself
	Cum Values // of blocks that were allocated while it was on the stack; each block once, also under recursion
}

// By returns a row for each group, in no particular order. In groups by frame, blocks without a Python stack are in
// none; [Snapshot.Stackless] has those. Where a block is in one group only, Own and Cum are the same.
func (s *Snapshot) By(g Grouping) []Row {
	if g.Frames() {
		return s.rows(g)
	}
	var rows []Row
	index := map[int32]int32{}
	names := map[string]int32{}
	for i := range s.Records {
		r := &s.Records[i]
		if g == ByStack && r.Stack == None {
			continue
		}
		key := r.groupKey(g)
		at, ok := index[key]
		if !ok {
			group := s.groupOf(g, key)
			if at, ok = names[group.Name]; !ok || g == ByStack {
				at = int32(len(rows))
				rows = append(rows, Row{Group: group})
				names[group.Name] = at
			}
			index[key] = at
		}
		rows[at].Own.Add(r.Values())
	}
	for i := range rows {
		rows[i].Cum = rows[i].Own
	}
	return slices.DeleteFunc(rows, func(r Row) bool { return r.Own.IsZero() })
}

// groupKey is a number that tells the record's group from others; several may be one.
func (r *Record) groupKey(g Grouping) int32 {
	switch g {
	case ByType:
		return r.Type
	case ByThread:
		return r.Thread
	case ByDomain:
		return r.Domain
	case ByAge:
		return r.Age
	case ByProcess:
		return r.Process
	}
	return r.Stack
}

func (s *Snapshot) groupOf(g Grouping, key int32) Group {
	group := Group{Stack: None}
	switch g {
	case ByStack:
		group.Stack, group.Frame = key, s.Frames[s.Stacks[key].Frame]
	case ByAge:
		group.Name = AgeText(key)
	case ByProcess:
		if group.Name = s.Text(key); group.Name == "" {
			group.Name = s.processOf()
		}
	default:
		group.Name = s.Text(key)
	}
	return group
}

// AgeText names the bucket of ages with that lower bound: "1m to 2m"; "" for UnknownAge.
func AgeText(bound int32) string {
	end := AgeBucketEnd(bound)
	switch {
	case bound == UnknownAge:
		return ""
	case end == math.MaxInt32:
		return FormatAge(int64(bound)) + " and more"
	case end == bound+1 && bound > 1: // no bucket of ours
		return FormatAge(int64(bound))
	}
	return FormatAge(int64(bound)) + " to " + FormatAge(int64(end))
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

// SortRows sorts rows by what the metric says of Own, or of Cum, largest first; equal ones by file, line and function, or by
// name.
func SortRows(rows []Row, m Metric, cumulative bool) {
	slices.SortFunc(rows, func(a, b Row) int {
		av, bv := a.Own, b.Own
		if cumulative {
			av, bv = a.Cum, b.Cum
		}
		return cmp.Or(cmp.Compare(bv[m], av[m]), compareGroups(a.Group, b.Group))
	})
}

func compareGroups(a, b Group) int {
	return cmp.Or(compareFrames(a.Frame, b.Frame), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Stack, b.Stack))
}

func compareFrames(a, b Frame) int {
	return cmp.Or(
		cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Func, b.Func), cmp.Compare(a.FirstLine, b.FirstLine),
		cmp.Compare(a.Module, b.Module), cmp.Compare(a.Addr, b.Addr), cmp.Compare(a.BuildID, b.BuildID),
	)
}

// groups numbers the groups of frames: the number of each frame's, and all groups.
func (s *Snapshot) groups(g Grouping) (of []int32, groups []Group) {
	of = make([]int32, len(s.Frames))
	index := make(map[Group]int32, len(s.Frames))
	modules := map[Frame]string{} // by what decides
	for i, f := range s.Frames {
		group := Group{Frame: g.Place(f), Stack: None}
		if g == ByModule {
			key := Frame{File: f.File}
			if f.Native() {
				key = Frame{Module: f.Module}
			}
			name, known := modules[key]
			if !known {
				name, _ = key.ModuleName()
				modules[key] = name
			}
			group = Group{Name: name, Stack: None}
		}
		of[i] = intern(index, &groups, group)
	}
	return of, groups
}

// Place is what stands for a frame in rows by line and by function, and in trees: calls of one line are one place, wherever
// its instructions are.
func (g Grouping) Place(f Frame) Frame {
	if f.symbolized() {
		f.BuildID, f.Addr = "", 0
	}
	if g == ByFunction {
		f.Line = 0
	}
	return f
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
	group, groups := s.groups(g)
	rows := make([]Row, len(groups))
	for i := range rows {
		rows[i].Group = groups[i]
	}
	own := s.OwnByStack()
	total := slices.Clone(own)
	for i := len(s.Stacks) - 1; i >= 0; i-- { // children come after their parents
		if p := s.Stacks[i].Parent; p != None {
			total[p].Add(total[i])
		}
	}
	outermost := s.outermost(group, len(groups))
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
