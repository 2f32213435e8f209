package cpython

import (
	"encoding/binary"
	"testing"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// The place that the getter's code was read to load from holds a thread state or nothing, and in time that of each
// thread that runs.
func TestCurrentThreadStateAt(t *testing.T) {
	eachPython(t, func(t *testing.T, p program) {
		tg := startPython(t, p)
		in := tg.find()
		maps, err := tg.proc.Maps()
		if err != nil {
			t.Fatal(err)
		}
		place := in.CurrentThreadStateAt(tg.mem, maps)
		if place.Where == InFunction {
			if in.Flavour == Static || !in.Version.atLeast(3, 12) {
				t.Errorf("the getter of %v was not understood", in.Version)
			}
			if place.Value != uint64(in.CurrentThreadState) {
				t.Errorf("%+v is not the getter", place)
			}
			return
		}
		main := tg.states(in)[0].Threads[0]
		at := mem.Addr(place.Value)
		if place.Where == InThread {
			at += mem.Addr(main.ThreadID)
		}
		tg.write("sum(1 for _ in range(10**7))") // runs, and so holds its state, for half a second
		seen := 0
		for range 1_000_000 {
			got, err := mem.Pointer(tg.mem, at)
			if err != nil {
				t.Fatal(err)
			}
			switch got {
			case 0:
			case main.Addr:
				seen++
			default:
				t.Fatalf("%v holds %v, want 0 or %v", at, got, main.Addr)
			}
			if seen == 100 {
				break
			}
		}
		if seen == 0 {
			t.Errorf("the state of the running thread was never at %v", at)
		}
		if got := tg.read(); got != "10000000" {
			t.Errorf("target said %q", got)
		}
	})
}

// Shapes of getters that compilers make; each ends in ret.
func TestGetterShapes(t *testing.T) {
	const slot = arena + 0x100 // read-only, holds 0x5000
	const offset = ^uint64(0) - 23
	call := Place{InFunction, uint64(arena)}
	for name, c := range map[string]struct {
		code string
		want Place
	}{
		"variable":     {"\x48\x8b\x05\xf9\x01\x00\x00\xc3", Place{InVariable, uint64(arena) + 0x200}},
		"by the table": {"\x48\x8b\x05\xf9\x00\x00\x00\x48\x8b\x40\x10\xc3", Place{InVariable, 0x5010}},
		"local exec":   {"\x64\x48\x8b\x04\x25\xe8\xff\xff\xff\xc3", Place{InThread, offset}},
		"by the block": {"\x64\x48\x8b\x04\x25\x00\x00\x00\x00\x48\x8b\x40\xe8\xc3", Place{InThread, offset}},
		"initial exec": {"\x48\x8b\x05\xf9\x00\x00\x00\x64\x48\x8b\x00\xc3", Place{InThread, 0x5000}},
		"endbr64, frame": {"\xf3\x0f\x1e\xfa\x55\x48\x89\xe5\x48\x8b\x05\xf1\x01\x00\x00\x5d\xc3",
			Place{InVariable, uint64(arena) + 0x200}},
		"calls":          {"\xe8\x00\x00\x00\x00\xc3", call},
		"variable's own": {"\x48\x8b\x05\xf9\x01\x00\x00\x48\x8b\x40\x10\xc3", call}, // the table's slot is writable
		"no end":         {"\x48\x8b\x05\xf9\x01\x00\x00", call},
		"loads nothing":  {"\xc3", call},
		"other register": {"\x48\x8b\x1d\xf9\x01\x00\x00\xc3", call},
	} {
		t.Run(name, func(t *testing.T) {
			data := make([]byte, 0x300)
			copy(data, c.code)
			binary.LittleEndian.PutUint64(data[0x100:], 0x5000)
			maps := []proc.Mapping{{Start: arena, End: arena + 0x200, Read: true, Exec: true},
				{Start: arena + 0x200, End: arena + 0x300, Read: true, Write: true}}
			in := &Interpreter{CurrentThreadState: arena}
			r := &mem.Fake{Segments: []mem.Segment{{Addr: arena, Data: data}}}
			if got := in.CurrentThreadStateAt(r, maps); got != c.want {
				t.Errorf("%+v, want %+v (slot at %v)", got, c.want, slot)
			}
		})
	}
}

func BenchmarkFind(b *testing.B) {
	for _, p := range interpreters(b) {
		b.Run(p.String(), func(b *testing.B) {
			tg := startPython(b, p)
			for b.Loop() {
				tg.find()
			}
		})
	}
}
