package cpython

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// DecodeUnicode makes the characters of a str into UTF-8. kind is the number of bytes for each: 1 (Latin-1), 2 or 4;
// raw is little-endian. A lone surrogate, which UTF-8 cannot hold, is written as Python's backslashreplace does:
// `\udc80`; file names that are not valid UTF-8 have such (PEP 383). It is an error if raw is no such array, or holds
// what is no code point.
func DecodeUnicode(kind int, raw []byte) (string, error) {
	if kind != 1 && kind != 2 && kind != 4 || len(raw)%kind != 0 {
		return "", fmt.Errorf("decode str: %d bytes of kind %d", len(raw), kind)
	}
	out := make([]byte, 0, len(raw)/kind)
	for ; len(raw) > 0; raw = raw[kind:] {
		var c uint32
		switch kind {
		case 1:
			c = uint32(raw[0])
		case 2:
			c = uint32(binary.LittleEndian.Uint16(raw))
		case 4:
			c = binary.LittleEndian.Uint32(raw)
		}
		switch {
		case c > utf8.MaxRune:
			return "", fmt.Errorf("decode str: %#x is no code point", c)
		case c >= 0xd800 && c < 0xe000:
			out = fmt.Appendf(out, `\u%04x`, c)
		default:
			out = utf8.AppendRune(out, rune(c))
		}
	}
	return string(out), nil
}
