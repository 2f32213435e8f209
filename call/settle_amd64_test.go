package call

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/ptrace"
)

// TestSettle: Settle leaves a process alone in which no thread was ever borrowed, waits for one that was left in the
// middle of a function, and leaves what that had mapped for the next borrowing to give back.
func TestSettle(t *testing.T) {
	ctx := deadline(t)
	tg := start(t, compile(t, "functions"))
	tg.do("check")
	untouched := tg.image()
	for range 3 {
		if err := Settle(ctx, tg.proc, Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if now := tg.image(); now != untouched {
		t.Error("Settle wrote to a process in which no thread was ever borrowed")
	}

	pl := tg.plan(Options{Tid: tg.second()})
	before := tg.settled()
	var flag mem.Addr
	_, err := pl.Borrow(ctx, func(s *Session) error {
		var err error
		if flag, err = s.Map(pageSize, unix.PROT_READ|unix.PROT_WRITE); err != nil {
			return err
		}
		if err := s.needStack(); err != nil {
			return err
		}
		if _, err := s.enter(tg.function("go_until"), &Args{Int: [maxArgs]uint64{uint64(flag)}}); err != nil {
			return err
		}
		return s.die()
	})
	if !errors.Is(err, errDie) {
		t.Fatal(err)
	}

	// The function is not done: nothing is settled, and the record stays.
	err = Settle(ctx, tg.proc, Options{Timeout: 100 * time.Millisecond})
	if !errors.Is(err, ptrace.ErrDeadline) {
		t.Errorf("settled while a thread is in a function: %v", err)
	}
	r := tg.record(pl)
	if int(r.Tid) != tg.second() || r.Arena == (region{}) {
		t.Errorf("%+v", r)
	}

	if err := mem.PutU64(pl.memory, flag, 1); err != nil {
		t.Fatal(err)
	}
	if err := Settle(ctx, tg.proc, Options{}); err != nil {
		t.Error(err)
	}
	if r := tg.record(pl); r.Tid != 0 || r.Arena == (region{}) {
		t.Errorf("settled: %+v", r)
	}
	if answer := tg.do("check"); answer == "" {
		t.Error("no answer")
	}
	if _, err := tg.plan(Options{}).Borrow(ctx, func(*Session) error { return nil }); err != nil {
		t.Error(err)
	}
	if r := tg.record(pl); r != (record{}) {
		t.Errorf("after the next borrowing: %+v", r)
	}
	tg.sound(before)
	tg.finish()
}

// image is the bytes of the program's own code segments and their tails, where a cave would be.
func (tg *target) image() string {
	tg.t.Helper()
	maps, err := tg.proc.Maps()
	if err != nil {
		tg.t.Fatal(err)
	}
	m, err := tg.proc.Mem()
	if err != nil {
		tg.t.Fatal(err)
	}
	var all []byte
	for _, mp := range maps {
		if !mp.Exec || mp.Inode == 0 {
			continue
		}
		b, err := mem.Bytes(m, mp.Start, int(mp.Size()))
		if err != nil {
			tg.t.Fatal(err)
		}
		all = append(all, b...)
	}
	return string(all)
}

func (tg *target) record(pl *Plan) record {
	tg.t.Helper()
	b, err := mem.Bytes(pl.memory, pl.cave.record(), recordSize)
	if err != nil {
		tg.t.Fatal(err)
	}
	return decodeRecord(b)
}
