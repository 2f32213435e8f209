package profiler

import (
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/internal/pytarget"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

//go:embed testdata/types/zoo.py
var zooSource string

// typedBlock is a live block as a dump has it.
type typedBlock struct {
	agent.Block
	label string
	words [6]uint64 // that it begins with, as far as they may be the type: those behind a reference count
}

// typedBlocks takes the blocks of a dump, by address.
func typedBlocks(t *testing.T, pid int, o DumpOptions) []typedBlock {
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
	c := &agent.Capture{Running: o.NoPause}
	types := findTypes(tg, false)
	defer types.close()
	if _, err := tg.capture(t.Context(), a, c, o, &Dump{}, types); err != nil {
		t.Fatal(err)
	}
	labels := types.resolve(tg, c, a.tablesAt())
	if len(labels.notes) > 0 {
		t.Errorf("%q", labels.notes)
	}
	typeOf := labels.lookup()
	var blocks []typedBlock
	for b, err := range c.Blocks() {
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, typedBlock{Block: b, label: labels.names[typeOf(b.Addr)]})
	}
	ranges := make([]proc.Range, len(blocks))
	for i, b := range blocks {
		ranges[i] = proc.Range{Addr: b.Addr, Len: int(min(b.Size, 48))}
	}
	raw, err := gather(tg.mem, ranges)
	if err != nil {
		t.Fatal(err)
	}
	for i := range blocks {
		for j := 8; j+8 <= len(raw[i]); j += 8 {
			if count := binary.LittleEndian.Uint64(raw[i][j-8:]); uint32(count) != 0 {
				blocks[i].words[j/8] = binary.LittleEndian.Uint64(raw[i][j:])
			}
		}
	}
	slices.SortFunc(blocks, func(a, b typedBlock) int { return int(int64(a.Addr) - int64(b.Addr)) })
	return blocks
}

// listed is what the target says of its objects.
type listed struct {
	Names   []string
	Objects []listedObject
	Owned   []listedOwned
	Types   map[uint64]string // names of types, by address
}

type listedObject struct {
	addr mem.Addr
	name int
	size uint64
}

func (o *listedObject) UnmarshalJSON(j []byte) error {
	return json.Unmarshal(j, &[]any{&o.addr, &o.name, &o.size})
}

type listedOwned struct {
	addr  mem.Addr
	name  int
	role  string
	owner mem.Addr
}

func (o *listedOwned) UnmarshalJSON(j []byte) error {
	return json.Unmarshal(j, &[]any{&o.addr, &o.name, &o.role, &o.owner})
}

// TestTypes: what a dump says of objects' types is what the target says, for objects of all kinds in every interpreter.
func TestTypes(t *testing.T) {
	for _, in := range pytarget.Interpreters(t) {
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			typesOracle(t, in, DumpOptions{})
		})
	}
}

func typesOracle(t *testing.T, in pytarget.Interpreter, o DumpOptions) {
	tg := pytarget.Start(t, in, "", pytarget.Options{})
	if _, err := Attach(t.Context(), tg.Pid(), AttachOptions{}); err != nil {
		t.Fatal(err)
	}
	tg.ExecFile("zoo.py", zooSource)
	tg.Exec("__import__('pytarget').defer(enumerate_all)")
	awaitState(t, tg.Pid(), 'T')
	blocks := typedBlocks(t, tg.Pid(), o)
	tg.Signal(syscall.SIGCONT)
	theirs := ask[listed](t, tg, "listed")

	blockOf := func(a mem.Addr) *typedBlock {
		i, found := slices.BinarySearchFunc(blocks, a, func(b typedBlock, a mem.Addr) int { return int(int64(b.Addr) - int64(a)) })
		if !found {
			i--
		}
		if i < 0 || blocks[i].Addr+mem.Addr(blocks[i].Size) <= a {
			return nil
		}
		return &blocks[i]
	}
	complaints := 0
	complain := func(format string, args ...any) {
		if complaints++; complaints <= 10 {
			t.Errorf(format, args...)
		}
	}
	confirmed := map[mem.Addr]bool{}
	owned := map[mem.Addr]uint64{} // bytes of buffers, by owner
	for _, own := range theirs.Owned {
		if b := blockOf(own.addr); b != nil && b.Addr == own.addr {
			owned[own.owner] += b.Size
		} else if own.addr != 0 {
			owned[own.owner] += 1 << 40 // not ours, or part of the object
		}
	}
	unknown := map[string]int{}
	seen := map[string]bool{}
	for _, obj := range theirs.Objects {
		b := blockOf(obj.addr)
		if b == nil || Domain(b.Domain) != Obj || obj.addr-b.Addr > 48 {
			continue
		}
		name := theirs.Names[obj.name]
		confirmed[b.Addr] = true
		seen[name] = true
		switch {
		case b.label == "":
			unknown[name]++
		case b.label != name:
			complain("the %s at %v, in a block of %d bytes, is said to be %q", name, obj.addr, b.Size, b.label)
		case b.Size+owned[obj.addr] < obj.size:
			complain("the %s at %v has %d bytes, its blocks %d+%d", name, obj.addr, obj.size, b.Size, owned[obj.addr])
		}
	}
	for _, own := range theirs.Owned {
		b := blockOf(own.addr)
		if b == nil || b.Addr != own.addr || b.label == "" && blockOf(own.owner) == nil {
			continue // not ours, or its owner is not
		}
		confirmed[b.Addr] = true
		if want := theirs.Names[own.name] + " (" + own.role + ")"; b.label == "" {
			unknown[want]++
		} else if b.label != want {
			complain("the %s at %v are said to be %q", want, own.addr, b.label)
		}
	}
	// Objects that the target did not find by itself: what it calls the type that stands in their blocks.
	var extra []typedBlock // of types that the target did not find either
	others := 0
	roles := map[string]int{}
	nothing := 0
	for _, b := range blocks {
		switch {
		case b.label == "" && Domain(b.Domain) == Obj:
			nothing++
		case strings.HasSuffix(b.label, ")"):
			roles[b.label]++
		case b.label != "" && !confirmed[b.Addr]:
			extra = append(extra, b)
			for _, w := range b.words {
				if theirs.Types[w] == b.label {
					extra = extra[:len(extra)-1] // as its header says
					others++
					break
				}
			}
		}
	}
	for _, b := range extra {
		if names := ask[[]string](t, tg, b.words); !slices.Contains(names, b.label) {
			complain("a block of %d bytes at %v is said to be %q, and has to do with types %q", b.Size, b.Addr, b.label, names)
		}
	}
	total := 0
	for _, n := range unknown {
		total += n
	}
	if total > len(confirmed)/1000 {
		complain("%d of %d objects and buffers were not recognised: %v", total, len(confirmed), unknown)
	}
	t.Logf("%d blocks, %d objects and buffers confirmed, %d types; %d more objects; unknown %v, nothing %d",
		len(blocks), len(confirmed), len(seen), others, unknown, nothing)
	for _, r := range slices.Sorted(maps.Keys(roles)) {
		t.Logf("%6d %s", roles[r], r)
	}
	tg.Challenge()
}
