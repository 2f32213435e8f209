package cli

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/proc"
)

// completeAnyPid offers all processes as the first argument.
func (a *app) completeAnyPid(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	pids, err := proc.List()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var offers []string
	for _, pid := range pids {
		if text := strconv.Itoa(pid); strings.HasPrefix(text, prefix) {
			offers = append(offers, cobra.CompletionWithDesc(text, commandName(pid)))
		}
	}
	return offers, cobra.ShellCompDirectiveNoFileComp
}

// commandName is a process's name, "" where it cannot be told.
func commandName(pid int) string {
	p, err := proc.Open(pid)
	if err != nil {
		return ""
	}
	defer p.Close()
	st, err := p.Stat(pid)
	if err != nil {
		return ""
	}
	return printable(st.Comm)
}

// opened opens the process that the first argument names, for a completion.
func (a *app) opened(args []string) (Inferior, bool) {
	if len(args) == 0 {
		return nil, false
	}
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return nil, false
	}
	p, err := a.Open(pid)
	return p, err == nil
}

// maxOffers bounds how many symbols are offered.
const maxOffers = 200

// completeSymbol offers processes, then names of the process.
func (a *app) completeSymbol(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return a.completeAnyPid(c, args, prefix)
	}
	directive := cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	p, ok := a.opened(args)
	if !ok || prefix == "" || strings.ContainsAny(prefix, "*?[/( ") {
		return nil, directive
	}
	defer p.Close()
	found, err := p.Search(prefix + "*")
	if err != nil {
		return nil, directive
	}
	seen := make(map[string]bool)
	var offers []string
	module, _, qualified := strings.Cut(prefix, "!")
	for i := range found {
		name := found[i].Name
		if qualified {
			name = module + "!" + name
		}
		if !seen[name] && len(offers) < maxOffers {
			seen[name] = true
			offers = append(offers, cobra.CompletionWithDesc(name, printable(found[i].Module.Name())))
		}
	}
	return offers, directive
}

// completeThread offers the process's threads for --thread.
func (a *app) completeThread(c *cobra.Command) {
	offer := func(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		p, ok := a.opened(args)
		if !ok {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer p.Close()
		threads, err := p.Threads()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var offers []string
		for _, t := range threads {
			if text := strconv.Itoa(t.Tid); strings.HasPrefix(text, prefix) {
				offers = append(offers, cobra.CompletionWithDesc(text, printable(t.Name)))
			}
		}
		return offers, cobra.ShellCompDirectiveNoFileComp
	}
	if err := c.RegisterFlagCompletionFunc("thread", offer); err != nil {
		panic(err) // the command has no such flag
	}
}
