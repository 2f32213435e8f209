package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

// writtenTables has the hosted agent write its tables to a file.
func writtenTables(t *testing.T, program string, sample uint64) ([]byte, filled) {
	t.Helper()
	f := fillBy(t, "signal", program, 4, InstrIndex, sample)
	b, err := os.ReadFile(f.path + ".0")
	if err != nil {
		t.Fatal(err)
	}
	return b, f
}

// TestWritten: what a handler wrote reads as the tables themselves do.
func TestWritten(t *testing.T) {
	t.Parallel()
	program := hosted(t, "-fsanitize=address,undefined", "-fno-sanitize=object-size")
	for _, sample := range []uint64{0, 4096} {
		b, f := writtenTables(t, program, sample)
		if sample == 0 {
			t.Run("damaged", func(t *testing.T) { testDamaged(t, b) })
		}
		w, err := OpenWritten(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if w.File.Signal != 12 || w.File.Time == 0 || w.File.Pid == 0 || w.Outlet.FileName() != f.path+".0" ||
			w.Outlet.ResidentPages() == 0 || w.Outlet.CommandLine() == "" {
			t.Errorf("%+v, %q, %q", w.File, w.Outlet.FileName(), w.Outlet.CommandLine())
		}
		c, live := Capture{Running: true}, Capture{}
		if err := errors.Join(c.Copy(w, 0, w.Size()), c.CopyNames(w, 0, w.Size())); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(live.Copy(f.memory, tablesAt, 1<<30), live.CopyNames(f.memory, tablesAt, 1<<30)); err != nil {
			t.Fatal(err)
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
		if diff := cmp.Diff(f.blocks, blocks); diff != "" || len(blocks) == 0 {
			t.Errorf("%d blocks: %s", len(blocks), diff)
		}
		if diff := cmp.Diff(live.Threads(), c.Threads()); diff != "" || len(c.Threads()) == 0 {
			t.Errorf("threads: %s", diff)
		}
		if diff := cmp.Diff(live.Stats(), c.Stats()); diff != "" {
			t.Errorf("stats: %s", diff)
		}
		mappings, err := Mappings(w, 0, &c.Header)
		if err != nil || len(mappings) != int(c.Header.Mappings.Next) {
			t.Errorf("%d mappings, %v", len(mappings), err)
		}
	}
}

// testDamaged: whatever becomes of a file is an error, never a panic and never a wrong snapshot in silence.
func testDamaged(t *testing.T, good []byte) {
	read := func(b []byte) error {
		w, err := OpenWritten(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return err
		}
		c := Capture{Running: true}
		if err := errors.Join(c.Copy(w, 0, w.Size()), c.CopyNames(w, 0, w.Size())); err != nil {
			return err
		}
		for _, err := range c.Blocks() {
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := read(good); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(good); n += 1 + len(good)/200 {
		if err := read(good[:n]); err == nil {
			t.Fatalf("%d of %d bytes were read", n, len(good))
		}
	}
	head := FileHead{}
	partly := slices.Clone(good)
	binary.LittleEndian.PutUint32(partly[unsafe.Offsetof(head.Complete):], 0)
	if err := read(partly); !errors.Is(err, ErrNotWhole) {
		t.Errorf("a file that says it is not whole: %v", err)
	}
	other := slices.Clone(good)
	other[unsafe.Offsetof(head.Fingerprint)]++
	var version *OtherVersionError
	if err := read(other); !errors.As(err, &version) {
		t.Errorf("another version's file: %v", err)
	}
	if err := read(append(slices.Clone(good), 1, 2, 3)); err == nil {
		t.Error("a file that is too long was read")
	}
}

func FuzzWritten(f *testing.F) {
	h := Tables{Magic: Magic, Fingerprint: Fingerprint()}
	h.Size = h.Plan(64<<20, 1<<30, 4)
	head := FileHead{Magic: FileMagic, Fingerprint: Fingerprint(), Size: h.Size, Complete: 1}
	b := slices.Clone(bytesOf(&head))
	section := func(offset uint64, data []byte) {
		b = append(append(b, bytesOf(&Section{offset, uint64(len(data))})...), data...)
	}
	section(h.Bases.Offset, make([]byte, 16))
	section(h.Leaves.Offset, make([]byte, 2*leafSize))
	section(h.Outlet.Offset, make([]byte, outletSize))
	section(0, bytesOf(&h))
	f.Add(b, uint32(0), uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, at uint32, value uint64) {
		if len(b) >= 8 {
			binary.LittleEndian.PutUint64(b[int(at)%(len(b)-7):], value)
		}
		w, err := OpenWritten(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		c := Capture{Running: true}
		if c.Copy(w, 0, w.Size()) != nil || c.CopyNames(w, 0, w.Size()) != nil {
			return
		}
		for range c.Blocks() {
		}
	})
}
