package inferior

import (
	"cmp"
	"debug/dwarf"
	"io"
	"slices"
	"sync"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
)

// lines tells source lines and inlined functions by debug information, which it reads of a module when it is first
// asked about it.
type lines struct {
	mu      sync.Mutex
	modules map[*dso.Module]*moduleLines
}

// moduleLines is what is known of one module. Addresses in it are link-time addresses.
type moduleLines struct {
	data  *dwarf.Data
	units []unitRange // sorted by low
	read  map[dwarf.Offset]*unitLines
}

// unitRange is a range of addresses of one compilation unit.
type unitRange struct {
	low, high uint64
	unit      *dwarf.Entry
}

// unitLines is the line table of one unit, sorted by address.
type unitLines struct {
	rows  []lineRow
	files []*dwarf.LineFile
}

type lineRow struct {
	address uint64
	file    *dwarf.LineFile
	line    int
	end     bool // of a sequence: the address is the first behind it
}

// expand adds file and line to a frame, at an address of its own (the call, not where it returns to), and puts before
// it the functions that were inlined there.
func (l *lines) expand(f Frame, at mem.Addr) []Frame {
	if f.Module == nil {
		return []Frame{f}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.module(f.Module)
	if m == nil {
		return []Frame{f}
	}
	address := uint64(at - f.Module.Bias)
	unit := m.unit(address)
	if unit == nil {
		return []Frame{f}
	}
	file, line := m.line(unit, address)
	chain, name := m.inlined(unit, address)
	if f.Function == "" {
		f.Function = name
	}
	var out []Frame
	for _, in := range chain { // innermost first
		g := f
		g.Function, g.Symbol, g.Offset, g.Inlined = in.name, in.name, 0, true
		g.File, g.Line = file, line
		out = append(out, g)
		file, line = m.fileName(unit, in.callFile), in.callLine
	}
	f.File, f.Line = file, line
	return append(out, f)
}

// module reads the index of a module's units; nil where there is no debug information.
func (l *lines) module(mod *dso.Module) *moduleLines {
	if m, ok := l.modules[mod]; ok {
		return m
	}
	var m *moduleLines
	if info, err := mod.Debug(); err == nil {
		m = &moduleLines{data: info.Data, read: make(map[dwarf.Offset]*unitLines)}
		m.index()
	}
	l.modules[mod] = m
	return m
}

// index lists the ranges of all units. A unit that cannot be read ends the list: what was read stays good.
func (m *moduleLines) index() {
	r := m.data.Reader()
	for {
		e, err := r.Next()
		if err != nil || e == nil {
			break
		}
		if e.Tag == dwarf.TagCompileUnit {
			ranges, err := m.data.Ranges(e)
			if err != nil {
				ranges = nil
			}
			for _, g := range ranges {
				m.units = append(m.units, unitRange{g[0], g[1], e})
			}
		}
		r.SkipChildren()
	}
	slices.SortStableFunc(m.units, func(a, b unitRange) int { return cmp.Compare(a.low, b.low) })
}

// unit finds the unit whose code an address is.
func (m *moduleLines) unit(address uint64) *dwarf.Entry {
	i, _ := slices.BinarySearchFunc(m.units, address, func(u unitRange, a uint64) int {
		if u.low > a {
			return 1
		}
		return -1
	})
	// Ranges of broken debug information may overlap: a few before are looked at, too.
	for n := 0; i > 0 && n < 4; n++ {
		i--
		if u := m.units[i]; address >= u.low && address < u.high {
			return u.unit
		}
	}
	return nil
}

// maxRows bounds a unit's line table.
const maxRows = 1 << 22

func (m *moduleLines) table(unit *dwarf.Entry) *unitLines {
	if t, ok := m.read[unit.Offset]; ok {
		return t
	}
	t := &unitLines{}
	m.read[unit.Offset] = t
	r, err := m.data.LineReader(unit)
	if err != nil || r == nil {
		return t
	}
	t.files = r.Files()
	var e dwarf.LineEntry
	for len(t.rows) < maxRows {
		if err := r.Next(&e); err != nil {
			if err != io.EOF {
				t.rows = nil // torn in the middle: better no line than a wrong one
			}
			break
		}
		t.rows = append(t.rows, lineRow{e.Address, e.File, e.Line, e.EndSequence})
	}
	// An end and a beginning at one address: the beginning counts, so it goes last.
	slices.SortStableFunc(t.rows, func(a, b lineRow) int {
		if c := cmp.Compare(a.address, b.address); c != 0 {
			return c
		}
		return boolRank(b.end) - boolRank(a.end)
	})
	return t
}

func boolRank(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (m *moduleLines) line(unit *dwarf.Entry, address uint64) (string, int) {
	rows := m.table(unit).rows
	i, found := slices.BinarySearchFunc(rows, address, func(r lineRow, a uint64) int { return cmp.Compare(r.address, a) })
	if found {
		for i+1 < len(rows) && rows[i+1].address == address {
			i++
		}
	} else {
		i--
	}
	if i < 0 || rows[i].end || rows[i].file == nil {
		return "", 0
	}
	return rows[i].file.Name, rows[i].line
}

// fileName is the file of a number in the unit's line table.
func (m *moduleLines) fileName(unit *dwarf.Entry, number int64) string {
	files := m.table(unit).files
	if number < 0 || number >= int64(len(files)) || files[number] == nil {
		return ""
	}
	return files[number].Name
}

// inlinedCall is a function whose code stands in another.
type inlinedCall struct {
	name     string
	callFile int64
	callLine int
}

// inlined lists the functions inlined at an address, innermost first, and names the function around them.
func (m *moduleLines) inlined(unit *dwarf.Entry, address uint64) (chain []inlinedCall, function string) {
	r := m.data.Reader()
	r.Seek(unit.Offset)
	if _, err := r.Next(); err != nil || !unit.Children {
		return nil, ""
	}
	depth := 0 // of the entry read next, below the unit
	for {
		e, err := r.Next()
		if err != nil || e == nil {
			break
		}
		if e.Tag == 0 {
			if depth--; depth < 0 {
				break
			}
			continue
		}
		switch e.Tag {
		case dwarf.TagSubprogram, dwarf.TagInlinedSubroutine, dwarf.TagLexDwarfBlock:
			if !m.covers(e, address) {
				r.SkipChildren()
				continue
			}
		case dwarf.TagNamespace, dwarf.TagModule, dwarf.TagClassType, dwarf.TagStructType:
			// functions may be defined in there
		default:
			r.SkipChildren()
			continue
		}
		switch e.Tag {
		case dwarf.TagSubprogram:
			function, chain = m.nameOf(e, 0), nil
		case dwarf.TagInlinedSubroutine:
			in := inlinedCall{name: m.nameOf(e, 0)}
			in.callFile, _ = e.Val(dwarf.AttrCallFile).(int64)
			if n, ok := e.Val(dwarf.AttrCallLine).(int64); ok {
				in.callLine = int(n)
			}
			chain = append(chain, in)
		}
		if e.Children {
			depth++
		}
	}
	slices.Reverse(chain)
	return chain, function
}

func (m *moduleLines) covers(e *dwarf.Entry, address uint64) bool {
	ranges, err := m.data.Ranges(e)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(ranges, func(g [2]uint64) bool { return address >= g[0] && address < g[1] })
}

// maxOrigins bounds the chain from an entry to the declaration that names it.
const maxOrigins = 4

func (m *moduleLines) nameOf(e *dwarf.Entry, depth int) string {
	if name, ok := e.Val(dwarf.AttrName).(string); ok {
		return name
	}
	for _, attr := range []dwarf.Attr{dwarf.AttrAbstractOrigin, dwarf.AttrSpecification} {
		offset, ok := e.Val(attr).(dwarf.Offset)
		if !ok || depth >= maxOrigins {
			continue
		}
		r := m.data.Reader()
		r.Seek(offset)
		if origin, err := r.Next(); err == nil && origin != nil {
			if name := m.nameOf(origin, depth+1); name != "" {
				return name
			}
		}
	}
	return ""
}
