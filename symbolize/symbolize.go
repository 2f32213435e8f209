// Package symbolize tells which functions and lines the machine code of a snapshot's frames belongs to: by ELF object,
// build-id and address, on any machine that has the object's files or what was split from them. No process need exist,
// and nothing is fetched from a network.
//
// A file is used only when its build-id is the frame's. An object that has none is looked for at its own path, where a
// file without build-id is taken for it.
package symbolize

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/heap"
)

// Options say where files are looked for. Of several files the first that has what is wanted is used: those of Dirs, of
// Caches, then the object's own path and the debug file that it names, then the system's debug files.
type Options struct {
	// Dirs are folders in which files lie as they do below the root of a system, or by build-id
	// (.build-id/xx/yyyy.debug), or as in Caches, or in any other order: then all of them are looked at. A file may
	// stand for a folder with it alone.
	Dirs []string
	// Caches are folders with files as debuginfod's clients keep them: BUILDID/debuginfo and BUILDID/executable.
	Caches []string
	// Roots are folders below which objects' own paths and the system's debug files are: "/", and the root of a process
	// in a container.
	Roots []string
}

// Result is what was found out about frames.
type Result struct {
	// Chains has for each frame what is executed there, innermost first: inlined functions, then the function into
	// which they were. It is nil for frames of which no more is known than before. Their Addr is 0: a call is known by
	// its line.
	Chains [][]heap.Frame
	// Objects are the objects that the frames are in, in the order of their paths.
	Objects []Object
}

// Object is what was used to tell of one ELF object.
type Object struct {
	Path, BuildID string
	Frames        int    // how many frames are in it
	Named         int    // how many of those have a function now
	Debug         string // the file with the DWARF that was used, "" for none
	Symbols       string // the file or files that names came from, "" for none
	Problem       string // why there is less than there could be, "" where there is not
}

// Frames tells what is executed at frames. Frames of no object, and those that have a function already, are left alone.
func Frames(frames []heap.Frame, o Options) Result {
	r := Result{Chains: make([][]heap.Frame, len(frames))}
	byObject := map[objectKey][]int{}
	for i, f := range frames {
		if f.Native() && f.Func == "" && f.Addr != 0 {
			key := objectKey{f.Module, f.BuildID}
			byObject[key] = append(byObject[key], i)
		}
	}
	var keys []objectKey
	for key := range byObject {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b objectKey) int {
		return cmp.Or(cmp.Compare(a.path, b.path), cmp.Compare(a.buildID, b.buildID))
	})
	finder := newFinder(o)
	for _, key := range keys { // one after the other, since the DWARF of one may take a gigabyte
		at := byObject[key]
		slices.SortFunc(at, func(a, b int) int { return cmp.Compare(frames[a].Addr, frames[b].Addr) })
		r.Objects = append(r.Objects, object(finder, key, frames, at, r.Chains))
	}
	return r
}

// objectKey is what frames say of their object.
type objectKey struct{ path, buildID string }

// object symbolizes the frames, of one object, that at lists.
func object(finder *finder, key objectKey, frames []heap.Frame, at []int, chains [][]heap.Frame) Object {
	r := Object{Path: key.path, BuildID: key.buildID, Frames: len(at)}
	if key.buildID != "" {
		if id, err := hex.DecodeString(key.buildID); err != nil || len(id) < 2 {
			r.Problem = fmt.Sprintf("its build-id is %q", key.buildID)
			return r
		}
	}
	files, problem := finder.find(key)
	r.Problem = problem
	if len(files) == 0 {
		return r
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	image, err := dso.NewImage(files...)
	if err != nil {
		r.Problem = err.Error()
		return r
	}
	r.Symbols = files[0].Path()
	var debug *debugInfo
	if slices.ContainsFunc(files, (*dso.File).HasDebug) {
		var from string
		debug, from, err = openDebug(image, finder, files)
		r.Debug = from
		if err != nil {
			r.Problem = err.Error()
		}
	}
	var chain []heap.Frame
	for n, i := range at {
		f := frames[i]
		if n == 0 || frames[at[n-1]].Addr != f.Addr {
			chain = chainOf(image, debug, f)
		}
		if len(chain) > 0 {
			chains[i] = chain
			r.Named++
		}
	}
	return r
}

// chainOf tells what is executed at a frame, nil where nothing is known.
func chainOf(image *dso.Image, debug *debugInfo, f heap.Frame) []heap.Frame {
	var calls []call
	if debug != nil {
		calls = debug.at(f.Addr)
	}
	if len(calls) == 0 {
		calls = []call{{}}
	}
	if outer := &calls[len(calls)-1]; outer.function == "" || outer.bare {
		found, _, ok := image.At(f.Addr)
		switch {
		case ok && outer.function == "":
			outer.function, outer.file = sourceName(found.Name), cmp.Or(outer.file, found.File)
		case ok && found.Demangled != "":
			outer.function = sourceName(found.Name)
		case outer.function == "" && outer.line == 0:
			return nil
		}
	}
	var chain []heap.Frame
	addr := f.Addr
	if f.BuildID != "" {
		addr = 0 // so that calls of one line are one, wherever its instructions are; an object without build-id is told by it
	}
	for _, c := range calls {
		chain = append(chain, heap.Frame{Func: c.function, File: c.file, Line: c.line, FirstLine: c.firstLine,
			Module: f.Module, BuildID: f.BuildID, Addr: addr})
	}
	return chain
}

// sourceName is the name of a symbol as its source has it: without what compilers append to the name of a function that
// they copied, specialised or took a part of (name.constprop.0, name.cold), demangled.
func sourceName(symbol string) string {
	if i := strings.IndexByte(symbol, '.'); i > 0 {
		for _, clone := range [...]string{"constprop", "isra", "part", "cold", "lto_priv", "llvm", "localalias"} {
			if strings.HasPrefix(symbol[i+1:], clone) {
				symbol = symbol[:i]
				break
			}
		}
	}
	symbol = strings.TrimPrefix(symbol, "__GI_") // glibc's own name for what it exports
	return cmp.Or(dso.Demangle(symbol), symbol)
}
