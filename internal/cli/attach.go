package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/profiler"
)

func (a *app) attachCommand() *cobra.Command {
	var sample sizeFlag
	var domains domainsFlag
	var temporary int
	var asJSON bool
	c := &cobra.Command{
		Use:   "attach PID",
		Short: "Start tracking allocations",
		Long: "Tracks every allocation of a running Python process from now on: of Python's\n" +
			"own allocators, and by malloc and mmap of C code. Returns at once; tracking\n" +
			"goes on without heaptap until `heaptap detach`. Allocations from before the\n" +
			"attach are not seen.",
		Example: example(
			"heaptap attach 4711", "exact: every block",
			"heaptap attach 4711 --sample 512KiB", "cheap enough to leave on",
			"heaptap attach 4711 --temporary 1", "also count blocks freed at once",
			"heaptap attach 4711 --domains raw,mem,obj", "Python's allocators only"),
		GroupID:           groupTrack,
		Args:              exactly("PID"),
		ValidArgsFunction: a.completePid,
		RunE: func(c *cobra.Command, args []string) error {
			pid, err := a.target(c, args[0])
			if err != nil {
				return err
			}
			options := profiler.AttachOptions{SampleBytes: uint64(sample), Domains: domains, Temporary: temporary}
			at, err := a.Engine.Attach(c.Context(), pid, options)
			if err != nil {
				return err
			}
			if asJSON {
				return a.writeJSON(attachmentJSON(pid, options, at))
			}
			a.showAttachment(pid, options, at)
			return nil
		},
	}
	c.Flags().Var(&sample, "sample", "track a sample: one for so many allocated bytes, on average (such as 512KiB)")
	c.Flags().Lookup("sample").DefValue = ""
	c.Flags().Var(&domains, "domains", "track only these: raw, mem, obj (CPython's allocators), malloc, mmap")
	c.Flags().IntVar(&temporary, "temporary", 0,
		fmt.Sprintf("count blocks that are freed within so many allocations of their thread, at most %d", profiler.MostTemporary))
	jsonFlag(c, &asJSON)
	a.fixedCompletion(c, "sample", "64KiB", "512KiB", "4MiB")
	a.fixedCompletion(c, "domains", "raw,mem,obj,malloc,mmap", "raw,mem,obj", "malloc,mmap")
	return c
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
	g.add("  hooked", joinDomains(at.Hooked)+": "+samplingText(o.SampleBytes))
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
