package main

import (
	"context"
	"fmt"
)

// A weight compares the agent's tables with the tracked memory that is alive after a workload that keeps what it makes.
type weight struct {
	Workload    string  `json:"workload"`
	LiveBytes   uint64  `json:"live_bytes"`
	LiveBlocks  uint64  `json:"live_blocks"`
	TablesBytes uint64  `json:"tables_bytes"`
	Ratio       float64 `json:"ratio"`
	Error       string  `json:"error,omitempty"`
}

// A growth compares the agent's tables after a run of a workload that keeps nothing and after one that is ten times as
// long, in the same process.
type growth struct {
	Workload string    `json:"workload"`
	Once     uint64    `json:"tables_bytes_once"`
	TenTimes uint64    `json:"tables_bytes_ten_times"`
	Stacks   [2]uint64 `json:"stacks"`
	Codes    [2]uint64 `json:"code_objects"`
	Ratio    float64   `json:"ratio"`
	Error    string    `json:"error,omitempty"`
}

// Goals for the tables: their bytes for each tracked byte of typical objects; and how much they may grow before they
// count as not flat (such tables are small: each page is a hundredth of them or more).
const (
	weightGoal = 0.6
	growthGoal = 1.10
)

// A tablesReport is what the agent's tables cost in memory.
type tablesReport struct {
	Weights []weight `json:"weights"`
	Growths []growth `json:"growths"`
}

func (b *bench) measureTables(ctx context.Context, in interpreter) (*tablesReport, error) {
	var r tablesReport
	for _, w := range workloads() {
		if !w.retained {
			continue
		}
		b.progress("%s: tables of %s", in, w.name)
		result := weight{Workload: w.name}
		if err := b.weigh(ctx, in, w, &result); err != nil {
			result.Error = err.Error()
		}
		r.Weights = append(r.Weights, result)
	}
	for _, w := range growing() {
		b.progress("%s: tables of %s, once and ten times", in, w.name)
		result := growth{Workload: w.name}
		if err := b.grow(ctx, in, w, &result); err != nil {
			result.Error = err.Error()
		}
		r.Growths = append(r.Growths, result)
	}
	return &r, ctx.Err()
}

// tracked starts a target, prepares the workload and attaches.
func (b *bench) tracked(ctx context.Context, in interpreter, w workload) (*target, error) {
	t, err := start(ctx, in)
	if err != nil {
		return nil, err
	}
	if err = t.do(b.prepare(w, 1), nil); err == nil {
		_, err = b.tap.attach(ctx, t.pid)
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (b *bench) weigh(ctx context.Context, in interpreter, w workload, result *weight) error {
	t, err := b.tracked(ctx, in, w)
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.do("run", nil); err != nil {
		return err
	}
	s, err := b.tap.status(ctx, t.pid)
	if err != nil {
		return err
	}
	if s.Total.LiveBytes == 0 {
		return fmt.Errorf("no live bytes tracked after %s", w.name)
	}
	result.LiveBytes, result.LiveBlocks, result.TablesBytes = s.Total.LiveBytes, s.Total.LiveBlocks, s.AgentTablesBytes
	result.Ratio = float64(s.AgentTablesBytes) / float64(s.Total.LiveBytes)
	return t.exit()
}

func (b *bench) grow(ctx context.Context, in interpreter, w workload, result *growth) error {
	t, err := b.tracked(ctx, in, w)
	if err != nil {
		return err
	}
	defer t.close()
	var seen [2]status
	for i, command := range []string{b.prepare(w, 1), b.prepare(w, 10)} {
		if err := t.do(command, nil); err != nil {
			return err
		}
		if err := t.do("run", nil); err != nil {
			return err
		}
		if seen[i], err = b.tap.status(ctx, t.pid); err != nil {
			return err
		}
		result.Stacks[i], result.Codes[i] = seen[i].Stacks, seen[i].CodeObjects
	}
	result.Once, result.TenTimes = seen[0].AgentTablesBytes, seen[1].AgentTablesBytes
	if result.Once == 0 {
		return fmt.Errorf("no tables after %s", w.name)
	}
	result.Ratio = float64(result.TenTimes) / float64(result.Once)
	return t.exit()
}
