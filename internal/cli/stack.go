package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/inferior"
)

func (a *app) stackCommand() *cobra.Command {
	var thread string
	var native, asJSON bool
	var limit int
	c := &cobra.Command{
		Use:   "stack PID",
		Short: "Show the stacks of all threads, native and Python's",
		Long: "Shows what each thread of a running process was doing at one instant: native\n" +
			"functions, with source lines where there is debug information, and below the\n" +
			"interpreter's evaluation the Python functions that it evaluated. The threads\n" +
			"stand still for about a millisecond; nothing is run in the process.",
		Example: example(
			"heaptap stack 4711", "all threads",
			"heaptap stack 4711 --thread worker", "one, by name or id",
			"heaptap stack 4711 --json | jq '.threads[].python'", "for scripts"),
		GroupID:           groupAct,
		Args:              exactly("PID"),
		ValidArgsFunction: a.completeAnyPid,
		RunE: a.act(func(c *cobra.Command, p Inferior, _ []string) error {
			o := inferior.StackOptions{Native: native, Limit: limit}
			if limit < 0 {
				return wrongUse(c, "--limit %d: it is a number of frames", limit)
			}
			if thread != "" {
				t, err := p.FindThread(thread)
				if err != nil {
					return err
				}
				o.Tid = t.Tid
			}
			s, err := p.Stacks(c.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				return a.writeJSON(stacksJSON(a.pid, s))
			}
			a.showStacks(s)
			return nil
		}),
	}
	c.Flags().StringVar(&thread, "thread", "", "only the thread with this `TID` or name")
	c.Flags().BoolVar(&native, "native", false, "leave Python's frames out")
	c.Flags().IntVar(&limit, "limit", 0, "at most `N` native frames of each thread (256)")
	jsonFlag(c, &asJSON)
	a.completeThread(c)
	return c
}

func (a *app) showStacks(s *inferior.Stacks) {
	for i := range s.Threads {
		if i > 0 {
			fmt.Fprintln(a.Stdout)
		}
		a.showStack(&s.Threads[i])
	}
	a.notes(s.Notes)
	if a.Term.Stderr {
		a.note(fmt.Sprintf("%s stood still for %s", plural(uint64(len(s.Threads)), "thread", "threads"), durationText(s.Pause)))
	}
}

func (a *app) showStack(t *inferior.Stack) {
	st := a.stdoutStyle()
	head := fmt.Sprintf("%s, %s", t.Thread, t.State)
	if t.GIL == inferior.HoldsGIL {
		head += ", holds the GIL"
	}
	fmt.Fprintln(a.Stdout, st.bold(printable(head)))
	for _, line := range t.Merge() {
		if line.Python != nil {
			fmt.Fprintf(a.Stdout, "  %s %s\n", st.green("python"), pythonFrameText(line.Python))
			continue
		}
		fmt.Fprintf(a.Stdout, "  %s %s\n", st.dim(fmt.Sprintf("0x%012x", uint64(line.Native.PC))), nativeFrameText(line.Native))
	}
	if t.End != nil {
		fmt.Fprintf(a.Stdout, "  %s\n", st.yellow("the stack cannot be followed further: "+printable(t.End.Error())))
	}
	if t.PyErr != nil {
		fmt.Fprintf(a.Stdout, "  %s\n", st.yellow("no Python frames: "+printable(t.PyErr.Error())))
	}
}

// nativeFrameText is "read+0x4c (libc.so.6) at read.c:26".
func nativeFrameText(f *inferior.Frame) string {
	s := f.Function
	if s == "" {
		s = "?"
	}
	if f.Offset != 0 && f.Function != "" {
		s += fmt.Sprintf("+%#x", f.Offset)
	}
	if f.Module != nil {
		s += " (" + f.Module.Name()
		if f.Function == "" {
			s += fmt.Sprintf("+%#x", f.Offset)
		}
		s += ")"
	}
	if f.File != "" {
		s += fmt.Sprintf(" at %s:%d", f.File, f.Line)
	}
	if f.Inlined {
		s += " [inlined]"
	}
	if f.Signal {
		s += " [interrupted by a signal]"
	}
	return printable(s)
}

func pythonFrameText(f *cpython.Frame) string {
	return printable(fmt.Sprintf("%s at %s:%d", f.Qualname, f.File, f.Line))
}

type frameValue struct {
	PC       string `json:"pc"`
	Function string `json:"function"`
	Offset   uint64 `json:"offset"`
	Module   string `json:"module"`
	File     string `json:"file"`
	Line     int    `json:"line"`
	Inlined  bool   `json:"inlined"`
	Signal   bool   `json:"signal"`
}

type pythonFrameValue struct {
	Function string `json:"function"`
	File     string `json:"file"`
	Line     int    `json:"line"`
}

type stackValue struct {
	Tid    int                `json:"tid"`
	Thread string             `json:"thread"`
	State  string             `json:"state"`
	GIL    *bool              `json:"gil"`
	Frames []frameValue       `json:"frames"`
	End    string             `json:"end"`
	Python []pythonFrameValue `json:"python"`
}

type stacksValue struct {
	Pid     int          `json:"pid"`
	PauseNS int64        `json:"pause_ns"`
	Threads []stackValue `json:"threads"`
	Notes   []string     `json:"notes"`
}

func stacksJSON(pid int, s *inferior.Stacks) stacksValue {
	v := stacksValue{Pid: pid, PauseNS: int64(s.Pause), Threads: []stackValue{}, Notes: list(s.Notes)}
	for i := range s.Threads {
		v.Threads = append(v.Threads, stackJSON(&s.Threads[i]))
	}
	return v
}

func stackJSON(t *inferior.Stack) stackValue {
	v := stackValue{Tid: t.Tid, Thread: t.Name, State: t.State, Frames: framesJSON(t.Frames), Python: []pythonFrameValue{}}
	if t.GIL == inferior.HoldsGIL || t.GIL == inferior.WithoutGIL {
		holds := t.GIL == inferior.HoldsGIL
		v.GIL = &holds
	}
	if t.End != nil {
		v.End = t.End.Error()
	}
	for _, f := range t.Python {
		v.Python = append(v.Python, pythonFrameValue{f.Qualname, f.File, f.Line})
	}
	return v
}

func framesJSON(frames []inferior.Frame) []frameValue {
	out := []frameValue{}
	for i := range frames {
		f := &frames[i]
		module := ""
		if f.Module != nil {
			module = f.Module.Path
		}
		out = append(out, frameValue{f.PC.String(), f.Function, f.Offset, module, f.File, f.Line, f.Inlined, f.Signal})
	}
	return out
}
