package cpython

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// FindStarting recognises an interpreter that has not begun, in a process whose loader is done, or that is about to
// initialise itself. No frame exists yet by which its layout could be proved, so only releases that were compared with the
// tables, or that describe themselves, are taken; [Find] proves it once [Interpreter.Initialized] is true. The errors are
// Find's.
func FindStarting(p *proc.Process, r mem.Reader) (*Interpreter, error) {
	in, err := (&finder{process: p, reader: r, starting: true}).find()
	if err != nil {
		return nil, fmt.Errorf("find Python that starts in process %d: %w", p.Pid, err)
	}
	return in, nil
}

// HasPython reports whether an interpreter is loaded in a process, whatever its state.
func HasPython(p *proc.Process, r mem.Reader) (bool, error) {
	_, err := FindStarting(p, r)
	switch {
	case err == nil, errors.As(err, new(*UnsupportedError)), errors.As(err, new(*NotReadyError)):
		return true, nil
	case errors.As(err, new(*NotPythonError)):
		return false, nil
	}
	return false, err
}

// Initialized reports whether the interpreter can run Python code, or could before it was finalised.
func (in *Interpreter) Initialized(r mem.Reader) (bool, error) {
	initialized, err := mem.U32(r, in.roots.initialized)
	if err != nil || initialized == 0 {
		return false, err
	}
	head, err := mem.Pointer(r, in.roots.interpreters)
	return head != 0, err
}

// certain refuses a layout that is only presumed.
func (c *candidate) certain(in *Interpreter) error {
	if in.Compared || in.Version.atLeast(3, 13) {
		return nil
	}
	return c.notReady("its layout is only presumed, and can be proved once it runs")
}

// bareVersion is PY_VERSION, all of a constant.
var bareVersion = regexp.MustCompile(`^[23]\.\d{1,2}\.\d{1,3}(?:(?:a|b|rc|c)\d{1,2})?\+?$`)

// constantVersion finds the version among the constants that Py_GetVersion puts together, for interpreters that have
// not done so yet.
func (c *candidate) constantVersion() (Version, bool, error) {
	entry, err := c.address(symGetVersion)
	if err != nil {
		return Version{}, false, err
	}
	constants, err := constantRefs(c.reader, entry)
	if err != nil {
		return Version{}, false, fmt.Errorf("decode %s: %w", symGetVersion, err)
	}
	for _, a := range constants {
		if !c.id.Module.Contains(a) {
			continue
		}
		if text, err := mem.CString(c.reader, a, 32); err == nil && bareVersion.MatchString(text) {
			v, ok := parseVersionText([]byte(text + " ("))
			return v, ok, nil
		}
	}
	return Version{}, false, nil
}
