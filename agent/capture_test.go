package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/heaptap/heaptap/mem"
)

const tablesAt mem.Addr = 0x7f1234500000

// filled is tables that the hosted agent has filled, and what it says that is in them.
type filled struct {
	path   string
	memory *mem.Fake
	blocks []Block
	stacks map[uint32]string // by node: functions and instructions, innermost first, each after a space
	unseen uint64
}

// fill plans tables in a file, has the hosted agent run a make-believe target on them, and maps them.
func fill(t *testing.T, program string, granuleLog2, instrKind uint32, sample uint64) filled {
	t.Helper()
	return fillBy(t, "fill", program, granuleLog2, instrKind, sample)
}

// fillBy does so by a command of the hosted agent's that is `how`.
func fillBy(t *testing.T, how, program string, granuleLog2, instrKind uint32, sample uint64) filled {
	t.Helper()
	const size = 512 << 20
	h := Tables{Magic: Magic, Fingerprint: Fingerprint(), State: StateTracking}
	h.Size = h.Plan(size, 24<<30, granuleLog2)
	h.Config = Config{GranuleLog2: granuleLog2, InstrKind: instrKind, SampleBytes: sample}
	path := filepath.Join(t.TempDir(), "tables")
	if err := os.WriteFile(path, bytesOf(&h), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(h.Size)); err != nil {
		t.Fatal(err)
	}
	out := runHosted(t, program, how, path)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := syscall.Mmap(int(f.Fd()), 0, int(h.Size), syscall.PROT_READ, syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(data) })
	r := filled{path: path, memory: &mem.Fake{Segments: []mem.Segment{{Addr: tablesAt, Data: data}}}, stacks: map[uint32]string{}}
	for line := range strings.Lines(string(out)) {
		var b Block
		var node uint32
		if _, err := fmt.Sscanf(line, "block %v %d %d %d %d", (*uint64)(&b.Addr), &b.Size, &b.Domain, &b.Epoch, &b.Node); err == nil {
			r.blocks = append(r.blocks, b)
		} else if _, err := fmt.Sscanf(line, "stack %d", &node); err == nil {
			r.stacks[node] = strings.TrimPrefix(strings.TrimSpace(line), fmt.Sprintf("stack %d", node))
		} else if _, err := fmt.Sscanf(line, "unseen %d", &r.unseen); err != nil {
			t.Fatalf("hosted agent says %q", line)
		}
	}
	return r
}

// stackText is the stack of a node as the hosted agent writes it.
func stackText(t *testing.T, c *Capture, node uint32) string {
	t.Helper()
	var out strings.Builder
	for {
		n := c.Nodes()[node]
		if n.Code == CodeDomain {
			node = n.Parent
			continue
		}
		if n.Code == CodeRoot {
			if n.Parent != 0 {
				t.Errorf("root %d has parent %d", node, n.Parent)
			}
			return out.String()
		}
		name, err := c.Bytes(c.Codes()[n.Code].Qualname)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, " %s@%d", name, n.Instr)
		if n.Parent >= node {
			t.Fatalf("node %d has parent %d", node, n.Parent)
		}
		node = n.Parent
	}
}

// TestCapture reads tables that the agent's own code has written.
func TestCapture(t *testing.T) {
	program := hosted(t, "-fsanitize=address,undefined", "-fno-sanitize=object-size")
	for _, tt := range []struct {
		name            string
		granule, kind   uint32
		sample          uint64
		fewest, unknown int
	}{
		{"exact", 4, InstrPointer, 0, 100, 0},
		{"granules of 8", 3, InstrIndex, 0, 100, 0},
		{"sampled", 4, InstrPointer, 1 << 10, 20, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := fill(t, program, tt.granule, tt.kind, tt.sample)
			if len(f.blocks) < tt.fewest || len(f.stacks) < tt.fewest {
				t.Fatalf("%d blocks with %d stacks", len(f.blocks), len(f.stacks))
			}
			h, err := ReadHeader(f.memory, tablesAt)
			if err != nil {
				t.Fatal(err)
			}
			var c Capture
			for range 2 { // the second time into the same memory
				if err := c.Copy(f.memory, tablesAt, 1<<30); err != nil {
					t.Fatal(err)
				}
				if err := c.CopyNames(f.memory, tablesAt, 1<<30); err != nil {
					t.Fatal(err)
				}
			}
			var blocks []Block
			for b, err := range c.Blocks() {
				if err != nil {
					t.Fatal(err)
				}
				blocks = append(blocks, b)
				if have := stackText(t, &c, b.Node); have != f.stacks[b.Node] {
					t.Errorf("block at %v: stack %d is%s, not%s", b.Addr, b.Node, have, f.stacks[b.Node])
				}
			}
			byAddr := func(a, b Block) int { return int(int64(a.Addr) - int64(b.Addr)) }
			slices.SortFunc(blocks, byAddr)
			slices.SortFunc(f.blocks, byAddr)
			if diff := cmp.Diff(f.blocks, blocks); diff != "" {
				t.Errorf("blocks (-agent +reader):\n%s", diff)
			}
			scan, err := NewScan(f.memory, tablesAt, &c.Header, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			var scanned []Block
			for b, err := range scan.Blocks() {
				if err != nil {
					t.Fatal(err)
				}
				scanned = append(scanned, b)
			}
			slices.SortFunc(scanned, byAddr)
			if diff := cmp.Diff(f.blocks, scanned, cmpopts.IgnoreFields(Block{}, "Node")); diff != "" {
				t.Errorf("scanned: %s", diff)
			}
			for _, b := range f.blocks {
				holds := func(r Range) bool { return r.Start <= uint64(b.Addr) && uint64(b.Addr) < r.End }
				if n := len(slices.Collect(filtered(scan.Leaves(), holds))); n != 1 {
					t.Fatalf("block at %v is in %d leaves", b.Addr, n)
				}
			}
			threads, err := ReadThreads(f.memory, tablesAt, h)
			if err != nil || len(threads) != 1 || len(c.Threads()) != 1 || threads[0] != c.Threads()[0] {
				t.Fatalf("threads: %d, %v; copied %d", len(threads), err, len(c.Threads()))
			}
			if tt.sample == 0 {
				checkThread(t, &c, &threads[0], f)
			}
		})
	}
}

func checkThread(t *testing.T, c *Capture, th *Thread, f filled) {
	t.Helper()
	var live, liveBytes, nodes, want uint64
	for _, count := range th.Count {
		live += count.AllocBlocks - count.FreedBlocks
		liveBytes += count.AllocBytes - count.FreedBytes
		nodes += count.AllocBlocks
	}
	for _, b := range f.blocks {
		want += b.Size
	}
	if live != uint64(len(f.blocks)) || liveBytes != want || th.UnseenFrees != f.unseen {
		t.Errorf("thread: %d live blocks, %d bytes, %d unseen frees; want %d, %d, %d", live, liveBytes, th.UnseenFrees, len(f.blocks), want, f.unseen)
	}
	for _, s := range c.Stats() {
		freed, freedBytes := c.Freed(&s)
		nodes -= s.AllocBlocks
		live -= s.AllocBlocks - freed
		liveBytes -= s.AllocBytes - freedBytes
	}
	if nodes != 0 || live != 0 || liveBytes != 0 {
		t.Errorf("nodes have %d blocks less than the thread, %d live ones of %d bytes", nodes, live, liveBytes)
	}
	root := c.Nodes()[th.Root]
	if root.Code != CodeRoot || root.Instr != c.ThreadNumber(0) || int(th.Tid) == 0 {
		t.Errorf("root %+v of thread %d, tid %d", root, c.ThreadNumber(0), th.Tid)
	}
}

// smallTables are valid tables of a few pages, made by hand: two leaves with four blocks, three stacks, a code object.
func smallTables() []byte {
	const (
		threads = 4
		nodes   = FirstNode + 8
		leaves  = 4
		base    = 0x7f0000000000
	)
	h := Tables{Magic: Magic, Fingerprint: Fingerprint(), State: StateTracking}
	h.Config.GranuleLog2 = 4
	at := (uint64(unsafe.Sizeof(h)) + pageSize - 1) &^ (pageSize - 1)
	place := func(w *Window, entries, size, next uint64) {
		*w = Window{Offset: at, Entries: entries, Next: next}
		at += (entries*size + 63) &^ 63
	}
	place(&h.Threads, threads, uint64(unsafe.Sizeof(Thread{})), 0)
	place(&h.Slots, threads, 4, 2)
	place(&h.Nodes, nodes, nodeSize, nodes)
	place(&h.Stats, 8, statSize, 4)
	place(&h.Codes, CodeFirst+2, uint64(unsafe.Sizeof(Code{})), CodeFirst+1)
	place(&h.Arena, 256, 1, 128)
	place(&h.Bases, leaves, 8, 1)
	place(&h.Leaves, leaves, leafSize, 3)
	h.Size = at
	h.Python.LineFormat, h.Python.InstrUnit = 1, 2
	b := resize(nil, at)
	copy(b, bytesOf(&h))

	copy(b[h.Slots.Offset:], bytesOf(&[]uint32{3}[0]))
	thread := &view[Thread](b[h.Threads.Offset:][:threads*unsafe.Sizeof(Thread{})])[2]
	thread.Pointer, thread.Root, thread.Tid, thread.Lives = 1, FirstNode, 77, 1
	n := view[Node](b[h.Nodes.Offset:][:nodes*unsafe.Sizeof(Node{})])
	n[FirstNode] = Node{Code: CodeRoot, Instr: 2}
	n[FirstNode+1] = Node{Parent: FirstNode, Code: CodeFirst, Instr: 3}
	n[FirstNode+2] = Node{Parent: FirstNode + 1, Code: CodeFirst, Instr: 4}
	for i := range uint32(3) {
		view[Stat](b[h.Stats.Offset:][:4*statSize])[1+i].Node = FirstNode + i
	}
	code := &view[Code](b[h.Codes.Offset:][:(CodeFirst+1)*unsafe.Sizeof(Code{})])[CodeFirst]
	code.FirstLine = 10
	code.File = Blob{Offset: h.Arena.Offset + 64, Length: 4, Kind: 1}
	code.Name = Blob{Offset: h.Arena.Offset + 68, Length: 2, Kind: 2}
	code.Lines = Blob{Offset: h.Arena.Offset + 72, Length: 6, Kind: 1}
	copy(b[h.Arena.Offset+64:], "file"+"n\x00m\x00"+"\x02\x01\x02\x01\x80\x01")
	bases := view[uint64](b[h.Bases.Offset:][:leaves*8])
	bases[1], bases[2] = base, base+leafSize*2
	words := view[uint64](b[h.Leaves.Offset:][:leaves*leafSize])
	word := func(stat, size, domain uint64) uint64 {
		return 1<<LiveBit | domain<<DomainShift | size<<SizeShift | stat
	}
	words[512+3] = word(1, 10, Raw)
	words[512+511] = word(2, SizeBig, Obj)
	words[1024] = 4990 // its size stands in the next leaf
	words[1024+7] = word(3, 20, Mem)
	return b
}

func filtered[T any](seq iter.Seq[T], keep func(T) bool) iter.Seq[T] {
	return func(yield func(T) bool) {
		for v := range seq {
			if keep(v) && !yield(v) {
				return
			}
		}
	}
}

func TestSmallTables(t *testing.T) {
	var c Capture
	b := smallTables()
	m := &mem.Fake{Segments: []mem.Segment{{Addr: tablesAt, Data: b}}}
	if err := errors.Join(c.Copy(m, tablesAt, uint64(len(b))), c.CopyNames(m, tablesAt, uint64(len(b)))); err != nil {
		t.Fatal(err)
	}
	var sizes []uint64
	for b, err := range c.Blocks() {
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, b.Size)
	}
	if diff := cmp.Diff([]uint64{10, 4990, 20}, sizes); diff != "" {
		t.Error(diff)
	}
	// No more is copied than the caller says is there.
	if err := c.Copy(m, tablesAt, leafSize); err == nil {
		t.Error("copied more than the limit")
	}
}

// patch stores values at offsets, as a target that writes garbage does: 4 bytes of offset, 8 of value for each.
func patch(b, patches []byte) {
	for ; len(patches) >= 12; patches = patches[12:] {
		at := uint64(binary.LittleEndian.Uint32(patches)) &^ 7 % uint64(len(b)-8)
		copy(b[at:], patches[4:12])
	}
}

func onePatch(at uintptr, value uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(nil, uint32(at)), value)
}

// readAll reads everything there is, and checks that what comes is sane.
func readAll(t *testing.T, r mem.Reader, running bool) {
	const limit = 1 << 20
	h, err := ReadHeader(r, tablesAt)
	if err == nil {
		if threads, err := ReadThreads(r, tablesAt, h); err == nil && len(threads) > maxThreads {
			t.Errorf("%d threads", len(threads))
		}
	}
	c := Capture{Running: running}
	copied := c.Copy(r, tablesAt, limit)
	if n := len(c.bases) + len(c.leaves) + len(c.nodes) + len(c.slots); n > limit || cap(c.threads) > 2*maxThreads*512 {
		t.Errorf("%d bytes, %d of threads, copied at a limit of %d", n, len(c.threads), limit)
	}
	if copied != nil {
		return
	}
	blocks := 0
	for b, err := range c.Blocks() {
		if err != nil {
			break
		}
		if blocks++; int(b.Node) >= len(c.Nodes()) || b.Domain >= Domains || b.Size>>AddressBits != 0 {
			t.Errorf("block %+v", b)
		}
	}
	if blocks > len(c.leaves)/8 {
		t.Errorf("%d blocks in %d bytes", blocks, len(c.leaves))
	}
	for i := range c.Threads() {
		c.ThreadNumber(i)
	}
	if err := c.CopyNames(r, tablesAt, limit); err != nil {
		return
	}
	for _, code := range c.Codes() {
		for _, blob := range []Blob{code.File, code.Name, code.Qualname, code.Lines} {
			if s, err := c.Bytes(blob); err == nil && uint64(len(s)) != uint64(blob.Length)*uint64(blob.Kind) {
				t.Errorf("%d bytes of %+v", len(s), blob)
			}
		}
	}
}

// FuzzCapture reads tables into which somebody has written what he likes.
func FuzzCapture(f *testing.F) {
	var h Tables
	whole := ^uint64(0)
	for _, field := range []uintptr{
		unsafe.Offsetof(h.Size), unsafe.Offsetof(h.Threads) + 8, unsafe.Offsetof(h.Slots), unsafe.Offsetof(h.Slots) + 8,
		unsafe.Offsetof(h.Slots) + 16, unsafe.Offsetof(h.Nodes) + 16, unsafe.Offsetof(h.Codes) + 8, unsafe.Offsetof(h.Arena) + 16,
		unsafe.Offsetof(h.Bases) + 8, unsafe.Offsetof(h.Leaves) + 8, unsafe.Offsetof(h.Leaves) + 16,
		unsafe.Offsetof(h.Config) + unsafe.Offsetof(h.Config.GranuleLog2),
	} {
		for _, value := range []uint64{0, 1 << 20, 1 << 60, whole} {
			f.Add(onePatch(field, value))
			f.Add(append(onePatch(unsafe.Offsetof(h.Size), 1<<62), onePatch(field, value)...))
		}
	}
	// Enough slots for a wild allocation of threads.
	f.Add(slices.Concat(onePatch(unsafe.Offsetof(h.Size), 1<<62), onePatch(unsafe.Offsetof(h.Slots)+8, 1<<58),
		onePatch(unsafe.Offsetof(h.Slots)+16, 1<<58)))
	f.Fuzz(func(t *testing.T, patches []byte) {
		b := smallTables()
		patch(b, patches)
		readAll(t, &mem.Fake{Segments: []mem.Segment{{Addr: tablesAt, Data: b}}}, len(patches)%2 == 0)
	})
}

// restless is memory that changes before each read.
type restless struct {
	mem.Fake
	change func(b []byte)
}

func (r *restless) ReadAt(p []byte, a mem.Addr) error {
	r.change(r.Segments[0].Data)
	return r.Fake.ReadAt(p, a)
}

// TestRestless reads tables into which garbage is written between any two reads.
func TestRestless(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		b := smallTables()
		m := &restless{Fake: mem.Fake{Segments: []mem.Segment{{Addr: tablesAt, Data: b}}}}
		m.change = func(b []byte) {
			for range rng.IntN(4) {
				at := rng.IntN(len(b)/8) * 8
				if rng.IntN(2) == 0 {
					at = rng.IntN(900/8) * 8
				}
				binary.LittleEndian.PutUint64(b[at:], rng.Uint64()>>rng.IntN(64))
			}
		}
		readAll(t, readOne{m}, true)
	}
}

// readOne makes reads of several goroutines one after another, so that the memory below may change.
type readOne struct{ r *restless }

var oneAtATime = make(chan struct{}, 1)

func (r readOne) ReadAt(p []byte, a mem.Addr) error {
	oneAtATime <- struct{}{}
	defer func() { <-oneAtATime }()
	return r.r.ReadAt(p, a)
}

// TestRunning reads while the agent goes on: stacks, leaves and threads come, blocks come and go. Nothing of this is
// damage where the capture knows that the target runs.
func TestRunning(t *testing.T) {
	b := smallTables()
	h := view[Tables](b[:unsafe.Sizeof(Tables{})])
	full := h[0].Nodes.Next
	h[0].Nodes.Next = FirstNode + 1
	m := &restless{Fake: mem.Fake{Segments: []mem.Segment{{Addr: tablesAt, Data: b}}}}
	reads := 0
	m.change = func(b []byte) {
		if reads++; reads == 2 { // after the header: the blocks' stacks, and a block in the last leaf's last word
			h[0].Nodes.Next = full
			words := view[uint64](b[h[0].Leaves.Offset:][:h[0].Leaves.Entries*leafSize])
			words[1024+511] = 1<<LiveBit | SizeBig<<SizeShift | 1
			words[1024] = 1<<LiveBit | 5<<SizeShift | 1 // what stood there belonged to a block that has gone
		}
	}
	c := Capture{Running: true}
	if err := c.Copy(readOne{m}, tablesAt, 1<<20); err != nil {
		t.Fatal(err)
	}
	var sizes []uint64
	for b, err := range c.Blocks() {
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, b.Size)
	}
	if diff := cmp.Diff([]uint64{10, 5, 20}, sizes); diff != "" {
		t.Error(diff)
	}
	c.Running = false
	damaged := false
	for _, err := range c.Blocks() {
		damaged = damaged || err != nil
	}
	if !damaged {
		t.Error("torn blocks are damage when the target stands still")
	}
}

func TestReadHeader(t *testing.T) {
	b := smallTables()
	m := &mem.Fake{Segments: []mem.Segment{{Addr: tablesAt, Data: b}}}
	if h, err := ReadHeader(m, tablesAt); err != nil || !bytes.Equal(bytesOf(h), b[:unsafe.Sizeof(*h)]) {
		t.Fatalf("header: %v", err)
	}
	var fault *mem.Fault
	if _, err := ReadHeader(m, tablesAt-8); !errors.As(err, &fault) {
		t.Errorf("unmapped: %v", err)
	}
	b[8]++ // the fingerprint
	var other *OtherVersionError
	if h, err := ReadHeader(m, tablesAt); h == nil || !errors.As(err, &other) || other.Want != Fingerprint() {
		t.Errorf("other version: %v, %v", h != nil, err)
	}
	b[0]++
	if _, err := ReadHeader(m, tablesAt); !errors.Is(err, ErrNoTables) {
		t.Errorf("no magic: %v", err)
	}
}

// TestBefore: what is noted of the time before tracking comes back, within the window's bounds.
func TestBefore(t *testing.T) {
	h := Tables{Magic: Magic, Fingerprint: Fingerprint()}
	h.Size = h.Plan(64<<20, 1<<30, 4)
	memory := &mem.Fake{Segments: []mem.Segment{{Addr: tablesAt, Data: make([]byte, h.Size)}}}
	var many []Range
	for i := range h.Before.Entries + 100 {
		many = append(many, Range{i << 20, i<<20 + 4096})
	}
	for _, n := range []uint64{0, 1, 100, h.Before.Entries, h.Before.Entries + 100} {
		if err := WriteBefore(memory, tablesAt, &h, many[:n]); err != nil {
			t.Fatal(err)
		}
		got, err := ReadBefore(memory, tablesAt, &h)
		want := slices.Clone(many[:min(n, h.Before.Entries)])
		if n > h.Before.Entries {
			want[len(want)-1].End = many[n-1].End
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("%d ranges: %v %s", n, err, diff)
		}
	}
	h.Before.Entries = 1 << 60
	if got, err := ReadBefore(memory, tablesAt, &h); err == nil {
		t.Errorf("%d ranges of damaged tables", len(got))
	}
}
