package cexpr

import (
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"unicode/utf8"
)

// tokenKind is the sort of a token.
type tokenKind int

const (
	endToken tokenKind = iota
	intToken
	floatToken
	charToken
	stringToken
	nameToken   // an identifier, or a name qualified by module, file or version, which is then in full
	quotedToken // 'a name'
	dollarToken // $rip, $1, $$, $name: without the first $
	punctuation
)

// token is one word of the source.
type token struct {
	kind      tokenKind
	pos, end  int
	text      string   // name, punctuation
	number    *big.Int // integer, character
	float     *big.Float
	typ       *Type   // of a literal; the element's of a string
	units     []int64 // characters of a string
	qualified bool    // a name that only the Machine can look up: it is no type and no keyword
}

// Names that begin with a module or a source file. A colon after a file's name is only looked for outside ?:.
var (
	moduleName = regexp.MustCompile(`^[A-Za-z_./](?:[\w./\-]|\+\+)*![A-Za-z_]`)
	fileName   = regexp.MustCompile(`^[A-Za-z_./](?:[\w./\-]|\+\+)*` + sourceSuffix + `:[A-Za-z_]`)
	version    = regexp.MustCompile(`^@@?[A-Za-z_][\w.]*`)
	identifier = regexp.MustCompile(`^[A-Za-z_\x80-\xff][\w\x80-\xff]*`)
	dollarName = regexp.MustCompile(`^\$(?:\$?\d+|\$|[A-Za-z_]\w*)?`)
	numberWord = regexp.MustCompile(`^(?:` + hexWord + `|` + decimalWord + `)\w*`)
	charPrefix = regexp.MustCompile(`^(?:u8|[LuU])?['"]`)
)

// Parts of those.
const (
	sourceSuffix = `\.(?:c|h|cc|cpp|cxx|c\+\+|C|hh|hpp|S|s|rs|y|l)`
	hexWord      = `0[xX][\da-fA-F]*\.?[\da-fA-F]*(?:[pP][+\-]?\d+)?`
	decimalWord  = `\d*\.?\d*(?:[eE][+\-]?\d+)?`
)

// operators, longest first.
var operators = []string{"<<=", ">>=", "...", "->", "++", "--", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "+=",
	"-=", "*=", "/=", "%=", "&=", "|=", "^=", "::", "+", "-", "*", "/", "%", "&", "|", "^", "~", "!", "<", ">", "=", "?",
	":", ",", ";", "(", ")", "[", "]", "{", "}", ".", "@"}

// lexer cuts a source into tokens.
type lexer struct {
	src       string
	at        int
	operand   bool // an operand may begin here: the token before is an operator, or there is none
	questions int  // ? without its : yet
}

// tokens reads all of src. The last token is an endToken.
func tokens(src string) ([]token, error) {
	l := lexer{src: src, operand: true}
	var all []token
	for {
		t, err := l.next()
		if err != nil {
			return nil, err
		}
		all = append(all, t)
		if t.kind == endToken {
			return all, nil
		}
		l.operand = t.kind == punctuation && t.text != ")" && t.text != "]"
		switch {
		case t.kind != punctuation:
		case t.text == "?":
			l.questions++
		case t.text == ":":
			l.questions--
		}
	}
}

func (l *lexer) fail(pos int, message string, args ...any) error {
	return &SyntaxError{Src: l.src, Pos: pos, What: fmt.Sprintf(message, args...)}
}

// skip steps over white space and comments.
func (l *lexer) skip() error {
	for l.at < len(l.src) {
		rest := l.src[l.at:]
		switch {
		case strings.ContainsRune(" \t\r\n\v\f", rune(rest[0])):
			l.at++
		case strings.HasPrefix(rest, "/*"):
			end := strings.Index(rest[2:], "*/")
			if end < 0 {
				return l.fail(l.at, "comment does not end")
			}
			l.at += end + 4
		case strings.HasPrefix(rest, "//") && !moduleName.MatchString(rest):
			end := strings.IndexByte(rest, '\n')
			if end < 0 {
				end = len(rest)
			}
			l.at += end
		default:
			return nil
		}
	}
	return nil
}

func (l *lexer) next() (token, error) {
	if err := l.skip(); err != nil {
		return token{}, err
	}
	t := token{pos: l.at, end: l.at}
	if l.at == len(l.src) {
		return t, nil
	}
	rest := l.src[l.at:]
	if c := rest[0]; c >= '0' && c <= '9' || c == '.' && len(rest) > 1 && rest[1] >= '0' && rest[1] <= '9' {
		return l.number(t)
	}
	if charPrefix.MatchString(rest) {
		return l.quoted(t)
	}
	if rest[0] == '$' {
		word := dollarName.FindString(rest)
		l.at += len(word)
		return token{kind: dollarToken, pos: t.pos, end: l.at, text: word[1:]}, nil
	}
	if name := l.name(rest); name != "" {
		l.at += len(name)
		plain := identifier.FindString(name)
		return token{kind: nameToken, pos: t.pos, end: l.at, text: name, qualified: plain != name}, nil
	}
	for _, op := range operators {
		if strings.HasPrefix(rest, op) {
			l.at += len(op)
			return token{kind: punctuation, pos: t.pos, end: l.at, text: op}, nil
		}
	}
	r, _ := utf8.DecodeRuneInString(rest)
	return t, l.fail(l.at, "unexpected %q", r)
}

// name is the name that s begins with, with what qualifies it, or "".
func (l *lexer) name(s string) string {
	prefix := ""
	if l.operand {
		if m := moduleName.FindString(s); m != "" {
			prefix = m[:strings.LastIndexByte(m, '!')+1]
		} else if m := fileName.FindString(s); m != "" && l.questions <= 0 {
			prefix = m[:len(m)-1]
		}
	}
	name := identifier.FindString(s[len(prefix):])
	if name == "" {
		return ""
	}
	name = prefix + name
	return name + version.FindString(s[len(name):])
}

// number reads an integer or floating literal.
func (l *lexer) number(t token) (token, error) {
	word := numberWord.FindString(l.src[l.at:])
	l.at += len(word)
	t.end = l.at
	hex := strings.HasPrefix(word, "0x") || strings.HasPrefix(word, "0X")
	if strings.ContainsAny(word, ".") || !hex && strings.ContainsAny(word, "eE") && !isBinary(word) ||
		hex && strings.ContainsAny(word, "pP") {
		return l.float(t, word, hex)
	}
	t.kind = intToken
	digits := strings.TrimRight(word, "uUlL")
	if hex {
		digits = "0x" + strings.TrimRight(word[2:], "uUlL")
	}
	suffix := strings.ToLower(word[len(digits):])
	base := 10
	switch {
	case hex:
		digits, base = digits[2:], 16
	case isBinary(word):
		digits, base = digits[2:], 2
	case len(digits) > 1 && digits[0] == '0':
		digits, base = digits[1:], 8
	}
	number, ok := new(big.Int).SetString(digits, base)
	if !ok || strings.Contains(digits, "_") || !contains([]string{"", "u", "l", "ul", "lu", "ll", "ull", "llu"}, suffix) {
		return t, l.fail(t.pos, "invalid number %q", word)
	}
	t.number = number
	t.typ = literalType(number, base == 10, strings.Contains(suffix, "u"), strings.Count(suffix, "l"))
	if t.typ == nil {
		return t, l.fail(t.pos, "number %s does not fit 64 bits", word)
	}
	return t, nil
}

func isBinary(word string) bool {
	return strings.HasPrefix(word, "0b") || strings.HasPrefix(word, "0B")
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// literalType is the first type that an integer literal fits (C 6.4.4.1); a decimal too large for long is an unsigned
// long, as gdb has it. Nil: none.
func literalType(n *big.Int, decimal, unsigned bool, longs int) *Type {
	bits := n.BitLen()
	name := []string{"int", "long", "long long"}[longs]
	switch {
	case bits > 64:
		return nil
	case longs == 0 && !unsigned && bits < 32:
		return intType()
	case longs == 0 && (unsigned || !decimal) && bits <= 32:
		return integer("unsigned int", 4, false)
	case longs == 0:
		name = "long"
	}
	if !unsigned && bits < 64 {
		return integer(name, 8, true)
	}
	return integer("unsigned "+name, 8, false)
}

// float reads a floating literal; big.ParseFloat rounds once, to the literal's own type.
func (l *lexer) float(t token, word string, hex bool) (token, error) {
	t.kind, t.typ = floatToken, doubleType()
	digits := word
	precision := uint(53)
	switch last := word[len(word)-1]; {
	case last == 'f' || last == 'F':
		if !hex || strings.ContainsAny(word, "pP") {
			t.typ, digits, precision = &Type{Kind: Floating, Name: "float", Size: 4}, word[:len(word)-1], 24
		}
	case last == 'l' || last == 'L':
		t.typ, digits, precision = &Type{Kind: Floating, Name: "long double", Size: 16, format: x87}, word[:len(word)-1], 64
	}
	if hex && !strings.ContainsAny(word, "pP") {
		return t, l.fail(t.pos, "invalid number %q: a hexadecimal fraction needs an exponent (p0)", word)
	}
	const longest = 10000 // digits, and the exponent's size below: big.Float would compute with millions of them
	exponent := 0
	if i := strings.LastIndexAny(digits, map[bool]string{true: "pP", false: "eE"}[hex]); i >= 0 {
		_, err := fmt.Sscanf(digits[i+1:], "%d", &exponent)
		if err != nil || exponent > 20000 || exponent < -20000 {
			return t, l.fail(t.pos, "invalid number %q: exponent", word)
		}
	}
	f, _, err := big.ParseFloat(digits, 0, precision, big.ToNearestEven)
	if err != nil || len(digits) > longest || strings.Contains(digits, "_") {
		return t, l.fail(t.pos, "invalid number %q", word)
	}
	t.float = f
	return t, nil
}

// quoted reads a character or string literal, or a name in single quotes.
func (l *lexer) quoted(t token) (token, error) {
	open := charPrefix.FindString(l.src[l.at:])
	quote, prefix := open[len(open)-1], open[:len(open)-1]
	l.at += len(open)
	start := l.at
	t.typ = characterType(prefix)
	wide := t.typ.Size > 1
	var units []int64
	for {
		if l.at >= len(l.src) {
			return t, l.fail(t.pos, "missing closing %c", quote)
		}
		c := l.src[l.at]
		if c == quote {
			l.at++
			break
		}
		if quote == '\'' && len(units) >= 1 && prefix == "" {
			return l.quotedName(t, start)
		}
		if c == '\\' {
			unit, err := l.escape(wide)
			if err != nil {
				return t, err
			}
			units = append(units, unit...)
			continue
		}
		r, n := utf8.DecodeRuneInString(l.src[l.at:])
		if wide && (r != utf8.RuneError || n > 1) {
			units = append(units, encodeUnits(r, t.typ.Size)...)
		} else {
			if quote == '\'' && n > 1 && prefix == "" && strings.HasPrefix(l.src[l.at+n:], "'") {
				return t, l.fail(t.pos, "character %q needs more than one byte", r)
			}
			for i := range n {
				units = append(units, int64(l.src[l.at+i]))
			}
		}
		l.at += n
	}
	t.end = l.at
	if quote == '"' {
		t.kind, t.units = stringToken, units
		return t, nil
	}
	if len(units) != 1 {
		return t, l.fail(t.pos, "a character literal has one character")
	}
	t.kind, t.number = charToken, big.NewInt(units[0])
	return t, nil
}

func (l *lexer) quotedName(t token, start int) (token, error) {
	end := strings.IndexByte(l.src[start:], '\'')
	if end < 0 {
		return t, l.fail(t.pos, "missing closing '")
	}
	l.at = start + end + 1
	return token{kind: quotedToken, pos: t.pos, end: l.at, text: l.src[start : start+end]}, nil
}

func characterType(prefix string) *Type {
	switch prefix {
	case "L":
		return &Type{Kind: Char, Name: "wchar_t", Size: 4, Signed: true}
	case "u":
		return &Type{Kind: Char, Name: "char16_t", Size: 2}
	case "U":
		return &Type{Kind: Char, Name: "char32_t", Size: 4}
	}
	return charType()
}

// encodeUnits writes r in units of 2 or 4 bytes.
func encodeUnits(r rune, size int64) []int64 {
	if size == 2 && r > 0xffff {
		r -= 0x10000
		return []int64{int64(0xd800 + r>>10), int64(0xdc00 + r&0x3ff)}
	}
	return []int64{int64(r)}
}

// escape reads \n, \033, \x1b, \u263a and the like. Outside of wide strings, \u gives UTF-8.
func (l *lexer) escape(wide bool) ([]int64, error) {
	pos := l.at
	l.at++
	if l.at >= len(l.src) {
		return nil, l.fail(pos, "\\ at the end")
	}
	c := l.src[l.at]
	l.at++
	if i := strings.IndexByte(`abefnrtv\'"?`, c); i >= 0 {
		return []int64{int64("\a\b\x1b\f\n\r\t\v\\'\"?"[i])}, nil
	}
	digits := func(most int, base int64) (int64, int) {
		var v int64
		n := 0
		for ; n < most && l.at < len(l.src); n++ {
			d := int64(strings.IndexByte("0123456789abcdef", l.src[l.at]|0x20))
			if l.src[l.at] >= '0' && l.src[l.at] <= '9' {
				d = int64(l.src[l.at] - '0')
			}
			if d < 0 || d >= base {
				break
			}
			v = v*base + d
			l.at++
		}
		return v, n
	}
	switch {
	case c >= '0' && c <= '7':
		l.at--
		v, _ := digits(3, 8)
		if !wide {
			v &= 0xff
		}
		return []int64{v}, nil
	case c == 'x':
		most := 2
		if wide {
			most = 8
		}
		v, n := digits(most, 16)
		if n == 0 {
			return nil, l.fail(pos, "\\x without digits")
		}
		return []int64{v}, nil
	case c == 'u' || c == 'U':
		want := map[byte]int{'u': 4, 'U': 8}[c]
		v, n := digits(want, 16)
		if n != want || v > utf8.MaxRune {
			return nil, l.fail(pos, "\\%c needs %d hexadecimal digits", c, want)
		}
		if wide {
			return []int64{v}, nil
		}
		var units []int64
		for _, b := range []byte(string(rune(v))) {
			units = append(units, int64(b))
		}
		return units, nil
	}
	return nil, l.fail(pos, "unknown escape \\%c", c)
}

// caret writes the line of src that pos lies in, and below it a mark.
func caret(src string, pos int) string {
	pos = min(max(pos, 0), len(src))
	start := strings.LastIndexByte(src[:pos], '\n') + 1
	end := strings.IndexByte(src[pos:], '\n')
	if end < 0 {
		end = len(src) - pos
	}
	var pad strings.Builder
	for _, r := range src[start:pos] {
		if r == '\t' {
			pad.WriteByte('\t')
		} else {
			pad.WriteByte(' ')
		}
	}
	return "  " + src[start:pos+end] + "\n  " + pad.String() + "^"
}
