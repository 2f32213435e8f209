package heap

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var errTruncated = errors.New("the data end within a field")

// field is one field of a message in protocol buffers' wire format.
type field struct {
	number int
	wire   int
	num    uint64 // of numeric wire types
	bytes  []byte // of wireBytes; shares memory with the message
}

// nextField takes the first field off a message that is not empty.
func nextField(message []byte) (f field, rest []byte, err error) {
	tag, rest, err := takeVarint(message)
	if err != nil {
		return f, nil, err
	}
	f.number, f.wire = int(tag>>3), int(tag&7)
	if tag>>3 == 0 || tag>>3 >= 1<<29 { // the format's range of field numbers
		return f, nil, fmt.Errorf("field number %d", tag>>3)
	}
	switch f.wire {
	case wireVarint:
		f.num, rest, err = takeVarint(rest)
		return f, rest, err
	case wire64:
		if len(rest) < 8 {
			return f, nil, errTruncated
		}
		f.num = binary.LittleEndian.Uint64(rest)
		return f, rest[8:], nil
	case wire32:
		if len(rest) < 4 {
			return f, nil, errTruncated
		}
		f.num = uint64(binary.LittleEndian.Uint32(rest))
		return f, rest[4:], nil
	case wireBytes:
		n, rest, err := takeVarint(rest)
		if err != nil {
			return f, nil, err
		}
		if n > uint64(len(rest)) {
			return f, nil, errTruncated
		}
		f.bytes = rest[:n]
		return f, rest[n:], nil
	}
	return f, nil, fmt.Errorf("wire type %d", f.wire)
}

func takeVarint(b []byte) (uint64, []byte, error) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), b[1:], nil
	}
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, errTruncated
	}
	return v, b[n:], nil
}

// eachField calls do with each field of a message and stops at the first error.
func eachField(message []byte, do func(field) error) error {
	for len(message) > 0 {
		f, rest, err := nextField(message)
		if err != nil {
			return err
		}
		if err := do(f); err != nil {
			return err
		}
		message = rest
	}
	return nil
}

// number64 returns the value of a field that must hold one number.
func (f field) number64() (uint64, error) {
	if f.wire != wireVarint {
		return 0, fmt.Errorf("field %d: a number has wire type %d", f.number, f.wire)
	}
	return f.num, nil
}

// body returns the content of a field that must hold a string or a message.
func (f field) body() ([]byte, error) {
	if f.wire != wireBytes {
		return nil, fmt.Errorf("field %d: a message has wire type %d", f.number, f.wire)
	}
	return f.bytes, nil
}

// appendNumbers appends the numbers of a repeated field, which come packed or one by one.
func (f field) appendNumbers(to []uint64) ([]uint64, error) {
	if f.wire != wireBytes {
		v, err := f.number64()
		return append(to, v), err
	}
	for packed := f.bytes; len(packed) > 0; {
		v, rest, err := takeVarint(packed)
		if err != nil {
			return to, err
		}
		to, packed = append(to, v), rest
	}
	return to, nil
}
