package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// A spread is a distribution of durations, in seconds.
type spread struct {
	Count  int     `json:"count"`
	Median float64 `json:"median"`
	P99    float64 `json:"p99"`
	Worst  float64 `json:"worst"`
}

func spreadOf(seconds []float64) spread {
	return spread{len(seconds), median(seconds), quantile(seconds, 0.99), quantile(seconds, 1)}
}

// An attachPause is how long attaching and detaching hold a process of so many threads up, of which one is busy.
type attachPause struct {
	Threads int    `json:"threads"`
	Attach  spread `json:"attach"` // as heaptap tells it: how long the borrowed thread was held
	Detach  spread `json:"detach"`
	// What the busy thread itself saw, by its own clock: the longest gap in its work during each attach, and during as
	// long a time without one. The second is what the scheduler does by itself.
	Seen  spread `json:"seen_by_target"`
	Quiet spread `json:"seen_without_attach"`
	Error string `json:"error,omitempty"`
}

// Goals for the pauses, in seconds.
const (
	attachGoal    = 0.5e-3
	dumpPauseGoal = 15e-3
	dumpTableGoal = 2.0
)

func (b *bench) measurePauses(ctx context.Context, in interpreter) ([]attachPause, error) {
	var all []attachPause
	for _, threads := range []int{1, 256} {
		b.progress("%s: pause of attach and detach with %d threads", in, threads)
		result := attachPause{Threads: threads}
		if err := b.pauses(ctx, in, threads, &result); err != nil {
			result.Error = err.Error()
		}
		all = append(all, result)
	}
	return all, ctx.Err()
}

func (b *bench) pauses(ctx context.Context, in interpreter, threads int, result *attachPause) error {
	t, err := start(ctx, in)
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.do(fmt.Sprintf("threads %d", threads-1), nil); err != nil {
		return err
	}
	cycles := 100
	if b.quick {
		cycles = 3
	}
	var attach, detach, seen, quiet []float64
	for range cycles {
		var a attachment
		began := time.Now()
		gap, err := t.whileBusy(func() (err error) { a, err = b.tap.attach(ctx, t.pid); return err })
		took := time.Since(began)
		if err != nil {
			return err
		}
		attach, seen = append(attach, seconds(a.PauseNS)), append(seen, gap)
		d, err := b.tap.detach(ctx, t.pid)
		if err != nil {
			return err
		}
		detach = append(detach, seconds(d.PauseNS))
		gap, err = t.whileBusy(func() error { return wait(ctx, took) })
		if err != nil {
			return err
		}
		quiet = append(quiet, gap)
	}
	result.Attach, result.Detach = spreadOf(attach), spreadOf(detach)
	result.Seen, result.Quiet = spreadOf(seen), spreadOf(quiet)
	return t.exit()
}

// whileBusy runs do while the target's main thread is busy, and returns the longest that the thread was held up, in
// seconds.
func (t *target) whileBusy(do func() error) (float64, error) {
	if err := t.do("spin", nil); err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	var answer struct{ Gap float64 }
	err := t.do("longest", &answer)
	return answer.Gap, err
}

// wait lets as much time pass as an attach took; a time is what is measured here, nothing is waited for.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// A dumpCost is what a snapshot of a million live blocks costs. Times in seconds.
type dumpCost struct {
	Program string `json:"program"`
	Blocks  int64  `json:"blocks"`
	Stacks  uint64 `json:"stacks"` // trie nodes
	Pause   spread `json:"pause"`
	Dump    spread `json:"dump"`  // the whole command
	Table   spread `json:"table"` // the whole command
	Both    spread `json:"dump_and_table"`
	File    int64  `json:"file_bytes"`
	Error   string `json:"error,omitempty"`
}

func (b *bench) measureDumps(ctx context.Context, in interpreter) ([]dumpCost, error) {
	var all []dumpCost
	for _, w := range []workload{
		{name: "onestack", size: 1_000_000, small: 1_000},
		{name: "manystacks", size: 1_000_000, small: 1},
	} {
		b.progress("%s: dumps of %s", in, w.name)
		result := dumpCost{Program: w.name}
		if err := b.dumps(ctx, in, w, &result); err != nil {
			result.Error = err.Error()
		}
		all = append(all, result)
	}
	return all, ctx.Err()
}

func (b *bench) dumps(ctx context.Context, in interpreter, w workload, result *dumpCost) error {
	t, err := b.tracked(ctx, in, w)
	if err != nil {
		return err
	}
	defer t.close()
	var kept struct {
		Check int64 `json:",string"` // how many blocks the program keeps
	}
	if err := t.do("run", &kept); err != nil {
		return err
	}
	s, err := b.tap.status(ctx, t.pid)
	if err != nil {
		return err
	}
	result.Stacks = s.Stacks
	dir, err := os.MkdirTemp("", "heaptap-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "dump.pb.gz")
	times := 9
	if b.quick {
		times = 2
	}
	var pause, dump, table, both []float64
	for range times {
		snap, dumping, err := b.tap.dump(ctx, t.pid, file)
		if err != nil {
			return err
		}
		printing, err := b.tap.table(ctx, file)
		if err != nil {
			return err
		}
		if snap.LiveBlocks < kept.Check {
			return fmt.Errorf("snapshot has %d live blocks, but %s keeps %d", snap.LiveBlocks, w.name, kept.Check)
		}
		result.Blocks, result.File = snap.LiveBlocks, snap.FileBytes
		pause = append(pause, seconds(snap.PauseNS))
		dump, table = append(dump, dumping.Seconds()), append(table, printing.Seconds())
		both = append(both, (dumping + printing).Seconds())
	}
	result.Pause, result.Dump, result.Table, result.Both = spreadOf(pause), spreadOf(dump), spreadOf(table), spreadOf(both)
	return t.exit()
}

func seconds(ns int64) float64 { return time.Duration(ns).Seconds() }
