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
	"github.com/heaptap/heaptap/profiler"
)

const (
	defaultWatch = time.Second
	// failedLooks in a row end a watch: one or two may fall into an attach or detach by others, or the process's end.
	failedLooks = 3
)

func (a *app) watchCommand() *cobra.Command {
	w := &watch{app: a}
	var flags filterFlags
	var when profiler.TriggerOptions
	c := &cobra.Command{
		Use:   "watch PID",
		Short: "Take snapshots by themselves: at peaks, on growth, by the clock",
		Long: "Looks at a tracked process again and again, which does not stop it, and takes a\n" +
			"snapshot, which does, when one of the triggers asks for it:\n\n" +
			"  --every 30s            at once, and then every 30 seconds\n" +
			"  --at-peak              tracked or resident memory is higher than ever seen, by\n" +
			"                         10 % and 1 MiB; `report --show peak` has the very peak\n" +
			"  --rss-above 2GiB       resident memory, heaptap's tables included, comes to be\n" +
			"                         above; again only after it was 5 % below\n" +
			"  --growth 100MiB/10m    so much more is tracked than at some time in the last\n" +
			"                         10 minutes; and again when it has grown as much again\n\n" +
			"Files are named heaptap-PID-DATE-TIME.pb.gz; each says in `report --info` what\n" +
			"triggered it. A snapshot that fails is tried again, ever more rarely.\n\n" +
			"It ends when the process ends (exit code 3) or is detached (7), and by Ctrl-C\n" +
			"(130). Once a process has ended no snapshot can be had of it: heaptap then tells\n" +
			"what it saw last, at most an --interval before the end.",
		Example: example(
			"heaptap watch 4711 --every 10m --keep 20", "the last 20",
			"heaptap watch 4711 --at-peak -o peaks", "into a folder",
			"heaptap watch 4711 --rss-above 2GiB --growth 100MiB/10m", "both",
			"heaptap watch 4711 --every 1h --json | jq .path", "for scripts"),
		GroupID:           groupTrack,
		Args:              exactly("PID"),
		ValidArgsFunction: a.completePid,
		RunE: func(c *cobra.Command, args []string) (err error) {
			if w.pid, err = a.target(c, args[0]); err != nil {
				return err
			}
			switch {
			case when == profiler.TriggerOptions{}:
				return wrongUse(c, "say when to take snapshots: --every, --at-peak, --rss-above or --growth")
			case w.interval < shortestLook:
				return wrongUse(c, "--interval %v: at least %v", w.interval, shortestLook)
			case when.Growth.Bytes > 0 && when.Growth.Within < 2*w.interval:
				return wrongUse(c, "--growth: in %v there is but one look; a shorter --interval makes more", when.Growth.Within)
			case w.keep < 0:
				return wrongUse(c, "--keep %d: a number of files, 0 for all", w.keep)
			}
			if w.filter, err = flags.parse(); err != nil {
				return err
			}
			if w.triggers, err = profiler.NewTriggers(when); err != nil {
				return err
			}
			return w.run(c.Context())
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.Func("every", "each `TIME`, such as 30s, 10m, 1h, 1d", func(s string) (err error) {
		when.Every, err = parseSpan(s)
		return err
	})
	f.BoolVar(&when.AtPeak, "at-peak", false, "at each new peak of memory")
	f.Func("rss-above", "when resident memory comes above so many `BYTES`", func(s string) (err error) {
		when.RSSAbove, err = parseSomeBytes(s)
		return err
	})
	f.Func("growth", "when tracked memory grows by so many `BYTES/TIME`, such as 100MiB/10m", func(s string) (err error) {
		when.Growth, err = parseGrowth(s)
		return err
	})
	f.StringVarP(&w.dir, "output", "o", ".", "write into the folder `DIR`, which is made where it is missing")
	f.IntVar(&w.keep, "keep", 0, "keep the newest `N` that this watch wrote; 0 keeps all")
	f.DurationVar(&w.interval, "interval", defaultWatch, "look each `DURATION`")
	f.BoolVar(&w.noPause, "no-pause", false, "take snapshots while the process runs on")
	f.BoolVar(&w.json, "json", false, "print a line of JSON for each event (heaptap help json)")
	flags.add(a, c)
	a.fixedCompletion(c, "every", "30s", "1m", "10m", "1h", "1d")
	a.fixedCompletion(c, "rss-above", "512MiB", "1GiB", "2GiB", "4GiB")
	a.fixedCompletion(c, "growth", "10MiB/1m", "100MiB/10m", "1GiB/1h")
	a.fixedCompletion(c, "keep", "5", "20", "100")
	a.fixedCompletion(c, "interval", "1s", "5s", "1m")
	if err := c.MarkFlagDirname("output"); err != nil {
		panic(err) // the flag's name is wrong in this line
	}
	return c
}

// parseSpan reads a time that is more than none.
func parseSpan(s string) (time.Duration, error) {
	seconds, err := heap.ParseAge(s)
	if err != nil || seconds == 0 {
		return 0, fmt.Errorf("%q is not a time span (for example 30s, 10m, 1h or 1d)", s)
	}
	return time.Duration(seconds) * time.Second, nil
}

func parseSomeBytes(s string) (uint64, error) {
	v, err := heap.ParseSize(s)
	if err == nil && v == 0 {
		err = errors.New("0 bytes: everything is more than that")
	}
	return v, err
}

// parseGrowth reads "100MiB/10m", or "100MiB/h" for one hour.
func parseGrowth(s string) (profiler.Growth, error) {
	size, span, ok := strings.Cut(s, "/")
	if !ok {
		return profiler.Growth{}, fmt.Errorf("%q is not a growth (for example 100MiB/10m)", s)
	}
	if span = strings.TrimSpace(span); len(span) == 1 && (span[0] < '0' || span[0] > '9') {
		span = "1" + span
	}
	bytes, err := parseSomeBytes(size)
	if err != nil {
		return profiler.Growth{}, err
	}
	within, err := parseSpan(span)
	return profiler.Growth{Bytes: bytes, Within: within}, err
}

// watch is one run of `heaptap watch`.
type watch struct {
	*app
	dir      string
	keep     int
	interval time.Duration
	noPause  bool
	json     bool
	filter   *heap.Filter
	triggers *profiler.Triggers

	last    seen // zero before the first look
	files   []watchFile
	written int
}

// seen is a look and when it was.
type seen struct {
	at time.Time
	profiler.Observation
}

// watchFile is a file as it was when it was written.
type watchFile struct {
	path string
	info os.FileInfo
}

// run watches until that comes to an end, which is always an error: of the process, of tracking, by a signal.
func (w *watch) run(ctx context.Context) error {
	if err := w.look(ctx); err != nil {
		return err
	}
	if err := w.begin(); err != nil {
		return err
	}
	err := w.follow(ctx)
	return errors.Join(err, w.tellEnd(err))
}

// follow acts on the look that was taken, waits, and takes the next.
func (w *watch) follow(ctx context.Context) error {
	failed := 0
	for {
		if failed == 0 {
			if err := w.act(ctx); err != nil {
				return err
			}
		}
		if err := w.wait(ctx, failed > 0); err != nil {
			return err
		}
		err := w.look(ctx)
		if err == nil {
			failed = 0
			continue
		}
		if failed++; final(err) || failed == failedLooks {
			return err
		}
		if err := w.tellBlind(err); err != nil {
			return err
		}
	}
}

// final tells whether an error ends a watch at once.
func final(err error) bool {
	switch exitCode(err) {
	case ExitNoProcess, ExitNotRestored, ExitInterrupted:
		return true
	}
	return errors.Is(err, context.Canceled) || errors.As(err, new(*retrackedError))
}

// retrackedError says that tracking ended and began anew between two looks: what was seen before is no measure of what
// is seen now, and the process may even be another one with the same pid.
type retrackedError struct {
	pid   int
	since time.Time
}

func (e *retrackedError) Error() string {
	return fmt.Sprintf("process %d: tracking was ended, and begun anew at %s", e.pid, e.since.Format(time.TimeOnly))
}

func (w *watch) look(ctx context.Context) error {
	o, err := w.Engine.Observe(ctx, w.pid)
	if err != nil {
		return err
	}
	if !w.last.at.IsZero() && !o.Since.Equal(w.last.Since) {
		return &retrackedError{w.pid, o.Since}
	}
	w.last = seen{w.Now(), *o}
	return nil
}

// begin makes sure that snapshots can be written, long before the first one is.
func (w *watch) begin() error {
	err := os.MkdirAll(w.dir, 0o777)
	if err == nil {
		var f *os.File
		if f, err = createBeside(filepath.Join(w.dir, "heaptap")); err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
	}
	if err != nil {
		return &folderError{w.dir, err}
	}
	return w.tellBegin()
}

// folderError says that nothing can be written into a folder.
type folderError struct {
	Path string
	Err  error
}

func (e *folderError) Error() string { return fmt.Sprintf("write into %s: %v", e.Path, cause(e.Err)) }
func (e *folderError) Unwrap() error { return e.Err }

// act takes a snapshot where the last look asks for one.
func (w *watch) act(ctx context.Context) error {
	reasons := w.triggers.Observe(w.last.at, w.last.Observation)
	if len(reasons) == 0 {
		return nil
	}
	why := reasonsText(reasons)
	path := w.snapshotName(w.dir, w.pid)
	var d *profiler.Dump
	size, err := w.output(path, func(to io.Writer) (err error) {
		d, err = w.Engine.TakeDump(ctx, w.pid, profiler.DumpOptions{NoPause: w.noPause, Filter: w.filter})
		if err != nil {
			return err
		}
		d.Snapshot.Info = append(d.Snapshot.Info, heap.KeyValue{Key: profiler.InfoTrigger, Value: why})
		return d.Snapshot.Write(to)
	})
	switch {
	case err == nil:
	case final(err):
		return err
	case errors.As(err, new(*heap.NoMatchError)):
		return w.tellFailure(reasons, err, false)
	default:
		w.triggers.Failed(w.Now())
		return w.tellFailure(reasons, err, true)
	}
	w.written++
	if info, err := os.Lstat(path); err == nil {
		w.files = append(w.files, watchFile{path, info})
	}
	removed, err := w.removeOld()
	if err != nil {
		d.Notes = append(d.Notes, err.Error())
	}
	return w.tellDump(reasons, path, size, d, removed)
}

// removeOld removes all but the newest of the files that this watch wrote, and returns their names. What others have
// put in the place of one stays; one that cannot be removed is not tried again.
func (w *watch) removeOld() (removed []string, err error) {
	for w.keep > 0 && len(w.files) > w.keep {
		old := w.files[0]
		w.files = w.files[1:]
		now, gone := os.Lstat(old.path)
		if gone != nil || !os.SameFile(now, old.info) || !now.ModTime().Equal(old.info.ModTime()) {
			continue
		}
		if e := os.Remove(old.path); e != nil {
			err = errors.Join(err, fmt.Errorf("remove %s: %w", old.path, cause(e)))
			continue
		}
		removed = append(removed, old.path)
	}
	return removed, err
}

// wait returns when it is time for the next look: soon after one that failed.
func (w *watch) wait(ctx context.Context, failed bool) error {
	next := w.last.at.Add(w.interval)
	if due := w.triggers.Due(); !due.IsZero() && due.Before(next) {
		next = due
	}
	pause := next.Sub(w.Now())
	if failed {
		pause = min(w.interval, defaultWatch)
	}
	if pause <= 0 {
		return context.Cause(ctx)
	}
	return w.Sleep(ctx, pause)
}
