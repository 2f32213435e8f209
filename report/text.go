package report

import (
	"cmp"
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/heaptap/heaptap/heap"
)

const (
	zeroWidthNonJoiner = '\u200c'
	zeroWidthJoiner    = '\u200d'
)

// Printable returns text with everything spelled out that a terminal would act upon or that would change how other
// text looks: control characters, line breaks, direction overrides, bytes that are not UTF-8.
func Printable(text string) string {
	if strings.IndexFunc(text, unprintable) < 0 && utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for i, r := range text {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case !unprintable(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String()
}

func unprintable(r rune) bool {
	if r == zeroWidthJoiner || r == zeroWidthNonJoiner {
		return false // parts of words and of emoji
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp)
}

// location is where a frame is: "server.py:42", "server.py" where the line is unknown, "" where the file is. Of machine
// code without a source file it is the object's file: "libz.so.1".
func location(f heap.Frame) string {
	switch {
	case f.File == "" && f.Native() && f.Func != "":
		return Printable(path.Base(f.Module))
	case f.File == "" || f.Line == 0:
		return Printable(f.File)
	}
	return fmt.Sprintf("%s:%d", Printable(f.File), f.Line)
}

// function is the frame's function, or a placeholder: of machine code the place in its object.
func function(f heap.Frame) string {
	switch {
	case f.Func == "" && f.Addr != 0:
		return fmt.Sprintf("%s+%#x", Printable(path.Base(f.Module)), f.Addr)
	case f.Func == "":
		return "[unknown]"
	}
	return Printable(f.Func)
}

// place is the frame on one line: "server.py:42 Handler.get" of Python, "deflate (deflate.c:17)" of machine code.
func place(f heap.Frame) string { return placed(f, location(f), function(f)) }

func placed(f heap.Frame, where, what string) string {
	switch {
	case where == "":
		return what
	case f.Native():
		return what + " (" + where + ")"
	}
	return where + " " + what
}

// maxName is the length up to which names of C++ and Rust are shown to people as they are. There are some of thousands of
// characters.
const maxName = 80

// fileOf is the file that a frame is in: of machine code without a source file, the object's.
func fileOf(f heap.Frame) string { return cmp.Or(f.File, f.Module) }

// FitPlace is a frame on one line for people to read, in at most width cells: a long name loses its arguments, then the file its
// leading folders, then either end is cut. A width of 0 is no limit.
func FitPlace(f heap.Frame, width int) string {
	where, what := location(f), function(f)
	if f.Native() && (Cells(what) > maxName || width > 0 && Cells(placed(f, path.Base(where), what)) > width) {
		what = Printable(cmp.Or(heap.PlainName(f.Func), what))
	}
	full := placed(f, where, what)
	if width <= 0 || Cells(full) <= width {
		return full
	}
	for {
		cut := strings.IndexByte(strings.TrimPrefix(where, "…/"), '/')
		if cut < 0 {
			break
		}
		where = "…" + strings.TrimPrefix(where, "…/")[cut:]
		if short := placed(f, where, what); Cells(short) <= width {
			return short
		}
	}
	where = strings.TrimPrefix(where, "…/")
	if f.Native() { // names of C++ are long, and begin with what tells most
		rest := " (" + where + ")"
		if room := width - Cells(rest); where != "" && room >= width/3 {
			return Fit(what, room) + rest
		}
		return Fit(what, width)
	}
	// The line tells most. Give it up to two thirds, the function the rest.
	where = fitLeft(where, max(width-Cells(what)-1, width*2/3))
	return Fit(where+" "+what, width)
}

// Fit returns text in at most width cells, its end replaced by an ellipsis where it is longer.
func Fit(text string, width int) string {
	if Cells(text) <= width {
		return text
	}
	used := 0
	for i, r := range text {
		if used += runeCells(r); used > width-1 {
			return text[:i] + "…"
		}
	}
	return text
}

// fitLeft returns text in at most width cells, its beginning replaced by an ellipsis where it is longer.
func fitLeft(text string, width int) string {
	excess := Cells(text) - max(width, 1)
	if excess <= 0 {
		return text
	}
	for i, r := range text {
		if excess -= runeCells(r); excess < 0 {
			return "…" + text[i+utf8.RuneLen(r):]
		}
	}
	return "…"
}

// padLeft returns text right-aligned in width cells.
func padLeft(text string, width int) string {
	return strings.Repeat(" ", max(0, width-Cells(text))) + text
}

// Cells is the number of columns that text takes in a terminal.
func Cells(text string) int {
	n := 0
	for _, r := range text {
		n += runeCells(r)
	}
	return n
}

// wide are the characters that take two columns (East Asian Width W and F, Unicode Standard Annex 11), in the
// coarse blocks that matter.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x1100, 0x115f, 1}, {0x2e80, 0x303e, 1}, {0x3041, 0xa4cf, 1}, {0xac00, 0xd7a3, 1},
		{0xf900, 0xfaff, 1}, {0xfe30, 0xfe6f, 1}, {0xff00, 0xff60, 1}, {0xffe0, 0xffe6, 1},
	},
	R32: []unicode.Range32{{0x1f300, 0x1f64f, 1}, {0x1f680, 0x1f6ff, 1}, {0x1f900, 0x1f9ff, 1}, {0x20000, 0x3fffd, 1}},
}

func runeCells(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case unicode.Is(wide, r):
		return 2
	}
	return 1
}
