package call

import (
	"bytes"
	"encoding/binary"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

const (
	pageSize = 4096
	atPhdr   = 3
	atBase   = 7
)

// tail is the part of a segment's last page that lies behind the segment: bytes that the file happens to have there,
// which no program refers to.
type tail struct {
	Start, End mem.Addr
	Exec       bool
}

// findTails lists the unused page tails of read-only segments of loaded ELF files, the program's and the loader's
// first, since those are never unloaded. Tails of writable segments are left out: musl and glibc's loader allocate
// from theirs.
func findTails(r mem.Reader, maps []proc.Mapping, auxv map[uint64]uint64) []tail {
	var program, loader, others []tail
	for _, m := range maps {
		if m.Offset != 0 || m.Inode == 0 || !m.Read || m.Shared {
			continue
		}
		t := fileTails(r, m.Start, maps)
		switch {
		case m.Contains(mem.Addr(auxv[atPhdr])):
			program = t
		case m.Start == mem.Addr(auxv[atBase]):
			loader = t
		default:
			others = append(others, t...)
		}
	}
	return append(append(program, loader...), others...)
}

// fileTails lists the tails of the ELF file whose header is mapped at start, nothing where there is none.
func fileTails(r mem.Reader, start mem.Addr, maps []proc.Mapping) []tail {
	loads := loadSegments(r, start)
	var out []tail
	for i, s := range loads {
		t := tail{Start: s.end, End: (s.end + pageSize - 1).AlignDown(pageSize), Exec: s.exec}
		if s.write || t.Start == t.End || shared(loads, i, t) {
			continue
		}
		if m, ok := findMapping(maps, t.Start); ok && m.Read && !m.Write && !m.Shared && m.Exec == t.Exec && m.Inode != 0 {
			out = append(out, t)
		}
	}
	return out
}

// shared reports whether another segment than the i-th has bytes in the tail's page.
func shared(loads []segment, i int, t tail) bool {
	page := t.Start.AlignDown(pageSize)
	for j, o := range loads {
		if j != i && o.start < t.End && o.end > page {
			return true
		}
	}
	return false
}

type segment struct {
	start, end  mem.Addr
	exec, write bool
}

// loadSegments reads the PT_LOAD program headers of the ELF file whose header is mapped at start. Whatever does not
// look like a 64-bit ELF file has none.
func loadSegments(r mem.Reader, start mem.Addr) []segment {
	const (
		headerSize = 64
		entrySize  = 56
		maxEntries = 64
		ptLoad     = 1
		pfX, pfW   = 1, 2
	)
	le := binary.LittleEndian
	h, err := mem.Bytes(r, start, headerSize)
	if err != nil || !bytes.HasPrefix(h, []byte("\x7fELF\x02\x01")) || le.Uint16(h[54:]) != entrySize {
		return nil
	}
	n := int(min(le.Uint16(h[56:]), maxEntries))
	table, err := mem.Bytes(r, start+mem.Addr(le.Uint64(h[32:])), n*entrySize)
	if err != nil {
		return nil
	}
	var out []segment
	bias, known := mem.Addr(0), false
	for ; len(table) > 0; table = table[entrySize:] {
		if le.Uint32(table) != ptLoad {
			continue
		}
		flags, offset := le.Uint32(table[4:]), le.Uint64(table[8:])
		vaddr, size := mem.Addr(le.Uint64(table[16:])), mem.Addr(le.Uint64(table[40:]))
		if offset == 0 && !known {
			bias, known = start-vaddr, true
		}
		out = append(out, segment{vaddr, vaddr + size, flags&pfX != 0, flags&pfW != 0})
	}
	if !known {
		return nil
	}
	for i := range out {
		out[i].start += bias
		out[i].end += bias
	}
	return out
}

func findMapping(maps []proc.Mapping, a mem.Addr) (proc.Mapping, bool) {
	lo, hi := 0, len(maps)
	for lo < hi {
		mid := (lo + hi) / 2
		switch {
		case maps[mid].Contains(a):
			return maps[mid], true
		case a < maps[mid].Start:
			hi = mid
		default:
			lo = mid + 1
		}
	}
	return proc.Mapping{}, false
}
