package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/internal/demo"
	"github.com/heaptap/heaptap/profiler"
	"github.com/heaptap/heaptap/report"
)

func (a *app) demoCommand() *cobra.Command {
	var python, dir string
	var watch time.Duration
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show heaptap at work on a small leaking server",
		Long: "Starts a small shop written in Python, lets visitors in, and finds out where its\n" +
			"memory goes: attaches while it runs, watches for a few seconds, takes a\n" +
			"snapshot, detaches, and shows the leak. Ends the shop; leaves its program, the\n" +
			"snapshot and a flame graph in a folder.",
		Example: example(
			"heaptap demo", "with the python3 in PATH",
			"heaptap demo --python python3.13", "with another",
			"heaptap demo --for 30s --dir /tmp/demo", "longer, in a folder of your choice"),
		GroupID:           groupLook,
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			if watch <= 0 {
				return wrongUse(c, "--for %v: nothing can be seen in that time", watch)
			}
			return a.demo(c.Context(), python, dir, watch)
		},
	}
	c.Flags().StringVar(&python, "python", "python3", "the interpreter, by name or path")
	c.Flags().DurationVar(&watch, "for", 5*time.Second, "how long to watch")
	c.Flags().StringVar(&dir, "dir", "", "leave the results in this folder (default a new temporary one)")
	return c
}

// Files that a demo leaves in its folder, beside the server's program.
const (
	demoSnapshot = "heap.pb.gz"
	demoFlame    = "flame.html"
	demoRows     = 6 // of the table: enough to see what is innocent beside the leak
)

// demo leaves a folder only when it has results to show.
func (a *app) demo(ctx context.Context, python, dir string, watch time.Duration) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("", "heaptap-demo-"); err != nil {
			return &outputError{os.TempDir(), err}
		}
		defer func() {
			if err != nil {
				os.RemoveAll(dir)
			}
		}()
	} else {
		if err = os.MkdirAll(dir, 0o777); err != nil {
			return &outputError{dir, err}
		}
		if dir, err = filepath.Abs(dir); err != nil { // as the shop's frames name it
			return err
		}
	}
	server, err := demo.Start(ctx, python, dir)
	if err != nil {
		return err
	}
	defer server.Close()
	a.pid = server.Pid
	s := &show{app: a, server: server, dir: dir}
	dump, at, err := s.observe(ctx, watch)
	if err != nil {
		return err
	}
	server.Close()
	return s.results(dump, at)
}

// show is one run of the demo.
type show struct {
	*app
	server *demo.Server
	dir    string
}

// observe attaches to the server, watches it, takes a snapshot and detaches.
func (s *show) observe(ctx context.Context, watch time.Duration) (*profiler.Dump, *profiler.Attachment, error) {
	s.step("shop", "process %d, with visitors", s.server.Pid)
	at, err := s.Engine.Attach(ctx, s.server.Pid, profiler.AttachOptions{})
	if err != nil {
		return nil, nil, err
	}
	s.step("attached", "CPython %s, %s; in %s, paused for %s", at.Python.Version, buildText(at.Python),
		durationText(at.Took), durationText(at.Pause))
	dump, err := s.watchAndDump(ctx, watch)
	// Also after Ctrl-C: the server is about to end, but one leaves as one came.
	detachment, derr := s.Engine.Detach(context.WithoutCancel(ctx), s.server.Pid)
	if err == nil || harmed(derr) {
		err = errors.Join(err, derr)
	}
	if err != nil {
		return nil, nil, err
	}
	gone := "agent gone"
	if !detachment.Unmapped {
		gone = "agent still mapped: " + detachment.Why
	}
	s.step("detached", "%s put back, %s", plural(uint64(detachment.Restored+detachment.Slots), "word", "words"), gone)
	answered, failed := s.server.Visits()
	if failed > 0 {
		return nil, nil, fmt.Errorf("%d of the visitors' %d requests failed", failed, failed+answered)
	}
	s.step("visitors", "all of their %s were answered", plural(uint64(answered), "request", "requests"))
	return dump, at, nil
}

func (s *show) watchAndDump(ctx context.Context, watch time.Duration) (*profiler.Dump, error) {
	if err := s.watch(ctx, watch); err != nil {
		return nil, err
	}
	dump, err := s.Engine.TakeDump(ctx, s.server.Pid, profiler.DumpOptions{})
	if err == nil {
		s.step("dumped", "%s; in %s, paused for %s", plural(dump.Blocks, "live block", "live blocks"),
			durationText(dump.Took), durationText(dump.Pause))
	}
	return dump, err
}

// look is the time between two looks at the server, looksPerLine how many of them share a line where lines last.
const (
	look         = 250 * time.Millisecond
	looksPerLine = 4
)

// watch shows how the live memory grows: on a terminal in a line that changes, elsewhere in a line each second.
func (s *show) watch(ctx context.Context, d time.Duration) error {
	begin := s.Now()
	for n := 1; ; n++ {
		err := s.Sleep(ctx, look)
		var status *profiler.Status
		if err == nil {
			status, err = s.Engine.ReadStatus(ctx, s.server.Pid)
		}
		if err != nil {
			s.replace("")
			return err
		}
		passed := s.Now().Sub(begin)
		live := sumTotals(status.Totals).LiveBytes
		line := fmt.Sprintf("%.1f s, live %s, +%s/s", passed.Seconds(), sizeText(live),
			sizeText(uint64(float64(live)/passed.Seconds())))
		switch {
		case passed >= d:
			s.replace("")
			s.step("watched", "%s", line)
			return nil
		case s.lively():
			s.replace(stepText("watching", line))
		case n%looksPerLine == 0:
			s.step("watching", "%s", line)
		}
	}
}

// step reports a step of the demo in a line of its own.
func (s *show) step(name, format string, args ...any) {
	fmt.Fprintln(s.Stderr, stepText(name, printable(fmt.Sprintf(format, args...))))
}

func stepText(name, text string) string { return fmt.Sprintf("%-10s %s", name, text) }

// lively tells whether a line may change while it is looked at.
func (s *show) lively() bool { return s.Term.Stderr && s.Term.Stdout }

// replace puts text where the last replacing text was.
func (s *show) replace(text string) {
	if s.lively() {
		fmt.Fprintf(s.Stderr, "\r\x1b[K%s", clip(text, s.Term.Width()-1))
	}
}

// results shows the table and the leak's stack and writes snapshot and flame graph.
func (s *show) results(dump *profiler.Dump, at *profiler.Attachment) error {
	snapshot, flame := filepath.Join(s.dir, demoSnapshot), filepath.Join(s.dir, demoFlame)
	if _, err := s.output(snapshot, dump.Snapshot.Write); err != nil {
		return err
	}
	_, err := s.output(flame, func(w io.Writer) error {
		return report.Flame(w, dump.Snapshot, report.FlameOptions{Title: "heaptap demo"})
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(s.Stderr)
	err = report.Table(s.Stdout, dump.Snapshot, report.TableOptions{Top: demoRows, Width: s.Term.Width(), Stack: true})
	if err != nil {
		return &outputError{"standard output", err}
	}
	fmt.Fprintln(s.Stdout)
	g := grid{align: []align{left, left}}
	if where, code := s.leak(dump.Snapshot); code != "" {
		g.add(where, code)
	}
	g.add("paused", fmt.Sprintf("%s to attach, %s to dump", durationText(at.Pause), durationText(dump.Pause)))
	g.add("flame graph", flame+" (open it in a browser)")
	g.add("snapshot", snapshot)
	g.add("program", s.server.Source)
	g.write(s.Stdout, 0, nil)
	return nil
}

// leak is the line of the shop that has the most live memory: where it is and what it says.
func (s *show) leak(snapshot *heap.Snapshot) (where, code string) {
	rows := snapshot.ByLine()
	if len(rows) == 0 {
		return "", ""
	}
	heap.SortRows(rows, heap.InuseBytes, false)
	frame := rows[0].Frame
	source, err := os.ReadFile(s.server.Source)
	if err != nil || frame.File != s.server.Source {
		return "", ""
	}
	lines := strings.Split(string(source), "\n")
	if frame.Line < 1 || frame.Line > len(lines) {
		return "", ""
	}
	return fmt.Sprintf("%s:%d", demo.SourceName, frame.Line), strings.TrimSpace(lines[frame.Line-1])
}
