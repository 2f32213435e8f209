package cpython

import (
	"encoding/hex"
	"testing"
)

// Line gives what the interpreter's own co_lines() or dis gives, for every instruction of thousands of code objects of
// the standard library.
func TestLineEqualsInterpreter(t *testing.T) {
	eachPython(t, func(t *testing.T, p program) {
		tg := startPython(t, p)
		in := tg.find()
		var codes []struct {
			Name   string
			First  int
			Table  string
			Length int
			Lines  [][3]*int
		}
		tg.eval("export(3000)", &codes)
		offsets := 0
		for _, c := range codes {
			table, err := hex.DecodeString(c.Table)
			if err != nil {
				t.Fatal(err)
			}
			for _, rng := range c.Lines {
				for off := *rng[0]; off < min(*rng[1], c.Length); off += 2 {
					offsets++
					line, ok := Line(in.Layout.Lines, c.First, table, off)
					want := rng[2]
					if ok != (want != nil) || ok && line != *want {
						t.Fatalf("%s, offset %d: line %d, %v; want %v", c.Name, off, line, ok, rng)
					}
				}
			}
		}
		if len(codes) < 1000 || offsets < 10000 {
			t.Errorf("only %d code objects, %d offsets", len(codes), offsets)
		}
		t.Logf("%d code objects, %d offsets", len(codes), offsets)
	})
}

func TestLine(t *testing.T) {
	for _, c := range []struct {
		name   string
		format LineFormat
		table  []byte
		offset int
		line   int
		ok     bool
	}{
		{"before the first instruction", LinesSigned, []byte{6, 1}, -1, 10, true},
		{"before, ranges", LinesRanges, []byte{6, 1}, -2, 10, true},
		{"before, locations", LinesLocation, nil, -2, 10, true},
		{"no table", LinesSigned, nil, 4, 10, true},
		{"empty ranges", LinesRanges, nil, 0, 0, false},
		{"backwards", LinesSigned, []byte{6, 1, 4, 0xfd}, 10, 8, true},
		{"long line delta", LinesSigned, []byte{6, 127, 0, 20, 2, 1}, 7, 157, true},
		{"odd tail", LinesSigned, []byte{6, 1, 2}, 8, 11, true},
		{"range without line", LinesRanges, []byte{4, 1, 4, 128, 4, 1}, 6, 11, false},
		{"range after one without line", LinesRanges, []byte{4, 1, 4, 128, 4, 1}, 8, 12, true},
		{"behind the ranges", LinesRanges, []byte{4, 1}, 4, 0, false},
		{"location none", LinesLocation, []byte{0x80 | 15<<3 | 1}, 2, 10, false},
		{"location delta -3", LinesLocation, []byte{0x80 | 13<<3, 7}, 0, 7, true},
		{"location long, two bytes", LinesLocation, []byte{0x80 | 14<<3, 0x40, 2, 1, 1, 1, 0x80 | 10<<3, 0, 0}, 2, 74, true},
		{"location without marker", LinesLocation, []byte{0x10}, 0, 0, false},
		{"unknown format", 0, []byte{1, 1}, 0, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			line, ok := Line(c.format, 10, c.table, c.offset)
			if ok != c.ok || ok && line != c.line {
				t.Errorf("line %d, %v; want %d, %v", line, ok, c.line, c.ok)
			}
		})
	}
}

func FuzzLine(f *testing.F) {
	f.Add(uint8(LinesSigned), 1, []byte{6, 1, 0, 255, 4, 128}, 5)
	f.Add(uint8(LinesRanges), 1, []byte{6, 1, 4, 128, 8, 2}, 9)
	f.Add(uint8(LinesLocation), 1, []byte{0xf0, 0x03, 0x01, 0x02, 0x80, 0x00, 0xd8, 0x04, 0x05}, 4)
	f.Fuzz(func(t *testing.T, format uint8, first int, table []byte, offset int) {
		line, ok := Line(LineFormat(format), first, table, offset)
		if ok && offset < 0 && line != first {
			t.Errorf("offset %d gives line %d, not the first %d", offset, line, first)
		}
	})
}
