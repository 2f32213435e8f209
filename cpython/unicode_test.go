package cpython

import "testing"

func TestDecodeUnicode(t *testing.T) {
	for _, c := range []struct {
		kind int
		raw  []byte
		want string
	}{
		{1, nil, ""},
		{1, []byte("caf\xe9"), "caf\u00e9"},
		{2, []byte{0x2d, 0x4e, 0x87, 0x65}, "\u4e2d\u6587"},
		{2, []byte{0x80, 0xdc, 'x', 0}, `\udc80x`},
		{2, []byte{0x3d, 0xd8, 0x00, 0xde}, `\ud83d\ude00`}, // two lone surrogates: str has no pairs
		{4, []byte{0x0d, 0xf4, 0x01, 0x00}, "\U0001f40d"},
		{4, []byte{0xff, 0xdf, 0, 0}, `\udfff`},
	} {
		got, err := DecodeUnicode(c.kind, c.raw)
		if err != nil || got != c.want {
			t.Errorf("kind %d %x: %q, %v; want %q", c.kind, c.raw, got, err, c.want)
		}
	}
	for _, c := range []struct {
		kind int
		raw  []byte
	}{{0, nil}, {3, []byte{1, 2, 3}}, {2, []byte{1}}, {4, []byte{0, 0, 0x11, 0}}, {-1, nil}, {8, make([]byte, 8)}} {
		if s, err := DecodeUnicode(c.kind, c.raw); err == nil {
			t.Errorf("kind %d %x gave %q", c.kind, c.raw, s)
		}
	}
}
