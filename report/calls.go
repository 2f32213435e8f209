package report

import (
	"cmp"
	"slices"

	"github.com/heaptap/heaptap/heap"
)

// calls is the tree of calls of one snapshot, or of two laid over each other, with the blocks at each call. It is what
// pages are made from.
type calls struct {
	*callNames // which trees that are made from each other share

	nodes  []callNode // parents before children; the first is the root, which has no frame
	nodeOf map[heap.Stack]int32

	tallies []callTally
	tallyOf map[tallyKey]int32
}

type tallyKey struct {
	node   int32
	labels callLabels
}

// callNames are the frames and the texts of labels, and the number of each.
type callNames struct {
	frames  []heap.Frame
	frameOf map[heap.Frame]int32
	labels  []string
	labelOf map[string]int32
}

// callNode is a place in the tree.
type callNode struct {
	parent, frame int32 // -1 for the root
	first         int32 // index of its first tally, -1 for none
}

// callTally counts the blocks at a node that agree in labels.
type callTally struct {
	next   int32 // index of the node's next tally, -1 for none
	labels callLabels
	values [2]heap.Values // now, and in the older snapshot
}

// callLabels are what blocks may differ in beside their stack. Texts are indices in calls.labels.
type callLabels struct{ typ, thread, domain, process, age int32 }

// The snapshots of a comparison, as indices in callTally.values.
const (
	callsNow = 0
	callsOld = 1
)

func newCalls() *calls {
	return emptyCalls(&callNames{frameOf: map[heap.Frame]int32{}, labelOf: map[string]int32{}})
}

func emptyCalls(names *callNames) *calls {
	return &calls{callNames: names, nodeOf: map[heap.Stack]int32{}, tallyOf: map[tallyKey]int32{},
		nodes: []callNode{{parent: -1, frame: -1, first: -1}}}
}

// add lays a snapshot over what is there; only types are told apart where detailed is false.
func (c *calls) add(s *heap.Snapshot, when int, detailed bool) {
	frame := make([]int32, len(s.Frames))
	for i, f := range s.Frames {
		frame[i] = number(c.frameOf, &c.frames, heap.ByLine.Place(f))
	}
	node := make([]int32, len(s.Stacks))
	for i, n := range s.Stacks {
		parent := int32(0)
		if n.Parent != heap.None {
			parent = node[n.Parent]
		}
		node[i] = c.child(parent, frame[n.Frame])
	}
	text := make([]int32, max(1, len(s.Strings)))
	text[0] = number(c.labelOf, &c.labels, "")
	for i := range s.Strings {
		text[i] = number(c.labelOf, &c.labels, s.Strings[i])
	}
	none := int32(-1) // the node of blocks without a stack
	for i := range s.Records {
		r := &s.Records[i]
		at := none
		if r.Stack != heap.None {
			at = node[r.Stack]
		} else if none < 0 {
			none = c.child(0, number(c.frameOf, &c.frames, heap.Frame{Func: noStackName}))
			at = none
		}
		l := callLabels{typ: text[r.Type], age: heap.UnknownAge, thread: text[0], domain: text[0], process: text[0]}
		if detailed {
			l = callLabels{text[r.Type], text[r.Thread], text[r.Domain], text[r.Process], r.Age}
		}
		c.tally(at, l).values[when].Add(r.Values())
	}
}

// number returns the index of v in the table, to which it adds what is new.
func number[T comparable](index map[T]int32, table *[]T, v T) int32 {
	i, ok := index[v]
	if !ok {
		i = int32(len(*table))
		*table = append(*table, v)
		index[v] = i
	}
	return i
}

func (c *calls) child(parent, frame int32) int32 {
	key := heap.Stack{Parent: parent, Frame: frame}
	i, ok := c.nodeOf[key]
	if !ok {
		i = int32(len(c.nodes))
		c.nodes = append(c.nodes, callNode{parent: parent, frame: frame, first: -1})
		c.nodeOf[key] = i
	}
	return i
}

// tally returns the node's tally with these labels.
func (c *calls) tally(node int32, l callLabels) *callTally {
	key := tallyKey{node, l}
	i, ok := c.tallyOf[key]
	if !ok {
		i = int32(len(c.tallies))
		c.tallyOf[key] = i
		c.tallies = append(c.tallies, callTally{next: c.nodes[node].first, labels: l})
		c.nodes[node].first = i
	}
	return &c.tallies[i]
}

// sums returns for each node what is at it and below.
func (c *calls) sums() [][2]heap.Values {
	sums := make([][2]heap.Values, len(c.nodes))
	for i := len(c.nodes) - 1; i >= 0; i-- {
		n := &c.nodes[i]
		for t := n.first; t >= 0; t = c.tallies[t].next {
			for when := range sums[i] {
				sums[i][when].Add(c.tallies[t].values[when])
			}
		}
		if n.parent >= 0 {
			for when := range sums[i] {
				sums[n.parent][when].Add(sums[i][when])
			}
		}
	}
	return sums
}

// weight is the largest share that v has of the total in any metric, then or now.
func weight(v, total *[2]heap.Values) float64 {
	w := 0.0
	for when := range v {
		for m := range v[when] {
			w = max(w, share(v[when][m], total[when][m]))
		}
	}
	return w
}

// Names that stand for what a page leaves out.
const (
	cutName  = "[smaller calls, not in this page]"
	cutLabel = "[not told apart]"
)

// callsCut says what was left out of a page to bound its size.
type callsCut struct {
	nodes, of   int            // calls that were summed, of how many
	values      [2]heap.Values // of those
	tallies     int            // whose labels were dropped
	labelValues [2]heap.Values // of those
}

// prune returns the tree with only its n largest nodes below the root; what is below each of them and left out is
// summed by labels in a child of its own. No node weighs more than its parent, so that the kept ones are a tree. Of the
// tallies the smallest beyond the limit lose their labels.
func (c *calls) prune(n, tallies int) (*calls, callsCut) {
	if len(c.nodes) <= n+1 && len(c.tallies) <= tallies {
		return c, callsCut{of: len(c.nodes) - 1}
	}
	sums := c.sums()
	kept := c.largest(sums, n)
	p, cut := emptyCalls(c.callNames), callsCut{of: len(c.nodes) - 1}
	cutFrame := int32(-1)
	to := make([]int32, len(c.nodes)) // the node in p
	for i := range c.nodes {
		node := &c.nodes[i]
		switch {
		case i == 0:
		case kept[i]:
			to[i] = p.child(to[node.parent], node.frame)
		case kept[node.parent]:
			if cutFrame < 0 {
				cutFrame = number(p.frameOf, &p.frames, heap.Frame{Func: cutName})
			}
			to[i] = p.child(to[node.parent], cutFrame)
			for when := range cut.values {
				cut.values[when].Add(sums[i][when])
			}
		default:
			to[i] = to[node.parent]
		}
		if i > 0 && !kept[i] {
			cut.nodes++
		}
		for t := node.first; t >= 0; t = c.tallies[t].next {
			into := p.tally(to[i], c.tallies[t].labels)
			for when := range into.values {
				into.values[when].Add(c.tallies[t].values[when])
			}
		}
	}
	if len(p.tallies) > tallies {
		p = p.dropLabels(tallies, &sums[0], &cut)
	}
	return p, cut
}

// largest marks the root and the n other nodes with the greatest weights.
func (c *calls) largest(sums [][2]heap.Values, n int) []bool {
	kept := make([]bool, len(c.nodes))
	if len(c.nodes) <= n+1 {
		for i := range kept {
			kept[i] = true
		}
		return kept
	}
	rank := c.frameRanks()
	weights := make([]float64, len(c.nodes))
	depth := make([]int32, len(c.nodes))
	order := make([]int32, 0, len(c.nodes)-1)
	for i := 1; i < len(c.nodes); i++ {
		weights[i] = weight(&sums[i], &sums[0])
		depth[i] = depth[c.nodes[i].parent] + 1
		order = append(order, int32(i))
	}
	slices.SortFunc(order, func(a, b int32) int { // where equal, callers before what they call
		return cmp.Or(cmp.Compare(weights[b], weights[a]), cmp.Compare(depth[a], depth[b]),
			cmp.Compare(rank[c.nodes[a].frame], rank[c.nodes[b].frame]), cmp.Compare(a, b))
	})
	kept[0] = true
	for _, i := range order[:n] {
		kept[i] = true
	}
	return kept
}

// dropLabels returns the tree with the labels of all but the n largest tallies dropped.
func (c *calls) dropLabels(n int, total *[2]heap.Values, cut *callsCut) *calls {
	weights := make([]float64, len(c.tallies))
	order := make([]int32, len(c.tallies))
	for i := range c.tallies {
		weights[i], order[i] = weight(&c.tallies[i].values, total), int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int {
		return cmp.Or(cmp.Compare(weights[b], weights[a]), cmp.Compare(a, b))
	})
	kept := make([]bool, len(c.tallies))
	for _, i := range order[:min(n, len(order))] {
		kept[i] = true
	}
	unknown := number(c.labelOf, &c.labels, cutLabel)
	dropped := callLabels{unknown, unknown, unknown, unknown, heap.UnknownAge}
	p := &calls{callNames: c.callNames, nodes: slices.Clone(c.nodes), nodeOf: c.nodeOf,
		tallyOf: map[tallyKey]int32{}}
	for i := range p.nodes {
		p.nodes[i].first = -1
		for t := c.nodes[i].first; t >= 0; t = c.tallies[t].next {
			labels := c.tallies[t].labels
			if !kept[t] {
				labels = dropped
				cut.tallies++
				for when := range cut.labelValues {
					cut.labelValues[when].Add(c.tallies[t].values[when])
				}
			}
			into := p.tally(int32(i), labels)
			for when := range into.values {
				into.values[when].Add(c.tallies[t].values[when])
			}
		}
	}
	return p
}

// hasProcesses tells whether blocks are of several processes that can be told apart.
func (c *calls) hasProcesses() bool {
	return slices.ContainsFunc(c.tallies, func(t callTally) bool {
		name := c.labels[t.labels.process]
		return name != "" && name != cutLabel
	})
}

// frameRanks numbers the frames in the order of file, line and function, which does not depend on how the snapshot was
// put together.
func (c *calls) frameRanks() []int32 {
	rows := make([]heap.Row, len(c.frames))
	for i, f := range c.frames {
		rows[i].Frame = f
	}
	heap.SortRows(rows, heap.InuseBytes, false) // all are 0, so that the frames decide
	rank := make([]int32, len(rows))
	for i, r := range rows {
		rank[c.frameOf[r.Frame]] = int32(i)
	}
	return rank
}

// preorder calls visit with each node that has blocks, parents first, larger siblings before smaller ones by m, and
// with its depth; the root's is 0.
func (c *calls) preorder(m heap.Metric, visit func(node int32, depth int)) {
	sums, rank := c.sums(), c.frameRanks()
	size := func(i int32) int64 { return max(sums[i][callsNow][m], sums[i][callsOld][m]) }
	kids := make([][]int32, len(c.nodes))
	for i := 1; i < len(c.nodes); i++ {
		if !sums[i][callsNow].IsZero() || !sums[i][callsOld].IsZero() {
			p := c.nodes[i].parent
			kids[p] = append(kids[p], int32(i))
		}
	}
	type place struct {
		node  int32
		depth int
	}
	todo := []place{{0, 0}}
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		visit(at.node, at.depth)
		below := kids[at.node]
		if len(below) > 1 {
			slices.SortFunc(below, func(a, b int32) int {
				return cmp.Or(cmp.Compare(size(b), size(a)), cmp.Compare(rank[c.nodes[a].frame], rank[c.nodes[b].frame]))
			})
		}
		for _, k := range slices.Backward(below) {
			todo = append(todo, place{k, at.depth + 1})
		}
	}
}

// sorted returns the node's tallies with values, the largest first by m.
func (c *calls) sorted(node int32, m heap.Metric) []*callTally {
	var list []*callTally
	for t := c.nodes[node].first; t >= 0; t = c.tallies[t].next {
		if v := &c.tallies[t].values; !v[callsNow].IsZero() || !v[callsOld].IsZero() {
			list = append(list, &c.tallies[t])
		}
	}
	if len(list) > 1 {
		slices.SortFunc(list, func(a, b *callTally) int {
			x, y := a.labels, b.labels
			return cmp.Or(cmp.Compare(b.values[callsNow][m], a.values[callsNow][m]),
				cmp.Compare(c.labels[x.typ], c.labels[y.typ]), cmp.Compare(c.labels[x.thread], c.labels[y.thread]),
				cmp.Compare(c.labels[x.domain], c.labels[y.domain]), cmp.Compare(c.labels[x.process], c.labels[y.process]),
				cmp.Compare(x.age, y.age))
		})
	}
	return list
}
