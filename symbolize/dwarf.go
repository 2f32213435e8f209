package symbolize

import (
	"debug/dwarf"
	"fmt"
	"path"

	"github.com/heaptap/heaptap/dso"
)

// How an address becomes calls: the unit whose ranges cover it is found in a sorted list, made once from the first
// entry of each unit. Only then are that unit's line table and the ranges of its functions read, and only of the
// function that covers the address what was inlined into it. So of a large library no more is decoded than frames are
// in.

// call is a function that is executed at an address: a real one, or one that was inlined there.
type call struct {
	function  string // demangled; "" where unknown
	file      string
	line      int // that is executed, of callers the one of the call
	firstLine int // where the function is declared
	// bare says that the name lacks what a linker's name would tell: the types of parameters, classes around it.
	bare bool
}

// debugInfo answers by the DWARF of one object.
type debugInfo struct {
	info      *dso.DebugInfo
	alt       *dso.DebugInfo // to which dwz moved what several objects share; nil without
	units     spans[*unit]
	rangeless []*unit // units that do not say what they cover
	names     map[reference]naming
}

// reference is the place of an entry.
type reference struct {
	offset dwarf.Offset
	alt    bool // in the alternative file
}

// openDebug reads the DWARF of an image. from is the file that it is in. With an error there may still be some.
func openDebug(image *dso.Image, finder *finder, files []*dso.File) (d *debugInfo, from string, err error) {
	info, err := image.Debug()
	if err != nil {
		return nil, "", err
	}
	d = &debugInfo{info: info, names: map[reference]naming{}}
	var missing error // without which there is less, and not nothing
	for _, f := range files {
		if f.Path() != info.From {
			continue
		}
		if alt := finder.alternative(f); alt != nil {
			d.alt, err = alt.Debug()
			alt.Close()
		} else if name, _, needed := f.AltLink(); needed {
			err = fmt.Errorf("%s: %s, which has what several objects share, was not found", f.Path(), name)
		}
		missing = err
	}
	r := info.Reader()
	for _, offset := range info.Units() {
		r.Seek(offset)
		entry, err := r.Next()
		if err != nil {
			missing = fmt.Errorf("%s: unit at %#x: %w", info.From, offset, err)
			continue
		}
		if entry == nil || entry.Tag != dwarf.TagCompileUnit && entry.Tag != dwarf.TagSkeletonUnit {
			continue
		}
		u := &unit{entry: entry}
		u.language, _ = entry.Val(dwarf.AttrLanguage).(int64)
		ranges, err := info.Ranges(entry)
		if err != nil || len(ranges) == 0 {
			d.rangeless = append(d.rangeless, u)
		}
		for _, at := range ranges {
			d.units.add(at[0], at[1], u)
		}
	}
	d.units.sort()
	return d, info.From, missing
}

// at returns what is executed at an address, innermost first; nothing where the DWARF does not know.
func (d *debugInfo) at(addr uint64) []call {
	var best []call
	known := func(u *unit) bool {
		calls := d.inUnit(u, addr)
		if calls != nil && (best == nil || best[len(best)-1].function == "") {
			best = calls
		}
		return best != nil && best[len(best)-1].function != ""
	}
	d.units.find(addr, known)
	if best != nil {
		return best
	}
	for _, u := range d.rangeless {
		if known(u) {
			break
		}
	}
	return best
}

// unit is one compilation unit.
type unit struct {
	entry     *dwarf.Entry
	language  int64
	read      bool
	deep      bool // functions within functions have been looked for, too
	functions spans[*function]
	lines     spans[[]row]
	files     []*dwarf.LineFile
}

// row says from which address on a line is executed.
type row struct {
	addr uint64
	file *dwarf.LineFile
	line int
}

// function is one that was not inlined.
type function struct {
	entry   *dwarf.Entry
	within  string // namespaces around it, "a::b::"
	read    bool
	inlined []*inlined // into it
}

// inlined is a function that was inlined.
type inlined struct {
	ranges  [][2]uint64
	entry   *dwarf.Entry
	inlined []*inlined // into that
}

func (i *inlined) covers(addr uint64) bool {
	for _, r := range i.ranges {
		if r[0] <= addr && addr < r[1] {
			return true
		}
	}
	return false
}

// inUnit returns what is executed at an address by that unit, nil where it does not know.
func (d *debugInfo) inUnit(u *unit, addr uint64) []call {
	d.read(u)
	file, line, hasLine := u.line(addr)
	fn := u.function(addr)
	if fn == nil && !u.deep {
		u.deep = true
		d.readFunctions(u, true)
		fn = u.function(addr)
	}
	if fn == nil {
		if !hasLine {
			return nil
		}
		return []call{{file: file, line: line}}
	}
	d.readInlined(fn)
	// Outermost first: each call has the line at which the next was inlined, the last the line of the address.
	calls := []call{d.callOf(u, fn.entry, fn.within)}
	for level := fn.inlined; ; {
		var next *inlined
		for _, i := range level {
			if i.covers(addr) {
				next = i
				break
			}
		}
		if next == nil {
			break
		}
		outer := &calls[len(calls)-1]
		callFile, _ := next.entry.Val(dwarf.AttrCallFile).(int64)
		callLine, _ := next.entry.Val(dwarf.AttrCallLine).(int64)
		outer.file, outer.line = u.fileName(callFile), lineNumber(callLine)
		calls = append(calls, d.callOf(u, next.entry, ""))
		level = next.inlined
	}
	inner := &calls[len(calls)-1]
	inner.file, inner.line = file, line
	for i, j := 0, len(calls)-1; i < j; i, j = i+1, j-1 {
		calls[i], calls[j] = calls[j], calls[i]
	}
	return calls
}

func (u *unit) function(addr uint64) (fn *function) {
	u.functions.find(addr, func(of *function) bool {
		fn = of
		return true
	})
	return fn
}

// line finds the line of an address.
func (u *unit) line(addr uint64) (file string, line int, ok bool) {
	u.lines.find(addr, func(rows []row) bool {
		low, high := 0, len(rows) // the last row at or before the address
		for low < high {
			if middle := (low + high) / 2; rows[middle].addr <= addr {
				low = middle + 1
			} else {
				high = middle
			}
		}
		if low == 0 {
			return false
		}
		r := rows[low-1]
		file = u.absolute(r.file)
		line, ok = r.line, true
		return true
	})
	return file, line, ok
}

func (u *unit) fileName(number int64) string {
	if number < 0 || number >= int64(len(u.files)) {
		return ""
	}
	return u.absolute(u.files[number])
}

// absolute is the path of a file. In DWARF 5, names are as the compiler was told, relative to where it ran.
func (u *unit) absolute(f *dwarf.LineFile) string {
	if f == nil || f.Name == "" {
		return ""
	}
	dir, _ := u.entry.Val(dwarf.AttrCompDir).(string)
	if path.IsAbs(f.Name) {
		return path.Clean(f.Name)
	}
	return path.Join(dir, f.Name)
}

func lineNumber(n int64) int {
	if n < 0 || n > 1<<31-1 {
		return 0
	}
	return int(n)
}

// read decodes the unit's line table and finds its functions. What is damaged is left out.
func (d *debugInfo) read(u *unit) {
	if u.read {
		return
	}
	u.read = true
	d.readLines(u)
	d.readFunctions(u, false)
}

func (d *debugInfo) readLines(u *unit) {
	lines, err := d.info.LineReader(u.entry)
	if err != nil || lines == nil {
		return
	}
	var entry dwarf.LineEntry
	var rows []row
	for lines.Next(&entry) == nil {
		if entry.EndSequence {
			if len(rows) > 0 {
				u.lines.add(rows[0].addr, entry.Address, rows)
			}
			rows = nil
			continue
		}
		if n := len(rows); n > 0 && rows[n-1].addr > entry.Address {
			continue // addresses only grow (DWARF 5, 6.2.5)
		}
		rows = append(rows, row{entry.Address, entry.File, lineNumber(int64(entry.Line))})
	}
	u.lines.sort()
	u.files = lines.Files()
}

// readFunctions lists the functions of a unit. Those within functions are found only where deep is set: only some
// languages have any.
func (d *debugInfo) readFunctions(u *unit, deep bool) {
	u.functions = spans[*function]{}
	r := d.info.Reader()
	r.Seek(u.entry.Offset)
	if first, err := r.Next(); err != nil || first == nil || !first.Children {
		return
	}
	var within []string // for each level of entries that are open, the namespaces
	prefix := ""
	for {
		entry, err := r.Next()
		if err != nil || entry == nil {
			break
		}
		if entry.Tag == 0 {
			if len(within) == 0 {
				break
			}
			prefix, within = within[len(within)-1], within[:len(within)-1]
			continue
		}
		if entry.Tag == dwarf.TagSubprogram {
			d.addFunction(u, entry, prefix)
		}
		if !entry.Children {
			continue
		}
		inner, descend := u.inside(entry, deep)
		if !descend || len(within) >= maxNesting {
			r.SkipChildren()
			continue
		}
		within = append(within, prefix)
		prefix += inner
	}
	u.functions.sort()
}

// maxNesting bounds how deep entries may nest.
const maxNesting = 1000

// inside tells whether functions may be inside an entry, and what their names begin with then.
func (u *unit) inside(entry *dwarf.Entry, deep bool) (prefix string, descend bool) {
	switch entry.Tag {
	case dwarf.TagNamespace, dwarf.TagModule:
		name, _ := entry.Val(dwarf.AttrName).(string)
		if name == "" {
			name = "(anonymous namespace)"
		}
		return name + "::", true
	case dwarf.TagClassType, dwarf.TagStructType, dwarf.TagUnionType, dwarf.TagEnumerationType:
		name, _ := entry.Val(dwarf.AttrName).(string)
		return name + "::", !plainC(u.language)
	case dwarf.TagSubprogram, dwarf.TagLexDwarfBlock, dwarf.TagInlinedSubroutine:
		return "", deep
	}
	return "", false
}

// plainC tells whether a language has neither namespaces nor methods: C of any year, and assembler.
func plainC(language int64) bool {
	switch language {
	case 0x01, 0x02, 0x0c, 0x1d, 0x2c, 0x8001: // DW_LANG_C89, C, C99, C11, C17, Mips_Assembler
		return true
	}
	return false
}

func (d *debugInfo) addFunction(u *unit, entry *dwarf.Entry, within string) {
	if entry.AttrField(dwarf.AttrLowpc) == nil && entry.AttrField(dwarf.AttrRanges) == nil {
		return
	}
	ranges, err := d.info.Ranges(entry)
	if err != nil {
		return
	}
	fn := &function{entry: entry, within: within}
	for _, at := range ranges {
		u.functions.add(at[0], at[1], fn)
	}
}

// readInlined reads what was inlined into a function.
func (d *debugInfo) readInlined(fn *function) {
	if fn.read || !fn.entry.Children {
		return
	}
	fn.read = true
	r := d.info.Reader()
	r.Seek(fn.entry.Offset)
	if _, err := r.Next(); err != nil {
		return
	}
	levels := []*[]*inlined{&fn.inlined} // for each entry that is open, where what is inlined into it goes
	for len(levels) > 0 {
		entry, err := r.Next()
		if err != nil || entry == nil {
			return
		}
		into := levels[len(levels)-1]
		switch {
		case entry.Tag == 0:
			levels = levels[:len(levels)-1]
			continue
		case entry.Tag == dwarf.TagInlinedSubroutine:
			i := &inlined{entry: entry}
			i.ranges, _ = d.info.Ranges(entry)
			*into = append(*into, i)
			into = &i.inlined
		case entry.Tag != dwarf.TagLexDwarfBlock:
			if entry.Children {
				r.SkipChildren()
			}
			continue
		}
		if entry.Children {
			if len(levels) > maxNesting {
				return
			}
			levels = append(levels, into)
		}
	}
}
