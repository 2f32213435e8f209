package unwind

import (
	"bytes"
	"encoding/binary"

	"github.com/heaptap/heaptap/mem"
)

// decoder reads values of CFI one after the other. When something is missing or cannot be, it keeps the first fact
// about that and gives zeros from then on.
type decoder struct {
	b    []byte
	pos  int
	base mem.Addr // address of b[0]
	bad  string   // "" as long as all is well
}

func (d *decoder) fail(what string) {
	if d.bad == "" {
		d.bad = what
	}
	d.pos = len(d.b)
}

func (d *decoder) more() bool { return d.pos < len(d.b) }

// address is where the next value stands.
func (d *decoder) address() mem.Addr { return d.base + mem.Addr(d.pos) }

// take returns the next n bytes, without copying them; nil where there are not so many.
func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)-d.pos) {
		d.fail("entry ends in the middle of a value")
		return nil
	}
	d.pos += int(n)
	return d.b[d.pos-int(n) : d.pos]
}

func (d *decoder) u8() uint8 {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if b := d.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// uleb reads an unsigned LEB128. Bits above the 64th have to be zero.
func (d *decoder) uleb() uint64 {
	var v uint64
	for shift := uint(0); ; shift += 7 {
		c := d.u8()
		if shift > 63 && c&0x7f != 0 || shift == 63 && c&0x7e != 0 {
			d.fail("number does not fit 64 bits")
			return 0
		}
		if shift < 64 {
			v |= uint64(c&0x7f) << shift
		}
		if c&0x80 == 0 {
			return v
		}
	}
}

// sleb reads a signed LEB128.
func (d *decoder) sleb() int64 {
	var v int64
	for shift := uint(0); ; shift += 7 {
		c := d.u8()
		if shift > 63 {
			d.fail("number does not fit 64 bits")
			return 0
		}
		v |= int64(c&0x7f) << shift
		if c&0x80 == 0 {
			if shift < 57 && c&0x40 != 0 {
				v |= -1 << (shift + 7)
			}
			return v
		}
	}
}

// block reads bytes behind their number.
func (d *decoder) block() []byte { return d.take(d.uleb()) }

// text reads a NUL-terminated string.
func (d *decoder) text() string {
	n := bytes.IndexByte(d.b[d.pos:], 0)
	if n < 0 {
		d.fail("string has no end")
		return ""
	}
	s := string(d.b[d.pos : d.pos+n])
	d.pos += n + 1
	return s
}

// Pointer encodings (Linux Standard Base Core 5.0, section 10.5.1): a format, what it is relative to, and whether it
// is the address of the value.
const (
	peAbsolute = 0x00
	peULEB     = 0x01
	peUdata2   = 0x02
	peUdata4   = 0x03
	peUdata8   = 0x04
	peSLEB     = 0x09
	peSdata2   = 0x0a
	peSdata4   = 0x0b
	peSdata8   = 0x0c

	peFormat = 0x0f

	pePCRel    = 0x10
	peDataRel  = 0x30
	peFuncRel  = 0x40
	peAligned  = 0x50
	peRelative = 0x70

	peIndirect = 0x80
	peOmit     = 0xff
)

// bases are what pointers can be relative to.
type bases struct {
	absolute mem.Addr // added to absolute ones: where the section is a file's, and so not relocated
	data     mem.Addr // 0: not known
	function mem.Addr
	memory   mem.Reader // for indirect ones
}

// pointer reads an encoded address. A pointer that is zero before anything is added to it stays zero.
func (d *decoder) pointer(encoding uint8, at bases) mem.Addr {
	if encoding&peRelative == peAligned {
		return d.aligned()
	}
	here := d.address()
	v := d.encoded(encoding & peFormat)
	if v == 0 {
		return 0
	}
	switch encoding & peRelative {
	case 0:
		if encoding&peFormat == peAbsolute {
			v += at.absolute
		}
	case pePCRel:
		v += here
	case peDataRel:
		if at.data == 0 {
			d.fail("pointer relative to data whose address is not known")
		}
		v += at.data
	case peFuncRel:
		v += at.function
	default:
		d.fail("pointer encoding is not supported")
	}
	if encoding&peIndirect != 0 && d.bad == "" {
		return d.indirect(v, at.memory)
	}
	return v
}

// aligned reads an absolute address at the next multiple of 8.
func (d *decoder) aligned() mem.Addr {
	for d.address()%8 != 0 && d.bad == "" {
		d.u8()
	}
	return mem.Addr(d.u64())
}

// skip steps over an encoded address.
func (d *decoder) skip(encoding uint8) {
	switch {
	case encoding == peOmit:
	case encoding&peRelative == peAligned:
		d.aligned()
	default:
		d.encoded(encoding & peFormat)
	}
}

func (d *decoder) encoded(format uint8) mem.Addr {
	switch format {
	case peAbsolute, peUdata8, peSdata8:
		return mem.Addr(d.u64())
	case peULEB:
		return mem.Addr(d.uleb())
	case peSLEB:
		return mem.Addr(d.sleb())
	case peUdata2:
		return mem.Addr(d.u16())
	case peSdata2:
		return mem.Addr(int16(d.u16()))
	case peUdata4:
		return mem.Addr(d.u32())
	case peSdata4:
		return mem.Addr(int32(d.u32()))
	}
	d.fail("pointer format is not defined")
	return 0
}

func (d *decoder) indirect(a mem.Addr, r mem.Reader) mem.Addr {
	if r == nil {
		d.fail("pointer is indirect where that makes no sense")
		return 0
	}
	v, err := mem.Pointer(r, a)
	if err != nil {
		d.fail(err.Error())
	}
	return v
}
