package heap

import (
	"fmt"
	"slices"
	"strings"
)

// FilterSpec is a filter as people write it: what the command line's flags hold. Each list is one flag; its values are
// alternatives, save those that begin with "!", none of which may hold. Different flags must all hold.
//
// A flag is short for a test of an expression: Type "dict" for type == "dict", MinSize "1KiB" for size >= 1KiB, Older
// "5m" for age >= 5m; of MinSize and Older the largest counts, of MaxSize and Newer the smallest.
type FilterSpec struct {
	Type, Module, File, Func, Thread, Domain, Process []string

	MinSize, MaxSize []string // "512", "1KiB", "2M"
	Older, Newer     []string // "90s", "5m", "2h", "1d"

	Own   bool     // only what own code allocated, as [ModuleOf] knows it
	Where []string // expressions; all must hold
}

// Filter decides which blocks somebody wants to see. It is immutable and may be shared. Make one with [ParseFilter].
//
// Most of what can be asked is asked of each block. The number of blocks (blocks > 1000) is that of the blocks of one
// stack (in one process) that pass otherwise, and is asked last.
type Filter struct {
	all   *expr // nil lets everything pass
	block *expr // what can be told of one block; nil: nothing to tell
	stack *expr // what is left; nil: nothing
}

// ParseFilter compiles a filter. The zero spec lets everything pass. Errors are *[FilterError]s: what is not in the
// language, and what no block can be (age > 5m && age < 1m).
func ParseFilter(spec FilterSpec) (*Filter, error) {
	parts, err := spec.parts()
	if err != nil {
		return nil, err
	}
	f := &Filter{all: join(opAnd, parts)}
	if f.all == nil {
		return f, nil
	}
	if why := f.all.contradiction(); why != "" {
		return nil, impossible(spec, f.all, why)
	}
	if err := f.split(); err != nil {
		return nil, err
	}
	return f, nil
}

// parts are the expressions of the flags.
func (spec FilterSpec) parts() ([]*expr, error) {
	var parts []*expr
	add := func(e *expr, err error) error {
		parts = append(parts, e)
		return err
	}
	for _, flag := range []struct {
		flag, field string
		values      []string
	}{
		{"type", "type", spec.Type}, {"module", "module", spec.Module}, {"file", "file", spec.File},
		{"func", "func", spec.Func}, {"thread", "thread", spec.Thread}, {"domain", "domain", spec.Domain},
		{"process", "process", spec.Process},
	} {
		if err := add(nameFlag(flag.flag, flag.field, flag.values)); err != nil {
			return nil, err
		}
	}
	for _, flag := range []struct {
		flag, field string
		compare     comparison
		values      []string
	}{
		{"min-size", "size", atLeast, spec.MinSize}, {"max-size", "size", atMost, spec.MaxSize},
		{"older", "age", atLeast, spec.Older}, {"newer", "age", less, spec.Newer},
	} {
		for _, v := range flag.values {
			if err := add(limitFlag(flag.flag, flag.field, flag.compare, v)); err != nil {
				return nil, err
			}
		}
	}
	if spec.Own {
		parts = append(parts, testOf(&test{field: propertyOf("own")}))
	}
	for _, w := range spec.Where {
		if err := add(parseExpression("where", w)); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

func propertyOf(name string) property {
	return properties()[slices.IndexFunc(properties(), func(p property) bool { return p.name == name })]
}

// nameFlag is the expression of a flag that holds names.
func nameFlag(flag, field string, values []string) (*expr, error) {
	var wanted, unwanted []*expr
	for _, v := range values {
		bare, negated := strings.CutPrefix(v, "!")
		p := &parser{flag: flag, source: v}
		t := &test{field: propertyOf(field), compare: equal}
		if err := p.textValue(t, token{kind: textToken, text: bare, at: len(v) - len(bare)}); err != nil {
			return nil, err
		}
		if negated {
			unwanted = append(unwanted, not(testOf(t)))
		} else {
			wanted = append(wanted, testOf(t))
		}
	}
	return join(opAnd, append(unwanted, join(opOr, wanted))), nil
}

// limitFlag is the expression of a flag that holds a number.
func limitFlag(flag, field string, compare comparison, v string) (*expr, error) {
	bare, negated := strings.CutPrefix(v, "!")
	p := &parser{flag: flag, source: v}
	t := &test{field: propertyOf(field), compare: compare}
	if err := p.numberValue(t, token{kind: numberToken, text: bare, at: len(v) - len(bare)}); err != nil {
		return nil, err
	}
	if negated {
		return not(testOf(t)), nil
	}
	return testOf(t), nil
}

// split divides the filter into what can be told of a block and what needs their number.
func (f *Filter) split() error {
	parts := []*expr{f.all}
	if f.all.op == opAnd {
		parts = f.all.kids
	}
	var block, stack []*expr
	for _, e := range parts {
		switch {
		case e.axes&blocksAxis == 0:
			block = append(block, e)
		case e.axes&^(blocksAxis|stackAxis|processAxis) == 0:
			stack = append(stack, e)
		default:
			return &FilterError{Flag: "where", Source: e.String(), Reason: "blocks is the number of blocks of a stack, " +
				"and can be joined by || only with what a stack has, not with a block's type, age or size"}
		}
	}
	f.block, f.stack = join(opAnd, block), join(opAnd, stack)
	return nil
}

// impossible is the error for a filter that no block can pass. A contradiction within one flag is shown there.
func impossible(spec FilterSpec, all *expr, why string) error {
	e := &FilterError{Source: all.String(), Reason: why}
	if len(spec.Where) == 1 {
		if parsed, err := parseExpression("where", spec.Where[0]); err == nil && parsed.contradiction() != "" {
			e.Flag, e.Source = "where", spec.Where[0]
		}
	}
	return e
}

// Everything tells whether the filter lets everything pass.
func (f *Filter) Everything() bool { return f.all == nil }

// String is the filter as one expression that [FilterSpec].Where takes; "" lets everything pass.
func (f *Filter) String() string {
	if f.all == nil {
		return ""
	}
	return f.all.String()
}

// NeedsType tells whether the answer depends on blocks' types, which cost something to find out.
func (f *Filter) NeedsType() bool { return f.all != nil && f.all.axes&typeAxis != 0 }

// FilterError says what is wrong with a filter, and where.
type FilterError struct {
	Flag   string // the flag that holds Source: "where", "min-size", ...; "" where several flags do not go together
	Source string // what was written there
	Offset int    // in Source, bytes; where the whole is wrong, 0
	Reason string
}

// Error is one line; Source and Offset allow to point at the place.
func (e *FilterError) Error() string {
	if e.Flag == "" {
		return "filter: " + e.Reason
	}
	return fmt.Sprintf("--%s: %s", e.Flag, e.Reason)
}

// NoMatchError says that a filter lets nothing of a snapshot pass, and what there is.
type NoMatchError struct {
	Filter string
	There  []string // what was there, a sentence each
}

// Error is one line, without There.
func (e *NoMatchError) Error() string { return "no block passes the filter " + e.Filter }
