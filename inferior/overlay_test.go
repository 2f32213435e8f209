package inferior

import (
	"bytes"
	"testing"

	"github.com/heaptap/heaptap/mem"
)

// What was copied is read as it was, also by reads that begin before it or end behind it.
func TestOverlay(t *testing.T) {
	live := &mem.Fake{Segments: []mem.Segment{{Addr: 0x1000, Data: bytes.Repeat([]byte("l"), 64)}}}
	o := overlay{copied: mem.Segment{Addr: 0x1010, Data: bytes.Repeat([]byte("c"), 32)}, live: live}
	for from := range 64 {
		for to := from; to <= 64; to++ {
			b := make([]byte, to-from)
			if err := o.ReadAt(b, mem.Addr(0x1000+from)); err != nil {
				t.Fatal(err)
			}
			for i, c := range b {
				want := byte('l')
				if at := from + i; at >= 16 && at < 48 {
					want = 'c'
				}
				if c != want {
					t.Fatalf("[%d, %d) reads %q", from, to, b)
				}
			}
		}
	}
	if err := o.ReadAt(make([]byte, 8), 0x103c); err == nil {
		t.Error("read beyond all memory")
	}
}
