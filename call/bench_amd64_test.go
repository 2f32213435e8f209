package call

import (
	"testing"

	"github.com/heaptap/heaptap/mem"
)

// BenchmarkCall is a call of getpid on a thread that is held: its reciprocal is the calls a second.
func BenchmarkCall(b *testing.B) {
	tg := start(b, compile(b, "functions"))
	fn := tg.function("getpid")
	_, err := tg.plan(Options{Tid: tg.second()}).Borrow(deadline(b), func(s *Session) error {
		if _, err := s.Call(fn, Args{}); err != nil { // maps the stack
			return err
		}
		for b.Loop() {
			if _, err := s.Call(fn, Args{}); err != nil {
				return err
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkBorrowAndCall borrows a thread for one call of getpid: a waiting one, and one that computes. It reports how long
// that is held.
func BenchmarkBorrowAndCall(b *testing.B) {
	for _, which := range []string{"waiting", "computing"} {
		b.Run(which, func(b *testing.B) {
			tg := start(b, compile(b, "functions"))
			fn := tg.function("getpid")
			tid := tg.proc.Pid
			if which == "computing" {
				tid = tg.second()
			}
			pl := tg.plan(Options{Tid: tid})
			held := 0.0
			for b.Loop() {
				r, err := pl.Borrow(deadline(b), oneGetpid(fn))
				if err != nil {
					b.Fatal(err)
				}
				held += r.Pause.Seconds()
			}
			b.ReportMetric(held/float64(b.N)*1e6, "held-us/op")
		})
	}
}

func oneGetpid(fn mem.Addr) func(*Session) error {
	return func(s *Session) error {
		_, err := s.Call(fn, Args{})
		return err
	}
}
