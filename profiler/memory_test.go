package profiler

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/internal/pytarget"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// sum is that of the parts of RSS.
func (m *Memory) sum() uint64 {
	return m.Tracked + m.Beside + m.FilesClean + m.FilesDirty + m.Stacks + m.Shared + m.Heaptap + m.Unexplained
}

// TestReckoning goes through a small address space of which each part is there once.
func TestReckoning(t *testing.T) {
	const k = 1 << 10
	use := func(start, end mem.Addr, path string, rss uint64) proc.Use {
		return proc.Use{Mapping: proc.Mapping{Start: start, End: end, Read: true, Write: true, Path: path}, Rss: rss,
			PrivateDirty: rss, Anonymous: rss}
	}
	file := use(0x10000, 0x20000, "/usr/lib/libx.so", 40*k)
	file.Inode, file.PrivateDirty, file.SharedClean, file.PrivateClean = 7, 8*k, 20*k, 12*k
	shared := use(0x90000, 0xa0000, "/dev/shm/psm_1", 32*k)
	shared.Inode, shared.Shared = 9, true
	swapped := use(0x40000, 0x60000, heapPath, 100*k)
	swapped.Swap = 28 * k
	uses := []proc.Use{
		file,
		use(0x20000, 0x24000, "", 4*k),     // .bss of it
		swapped,                            // heap: 0x40000 to 0x58000 was there before
		use(0x70000, 0x80000, "", 16*k),    // a thread's stack
		shared,                             //
		use(0x100000, 0x200000, "", 512*k), // mapped since: half of it in memory
		use(0x300000, 0x310000, "", 64*k),  // there before, never used since
		use(0x400000, 0x500000, "", 48*k),  // the agent
		use(0x600000, 0x620000, stackPath, 44*k),
		use(0x700000, 0x702000, "[vdso]", 4*k),
	}
	n := neighbourhood{
		own:     []agent.Range{{Start: 0x400000, End: 0x500000}},
		modules: []agent.Range{{Start: 0x10000, End: 0x24000}},
		stacks:  []mem.Addr{0x7f000},
		before:  []agent.Range{{Start: 0x40000, End: 0x58000}, {Start: 0x70000, End: 0x80000}, {Start: 0x300000, End: 0x310000}},
	}
	leaves := []agent.Range{{Start: 0x42000, End: 0x44000}, {Start: 0x58000, End: 0x5a000}, {Start: 0x100000, End: 0x102000}}
	r := newReckoning(uses, n, slices.Values(leaves))
	r.pages = func(from, to mem.Addr) uint64 { // 0x100000 to 0x180000, and the heap but for its last 28 KiB
		in := func(lo, hi mem.Addr) uint64 {
			if lo, hi = max(lo, from), min(hi, to); lo < hi {
				return uint64(hi - lo)
			}
			return 0
		}
		return in(0x100000, 0x180000) + in(0x40000, 0x59000)
	}
	r.block(0x42010, 1000)
	r.block(0x58000, 500)
	r.block(0x100010, 0x100000-0x10) // half of it was never touched
	r.block(0x999000, 77)            // freed meanwhile, and its memory unmapped
	got := r.finish()
	want := Memory{
		RSS: (40 + 4 + 100 + 16 + 32 + 512 + 64 + 48 + 44 + 4) * k, Tracked: 1500 + 512*k,
		// The heap: 8 KiB around the one block, 4 KiB of what came since; the mapping: nothing.
		Beside:     12*k - 1500,
		FilesClean: 32 * k, FilesDirty: (8 + 4 + 4) * k, Stacks: (16 + 44) * k, Shared: 32 * k, Heaptap: 48 * k,
		Unexplained: (100-12)*k + 64*k,
		FilesShared: 20 * k, Absent: 77 + 512*k - 0x10, Swapped: 28 * k, HeapGrowth: 0x8000,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.sum() != got.RSS {
		t.Errorf("the parts are %d, RSS %d", got.sum(), got.RSS)
	}
}

// TestReckoningAddsUp: whatever the mappings and blocks, the parts are the whole.
func TestReckoningAddsUp(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	paths := []string{"", heapPath, stackPath, "/lib/a.so", "/dev/zero", "/memfd:x", "[vdso]", "[anon: glibc: malloc]"}
	for range 2000 {
		var uses []proc.Use
		var n neighbourhood
		var leaves []agent.Range
		at := uint64(1 << 20)
		some := func() agent.Range {
			from := rng.Uint64N(at + 1<<20)
			return agent.Range{Start: from, End: from + rng.Uint64N(1<<18)}
		}
		for range rng.IntN(12) {
			at += rng.Uint64N(8) * proc.PageSize
			size := (1 + rng.Uint64N(64)) * proc.PageSize
			u := proc.Use{Mapping: proc.Mapping{Start: mem.Addr(at), End: mem.Addr(at + size), Path: paths[rng.IntN(len(paths))],
				Shared: rng.IntN(3) == 0}}
			if strings.HasPrefix(u.Path, "/") {
				u.Inode = 1
			}
			u.Rss = rng.Uint64N(size/proc.PageSize+1) * proc.PageSize
			u.PrivateDirty = rng.Uint64N(u.Rss/proc.PageSize+1) * proc.PageSize
			u.SharedClean = u.Rss - u.PrivateDirty
			uses, at = append(uses, u), at+size
			n.stacks = append(n.stacks, mem.Addr(rng.Uint64N(at)))
			leaves = append(leaves, some())
			n.before = append(n.before, agent.Range{Start: at - size, End: at - size/2})
			switch rng.IntN(4) {
			case 0:
				n.own = append(n.own, some())
			case 1:
				n.modules = append(n.modules, some())
			}
		}
		r := newReckoning(uses, n, slices.Values(leaves))
		r.pages = func(from, to mem.Addr) uint64 { return rng.Uint64N(uint64(to-from) + 1) }
		r.sample = float64(rng.IntN(2)) * 4096
		for range rng.IntN(50) {
			r.block(mem.Addr(rng.Uint64N(at)), rng.Uint64N(1<<(rng.IntN(30)+1)))
		}
		if m := r.finish(); m.sum() != m.RSS {
			t.Fatalf("the parts are %d: %+v", m.sum(), m)
		}
	}
}

// TestMemory compares what a process's memory is said to be made of with what it did, and with the kernel's own sum.
func TestMemory(t *testing.T) {
	t.Parallel()
	for _, in := range chosen(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			const mib = 1 << 20
			tg := pytarget.Start(t, in, `
import mmap, tempfile, threading
old = bytearray(b"x") * (24 << 20)
forever = threading.Event()
for _ in range(4):
    threading.Thread(target=forever.wait, daemon=True).start()
`, pytarget.Options{})
			mustAttach(t, tg.Pid())
			first := mustBe(t, tg.Pid(), Tracking).Memory
			tg.Exec(fmt.Sprintf(`
whole = bytearray(b"x") * (%d)
untouched = bytes(%d)
small = [(i, str(i)) for i in range(60000)]
gaps = [bytes(3000) for i in range(8000)]
del gaps[::2]
file = tempfile.TemporaryFile(dir="/dev/shm")
file.truncate(5 << 20)
shm = mmap.mmap(file.fileno(), 5 << 20)
mapped = mmap.mmap(-1, 7 << 20)
mapped[:6 << 20] = b"m" * (6 << 20)
shm[:] = b"s" * (5 << 20)
`, 40*mib, 50*mib))
			m := mustBe(t, tg.Pid(), Tracking).Memory
			t.Logf("before %+v", *first)
			t.Logf("after  %+v", *m)
			if first.sum() != first.RSS || m.sum() != m.RSS {
				t.Errorf("the parts are %d and %d", first.sum(), m.sum())
			}
			if first.Unexplained < 24*mib || m.Unexplained < 24*mib {
				t.Errorf("24 MiB were there before, and %d and %d bytes are not explained", first.Unexplained, m.Unexplained)
			}
			if grown := m.Unexplained - min(m.Unexplained, first.Unexplained); grown > mib {
				t.Errorf("%d bytes that came since are not explained", grown)
			}
			s := mustBe(t, tg.Pid(), Tracking)
			live := uint64(0)
			for _, d := range s.Totals {
				if d.Domain != File {
					live += d.LiveBytes
				}
			}
			if m.Tracked+m.Absent < live-mib/2 || m.Tracked+m.Absent > live+mib/2 {
				t.Errorf("%d bytes tracked in memory and %d not, of %d live", m.Tracked, m.Absent, live)
			}
			if m.Absent < 50*mib || m.Absent > 53*mib {
				t.Errorf("51 MiB were never touched, and %d bytes are not in memory", m.Absent)
			}
			if m.Beside < 4*mib {
				t.Errorf("4000 gaps of 3000 bytes, and %d bytes beside what is tracked", m.Beside)
			}
			if m.Shared < 5*mib || m.Shared > 6*mib {
				t.Errorf("5 MiB are shared, not %d bytes", m.Shared)
			}
			if m.Stacks < 5*proc.PageSize || m.Stacks > 8*mib {
				t.Errorf("%d bytes of stacks of five threads", m.Stacks)
			}
			d := mustDump(t, tg.Pid())
			var sum, rss uint64
			for _, kv := range d.Snapshot.Info {
				var n uint64
				if _, err := fmt.Sscanf(kv.Value, "%d bytes", &n); err != nil {
					continue
				}
				switch {
				case kv.Key == "rss":
					rss = n
				case strings.HasPrefix(kv.Key, "rss, ") || kv.Key == "heaptap's own":
					sum += n
				}
			}
			if rss == 0 || sum != rss {
				t.Errorf("a snapshot's parts are %d, RSS %d: %v", sum, rss, d.Snapshot.Info)
			}
			if kernel := rollup(t, tg.Pid()); kernel < rss-mib || kernel > rss+mib {
				t.Errorf("RSS is %d, the kernel says %d", rss, kernel)
			}
			tg.Challenge()
			mustDetach(t, tg.Pid())
		})
	}
}

// rollup is the kernel's sum of what is in memory.
func rollup(t *testing.T, pid int) uint64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nRss:")
	var kb uint64
	if _, err := fmt.Sscanf(rest, "%d kB", &kb); err != nil {
		t.Fatal(err)
	}
	return kb << 10
}
