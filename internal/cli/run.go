package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/launch"
	"github.com/heaptap/heaptap/profiler"
)

func (a *app) runCommand() *cobra.Command {
	r := &running{app: a}
	var flags attachFlags
	var follow bool
	c := &cobra.Command{
		Use:   "run [flags] [--] COMMAND [ARGS...]",
		Short: "Start a command and track its Python from the first allocation",
		Long: "Starts a command, tracks the Python that it is or becomes from its interpreter's\n" +
			"first allocation, and writes a snapshot when it has ended, in whatever way: also\n" +
			"by SIGKILL, by the OOM killer, or by a crash. The command may be a Python, a\n" +
			"script, or a wrapper that executes a Python in the end.\n\n" +
			"The command has the terminal, the input, the environment, the signals and the\n" +
			"job control that it would have without heaptap. heaptap ends as the command\n" +
			"does: with its exit code, or by the signal that ended it. While it runs, all\n" +
			"other commands (status, dump, top) can be used on it.\n\n" +
			"When Python ends by itself, the snapshot is taken as it begins to, before it\n" +
			"frees its objects. When it is killed, the snapshot is of that moment, without\n" +
			"types of objects, since these are read from a living process. What was live at\n" +
			"the peak is in both: `report --show peak`.",
		Example: example(
			"heaptap run python3 app.py", "a snapshot at its end",
			"heaptap run -o end.pb.gz -- ./manage.py test", "a script",
			"heaptap run --every 30s --keep 10 -- python3 job.py", "and on the way",
			"heaptap run --follow -- gunicorn app", "with its workers"),
		GroupID: groupTrack,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return wrongUse(c, "COMMAND is missing")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case r.keep < 0:
				return wrongUse(c, "--keep %d: a number of files, 0 for all", r.keep)
			case r.keep > 0 && r.every == 0:
				return wrongUse(c, "--keep is for the snapshots that --every takes")
			case r.out == "-":
				return wrongUse(c, "-o -: standard output is the command's")
			}
			r.options = flags.options()
			r.options.Follow = follow
			return r.run(context.WithoutCancel(c.Context()), args)
		},
	}
	c.Flags().SetInterspersed(false)
	flags.add(a, c)
	c.Flags().BoolVar(&follow, "follow", false, "track its children too: forked ones, and those that run a Python")
	c.Flags().StringVarP(&r.out, "output", "o", "", "write the last snapshot to `FILE`")
	c.Flags().Func("every", "take a snapshot each `TIME` as well, such as 30s, 10m, 1h", func(s string) (err error) {
		r.every, err = parseSpan(s)
		return err
	})
	c.Flags().IntVar(&r.keep, "keep", 0, "keep the newest `N` that --every took; 0 keeps all")
	a.fixedCompletion(c, "every", "30s", "1m", "10m", "1h")
	return c
}

// running is one run of `heaptap run`.
type running struct {
	*app
	out     string
	every   time.Duration
	keep    int
	options profiler.AttachOptions

	command *profiler.Run
	tracked bool
	dumps   *watch // the files of --every
	stop    syscall.Signal
	stopBy  time.Time // until when the command is expected to stop by that signal
	notes   []string
}

// relayed are the signals that are meant for the command when they come for us: all that somebody sends, but for those
// that the Go runtime needs or that only ever mean the process that they come for.
func relayed() []syscall.Signal {
	signals := []syscall.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGVTALRM,
		unix.SIGWINCH, unix.SIGIO, unix.SIGPWR, unix.SIGXCPU, unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU,
	}
	for sig := syscall.Signal(35); sig <= 64; sig++ { // real-time signals, but for those of C libraries and Go
		signals = append(signals, sig)
	}
	return signals
}

func (r *running) run(ctx context.Context, args []string) error {
	caller := launch.ThisCaller()
	relay, err := r.Relay(caller.Ignored, relayed()...)
	if err != nil {
		return err
	}
	defer relay.Close()
	if err := r.start(ctx, args, caller); err != nil {
		return err
	}
	return r.follow(ctx, relay)
}

// start starts the command as execvp(3) would.
func (r *running) start(ctx context.Context, args []string, caller launch.Caller) error {
	path, err := r.find(args[0])
	if err != nil {
		return err
	}
	env, err := environment()
	if err != nil {
		return err
	}
	o := profiler.RunOptions{Attach: r.options, Command: launch.Command{Path: path, Args: args, Env: env, Caller: caller}}
	r.command, err = r.Engine.Start(ctx, o)
	if errors.Is(err, unix.ENOEXEC) {
		const shell = "/bin/sh"
		o.Command.Path, o.Command.Args = shell, append([]string{shell, path}, args[1:]...)
		r.command, err = r.Engine.Start(ctx, o)
	}
	if err == nil {
		r.pid = r.command.Pid()
	}
	return err
}

// environment is what we were given, to the letter: not as the Go runtime tidies it up.
func environment() ([]string, error) {
	b, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		return nil, err
	}
	text := strings.TrimSuffix(string(b), "\x00")
	if text == "" {
		return nil, nil
	}
	return strings.Split(text, "\x00"), nil
}

// noCommandError says that there is no such command.
type noCommandError struct{ Name string }

func (e *noCommandError) Error() string { return e.Name + ": there is no such command" }

// find looks for a command in PATH, as a shell does.
func (r *running) find(name string) (string, error) {
	if strings.Contains(name, "/") {
		if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) {
			return "", &noCommandError{name}
		}
		return name, nil
	}
	var seen error = &noCommandError{name}
	for dir := range strings.SplitSeq(r.Getenv("PATH"), ":") {
		if dir == "" {
			dir = "."
		}
		path := dir + "/" + name
		st, err := os.Stat(path)
		if err != nil || st.IsDir() {
			continue
		}
		if err := unix.Access(path, unix.X_OK); err != nil {
			seen = &launch.ExecError{Path: path, Err: unix.EACCES}
			continue
		}
		return path, nil
	}
	return "", seen
}

// noCommand and notExecutable tell as shells do why a command was not started.
func noCommand(err error) ([]string, bool) { return nil, errors.As(err, new(*noCommandError)) }

func notExecutable(err error) ([]string, bool) {
	var e *launch.ExecError
	if !errors.As(err, &e) {
		return nil, false
	}
	if e.Err == unix.ENOENT {
		return []string{"the interpreter that its first line or its ELF header names is not there"}, true
	}
	return nil, true
}

// commandEnd is not an error but how a command ended, which is how we end.
type commandEnd struct {
	code   int
	signal syscall.Signal
}

func (e *commandEnd) Error() string {
	if e.signal != 0 {
		return "the command was ended by signal: " + e.signal.String()
	}
	return fmt.Sprintf("the command ended with exit code %d", e.code)
}

// endAs ends heaptap as a command ended.
func (a *app) endAs(e *commandEnd) ExitCode {
	if e.signal == 0 {
		return ExitCode(e.code)
	}
	a.Die(e.signal)
	const bySignal = 128 // as shells count
	return bySignal + ExitCode(e.signal)
}

// stopLook is how often the command is looked at when it is expected to stop, and for stopTime at most.
const (
	stopLook = 5 * time.Millisecond
	stopTime = 2 * time.Second
)

// follow stands between the command and who sends us signals, until the command has ended.
func (r *running) follow(ctx context.Context, relay *launch.Relay) error {
	var due, look <-chan time.Time
	if r.every > 0 {
		t := time.NewTicker(r.every)
		defer t.Stop()
		due = t.C
	}
	r.dumps = &watch{app: r.app, dir: filepath.Dir(r.out), keep: r.keep}
	taking, taken := false, make(chan struct{}) // a snapshot; signals do not wait for it
	for {
		if look = nil; r.stop != 0 {
			look = time.After(stopLook)
		}
		select {
		case s := <-relay.C:
			if err := r.relay(s); err != nil {
				return err
			}
		case <-look:
			if err := r.stopWith(relay); err != nil {
				return err
			}
		case <-due:
			if r.tracked && !taking {
				taking = true
				go func() {
					r.snapshot(ctx)
					taken <- struct{}{}
				}()
			}
		case <-taken:
			taking = false
		case e, ok := <-r.command.Events():
			if !ok {
				return errors.New("the command was lost sight of")
			}
			switch {
			case e.Tracked != nil:
				r.tracked = true
				r.notes = append(r.notes, e.Tracked.Notes...)
			case e.Note != "":
				r.notes = append(r.notes, e.Note)
			case e.Ended != nil:
				if taking {
					<-taken
				}
				return r.conclude(e.Ended)
			}
		}
	}
}

// relay hands a signal on. What the kernel sent (the terminal's Ctrl-C, Ctrl-\ and Ctrl-Z, its end, its new size) has gone
// to the whole process group, and so to the command.
func (r *running) relay(s launch.Signal) error {
	switch s.Signal {
	case unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		r.stop, r.stopBy = s.Signal, r.Now().Add(stopTime)
	case unix.SIGCONT:
		r.stop = 0
		if !r.command.Stopped() {
			return nil // it has been continued with us
		}
	}
	if s.Kernel {
		return nil
	}
	if err := r.command.Signal(s.Signal); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("hand %v on to process %d: %w", s.Signal, r.command.Pid(), err)
	}
	return nil
}

// stopWith stops us when the command has stopped, so that whoever waits for us sees it. A command that minds the signal
// itself may go on.
func (r *running) stopWith(relay *launch.Relay) error {
	sig := r.stop
	if !r.command.Stopped() {
		if r.Now().After(r.stopBy) {
			r.stop = 0
		}
		return nil
	}
	r.stop = 0
	return relay.Take(sig)
}

// snapshot takes one of --every's.
func (r *running) snapshot(ctx context.Context) {
	path := r.snapshotName(r.dumps.dir, r.command.Pid())
	_, err := r.output(path, func(to io.Writer) error {
		d, err := r.Engine.TakeDump(ctx, r.command.Pid(), profiler.DumpOptions{})
		if err != nil {
			return err
		}
		d.Snapshot.Info = append(d.Snapshot.Info, heap.KeyValue{Key: profiler.InfoTrigger, Value: "every " + r.every.String()})
		return d.Snapshot.Write(to)
	})
	if err != nil {
		if exitCode(err) != ExitNoProcess { // else its end is about to be told
			r.note("no snapshot at this time: " + err.Error())
		}
		return
	}
	if info, err := os.Lstat(path); err == nil {
		r.dumps.files = append(r.dumps.files, watchFile{path, info})
	}
	if _, err := r.dumps.removeOld(); err != nil {
		r.note(err.Error())
	}
}

// conclude writes the last snapshot. What goes wrong with it is said, but the command's end is ours.
func (r *running) conclude(e *profiler.RunEnd) error {
	end := &commandEnd{e.Code, e.Signal}
	if e.Held == nil && len(e.Children) == 0 {
		r.notes = append(r.notes, "no Python was tracked: there is no snapshot")
		if !r.options.Follow {
			r.notes = append(r.notes, "a Python that the command starts as a child is tracked with --follow")
		}
		r.app.notes(r.notes)
		return end
	}
	if e.Held != nil {
		defer e.Held.Close()
	}
	if err := r.last(e, r.command.Pid(), r.out, "the end: "+end.Error(), r.notes); err != nil {
		r.app.conclude(context.Background(), err)
	}
	return end
}

// remains is what is left of processes that have ended.
type remains interface {
	Dump(profiler.DumpOptions) (*profiler.Dump, error)
}

// last writes the snapshot of a process that has ended.
func (a *app) last(h remains, pid int, path, why string, notes []string) error {
	if path == "" {
		path = a.snapshotName("", pid)
	}
	var d *profiler.Dump
	size, err := a.output(path, func(to io.Writer) (err error) {
		if d, err = h.Dump(profiler.DumpOptions{}); err != nil {
			return err
		}
		d.Snapshot.Info = append(d.Snapshot.Info, heap.KeyValue{Key: profiler.InfoTrigger, Value: why})
		return d.Snapshot.Write(to)
	})
	if err != nil {
		a.notes(notes)
		return err
	}
	total := d.Snapshot.Total()
	fmt.Fprintf(a.Stderr, "heaptap wrote %s (%s): %s live in %s\n", a.stderrStyle().bold(printable(path)), sizeText(uint64(size)),
		sizeText(uint64(total[heap.InuseBytes])), plural(uint64(total[heap.InuseBlocks]), "block", "blocks"))
	a.notes(append(notes, d.Notes...))
	return nil
}

// holding is what `attach --hold` is asked for.
type holding struct {
	wanted bool
	out    string
}

// hold stays with a process to its end, and writes the last snapshot.
func (a *app) hold(ctx context.Context, h *profiler.Held, path string) error {
	defer h.Close()
	end, err := h.Wait(ctx)
	if err != nil {
		return err
	}
	return a.last(h, h.Pid(), path, string(end), nil)
}
