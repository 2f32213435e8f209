package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A killCount is what became of a process whose debugger was killed in the middle of calling functions in it: how often it
// answered afterwards, and what else there was.
type killCount struct {
	Tool     string         `json:"tool"`
	Tries    int            `json:"tries"`
	Unharmed int            `json:"unharmed"`
	Harm     map[string]int `json:"harm,omitempty"`
}

const (
	// callsBeforeKill is how many calls one command is given: more than it can make before it is killed.
	callsBeforeKill = 2000
	// longestCall is how long after the first call the command is killed, at the latest.
	longestCall = 30 * time.Millisecond
	// harmAfter is how long a process may take to answer before it counts as harmed.
	harmAfter = 5 * time.Second
)

func (b *bench) measureKills(ctx context.Context, in interpreter) ([]*killCount, error) {
	tries := 100
	if b.quick {
		tries = 2
	}
	tools := []struct {
		name  string
		begun string // what a line says when calling begins
		args  func(pid string) []string
	}{
		{b.tap.path, "call/", func(pid string) []string {
			return append([]string{"call", pid, "--trace"}, slices.Repeat([]string{callExpression}, callsBeforeKill)...)
		}},
		{"gdb", "= ", func(pid string) []string {
			return append([]string{"-nx", "-p", pid, "-batch"}, slices.Repeat([]string{"-ex", "call " + callExpression},
				callsBeforeKill)...)
		}},
	}
	var all []*killCount
	for i, tool := range tools {
		name := []string{"heaptap", "gdb"}[i]
		path, err := exec.LookPath(tool.name)
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		b.progress("%s: %s killed in the middle of calls", in, name)
		k := &killCount{Tool: name, Tries: tries, Harm: map[string]int{}}
		all = append(all, k)
		for range tries {
			harm, err := tryKill(ctx, in, path, tool.begun, tool.args)
			if err != nil {
				return nil, err
			}
			if harm == "" {
				k.Unharmed++
			} else {
				k.Harm[harm]++
			}
		}
	}
	return all, ctx.Err()
}

// tryKill kills the tool at a random instant of its calls in a fresh process, and says what harm that has done.
func tryKill(ctx context.Context, in interpreter, path, begun string, args func(string) []string) (string, error) {
	t, err := start(ctx, in)
	if err != nil {
		return "", err
	}
	defer t.close()
	if err := t.do("spin", nil); err != nil { // its first thread computes
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args(strconv.Itoa(t.pid))...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return "", err
	}
	lines := bufio.NewScanner(out)
	called := false
	for !called && lines.Scan() {
		called = strings.Contains(lines.Text(), begun)
	}
	go io.Copy(io.Discard, out)
	if err := wait(ctx, rand.N(longestCall)); err != nil {
		return "", err
	}
	cmd.Process.Kill()
	cmd.Wait() // killed: its status says nothing
	if !called {
		return "", fmt.Errorf("%s made no call", path)
	}
	return t.harm(), nil
}

// harm says what is wrong with a target, "" for nothing.
func (t *target) harm() string {
	limit := time.AfterFunc(harmAfter, t.stop)
	err := t.do("longest", nil)
	if err == nil {
		err = t.exit()
	}
	if !limit.Stop() {
		return "does not answer"
	}
	if err != nil {
		return t.cmd.ProcessState.String()
	}
	return ""
}

func printKills(out io.Writer, all []*killCount) {
	fmt.Fprintln(out)
	for _, k := range all {
		fmt.Fprintf(out, "%s killed in the middle of calls: %d of %d processes unharmed", k.Tool, k.Unharmed, k.Tries)
		for _, what := range slices.Sorted(maps.Keys(k.Harm)) {
			fmt.Fprintf(out, "; %d: %s", k.Harm[what], what)
		}
		fmt.Fprintln(out)
	}
}
