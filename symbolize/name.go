package symbolize

import (
	"cmp"
	"debug/dwarf"
	"strings"

	"github.com/heaptap/heaptap/dso"
)

// naming is what a function is called.
type naming struct {
	linkage   string // as the linker knows it
	plain     string // as the source says
	firstLine int
}

// attrMIPSLinkageName is DW_AT_MIPS_linkage_name, which producers wrote before DWARF 4 had DW_AT_linkage_name.
const attrMIPSLinkageName dwarf.Attr = 0x2007

// maxOrigins bounds how many entries lead to a function's name: an instance, what it was inlined from, its declaration.
const maxOrigins = 8

// callOf is the call of a function, without file and line.
func (d *debugInfo) callOf(u *unit, entry *dwarf.Entry, within string) call {
	n := d.naming(entry)
	c := call{function: dso.Demangle(n.linkage), firstLine: n.firstLine}
	switch {
	case c.function != "":
	case n.plain != "":
		c.function, c.bare = n.plain, n.linkage == "" && !plainC(u.language)
		if !strings.Contains(n.plain, "::") {
			c.function = within + n.plain
		}
	default:
		c.function = n.linkage
	}
	return c
}

// naming follows an entry to what it is an instance of, until all is known.
func (d *debugInfo) naming(entry *dwarf.Entry) naming {
	at := reference{offset: entry.Offset}
	if known, ok := d.names[at]; ok {
		return known
	}
	var n naming
	inAlt := false
	for range maxOrigins {
		n.add(d.own(entry, inAlt))
		next, ok := origin(entry, inAlt)
		if !ok {
			break
		}
		entry = d.entry(next)
		if entry == nil {
			break
		}
		inAlt = next.alt
	}
	d.names[at] = n
	return n
}

// add fills in what is not known yet.
func (n *naming) add(more naming) {
	n.linkage, n.plain = cmp.Or(n.linkage, more.linkage), cmp.Or(n.plain, more.plain)
	n.firstLine = cmp.Or(n.firstLine, more.firstLine)
}

// own is what an entry itself says.
func (d *debugInfo) own(entry *dwarf.Entry, inAlt bool) naming {
	line, _ := entry.Val(dwarf.AttrDeclLine).(int64)
	return naming{
		linkage:   cmp.Or(d.text(entry, dwarf.AttrLinkageName), d.text(entry, attrMIPSLinkageName)),
		plain:     d.text(entry, dwarf.AttrName),
		firstLine: lineNumber(line),
	}
}

// text is the value of an attribute that is a string, which may be in the alternative file.
func (d *debugInfo) text(entry *dwarf.Entry, attr dwarf.Attr) string {
	field := entry.AttrField(attr)
	if field == nil {
		return ""
	}
	switch v := field.Val.(type) {
	case string:
		return v
	case int64:
		if field.Class == dwarf.ClassStringAlt && d.alt != nil {
			return d.alt.Text(v)
		}
	}
	return ""
}

// origin is the entry that an instance refers to.
func origin(entry *dwarf.Entry, inAlt bool) (reference, bool) {
	for _, attr := range []dwarf.Attr{dwarf.AttrAbstractOrigin, dwarf.AttrSpecification} {
		field := entry.AttrField(attr)
		if field == nil {
			continue
		}
		switch v := field.Val.(type) {
		case dwarf.Offset:
			return reference{v, inAlt}, true
		case int64:
			return reference{dwarf.Offset(v), true}, field.Class == dwarf.ClassReferenceAlt
		}
	}
	return reference{}, false
}

// entry reads the entry at a reference, nil where there is none.
func (d *debugInfo) entry(at reference) *dwarf.Entry {
	info := d.info
	if at.alt {
		info = d.alt
	}
	if info == nil {
		return nil
	}
	r := info.Reader()
	r.Seek(at.offset)
	entry, err := r.Next()
	if err != nil {
		return nil
	}
	return entry
}
