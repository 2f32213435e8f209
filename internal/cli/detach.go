package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/profiler"
)

func (a *app) detachCommand() *cobra.Command {
	return a.endCommand(ending{
		use:   "detach PID",
		short: "Stop tracking and take the agent out",
		long: "Stops tracking: puts back every word that was hooked, takes the agent out of the\n" +
			"process and checks that all is as it was. What was counted is gone then: take a\n" +
			"last `heaptap dump` before.",
		example: example("heaptap detach 4711", "stop tracking",
			"heaptap detach 4711 --tree", "also in its children"),
		done:   "detached from",
		do:     a.Engine.Detach,
		doTree: a.Engine.DetachTree,
	})
}

func (a *app) repairCommand() *cobra.Command {
	return a.endCommand(ending{
		use:   "repair PID",
		short: "Finish an attach or detach that was cut short",
		long: "Finishes an attach or detach that was cut short: gives back everything that\n" +
			"heaptap has borrowed from the process. The process runs on without it, too.",
		example:   example("heaptap repair 4711", "after `status` says incomplete"),
		done:      "repaired",
		untracked: "nothing of heaptap was in the process",
		do:        a.Engine.Repair,
		doTree:    a.Engine.RepairTree,
	})
}

// ending is what detach and repair differ in.
type ending struct {
	use, short, long, example, done string
	untracked                       string // what to say of a process without an agent; "" makes that an error
	do                              func(context.Context, int) (*profiler.Detachment, error)
	doTree                          func(context.Context, int) ([]profiler.Member[*profiler.Detachment], error)
}

func (a *app) endCommand(e ending) *cobra.Command {
	var tree, asJSON bool
	c := &cobra.Command{
		Use:               e.use,
		Short:             e.short,
		Long:              e.long,
		Example:           e.example,
		GroupID:           groupTrack,
		Args:              exactly("PID"),
		ValidArgsFunction: a.completePid,
		RunE: func(c *cobra.Command, args []string) error {
			pid, err := a.target(c, args[0])
			if err != nil {
				return err
			}
			if tree {
				return a.endTree(c.Context(), e, pid, asJSON)
			}
			d, err := e.do(c.Context(), pid)
			if e.untracked != "" && errors.Is(err, profiler.ErrNotTracked) {
				a.note(e.untracked)
				d, err = &profiler.Detachment{Unmapped: true}, nil
			}
			if err != nil {
				return err
			}
			if asJSON {
				return a.writeJSON(detachmentJSON(pid, d))
			}
			a.showDetachment(e.done, pid, d)
			return nil
		},
	}
	c.Flags().BoolVar(&tree, "tree", false, "of it and all processes below it")
	jsonFlag(c, &asJSON)
	return c
}

func (a *app) showDetachment(done string, pid int, d *profiler.Detachment) {
	fmt.Fprintf(a.Stdout, "%s %s\n", done, a.stdoutStyle().bold(fmt.Sprintf("process %d", pid)))
	agent := "gone from the process"
	if !d.Unmapped {
		agent = "stays mapped, and lets everything through: " + printable(d.Why)
	}
	g := grid{align: []align{left, left}}
	hooks := plural(uint64(d.Restored), "word", "words")
	if d.Slots > 0 {
		hooks += " and " + plural(uint64(d.Slots), "slot", "slots")
	}
	g.add("  hooks", hooks+" put back")
	g.add("  agent", agent)
	g.add("  pause", durationText(d.Pause))
	g.write(a.Stdout, 0, nil)
	a.notes(d.Foreign)
}
