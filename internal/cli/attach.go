package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/profiler"
)

func (a *app) attachCommand() *cobra.Command {
	var flags attachFlags
	var hold holding
	var follow followFlag
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
			"--follow=forks returns at once. A process of a few milliseconds may be missed;\n" +
			"what ends takes its numbers along.\n\n" +
			"With --hold, heaptap stays, keeps what is tracked safe from whatever becomes of\n" +
			"the process, and writes a snapshot when it ends: by itself, by SIGKILL, by the\n" +
			"OOM killer, by a crash. Ctrl-C lets go of it, and leaves it tracked.",
		Example: example(
			"heaptap attach 4711", "exact: every block",
			"heaptap attach 4711 --sample 512KiB", "cheap enough to leave on",
			"heaptap attach 4711 --temporary 1", "also count blocks freed at once",
			"heaptap attach 4711 --domains raw,mem,obj", "Python's allocators only",
			"heaptap attach 4711 --tree --follow=forks", "a server and its workers",
			"heaptap attach 4711 --hold -o last.pb.gz", "have a snapshot of its end"),
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
			options.Hold, options.Follow = hold.wanted, follow != ""
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
	g.add("  pause", fmt.Sprintf("%s of thread %d; done in %s", durationText(at.Pause), at.Tid, durationText(at.Took)))
	g.write(a.Stdout, 0, nil)
	a.notes(at.Notes)
	if a.Term.Stderr {
		a.hint(fmt.Sprintf("look with `heaptap status %d`, take a snapshot with `heaptap dump %d`", pid, pid))
	}
}

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
