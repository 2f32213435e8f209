package cli

import (
	"cmp"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/profiler"
)

func (a *app) psCommand() *cobra.Command {
	var tree, asJSON bool
	c := &cobra.Command{
		Use:   "ps",
		Short: "List the Python processes",
		Long: "Lists the Python processes that can be seen from here, with their exact\n" +
			"versions, and tells which are tracked.",
		Example: example(
			"heaptap ps", "list them",
			"heaptap ps --tree", "children below their parents",
			"sudo heaptap ps", "those of other users too",
			"heaptap ps --json | jq '.[].pid'", "for scripts"),
		GroupID:           groupLook,
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.Engine.List(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return a.writeJSON(candidatesJSON(list))
			}
			depth := make([]int, len(list))
			if tree {
				list, depth = forest(list)
			}
			a.showCandidates(list, depth)
			return nil
		},
	}
	c.Flags().BoolVar(&tree, "tree", false, "show children below their parents")
	jsonFlag(c, &asJSON)
	return c
}

// forest orders processes so that children stand behind their parents, and tells how deep each stands.
func forest(list []profiler.Candidate) (ordered []profiler.Candidate, depth []int) {
	children := map[int][]profiler.Candidate{}
	listed := map[int]bool{}
	for _, c := range list {
		listed[c.Pid] = true
		children[c.Parent] = append(children[c.Parent], c)
	}
	var add func(c profiler.Candidate, deep int)
	add = func(c profiler.Candidate, deep int) {
		ordered, depth = append(ordered, c), append(depth, deep)
		for _, child := range children[c.Pid] {
			add(child, deep+1)
		}
	}
	for _, c := range list {
		if !listed[c.Parent] {
			add(c, 0)
		}
	}
	return ordered, depth
}

// showCandidates shows processes, the commands indented by their depth.
func (a *app) showCandidates(list []profiler.Candidate, depth []int) {
	if len(list) == 0 {
		fmt.Fprintln(a.Stderr, "no Python process can be seen from here")
		return
	}
	g := grid{align: []align{right, left, left, right, left, left, left}}
	g.add("PID", "PYTHON", "BUILD", "RSS", "USER", "TRACKED", "COMMAND")
	problems := map[string][]int{}
	var order []string
	for i, p := range list {
		g.add(strconv.Itoa(p.Pid), versionText(p.Python), cmp.Or(p.Python.Flavour, "?"), sizeText(p.RSS),
			printable(p.User), cmp.Or(trackedText(p.Tracked), "-"),
			strings.Repeat("  ", depth[i])+a.commandText(p.Command))
		if p.Problem != "" {
			if problems[p.Problem] == nil {
				order = append(order, p.Problem)
			}
			problems[p.Problem] = append(problems[p.Problem], p.Pid)
		}
	}
	st := a.stdoutStyle()
	g.write(a.Stdout, a.Term.Width(), st.header)
	if len(order) > 0 {
		fmt.Fprintln(a.Stdout)
	}
	for _, why := range order {
		hang(a.Stdout, pidsText(problems[why])+": ", plain, printable(why), a.Term.Width())
	}
}

// versionText is the version with the letters that CPython itself puts behind it: t for free-threaded, d for debug.
func versionText(p profiler.Python) string {
	s := cmp.Or(p.Version, "?")
	if p.FreeThreaded {
		s += "t"
	}
	if p.Debug {
		s += "d"
	}
	return s
}

// commandText is a command line; where room is short, without the folder of its program, since what tells one Python
// from another stands behind.
func (a *app) commandText(command string) string {
	if a.Term.Width() > 0 {
		program, rest, _ := strings.Cut(command, " ")
		command = strings.TrimSpace(path.Base(program) + " " + rest)
	}
	return printable(command)
}

// trackedText is short enough for a column.
func trackedText(s profiler.State) string {
	if s == profiler.Tracking {
		return "yes"
	}
	return string(s)
}

// pidsText names the first few of many processes.
func pidsText(pids []int) string {
	const most = 5
	s := ""
	for i, pid := range pids[:min(len(pids), most)] {
		if i > 0 {
			s += ", "
		}
		s += strconv.Itoa(pid)
	}
	if rest := len(pids) - most; rest > 0 {
		s += fmt.Sprintf(" and %d more", rest)
	}
	return s
}
