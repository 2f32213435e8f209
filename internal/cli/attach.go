package cli

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/profiler"
)

func (a *app) attachCommand() *cobra.Command {
	var flags attachFlags
	var hold holding
	var follow followFlag
	var onSignal onSignalFlag
	var tree, asJSON bool
	c := &cobra.Command{
		Use:   "attach PID",
		Short: "Start tracking allocations",
		Long: "Tracks every allocation of a running Python process from now on: of Python's\n" +
			"own allocators, and by malloc and mmap of C code. Returns at once; tracking\n" +
			"goes on without heaptap until `heaptap detach`. Allocations from before the\n" +
			"attach are not seen.\n\n" +
			"With --follow forked children are tracked from their first allocation on, and\n" +
			"theirs; that needs no heaptap. A child that executes another Python can only be\n" +
			"attached to by a heaptap that watches: --follow stays and does so until the last\n" +
			"process has ended or Ctrl-C (130), and tells of each; tracking goes on after it.\n" +
			"--follow=forks returns at once. A Python that lives for less than 50 ms may be\n" +
			"missed; what ends takes its numbers along.\n\n" +
			"With --hold, heaptap stays, keeps what is tracked safe from whatever becomes of\n" +
			"the process, and writes a snapshot when it ends: by itself, by SIGKILL, by the\n" +
			"OOM killer, by a crash. Ctrl-C lets go of it, and leaves it tracked.\n\n" +
			"With --on-signal the process itself writes what is tracked to a file when the\n" +
			"signal comes, for places where nothing may trace it then; `heaptap report`\n" +
			"reads that file, on any machine. A handler that the program has is called\n" +
			"afterwards. FILE is a path in the process's file system; %p is its pid, %n a\n" +
			"number; by default " + profiler.DefaultPattern + ".",
		Example: example(
			"heaptap attach 4711", "exact: every block",
			"heaptap attach 4711 --sample 512KiB", "cheap enough to leave on",
			"heaptap attach 4711 --temporary 1", "also count blocks freed at once",
			"heaptap attach 4711 --domains raw,mem,obj", "Python's allocators only",
			"heaptap attach 4711 --tree --follow=forks", "a server and its workers",
			"heaptap attach 4711 --hold -o last.pb.gz", "have a snapshot of its end",
			"heaptap attach 4711 --on-signal USR2", "and later: kill -USR2 4711"),
		GroupID:           groupTrack,
		Args:              exactly("PID"),
		ValidArgsFunction: a.completePid,
		RunE: func(c *cobra.Command, args []string) error {
			pid, err := a.target(c, args[0])
			if err != nil {
				return err
			}
			if hold.out != "" && !hold.wanted {
				return wrongUse(c, "-o FILE is for the snapshot that --hold writes")
			}
			options := flags.options()
			options.OnSignal = profiler.OnSignal(onSignal)
			options.Hold, options.AwaitEnd, options.Follow = hold.wanted, hold.wanted, follow != ""
			if tree || follow == followAll {
				if hold.wanted {
					return wrongUse(c, "--hold is for one process: not with --tree or --follow, but with --follow=forks")
				}
				return a.attachTree(c.Context(), pid, options, tree, follow, asJSON)
			}
			at, err := a.Engine.Attach(c.Context(), pid, options)
			if err != nil {
				return err
			}
			if asJSON {
				err = a.writeJSON(attachmentJSON(pid, options, at))
			} else {
				a.showAttachment(pid, options, at)
			}
			if err != nil || !hold.wanted {
				return err
			}
			return a.hold(c.Context(), at.Held, hold.out)
		},
	}
	flags.add(a, c)
	c.Flags().Var(&follow, "follow", "track children too: all of them, or forks only (see above)")
	c.Flags().Lookup("follow").NoOptDefVal = string(followAll)
	c.Flags().BoolVar(&tree, "tree", false, "attach to all Python processes below it, too")
	a.fixedCompletion(c, "follow", string(followAll), string(followForks))
	c.Flags().Var(&onSignal, "on-signal", "have it write a file when the `SIGNAL[=FILE]` comes (see above)")
	a.fixedCompletion(c, "on-signal", "USR1", "USR2", "HUP", "WINCH")
	c.Flags().BoolVar(&hold.wanted, "hold", false, "stay, and write a snapshot when the process ends in whatever way")
	c.Flags().StringVarP(&hold.out, "output", "o", "", "with --hold: write to `FILE`")
	jsonFlag(c, &asJSON)
	return c
}

// attachFlags say what to track.
type attachFlags struct {
	sample    sizeFlag
	domains   domainsFlag
	temporary int
	native    bool
}

func (f *attachFlags) add(a *app, c *cobra.Command) {
	c.Flags().Var(&f.sample, "sample", "track a sample: one for so many allocated bytes, on average (such as 512KiB)")
	c.Flags().Lookup("sample").DefValue = ""
	c.Flags().Var(&f.domains, "domains", "track only these: raw, mem, obj (CPython's allocators), malloc, mmap")
	c.Flags().BoolVar(&f.native, "native", false, "stacks with the functions of C code and libraries, not of Python alone")
	c.Flags().IntVar(&f.temporary, "temporary", 0,
		fmt.Sprintf("count blocks that are freed within so many allocations of their thread, at most %d", profiler.MostTemporary))
	a.fixedCompletion(c, "sample", "64KiB", "512KiB", "4MiB")
	a.fixedCompletion(c, "domains", "raw,mem,obj,malloc,mmap", "raw,mem,obj", "malloc,mmap")
}

func (f *attachFlags) options() profiler.AttachOptions {
	return profiler.AttachOptions{SampleBytes: uint64(f.sample), Domains: f.domains, Temporary: f.temporary, Native: f.native}
}

func (a *app) showAttachment(pid int, o profiler.AttachOptions, at *profiler.Attachment) {
	st := a.stdoutStyle()
	if at.Already {
		fmt.Fprintf(a.Stdout, "%s was tracked already; nothing was changed\n", st.bold(fmt.Sprintf("process %d", pid)))
		a.notes(at.Notes)
		a.hint(fmt.Sprintf("`heaptap detach %d` first, to track it in another way", pid))
		return
	}
	fmt.Fprintf(a.Stdout, "tracking %s\n", st.bold(fmt.Sprintf("process %d", pid)))
	g := grid{align: []align{left, left}}
	g.add("  python", pythonText(at.Python))
	sampling := samplingText(o.SampleBytes)
	if o.Native {
		sampling += ", with native stacks"
	}
	g.add("  hooked", joinDomains(at.Hooked)+": "+sampling)
	if on := o.OnSignal; on.Signal != 0 {
		g.add("  signal", fmt.Sprintf("%s has it write %s", profiler.SignalName(on.Signal), printable(on.Pattern)))
	}
	g.add("  pause", fmt.Sprintf("%s of thread %d; done in %s", durationText(at.Pause), at.Tid, durationText(at.Took)))
	g.write(a.Stdout, 0, nil)
	a.notes(at.Notes)
	if a.Term.Stderr {
		a.hint(fmt.Sprintf("look with `heaptap status %d`, take a snapshot with `heaptap dump %d`", pid, pid))
	}
}

// onSignalFlag is a signal and where the files go that it asks for, on the command line: "USR2" or "USR2=/tmp/%p-%n".
type onSignalFlag profiler.OnSignal

func (f *onSignalFlag) String() string {
	if f.Signal == 0 {
		return ""
	}
	return profiler.SignalName(f.Signal) + "=" + f.Pattern
}
func (f *onSignalFlag) Type() string { return "SIGNAL[=FILE]" }
func (f *onSignalFlag) Set(s string) error {
	name, pattern, _ := strings.Cut(s, "=")
	number, err := parseSignal(name)
	if err != nil {
		return err
	}
	o, err := (profiler.OnSignal{Signal: number, Pattern: pattern}).Resolve()
	*f = onSignalFlag(o)
	return err
}

// parseSignal reads "USR2", "SIGUSR2", "RTMIN+3" or a number.
func parseSignal(s string) (syscall.Signal, error) {
	name := strings.TrimPrefix(strings.ToUpper(strings.TrimSpace(s)), "SIG")
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return n, nil
	}
	base := 0
	if rest, ok := strings.CutPrefix(name, "RTMIN+"); ok {
		name, base = rest, rtmin
	}
	n, err := strconv.Atoi(name)
	if err != nil || n <= 0 || n > 64 {
		return 0, fmt.Errorf("%q is no signal (for example USR2)", s)
	}
	return syscall.Signal(base + n), nil
}

// rtmin is glibc's SIGRTMIN.
const rtmin = 34

// samplingText tells which blocks are tracked.
func samplingText(sampleBytes uint64) string {
	if sampleBytes == 0 {
		return "every block"
	}
	return "one sample in " + sizeText(sampleBytes)
}

// pythonText is "CPython 3.11.2, static, debug (/usr/bin/python3.11)".
func pythonText(p profiler.Python) string {
	s := "CPython " + p.Version + ", " + buildText(p)
	if p.Path != "" {
		s += " (" + printable(p.Path) + ")"
	}
	return s
}

// buildText is the flavour with what is special about it.
func buildText(p profiler.Python) string {
	s := p.Flavour
	if p.Debug {
		s += ", debug"
	}
	if p.FreeThreaded {
		s += ", free-threaded"
	}
	return s
}

// hint tells what one may want to do next.
func (a *app) hint(text string) { a.talk("hint: ", a.stderrStyle().yellow, a.name(text)) }
