package agent

import (
	"unsafe"

	"github.com/heaptap/heaptap/mem"
)

const rangeSize = uint64(unsafe.Sizeof(Range{}))

// WriteBefore notes in the tables at a, of which h is the header that will be written there, what private memory there
// was before tracking: ranges in address order. Where there are more than fit, the last ones become one.
func WriteBefore(w mem.Writer, a mem.Addr, h *Tables, ranges []Range) error {
	if most := int(h.Before.Entries); len(ranges) > most {
		end := ranges[len(ranges)-1].End
		ranges = append([]Range(nil), ranges[:most]...)
		ranges[most-1].End = end
	}
	h.Before.Next = uint64(len(ranges))
	if len(ranges) == 0 {
		return nil
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(&ranges[0])), uint64(len(ranges))*rangeSize)
	return w.WriteAt(b, a+mem.Addr(h.Before.Offset))
}

// ReadBefore reads what [WriteBefore] noted.
func ReadBefore(r mem.Reader, a mem.Addr, h *Tables) ([]Range, error) {
	limit := mostBefore * rangeSize
	var b []byte
	if err := copyWindows(r, a, h.Size, &limit, []window{{&b, h.Before, rangeSize}}); err != nil {
		return nil, err
	}
	return view[Range](b), nil
}
