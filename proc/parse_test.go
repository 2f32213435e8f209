package proc

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseMaps(t *testing.T) {
	text := strings.Join([]string{
		`55d0c0a00000-55d0c0a02000 r--p 00000000 fd:01 1234567                    /usr/bin/python3.11`,
		`7f0000000000-7f0000001000 rw-s 0000f000 00:01 42                         /memfd:heaptap (deleted)`,
		`7f0000001000-7f0000002000 ---p 00000000 00:00 0 `,
		`7f0000002000-7f0000003000 r-xp 00002000 103:02 7                         /tmp/a\012b  c (deleted)`,
		`7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]`,
		`ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]`,
		``,
	}, "\n")
	got, err := parseMaps(text)
	if err != nil {
		t.Fatal(err)
	}
	want := []Mapping{
		{Start: 0x55d0c0a00000, End: 0x55d0c0a02000, Read: true, Dev: unix.Mkdev(0xfd, 1), Inode: 1234567,
			Path: "/usr/bin/python3.11"},
		{Start: 0x7f0000000000, End: 0x7f0000001000, Read: true, Write: true, Shared: true, Offset: 0xf000,
			Dev: unix.Mkdev(0, 1), Inode: 42, Path: "/memfd:heaptap", Deleted: true},
		{Start: 0x7f0000001000, End: 0x7f0000002000},
		{Start: 0x7f0000002000, End: 0x7f0000003000, Read: true, Exec: true, Offset: 0x2000,
			Dev: unix.Mkdev(0x103, 2), Inode: 7, Path: "/tmp/a\nb  c", Deleted: true},
		{Start: 0x7ffc00000000, End: 0x7ffc00021000, Read: true, Write: true, Path: "[stack]"},
		{Start: 0xffffffffff600000, End: 0xffffffffff601000, Exec: true, Path: "[vsyscall]"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"x", "1-2", "2-1 rw-p 0 0:0 0", "1-2 rw 0 0:0 0", "1-2 rw-p z 0:0 0", "1-2 rw-p 0 00 0",
		"1-2 rw-p 0 0:0 x", "1-g rw-p 0 0:0 0", "12 rw-p 0 0:0 0"} {
		if m, err := parseMaps(bad); err == nil {
			t.Errorf("%q: %+v", bad, m)
		}
	}
}

const statLine = "42 (a) b ( c) S 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 99887 1000 200 18446744073709551615 " +
	"1 1 140737 0 0 0 0 0 0 0 0 0 17 3 0 0 0 0 0\n"

func TestParseStat(t *testing.T) {
	got, err := parseStat(statLine)
	want := Stat{Comm: "a) b ( c", State: 'S', Ppid: 7, StartTicks: 99887, StackStart: 140737, CPU: 3}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, bad := range []string{"", "42", "42 (x", "42 (x) S", "42 )x( S", strings.Replace(statLine, "99887", "x", 1),
		strings.Replace(statLine, "S 7", "SS 7", 1)} {
		if st, err := parseStat(bad); err == nil {
			t.Errorf("%q: %+v", bad, st)
		}
	}
}

const statusText = "Name:\tmy pr\\\\o\\ng\nUmask:\t0022\nState:\tt (tracing stop)\nTgid:\t42\nTracerPid:\t99\n" +
	"Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nNSpid:\t42\t1\nVmSize:\t    1000 kB\nVmRSS:\t 10 kB\nThreads:\t3\n" +
	"SigPnd:\t0000000000000001\nShdPnd:\t0000000000000002\nSigBlk:\t0000000000004000\nSigIgn:\t0000000001001000\n" +
	"SigCgt:\tffffffffffffffff\nCapEff:\t000001fffeffffff\nNoNewPrivs:\t1\nSeccomp:\t2\n"

func TestParseStatus(t *testing.T) {
	got, err := parseStatus(statusText)
	want := Status{Name: "my pr\\o\ng", State: 't', Tgid: 42, TracerPid: 99, Uid: [4]int{1, 2, 3, 4}, Gid: [4]int{5, 6, 7, 8},
		NSpid: []int{42, 1}, VmSize: 1000 << 10, VmRSS: 10 << 10, Threads: 3, SigPnd: 1, ShdPnd: 2, SigBlk: 0x4000,
		SigIgn: 0x1001000, SigCgt: ^uint64(0), CapEff: 0x1fffeffffff, NoNewPrivs: true, Seccomp: 2}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if st, err := parseStatus("SigBlk:\tzz\n"); err == nil {
		t.Errorf("%+v", st)
	}
}

func TestParseAuxv(t *testing.T) {
	entry := func(k, v byte) []byte {
		return append(append(make([]byte, 0, 16), k, 0, 0, 0, 0, 0, 0, 0), v, 0, 0, 0, 0, 0, 0, 0)
	}
	b := append(append(append(entry(3, 64), entry(25, 9)...), entry(0, 0)...), entry(7, 1)...)
	got, err := parseAuxv(b)
	if diff := cmp.Diff(map[uint64]uint64{3: 64, 25: 9}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if v, err := parseAuxv(b[:20]); err == nil {
		t.Errorf("cut short: %v", v)
	}
}

func FuzzMaps(f *testing.F) {
	f.Add("55d0c0a00000-55d0c0a02000 r--p 00000000 fd:01 1234567                    /usr/bin/python3.11\n")
	f.Add("7f0000002000-7f0000003000 r-xp 00002000 103:02 7                         /tmp/a\\012b (deleted)\n")
	f.Fuzz(func(t *testing.T, text string) {
		maps, err := parseMaps(text)
		for _, m := range maps {
			if m.End < m.Start || err != nil {
				t.Errorf("%+v, %v", m, err)
			}
		}
	})
}

func FuzzStat(f *testing.F) {
	f.Add(statLine)
	f.Fuzz(func(t *testing.T, s string) {
		st, err := parseStat(s)
		if err == nil && !strings.Contains(s, "("+st.Comm+")") {
			t.Errorf("%q: name %q", s, st.Comm)
		}
	})
}

func FuzzStatus(f *testing.F) {
	f.Add(statusText)
	f.Fuzz(func(t *testing.T, s string) {
		if st, err := parseStatus(s); err != nil && !cmp.Equal(st, Status{}) {
			t.Errorf("an error and a value: %+v, %v", st, err)
		}
	})
}

func FuzzAuxv(f *testing.F) {
	f.Add(make([]byte, 32))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := parseAuxv(b); err == nil && len(v) > len(b)/16 {
			t.Errorf("%d entries from %d bytes", len(v), len(b))
		}
	})
}

func TestParseBlocked(t *testing.T) {
	got, err := parseBlocked("202 0x7f1 0x189 0x0 0x0 0x0 0xffffffff 0x7ffd10 0x7f2030\n")
	want := Blocked{In: true, Nr: 202, Args: [6]uint64{0x7f1, 0x189, 0, 0, 0, 0xffffffff}, SP: 0x7ffd10, PC: 0x7f2030}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if got, err := parseBlocked("running\n"); got != (Blocked{}) || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := parseBlocked("-1 0x10 0x20\n"); got != (Blocked{SP: 0x10, PC: 0x20}) || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "x", "1 2", "1 0x1 0x2", "1 a b c d e f g z", "walking"} {
		if got, err := parseBlocked(bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func FuzzParseBlocked(f *testing.F) {
	f.Add("202 0x7f1 0x189 0x0 0x0 0x0 0xffffffff 0x7ffd10 0x7f2030\n")
	f.Add("-1 0x10 0x20")
	f.Fuzz(func(t *testing.T, line string) { parseBlocked(line) })
}

const smapsText = `55d0c0a00000-55d0c0a04000 rw-p 00000000 fd:01 1234567                    /usr/lib/a: b.so
Size:                 16 kB
KernelPageSize:        4 kB
Rss:                  12 kB
Pss:                   7 kB
Shared_Clean:          4 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:         8 kB
Anonymous:             8 kB
Swap:                  4 kB
THPeligible:           0
ProtectionKey:         0
VmFlags: rd wr mr mw me ac sd 
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
Rss:                  20 kB
Private_Dirty:        20 kB
Anonymous:            20 kB
VmFlags: rd wr mr mw me gd ac 
`

func TestParseUses(t *testing.T) {
	var got []Use
	for u, err := range parseUses(strings.NewReader(smapsText)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, u)
	}
	want := []Use{
		{Mapping: Mapping{Start: 0x55d0c0a00000, End: 0x55d0c0a04000, Read: true, Write: true,
			Dev: unix.Mkdev(0xfd, 1), Inode: 1234567, Path: "/usr/lib/a: b.so"},
			Rss: 12 << 10, SharedClean: 4 << 10, PrivateDirty: 8 << 10, Anonymous: 8 << 10, Swap: 4 << 10},
		{Mapping: Mapping{Start: 0x7ffc00000000, End: 0x7ffc00021000, Read: true, Write: true, Path: "[stack]"},
			Rss: 20 << 10, PrivateDirty: 20 << 10, Anonymous: 20 << 10},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"x", "1-2 rw-p 0 0:0 0\nRss: x kB\n", "1-2 rw-p 0 0:0 0\nRss: -1 kB\n", "VmFlags rd\n"} {
		var last error
		for _, err := range parseUses(strings.NewReader(bad)) {
			last = err
		}
		if last == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	// A path longer than the reader's buffer.
	long := "/" + strings.Repeat("d", 200<<10)
	for u, err := range parseUses(strings.NewReader("1000-2000 r--p 00000000 fd:01 7 " + long + "\nRss: 4 kB\n")) {
		if err != nil || u.Path != long || u.Rss != 4096 {
			t.Errorf("%d bytes of path, %d in memory, %v", len(u.Path), u.Rss, err)
		}
	}
}

func FuzzParseUses(f *testing.F) {
	f.Add(smapsText)
	f.Fuzz(func(t *testing.T, text string) {
		for range parseUses(strings.NewReader(text)) {
		}
	})
}
