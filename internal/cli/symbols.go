package cli

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/inferior"
	"github.com/heaptap/heaptap/mem"
)

func (a *app) symbolsCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "symbols PID [PATTERN]",
		Short: "Find functions and variables by name, or name an address",
		Long: "Lists the functions and variables of a running process whose names match: of its\n" +
			"modules as they are in memory, and of symbol tables and debug files that fit.\n" +
			"PATTERN is a name with * and ?, a /regular expression/, either after MODULE! if\n" +
			"wanted, or an address. Names of C++ and Rust are found as one would write them.",
		Example: example(
			"heaptap symbols 4711 'libc!mem*'", "of one library",
			"heaptap symbols 4711 '/^PyErr_.*String/'", "by regular expression",
			"heaptap symbols 4711 0x7f3b5ac4e2ec", "what is at an address?"),
		GroupID:           groupAct,
		Args:              between("PID", "[PATTERN]"),
		ValidArgsFunction: a.completeAnyPid,
		RunE: a.act(func(c *cobra.Command, p Inferior, args []string) error {
			pattern := "*"
			if len(args) == 1 {
				pattern = args[0]
			}
			found, err := searchSymbols(p, pattern)
			if err != nil {
				return err
			}
			if asJSON {
				return a.writeJSON(symbolsJSON(found))
			}
			if len(found) == 0 {
				return &noMatchError{a.pid, pattern}
			}
			a.showSymbols(found)
			return nil
		}),
	}
	jsonFlag(c, &asJSON)
	return c
}

// noMatchError says that no symbol matches.
type noMatchError struct {
	pid     int
	pattern string
}

func (e *noMatchError) Error() string {
	return fmt.Sprintf("no symbol of process %d matches %s", e.pid, e.pattern)
}

func searchSymbols(p Inferior, pattern string) ([]inferior.Symbol, error) {
	if n, err := strconv.ParseUint(pattern, 0, 64); err == nil {
		if l := p.Describe(mem.Addr(n)); l.Symbol != nil {
			return []inferior.Symbol{*l.Symbol}, nil
		}
		return nil, nil
	}
	return p.Search(pattern)
}

func (a *app) showSymbols(found []inferior.Symbol) {
	g := grid{align: []align{left, right, left, left, left}}
	g.add("ADDRESS", "SIZE", "KIND", "SYMBOL", "FROM")
	for i := range found {
		f := &found[i]
		kind := f.Kind().String()
		if f.Bound != 0 {
			kind += ", bound to " + f.Bound.String()
		}
		g.add(f.Addr.String(), strconv.FormatUint(f.Size, 10), kind, printable(f.String()), printable(fromText(f)))
	}
	g.write(a.Stdout, a.Term.Width(), a.stdoutStyle().header)
}

// fromText is the table, and the file where it is not the module's own.
func fromText(f *inferior.Symbol) string {
	s := f.Source.String()
	if f.From != "" && f.From != f.Module.Path {
		s += " " + f.From
	}
	if f.File != "" {
		s += ", " + f.File
	}
	return s
}

type symbolValue struct {
	Name      string `json:"name"`
	Demangled string `json:"demangled"`
	Version   string `json:"version"`
	Module    string `json:"module"`
	Addr      string `json:"addr"`
	Size      uint64 `json:"size"`
	Kind      string `json:"kind"`
	Bound     string `json:"bound"`
	Source    string `json:"source"`
	From      string `json:"from"`
	File      string `json:"file"`
}

func symbolsJSON(found []inferior.Symbol) []symbolValue {
	out := make([]symbolValue, 0, len(found))
	for i := range found {
		f := &found[i]
		v := symbolValue{f.Name, f.Demangled, f.Version, f.Module.Path, f.Addr.String(), f.Size, f.Kind().String(), "",
			f.Source.String(), f.From, f.File}
		if f.Kind() == dso.IFunc && f.Bound != 0 {
			v.Bound = f.Bound.String()
		}
		out = append(out, v)
	}
	return out
}
