package cpython

// Line maps an instruction to its source line. byteOffset counts bytes from the first instruction; a negative one (a
// frame that has not begun) gives firstLine. It is false where the table gives the instruction no line, ends before it,
// or is no such table.
func Line(format LineFormat, firstLine int, table []byte, byteOffset int) (line int, ok bool) {
	if byteOffset < 0 {
		return firstLine, true
	}
	switch format {
	case LinesSigned:
		return lineSigned(firstLine, table, byteOffset), true
	case LinesRanges:
		return lineRanges(firstLine, table, byteOffset)
	case LinesLocation:
		return lineLocation(firstLine, table, byteOffset)
	}
	return 0, false
}

// lineSigned: each pair moves on by an unsigned number of bytes, then by a signed number of lines
// (Objects/lnotab_notes.txt, 3.6). The last line reaches to the end of the code.
func lineSigned(line int, table []byte, offset int) int {
	at := 0
	for ; len(table) >= 2; table = table[2:] {
		if at += int(table[0]); at > offset {
			break
		}
		line += int(int8(table[1]))
	}
	return line
}

// lineRanges: each pair is a range of so many bytes whose line differs by so much from the line before; -128 means that
// the range has no line, and leaves it for the next (PEP 626, Objects/lnotab_notes.txt, 3.10).
func lineRanges(line int, table []byte, offset int) (int, bool) {
	const noLine = -128
	at := 0
	for ; len(table) >= 2; table = table[2:] {
		delta := int(int8(table[1]))
		if delta != noLine {
			line += delta
		}
		if at += int(table[0]); offset < at {
			return line, delta != noLine
		}
	}
	return 0, false
}

// Codes of location entries (Objects/locations.md, 3.11). Codes below codeOneLine keep the line; codeOneLine and the
// two after it add 0, 1 and 2.
const (
	codeOneLine   = 10
	codeNoColumns = 13
	codeLong      = 14
	codeNone      = 15
)

// lineLocation: each entry begins with the only byte of it that has bit 7: 1ccccnnn, code c, n+1 code units.
func lineLocation(line int, table []byte, offset int) (int, bool) {
	at := 0
	for i := 0; i < len(table) && table[i]&0x80 != 0; {
		code, units := table[i]>>3&0xf, int(table[i]&7)+1
		i++
		switch {
		case code == codeLong || code == codeNoColumns:
			line += signedVarint(table[i:])
		case code >= codeOneLine && code < codeNoColumns:
			line += int(code - codeOneLine)
		}
		if at += 2 * units; offset < at {
			return line, code != codeNone
		}
		for i < len(table) && table[i]&0x80 == 0 {
			i++
		}
	}
	return 0, false
}

// signedVarint reads 6 bits from each byte, lowest first, while bit 6 says that more follow. Bit 0 of the number is its
// sign.
func signedVarint(b []byte) int {
	const more, limit = 0x40, 6 // 36 bits: lines are 32-bit
	var v int64
	for i := range min(len(b), limit) {
		v |= int64(b[i]&0x3f) << (6 * i)
		if b[i]&more == 0 {
			break
		}
	}
	if v&1 != 0 {
		return int(-(v >> 1))
	}
	return int(v >> 1)
}
