package profiler

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// finder finds words in bytes: all that lead into a range, wherever they begin, and aligned ones that hold certain values.
type finder struct {
	from, to mem.Addr
	values   map[uint64]uint64 // the certain ones, by what they are to become
	high     [][]byte          // the upper bytes that addresses in the range have
	top      [][]byte          // those that the certain values have
}

// How many bytes of a word are not looked for: those that differ in a range, and those that would take longer to find.
const (
	rangeLow = 3
	valueLow = 5
)

// finder is one for what leads into the agent: values are its hooks by their originals, guard what glibc mangles pointers
// with, 0: nothing.
func (a *placed) finder(values map[uint64]uint64, guard uint64) *finder {
	f := &finder{values: map[uint64]uint64{}}
	f.from, f.to = a.text()
	add := func(to *[][]byte, v uint64, low int) {
		b := binary.LittleEndian.AppendUint64(nil, v)[low:]
		if !slices.ContainsFunc(*to, func(x []byte) bool { return bytes.Equal(x, b) }) {
			*to = append(*to, b)
		}
	}
	add(&f.high, uint64(f.from), rangeLow) // the range is smaller than what they cover
	add(&f.high, uint64(f.to)-1, rangeLow)
	for v, original := range values {
		f.values[v] = original
		if guard != 0 {
			f.values[mangled(v, guard)] = mangled(original, guard)
			add(&f.top, mangled(v, guard), valueLow)
		}
	}
	return f
}

func (f *finder) leads(v uint64) bool { return mem.Addr(v) >= f.from && mem.Addr(v) < f.to }

// each yields the offsets at which b, which begins at a multiple of 8, has such words, and the words.
func (f *finder) each(b []byte) iter.Seq2[int, uint64] {
	return func(yield func(at int, v uint64) bool) {
		search := func(pattern []byte, low int, is func(at int, v uint64) bool) bool {
			for next := low; next < len(b); next++ {
				i := bytes.Index(b[next:], pattern)
				if i < 0 {
					break
				}
				next += i
				at := next - low
				if v := binary.LittleEndian.Uint64(b[at:]); is(at, v) && !yield(at, v) {
					return false
				}
			}
			return true
		}
		for _, p := range f.high {
			if !search(p, rangeLow, func(_ int, v uint64) bool { return f.leads(v) }) {
				return
			}
		}
		for _, p := range f.top {
			if !search(p, valueLow, func(at int, v uint64) bool { _, ok := f.values[v]; return ok && at%8 == 0 }) {
				return
			}
		}
	}
}

// scanChunk is how much is read at once in search of a word.
const scanChunk = 1 << 20

// find yields what f finds in a mapping. What cannot be read has been unmapped meanwhile, or is a guard page.
func (t *target) find(f *finder, mp proc.Mapping) iter.Seq2[mem.Addr, uint64] {
	return func(yield func(at mem.Addr, v uint64) bool) {
		var buf []byte
		look := func(base, end, seen mem.Addr) bool { // what begins below seen was looked at
			if buf == nil {
				buf = make([]byte, min(mp.Size(), scanChunk))
			}
			for base < end {
				b := buf[:min(uint64(end-base), uint64(len(buf)))]
				if t.mem.ReadAt(b, base) != nil {
					b = b[:min(len(b), proc.PageSize-int(base%proc.PageSize))]
					if t.mem.ReadAt(b, base) != nil {
						base += mem.Addr(len(b))
						continue
					}
				}
				for i, v := range f.each(b) {
					if at := base + mem.Addr(i); at >= seen && !yield(at, v) {
						return false
					}
				}
				if base += mem.Addr(len(b)); base < end && len(b) > 8 { // a word may begin here and go on there
					base -= 8
					seen = base + 1
				}
			}
			return true
		}
		for from, to := range t.mem.Own(mp) {
			if !look(from, to, from) {
				return
			}
		}
	}
}

// searchable reports whether a mapping may hold words of the program's: not memory of a device, nor what is only reserved.
func searchable(mp proc.Mapping) bool {
	const reserved = 1 << 30
	switch {
	case isTables(mp), strings.HasPrefix(mp.Path, "[v"), mp.Shared && !mp.Write:
		return false
	case strings.HasPrefix(mp.Path, "/dev/"):
		return strings.HasPrefix(mp.Path, "/dev/zero") || strings.HasPrefix(mp.Path, "/dev/shm/")
	}
	return mp.Read || mp.Write || mp.Exec || mp.Size() < reserved
}

func wordOf(modules []*dso.Module, mp proc.Mapping, at mem.Addr) string {
	return fmt.Sprintf("a word of %s (at %v)", cmp.Or(moduleIn(modules, mp), mp.Path, "private memory"), at)
}
