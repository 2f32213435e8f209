package cli

import (
	"fmt"
	"strings"

	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/inferior"
)

// explain shows what an evaluation would do.
func (a *app) explain(p Inferior, args []string, o inferior.Options, e *inferior.Explanation, asJSON bool) error {
	if asJSON {
		return a.writeJSON(explanationJSON(a.pid, e))
	}
	st := a.stdoutStyle()
	if len(e.Calls) == 0 && e.Rest == nil {
		fmt.Fprintln(a.Stdout, "nothing would be called: no thread has to be borrowed")
		return nil
	}
	for i := range e.Calls {
		c := &e.Calls[i]
		fmt.Fprintf(a.Stdout, "%s %s\n", st.bold(fmt.Sprintf("call %d:", i+1)), printable(c.Source))
		a.explainCall(c)
		fmt.Fprintln(a.Stdout)
	}
	if e.Rest != nil {
		fmt.Fprintf(a.Stdout, "%s %s\n\n", st.bold("then:"), "not known before these calls are made")
	}
	a.explainThread(p, o, e)
	if len(e.Stub) > 0 {
		fmt.Fprintf(a.Stdout, "\n%s the thread executes, in a page of the process that has room\n", st.bold("stub:"))
		a.listing(e.Stub)
	}
	return nil
}

func (a *app) explainCall(c *inferior.PlannedCall) {
	g := grid{align: []align{left, left}}
	if c.Symbol != nil {
		g.add("  symbol", printable(c.Symbol.String()))
	}
	if c.Function.Addr != 0 {
		g.add("  address", c.Function.Addr.String())
	}
	if c.Function.Source != "" {
		g.add("  found", printable(c.Function.Source))
	}
	if t := typeText(c.Type); t != "" {
		from := c.TypeFrom
		if from != "" {
			from = ", by " + from
		}
		g.add("  type", printable(t+from))
	}
	for _, arg := range c.Arguments {
		text := fmt.Sprintf("%s = %s", arg.Source, arg.Text)
		if arg.Source == arg.Text {
			text = arg.Text
		}
		g.add("  "+arg.Where, printable(text))
	}
	if c.Call != nil && c.Call.Vectors > 0 {
		g.add("  al", fmt.Sprintf("%d vector registers", c.Call.Vectors))
	}
	if c.Call != nil && len(c.Call.Stack) > 0 {
		g.add("  stack", fmt.Sprintf("%d bytes: % x", len(c.Call.Stack), c.Call.Stack[:min(len(c.Call.Stack), 64)]))
	}
	if c.Returns != "" {
		g.add("  returns", c.Returns)
	}
	need := c.Needs.String()
	if c.NeedsGIL {
		need += ", Python's GIL"
	}
	g.add("  needs", need)
	g.write(a.Stdout, 0, nil)
	a.listing(c.Code)
}

func (a *app) listing(code []inferior.Instruction) {
	for _, in := range code {
		fmt.Fprintf(a.Stdout, "    %s  %s\n", a.stdoutStyle().dim(in.Addr.String()), instructionText(in))
	}
}

// explainThread says which thread would be borrowed, and why it can be.
func (a *app) explainThread(p Inferior, o inferior.Options, e *inferior.Explanation) {
	label := a.stdoutStyle().bold("thread: ")
	switch {
	case o.When == call.Entry:
		fmt.Fprintf(a.Stdout, "%sthe first that enters %s\n", label, printable(o.Entry))
	case e.Position == nil:
		fmt.Fprintf(a.Stdout, "%snone\n", label)
	default:
		fmt.Fprintf(a.Stdout, "%s%s\n", label, printable(e.Position.Safe()))
		if e.Position.GIL != inferior.NoPython {
			fmt.Fprintf(a.Stdout, "  %v\n", e.Position.GIL)
		}
		if why := e.Position.Why; why != "" {
			fmt.Fprintf(a.Stdout, "  not a safe point: %s\n", printable(why))
		}
		for i := range e.Position.Frames {
			fmt.Fprintf(a.Stdout, "    %s\n", nativeFrameText(&e.Position.Frames[i]))
		}
		fmt.Fprintf(a.Stdout, "  it was looked at for %s, and runs on\n", durationText(e.Pause))
	}
}

type plannedValue struct {
	Call      string          `json:"call"`
	Function  string          `json:"function"`
	Addr      string          `json:"addr"`
	Found     string          `json:"found"`
	Type      string          `json:"type"`
	TypeFrom  string          `json:"type_from"`
	Arguments []argumentValue `json:"arguments"`
	Stack     string          `json:"stack"`
	Returns   string          `json:"returns"`
	Needs     string          `json:"needs"`
	NeedsGIL  bool            `json:"needs_gil"`
}

type argumentValue struct {
	Expression string `json:"expression"`
	Where      string `json:"where"`
	Text       string `json:"text"`
	Known      bool   `json:"known"`
}

type positionValue struct {
	Tid    int          `json:"tid"`
	Thread string       `json:"thread"`
	State  string       `json:"state"`
	Safe   bool         `json:"safe"`
	Why    string       `json:"why"`
	Holds  string       `json:"holds"`
	GIL    string       `json:"gil"`
	Frames []frameValue `json:"frames"`
}

type explanationValue struct {
	Pid      int            `json:"pid"`
	Calls    []plannedValue `json:"calls"`
	Complete bool           `json:"complete"`
	Position *positionValue `json:"position"`
	Stub     []string       `json:"stub"`
	PauseNS  int64          `json:"pause_ns"`
}

func explanationJSON(pid int, e *inferior.Explanation) explanationValue {
	v := explanationValue{Pid: pid, Calls: []plannedValue{}, Complete: e.Rest == nil, Stub: []string{},
		PauseNS: int64(e.Pause)}
	for i := range e.Calls {
		v.Calls = append(v.Calls, plannedJSON(&e.Calls[i]))
	}
	for _, in := range e.Stub {
		v.Stub = append(v.Stub, in.Text)
	}
	if q := e.Position; q != nil {
		v.Position = &positionValue{q.Thread.Tid, q.Thread.Name, q.State, q.Why == "", q.Why, q.Holds.String(),
			q.GIL.String(), framesJSON(q.Frames)}
	}
	return v
}

func plannedJSON(c *inferior.PlannedCall) plannedValue {
	v := plannedValue{Call: c.Source, Function: c.Function.Name, Addr: c.Function.Addr.String(), Found: c.Function.Source,
		Type: typeText(c.Type), TypeFrom: c.TypeFrom, Arguments: []argumentValue{}, Returns: c.Returns,
		Needs: c.Needs.String(), NeedsGIL: c.NeedsGIL}
	if c.Call != nil {
		v.Stack = strings.ToLower(fmt.Sprintf("%x", c.Call.Stack))
	}
	for _, arg := range c.Arguments {
		v.Arguments = append(v.Arguments, argumentValue{arg.Source, arg.Where, arg.Text, arg.Known})
	}
	return v
}
