package cexpr

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// parser is a recursive descent over the tokens of one source.
//
// (name)(x), (name)*x and the like mean different things for a type and for a variable. Names of the built-in table are
// known here; other names are kept in ambiguous, and Run asks the Machine about them and parses again where one is a
// type. Where only a type makes sense, as in (name *)x, nothing needs to be asked.
type parser struct {
	src       string
	tokens    []token
	at        int
	depth     int
	types     []string // names that are types beside the table's
	ambiguous []string
}

// maxDepth is how deep expressions may nest.
const maxDepth = 400

func parse(src string) (*Program, error) {
	all, err := tokens(src)
	if err != nil {
		return nil, err
	}
	p := &parser{src: src, tokens: all}
	statements, err := p.program()
	if err != nil && len(p.ambiguous) > 0 {
		// It may parse with these names as types.
		again := &parser{src: src, tokens: all, types: p.ambiguous}
		if statements, err2 := again.program(); err2 == nil {
			return &Program{src, statements, nil}, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return &Program{src, statements, p.ambiguous}, nil
}

// parseWith parses again, with names that are types.
func parseWith(src string, types []string) (*Program, error) {
	all, err := tokens(src)
	if err != nil {
		return nil, err
	}
	p := &parser{src: src, tokens: all, types: types}
	statements, err := p.program()
	if err != nil {
		return nil, err
	}
	return &Program{src, statements, nil}, nil
}

func (p *parser) peek() *token { return &p.tokens[p.at] }

// ahead is the token n further on.
func (p *parser) ahead(n int) *token { return &p.tokens[min(p.at+n, len(p.tokens)-1)] }

func (p *parser) is(text string) bool { return p.ahead(0).is(text) }

func (t *token) is(text string) bool { return t.kind == punctuation && t.text == text }

func (p *parser) take() token {
	t := p.tokens[p.at]
	if t.kind != endToken {
		p.at++
	}
	return t
}

func (p *parser) accept(text string) bool {
	if p.is(text) {
		p.at++
		return true
	}
	return false
}

func (p *parser) fail(t *token, message string, args ...any) error {
	return &SyntaxError{Src: p.src, Pos: t.pos, What: fmt.Sprintf(message, args...)}
}

// unexpected says what stands where something else should.
func (p *parser) unexpected(wanted string) error {
	t := p.peek()
	if t.kind == endToken {
		return p.fail(t, "%s expected at the end", wanted)
	}
	return p.fail(t, "%s expected, found %s", wanted, p.src[t.pos:t.end])
}

func (p *parser) expect(text string) error {
	if !p.accept(text) {
		return p.unexpected(text)
	}
	return nil
}

// from is the place of an expression that began at start and ends before the next token.
func (p *parser) from(start, at int) spot {
	end := start
	if p.at > 0 {
		end = p.tokens[p.at-1].end
	}
	return spot{start, end, at}
}

func (p *parser) nest() error {
	p.depth++
	if p.depth > maxDepth {
		return p.fail(p.peek(), "expression nests too deep")
	}
	return nil
}

func (p *parser) program() ([]statement, error) {
	var statements []statement
	for {
		for p.accept(";") {
		}
		if p.peek().kind == endToken {
			break
		}
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		statements = append(statements, statement{e})
		if !p.is(";") && p.peek().kind != endToken {
			return nil, p.unexpected("operator or ;")
		}
	}
	if len(statements) == 0 {
		return nil, p.fail(p.peek(), "no expression")
	}
	return statements, nil
}

// expression reads up to a comma operator, included.
func (p *parser) expression() (expression, error) {
	x, err := p.assignment()
	for err == nil && p.is(",") {
		at := p.take().pos
		var y expression
		if y, err = p.assignment(); err == nil {
			start, _ := x.span()
			x = &binaryExpression{p.from(start, at), ",", x, y}
		}
	}
	return x, err
}

var assignments = []string{"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="}

func (p *parser) assignment() (expression, error) {
	if err := p.nest(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	x, err := p.conditional()
	if err != nil {
		return nil, err
	}
	t := p.peek()
	if t.kind != punctuation || !slices.Contains(assignments, t.text) {
		return x, nil
	}
	p.take()
	y, err := p.assignment()
	if err != nil {
		return nil, err
	}
	start, _ := x.span()
	return &assignExpression{p.from(start, t.pos), strings.TrimSuffix(t.text, "="), x, y}, nil
}

func (p *parser) conditional() (expression, error) {
	condition, err := p.binary(0)
	if err != nil || !p.is("?") {
		return condition, err
	}
	at := p.take().pos
	yes, err := p.expression()
	if err != nil {
		return nil, err
	}
	if err := p.expect(":"); err != nil {
		return nil, err
	}
	no, err := p.assignment()
	if err != nil {
		return nil, err
	}
	start, _ := condition.span()
	return &conditionalExpression{p.from(start, at), condition, yes, no}, nil
}

// levels are the binary operators, loosest first. @ is gdb's: first@count is an array.
var levels = [][]string{{"||"}, {"&&"}, {"|"}, {"^"}, {"&"}, {"==", "!="}, {"<", ">", "<=", ">="}, {"<<", ">>"}, {"@"},
	{"+", "-"}, {"*", "/", "%"}}

func (p *parser) binary(level int) (expression, error) {
	if level == len(levels) {
		return p.cast()
	}
	x, err := p.binary(level + 1)
	for err == nil {
		t := p.peek()
		if t.kind != punctuation || !slices.Contains(levels[level], t.text) {
			break
		}
		p.take()
		var y expression
		if y, err = p.binary(level + 1); err == nil {
			start, _ := x.span()
			x = &binaryExpression{p.from(start, t.pos), t.text, x, y}
		}
	}
	return x, err
}

// cast reads (type)x, gdb's {type}address, and everything that binds closer.
func (p *parser) cast() (expression, error) {
	if err := p.nest(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	start := p.peek().pos
	switch {
	case p.is("(") && p.typeIn(1):
		p.take()
		to, err := p.typeName()
		if err == nil {
			err = p.expect(")")
		}
		if err != nil {
			return nil, err
		}
		x, err := p.cast()
		if err != nil {
			return nil, err
		}
		return &castExpression{p.from(start, start), to, x}, nil
	case p.accept("{"):
		to, err := p.typeName()
		if err == nil {
			err = p.expect("}")
		}
		if err != nil {
			return nil, err
		}
		x, err := p.cast()
		if err != nil {
			return nil, err
		}
		where := p.from(start, start)
		pointer := &typeSyntax{at: start, form: pointerSyntax, elem: to}
		return &unaryExpression{where, "*", &castExpression{where, pointer, x}}, nil
	}
	return p.unary()
}

func (p *parser) unary() (expression, error) {
	t := p.peek()
	if t.kind == punctuation && slices.Contains([]string{"+", "-", "!", "~", "&", "*", "++", "--"}, t.text) {
		p.take()
		x, err := p.cast()
		if err != nil {
			return nil, err
		}
		return &unaryExpression{p.from(t.pos, t.pos), t.text, x}, nil
	}
	if t.is("&&") {
		return nil, p.fail(t, "address of a label")
	}
	if t.kind == nameToken && (t.text == "sizeof" || alignofWord(t.text)) {
		return p.sizeof()
	}
	return p.postfix()
}

func alignofWord(s string) bool { return s == "_Alignof" || s == "__alignof__" || s == "alignof" }

func (p *parser) sizeof() (expression, error) {
	t := p.take()
	op := "sizeof"
	if alignofWord(t.text) {
		op = "_Alignof"
	}
	if p.is("(") && p.typeIn(1) {
		p.take()
		of, err := p.typeName()
		if err == nil {
			err = p.expect(")")
		}
		if err != nil {
			return nil, err
		}
		return &sizeofExpression{p.from(t.pos, t.pos), op, of, nil}, nil
	}
	if err := p.nest(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	x, err := p.unary()
	if err != nil {
		return nil, err
	}
	return &sizeofExpression{p.from(t.pos, t.pos), op, nil, x}, nil
}

func (p *parser) postfix() (expression, error) {
	start := p.peek().pos
	x, err := p.primary()
	for err == nil {
		t := p.peek()
		if t.kind != punctuation {
			break
		}
		switch t.text {
		case "[":
			x, err = p.indexed(x, start)
		case "(":
			x, err = p.called(x, start)
		case ".", "->":
			x, err = p.member(x, start)
		case "++", "--":
			p.take()
			x = &unaryExpression{p.from(start, t.pos), "post" + t.text, x}
		default:
			return x, nil
		}
	}
	return x, err
}

func (p *parser) indexed(x expression, start int) (expression, error) {
	at := p.take().pos
	index, err := p.expression()
	if err == nil {
		err = p.expect("]")
	}
	if err != nil {
		return nil, err
	}
	return &indexExpression{p.from(start, at), x, index}, nil
}

func (p *parser) member(x expression, start int) (expression, error) {
	arrow := p.take().text == "->"
	t := p.peek()
	if t.kind != nameToken || t.qualified && strings.ContainsAny(t.text, "!:") {
		return nil, p.unexpected("member's name")
	}
	p.take()
	return &memberExpression{p.from(start, t.pos), x, t.text, arrow}, nil
}

func (p *parser) called(x expression, start int) (expression, error) {
	p.take()
	var arguments []expression
	for !p.is(")") {
		if len(arguments) > 0 && !p.accept(",") {
			return nil, p.unexpected(", or )")
		}
		a, err := p.assignment()
		if err != nil {
			return nil, err
		}
		arguments = append(arguments, a)
	}
	p.take()
	at, _ := x.span()
	return &callExpression{p.from(start, at), x, arguments}, nil
}

func (p *parser) primary() (expression, error) {
	t := p.peek()
	where := spot{t.pos, t.end, t.pos}
	switch t.kind {
	case intToken, charToken:
		p.take()
		return &intLiteral{where, t.number, t.typ}, nil
	case floatToken:
		p.take()
		return &floatLiteral{where, t.float, t.typ}, nil
	case stringToken:
		return p.strings()
	case dollarToken:
		p.take()
		return &dollarExpression{where, t.text}, nil
	case nameToken, quotedToken:
		return p.name()
	}
	if t.is("::") {
		return p.name()
	}
	if !p.accept("(") {
		return nil, p.unexpected("expression")
	}
	x, err := p.expression()
	if err != nil {
		return nil, err
	}
	return x, p.expect(")")
}

// strings joins neighbouring string literals; the widest prefix is the one of all.
func (p *parser) strings() (expression, error) {
	start := p.peek().pos
	s := &stringLiteral{element: charType()}
	for p.peek().kind == stringToken {
		t := p.take()
		if t.typ.Size > 1 {
			if s.element.Size > 1 && s.element.Name != t.typ.Name {
				return nil, p.fail(&t, "strings of different characters beside each other")
			}
			s.element = t.typ
		}
		s.units = append(s.units, t.units...)
	}
	s.spot = p.from(start, start)
	return s, nil
}

// name reads an identifier with what follows of ::.
func (p *parser) name() (expression, error) {
	first := *p.peek()
	if first.kind == nameToken && !first.qualified && keyword(first.text) {
		return nil, p.unexpected("expression")
	}
	name := ""
	if !first.is("::") {
		p.take()
		name = first.text
	}
	for p.is("::") {
		p.take()
		part := p.take()
		if part.kind == punctuation && part.text == "~" {
			part = p.take()
			part.text = "~" + part.text
		}
		if part.kind != nameToken && part.kind != quotedToken {
			return nil, p.fail(&part, "name expected after ::")
		}
		switch {
		case name == "":
			name = part.text
		case first.kind == quotedToken && isSourceFile(first.text) && !strings.Contains(name, ":"):
			name += ":" + part.text
		default:
			name += "::" + part.text
		}
	}
	return &nameExpression{p.from(first.pos, first.pos), name}, nil
}

// isSourceFile tells 'file.c'::name from 'scope'::name.
func isSourceFile(s string) bool { return fileName.MatchString(s + ":x") }

// typeIn tells whether a type begins n tokens further on, after a parenthesis that is the token before it.
func (p *parser) typeIn(n int) bool {
	t := p.ahead(n)
	if t.kind != nameToken || t.qualified {
		return false
	}
	if typeWord(t.text) {
		return true
	}
	if keyword(t.text) {
		return false
	}
	name := t.text
	for p.ahead(n+1).is("::") && p.ahead(n+2).kind == nameToken {
		n += 2
		name += "::" + p.ahead(n).text
	}
	if slices.Contains(p.types, name) || builtinType(name) != "" {
		return true
	}
	return p.mustBeType(n) || p.mayBeType(n, name)
}

// mustBeType tells whether what follows the name at n makes sense for a type only.
func (p *parser) mustBeType(n int) bool {
	i := n + 1
	for p.ahead(i).is("*") || p.ahead(i).is("&") || p.ahead(i).kind == nameToken && qualifier(p.ahead(i).text) {
		i++
	}
	next := p.ahead(i)
	switch {
	case i > n+1 && next.is(")"): // (name *)
		return true
	case next.is("(") && (p.ahead(i+1).is("*") && (p.ahead(i+2).is(")") || p.ahead(i+2).is("*") || p.ahead(i+2).is("["))):
		return true // (name (*)…
	case i == n+1 && next.is(")"): // (name) followed by what begins an operand and cannot follow one
		after := p.ahead(i + 1)
		begins := after.kind != punctuation && after.kind != endToken || after.is("~") || after.is("!")
		return p.tokens[p.at].is("(") && begins
	}
	return false
}

// mayBeType notes a name in parentheses that could be either.
func (p *parser) mayBeType(n int, name string) bool {
	if !p.ahead(n + 1).is(")") {
		return false
	}
	after := p.ahead(n + 2)
	sizeof := p.at > 0 && p.tokens[p.at-1].kind == nameToken // sizeof (name)
	if sizeof || after.is("(") || after.is("*") || after.is("&") || after.is("-") || after.is("+") || after.is("++") ||
		after.is("--") {
		if !slices.Contains(p.ambiguous, name) {
			p.ambiguous = append(p.ambiguous, name)
		}
	}
	return false
}

func qualifier(s string) bool {
	switch s {
	case "const", "volatile", "restrict", "__restrict", "__const", "__volatile__", "_Atomic":
		return true
	}
	return false
}

// typeWord tells whether a type begins with the keyword s.
func typeWord(s string) bool {
	return qualifier(s) || tagWord(s) || new(specifiers).add(s)
}

func tagWord(s string) bool { return s == "struct" || s == "union" || s == "enum" || s == "class" }

func keyword(s string) bool { return typeWord(s) || s == "sizeof" || alignofWord(s) }

// typeName reads a type without a name in it.
func (p *parser) typeName() (*typeSyntax, error) {
	base, err := p.specifiers()
	if err != nil {
		return nil, err
	}
	d, err := p.declarator(base)
	if err == nil && d.name != "" {
		return nil, p.fail(&p.tokens[p.at-1], "a name inside of a type")
	}
	return d.typ, err
}

// specifiers reads what stands before the declarator.
func (p *parser) specifiers() (*typeSyntax, error) {
	first := *p.peek()
	t := &typeSyntax{at: first.pos, form: basicSyntax}
	var words specifiers
	count := 0
	for p.peek().kind == nameToken && !p.peek().qualified {
		word := p.peek().text
		switch {
		case word == "const" || word == "__const":
			t.constant = true
		case word == "volatile" || word == "__volatile__":
			t.volatile = true
		case qualifier(word):
		case words.add(word):
			count++
		case count == 0 && t.form == basicSyntax && tagWord(word):
			if err := p.tagged(t); err != nil {
				return nil, err
			}
			continue
		case count == 0 && t.form == basicSyntax:
			t.form = namedSyntax
			p.take()
			t.name = word
			for p.is("::") && p.ahead(1).kind == nameToken {
				p.take()
				t.name += "::" + p.take().text
			}
			continue
		default:
			return t, p.basic(t, words, count, &first)
		}
		p.take()
	}
	return t, p.basic(t, words, count, &first)
}

// basic closes the specifiers.
func (p *parser) basic(t *typeSyntax, words specifiers, count int, first *token) error {
	if t.form != basicSyntax {
		if count > 0 {
			return p.fail(first, "two types beside each other")
		}
		return nil
	}
	if count == 0 {
		return p.unexpected("type")
	}
	var what string
	if t.basic, what = basicType(words); what != "" {
		return p.fail(first, "%s", what)
	}
	return nil
}

// tagged reads struct name, or in the built-in declarations struct name { … }.
func (p *parser) tagged(t *typeSyntax) error {
	word := p.take().text
	t.form = namedSyntax
	t.union, t.enumered = word == "union", word == "enum"
	if n := p.peek(); n.kind == nameToken && !n.qualified && !keyword(n.text) {
		p.take()
		name := n.text
		for p.is("::") && p.ahead(1).kind == nameToken {
			p.take()
			name += "::" + p.take().text
		}
		if word == "class" {
			word = "struct"
		}
		t.name = word + " " + name
	} else if !p.is("{") {
		return p.unexpected("name of a " + word)
	}
	if !p.accept("{") {
		return nil
	}
	t.form = definedSyntax
	if t.enumered {
		return p.enumerators(t)
	}
	for !p.accept("}") {
		fields, err := p.declarations()
		if err != nil {
			return err
		}
		t.fields = append(t.fields, fields...)
		if len(t.fields) > maxFields {
			return p.fail(p.peek(), "too many members")
		}
	}
	return nil
}

func (p *parser) enumerators(t *typeSyntax) error {
	for !p.accept("}") {
		n := p.take()
		if n.kind != nameToken {
			return p.fail(&n, "name expected")
		}
		e := enumeratorSyntax{name: n.text}
		if p.accept("=") {
			var err error
			if e.value, err = p.conditional(); err != nil {
				return err
			}
		}
		t.enumerated = append(t.enumerated, e)
		if !p.accept(",") && !p.is("}") {
			return p.unexpected(", or }")
		}
	}
	return nil
}

// declarations reads "type a, *b;".
func (p *parser) declarations() ([]declaration, error) {
	if err := p.nest(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	base, err := p.specifiers()
	if err != nil {
		return nil, err
	}
	if p.accept(";") {
		return []declaration{{typ: base}}, nil // an anonymous structure, or only a tag
	}
	var list []declaration
	for {
		d, err := p.declarator(base)
		if err != nil {
			return nil, err
		}
		if p.accept(":") {
			if d.bits, err = p.conditional(); err != nil {
				return nil, err
			}
		}
		list = append(list, d)
		if p.accept(";") {
			return list, nil
		}
		if err := p.expect(","); err != nil {
			return nil, err
		}
	}
}

// declarator reads stars, a name if there is one, arrays and parameters around base.
func (p *parser) declarator(base *typeSyntax) (declaration, error) {
	if err := p.nest(); err != nil {
		return declaration{}, err
	}
	defer func() { p.depth-- }()
	for p.is("*") || p.is("&") || p.is("&&") {
		form := pointerSyntax
		if !p.is("*") {
			form = referenceSyntax
		}
		base = &typeSyntax{at: p.take().pos, form: form, elem: base}
		for p.peek().kind == nameToken && qualifier(p.peek().text) {
			switch p.take().text {
			case "const", "__const":
				base.constant = true
			case "volatile", "__volatile__":
				base.volatile = true
			}
		}
	}
	// A parenthesis opens either a declarator or, where there is no name, parameters.
	if p.is("(") && (p.ahead(1).is("*") || p.ahead(1).is("&") || p.ahead(1).is("(") || p.ahead(1).is("[")) {
		p.take()
		hole := &typeSyntax{}
		inner, err := p.declarator(hole)
		if err == nil {
			err = p.expect(")")
		}
		if err != nil {
			return declaration{}, err
		}
		outer, err := p.suffixes(base)
		if err != nil {
			return declaration{}, err
		}
		*hole = *outer
		return inner, nil
	}
	d := declaration{}
	if t := p.peek(); t.kind == nameToken && !t.qualified && !keyword(t.text) {
		p.take()
		d.name = t.text
	}
	var err error
	d.typ, err = p.suffixes(base)
	return d, err
}

// suffixes reads [n] and (parameters); the first one is the outermost.
func (p *parser) suffixes(base *typeSyntax) (*typeSyntax, error) {
	if err := p.nest(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	switch at := p.peek().pos; {
	case p.accept("["):
		t := &typeSyntax{at: at, form: arraySyntax}
		var err error
		if !p.is("]") {
			if t.count, err = p.conditional(); err != nil {
				return nil, err
			}
		}
		if err = p.expect("]"); err != nil {
			return nil, err
		}
		t.elem, err = p.suffixes(base)
		return t, err
	case p.accept("("):
		t := &typeSyntax{at: at, form: functionSyntax}
		if err := p.parameters(t); err != nil {
			return nil, err
		}
		var err error
		t.elem, err = p.suffixes(base)
		return t, err
	}
	return base, nil
}

func (p *parser) parameters(t *typeSyntax) error {
	if p.accept(")") {
		t.unprototyped = true
		return nil
	}
	if p.is("...") {
		p.take()
		t.variadic = true
		return p.expect(")")
	}
	for {
		base, err := p.specifiers()
		if err != nil {
			return err
		}
		d, err := p.declarator(base)
		if err != nil {
			return err
		}
		t.params = append(t.params, d.typ)
		if p.accept(")") {
			break
		}
		if err := p.expect(","); err != nil {
			return err
		}
		if p.accept("...") {
			t.variadic = true
			if err := p.expect(")"); err != nil {
				return err
			}
			break
		}
	}
	if only := t.params[0]; len(t.params) == 1 && only.form == basicSyntax && only.basic.Kind == Void {
		t.params = nil
	}
	return nil
}

// maxFields is how many members a structure may have.
const maxFields = 1 << 16

var errNotConstant = errors.New("not a constant")

// constant is the value of a constant expression in a type: an array's length or an enumerator.
func constant(e expression) (*big.Int, error) {
	switch e := e.(type) {
	case *intLiteral:
		return e.number, nil
	case *unaryExpression:
		x, err := constant(e.x)
		if err != nil {
			return nil, err
		}
		switch e.op {
		case "-":
			return new(big.Int).Neg(x), nil
		case "+":
			return x, nil
		case "~":
			return new(big.Int).Not(x), nil
		}
	case *binaryExpression:
		x, err := constant(e.x)
		if err != nil {
			return nil, err
		}
		y, err := constant(e.y)
		if err != nil {
			return nil, err
		}
		return integerOperation(e.op, x, y, 64)
	}
	return nil, errNotConstant
}
