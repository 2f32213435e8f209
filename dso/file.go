package dso

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/heaptap/heaptap/mem"
)

// Symtab finds symbols by name in the full symbol table of the module, local ones included: that of its own file, else
// of a debug file or of its MiniDebugInfo. A name also matches the copies that link-time optimisation made of it
// (name.lto_priv.0). What is not found is not in the result; where there is no full table the error wraps
// [elf.ErrNoSymbols]; a file that is not the one in memory gives [ErrOtherFile].
func (m *Module) Symtab(names ...string) (map[string]Symbol, error) {
	t, err := m.fullTable()
	if err != nil {
		return nil, fmt.Errorf("symbol table of %s: %w", m.Path, err)
	}
	out := make(map[string]Symbol)
	for _, name := range names {
		for _, i := range t.find(name) {
			sym := m.symbolOf(t, i)
			if _, known := out[name]; sym.Type > elf.STT_FUNC || known && sym.Hidden {
				continue
			}
			sym.Name = name
			out[name] = sym
		}
	}
	return out, nil
}

// open opens the mapped file and proves that it is what memory holds: the program headers are equal, and so are the
// build-ids. A file that is not the mapped one itself but stands at its path (what the kernel gives us of the mapped
// one depends on our rights) is taken only by an equal build-id.
func (m *Module) open() (*object, error) {
	if m.process == nil {
		return nil, errors.New("not of a live process")
	}
	if m.mapping.Inode == 0 {
		return nil, errors.New("no file is mapped there")
	}
	f, err := m.process.OpenMapped(m.mapping)
	if err != nil && m.Main {
		f, err = m.openExe(err)
	}
	if err == nil {
		o, err := openObject(f, m.pathInside(), Symtab)
		if err != nil {
			return nil, err
		}
		if !m.same(o) {
			o.Close()
			return nil, ErrOtherFile
		}
		return o, nil
	}
	if m.BuildID == nil {
		return nil, err
	}
	o, openErr := openIn(m.process.Root(), m.pathInside(), Symtab)
	if openErr != nil {
		return nil, err
	}
	if !m.same(o) {
		o.Close()
		return nil, fmt.Errorf("%w: %w", ErrOtherFile, err)
	}
	return o, nil
}

// openExe opens the program's file by /proc/PID/exe, which needs less rights than map_files, and gives a deleted file
// too. It is the mapped one where no other was run by a loader called as a program.
func (m *Module) openExe(cause error) (*os.File, error) {
	f, err := os.Open(m.process.Path("exe"))
	if err != nil {
		return nil, cause
	}
	st, err := statOf(f)
	if err != nil || st.Ino != m.mapping.Inode {
		f.Close()
		return nil, cause
	}
	return f, nil
}

// same reports whether a file is the one in memory.
func (m *Module) same(o *object) bool {
	return slices.Equal(o.programs, m.Programs) && bytes.Equal(o.buildID(), m.BuildID)
}

// At returns the run-time address of a link-time address of the module.
func (m *Module) At(vaddr uint64) mem.Addr { return m.Bias + mem.Addr(vaddr) }

// symbolOf makes a symbol of an entry of one of the module's tables.
func (m *Module) symbolOf(t *table, i int) Symbol {
	raw := t.raw(i)
	name := t.name(raw.Name)
	if t.versions != nil {
		sym := m.define(name, raw)
		// A version that cannot be told leaves the symbol without one: it is a definition all the same.
		v, hidden, _ := t.versions(uint32(i))
		sym.Version, sym.Hidden = v.name, hidden
		return sym
	}
	// In a file's table, ld writes the version behind the name.
	base, version, ok := strings.Cut(name, "@")
	if !ok || base == "" {
		return m.define(name, raw)
	}
	sym := m.define(base, raw)
	sym.Version, ok = strings.CutPrefix(version, "@")
	sym.Hidden = !ok
	return sym
}
