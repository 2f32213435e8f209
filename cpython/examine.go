package cpython

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
)

// examine tells everything about a candidate, or why it cannot be worked with.
func (c *candidate) examine() (*Interpreter, error) {
	if err := c.identify(); err != nil {
		return nil, err
	}
	if err := c.refuse(); err != nil {
		return nil, err
	}
	in := &Interpreter{Identity: c.id, Compared: compared(c.id.Version)}
	var ok bool
	if in.Layout, ok = layoutFor(in.Version); !ok {
		return nil, c.unsupported("this release is not known to this heaptap")
	}
	steps := []func(*Interpreter) error{c.runtime, c.ready, c.functions, c.allocators, c.probe}
	if c.starting {
		steps = []func(*Interpreter) error{c.runtime, c.certain, c.functions, c.allocators}
	}
	for _, step := range steps {
		if err := step(in); err != nil {
			return nil, err
		}
	}
	if !in.Compared {
		in.Notes = append(in.Notes, fmt.Sprintf("%v itself was not compared with the layout tables, its neighbours were; "+
			"the layout passed the probes", in.Version))
	}
	return in, nil
}

func (c *candidate) unsupported(format string, args ...any) error {
	return &UnsupportedError{Identity: c.id, Why: fmt.Sprintf(format, args...)}
}

func (c *candidate) notReady(why string) error { return &NotReadyError{Identity: c.id, Why: why} }

// address finds a symbol that every supported interpreter has.
func (c *candidate) address(name string) (mem.Addr, error) {
	a, ok, err := c.symbols.find(name)
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, c.unsupported("%s does not define %s", c.id.Module.Path, name)
	}
	return a, nil
}

// identify fills in version, flavour and kind of build.
func (c *candidate) identify() error {
	var err error
	if c.id.Flavour, err = c.flavour(); err != nil {
		return err
	}
	if c.id.Debug, err = c.symbols.has(symDebugBuild); err != nil {
		return err
	}
	if c.id.FreeThreaded, err = c.symbols.has(symFreeThread); err != nil {
		return err
	}
	c.id.Version, err = c.version()
	return err
}

// flavour: a thin python imports its main function from libpython, an embedding program calls other parts of it.
func (c *candidate) flavour() (Flavour, error) {
	if c.id.Module.Main {
		if strings.HasPrefix(path.Base(c.id.Module.Path), "python") {
			return Static, nil
		}
		return Embedded, nil
	}
	thin, err := c.modules[0].Imports("Py_BytesMain", "_Py_UnixMain", "Py_Main")
	if err != nil {
		return 0, err
	}
	if thin {
		return Shared, nil
	}
	return Embedded, nil
}

// version reads the constant Py_Version (3.11 and later), else the text that Py_GetVersion put together at start-up.
func (c *candidate) version() (Version, error) {
	a, ok, err := c.symbols.find(symVersion)
	if err != nil {
		return Version{}, err
	}
	if ok {
		h, err := mem.U32(c.reader, a)
		return versionHex(h), err
	}
	v, found, err := writtenVersion(c.reader, c.id.Module)
	if err == nil && !found && c.starting {
		v, found, err = c.constantVersion()
	}
	if err == nil && !found {
		err = c.notReady("it is still starting: its version text is not there yet")
	}
	return v, err
}

// writtenVersion finds in a module's data the text that Py_GetVersion put together there at start-up.
func writtenVersion(r mem.Reader, m *dso.Module) (v Version, found bool, err error) {
	err = scanWritable(r, m, func(b []byte) bool {
		v, found = findVersionText(b)
		return found
	})
	return v, found, err
}

const (
	scanChunk   = 1 << 20
	scanOverlap = 2 * maxVersionText
	maxScan     = 1 << 26 // bytes of one module's data
)

// scanWritable shows the module's data to visit, in overlapping pieces, until it returns true.
func scanWritable(r mem.Reader, m *dso.Module, visit func([]byte) bool) error {
	left := uint64(maxScan)
	for _, seg := range m.Segments {
		if !m.Writable(seg.Start) {
			continue
		}
		for at := seg.Start; at < seg.End && left > 0; {
			n := min(uint64(seg.End-at), scanChunk, left)
			b, err := mem.Bytes(r, at, int(n))
			if err != nil {
				return fmt.Errorf("scan data of %s: %w", m.Path, err)
			}
			if visit(b) {
				return nil
			}
			if n <= scanOverlap || at+mem.Addr(n) >= seg.End {
				break
			}
			at += mem.Addr(n - scanOverlap)
			left -= n - scanOverlap
		}
	}
	return nil
}

// refuse names what is recognised and not worked with.
func (c *candidate) refuse() error {
	switch v := c.id.Version; {
	case v.Major != 3 || !v.atLeast(3, 6):
		return c.unsupported("3.6 is the oldest that heaptap can track")
	case c.id.FreeThreaded:
		return c.unsupported("a free-threaded build")
	case c.id.Debug:
		return c.unsupported("a debug build (Py_DEBUG)")
	case v.Level < Candidate:
		return c.unsupported("a pre-release, whose structures may still change")
	case !supportedCPU(c.id.Module.Machine):
		return c.unsupported("CPU %v", c.id.Module.Machine)
	}
	return nil
}

// runtime finds the roots, and lets the target correct the layout.
func (c *candidate) runtime(in *Interpreter) error {
	l := &in.Layout
	if !l.Runtime.Interpreters.Known {
		return c.oldRoots(in)
	}
	var err error
	if in.Runtime, err = c.address(symRuntime); err != nil {
		return err
	}
	if in.Version.atLeast(3, 13) {
		differ, err := overlay(l, c.reader, in.Runtime, in.Version)
		if fault := (*mem.Fault)(nil); errors.As(err, &fault) {
			return err
		} else if err != nil {
			return c.unsupported("%v", err)
		}
		if len(differ) > 0 {
			in.Notes = append(in.Notes, "this build's own account of its structures differs from the table and was followed: "+
				strings.Join(differ, "; "))
		}
	}
	in.roots = roots{interpreters: l.Runtime.Interpreters.From(in.Runtime),
		initialized: l.Runtime.Initialized.From(in.Runtime), finalizing: l.Runtime.Finalizing.From(in.Runtime)}
	return nil
}

// oldRoots finds the variables of 3.6: two are private, and known from the first thing their accessors load.
func (c *candidate) oldRoots(in *Interpreter) error {
	var err error
	if in.roots.finalizing, err = c.address(symFinalizing); err != nil {
		return err
	}
	if in.roots.interpreters, err = c.loadedBy(symHead); err != nil {
		return err
	}
	in.roots.initialized, err = c.loadedBy(symInitialized)
	return err
}

// loadedBy is the first variable of the module's own data that a function refers to.
func (c *candidate) loadedBy(function string) (mem.Addr, error) {
	entry, err := c.address(function)
	if err != nil {
		return 0, err
	}
	refs, err := dataRefs(c.reader, entry)
	if err != nil {
		return 0, fmt.Errorf("decode %s: %w", function, err)
	}
	for _, a := range refs {
		if c.id.Module.Writable(a) {
			return a, nil
		}
	}
	return 0, c.unsupported("%s is not understood", function)
}

// ready checks that the interpreter runs: initialised, not finalising.
func (c *candidate) ready(in *Interpreter) error {
	initialized, err := mem.U32(c.reader, in.roots.initialized)
	if err != nil {
		return err
	}
	finalizing, err := in.Finalizing(c.reader)
	if err != nil {
		return err
	}
	head, err := mem.Pointer(c.reader, in.roots.interpreters)
	if err != nil {
		return err
	}
	switch {
	case finalizing:
		return c.notReady("it is finalising")
	case initialized == 0 || head == 0:
		return c.notReady("it is not initialised: still starting, or already finalised")
	}
	return nil
}

// functions finds what the agent calls, and the type by which it knows a code object.
func (c *candidate) functions(in *Interpreter) error {
	for _, name := range getters {
		a, ok, err := c.symbols.find(name)
		if err != nil {
			return err
		}
		if ok {
			in.CurrentThreadState = a
			break
		}
	}
	if in.CurrentThreadState == 0 {
		return c.unsupported("%s defines none of %s", c.id.Module.Path, strings.Join(getters[:], ", "))
	}
	var err error
	if in.Evaluation, _, err = c.symbols.find(symEvaluation); err != nil {
		return err
	}
	if in.ThisThreadState, err = c.address(symThisThread); err != nil {
		return err
	}
	for name, to := range map[string]*mem.Addr{
		symCodeType: &in.CodeType, symTypeType: &in.TypeType, symStrType: &in.StrType,
	} {
		if *to, err = c.address(name); err != nil {
			return err
		}
	}
	return nil
}
