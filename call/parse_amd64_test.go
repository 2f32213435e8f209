package call

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
)

func FuzzRankCall(f *testing.F) {
	f.Add(uint64(unix.SYS_FUTEX), uint64(128), uint64(1), uint64(0))
	f.Fuzz(func(t *testing.T, nr, second, third, fourth uint64) {
		rankCall(nr, &[maxArgs]uint64{0, second, third, fourth})
	})
}

func TestRank(t *testing.T) {
	for _, c := range []struct {
		name string
		nr   uint64
		args [maxArgs]uint64
		want int
	}{
		{"read", unix.SYS_READ, [maxArgs]uint64{}, rankBlocked},
		{"futex", unix.SYS_FUTEX, [maxArgs]uint64{0, 128, 0, 0}, rankBlocked},
		{"futex with timeout", unix.SYS_FUTEX, [maxArgs]uint64{0, 128, 0, 0x1000}, rankTimed},
		{"futex until", unix.SYS_FUTEX, [maxArgs]uint64{0, 128 | 9, 0, 0x1000}, rankBlocked},
		{"sleep", unix.SYS_CLOCK_NANOSLEEP, [maxArgs]uint64{1, 0}, rankTimed},
		{"sleep until", unix.SYS_CLOCK_NANOSLEEP, [maxArgs]uint64{1, 1}, rankBlocked},
		{"poll", unix.SYS_POLL, [maxArgs]uint64{0, 1, 0xffffffff}, rankBlocked},
		{"poll with timeout", unix.SYS_POLL, [maxArgs]uint64{0, 1, 100}, rankTimed},
		{"epoll", unix.SYS_EPOLL_WAIT, [maxArgs]uint64{}, rankEintr},
	} {
		if got := rankCall(c.nr, &c.args); got != c.want {
			t.Errorf("%s: rank %d, want %d", c.name, got, c.want)
		}
	}
}

func TestRecord(t *testing.T) {
	want := record{Tid: 42, Region: [2]region{{0x1000, 0x2000}, stackTo(0x7fff00000000, 0x7fff00010008)},
		Arena: region{0x7ffffff00000, 0x7ffffffff000}}
	b := make([]byte, recordSize)
	want.encode(b)
	got := decodeRecord(b)
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	g := got.Region[1]
	if g.frame() != 0x7fff00010008 || !g.contains(g.frame()+8) || g.contains(g.frame()+16) || g.contains(g.Lo-8) {
		t.Errorf("%+v", g)
	}
}

func filterInsn(code uint16, jt, jf uint8, k uint32) unix.SockFilter {
	return unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k}
}

func TestRunFilter(t *testing.T) {
	// What libseccomp makes of "getpid is allowed, read with first argument 3 is an error, the rest kills".
	prog := []unix.SockFilter{
		filterInsn(0x20, 0, 0, 4),             // ld arch
		filterInsn(0x15, 0, 8, auditArch),     // jeq
		filterInsn(0x20, 0, 0, 0),             // ld nr
		filterInsn(0x35, 6, 0, 0x40000000),    // jge: x32
		filterInsn(0x15, 4, 0, 39),            // jeq getpid
		filterInsn(0x15, 0, 4, unix.SYS_READ), // jeq read
		filterInsn(0x20, 0, 0, 16),            // ld args[0] low
		filterInsn(0x15, 0, 2, 3),             // jeq 3
		filterInsn(0x06, 0, 0, 0x00050001),    // errno 1
		filterInsn(0x06, 0, 0, seccompAllow),
		filterInsn(0x06, 0, 0, 0x80000000),
	}
	for _, c := range []struct {
		nr   uint64
		arg  uint64
		want uint32
	}{{39, 0, seccompAllow}, {unix.SYS_READ, 3, 0x00050001}, {unix.SYS_READ, 4, 0x80000000}, {1, 0, 0x80000000},
		{0x40000001, 0, 0x80000000}} {
		got, err := runFilter(prog, seccompData(c.nr, 0, []uint64{c.arg}))
		if got != c.want || err != nil {
			t.Errorf("call %d(%d): %#x, %v, want %#x", c.nr, c.arg, got, err, c.want)
		}
	}
	arithmetic := []unix.SockFilter{
		filterInsn(0x00, 0, 0, 10), filterInsn(0x07, 0, 0, 0), // a = 10, x = a
		filterInsn(0x04, 0, 0, 5), filterInsn(0x02, 0, 0, 3), // a = 15, m[3] = a
		filterInsn(0x2c, 0, 0, 0), filterInsn(0x14, 0, 0, 50), // a *= x, a -= 50
		filterInsn(0x61, 0, 0, 3), filterInsn(0x1c, 0, 0, 0), // x = m[3], a -= x
		filterInsn(0x64, 0, 0, 2), filterInsn(0x16, 0, 0, 0), // a <<= 2, return a
	}
	if got, err := runFilter(arithmetic, make([]byte, 64)); got != (10*15-50-15)<<2 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
}

func FuzzRunFilter(f *testing.F) {
	f.Add([]byte{0x20, 0, 0, 0, 4, 0, 0, 0, 0x15, 0, 0, 8, 1, 2, 3, 4, 6, 0, 0, 0, 0, 0, 0, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		var prog []unix.SockFilter
		for ; len(b) >= 8; b = b[8:] {
			prog = append(prog, filterInsn(uint16(b[0]), b[2], b[3], uint32(b[4])|uint32(b[5])<<8|uint32(b[7])<<24))
		}
		runFilter(prog, seccompData(1, 2, []uint64{3}))
	})
}

func FuzzLoadSegments(f *testing.F) {
	header := make([]byte, 64+56)
	copy(header, "\x7fELF\x02\x01")
	header[32], header[54], header[56], header[64] = 64, 56, 1, 1
	f.Add(header)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &mem.Fake{Segments: []mem.Segment{{Addr: 0x10000, Data: b}}}
		loadSegments(m, 0x10000)
		fileTails(m, 0x10000, nil)
	})
}
