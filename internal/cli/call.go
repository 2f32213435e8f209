package cli

import (
	"fmt"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/cexpr"
	"github.com/heaptap/heaptap/inferior"
)

// instants are the values of --when but for entry:FUNCTION.
var instants = map[string]call.When{"safe": call.Safe, "now": call.Now}

func (a *app) callCommand() *cobra.Command {
	var o inferior.Options
	var when string
	var explain, trace, asJSON bool
	c := &cobra.Command{
		Use:   "call PID EXPRESSION...",
		Short: "Call functions in a process, by C expressions",
		Long: "Evaluates C expressions in a running process, which may call any function in it.\n" +
			"One thread is borrowed, at a point where it holds nothing that the functions\n" +
			"need, and given back as it was; the others run on.\n\n" +
			"Expressions are C's: literals, \"strings\", $registers, names of functions and\n" +
			"variables (qualified where need be: libc.so.6!malloc, file.c:name), operators,\n" +
			"casts, several separated by ;. buf(N) is an out-buffer, shown after the call. $1\n" +
			"is the first result; $name = VALUE makes a variable. Where nobody knows what a\n" +
			"function returns, a cast says it: (double)f(1.5), (char*)g().\n\n" +
			"A Python function (Py...) is only called by a thread that holds the GIL:\n" +
			"$g = PyGILState_Ensure(); ...; PyGILState_Release($g) takes it.",
		Example: example(
			"heaptap call 4711 'fprintf(stderr, \"rip = %p\\n\", $rip)'", "as a gdb user would",
			"heaptap call 4711 'malloc_trim(0)' 'getpid()'", "several at once",
			"heaptap call 4711 '(char*)getenv(\"HOME\")'", "of unknown type",
			"heaptap call 4711 'getcwd(buf(256), 256)'", "and the buffer",
			"heaptap call 4711 'free($rdi)' --explain", "do not do it"),
		GroupID:           groupAct,
		Args:              atLeast("PID", "EXPRESSION"),
		ValidArgsFunction: a.completeSymbol,
		RunE: a.act(func(c *cobra.Command, p Inferior, args []string) error {
			var err error
			if o.When, o.Entry, err = parseWhen(c, when); err != nil {
				return err
			}
			if o.Timeout <= 0 {
				return wrongUse(c, "--timeout %v: it is longer than nothing", o.Timeout)
			}
			if trace {
				o.Trace = a.traceStep(p)
			}
			if explain {
				e, err := p.Explain(c.Context(), args, o)
				if e != nil {
					err = firstError(a.explain(p, args, o, e, asJSON), err)
				}
				return err
			}
			e, err := p.Evaluate(c.Context(), args, o)
			return a.showEvaluation(p, e, err, asJSON)
		}),
	}
	f := c.Flags()
	f.StringVar(&when, "when", "safe", "`INSTANT`: safe, now, or entry:FUNCTION, when a thread enters that")
	f.DurationVar(&o.Timeout, "timeout", 10*time.Second, "longest wait for the instant, and longest call")
	f.StringVar(&o.Thread, "thread", "any", "a `TID`, a thread's name, or any that can be used at once")
	f.BoolVar(&o.StopAll, "stop-all", false, "hold all other threads meanwhile")
	f.BoolVar(&o.Keep, "keep", false, "leave strings and buffers in the process for good")
	f.BoolVar(&o.Force, "force", false, "call what may hang or crash the process, too: Python without the GIL")
	f.BoolVar(&explain, "explain", false, "show what would be done, without doing it")
	f.BoolVar(&trace, "trace", false, "show each step as it happens")
	jsonFlag(c, &asJSON)
	a.fixedCompletion(c, "when", "safe", "now", "entry:")
	a.completeThread(c)
	return c
}

// firstError is the first that is not nil.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func parseWhen(c *cobra.Command, text string) (call.When, string, error) {
	if w, ok := instants[text]; ok {
		return w, "", nil
	}
	const entry = "entry:"
	if len(text) > len(entry) && text[:len(entry)] == entry {
		return call.Entry, text[len(entry):], nil
	}
	return 0, "", wrongUse(c, "--when %q: it is safe, now or entry:FUNCTION", text)
}

// traceStep shows a step on stderr while the thread stands.
func (a *app) traceStep(p Inferior) func(call.Step) {
	return func(s call.Step) {
		line := fmt.Sprintf("%10s  %-22s", durationText(s.Since), s.Name)
		if s.Tid != 0 {
			line += fmt.Sprintf("  thread %d", s.Tid)
		}
		if s.PC != 0 {
			line += "  pc " + placeText(p.Describe(s.PC))
		}
		if s.Detail != "" {
			line += "  " + printable(s.Detail)
		}
		fmt.Fprintln(a.Stderr, a.stderrStyle().dim(line))
	}
}

// showEvaluation prints results as gdb does. Those before an error are shown too; as JSON nothing is, then.
func (a *app) showEvaluation(p Inferior, e *inferior.Evaluation, err error, asJSON bool) error {
	if asJSON {
		if err != nil {
			return err
		}
		return a.writeJSON(evaluationJSON(a.pid, e))
	}
	st := a.stdoutStyle()
	for i := range e.Outcomes {
		o := &e.Outcomes[i]
		if o.Number > 0 {
			line := fmt.Sprintf("%s = %s", st.bold(fmt.Sprintf("$%d", o.Number)), printable(o.Text))
			if o.Errno != 0 {
				line += "  " + st.yellow(errnoText(o.Errno))
			}
			fmt.Fprintln(a.Stdout, line)
		}
		for _, b := range o.Buffers {
			fmt.Fprintf(a.Stdout, "  buf at %#x = %s\n", b.Addr, printable(b.Text))
		}
	}
	for _, k := range e.Kept {
		a.note(fmt.Sprintf("kept in the process: %d bytes at %v", k.Size, k.Addr))
	}
	a.notes(e.Notes)
	if err == nil && a.Term.Stderr && e.Thread.Tid != 0 {
		a.note(fmt.Sprintf("%v was held for %s", e.Thread, durationText(e.Pause)))
	}
	return err
}

// errnoText is "errno 2 (ENOENT): no such file or directory".
func errnoText(n int) string {
	e := syscall.Errno(n)
	name := unix.ErrnoName(e)
	if name == "" {
		return fmt.Sprintf("errno %d", n)
	}
	return fmt.Sprintf("errno %d (%s): %v", n, name, e)
}

type bufferValue struct {
	Addr  string `json:"addr"`
	Bytes string `json:"bytes"`
	Text  string `json:"text"`
}

type outcomeValue struct {
	Expression string        `json:"expression"`
	Number     int           `json:"number"`
	Text       string        `json:"text"`
	Type       string        `json:"type"`
	Value      any           `json:"value"`
	Errno      int           `json:"errno"`
	ErrnoName  string        `json:"errno_name"`
	Buffers    []bufferValue `json:"buffers"`
}

type evaluationValue struct {
	Pid     int            `json:"pid"`
	Tid     int            `json:"tid"`
	Thread  string         `json:"thread"`
	PauseNS int64          `json:"pause_ns"`
	Results []outcomeValue `json:"results"`
	Kept    []rangeValue   `json:"kept"`
	Notes   []string       `json:"notes"`
}

type rangeValue struct {
	Addr  string `json:"addr"`
	Bytes uint64 `json:"size_bytes"`
}

func evaluationJSON(pid int, e *inferior.Evaluation) evaluationValue {
	v := evaluationValue{Pid: pid, Tid: e.Thread.Tid, Thread: e.Thread.Name, PauseNS: int64(e.Pause),
		Results: []outcomeValue{}, Kept: []rangeValue{}, Notes: list(e.Notes)}
	for i := range e.Outcomes {
		v.Results = append(v.Results, outcomeJSON(&e.Outcomes[i]))
	}
	for _, k := range e.Kept {
		v.Kept = append(v.Kept, rangeValue{k.Addr.String(), k.Size})
	}
	return v
}

func outcomeJSON(o *cexpr.Outcome) outcomeValue {
	v := outcomeValue{Expression: o.Source, Number: o.Number, Text: o.Text, Errno: o.Errno, Buffers: []bufferValue{}}
	if o.Errno != 0 {
		v.ErrnoName = unix.ErrnoName(syscall.Errno(o.Errno))
	}
	if o.Number > 0 {
		v.Type, v.Value = typeText(o.Value.Type), valueJSON(&o.Value, o.Text)
	}
	for _, b := range o.Buffers {
		v.Buffers = append(v.Buffers, bufferValue{fmt.Sprintf("%#x", b.Addr), fmt.Sprintf("%x", b.Bytes), b.Text})
	}
	return v
}
