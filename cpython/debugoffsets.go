package cpython

import (
	"encoding/binary"
	"fmt"

	"github.com/heaptap/heaptap/mem"
)

// debugOffsets is where the fields of _Py_DebugOffsets stand in one feature release: the structure is an array of
// 8-byte words that begins with the cookie, the version and the free-threaded flag
// (Include/internal/pycore_debug_offsets.h, 3.13 and later).
type debugOffsets struct {
	words  int
	fields []debugField
}

// debugField says that word tells the offset of one field of Layout, width bytes wide and so aligned, in a structure
// whose size the word size tells. A width of 0 is that of text up to the structure's end.
type debugField struct {
	name       string
	width      uint64
	word, size int
	offset     func(*Layout) *Offset
}

const (
	debugCookie       = "xdebugpy"
	debugVersion      = 1 // words
	debugFreeThreaded = 2
	maxStructure      = 1 << 22 // bytes; the largest, PyInterpreterState, has 390,000 in 3.12
)

// overlay lays what the target itself says about its structures over l, for releases that do. What it says is
// believed only after it was checked: cookie, version, every offset inside the structure it belongs to and aligned.
//
// Where the target contradicts the table, somebody has changed the structure, so fields of the same structure that
// it does not describe and that heaptap can do without become absent. The names of such fields are returned.
func overlay(l *Layout, r mem.Reader, runtime mem.Addr, v Version) (differ []string, err error) {
	rows, ok := pick(debugOffsetRows, v)
	if !ok {
		return nil, nil
	}
	b, err := mem.Bytes(r, runtime, 8*rows.words)
	if err != nil {
		return nil, fmt.Errorf("read _Py_DebugOffsets: %w", err)
	}
	if string(b[:8]) != debugCookie {
		return nil, fmt.Errorf("_Py_DebugOffsets at %v: no cookie", runtime)
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	if got := versionHex(uint32(word(debugVersion))); got != v {
		return nil, fmt.Errorf("_Py_DebugOffsets at %v: of version %v, not %v", runtime, got, v)
	}
	if word(debugFreeThreaded) != 0 {
		return nil, fmt.Errorf("_Py_DebugOffsets at %v: of a free-threaded build", runtime)
	}
	for _, f := range rows.fields {
		off, size := word(f.word), word(f.size)
		field := f.offset(l)
		if size > maxStructure || off > size || f.width > size-off || off%max(f.width, 1) != 0 {
			return nil, fmt.Errorf("_Py_DebugOffsets at %v: %s is %d in a structure of %d bytes", runtime, f.name, off, size)
		}
		if told := at(uint32(off)); *field != told {
			differ = append(differ, fmt.Sprintf("%s is %d, not %v", f.name, off, *field))
			*field = told
		}
	}
	if len(differ) > 0 {
		l.Thread.ID = Offset{}
		l.Code.FirstTraceable = Offset{}
	}
	return differ, nil
}
