package call

import (
	"context"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPause measures how long a thread is held. It only reports, since the machine's load decides; HEAPTAP_PAUSE_RUNS
// sets how often it measures.
func TestPause(t *testing.T) {
	ctx := deadline(t)
	runs := 50
	if s := os.Getenv("HEAPTAP_PAUSE_RUNS"); s != "" {
		var err error
		if runs, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	bin := compile(t, "threads")
	for _, c := range []struct {
		name string
		args []string
		tid  func(tg *target) int
		do   func(pl *Plan) (Report, error)
	}{
		{"blocked thread, 1 call", []string{"1"}, nil, oneCall(ctx)},
		{"running thread, 1 call", []string{"2", "compute"}, (*target).second, oneCall(ctx)},
		{"blocked of 256, 1 call", []string{"256"}, nil, oneCall(ctx)},
		{"freeze 1", []string{"1"}, nil, freeze(ctx)},
		{"freeze 256", []string{"256"}, nil, freeze(ctx)},
	} {
		t.Run(c.name, func(t *testing.T) {
			tg := start(t, bin, c.args...)
			opts := Options{}
			if c.tid != nil {
				opts.Tid = c.tid(tg)
			}
			pl := tg.plan(opts)
			var pauses []time.Duration
			for range runs {
				r, err := c.do(pl)
				if err != nil {
					t.Fatal(err)
				}
				pauses = append(pauses, r.Pause)
			}
			slices.Sort(pauses)
			t.Logf("pause p50 %v, p99 %v, longest %v (%d runs)", pauses[runs/2], pauses[runs*99/100], pauses[runs-1], runs)
			tg.do("ping")
			tg.finish()
		})
	}
}

// second is the target's second thread.
func (tg *target) second() int {
	tids, err := tg.proc.Threads()
	if err != nil || len(tids) < 2 {
		tg.t.Fatalf("threads %v, %v", tids, err)
	}
	return tids[1]
}

func oneCall(ctx context.Context) func(*Plan) (Report, error) {
	return func(pl *Plan) (Report, error) {
		return pl.Borrow(ctx, func(s *Session) error {
			_, err := s.Syscall(unix.SYS_GETPPID)
			return err
		})
	}
}

func freeze(ctx context.Context) func(*Plan) (Report, error) {
	return func(pl *Plan) (Report, error) { return pl.Freeze(ctx, func() error { return nil }) }
}
