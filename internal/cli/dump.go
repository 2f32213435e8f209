package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/profiler"
)

func (a *app) dumpCommand() *cobra.Command {
	var out string
	var noPause, tree, asJSON bool
	var flags filterFlags
	c := &cobra.Command{
		Use:   "dump PID",
		Short: "Take a snapshot; tracking goes on",
		Long: "Takes a snapshot of a tracked process and writes it to a file: a gzipped pprof\n" +
			"profile, for `heaptap report`, `go tool pprof` and all that read such files.\n" +
			"The process stands still while its tables are copied.",
		Example: example(
			"heaptap dump 4711", "to heaptap-4711-DATE-TIME.pb.gz",
			"heaptap dump 4711 -o now.pb.gz", "to a file of your choice",
			"heaptap dump 4711 --type dict --older 5m", "only these blocks, exactly",
			"heaptap dump 4711 --tree", "with its children, by process",
			"heaptap dump 4711 --no-pause", "don't stop it: may miss blocks",
			"heaptap dump 4711 -o - | heaptap report -", "look at once"),
		GroupID:           groupTrack,
		Args:              exactly("PID"),
		ValidArgsFunction: a.completePid,
		RunE: func(c *cobra.Command, args []string) error {
			pid, err := a.target(c, args[0])
			if err != nil {
				return err
			}
			if asJSON && out == "-" {
				return wrongUse(c, "--json and -o - both want standard output")
			}
			filter, err := flags.parse()
			if err != nil {
				return err
			}
			path := out
			if path == "" {
				path = a.snapshotName("", pid)
			}
			if tree {
				return a.dumpTree(c.Context(), pid, path, profiler.DumpOptions{NoPause: noPause, Filter: filter}, asJSON)
			}
			var d *profiler.Dump
			size, err := a.output(path, func(w io.Writer) error {
				if d, err = a.Engine.TakeDump(c.Context(), pid, profiler.DumpOptions{NoPause: noPause, Filter: filter}); err != nil {
					return err
				}
				return d.Snapshot.Write(w)
			})
			if err != nil {
				return err
			}
			if asJSON {
				return a.writeJSON(dumpJSON(pid, path, size, d))
			}
			a.showDump(path, size, noPause, d)
			return nil
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "write to `FILE`; - is standard output")
	c.Flags().BoolVar(&noPause, "no-pause", false, "read while the process runs on")
	c.Flags().BoolVar(&tree, "tree", false, "of it and all tracked processes below it, in one file")
	jsonFlag(c, &asJSON)
	flags.add(a, c)
	return c
}

// showDump talks on stderr: stdout may be the snapshot.
func (a *app) showDump(path string, size int64, noPause bool, d *profiler.Dump) {
	where := printable(path)
	if path == "-" {
		where = "standard output"
	}
	total := d.Snapshot.Total()
	pause := durationText(d.Pause)
	if noPause {
		pause = "none"
	}
	fmt.Fprintf(a.Stderr, "wrote %s (%s)\n", a.stderrStyle().bold(where), sizeText(uint64(size)))
	g := grid{align: []align{left, left}}
	g.add("  live", fmt.Sprintf("%s in %s", sizeText(uint64(total[heap.InuseBytes])),
		plural(uint64(total[heap.InuseBlocks]), "block", "blocks")))
	g.add("  pause", fmt.Sprintf("%s; done in %s", pause, durationText(d.Took)))
	g.write(a.Stderr, 0, nil)
	a.notes(d.Notes)
	a.noteUndecided(d.Snapshot)
	if a.Term.Stderr && path != "-" {
		a.hint("look at it with `heaptap report " + printable(path) + "`")
	}
}

// snapshotName is a name for a snapshot that is taken now, in a folder ("" is the present one), that does not exist yet.
func (a *app) snapshotName(dir string, pid int) string {
	stem := fmt.Sprintf("heaptap-%d-%s", pid, a.Now().Format("20060102-150405"))
	return unusedName(filepath.Join(dir, stem), ".pb.gz")
}

// unusedName makes a file name that does not exist yet.
func unusedName(stem, ext string) string {
	name := stem + ext
	for i := 2; ; i++ {
		if _, err := os.Lstat(name); err != nil {
			return name
		}
		name = fmt.Sprintf("%s-%d%s", stem, i, ext)
	}
}
