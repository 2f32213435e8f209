package mem

import (
	"errors"
	"math"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAddr(t *testing.T) {
	if got := Addr(0x7f12).String(); got != "0x7f12" {
		t.Errorf("String: %s", got)
	}
	if a, ok := Addr(math.MaxUint64).Add(1); ok {
		t.Errorf("Add wrapped to %v", a)
	}
	if a, ok := Addr(10).Add(5); !ok || a != 15 {
		t.Errorf("Add: %v, %v", a, ok)
	}
	if got := Addr(0x1fff).AlignDown(0x1000); got != 0x1000 {
		t.Errorf("AlignDown: %v", got)
	}
}

func TestValues(t *testing.T) {
	f := &Fake{Segments: []Segment{
		{0x1000, []byte{1, 2, 3, 4, 5, 6, 7, 8, 0xf0}},
		{0x1009, []byte{9}}, // adjacent, but another segment
	}}
	if v, err := U8(f, 0x1001); v != 2 || err != nil {
		t.Errorf("U8: %d, %v", v, err)
	}
	if v, err := U16(f, 0x1001); v != 0x0302 || err != nil {
		t.Errorf("U16: %#x, %v", v, err)
	}
	if v, err := U32(f, 0x1001); v != 0x05040302 || err != nil {
		t.Errorf("U32: %#x, %v", v, err)
	}
	if v, err := U64(f, 0x1001); v != 0xf008070605040302 || err != nil {
		t.Errorf("U64: %#x, %v", v, err)
	}
	if v, err := Pointer(f, 0x1000); v != 0x0807060504030201 || err != nil {
		t.Errorf("Pointer: %v, %v", v, err)
	}
	if err := PutU64(f, 0x1001, 7); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]byte{1, 7, 0, 0, 0, 0, 0, 0, 0}, f.Segments[0].Data); diff != "" {
		t.Error(diff)
	}
	for _, a := range []Addr{0, 0xfff, 0x1002, 0x1009, 0x100a, math.MaxUint64 - 3} {
		var fault *Fault
		if _, err := U64(f, a); !errors.As(err, &fault) || fault.Addr != a || !errors.Is(err, syscall.EFAULT) {
			t.Errorf("U64 at %v: %v", a, err)
		}
		if err := PutU64(f, a, 1); !errors.Is(err, syscall.EFAULT) {
			t.Errorf("PutU64 at %v: %v", a, err)
		}
	}
}

func TestCString(t *testing.T) {
	page := make([]byte, 4096)
	for i := range page {
		page[i] = 'x'
	}
	copy(page[4090:], "hello\x00")
	f := &Fake{Segments: []Segment{{0x2000, page}}}
	if s, err := CString(f, 0x2000+4090, 100); s != "hello" || err != nil {
		t.Errorf("at a page's end: %q, %v", s, err)
	}
	if s, err := CString(f, 0x2000, 100); err == nil {
		t.Errorf("without an end: %q", s)
	}
	if s, err := CString(f, 0x2000, 5000); s != strings.Repeat("x", 4090)+"hello" || err != nil {
		t.Errorf("long: %d bytes, %v", len(s), err)
	}
	if _, err := CString(f, 0x1fff, 10); !errors.Is(err, syscall.EFAULT) {
		t.Errorf("unmapped: %v", err)
	}
}

func TestCursor(t *testing.T) {
	f := &Fake{Segments: []Segment{{0x10, []byte{1, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0}}}}
	c := NewCursor(f, 0x10)
	a, b, d, e := c.U8(), c.U16(), c.U32(), c.U64()
	if c.Err() != nil || a != 1 || b != 2 || d != 3 || e != 4 || c.Addr() != 0x1f {
		t.Errorf("%d %d %d %d at %v, %v", a, b, d, e, c.Addr(), c.Err())
	}
	if v := c.Pointer(); v != 0 || !errors.Is(c.Err(), syscall.EFAULT) {
		t.Errorf("behind the end: %v, %v", v, c.Err())
	}
	first := c.Err()
	c.Seek(0x10)
	if v := c.U8(); v != 0 || c.Err() != first {
		t.Errorf("after an error: %v, %v", v, c.Err())
	}
}
