package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}`

const usageTemplate = `Usage:
  {{if .HasAvailableSubCommands}}{{.CommandPath}} COMMAND{{else}}{{.UseLine}}{{end}}
{{- if .HasAvailableSubCommands}}{{$all := .Commands}}{{range $group := .Groups}}

{{.Title}}{{range $all}}{{if and (eq .GroupID $group.ID) .IsAvailableCommand}}
  {{rpad .Name 12}}{{.Short}}{{end}}{{end}}{{end}}

More:{{range $all}}{{if and (eq .GroupID "") .IsAvailableCommand}}
  {{rpad .Name 12}}{{.Short}}{{end}}{{end}}{{range $all}}{{if .IsAdditionalHelpTopicCommand}}
  {{rpad .Name 12}}{{.Short}}{{end}}{{end}}{{end}}
{{- if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsagesWrapped 80 | trimTrailingWhitespaces}}{{end}}
{{- if .HasExample}}

Examples:
{{.Example}}{{end}}
{{- if .HasAvailableSubCommands}}

"{{.CommandPath}} help COMMAND" says more about each.{{end}}
`

// helpCommand shows the help of a command or topic.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Say more about a command",
		Args:  cobra.ArbitraryArgs,
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, sub := range c.Root().Commands() {
				if len(args) == 0 && (sub.IsAvailableCommand() || sub.IsAdditionalHelpTopicCommand()) {
					names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			sub, rest, err := c.Root().Find(args)
			if err != nil || sub == nil || sub == c.Root() && len(rest) > 0 {
				return wrongUse(c.Root(), "there is no command %q to help with", strings.Join(args, " "))
			}
			sub.InitDefaultHelpFlag()
			sub.InitDefaultVersionFlag()
			return sub.Help()
		},
	}
}

// exitCodesTopic is `heaptap help exit-codes`.
func exitCodesTopic() *cobra.Command {
	g := grid{align: []align{right, left}}
	for _, e := range exitCodes {
		g.add(fmt.Sprintf("%5d", e.code), e.meaning)
	}
	var b strings.Builder
	b.WriteString("heaptap ends with one of these codes. Their meaning never changes.\n\n")
	g.write(&b, 0, nil)
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: b.String()}
}

// jsonTopic is `heaptap help json`.
func jsonTopic() *cobra.Command {
	return &cobra.Command{Use: "json", Short: "What --json prints", Long: jsonHelp}
}
