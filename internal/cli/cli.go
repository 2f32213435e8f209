// Package cli is heaptap's command line: one file for each command, one table that turns errors into hints and exit
// codes, and nothing that a Go program would want to call instead of package profiler.
//
// stdout carries data, stderr carries talk. All effects come in through an [Env].
package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// Main runs heaptap with the arguments that follow the program's name and returns its exit code.
func Main(args []string, env Env) int {
	ctx, stop := env.Interruptible(context.Background())
	defer stop()
	a := &app{Env: env}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	return int(a.conclude(ctx, err))
}

// app is one run of heaptap.
type app struct {
	Env
	pid int // the process that the command is about, 0 where there is none
}

// The groups of commands in the help.
const (
	groupLook   = "look"
	groupTrack  = "track"
	groupReport = "report"
	groupAct    = "act"
)

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "heaptap",
		Short: "heaptap finds out where a running Python process keeps its memory",
		Long: "heaptap finds out where a running Python process keeps its memory. It attaches\n" +
			"while the process runs, needs nothing installed in it, and tracks every\n" +
			"allocation from that moment.",
		Example: example(
			"heaptap demo", "see it at work on a small leaking server",
			"heaptap ps", "which Python processes are there?",
			"heaptap attach 4711", "start tracking, at once",
			"heaptap dump 4711 -o now.pb.gz", "take a snapshot, tracking goes on",
			"heaptap report now.pb.gz", "where the live memory was allocated",
			"heaptap detach 4711", "stop tracking"),
		Version:           version(),
		Args:              a.rootArgs,
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
	}
	root.SuggestionsMinimumDistance = 2
	cobra.EnableCommandSorting = false // the order below is that of use
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return wrongUse(c, "%w", err) })
	root.SetHelpTemplate(helpTemplate)
	root.SetUsageTemplate(usageTemplate)
	root.SetVersionTemplate("heaptap {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = false
	root.AddGroup(
		&cobra.Group{ID: groupLook, Title: "Look around:"},
		&cobra.Group{ID: groupTrack, Title: "Track a process:"},
		&cobra.Group{ID: groupReport, Title: "Read a snapshot:"},
		&cobra.Group{ID: groupAct, Title: "Act on any process, Python or not:"})
	root.AddCommand(
		a.psCommand(), a.doctorCommand(), a.demoCommand(),
		a.runCommand(), a.attachCommand(), a.statusCommand(), a.topCommand(), a.dumpCommand(), a.watchCommand(), a.leaksCommand(),
		a.detachCommand(), a.repairCommand(),
		a.reportCommand(), a.diffCommand(),
		a.callCommand(), a.stackCommand(), a.symbolsCommand(), a.regsCommand(), a.peekCommand(), a.pokeCommand(),
		exitCodesTopic(), jsonTopic(), filtersTopic(), nativeTopic())
	root.SetHelpCommand(helpCommand())
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Short = "Print a script that completes commands and pids in your shell"
		}
	}
	return root
}

func (a *app) rootArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	e := &usageError{Command: c.CommandPath(), Err: fmt.Errorf("there is no command %q", args[0])}
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		e.Hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return e
}

// usageError is a wrong command line.
type usageError struct {
	Command string // path of the command whose help shows the right one
	Err     error
	Hint    string // "" where the help is the best hint
}

func wrongUse(c *cobra.Command, format string, args ...any) error {
	return &usageError{Command: c.CommandPath(), Err: fmt.Errorf(format, args...)}
}

func (e *usageError) Error() string { return e.Err.Error() }
func (e *usageError) Unwrap() error { return e.Err }

// exactly demands the named arguments, no more and no less.
func exactly(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return wrongUse(c, "%s is missing", names[len(args)])
		case len(args) > len(names):
			return wrongUse(c, "too many arguments: %q", args[len(names):])
		}
		return nil
	}
}

// atMostPid allows one argument, a pid.
func atMostPid(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		return wrongUse(c, "too many arguments: %q", args[1:])
	}
	return nil
}

// target reads a pid from the command line and makes it the process that the run is about.
func (a *app) target(c *cobra.Command, arg string) (int, error) {
	pid, err := strconv.Atoi(arg)
	if err != nil || pid <= 0 {
		return 0, wrongUse(c, "%q is not a process id", arg)
	}
	a.pid = pid
	return pid, nil
}

// writeJSON writes v as the whole of stdout.
func (a *app) writeJSON(v any) error {
	enc := json.NewEncoder(a.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return &outputError{"standard output", err}
	}
	return nil
}

// note tells the user something beside the result.
func (a *app) note(text string) { a.talk("note: ", a.stderrStyle().dim, text) }

func (a *app) notes(texts []string) {
	for _, t := range texts {
		a.note(t)
	}
}

// example lays out command lines, each followed by what it is for.
func example(pairs ...string) string {
	g := grid{align: []align{left, left}}
	for i := 0; i < len(pairs); i += 2 {
		g.add("  "+pairs[i], "# "+pairs[i+1])
	}
	var b strings.Builder
	g.write(&b, 0, nil)
	return strings.TrimRight(b.String(), "\n")
}

// version is what the build knows of itself.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	return v + " " + info.GoVersion
}
