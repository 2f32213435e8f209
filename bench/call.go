package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A callCost is what calling one function in a running process costs, with heaptap and with gdb in turns. Times in
// seconds.
type callCost struct {
	Pause   spread  `json:"pause"`   // as heaptap tells it: how long the borrowed thread was held for a getpid()
	Command spread  `json:"command"` // heaptap call PID '(int)getpid()', from the start of the process to its end
	GDB     *spread `json:"gdb"`     // gdb -p PID -batch -ex 'call (int)getpid()'; nil: there is no gdb
	// As a package, on a thread that is held: package call's own benchmark.
	PerSecond float64 `json:"per_second"`
	Error     string  `json:"error,omitempty"`
}

// Goals for calls.
const (
	callPauseGoal   = 1e-3 // seconds
	callCommandGoal = 0.1  // of gdb's time
	callRateGoal    = 5000 // a second
)

const callExpression = "(int)getpid()"

func (b *bench) measureCalls(ctx context.Context, in interpreter) (*callCost, error) {
	b.progress("%s: calls of getpid()", in)
	c := &callCost{}
	if err := b.calls(ctx, in, c); err != nil {
		c.Error = err.Error()
	}
	return c, ctx.Err()
}

func (b *bench) calls(ctx context.Context, in interpreter, c *callCost) error {
	t, err := start(ctx, in)
	if err != nil {
		return err
	}
	defer t.close()
	gdb, err := exec.LookPath("gdb")
	if err != nil && !errors.Is(err, exec.ErrNotFound) {
		return err
	}
	cycles := 30
	if b.quick {
		cycles = 2
	}
	var pauses, ours, theirs []float64
	for range cycles {
		pause, took, err := b.tap.call(ctx, t.pid)
		if err != nil {
			return err
		}
		pauses, ours = append(pauses, pause), append(ours, took)
		if gdb == "" {
			continue
		}
		if took, err = gdbCall(ctx, gdb, t.pid); err != nil {
			return err
		}
		theirs = append(theirs, took)
	}
	c.Pause, c.Command = spreadOf(pauses), spreadOf(ours)
	if gdb != "" {
		s := spreadOf(theirs)
		c.GDB = &s
	}
	if c.PerSecond, err = b.callRate(ctx); err != nil {
		return err
	}
	return t.exit()
}

// call has a process call getpid, and returns how long that held it and how long the command took, seconds.
func (t *tool) call(ctx context.Context, pid int) (pause, took float64, err error) {
	var answer struct {
		PauseNS int64 `json:"pause_ns"`
		Results []struct {
			Text string `json:"text"`
		} `json:"results"`
	}
	d, err := t.ask(ctx, &answer, "call", strconv.Itoa(pid), callExpression)
	if err == nil && (len(answer.Results) != 1 || answer.Results[0].Text != strconv.Itoa(pid)) {
		err = fmt.Errorf("heaptap call %d %s: answered %+v", pid, callExpression, answer.Results)
	}
	return seconds(answer.PauseNS), d.Seconds(), err
}

// gdbCall is the same with gdb, without anybody's init files.
func gdbCall(ctx context.Context, gdb string, pid int) (float64, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, gdb, "-nx", "-p", strconv.Itoa(pid), "-batch", "-ex", "call "+callExpression)
	cmd.Stdout, cmd.Stderr = &out, io.Discard
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began).Seconds()
	if want := "= " + strconv.Itoa(pid); err == nil && !strings.Contains(out.String(), want) {
		err = fmt.Errorf("it does not print %q", want)
	}
	if err != nil {
		return took, fmt.Errorf("gdb: call %s in %d: %w: %s", callExpression, pid, err, strings.TrimSpace(out.String()))
	}
	return took, nil
}

// callRate runs package call's benchmark of calls on a held thread.
func (b *bench) callRate(ctx context.Context) (float64, error) {
	long := "2s"
	if b.quick {
		long = "20x"
	}
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkCall$", "-benchtime", long,
		"github.com/heaptap/heaptap/call").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("package call's benchmark: %w: %s", err, bytes.TrimSpace(out))
	}
	m := regexp.MustCompile(`([0-9.]+) calls/s`).FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("package call's benchmark: no rate in %q", out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

func (c *callCost) print(out io.Writer) {
	if c.Error != "" {
		return
	}
	rows := []string{"call of getpid(), ms\tn\tmedian\tp99\tlongest"}
	row := func(name string, s spread) {
		rows = append(rows, fmt.Sprintf("%s\t%d\t%.3f\t%.3f\t%.3f", name, s.Count, s.Median*1e3, s.P99*1e3, s.Worst*1e3))
	}
	row("thread held, heaptap", c.Pause)
	row("whole command, heaptap", c.Command)
	if c.GDB != nil {
		row("whole command, gdb", *c.GDB)
	}
	fmt.Fprintln(out)
	columns(out, rows)
	fmt.Fprintf(out, "\ncalls a second on a held thread: %.0f (goal: at least %d)\n", c.PerSecond, callRateGoal)
	goal(out, "pause of a call, median ms", c.Pause.Median*1e3, callPauseGoal*1e3, "%.3f", true)
	if c.GDB == nil {
		fmt.Fprintln(out, "absent: gdb (not installed)")
		return
	}
	goal(out, "call, x gdb's time", c.Command.Median/c.GDB.Median, callCommandGoal, "%.3f", true)
}
