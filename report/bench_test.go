package report

import (
	"io"
	"testing"
)

// BenchmarkReports measures each report of a snapshot of 100,000 stacks.
func BenchmarkReports(b *testing.B) {
	s := large(100_000, 30)
	b.Logf("%d calls", len(s.Stacks))
	for name, report := range reports() {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := report(io.Discard, s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("flame.html", func(b *testing.B) {
		for b.Loop() {
			if err := Flame(io.Discard, s, FlameOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("page.html", func(b *testing.B) {
		for b.Loop() {
			if err := HTML(io.Discard, s, HTMLOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
