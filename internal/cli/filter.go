package cli

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/heap"
)

// filterFlags are the flags that say which blocks somebody wants to see: the same for every command that shows some.
type filterFlags struct{ spec heap.FilterSpec }

// filterNames are the flags that add makes.
func filterNames() []string {
	return []string{"type", "module", "file", "func", "thread", "domain", "process", "min-size", "max-size", "older", "newer", "own",
		"where"}
}

// add gives the flags to a command. What names there are to complete comes from the snapshot that is its first argument.
func (f *filterFlags) add(a *app, c *cobra.Command) {
	flags := c.Flags()
	flags.StringArrayVar(&f.spec.Type, "type", nil, "only blocks of this `TYPE`; !TYPE: all but these")
	flags.StringArrayVar(&f.spec.Module, "module", nil, "only what was allocated in this `MODULE` or package")
	flags.StringArrayVar(&f.spec.File, "file", nil, "only in this `FILE` or folder")
	flags.StringArrayVar(&f.spec.Func, "func", nil, "only in this `FUNCTION`")
	flags.StringArrayVar(&f.spec.Thread, "thread", nil, "only by this `THREAD`, by name or number")
	flags.StringArrayVar(&f.spec.Domain, "domain", nil, "only of this `DOMAIN`: "+strings.Join(heap.Domains(), ", "))
	flags.StringArrayVar(&f.spec.Process, "process", nil, "only of this `PROCESS`, by name or number")
	flags.StringArrayVar(&f.spec.MinSize, "min-size", nil, "only blocks of so many `BYTES` or more, such as 1KiB")
	flags.StringArrayVar(&f.spec.MaxSize, "max-size", nil, "only blocks of so many `BYTES` or less")
	flags.StringArrayVar(&f.spec.Older, "older", nil, "only blocks of this `AGE` or older, such as 90s, 5m, 2h, 1d")
	flags.StringArrayVar(&f.spec.Newer, "newer", nil, "only blocks younger than this `AGE`")
	flags.BoolVar(&f.spec.Own, "own", false, "only in own code: no standard library, no site-packages")
	flags.StringArrayVar(&f.spec.Where, "where", nil, "only where this `EXPRESSION` holds (heaptap help filters)")
	a.fixedCompletion(c, "domain", heap.Domains()...)
	a.fixedCompletion(c, "min-size", "64", "512", "1KiB", "64KiB", "1MiB")
	a.fixedCompletion(c, "max-size", "64", "512", "1KiB", "64KiB", "1MiB")
	a.fixedCompletion(c, "older", "10s", "1m", "5m", "1h", "1d")
	a.fixedCompletion(c, "newer", "10s", "1m", "5m", "1h", "1d")
	for flag, by := range map[string]heap.Grouping{
		"type": heap.ByType, "module": heap.ByModule, "thread": heap.ByThread, "process": heap.ByProcess, "func": heap.ByFunction, "file": heap.ByLine,
	} {
		a.namesCompletion(c, flag, by)
	}
}

// namesCompletion offers the names that are in the snapshot on the command line.
func (a *app) namesCompletion(c *cobra.Command, flag string, by heap.Grouping) {
	offer := func(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 || args[0] == "-" {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		f, err := os.Open(args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer f.Close()
		s, _, err := readEither(f)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		rows := s.By(by)
		heap.SortRows(rows, heap.InuseBytes, false)
		var names []string
		for _, r := range rows {
			name := r.Name
			switch flag {
			case "func":
				name = r.Frame.Func
			case "file":
				name = r.Frame.File
			}
			name = printable(name)
			if name != "" && strings.HasPrefix(name, prefix) && !slices.Contains(names, name) && len(names) < 200 {
				names = append(names, name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
	if err := c.RegisterFlagCompletionFunc(flag, offer); err != nil {
		panic(err) // the flag's name is wrong in the lines above the call
	}
}

// parse returns the filter, nil where no flag asks for one.
func (f *filterFlags) parse() (*heap.Filter, error) {
	filter, err := heap.ParseFilter(f.spec)
	if err != nil || filter.Everything() {
		return nil, err
	}
	return filter, nil
}

// apply filters a snapshot, and notes what the filter could not decide.
func (a *app) apply(f *heap.Filter, s *heap.Snapshot) (*heap.Snapshot, error) {
	if f == nil {
		return s, nil
	}
	kept, err := f.Apply(s)
	if err != nil {
		return nil, err
	}
	a.noteUndecided(kept)
	return kept, nil
}

func (a *app) noteUndecided(s *heap.Snapshot) {
	for _, kv := range s.Info {
		if kv.Key == heap.InfoUndecided {
			a.note(kv.Value)
		}
	}
}

// pointAt shows where in a filter the error is.
func (a *app) pointAt(err error) {
	var wrong *heap.FilterError
	if !errors.As(err, &wrong) || wrong.Source == "" {
		return
	}
	if wrong.Flag == "" { // the whole is wrong
		fmt.Fprintf(a.Stderr, "  %s\n", printable(wrong.Source))
		return
	}
	at := min(wrong.Offset, len(wrong.Source))
	indent := strings.Repeat(" ", 2+utf8.RuneCountInString(printable(wrong.Source[:at])))
	fmt.Fprintf(a.Stderr, "  %s\n%s^\n", printable(wrong.Source), indent)
}

const filterHelp = `dump, watch, report, diff, leaks and top show only some of the blocks where they
are asked to. Flags are for what is asked most:

  --type dict --type 'app.*'      one type or the other; * and ? are wildcards
  --module '!json'                ! negates: everything but that
  --func Handler.get --older 5m   different flags must all hold

An expression says all else:

  --where 'type == "dict" && age > 60s && size >= 1KiB && !(file ~ "test")'

  type    whole name, or what follows a dot: "User" is app.models.User; what its
          objects own counts too, "list (items)" is just that
  func    in the same way: "get" is Handler.get
  module  a module, or a package with all in it: "json" is json.decoder. Own
          code's modules are named by their path: "shop" is srv.shop.session
  file    a part of the path: "session.py", "shop/session.py", "shop", "/srv"
  thread  name or number; domain: raw, mem, obj, malloc, mmap
  process name, program or number, where a snapshot is of several; pid: number
  line    number of the line; depth: of the stack; own: own code, no library's
  size    bytes: 512, 1KiB, 1MB; age: seconds, or 90s, 5m, 2h, 1d
  blocks  how many blocks of the same stack pass otherwise

  ==  !=  texts as above ("-" is none), or numbers     <  <=  >  >=  numbers
  ~   !~  a regular expression, found anywhere         &&  ||  !  ( )

module, file, func, line and own look at the innermost Python call, where the
block was allocated. With stack. before them they look for any call on the
stack: stack.func == "handle" is all that was allocated on behalf of handle.

At a dump each block is judged by itself. A snapshot knows ages and sizes of
blocks by range only; what it cannot decide is left out, and said. Ages are cut
off to whole seconds: > 60s and >= 60s are the same.`

// filtersTopic is what `heaptap help filters` shows.
func filtersTopic() *cobra.Command {
	return &cobra.Command{Use: "filters", Short: "Which blocks to show: types, files, ages, sizes", Long: filterHelp}
}
