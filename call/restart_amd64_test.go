package call

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// blockingAnswer is what one thread of testdata/blocking.c says of itself.
type blockingAnswer struct {
	name                           string
	rounds, eintr, wrong, tooShort int
	longestMs                      int
}

func (tg *target) blockingAnswers() []blockingAnswer {
	tg.t.Helper()
	if _, err := io.WriteString(tg.in, "check\n"); err != nil {
		tg.t.Fatal(err)
	}
	var out []blockingAnswer
	for {
		line := tg.line()
		if line == "end" {
			return out
		}
		name, rest, ok := strings.Cut(line, " rounds ")
		a := blockingAnswer{name: name}
		_, err := fmt.Sscanf(rest, "%d eintr %d wrong %d short %d longest %d",
			&a.rounds, &a.eintr, &a.wrong, &a.tooShort, &a.longestMs)
		if !ok || err != nil {
			tg.t.Fatalf("answer %q: %v", line, err)
		}
		out = append(out, a)
	}
}

// TestBlockingCalls borrows threads that are in blocking system calls: none may answer EINTR, lose or double data, or
// sleep too short; and the sleeps with a remaining time in the kernel may not start anew.
func TestBlockingCalls(t *testing.T) {
	ctx := deadline(t)
	rnd := newRand(t)
	code := payload(t)
	tg := start(t, compile(t, "blocking", "-lrt"))
	a := tg.install(tg.plan(Options{}), code)
	tids, err := tg.proc.Threads()
	if err != nil {
		t.Fatal(err)
	}
	tg.table(tg.plan(Options{}), a)
	cycles := 0
	for end := time.Now().Add(time.Duration(5*soak(t)) * time.Second); time.Now().Before(end); cycles++ {
		pl := tg.plan(Options{Tid: tids[rnd.IntN(len(tids))]})
		var err error
		switch cycles % 50 {
		default:
			cycle := a.cycle
			if cycles%2 == 0 {
				cycle = a.callCycle
			}
			_, err = pl.Borrow(ctx, func(s *Session) error { return cycle(s, uint64(cycles)) })
		case 10:
			_, err = pl.Freeze(ctx, func() error { return nil })
		case 20:
			_, err = pl.Borrow(ctx, func(*Session) error { return nil })
		case 30:
			_, err = pl.BorrowAll(ctx, func(s *Session, _ []StoppedThread) error { return a.cycle(s, 0) })
		}
		if err != nil {
			t.Fatalf("cycle %d: %v", cycles, err)
		}
	}
	t.Logf("%d cycles over %d threads", cycles, len(tids))
	const patience = 3000 // ms; a sleep that started anew at each stop would take longer, a busy machine does not
	for _, b := range tg.blockingAnswers() {
		if b.rounds == 0 || b.eintr != 0 || b.wrong != 0 || b.tooShort != 0 || b.longestMs > patience {
			t.Errorf("%+v", b)
		}
	}
	tg.finish()
}
