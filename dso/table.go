package dso

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"strings"
)

const (
	maxSymtab  = 1 << 27 // bytes of a symbol table; a debug build of CPython has 1 MB
	maxStrings = 1 << 28 // bytes of its names
)

// table is a whole symbol table: a file's .symtab, or the dynamic one from memory.
type table struct {
	source  Source
	from    string // path of the file, "" for memory
	entries []byte // Elf64_Sym
	names   []byte

	// versions tells the version of a dynamic symbol; nil for a file's table, which has it in the names.
	versions func(index uint32) (version, bool, error)
}

func (t *table) len() int { return len(t.entries) / symbolSize }

func (t *table) raw(i int) elf.Sym64 { return decodeSymbol(t.entries[i*symbolSize:]) }

func decodeSymbol(b []byte) elf.Sym64 {
	le := binary.LittleEndian
	return elf.Sym64{Name: le.Uint32(b), Info: b[4], Other: b[5], Shndx: le.Uint16(b[6:]), Value: le.Uint64(b[8:]),
		Size: le.Uint64(b[16:])}
}

// name is the string at an offset, "" if there is none or it is longer than any symbol's.
func (t *table) name(off uint32) string {
	if uint64(off) >= uint64(len(t.names)) {
		return ""
	}
	rest := t.names[off:]
	n := bytes.IndexByte(rest[:min(len(rest), maxSymbol)], 0)
	if n < 0 {
		return ""
	}
	return string(rest[:n])
}

// isDefinition reports whether an entry names something that the module has: not a reference, a section, a source file
// or the name of a version.
func isDefinition(raw elf.Sym64) bool {
	if raw.Name == 0 || elf.SectionIndex(raw.Shndx) == elf.SHN_UNDEF {
		return false
	}
	switch kind := elf.ST_TYPE(raw.Info); kind {
	case elf.STT_FUNC, elf.STT_TLS, elf.STT_COMMON, elf.STT_GNU_IFUNC:
		return true
	case elf.STT_OBJECT, elf.STT_NOTYPE:
		return elf.SectionIndex(raw.Shndx) != elf.SHN_ABS || raw.Size > 0
	}
	return false
}

// find lists the definitions of a name, by index. Names of a file's table also match with a version behind them, and
// as one of the copies that link-time optimisation makes of a static (name.lto_priv.0, name.llvm.123).
func (t *table) find(name string) []int {
	if name == "" || len(name) >= maxSymbol {
		return nil
	}
	offsets := t.offsets(name)
	if len(offsets) == 0 {
		return nil
	}
	var out []int
	for i := range t.len() {
		if offsets[binary.LittleEndian.Uint32(t.entries[i*symbolSize:])] && isDefinition(t.raw(i)) {
			out = append(out, i)
		}
	}
	return out
}

// findSource lists the definitions of functions and objects that mean a name of C++ or Rust, by index.
func (t *table) findSource(src source) []int {
	if src.ident != "" && !bytes.Contains(t.names, []byte(src.ident)) {
		return nil
	}
	var out []int
	for i := range t.len() {
		raw := t.raw(i)
		if uint64(raw.Name) >= uint64(len(t.names)) || !bytes.HasPrefix(t.names[raw.Name:], []byte("_")) {
			continue
		}
		if name, _, _ := strings.Cut(t.name(raw.Name), "@"); isDefinition(raw) && src.names(name) {
			out = append(out, i)
		}
	}
	return out
}

// offsets are the places in the names where a string begins that is this name. A linker stores a name that ends another
// one inside it, so it need not follow a NUL.
func (t *table) offsets(name string) map[uint32]bool {
	var out map[uint32]bool
	pattern := []byte(name)
	for at := 0; ; at++ {
		n := bytes.Index(t.names[at:], pattern)
		if n < 0 {
			return out
		}
		at += n
		if endsName(t.names[at+len(pattern):]) {
			if out == nil {
				out = make(map[uint32]bool)
			}
			out[uint32(at)] = true
		}
	}
}

func endsName(rest []byte) bool {
	switch {
	case len(rest) == 0:
		return false
	case rest[0] == 0, rest[0] == '@':
		return true
	}
	return bytes.HasPrefix(rest, []byte(".lto_priv.")) || bytes.HasPrefix(rest, []byte(".llvm."))
}

// file is the source file of a local symbol: the nearest STT_FILE entry before it, "" if there is none. Global symbols
// come last in a table and have none.
func (t *table) file(i int) string {
	if elf.ST_BIND(t.raw(i).Info) != elf.STB_LOCAL {
		return ""
	}
	for i--; i >= 0; i-- {
		switch raw := t.raw(i); {
		case elf.ST_TYPE(raw.Info) == elf.STT_FILE:
			return t.name(raw.Name)
		case elf.ST_BIND(raw.Info) != elf.STB_LOCAL:
			return ""
		}
	}
	return ""
}

// symtab reads a file's full symbol table. The error wraps [elf.ErrNoSymbols] if it has none.
func (o *object) symtab() (*table, error) {
	for _, s := range o.sections {
		if s.Type != elf.SHT_SYMTAB || s.Size < symbolSize {
			continue
		}
		if int(s.Link) >= len(o.sections) || o.sections[s.Link].Type != elf.SHT_STRTAB {
			return nil, errors.New("symbol table without names")
		}
		entries, err := o.data(s, maxSymtab)
		if err != nil {
			return nil, err
		}
		names, err := o.data(o.sections[s.Link], maxStrings)
		if err != nil {
			return nil, err
		}
		return &table{source: o.source, from: o.path, entries: entries, names: names}, nil
	}
	return nil, elf.ErrNoSymbols
}

// fullTable is the module's symbol table with local symbols, read once: that of its own file, else of a debug file,
// else of its MiniDebugInfo.
func (m *Module) fullTable() (*table, error) {
	return m.lazy.full.get(func() (*table, error) {
		own, err := m.open()
		if err == nil {
			defer own.Close()
			t, err := own.symtab()
			if err == nil || !errors.Is(err, elf.ErrNoSymbols) {
				return t, err
			}
		} else {
			own = nil
		}
		for o := range m.debugFiles(own) {
			if t, err := o.symtab(); err == nil {
				return t, nil
			}
		}
		if own == nil {
			return nil, err
		}
		if in, err := own.mini(); err == nil {
			return in.symtab()
		} else if _, ok := own.section(".gnu_debugdata"); ok {
			return nil, err
		}
		return nil, elf.ErrNoSymbols
	})
}
