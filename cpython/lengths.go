package cpython

import "encoding/binary"

// Length is how many items a container holds, of which block is the beginning of its block. It is false for objects that
// are no list, tuple, dict, set, deque or bytearray, and for those of types derived from them.
func (t *Types) Length(o Object, block []byte) (int64, bool) {
	// The number stands behind the object's type: ob_size, or a dict's ma_used (Include/cpython/dictobject.h); a set's
	// used comes after its fill (Include/cpython/setobject.h). It has been so in every release from 3.6 to 3.15.
	at := uint64(o.Offset) + uint64(t.in.Layout.Object.Type.Bytes) + 8
	switch o.Type.Name {
	case "list", "tuple", "bytearray", "collections.deque", "dict", "collections.OrderedDict", "collections.defaultdict":
	case "set", "frozenset":
		at += 8
	default:
		return 0, false
	}
	if at+8 > uint64(len(block)) {
		return 0, false
	}
	n := int64(binary.LittleEndian.Uint64(block[at:]))
	return n, n >= 0 && n <= maxItems
}
