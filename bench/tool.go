package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// A tool is the heaptap program, used as a user would: one process for each command. The types that follow are those
// parts of its JSON that are needed here.
type tool struct{ path string }

type attachment struct {
	PauseNS int64 `json:"pause_ns"`
	TookNS  int64 `json:"took_ns"`
	Already bool  `json:"already"`
}

type detachment struct {
	PauseNS  int64  `json:"pause_ns"`
	Unmapped bool   `json:"unmapped"`
	Why      string `json:"why"`
}

type status struct {
	State       string `json:"state"`
	SampleBytes uint64 `json:"sample_bytes"`
	Total       struct {
		LiveBlocks  uint64 `json:"live_blocks"`
		LiveBytes   uint64 `json:"live_bytes"`
		AllocBlocks uint64 `json:"alloc_blocks"`
	} `json:"total"`
	Stacks           uint64 `json:"stacks"`
	CodeObjects      uint64 `json:"code_objects"`
	AgentTablesBytes uint64 `json:"agent_tables_bytes"`
	Lost             uint64 `json:"lost"`
}

type snapshot struct {
	FileBytes  int64 `json:"file_bytes"`
	LiveBlocks int64 `json:"live_blocks"`
	PauseNS    int64 `json:"pause_ns"`
	TookNS     int64 `json:"took_ns"`
}

// build makes the heaptap program of this checkout.
func build(ctx context.Context, path string) (*tool, error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/heaptap/heaptap/cmd/heaptap")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("build heaptap: %w\n%s", err, bytes.TrimSpace(out))
	}
	return &tool{path: path}, nil
}

// run runs one command and returns its standard output and how long it took, from the start of the process to its end.
func (t *tool) run(ctx context.Context, args ...string) ([]byte, time.Duration, error) {
	var out, talk bytes.Buffer
	cmd := exec.CommandContext(ctx, t.path, args...)
	cmd.Stdout, cmd.Stderr = &out, &talk
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if err != nil {
		return nil, took, fmt.Errorf("heaptap %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(talk.String()))
	}
	return out.Bytes(), took, nil
}

// ask runs a command with --json and decodes its answer into v.
func (t *tool) ask(ctx context.Context, v any, args ...string) (time.Duration, error) {
	out, took, err := t.run(ctx, append(args, "--json")...)
	if err != nil {
		return took, err
	}
	if err := json.Unmarshal(out, v); err != nil {
		return took, fmt.Errorf("heaptap %s: decode answer: %w", strings.Join(args, " "), err)
	}
	return took, nil
}

func (t *tool) attach(ctx context.Context, pid int, flags ...string) (attachment, error) {
	var a attachment
	_, err := t.ask(ctx, &a, append([]string{"attach", strconv.Itoa(pid)}, flags...)...)
	if err == nil && a.Already {
		err = fmt.Errorf("heaptap attach %d: was tracked before", pid)
	}
	return a, err
}

func (t *tool) detach(ctx context.Context, pid int) (detachment, error) {
	var d detachment
	_, err := t.ask(ctx, &d, "detach", strconv.Itoa(pid))
	if err == nil && !d.Unmapped {
		err = fmt.Errorf("heaptap detach %d: the agent stays: %s", pid, d.Why)
	}
	return d, err
}

// status reads what tracking has seen. That tracking is on, and has not lost anything, is part of every measurement: a
// mode that does not do its work costs nothing.
func (t *tool) status(ctx context.Context, pid int) (status, error) {
	var s status
	_, err := t.ask(ctx, &s, "status", strconv.Itoa(pid))
	switch {
	case err != nil:
	case s.State != "tracking":
		err = fmt.Errorf("heaptap status %d: %s, not tracking", pid, s.State)
	case s.Lost > 0:
		err = fmt.Errorf("heaptap status %d: %d allocations lost", pid, s.Lost)
	case s.SampleBytes == 0 && s.Total.AllocBlocks == 0:
		err = fmt.Errorf("heaptap status %d: no allocation seen", pid)
	}
	return s, err
}

// dump takes a snapshot into file. The duration is that of the whole command.
func (t *tool) dump(ctx context.Context, pid int, file string) (snapshot, time.Duration, error) {
	var s snapshot
	took, err := t.ask(ctx, &s, "dump", strconv.Itoa(pid), "-o", file)
	return s, took, err
}

// table prints a snapshot's table, and returns how long the whole command took.
func (t *tool) table(ctx context.Context, file string) (time.Duration, error) {
	out, took, err := t.run(ctx, "report", file)
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("heaptap report %s: printed nothing", file)
	}
	return took, err
}
