package cexpr

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// glyph is one character of a string to print: a code point, or bytes that are none.
type glyph struct {
	r     rune // -1: none
	bytes string
}

// glyphs cuts a string into characters: UTF-8, UTF-16 or UTF-32 by the size of its units.
func glyphs(b []byte, size int64) []glyph {
	var list []glyph
	for len(b) > 0 {
		g, n := glyph{r: -1}, int(size)
		switch size {
		case 1:
			r, k := utf8.DecodeRune(b)
			if r != utf8.RuneError || k > 1 {
				g.r, n = r, k
			}
		case 2:
			u := rune(b[0]) | rune(b[1])<<8
			switch {
			case u < 0xd800 || u > 0xdfff:
				g.r = u
			case u < 0xdc00 && len(b) >= 4 && b[3]&0xfc == 0xdc:
				g.r = 0x10000 + (u-0xd800)<<10 + (rune(b[2]) | rune(b[3])<<8 - 0xdc00)
				n = 4
			}
		default:
			if u := integerOf(b[:4], false).Uint64(); u <= unicode.MaxRune && (u < 0xd800 || u > 0xdfff) {
				g.r = rune(u)
			}
		}
		n = min(n, len(b))
		g.bytes = string(b[:n])
		list = append(list, g)
		b = b[n:]
	}
	return list
}

// write escapes g for quotes of the given kind. escaped tells whether the glyph before it was a hexadecimal escape,
// which a digit would continue.
func (g glyph) write(out *strings.Builder, quote byte, size int64, escaped bool) (hexadecimal bool) {
	if i := strings.IndexRune("\a\b\f\n\r\t\v", g.r); g.r >= 0 && i >= 0 {
		out.WriteByte('\\')
		out.WriteByte("abfnrtv"[i])
		return false
	}
	digit := g.r >= '0' && g.r <= '9'
	if g.r >= 0 && unicode.IsPrint(g.r) && !(escaped && digit) {
		if g.r == rune(quote) || g.r == '\\' {
			out.WriteByte('\\')
		}
		out.WriteRune(g.r)
		return false
	}
	for i := 0; i+int(size) <= len(g.bytes); i += int(size) {
		u := integerOf([]byte(g.bytes[i:i+int(size)]), false).Uint64()
		if u <= 0777 {
			fmt.Fprintf(out, `\%03o`, u)
		} else {
			fmt.Fprintf(out, `\x%x`, u)
			hexadecimal = true
		}
	}
	return hexadecimal
}

// literalPrefix is what stands before the quotes of a character type.
func literalPrefix(t *Type) string {
	switch {
	case t.Name == "wchar_t":
		return "L"
	case t.Name == "char16_t":
		return "u"
	case t.Name == "char32_t":
		return "U"
	}
	return ""
}

// character writes a value of a character type in single quotes.
func (p *printer) character(v Value, t *Type) {
	p.out.WriteString(literalPrefix(t) + "'")
	b := v.Bytes[:min(t.Size, int64(len(v.Bytes)))]
	escaped := false
	for _, g := range glyphs(b, t.Size) {
		escaped = g.write(&p.out, '\'', t.Size, escaped)
	}
	p.out.WriteString("'")
}

// text writes characters in double quotes, runs of the same one apart. A zero at the very end is not shown, unless more
// tells that the string goes on.
func (p *printer) text(b []byte, t *Type, more bool) {
	if n := int64(len(b)); n >= t.Size && !more && isZero(b[n-t.Size:]) {
		b = b[:n-t.Size]
	}
	prefix := literalPrefix(t)
	if len(b) == 0 {
		p.out.WriteString(prefix + `""`)
		return
	}
	all := glyphs(b, t.Size)
	broken := "" // a character that begins at the end, and does not end
	if n := len(all); t.Size == 1 && all[n-1].r < 0 && !more {
		start := n - 1
		for start > 0 && n-start < utf8.UTFMax && all[start-1].r < 0 && !utf8.RuneStart(all[start].bytes[0]) {
			start--
		}
		if tail := b[len(b)-(n-start):]; tail[0] >= 0xc2 && tail[0] < 0xf5 && !utf8.FullRune(tail) {
			all = all[:start]
			for _, c := range tail {
				broken += fmt.Sprintf(`\%03o`, c)
			}
		}
	}
	inside, escaped := false, false
	i, shown := 0, 0
	for i < len(all) && shown < printElements {
		run := 1
		for i+run < len(all) && all[i+run] == all[i] {
			run++
		}
		if run > printRepeats {
			switch {
			case inside:
				p.out.WriteString(`", `)
			case i > 0:
				p.out.WriteString(", ")
			}
			p.out.WriteString(prefix + "'")
			all[i].write(&p.out, '\'', t.Size, false)
			fmt.Fprintf(&p.out, "' <repeats %d times>", run)
			inside, escaped = false, false
		} else {
			switch {
			case inside:
			case i > 0:
				p.out.WriteString(", " + prefix + `"`)
			default:
				p.out.WriteString(prefix + `"`)
			}
			inside = true
			for range run {
				escaped = all[i].write(&p.out, '"', t.Size, escaped)
			}
		}
		i += run
		shown += run
	}
	if inside {
		p.out.WriteByte('"')
	}
	switch {
	case more || i < len(all):
		p.out.WriteString("...")
	case broken != "" && i > 0:
		fmt.Fprintf(&p.out, ", <incomplete sequence %s>", broken)
	case broken != "":
		fmt.Fprintf(&p.out, "<incomplete sequence %s>", broken)
	}
}
