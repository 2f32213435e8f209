// Bench measures what tracking costs a Python process: the time and memory of real workloads under heaptap, tracemalloc
// and memray as ratios to no tracking, the agent's own tables, how long attaching and dumping hold a process up, and
// what calling a function in it costs beside gdb.
//
//	go run ./bench                                      everything, with every interpreter found
//	go run ./bench -only pause,dump                     only some parts
//	go run ./bench -workloads churn,deep -modes exact   only some workloads and modes
//	go run ./bench -python .roots/sid:/usr/bin/python3.14
//
// Each run is a process of its own, which prepares, waits while tracking is switched on, and only then is measured, by
// its own clocks. Modes take turns in every round, and each is compared with the untracked run of the same round. One
// mode is a second untracked run: how far its ratios are from 1 is what the other ratios are worth.
//
// It needs Linux, Go, and leave to trace its own children; for memray and the newest Pythons, tools/roots/fetch.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A bench is what was asked for.
type bench struct {
	rounds    int
	quick     bool
	patience  time.Duration
	workloads []workload
	modes     []mode
	allModes  bool // none was chosen: each part has its own
	parts     []part
	pythons   []string
	tap       *tool
	talk      io.Writer
}

// A part is one of the things that can be measured by itself.
type part struct {
	name    string
	heaptap bool // whatever the modes are
	measure func(b *bench, ctx context.Context, in interpreter, r *result) error
}

func parts() []part {
	return []part{
		{"overhead", false, func(b *bench, ctx context.Context, in interpreter, r *result) (err error) {
			r.Overhead, err = b.measureOverhead(ctx, in, "overhead")
			return err
		}},
		{"native", false, func(b *bench, ctx context.Context, in interpreter, r *result) (err error) {
			r.Native, err = b.measureOverhead(ctx, in, "native")
			return err
		}},
		{"tables", true, func(b *bench, ctx context.Context, in interpreter, r *result) (err error) {
			r.Tables, err = b.measureTables(ctx, in)
			return err
		}},
		{"pause", true, func(b *bench, ctx context.Context, in interpreter, r *result) (err error) {
			r.Pauses, err = b.measurePauses(ctx, in)
			return err
		}},
		{"dump", true, func(b *bench, ctx context.Context, in interpreter, r *result) (err error) {
			r.Dumps, err = b.measureDumps(ctx, in)
			return err
		}},
		{"call", true, func(b *bench, ctx context.Context, in interpreter, r *result) (err error) {
			r.Calls, err = b.measureCalls(ctx, in)
			return err
		}},
		{"killed", true, func(b *bench, ctx context.Context, in interpreter, r *result) (err error) {
			r.Kills, err = b.measureKills(ctx, in)
			return err
		}},
	}
}

// A result is everything measured with one interpreter; parts that were not are nil.
type result struct {
	Interpreter interpreter   `json:"interpreter"`
	Overhead    *overhead     `json:"overhead,omitempty"`
	Native      *overhead     `json:"native,omitempty"` // of the native workloads
	Tables      *tablesReport `json:"tables,omitempty"`
	Pauses      []attachPause `json:"pauses,omitempty"`
	Dumps       []dumpCost    `json:"dumps,omitempty"`
	Calls       *callCost     `json:"calls,omitempty"`
	Kills       []*killCount  `json:"kills,omitempty"`
}

// A record is what a run of the benchmark writes as JSON.
type record struct {
	Started time.Time `json:"started"`
	Took    float64   `json:"took_seconds"`
	Machine machine   `json:"machine"`
	Rounds  int       `json:"rounds"`
	Quick   bool      `json:"quick"`
	Results []*result `json:"results"`
}

// run parses the arguments, measures, prints and writes. Numbers never make it fail; runs that failed, or that computed
// something else than without tracking, do.
func run(ctx context.Context, args []string, out, talk io.Writer) error {
	b := &bench{talk: talk}
	var names struct{ workloads, modes, parts, pythons, json, heaptap string }
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(talk)
	flags.IntVar(&b.rounds, "rounds", 5, "rounds; medians are over them")
	flags.BoolVar(&b.quick, "quick", false, "tiny sizes: shows that everything works, the numbers mean nothing")
	flags.DurationVar(&b.patience, "patience", 30*time.Second,
		"a mode that has taken so long in one workload is left out of its later rounds")
	flags.StringVar(&names.workloads, "workloads", "", "only these (comma-separated): "+list(workloads(), workload.label))
	flags.StringVar(&names.modes, "modes", "", "only these, beside none: "+list(modes(), mode.label))
	flags.StringVar(&names.parts, "only", "", "only these parts: "+list(parts(), part.label))
	flags.StringVar(&names.pythons, "python", "", "interpreters (comma-separated), each PATH or ROOT:PATH")
	flags.StringVar(&names.json, "json", "", "`file` for the results; a new one in bench-results/ if not given")
	flags.StringVar(&names.heaptap, "heaptap", "", "`program` to measure; built from this checkout if not given")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if flags.NArg() > 0 || b.rounds < 1 {
		return errors.New("takes flags only, and at least one round; see -help")
	}
	if b.workloads, err = choose("workload", names.workloads, workloads(), workload.label); err != nil {
		return err
	}
	b.allModes = names.modes == ""
	if b.modes, err = choose("mode", names.modes, modes(), mode.label); err != nil {
		return err
	}
	if b.modes[0].name != untracked { // what all others are compared with
		b.modes = append(modes()[:1:1], b.modes...)
	}
	if b.parts, err = choose("part", names.parts, parts(), part.label); err != nil {
		return err
	}
	top, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	b.pythons = candidates(top)
	if names.pythons != "" {
		b.pythons = strings.Split(names.pythons, ",")
	}
	scratch, err := os.MkdirTemp("", "heaptap-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	if b.tap = (&tool{path: names.heaptap}); names.heaptap == "" && b.needsHeaptap() {
		if b.tap, err = build(ctx, filepath.Join(scratch, "heaptap")); err != nil {
			return err
		}
	}

	rec, err := b.measureAll(ctx, scratch)
	if err != nil {
		return err
	}
	rec.print(out)
	file, err := rec.write(names.json, filepath.Join(top, "bench-results"))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nresults: %s\n", file)
	if n := len(rec.failures()); n > 0 {
		return fmt.Errorf("%d measurements failed, see above", n)
	}
	return nil
}

// needsHeaptap reports whether anything that was chosen is measured with the heaptap program.
func (b *bench) needsHeaptap() bool {
	modes := slices.ContainsFunc(b.modes, func(m mode) bool { return m.heaptap })
	return slices.ContainsFunc(b.parts, func(p part) bool { return p.heaptap || modes })
}

// measureAll measures every part with every interpreter.
func (b *bench) measureAll(ctx context.Context, scratch string) (*record, error) {
	library, absent := "", ""
	if _, err := exec.LookPath(compiler); err != nil {
		absent = err.Error()
	} else if library, err = compileNative(ctx, scratch); err != nil {
		return nil, err
	}
	rec := &record{Started: time.Now(), Machine: thisMachine(), Rounds: b.rounds, Quick: b.quick}
	for _, spec := range b.pythons {
		in, err := examine(ctx, spec)
		if err != nil {
			return nil, err
		}
		if in.library = library; absent != "" {
			in.Absent[compiler] = absent
		}
		r := &result{Interpreter: in}
		rec.Results = append(rec.Results, r)
		for _, p := range b.parts {
			if err := p.measure(b, ctx, in, r); err != nil {
				return nil, err
			}
		}
	}
	rec.Took = time.Since(rec.Started).Seconds()
	return rec, nil
}

func (b *bench) progress(format string, args ...any) { fmt.Fprintf(b.talk, format+"\n", args...) }

func (w workload) label() string { return w.name }
func (m mode) label() string     { return m.name }
func (p part) label() string     { return p.name }

func list[T any](all []T, name func(T) string) string {
	names := make([]string, len(all))
	for i, item := range all {
		names[i] = name(item)
	}
	return strings.Join(names, ", ")
}

// moduleRoot is the folder of the checkout.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the checkout: go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if filepath.Base(mod) != "go.mod" {
		return "", errors.New("find the checkout: not in a Go module; run it as `go run ./bench` in the checkout")
	}
	return filepath.Dir(mod), nil
}
