package heap

import (
	"cmp"
	"slices"
)

// Node is a place in the tree of calls, which [Snapshot.Tree] makes.
type Node struct {
	Frame    Frame  // Line is 0 in a tree by function; the zero Frame at the root and for blocks without a stack
	Own      Values // of blocks allocated right there
	Cum      Values // of those and all below
	Children []*Node
}

// Tree returns the calls as a tree: callers above, what they called below, equal siblings merged. Its root stands for
// the whole snapshot and owns the blocks without a stack. Nodes without blocks are left out. The tree is the caller's.
// g is ByLine or ByFunction.
func (s *Snapshot) Tree(g Grouping) *Node {
	group, groups := s.groups(g)
	own := s.OwnByStack()
	type key struct {
		parent *Node
		group  int32
	}
	index := make(map[key]*Node, len(s.Stacks))
	root := &Node{Own: s.Stackless()}
	nodes := make([]*Node, len(s.Stacks)) // of each stack
	var order []*Node                     // parents first
	for i, n := range s.Stacks {
		parent := root
		if n.Parent != None {
			parent = nodes[n.Parent]
		}
		k := key{parent, group[n.Frame]}
		node := index[k]
		if node == nil {
			node = &Node{Frame: groups[k.group].Frame}
			index[k] = node
			parent.Children = append(parent.Children, node)
			order = append(order, node)
		}
		node.Own.Add(own[i])
		nodes[i] = node
	}
	for _, n := range slices.Backward(order) {
		n.sum()
	}
	root.sum()
	return root
}

// sum sets Cum from the children's, of which it drops the empty ones.
func (n *Node) sum() {
	n.Cum = n.Own
	for _, c := range n.Children {
		n.Cum.Add(c.Cum)
	}
	n.Children = slices.DeleteFunc(n.Children, func(c *Node) bool { return c.Cum.IsZero() })
}

// SortChildren sorts the node's children by a metric of what is below them, largest first; equal ones by file, line and
// function.
func (n *Node) SortChildren(m Metric) {
	slices.SortFunc(n.Children, func(a, b *Node) int {
		return cmp.Or(cmp.Compare(b.Cum[m], a.Cum[m]), compareFrames(a.Frame, b.Frame))
	})
}
