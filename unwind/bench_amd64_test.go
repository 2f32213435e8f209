package unwind_test

import (
	"runtime"
	"testing"

	"github.com/heaptap/heaptap/unwind"
)

// BenchmarkStack walks a stack of about fifty frames in a stopped process, with the CFI already read.
func BenchmarkStack(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := step(b, build(b, "gcc", "recursion.c", "-O1"))
	var frames []unwind.Frame
	for len(s.want()) < 50 {
		if !s.next() {
			b.Fatal("the program ended")
		}
	}
	frames, _, err := s.got()
	if err != nil || len(frames) != len(s.want()) {
		b.Fatalf("%d frames, %v", len(frames), err)
	}
	regs := fromPtrace(&s.regs)
	b.Run("walk", func(b *testing.B) {
		for b.Loop() {
			s.unw.Stack(regs, 1000)
		}
	})
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			unwind.New(s.mods, s.memory, unwind.Options{}).Stack(regs, 1000)
		}
	})
	b.Run("step", func(b *testing.B) {
		for b.Loop() {
			regs := regs
			for {
				if _, err := s.unw.Step(&regs); err != nil {
					break
				}
			}
		}
	})
	b.Run("compile", func(b *testing.B) {
		for b.Loop() {
			table, err := unwind.Compile(s.mods, s.memory, unwind.Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(8*len(table.Rows)), "bytes")
		}
	})
}
