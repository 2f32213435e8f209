package cpython

import (
	"encoding/binary"
	"testing"
	"unicode/utf8"

	"github.com/heaptap/heaptap/mem"
)

// arena is where the fuzzers' one segment of memory lies.
const arena = mem.Addr(0x10000)

// fuzzed is an interpreter of some release, in memory that holds anything.
func fuzzed(minor uint8, data []byte) (*Interpreter, mem.Reader) {
	v := release(3, 6+minor%10, 30)
	l, _ := layoutFor(v)
	in := &Interpreter{Identity: Identity{Version: v}, Layout: l, CodeType: arena,
		roots: roots{interpreters: arena, initialized: arena + 8, finalizing: arena + 16}}
	return in, &mem.Fake{Segments: []mem.Segment{{Addr: arena, Data: data}}}
}

// words makes a piece of memory of 64-bit words. Pointers into the arena give the fuzzer something to follow.
func words(w ...uint64) []byte {
	b := make([]byte, 0, 8*len(w))
	for _, v := range w {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func FuzzStates(f *testing.F) {
	f.Add(uint8(0), words(uint64(arena)+8, 0, uint64(arena)+8, 0, uint64(arena)+8, 0, 0))
	f.Add(uint8(3), words(uint64(arena), uint64(arena)))
	f.Fuzz(func(t *testing.T, minor uint8, data []byte) {
		in, r := fuzzed(minor, data)
		states, err := in.states(r)
		if err != nil {
			return
		}
		for _, s := range states {
			for _, ts := range s.Threads {
				if ts.Interpreter != s.Addr {
					t.Errorf("thread %v of %v listed under %v", ts.Addr, ts.Interpreter, s.Addr)
				}
				_, _ = in.chain(r, ts)
			}
		}
	})
}

func FuzzWalk(f *testing.F) {
	f.Add(uint8(0), words(0, 0, 0, uint64(arena)+32, 0, 0, 0, uint64(arena)+32, uint64(arena)+32))
	f.Add(uint8(7), words(0, 0, 0, 0, 0, 0, 0, 0, 0, uint64(arena)+80, uint64(arena), uint64(arena)+80))
	f.Fuzz(func(t *testing.T, minor uint8, data []byte) {
		in, r := fuzzed(minor, data)
		chain, err := in.chain(r, ThreadState{Addr: arena})
		if err != nil {
			return
		}
		if len(chain) > len(data) {
			t.Errorf("%d frames in %d bytes", len(chain), len(data))
		}
		_, _ = in.frames(r, chain)
	})
}

func FuzzCode(f *testing.F) {
	self := uint64(arena)
	for _, state := range []uint64{0x64, 0x44, 0x28, 0x10} { // ASCII, compact, two bytes, not compact
		w := make([]uint64, 30)
		for i := range w {
			w[i] = self
		}
		w[2], w[4] = 2, state // the length, and the state
		f.Add(uint8(3), words(w...))
		f.Add(uint8(9), words(w...))
	}
	f.Fuzz(func(t *testing.T, minor uint8, data []byte) {
		in, r := fuzzed(minor, data)
		code, err := in.Code(r, arena)
		if err == nil && (!utf8.ValidString(code.Name) || !utf8.ValidString(code.File)) {
			t.Errorf("not UTF-8: %q %q", code.Name, code.File)
		}
	})
}

func FuzzOverlay(f *testing.F) {
	for minor := range uint8(3) {
		rows, _ := pick(debugOffsetRows, release(3, 13+minor, 0))
		w := make([]uint64, rows.words)
		w[0], w[debugVersion] = binary.LittleEndian.Uint64([]byte(debugCookie)), 0x030d1ef0+uint64(minor)<<16
		for _, field := range rows.fields {
			w[field.word], w[field.size] = 16, 4096
		}
		f.Add(minor, words(w...))
	}
	f.Fuzz(func(t *testing.T, minor uint8, data []byte) {
		v := release(3, 13+minor%3, 30)
		l, ok := layoutFor(v)
		if !ok {
			t.Fatal("no layout")
		}
		r := &mem.Fake{Segments: []mem.Segment{{Addr: arena, Data: data}}}
		if _, err := overlay(&l, r, arena, v); err != nil {
			return
		}
		if l.Thread.Frame.Bytes%8 != 0 || l.Code.FirstLine.Bytes%4 != 0 {
			t.Errorf("accepted unaligned %v, %v", l.Thread.Frame, l.Code.FirstLine)
		}
		for _, o := range []Offset{l.Thread.Frame, l.Code.Name, l.Interpreter.Threads, l.Unicode.State} {
			if !o.Known || o.Bytes > maxStructure {
				t.Errorf("accepted offset %v", o)
			}
		}
	})
}

func FuzzDecodeUnicode(f *testing.F) {
	f.Add(1, []byte("caf\xe9"))
	f.Add(2, []byte{0x2d, 0x4e, 0x80, 0xdc})
	f.Add(4, []byte{0x0d, 0xf4, 0x01, 0x00, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, kind int, raw []byte) {
		s, err := DecodeUnicode(kind, raw)
		if err == nil && !utf8.ValidString(s) {
			t.Errorf("%q is not UTF-8", s)
		}
	})
}

func FuzzVersionText(f *testing.F) {
	f.Add([]byte("\x003.9.2 (default)"))
	f.Fuzz(func(_ *testing.T, b []byte) { findVersionText(b) })
}

// Code of a target is decoded too; there is no code that may make us fail.
func FuzzFunction(f *testing.F) {
	f.Add([]byte{0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x8b, 0x05, 0x10, 0, 0, 0, 0xc3})
	f.Add([]byte{0xeb, 0xfe})
	f.Fuzz(func(_ *testing.T, code []byte) {
		r := &mem.Fake{Segments: []mem.Segment{{Addr: arena, Data: code}}}
		_, _ = dataRefs(r, arena)
		_, _, _ = sizeShift(r, arena)
	})
}
