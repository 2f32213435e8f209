package profiler

import (
	"cmp"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/internal/pytarget"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

//go:embed testdata/oracle/*.py
var oracleFiles embed.FS

const oracleHarness = "testdata/oracle/harness.py"

// TestOracle: our live blocks are tracemalloc's, each by its address, with the same size and the same full traceback,
// for varied programs in every interpreter. heaptap is attached first, tracemalloc is started on top of it.
//
// Compared are the blocks whose traceback, on either side, goes through the program. What one side sees otherwise is
// accounted for by cause, block by block:
//   - own: tracemalloc's tables are raw blocks that it makes while it records another, at that block's stack. Any raw block
//     that it does not trace is taken for one, as long as they are not more bytes in all than it says its tables have;
//   - reused: the interpreter took an object from a free list. tracemalloc is told so since 3.8 (and moves the block to
//     the stack of the reuse), an allocator is not. The block must hold an object of a type with a free list. One that
//     was freed or moved once more before tracemalloc was asked for its address cannot be told any more, and is paired
//     with a trace of the same size: by size alone, so that a wrong stack could hide behind it;
//   - freed: the interpreter freed it between the two looks, so that it is not in tracemalloc's next list either.
func TestOracle(t *testing.T) {
	programs, err := fs.Glob(oracleFiles, "testdata/oracle/*.py")
	if err != nil {
		t.Fatal(err)
	}
	programs = slices.DeleteFunc(programs, func(p string) bool { return p == oracleHarness })
	for _, in := range pytarget.Interpreters(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			for _, path := range programs {
				name := strings.TrimPrefix(path, "testdata/oracle/")
				t.Run(strings.TrimSuffix(name, ".py"), func(t *testing.T) { oracle(t, in, name, read(t, path)) })
			}
		})
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := oracleFiles.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func oracle(t *testing.T, in pytarget.Interpreter, name, program string) {
	tg := pytarget.Start(t, in, "", pytarget.Options{})
	if _, err := Attach(t.Context(), tg.Pid(), AttachOptions{Domains: []Domain{Raw, Mem, Obj}}); err != nil {
		t.Fatal(err)
	}
	tg.ExecFile("harness.py", read(t, oracleHarness))
	tg.Exec(fmt.Sprintf("__import__('pytarget').defer(lambda: measure(%q, %q))", program, name))
	awaitState(t, tg.Pid(), 'T')
	ours := liveBlocks(t, tg.Pid())
	tg.Signal(syscall.SIGCONT)
	traces := ask[allTraces](t, tg, "traces").count()
	after := ask[allTraces](t, tg, "traces after").count()
	theirs := ask[tracedBlocks](t, tg, addresses(ours))

	through := func(traceback string) bool { return strings.Contains("\n"+traceback, "\n"+name+":") }
	remaining := maps.Clone(traces)
	compared := len(remaining)
	if compared < 20 {
		t.Fatalf("tracemalloc saw only %d kinds of blocks", compared)
	}
	var agree, own, ownBytes, reused, alone int
	complain := func(format string, args ...any) {
		if alone++; alone <= 3 {
			t.Errorf(format, args...)
		}
	}
	// The same stack and size may stand for many blocks. Those of which tracemalloc says the same by address are paired
	// first, then those that it moved, then the rest, to which its own belong.
	matched := make([]bool, len(ours))
	match := func(i int, key trackedBlock, count *int) {
		if !matched[i] && remaining[key] > 0 {
			remaining[key]--
			matched[i] = true
			*count++
		}
	}
	at := func(i int) trackedBlock { return trackedBlock{ours[i].traceback, ours[i].size} }
	elsewhere := func(i int) trackedBlock {
		if n := theirs.Blocks[i].Traceback; n >= 0 {
			return trackedBlock{theirs.Tracebacks[n], ours[i].size}
		}
		return trackedBlock{}
	}
	isOwn := func(i int) bool { return ours[i].domain == Raw && theirs.Blocks[i].Traceback < 0 }
	for i := range ours {
		if at(i) == elsewhere(i) {
			match(i, at(i), &agree)
		}
	}
	for i := range ours {
		if in.Minor() >= 8 && theirs.Blocks[i].Kind != "" {
			match(i, elsewhere(i), &reused)
		}
	}
	for i := range ours {
		if !isOwn(i) {
			match(i, at(i), &agree)
		}
	}
	left := map[uint64][]trackedBlock{} // what remains of theirs, by size
	for b, n := range remaining {
		if n > 0 {
			left[b.size] = append(left[b.size], b)
		}
	}
	// Moved, and freed or moved again since, so that the program did not hold it: it was on a free list. Blocks that we
	// have in the program, which must be explained, come first.
	for _, inProgram := range []bool{true, false} {
		for i, b := range ours {
			if in.Minor() < 8 || b.domain == Raw || through(b.traceback) != inProgram || at(i) == elsewhere(i) {
				continue
			}
			if inProgram || theirs.Blocks[i].Kind != "" {
				for _, theirs := range left[b.size] {
					match(i, theirs, &reused)
				}
			}
		}
	}
	for i, b := range ours {
		match(i, at(i), &agree) // raw, and freed since
		switch {
		case matched[i] || !through(b.traceback):
		case isOwn(i):
			own++
			ownBytes += int(b.size)
		default:
			complain("heaptap: %s block of %d bytes (%q) at\n%stracemalloc:\n%s",
				b.domain, b.size, theirs.Blocks[i].Kind, b.traceback, elsewhere(i).traceback)
		}
	}
	for _, b := range slices.SortedFunc(maps.Keys(remaining), compareBlocks) {
		freed := max(traces[b]-after[b], 0) // between tracemalloc's look and ours
		if n := remaining[b] - freed; n > 0 && through(b.traceback) {
			complain("tracemalloc alone: %d blocks of %d bytes at\n%s", n, b.size, b.traceback)
		}
	}
	if ownBytes > theirs.Own {
		complain("%d bytes are taken for tracemalloc's own tables, which have %d", ownBytes, theirs.Own)
	}
	if alone > 0 {
		t.Errorf("%d differences", alone)
	}
	t.Logf("%d blocks agree, %d were reused from free lists, %d (%d bytes) are tracemalloc's own", agree, reused, own, ownBytes)
}

// awaitState returns when the target's first thread is in the state: 'T' stopped, 'S' waiting.
func awaitState(t *testing.T, pid int, state byte) {
	t.Helper()
	p, err := proc.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for {
		st, err := p.Stat(pid)
		if err != nil || t.Context().Err() != nil {
			t.Fatalf("wait for process %d to be in state %c: %v, %v", pid, state, err, t.Context().Err())
		}
		if st.State == state {
			return
		}
		runtime.Gosched()
	}
}

// trackedBlock is a block without its address.
type trackedBlock struct {
	traceback string
	size      uint64
}

func compareBlocks(a, b trackedBlock) int {
	return cmp.Or(strings.Compare(a.traceback, b.traceback), cmp.Compare(a.size, b.size))
}

// oracleBlock is a live block as heaptap has it.
type oracleBlock struct {
	addr      mem.Addr
	size      uint64
	domain    Domain
	traceback string // "file:line" a line, innermost first, at most the 100 that tracemalloc keeps
}

func liveBlocks(t *testing.T, pid int) []oracleBlock {
	t.Helper()
	tg, err := open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer tg.close()
	a, err := tg.tracked()
	if err != nil {
		t.Fatal(err)
	}
	c := &agent.Capture{}
	if _, err := tg.capture(t.Context(), a, c, DumpOptions{}, &Dump{}, nil); err != nil {
		t.Fatal(err)
	}
	s := &snapshotBuilder{c: c, nodes: c.Nodes()}
	tracebacks := map[uint32]string{}
	var blocks []oracleBlock
	for b, err := range c.Blocks() {
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := tracebacks[b.Node]; !ok {
			tracebacks[b.Node] = nodeTraceback(t, s, b.Node)
		}
		blocks = append(blocks, oracleBlock{b.Addr, b.Size, Domain(b.Domain), tracebacks[b.Node]})
	}
	return blocks
}

func nodeTraceback(t *testing.T, s *snapshotBuilder, node uint32) string {
	var out strings.Builder
	for depth := 0; node != 0 && s.nodes[node].Code != agent.CodeRoot && depth < 100; node = s.nodes[node].Parent {
		if s.nodes[node].Code == agent.CodeDomain {
			continue
		}
		f, err := s.describeFrame(s.nodes[node].Code, s.nodes[node].Instr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s:%d\n", f.File, f.Line)
		depth++
	}
	return out.String()
}

// ask has the harness answer a request.
func ask[T any](t *testing.T, tg *pytarget.Target, request any) T {
	t.Helper()
	line, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	var answer T
	if err := json.Unmarshal([]byte(tg.Do(string(line))), &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func addresses(blocks []oracleBlock) [][2]uint64 {
	list := make([][2]uint64, len(blocks))
	for i, b := range blocks {
		list[i] = [2]uint64{uint64(b.addr), b.size}
	}
	return list
}

// tracedBlocks is what tracemalloc knows of blocks, in the order in which they were asked for.
type tracedBlocks struct {
	Tracebacks []string
	Blocks     []tracedBlock
	Own        int // bytes of tracemalloc's tables
}

type tracedBlock struct {
	Traceback int    // index, -1: not traced
	Kind      string // of the object in it, where that type has a free list
}

func (b *tracedBlock) UnmarshalJSON(j []byte) error {
	return json.Unmarshal(j, &[]any{&b.Traceback, &b.Kind})
}

// allTraces is what _tracemalloc._get_traces() gave.
type allTraces struct {
	Tracebacks []string
	Blocks     []trace
}

// count counts equal blocks.
func (a allTraces) count() map[trackedBlock]int {
	counts := map[trackedBlock]int{}
	for _, tr := range a.Blocks {
		counts[trackedBlock{a.Tracebacks[tr.Traceback], tr.Size}]++
	}
	return counts
}

type trace struct {
	Traceback int
	Size      uint64
}

func (tr *trace) UnmarshalJSON(j []byte) error {
	return json.Unmarshal(j, &[]any{&tr.Traceback, &tr.Size})
}
