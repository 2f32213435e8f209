package heap

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The language of filters.
//
//	type == "dict" && age > 60s && size >= 1KiB && !(file ~ "site-packages")
//
// A test is a field, a comparison and a value. Tests are joined by && and ||, of which && binds closer, negated by !, and
// grouped by parentheses. Texts are compared by == != (names, as [pattern] says) and ~ !~ (regular expressions, RE2, found
// anywhere in the text); numbers by == != < <= > >=. In texts a backslash stands for itself, save before a quote or
// another backslash.
//
// The fields func, file, module, line and own look at the innermost Python frame, which is where the block was allocated
// and what a report by line or function counts it for. With "stack." before them they look for any frame of the stack
// that does. So stack.func == "handle" is all that was allocated on behalf of handle.
//
// Ages are a clock's whole seconds, cut off. So a block of 60 s has an age between 60 s and 61 s: age > 60s and
// age >= 60s mean the same, as do < and <=.

// axis is what of a block a test looks at.
type axis uint8

const (
	stackAxis axis = 1 << iota
	typeAxis
	domainAxis
	threadAxis
	sizeAxis
	ageAxis
	blocksAxis
	processAxis
)

// valueKind is what a field is compared with.
type valueKind int

const (
	textValue valueKind = iota
	sizeValue
	ageValue
	countValue
	noValue // the field is a test by itself
)

// property is what tests can be about: a field of the language.
type property struct {
	name  string
	axis  axis
	value valueKind
	names textKind // of text values
	frame bool     // a property of frames: may be asked of the whole stack
}

func properties() []property {
	return []property{
		{name: "type", axis: typeAxis, names: typeName},
		{name: "module", axis: stackAxis, names: moduleName, frame: true},
		{name: "file", axis: stackAxis, names: filePath, frame: true},
		{name: "func", axis: stackAxis, names: dottedName, frame: true},
		{name: "thread", axis: threadAxis, names: threadName},
		{name: "domain", axis: domainAxis, names: plainWord},
		{name: "size", axis: sizeAxis, value: sizeValue},
		{name: "age", axis: ageAxis, value: ageValue},
		{name: "blocks", axis: blocksAxis | stackAxis, value: countValue},
		{name: "depth", axis: stackAxis, value: countValue},
		{name: "line", axis: stackAxis, value: countValue, frame: true},
		{name: "process", axis: processAxis, names: processName},
		{name: "pid", axis: processAxis, value: countValue},
		{name: "own", axis: stackAxis, value: noValue, frame: true},
	}
}

// FilterFields are the names of the fields that expressions can be about.
func FilterFields() []string {
	var names []string
	for _, f := range properties() {
		names = append(names, f.name)
	}
	return names
}

// Domains are the classes of allocators that a block can be of.
func Domains() []string { return []string{"raw", "mem", "obj", "malloc", "mmap", "file"} }

type operator int

const (
	opAnd operator = iota
	opOr
	opNot
	opTest
)

// expr is an expression. Of kids, opNot has one, opAnd and opOr have at least two.
type expr struct {
	op   operator
	kids []*expr
	test *test
	axes axis // of all tests in it
}

// comparison is one of the comparisons that are not the negation of another.
type comparison string

const (
	equal    comparison = "=="
	matching comparison = "~"
	less     comparison = "<"
	atMost   comparison = "<="
	more     comparison = ">"
	atLeast  comparison = ">="
	isTrue   comparison = "" // of a field without a value
)

// test is one comparison.
type test struct {
	field    property
	anywhere bool // in the stack, not only in the innermost frame
	compare  comparison
	text     string // as it was written
	pattern  *pattern
	regexp   *regexp.Regexp
	number   int64
}

func testOf(t *test) *expr { return &expr{op: opTest, test: t, axes: t.field.axis} }

func not(e *expr) *expr {
	if e.op == opNot {
		return e.kids[0]
	}
	return &expr{op: opNot, kids: []*expr{e}, axes: e.axes}
}

// join combines expressions; nil stands for none of them.
func join(op operator, list []*expr) *expr {
	list = slices.DeleteFunc(list, func(e *expr) bool { return e == nil })
	if len(list) < 2 {
		return slices.Concat(list, []*expr{nil})[0]
	}
	e := &expr{op: op}
	for _, k := range list {
		if k.op == op {
			e.kids = append(e.kids, k.kids...)
		} else {
			e.kids = append(e.kids, k)
		}
		e.axes |= k.axes
	}
	return e
}

// name is the test's field as it is written.
func (t *test) name() string {
	if t.anywhere {
		return "stack." + t.field.name
	}
	return t.field.name
}

func (t *test) String() string {
	switch t.field.value {
	case noValue:
		return t.name()
	case textValue:
		return fmt.Sprintf("%s %s %s", t.name(), t.compare, quote(t.text))
	case sizeValue:
		return fmt.Sprintf("%s %s %s", t.name(), t.compare, formatSize(t.number))
	case ageValue:
		return fmt.Sprintf("%s %s %s", t.name(), t.compare, FormatAge(t.number))
	}
	return fmt.Sprintf("%s %s %d", t.name(), t.compare, t.number)
}

// String is the expression as it is written.
func (e *expr) String() string {
	switch e.op {
	case opTest:
		return e.test.String()
	case opNot:
		if k := e.kids[0]; k.op == opTest {
			switch k.test.compare {
			case equal, matching:
				opposite := *k.test
				opposite.compare = map[comparison]comparison{equal: "!=", matching: "!~"}[k.test.compare]
				return opposite.String()
			case isTrue:
				return "!" + k.String()
			}
		}
		return "!(" + e.kids[0].String() + ")"
	}
	sign := " && "
	if e.op == opOr {
		sign = " || "
	}
	var parts []string
	for _, k := range e.kids {
		if e.op == opAnd && k.op == opOr {
			parts = append(parts, "("+k.String()+")")
		} else {
			parts = append(parts, k.String())
		}
	}
	return strings.Join(parts, sign)
}

func quote(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// tests visits the tests of an expression; positive tells whether none or two negations are around it.
func (e *expr) tests(positive bool, visit func(t *test, positive bool)) {
	if e.op == opTest {
		visit(e.test, positive)
	}
	for _, k := range e.kids {
		k.tests(positive != (e.op == opNot), visit)
	}
}

// ---- reading

type tokenKind int

const (
	endToken tokenKind = iota
	wordToken
	textToken
	numberToken
	signToken
)

type token struct {
	kind tokenKind
	text string // of a text: without quotes
	at   int
}

// signs are what stands between words, longer ones before those that they begin with.
var signs = [...]string{"&&", "||", "==", "!=", "!~", "<=", ">=", "=~", "~", "<", ">", "!", "(", ")", "=", "&", "|"}

// maxNesting bounds how deep parentheses and negations may nest.
const maxNesting = 200

// parser reads one expression.
type parser struct {
	flag   string
	source string
	at     int
	next   token
	depth  int
}

func (p *parser) fail(at int, format string, args ...any) error {
	return &FilterError{Flag: p.flag, Source: p.source, Offset: at, Reason: fmt.Sprintf(format, args...)}
}

// parseExpression reads what a flag holds.
func parseExpression(flag, source string) (*expr, error) {
	p := &parser{flag: flag, source: source}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.next.kind == endToken {
		return nil, p.fail(0, "an expression is missing")
	}
	e, err := p.alternatives()
	if err == nil && p.next.kind != endToken {
		err = p.unexpected("&& or ||")
	}
	return e, err
}

// advance reads the next token.
func (p *parser) advance() error {
	for p.at < len(p.source) && strings.IndexByte(" \t\r\n", p.source[p.at]) >= 0 {
		p.at++
	}
	rest := p.source[p.at:]
	p.next = token{kind: endToken, at: p.at}
	switch {
	case rest == "":
		return nil
	case rest[0] == '"' || rest[0] == '\'' || rest[0] == '`':
		return p.quoted(rest[0])
	case wordByte(rest[0]):
		end := 0
		for end < len(rest) && wordByte(rest[end]) {
			end++
		}
		p.next.kind, p.next.text = wordToken, rest[:end]
		if rest[0] >= '0' && rest[0] <= '9' {
			p.next.kind = numberToken
		}
		p.at += end
		return nil
	}
	for _, s := range signs {
		if strings.HasPrefix(rest, s) {
			p.next.kind, p.next.text = signToken, s
			p.at += len(s)
			return nil
		}
	}
	return p.fail(p.at, "%q means nothing here", firstRune(rest))
}

func wordByte(c byte) bool {
	return c == '.' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func firstRune(text string) string {
	for i := range text {
		if i > 0 {
			return text[:i]
		}
	}
	return text
}

// quoted reads a text.
func (p *parser) quoted(mark byte) error {
	var b strings.Builder
	for i := p.at + 1; i < len(p.source); i++ {
		c := p.source[i]
		switch {
		case c == mark:
			p.next.kind, p.next.text = textToken, b.String()
			p.at = i + 1
			return nil
		case c == '\\' && mark != '`' && i+1 < len(p.source) && (p.source[i+1] == mark || p.source[i+1] == '\\'):
			i++
			b.WriteByte(p.source[i])
		default:
			b.WriteByte(c)
		}
	}
	return p.fail(p.at, "this text has no closing %c", mark)
}

// takes tells whether the next token is that sign, and goes beyond it.
func (p *parser) takes(sign string) (bool, error) {
	if p.next.kind != signToken || p.next.text != sign {
		return false, nil
	}
	return true, p.advance()
}

func (p *parser) unexpected(want string) error {
	if p.next.kind == endToken {
		return p.fail(p.next.at, "it ends where %s should be", want)
	}
	hint := ""
	switch p.next.text {
	case "&", "and":
		hint = "; and is written &&"
	case "|", "or":
		hint = "; or is written ||"
	case "not":
		hint = "; not is written !"
	case "=", "is":
		hint = "; equality is written =="
	case "=~":
		hint = "; a regular expression follows ~"
	}
	return p.fail(p.next.at, "%s should be here%s", want, hint)
}

func (p *parser) alternatives() (*expr, error) { return p.series("||", opOr, p.conjunction) }
func (p *parser) conjunction() (*expr, error)  { return p.series("&&", opAnd, p.unary) }

// series reads parts with a sign between them.
func (p *parser) series(sign string, op operator, part func() (*expr, error)) (*expr, error) {
	var list []*expr
	for {
		e, err := part()
		if err != nil {
			return nil, err
		}
		list = append(list, e)
		if more, err := p.takes(sign); err != nil || !more {
			return join(op, list), err
		}
	}
}

func (p *parser) unary() (*expr, error) {
	if p.depth++; p.depth > maxNesting {
		return nil, p.fail(p.next.at, "more than %d levels of parentheses and negations", maxNesting)
	}
	defer func() { p.depth-- }()
	if negated, err := p.takes("!"); err != nil {
		return nil, err
	} else if negated {
		e, err := p.unary()
		if err != nil {
			return nil, err
		}
		return not(e), nil
	}
	opened := p.next.at
	if group, err := p.takes("("); err != nil {
		return nil, err
	} else if !group {
		return p.test()
	}
	e, err := p.alternatives()
	if err != nil {
		return nil, err
	}
	if closed, err := p.takes(")"); err != nil || closed {
		return e, err
	}
	if p.next.kind == endToken {
		return nil, p.fail(opened, "this parenthesis is not closed")
	}
	return nil, p.unexpected("&&, || or )")
}

// test reads a field, a comparison and a value.
func (p *parser) test() (*expr, error) {
	name := p.next
	if name.kind != wordToken {
		return nil, p.unexpected("a field")
	}
	t := &test{}
	bare, anywhere := strings.CutPrefix(name.text, "stack.")
	i := slices.IndexFunc(properties(), func(f property) bool { return f.name == bare })
	if i < 0 {
		return nil, p.unknownField(name)
	}
	t.field, t.anywhere = properties()[i], anywhere
	if anywhere && !t.field.frame {
		return nil, p.fail(name.at, "%s is no property of the frames of a stack", bare)
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if t.field.value == noValue {
		return testOf(t), nil
	}
	negated, err := p.comparison(t)
	if err != nil {
		return nil, err
	}
	if err := p.value(t); err != nil {
		return nil, err
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if negated {
		return not(testOf(t)), nil
	}
	return testOf(t), nil
}

func (p *parser) unknownField(name token) error {
	names := FilterFields()
	if near := nearest(strings.TrimPrefix(name.text, "stack."), names); near != "" {
		return p.fail(name.at, "there is no field %q; did you mean %s?", name.text, near)
	}
	switch name.text {
	case "and", "or", "not":
		return p.unexpected("a field")
	}
	return p.fail(name.at, "there is no field %q; there are %s", name.text, strings.Join(names, ", "))
}

// comparison reads the sign behind a field.
func (p *parser) comparison(t *test) (negated bool, err error) {
	allowed := "== != < <= > >="
	if t.field.value == textValue {
		allowed = "== != ~ !~"
	}
	sign := p.next.text
	if p.next.kind != signToken || !slices.Contains(strings.Fields(allowed), sign) {
		return false, p.unexpected("one of " + allowed)
	}
	positive, negated := strings.CutPrefix(sign, "!")
	if negated && positive == "=" {
		positive = "=="
	}
	t.compare = comparison(positive)
	return negated, p.advance()
}

// value takes the next token for what the field is compared with.
func (p *parser) value(t *test) error {
	v := p.next
	if t.field.value == textValue {
		if v.kind == wordToken || v.kind == numberToken {
			return p.fail(v.at, "a text stands in quotes: %s %s %q", t.name(), t.compare, v.text)
		}
		if v.kind != textToken {
			return p.unexpected("a text in quotes")
		}
		return p.textValue(t, v)
	}
	if v.kind == textToken {
		return p.fail(v.at, "%s is compared with a number, without quotes", t.name())
	}
	if v.kind != numberToken {
		return p.unexpected("a number")
	}
	return p.numberValue(t, v)
}

func (p *parser) numberValue(t *test, v token) error {
	var err error
	switch t.text = v.text; t.field.value {
	case sizeValue:
		var size uint64
		size, err = ParseSize(v.text)
		t.number = int64(size)
	case ageValue:
		t.number, err = ParseAge(v.text)
	case countValue:
		t.number, err = strconv.ParseInt(v.text, 10, 64)
		if err != nil {
			err = fmt.Errorf("%q is not a whole number", v.text)
		}
	}
	if err != nil {
		return p.fail(v.at, "%v", err)
	}
	return nil
}

func (p *parser) textValue(t *test, v token) error {
	t.text = v.text
	if t.compare == matching {
		var err error
		if t.regexp, err = regexp.Compile(v.text); err != nil {
			return p.fail(v.at, "%s is no regular expression: %s", quote(v.text),
				strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		}
		return nil
	}
	if v.text == "" {
		return p.fail(v.at, `no %s has an empty name; "-" stands for none`, t.field.name)
	}
	t.pattern = newPattern(v.text, t.field.names)
	if t.field.name == "domain" {
		return p.knownDomain(t, v)
	}
	return nil
}

// knownDomain refuses names that no domain has.
func (p *parser) knownDomain(t *test, v token) error {
	if v.text == absent || slices.ContainsFunc(Domains(), t.pattern.matches) {
		return nil
	}
	return p.fail(v.at, "there is no domain %q; there are %s", v.text, strings.Join(Domains(), ", "))
}

// nearest returns the candidate that name is most probably a slip of, "" where there is none.
func nearest(name string, candidates []string) string {
	best, distance := "", max(1, min(3, len(name)/3))+1
	for _, c := range candidates {
		if d := editDistance(strings.ToLower(name), strings.ToLower(c), distance); d < distance {
			best, distance = c, d
		}
	}
	return best
}

// editDistance is the number of characters to insert, delete, replace or swap with their neighbour to make b of a, or
// some number of at least limit.
func editDistance(a, b string, limit int) int {
	if abs := max(len(a)-len(b), len(b)-len(a)); abs >= limit {
		return limit
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			same := cmp.Compare(a[i-1], b[j-1])
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+same*same)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
