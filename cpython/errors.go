package cpython

import (
	"errors"
	"fmt"
)

// ErrBusy says that what was to be read changed again and again while it was read. It comes wrapped.
var ErrBusy = errors.New("the target changes it faster than it can be read")

// NotPythonError says that no CPython interpreter is loaded in the process.
type NotPythonError struct{ Pid int }

func (e *NotPythonError) Error() string {
	return fmt.Sprintf("process %d: no CPython interpreter is loaded", e.Pid)
}

// UnsupportedError says that there is an interpreter, but none that heaptap can work with. Version is zero and Module
// nil where they could not be told.
type UnsupportedError struct {
	Identity
	Why string
}

func (e *UnsupportedError) Error() string {
	if e.Version == (Version{}) {
		return "unsupported Python: " + e.Why
	}
	return fmt.Sprintf("unsupported Python %v: %s", e.Version, e.Why)
}

// NotReadyError says that the interpreter is not initialised yet, or no longer.
type NotReadyError struct {
	Identity
	Why string
}

func (e *NotReadyError) Error() string {
	if e.Version == (Version{}) {
		return "Python is not ready: " + e.Why
	}
	return fmt.Sprintf("Python %v is not ready: %s", e.Version, e.Why)
}
