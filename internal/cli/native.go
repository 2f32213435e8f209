package cli

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/report"
	"github.com/heaptap/heaptap/symbolize"
)

// nativeFlags are the flags that say how frames of machine code are shown: the same for every command that shows any.
type nativeFlags struct {
	symbols []string
	frames  string
}

// nativeNames are the flags that add makes.
func nativeNames() []string { return []string{"symbols", "frames"} }

// add gives the flags to a command.
func (n *nativeFlags) add(a *app, c *cobra.Command) {
	c.Flags().StringVar(&n.frames, "frames", heap.MixedFrames.String(),
		"of native stacks show `WHICH` frames: mixed, python, all (heaptap help native)")
	c.Flags().StringArrayVar(&n.symbols, "symbols", nil, "look for native symbols in `DIR` first; may be repeated")
	a.fixedCompletion(c, "frames", frameViews()...)
	if err := c.MarkFlagDirname("symbols"); err != nil {
		panic(err) // the flag's name is wrong in the lines above
	}
}

// frameViews are the values of --frames.
func frameViews() []string {
	var names []string
	for v := range heap.NumFrameViews {
		names = append(names, v.String())
	}
	return names
}

// view makes what turns snapshots as they are taken into what the flags ask for: names for native frames, and those
// frames only that are wanted. What was found out about a frame is kept for the next snapshot. pid is the process that
// snapshots are of, whose file system is looked at, too; 0 for none.
func (a *app) view(c *cobra.Command, n *nativeFlags, pid int) (func(*heap.Snapshot) *heap.Snapshot, error) {
	wanted := heap.FrameView(slices.Index(frameViews(), n.frames))
	if wanted < 0 {
		return nil, wrongUse(c, "--frames %q: it is one of %s", n.frames, strings.Join(frameViews(), ", "))
	}
	for _, dir := range n.symbols {
		if _, err := os.Stat(dir); err != nil {
			return nil, &inputError{dir, err}
		}
	}
	o := symbolize.Options{Dirs: n.symbols, Caches: symbolize.CacheDirs(a.Getenv), Roots: []string{"/"}}
	if pid != 0 {
		o.Roots = []string{filepath.Join("/proc", strconv.Itoa(pid), "root"), "/"}
	}
	known := map[heap.Frame][]heap.Frame{}
	objects := map[string]symbolize.Object{} // by path
	said := map[string]bool{}                // of which objects a note was made; of NativeCut
	return func(s *heap.Snapshot) *heap.Snapshot {
		if !s.HasNative() {
			return s
		}
		all := s
		if s = s.View(wanted); wanted == heap.PythonFrames {
			return s
		}
		a.noteCut(all, said)
		// What is left out by its object is left out already; names tell what else is, further below.
		var fresh []heap.Frame
		for _, f := range s.Frames {
			if _, done := known[f]; f.Native() && !done {
				fresh = append(fresh, f)
				known[f] = nil
			}
		}
		r := symbolize.Frames(fresh, o)
		for i, f := range fresh {
			known[f] = r.Chains[i]
		}
		chains := make([][]heap.Frame, len(s.Frames))
		for i, f := range s.Frames {
			chains[i] = known[f]
		}
		s = s.ReplaceFrames(chains).View(wanted)
		for _, o := range r.Objects {
			objects[o.Path] = o
		}
		a.noteNameless(s, objects, said)
		return s
	}, nil
}

// leastCut is the share of live bytes from which it is said that native callers are not known, percent.
const leastCut = 1

// noteCut tells once of how much the native callers are not known, and why that may be.
func (a *app) noteCut(s *heap.Snapshot, said map[string]bool) {
	live := s.Total()[heap.InuseBytes]
	cut := s.CutNative()[heap.InuseBytes]
	if cut == 0 || cut*100 < live*leastCut || said[heap.NativeCut] {
		return
	}
	said[heap.NativeCut] = true
	a.note(fmt.Sprintf("native callers are not known of %s, %.1f %%: a module that was loaded since the attach is unwound from the "+
		"next dump on, code without unwind information never", report.Size(cut), float64(cut)*100/float64(live)))
}

// maxNameless is how many objects without names are told of.
const maxNameless = 3

// noteNameless tells of objects whose frames are shown without names, why, once each.
func (a *app) noteNameless(s *heap.Snapshot, objects map[string]symbolize.Object, said map[string]bool) {
	var nameless []symbolize.Object
	for _, f := range s.Frames {
		o, known := objects[f.Module]
		if known && f.Func == "" && o.Named*2 < o.Frames && !strings.HasPrefix(o.Path, "[") && !said[o.Path] {
			nameless = append(nameless, o)
			said[o.Path] = true
		}
	}
	slices.SortFunc(nameless, func(a, b symbolize.Object) int {
		return cmp.Or(cmp.Compare(b.Frames, a.Frames), cmp.Compare(a.Path, b.Path))
	})
	for i, o := range nameless {
		if i == maxNameless {
			a.note(fmt.Sprintf("no names for %d more objects", len(nameless)-i))
			break
		}
		why := cmp.Or(o.Problem, "its symbols were stripped")
		a.note(fmt.Sprintf("no names for %s: %s; --symbols DIR looks for build-id %s", path.Base(o.Path), why,
			cmp.Or(o.BuildID, "(it has none)")))
	}
}

const nativeHelp = `Tracking with --native records where machine code allocates: in each frame the
ELF object, its build-id and an address. Functions, inlined functions and lines
are told when a report is made, on any machine, from files with that build-id:

  --symbols DIR   a folder as below the root of the machine that was looked at,
                  or of .build-id/xx/yyyy.debug, or with the files in any order
  $DEBUGINFOD_CACHE_PATH, ~/.cache/debuginfod_client, where debuginfod-find
                  puts what it fetches; heaptap itself fetches nothing
  the object's own path, the debug file that it names, /usr/lib/debug

A file with another build-id is never used. Without debug information there are
the names of functions, without any file object+address.

  --frames mixed  Python's calls and those of extensions and libraries; without
                  the interpreter's own, what starts programs and threads, and
                  functions that only allocate for others (operator new)
  --frames python Python's calls only, as without --native
  --frames all    every frame

Native calls are written "deflate (deflate.c:17)", those of Python "shop.py:42
get". Filters know them: --func push_back is std::vector<int>::push_back(int),
--module libz.so.1 an object, --module numpy an extension module, --file a file
of source or an object. A filter at a dump knows objects only, no names. What
the interpreter itself allocates counts for the call that made it do so; so does
what libc does (strdup).

A module that is loaded while nobody looks is unwound from the next dump on, and
soon where heaptap stays (run, --hold, top, watch). Until then what it allocates
counts for the Python call that led there.

--as pprof writes a snapshot that has the names in it.`

// nativeTopic is what `heaptap help native` shows.
func nativeTopic() *cobra.Command {
	return &cobra.Command{Use: "native", Short: "Native stacks: where their names come from", Long: nativeHelp}
}
