package heap

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// maxCases bounds the cases into which an expression is taken apart to see whether any of them is possible. With more
// nothing is said.
const maxCases = 512

// literal is a test or the negation of one.
type literal struct {
	test    *test
	negated bool
}

func (l literal) String() string {
	e := testOf(l.test)
	if l.negated {
		e = not(e)
	}
	return e.String()
}

// contradiction says why nothing can pass the expression, "" where something may. It knows numbers, domains, names that
// exclude each other, and tests that stand beside their own negation; a regular expression that no text matches is not
// found out.
func (e *expr) contradiction() string {
	cases, ok := e.cases(false)
	if !ok {
		return ""
	}
	first := ""
	for _, c := range cases {
		why := contradictory(c)
		if why == "" {
			return ""
		}
		if first == "" {
			first = why
		}
	}
	return first
}

// cases returns the expression (or its negation) as alternatives of tests that must all hold.
func (e *expr) cases(negated bool) ([][]literal, bool) {
	switch {
	case e.op == opTest:
		return [][]literal{{{e.test, negated}}}, true
	case e.op == opNot:
		return e.kids[0].cases(!negated)
	case (e.op == opOr) != negated:
		var all [][]literal
		for _, k := range e.kids {
			c, ok := k.cases(negated)
			if all = append(all, c...); !ok || len(all) > maxCases {
				return nil, false
			}
		}
		return all, true
	}
	all := [][]literal{nil}
	for _, k := range e.kids {
		c, ok := k.cases(negated)
		if !ok || len(all)*len(c) > maxCases {
			return nil, false
		}
		var product [][]literal
		for _, left := range all {
			for _, right := range c {
				product = append(product, slices.Concat(left, right))
			}
		}
		all = product
	}
	return all, true
}

// contradictory says why tests cannot all hold, "" where they can.
func contradictory(all []literal) string {
	for i, l := range all {
		for _, other := range all[:i] {
			if l.negated != other.negated && l.test.String() == other.test.String() {
				return fmt.Sprintf("nothing can be both %s and %s", other, l)
			}
		}
	}
	for _, p := range properties() {
		var about []literal
		for _, l := range all {
			if l.test.field.name == p.name && !l.test.anywhere {
				about = append(about, l)
			}
		}
		why := ""
		switch {
		case len(about) == 0:
		case p.name == "domain":
			why = noDomain(about)
		case p.value == textValue:
			why = exclusiveNames(about)
		case p.value != noValue:
			why = emptyRange(about)
		}
		if why != "" {
			return why
		}
	}
	return ""
}

// noDomain tries the domains, and none.
func noDomain(about []literal) string {
	for _, name := range append(Domains(), "") {
		fits := func(l literal) bool { return l.test.ofText(name) != l.negated }
		if !slices.ContainsFunc(about, func(l literal) bool { return !fits(l) }) {
			return ""
		}
	}
	return fmt.Sprintf("no domain is %s; there are %s", allOf(about), strings.Join(Domains(), ", "))
}

// exclusiveNames looks for two names that no text can both have, and for a name that a negated test excludes.
func exclusiveNames(about []literal) string {
	for i, a := range about {
		p := a.test.pattern
		if a.negated || p == nil || p.glob != nil || p.kind != dottedName && p.kind != typeName {
			continue
		}
		for n, b := range about {
			q := b.test.pattern
			switch {
			case i == n || q == nil || q.glob != nil:
			case b.negated && q.matches(p.text):
				return fmt.Sprintf("no %s is both %s", a.test.field.name, allOf([]literal{a, b}))
			case !b.negated && !p.matches(q.text) && !q.matches(p.text):
				return fmt.Sprintf("no %s is both %s", a.test.field.name, allOf([]literal{a, b}))
			}
		}
	}
	return ""
}

// emptyRange looks for a number between the limits.
func emptyRange(about []literal) string {
	low, high := int64(0), int64(math.MaxInt64)
	var holes []int64
	for _, l := range about {
		from, to := l.test.span()
		switch {
		case !l.negated:
			low, high = max(low, from), min(high, to)
		case from <= 0: // not below: above
			low = max(low, addOne(to))
		case to == math.MaxInt64:
			high = min(high, from-1)
		default: // not one number
			holes = append(holes, from)
		}
	}
	slices.Sort(holes)
	for _, h := range holes {
		if h == low {
			low++
		}
	}
	if low <= high {
		return ""
	}
	return fmt.Sprintf("no %s is %s", about[0].test.field.name, allOf(about))
}

func addOne(v int64) int64 {
	if v == math.MaxInt64 {
		return v
	}
	return v + 1
}

func allOf(list []literal) string {
	var parts []string
	for _, l := range list {
		_, rest, _ := strings.Cut(l.String(), " ")
		parts = append(parts, rest)
	}
	return strings.Join(parts, " and ")
}

// span is the range of whole numbers for which the test holds, to including. Of ages it is seconds, cut off.
func (t *test) span() (from, to int64) {
	switch t.compare {
	case equal:
		return t.number, t.number
	case less:
		return math.MinInt64, t.number - 1
	case atMost:
		if t.field.value == ageValue {
			return math.MinInt64, t.number - 1
		}
		return math.MinInt64, t.number
	case more:
		if t.field.value == ageValue {
			return t.number, math.MaxInt64
		}
		if t.number == math.MaxInt64 {
			return math.MaxInt64, math.MaxInt64 - 1
		}
		return t.number + 1, math.MaxInt64
	}
	return t.number, math.MaxInt64
}

// ofText tells whether a name passes the test.
func (t *test) ofText(name string) bool {
	if t.regexp != nil {
		return t.regexp.MatchString(name)
	}
	return t.pattern.matches(name)
}
