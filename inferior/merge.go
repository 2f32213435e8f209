package inferior

import (
	"slices"

	"github.com/heaptap/heaptap/cpython"
)

// MergedFrame is a line of a stack in which Python's frames stand with the native ones: either is set.
type MergedFrame struct {
	Native *Frame
	Python *cpython.Frame
}

// Merge puts each Python frame behind the native frame of the function that evaluates it, innermost first. Where it
// cannot be told which evaluates which, Python's frames stand behind all native ones.
func (s *Stack) Merge() []MergedFrame {
	eval := parsePatterns(evaluators)
	var evaluations []int // indices of native frames
	for i := range s.Frames {
		f := &s.Frames[i]
		if f.Inlined || !eval.match(plainName(f.Symbol)) {
			continue
		}
		evaluations = append(evaluations, i)
	}
	groups := evaluated(s.Python)
	matched := len(groups) == len(evaluations)
	var out []MergedFrame
	next := 0
	for i := range s.Frames {
		out = append(out, MergedFrame{Native: &s.Frames[i]})
		if matched && slices.Contains(evaluations, i) {
			out = append(out, groups[next]...)
			next++
		}
	}
	if !matched {
		for i := range s.Python {
			out = append(out, MergedFrame{Python: &s.Python[i]})
		}
	}
	return out
}

// evaluated groups Python frames by the native call that evaluates them: from 3.11 on, one evaluates a Python function
// and those that it calls.
func evaluated(frames []cpython.Frame) [][]MergedFrame {
	var out [][]MergedFrame
	var group []MergedFrame
	for i := range frames {
		group = append(group, MergedFrame{Python: &frames[i]})
		if frames[i].Entry {
			out, group = append(out, group), nil
		}
	}
	if len(group) > 0 {
		out = append(out, group)
	}
	return out
}
