package cli

import (
	"fmt"
	"strings"

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

// verdictWidth is the length of the longest verdict.
const verdictWidth = len(profiler.Blocks)

func (a *app) showChecks(pid int, checks []profiler.Check) {
	st := a.stdoutStyle()
	paint := map[profiler.Verdict]func(string) string{
		profiler.Fine: st.green, profiler.Warns: st.yellow, profiler.Blocks: st.red,
	}
	nameWidth := 0
	for _, c := range checks {
		nameWidth = max(nameWidth, len(c.Name))
	}
	for _, c := range checks {
		label := fmt.Sprintf("%-*s  %-*s  ", verdictWidth, c.Verdict, nameWidth, c.Name)
		hang(a.Stdout, label, func(l string) string { return paint[c.Verdict](l[:verdictWidth]) + l[verdictWidth:] },
			printable(c.Fact), a.Term.Width())
		if c.WayRound != "" {
			hang(a.Stdout, strings.Repeat(" ", len(label))+"→ ", plain, printable(c.WayRound), a.Term.Width())
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
