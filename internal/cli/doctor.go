package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/profiler"
)

func (a *app) doctorCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor [PID]",
		Short: "Tell what would stop an attach here, and the way round it",
		Long: "Checks whether this machine, and a process if one is given, would let heaptap\n" +
			"attach, and says what to do where not. Touches nothing. The exit code is " +
			fmt.Sprint(int(ExitFindings)) + "\nwhen something would stop an attach.",
		Example: example(
			"heaptap doctor", "this machine, this user",
			"heaptap doctor 4711", "and this process",
			"heaptap doctor 4711 --json", "for scripts"),
		GroupID:           groupLook,
		Args:              atMostPid,
		ValidArgsFunction: a.completePid,
		RunE: func(c *cobra.Command, args []string) error {
			pid := 0
			if len(args) == 1 {
				var err error
				if pid, err = a.target(c, args[0]); err != nil {
					return err
				}
			}
			checks, err := a.Engine.Examine(c.Context(), pid)
			if err != nil {
				return err
			}
			if asJSON {
				err = a.writeJSON(checksJSON(pid, checks))
			} else {
				a.showChecks(pid, checks)
			}
			if err == nil && blocked(checks) > 0 {
				err = &findings{}
			}
			return err
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

func blocked(checks []profiler.Check) (n int) {
	for _, c := range checks {
		if c.Verdict == profiler.Blocks {
			n++
		}
	}
	return n
}

func (a *app) showChecks(pid int, checks []profiler.Check) {
	st := a.stdoutStyle()
	paint := map[profiler.Verdict]func(string) string{
		profiler.Fine: st.green, profiler.Warns: st.yellow, profiler.Blocks: st.red,
	}
	nameWidth := 0
	for _, c := range checks {
		nameWidth = max(nameWidth, len(c.Name))
	}
	const verdictWidth = len(profiler.Blocks)
	for _, c := range checks {
		name := fmt.Sprintf("%-*s  ", nameWidth, c.Name)
		lines := wrapFor(c.Fact, a.Term.Width(), verdictWidth+2+len(name))
		verdict := fmt.Sprintf("%-*s  ", verdictWidth, c.Verdict)
		fmt.Fprintf(a.Stdout, "%s%s%s\n", paint[c.Verdict](verdict), name, printable(lines[0]))
		blank := fmt.Sprintf("%*s", verdictWidth+2+len(name), "")
		for _, more := range lines[1:] {
			fmt.Fprintf(a.Stdout, "%s%s\n", blank, printable(more))
		}
		if c.WayRound != "" {
			hang(a.Stdout, blank+"→ ", printable(c.WayRound), a.Term.Width())
		}
	}
	fmt.Fprintln(a.Stdout)
	what := "an attach"
	if pid != 0 {
		what = fmt.Sprintf("an attach to process %d", pid)
	}
	switch n := blocked(checks); n {
	case 0:
		fmt.Fprintf(a.Stdout, "nothing would stop %s\n", what)
	default:
		fmt.Fprintf(a.Stdout, "%s would stop %s\n", plural(uint64(n), "thing", "things"), what)
	}
}

// wrapFor wraps text for the columns that are left of width behind an indent.
func wrapFor(text string, width, indent int) []string {
	if width > 0 {
		width = max(width-indent, 20)
	}
	return wrap(text, width)
}
