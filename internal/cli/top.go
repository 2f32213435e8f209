package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/internal/tui"
	"github.com/heaptap/heaptap/profiler"
)

const (
	defaultLook  = 2 * time.Second
	shortestLook = 100 * time.Millisecond
)

func (a *app) topCommand() *cobra.Command {
	var flags filterFlags
	var interval time.Duration
	var plain bool
	var by string
	var native nativeFlags
	var lines int
	c := &cobra.Command{
		Use:   "top PID",
		Short: "Watch a tracked process: what is live, what grows",
		Long: "Shows where the live memory of a tracked process was allocated, what grows, and\n" +
			"how fast it allocates, and keeps up with it. The process is not stopped; several\n" +
			"may watch. Keys: ? explains them, q quits; tracking goes on.",
		Example: example(
			"heaptap top 4711", "watch it",
			"heaptap top 4711 --by type --own", "by type, own code only",
			"heaptap top 4711 --plain --interval 1m >> heap.log", "lines, for a log"),
		GroupID:           groupTrack,
		Args:              exactly("PID"),
		ValidArgsFunction: a.completePid,
		RunE: func(c *cobra.Command, args []string) error {
			pid, err := a.target(c, args[0])
			if err != nil {
				return err
			}
			if interval < shortestLook {
				return wrongUse(c, "--interval %v: at least %v", interval, shortestLook)
			}
			filter, err := flags.parse()
			if err != nil {
				return err
			}
			grouping, ok := watchedBy(by)
			if !ok {
				return wrongUse(c, "--by %s: one of %s", by, strings.Join(watchedNames(), ", "))
			}
			teller := *a
			if !plain {
				teller.Stderr = io.Discard // notes would stand in the middle of the screen
			}
			view, err := teller.view(c, &native, pid)
			if err != nil {
				return err
			}
			o := tui.Options{
				Title: strconv.Itoa(pid), Interval: interval, Lines: lines, Grouping: grouping, Filter: filter,
				Look: a.lookAt(pid, view), Source: targetSource(pid), Dump: a.dumpNow(pid),
			}
			if plain {
				return tui.Plain(c.Context(), a.Stdout, o, a.Sleep)
			}
			if !a.Term.Stdout {
				return wrongUse(c, "standard output is no terminal: --plain writes lines")
			}
			status, err := a.Engine.ReadStatus(c.Context(), pid)
			if err != nil {
				return err
			}
			o.Title = fmt.Sprintf("top %d   python %s   %s", pid, status.Python.Version, samplingText(status.SampleBytes))
			return tui.Run(c.Context(), a.Stdin, a.Stdout, os.Environ(), o)
		},
	}
	c.Flags().DurationVar(&interval, "interval", defaultLook, "look each `DURATION`; less often where a look takes long")
	c.Flags().BoolVar(&plain, "plain", false, "write lines instead of a screen")
	c.Flags().StringVar(&by, "by", "line", "begin with the view by "+strings.Join(watchedNames(), ", "))
	c.Flags().IntVar(&lines, "top", 10, "with --plain: rows for each look")
	native.add(a, c)
	flags.add(a, c)
	a.fixedCompletion(c, "by", watchedNames()...)
	a.fixedCompletion(c, "interval", "1s", "5s", "1m")
	return c
}

func watchedNames() []string {
	var names []string
	for _, g := range tui.Groupings() {
		names = append(names, g.String())
	}
	return names
}

func watchedBy(name string) (heap.Grouping, bool) {
	for _, g := range tui.Groupings() {
		if g.String() == name {
			return g, true
		}
	}
	return 0, false
}

// lookAt reads a process's tables while it runs.
func (a *app) lookAt(pid int, view func(*heap.Snapshot) *heap.Snapshot) func(context.Context) (*heap.Snapshot, error) {
	return func(ctx context.Context) (*heap.Snapshot, error) {
		d, err := a.Engine.TakeDump(ctx, pid, profiler.DumpOptions{NoPause: true})
		if err != nil {
			return nil, err
		}
		return view(d.Snapshot), nil
	}
}

// dumpNow takes a snapshot to a file with a name of its own.
func (a *app) dumpNow(pid int) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		path := a.snapshotName("", pid)
		_, err := a.output(path, func(w io.Writer) error {
			d, err := a.Engine.TakeDump(ctx, pid, profiler.DumpOptions{})
			if err != nil {
				return err
			}
			return d.Snapshot.Write(w)
		})
		return path, err
	}
}

// targetSource reads lines of source where the target has it: in its own file system. Files are kept.
func targetSource(pid int) func(file string, line int) string {
	finder := sourceFinder{root: filepath.Join("/proc", strconv.Itoa(pid), "root")}
	kept := map[string][]string{}
	return func(file string, line int) string {
		lines, known := kept[file]
		if !known {
			if source, err := finder.find(file); err == nil {
				lines = strings.Split(string(source.Text), "\n")
			}
			kept[file] = lines
		}
		if line < 1 || line > len(lines) {
			return ""
		}
		return lines[line-1]
	}
}
