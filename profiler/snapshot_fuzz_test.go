package profiler

import (
	"encoding/binary"
	"io"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/mem"
)

const fuzzTablesAt mem.Addr = 0x7f1234500000

const (
	fuzzNodes  = agent.FirstNode + 16
	fuzzLeaves = 3
)

// fuzzTables are valid tables of a few pages: blocks in each domain, stacks of two threads, and two code objects.
func fuzzTables() []byte {
	h := agent.Tables{Magic: agent.Magic, Fingerprint: agent.Fingerprint(), Started: 1}
	h.Config.GranuleLog2, h.Config.Clock = 4, 1
	h.Python.LineFormat, h.Python.InstrUnit = 2, 2
	at := uint64(unsafe.Sizeof(h))
	place := func(w *agent.Window, entries int, size uintptr) {
		*w = agent.Window{Offset: at, Entries: uint64(entries), Next: uint64(entries)}
		at += (uint64(entries)*uint64(size) + 63) &^ 63
	}
	place(&h.Threads, 2, unsafe.Sizeof(agent.Thread{}))
	place(&h.Slots, 2, 4)
	place(&h.Nodes, fuzzNodes, unsafe.Sizeof(agent.Node{}))
	place(&h.Stats, fuzzNodes, unsafe.Sizeof(agent.Stat{}))
	place(&h.Codes, agent.CodeFirst+2, unsafe.Sizeof(agent.Code{}))
	place(&h.Arena, 256, 1)
	place(&h.Bases, fuzzLeaves, 8)
	place(&h.Leaves, fuzzLeaves, 8<<agent.LeafWordsLog2)
	h.Size = at
	b := unsafe.Slice((*byte)(unsafe.Pointer(&make([]uint64, (at+7)/8)[0])), at)
	*fuzzAt[agent.Tables](b, 0, 0) = h

	for i := range uint64(2) {
		*fuzzAt[uint32](b, h.Slots.Offset, i) = uint32(i) + 1
		*fuzzAt[agent.Thread](b, h.Threads.Offset, i) = agent.Thread{Pointer: 5 + i, Tid: uint32(9 * i), Lives: 1 + uint32(i), Name: [16]byte{'t'}}
		name := agent.Blob{Offset: h.Arena.Offset + 64, Length: 6, Kind: 1}
		*fuzzAt[agent.Code](b, h.Codes.Offset, agent.CodeFirst+i) = agent.Code{
			FirstLine: 10, File: name, Name: name, Lines: agent.Blob{Offset: h.Arena.Offset + 80, Length: 8, Kind: 1},
		}
	}
	copy(b[h.Arena.Offset+64:], "a name")
	copy(b[h.Arena.Offset+80:], "\x80\x00\x01\x88\x02\xf0\x07\x80")
	for i := range uint64(fuzzNodes - agent.FirstNode) {
		n := agent.Node{Parent: agent.FirstNode + uint32(i)/2, Code: agent.CodeFirst + uint32(i)%2, Instr: int32(i)}
		if i < 2 {
			n = agent.Node{Code: agent.CodeRoot, Instr: int32(i)}
		}
		*fuzzAt[agent.Node](b, h.Nodes.Offset, agent.FirstNode+i) = n
		*fuzzAt[agent.Stat](b, h.Stats.Offset, agent.FirstNode+i) = agent.Stat{
			AllocBlocks: i, AllocBytes: i * 10, FreedBlocks: i / 2, FreedBytes: i, Peak: uint32(i % 2), Node: agent.FirstNode + uint32(i), PeakBlocks: i, PeakBytes: i,
		}
		*fuzzAt[uint64](b, h.Leaves.Offset, 1<<agent.LeafWordsLog2+5+i*2) =
			1<<agent.LiveBit | i%agent.Domains<<agent.DomainShift | i<<agent.EpochShift | i*100<<agent.SizeShift | (agent.FirstNode + i)
	}
	*fuzzAt[uint64](b, h.Bases.Offset, 1) = 0x7f0000000000
	return b
}

// fuzzAt is the i-th value of a window.
func fuzzAt[T any](b []byte, offset, i uint64) *T {
	var v T
	return (*T)(unsafe.Pointer(&b[offset+i*uint64(unsafe.Sizeof(v))]))
}

// fuzzSnapshot makes a snapshot of the tables in b.
func fuzzSnapshot(t *testing.T, b []byte) (blocks uint64, err error) {
	m := &mem.Fake{Segments: []mem.Segment{{Addr: fuzzTablesAt, Data: b}}}
	c := &agent.Capture{}
	if err := c.Copy(m, fuzzTablesAt, 1<<20); err != nil {
		return 0, err
	}
	if err := c.CopyNames(m, fuzzTablesAt, 1<<20); err != nil {
		return 0, err
	}
	s, blocks, err := buildSnapshot(c, noTypes(), nil, nil, snapshotInfo{pid: 1, command: "python", taken: time.Now(), pause: 1, paused: true})
	if err != nil {
		return 0, err
	}
	if blocks > fuzzLeaves<<agent.LeafWordsLog2 {
		t.Errorf("%d blocks", blocks)
	}
	if err := s.Write(io.Discard); err != nil {
		t.Errorf("a snapshot that cannot be written: %v", err)
	}
	return blocks, nil
}

// FuzzBuildSnapshot makes snapshots of tables into which somebody has written what he likes: patches of 12 bytes, an
// offset and what stands there then.
func FuzzBuildSnapshot(f *testing.F) {
	b := fuzzTables()
	h := *fuzzAt[agent.Tables](b, 0, 0)
	node := func(i, field uintptr) uint64 {
		return h.Nodes.Offset + uint64((agent.FirstNode+i)*unsafe.Sizeof(agent.Node{})+field)
	}
	code := func(field uintptr) uint64 {
		return h.Codes.Offset + uint64(agent.CodeFirst*unsafe.Sizeof(agent.Code{})+field)
	}
	one := func(at, value uint64) []byte {
		return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(nil, uint32(at)), value)
	}
	var n agent.Node
	var c agent.Code
	f.Add([]byte{})
	f.Add(one(node(9, 0), 0xffffffff_ffffffff))                                                // parent and code out of range
	f.Add(one(node(3, 0), agent.CodeFirst<<32|agent.FirstNode+15))                             // a cycle
	f.Add(one(node(3, 0), agent.CodeFirst<<32|agent.FirstNode+3))                              // its own parent
	f.Add(one(node(3, 0), 1000<<32|agent.FirstNode))                                           // no such code object
	f.Add(one(node(0, unsafe.Offsetof(n.Instr)), 0x7fffffff))                                  // no such thread
	f.Add(one(h.Stats.Offset+5*64, 1<<63))                                                     // negative as an int64
	f.Add(one(code(unsafe.Offsetof(c.File)+8), 3<<32|9))                                       // a string of kind 3
	f.Add(one(code(unsafe.Offsetof(c.File)+8), 4<<32|1))                                       // no code point
	f.Add(one(code(unsafe.Offsetof(c.Lines)), 1<<60))                                          // lines from nowhere
	f.Add(one(h.Slots.Offset, 1<<32|1))                                                        // two records of one thread
	f.Add(one(uint64(unsafe.Offsetof(h.Config)+unsafe.Offsetof(h.Config.SampleBytes)), 1<<63)) // weights beyond 64 bits
	f.Add(one(uint64(unsafe.Offsetof(h.Python)+8), 0xffffffff_000000ff))                       // no such line format
	f.Fuzz(func(t *testing.T, patches []byte) {
		b := fuzzTables()
		for p := range slices.Chunk(patches, 12) {
			if len(p) == 12 {
				copy(b[uint64(binary.LittleEndian.Uint32(p))%uint64(len(b)-8):], p[4:])
			}
		}
		fuzzSnapshot(t, b)
	})
}

// TestSnapshotOfDamage says which damage must be an error, and that the undamaged tables are none.
func TestSnapshotOfDamage(t *testing.T) {
	if blocks, err := fuzzSnapshot(t, fuzzTables()); err != nil || blocks != fuzzNodes-agent.FirstNode {
		t.Fatalf("undamaged: %d blocks, %v", blocks, err)
	}
	for name, damage := range map[string]func(h *agent.Tables, b []byte){
		"parent beyond the node": func(h *agent.Tables, b []byte) {
			fuzzAt[agent.Node](b, h.Nodes.Offset, agent.FirstNode+4).Parent = agent.FirstNode + 5
		},
		"parent is the node": func(h *agent.Tables, b []byte) {
			fuzzAt[agent.Node](b, h.Nodes.Offset, agent.FirstNode+4).Parent = agent.FirstNode + 4
		},
		"code out of range": func(h *agent.Tables, b []byte) {
			fuzzAt[agent.Node](b, h.Nodes.Offset, agent.FirstNode+4).Code = 1 << 31
		},
		"string out of range": func(h *agent.Tables, b []byte) {
			fuzzAt[agent.Code](b, h.Codes.Offset, agent.CodeFirst).Name.Offset = 1 << 40
		},
		"string of no kind": func(h *agent.Tables, b []byte) {
			fuzzAt[agent.Code](b, h.Codes.Offset, agent.CodeFirst).Name.Kind = 3
		},
		"negative bytes": func(h *agent.Tables, b []byte) {
			fuzzAt[agent.Stat](b, h.Stats.Offset, agent.FirstNode+4).AllocBytes = 1 << 63
		},
		"stack out of range": func(h *agent.Tables, b []byte) {
			*fuzzAt[uint64](b, h.Leaves.Offset, 1<<agent.LeafWordsLog2) = 1<<agent.LiveBit | fuzzNodes
		},
		"domain out of range": func(h *agent.Tables, b []byte) {
			*fuzzAt[uint64](b, h.Leaves.Offset, 1<<agent.LeafWordsLog2) = 1<<agent.LiveBit | 7<<agent.DomainShift
		},
	} {
		b := fuzzTables()
		h := *fuzzAt[agent.Tables](b, 0, 0)
		damage(&h, b)
		if _, err := fuzzSnapshot(t, b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
