package dso

import (
	"debug/dwarf"
	"debug/elf"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/heaptap/heaptap/mem"
)

// maxDebug bounds the DWARF that is read of one module, bytes uncompressed. Debug builds of CPython have 30 MB, of
// browsers more than this.
const maxDebug = 1 << 30

// ErrNoDebug says that there is no DWARF for a module, in its own file or another. It comes wrapped.
var ErrNoDebug = errors.New("no debug information")

// DebugInfo is a module's DWARF and where it comes from. Addresses in it are link-time addresses: see [Module.At]. What
// dwz moved to a file that several programs share (.gnu_debugaltlink) is not in it. Package dwarf does not promise to
// be safe for several goroutines: use Data from one at a time.
type DebugInfo struct {
	*dwarf.Data
	Source Source // Symtab (the module's own file), BuildIDFile or DebugLink
	From   string // path of the file, as the target sees it

	sections map[string][]byte
}

// Debug reads the module's DWARF, once: that of its own file, else of a debug file by build-id or debug link. The error
// wraps [ErrNoDebug] if there is none.
func (m *Module) Debug() (*DebugInfo, error) {
	d, err := m.lazy.debug.get(m.readDebug)
	if err != nil {
		return nil, fmt.Errorf("debug information of %s: %w", m.Path, err)
	}
	return d, nil
}

func (m *Module) readDebug() (*DebugInfo, error) {
	own, openErr := m.open()
	if openErr == nil {
		defer own.Close()
		if d, err := own.dwarf(); !errors.Is(err, ErrNoDebug) {
			return d, err
		}
	} else {
		own = nil
	}
	for o := range m.debugFiles(own) {
		if d, err := o.dwarf(); !errors.Is(err, ErrNoDebug) {
			return d, err
		}
	}
	if openErr != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoDebug, openErr)
	}
	return nil, ErrNoDebug
}

// DebugSection reads a section such as .debug_frame, uncompressed, from where [Module.Debug] would read: the module's
// own file, else a debug file. The error wraps [ErrNoDebug] if no file has it.
func (m *Module) DebugSection(name string) ([]byte, error) {
	var found []byte
	err := fmt.Errorf("section %s of %s: %w", name, m.Path, ErrNoDebug)
	take := func(o *object) bool {
		s, ok := o.debugSection(name)
		if !ok {
			return false
		}
		found, err = o.data(s, maxDebug)
		return true
	}
	own, openErr := m.open()
	if openErr == nil {
		defer own.Close()
		if take(own) {
			return found, err
		}
	} else {
		own = nil
	}
	for o := range m.debugFiles(own) {
		if take(o) {
			break
		}
	}
	return found, err
}

// debugSection finds a section that holds something, under its name or that of the older compressed form.
func (o *object) debugSection(name string) (elf.SectionHeader, bool) {
	for _, name := range []string{name, strings.Replace(name, ".debug_", ".zdebug_", 1)} {
		if s, ok := o.section(name); ok && s.Type != elf.SHT_NOBITS && s.Size > 0 {
			return s, true
		}
	}
	return elf.SectionHeader{}, false
}

// dwarf reads a file's DWARF.
func (o *object) dwarf() (*DebugInfo, error) {
	left := uint64(maxDebug)
	read := func(name string) ([]byte, error) {
		s, ok := o.debugSection(name)
		if !ok {
			return nil, nil
		}
		b, err := o.data(s, left)
		left -= uint64(len(b))
		return b, err
	}
	names := []string{".debug_abbrev", ".debug_info", ".debug_line", ".debug_ranges", ".debug_str", ".debug_addr",
		".debug_line_str", ".debug_str_offsets", ".debug_rnglists", ".debug_loclists", ".debug_types"}
	sections := make(map[string][]byte)
	for _, name := range names {
		b, err := read(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.path, err)
		}
		sections[name] = b
		if name == ".debug_info" && len(b) == 0 {
			return nil, ErrNoDebug
		}
	}
	d, err := parseDWARF(sections)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.path, err)
	}
	return &DebugInfo{Data: d, Source: o.source, From: o.path, sections: sections}, nil
}

func parseDWARF(sections map[string][]byte) (*dwarf.Data, error) {
	d, err := dwarf.New(sections[".debug_abbrev"], nil, nil, sections[".debug_info"], sections[".debug_line"], nil,
		sections[".debug_ranges"], sections[".debug_str"])
	if err != nil {
		return nil, err
	}
	for _, name := range []string{".debug_addr", ".debug_line_str", ".debug_str_offsets", ".debug_rnglists",
		".debug_loclists"} {
		if b := sections[name]; b != nil {
			if err := d.AddSection(name, b); err != nil {
				return nil, err
			}
		}
	}
	if b := sections[".debug_types"]; b != nil {
		if err := d.AddTypes(".debug_types", b); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// units is DWARF for our own use: the Data of a DebugInfo is in its user's hands.
type units struct {
	sync.Mutex
	data *dwarf.Data
}

// sourceFile is the source file of the compilation unit that a function belongs to, by DWARF; "" if that is not known.
func (m *Module) sourceFile(a mem.Addr) string {
	u, err := m.lazy.units.get(func() (*units, error) {
		d, err := m.Debug()
		if err != nil {
			return nil, err
		}
		own, err := parseDWARF(d.sections)
		return &units{data: own}, err
	})
	if err != nil {
		return ""
	}
	u.Lock()
	defer u.Unlock()
	unit, err := u.data.Reader().SeekPC(uint64(a - m.Bias))
	if err != nil {
		return ""
	}
	name, _ := unit.Val(dwarf.AttrName).(string)
	return name
}
