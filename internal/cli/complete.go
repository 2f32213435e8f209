package cli

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// completePid offers the Python processes as the first argument.
func (a *app) completePid(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := a.Engine.List(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var offers []string
	for _, p := range list {
		if pid := strconv.Itoa(p.Pid); strings.HasPrefix(pid, prefix) {
			offers = append(offers, cobra.CompletionWithDesc(pid, clip(printable(p.Command), 60)))
		}
	}
	return offers, cobra.ShellCompDirectiveNoFileComp
}

// completeSnapshot offers files that look like snapshots as the first argument.
func completeSnapshot(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return []string{"gz"}, cobra.ShellCompDirectiveFilterFileExt
}

// fixedCompletion offers the same values always.
func (a *app) fixedCompletion(c *cobra.Command, flag string, values ...string) {
	err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag's name is wrong in the lines above the call
	}
}
