package cli

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/inferior"
	"github.com/heaptap/heaptap/mem"
)

func (a *app) regsCommand() *cobra.Command {
	var thread string
	var all, asJSON bool
	c := &cobra.Command{
		Use:   "regs PID [NAME=VALUE]",
		Short: "Show or set a thread's registers",
		Long: "Shows the registers of a thread, which is stopped for a moment, or sets one for\n" +
			"good. VALUE is a number or a C expression that calls nothing. A thread that\n" +
			"waits in a system call leaves it when rip is set.",
		Example: example(
			"heaptap regs 4711", "the first thread's",
			"heaptap regs 4711 --thread worker --all", "another's; x87, SSE and AVX too",
			"heaptap regs 4711 'rbx=$rbx+1'", "set one"),
		GroupID:           groupAct,
		Args:              between("PID", "[NAME=VALUE]"),
		ValidArgsFunction: a.completeAnyPid,
		RunE: a.act(func(c *cobra.Command, p Inferior, args []string) error {
			t, err := a.threadOf(p, thread)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return a.setRegister(c, p, t, args[0], asJSON)
			}
			r, err := p.Registers(c.Context(), t.Tid)
			if err != nil {
				return err
			}
			shown := r.All()
			if !all {
				shown = slices.DeleteFunc(shown, func(x inferior.Register) bool {
					return x.Class != inferior.General && x.Class != inferior.Segment
				})
			}
			if asJSON {
				return a.writeJSON(registersJSON(a.pid, t, shown))
			}
			a.showRegisters(p, t, shown)
			return nil
		}),
	}
	c.Flags().StringVar(&thread, "thread", "", "a `TID` or a thread's name (the first thread)")
	c.Flags().BoolVar(&all, "all", false, "x87, SSE and AVX registers too")
	jsonFlag(c, &asJSON)
	a.completeThread(c)
	return c
}

func (a *app) setRegister(c *cobra.Command, p Inferior, t inferior.Thread, text string, asJSON bool) error {
	name, expression, ok := strings.Cut(text, "=")
	if !ok || name == "" || expression == "" {
		return wrongUse(c, "%q: to set a register, write NAME=VALUE", text)
	}
	name = strings.TrimPrefix(strings.TrimSpace(name), "$")
	value, err := strconv.ParseUint(expression, 0, 64)
	if err != nil {
		if value, err = p.Value(c.Context(), expression, t.Tid); err != nil {
			return err
		}
	}
	before, after, err := p.SetRegister(c.Context(), t.Tid, name, value)
	if err != nil {
		return err
	}
	if asJSON {
		return a.writeJSON(registerChange{a.pid, t.Tid, t.Name, after.Name, hexValue(before), hexValue(after)})
	}
	fmt.Fprintf(a.Stdout, "%s of %s: %s, was %s\n", after.Name, printable(t.String()), a.registerText(p, after),
		a.registerText(p, before))
	return nil
}

func (a *app) showRegisters(p Inferior, t inferior.Thread, registers []inferior.Register) {
	st := a.stdoutStyle()
	fmt.Fprintln(a.Stdout, st.bold(printable(t.String())))
	g := grid{align: []align{left, left, left}}
	for _, r := range registers {
		g.add("  "+r.Name, hexValue(r), printable(registerNote(p, r)))
	}
	g.write(a.Stdout, a.Term.Width(), nil)
}

func (a *app) registerText(p Inferior, r inferior.Register) string {
	s := hexValue(r)
	if note := registerNote(p, r); note != "" {
		s += " (" + printable(note) + ")"
	}
	return s
}

// registerNote says what a general register holds: flags, what is at the address, or a number in decimal.
func registerNote(p Inferior, r inferior.Register) string {
	if r.Class != inferior.General {
		return ""
	}
	v := r.Uint64()
	switch {
	case r.Name == "eflags":
		return strings.Join(inferior.Flags(v), " ")
	case r.Name == "orig_rax" && int64(v) >= 0:
		return "in " + inferior.SyscallName(v)
	}
	if name := p.Describe(mem.Addr(v)).String(); name != "" {
		return name
	}
	if n := int64(v); len(r.Bytes) == 8 && n > -1<<16 && n < 1<<32 {
		return strconv.FormatInt(n, 10)
	}
	return ""
}

// hexValue is a register's value, the most significant byte first.
func hexValue(r inferior.Register) string {
	if len(r.Bytes) <= 8 {
		return fmt.Sprintf("%#x", r.Uint64())
	}
	b := slices.Clone(r.Bytes)
	slices.Reverse(b)
	return "0x" + hex.EncodeToString(b)
}

type registerValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type registersValue struct {
	Pid       int             `json:"pid"`
	Tid       int             `json:"tid"`
	Thread    string          `json:"thread"`
	Registers []registerValue `json:"registers"`
}

type registerChange struct {
	Pid    int    `json:"pid"`
	Tid    int    `json:"tid"`
	Thread string `json:"thread"`
	Name   string `json:"name"`
	Before string `json:"before"`
	Value  string `json:"value"`
}

func registersJSON(pid int, t inferior.Thread, registers []inferior.Register) registersValue {
	v := registersValue{Pid: pid, Tid: t.Tid, Thread: t.Name, Registers: []registerValue{}}
	for _, r := range registers {
		v.Registers = append(v.Registers, registerValue{r.Name, hexValue(r)})
	}
	return v
}
