package report

import (
	"math"
	"testing"

	"github.com/heaptap/heaptap/heap"
)

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1<<20 - 60_000: "965.4 KiB",
		45 << 20: "45.0 MiB", 5 << 40: "5.0 TiB", math.MaxInt64: "8.0 EiB", -2048: "-2.0 KiB",
		math.MinInt64: "-8.0 EiB",
	} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) is %q, want %q", n, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567",
		math.MinInt64: "-9,223,372,036,854,775,808"} {
		if got := Count(n); got != want {
			t.Errorf("Count(%d) is %q, want %q", n, got, want)
		}
	}
}

func TestPercent(t *testing.T) {
	for part, want := range map[float64]string{0: "0.0 %", 0.0004: "<0.1 %", 0.0005: "0.1 %", 0.695: "69.5 %",
		1: "100.0 %"} {
		if got := Percent(part); got != want {
			t.Errorf("Percent(%v) is %q, want %q", part, got, want)
		}
	}
}

func TestFitPlace(t *testing.T) {
	f := heap.Frame{Func: "JSONDecoder.decode", File: "/usr/lib/python3.13/json/decoder.py", Line: 345}
	wide := heap.Frame{Func: "計算する", File: "/srv/日本語/プログラム.py", Line: 2}
	for _, c := range []struct {
		f     heap.Frame
		width int
		want  string
	}{
		{f, 0, "/usr/lib/python3.13/json/decoder.py:345 JSONDecoder.decode"},
		{f, 58, "/usr/lib/python3.13/json/decoder.py:345 JSONDecoder.decode"},
		{f, 57, "…/lib/python3.13/json/decoder.py:345 JSONDecoder.decode"},
		{f, 40, "…/json/decoder.py:345 JSONDecoder.decode"},
		{f, 36, "…/decoder.py:345 JSONDecoder.decode"},
		{f, 30, "decoder.py:345 JSONDecoder.de…"},
		{f, 12, "….py:345 JS…"},
		{wide, 26, "…/プログラム.py:2 計算する"},
		{wide, 20, "…グラム.py:2 計算す…"},
		{heap.Frame{Func: "f"}, 10, "f"},
		{heap.Frame{File: "a.py"}, 20, "a.py [unknown]"},
	} {
		got := FitPlace(c.f, c.width)
		if got != c.want {
			t.Errorf("in %d columns: %q, want %q", c.width, got, c.want)
		}
		if c.width > 0 && Cells(got) > c.width {
			t.Errorf("%q has %d columns, not %d", got, Cells(got), c.width)
		}
	}
}
