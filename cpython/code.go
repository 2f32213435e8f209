package cpython

import (
	"fmt"

	"github.com/heaptap/heaptap/mem"
)

const (
	maxName      = 1 << 16 // characters of a name or path
	maxLineTable = 1 << 24 // bytes; the standard library's longest has some 30,000
	maxFirstLine = 1 << 30
)

// Code is a code object.
type Code struct {
	CodeAddr  mem.Addr
	File      string
	Name      string
	Qualname  string // Name where the release keeps none (to 3.10)
	FirstLine int
	LineTable []byte

	firstTraceable int // code units; 0 where absent
}

// Code reads the code object at a. An error says that there is none, or that it could not be read.
func (in *Interpreter) Code(r mem.Reader, a mem.Addr) (Code, error) {
	code, err := in.code(r, a)
	if err != nil {
		return Code{}, fmt.Errorf("code object %v: %w", a, err)
	}
	return code, nil
}

func (in *Interpreter) code(r mem.Reader, a mem.Addr) (Code, error) {
	if a == 0 || a%8 != 0 {
		return Code{}, fmt.Errorf("no address of an object: %w", errTorn)
	}
	typ, err := mem.Pointer(r, in.Layout.Object.Type.From(a))
	if err != nil {
		return Code{}, err
	}
	if typ != in.CodeType {
		return Code{}, fmt.Errorf("its type is %v, not %v: %w", typ, in.CodeType, errTorn)
	}
	l := in.Layout.Code
	c := Code{CodeAddr: a}
	if c.File, err = in.stringField(r, a, l.Filename); err != nil {
		return Code{}, fmt.Errorf("file name: %w", err)
	}
	if c.Name, err = in.stringField(r, a, l.Name); err != nil {
		return Code{}, fmt.Errorf("name: %w", err)
	}
	c.Qualname = c.Name
	if l.Qualname.Known {
		if c.Qualname, err = in.stringField(r, a, l.Qualname); err != nil {
			return Code{}, fmt.Errorf("qualified name: %w", err)
		}
	}
	first, err := mem.U32(r, l.FirstLine.From(a))
	if err != nil {
		return Code{}, err
	}
	c.FirstLine = int(int32(first))
	if l.FirstTraceable.Known {
		n, err := mem.U32(r, l.FirstTraceable.From(a))
		if err != nil {
			return Code{}, err
		}
		c.firstTraceable = int(int32(n))
	}
	table, err := mem.Pointer(r, l.LineTable.From(a))
	if err != nil {
		return Code{}, err
	}
	if c.LineTable, err = in.Bytes(r, table, maxLineTable); err != nil {
		return Code{}, fmt.Errorf("line table: %w", err)
	}
	return c, nil
}

func (in *Interpreter) stringField(r mem.Reader, object mem.Addr, field Offset) (string, error) {
	a, err := mem.Pointer(r, field.From(object))
	if err != nil {
		return "", err
	}
	return in.String(r, a, maxName)
}

// Bytes reads the bytes object at a, of at most max bytes.
func (in *Interpreter) Bytes(r mem.Reader, a mem.Addr, max int) ([]byte, error) {
	if a == 0 || a%8 != 0 {
		return nil, fmt.Errorf("bytes at %v: no address of an object: %w", a, errTorn)
	}
	n, err := mem.U64(r, in.Layout.Bytes.Size.From(a))
	if err != nil {
		return nil, err
	}
	if n > uint64(max) {
		return nil, fmt.Errorf("bytes at %v of length %d: %w", a, n, errTorn)
	}
	return mem.Bytes(r, in.Layout.Bytes.Data.From(a), int(n))
}

// String reads the str at a, of at most max characters.
func (in *Interpreter) String(r mem.Reader, a mem.Addr, max int) (string, error) {
	if a == 0 || a%8 != 0 {
		return "", fmt.Errorf("str at %v: no address of an object: %w", a, errTorn)
	}
	l := in.Layout.Unicode
	n, err := mem.U64(r, l.Length.From(a))
	if err != nil {
		return "", err
	}
	state, err := mem.U32(r, l.State.From(a))
	if err != nil {
		return "", err
	}
	kind := state >> l.KindShift & (1<<l.KindBits - 1)
	if n > uint64(max) || kind != 1 && kind != 2 && kind != 4 {
		return "", fmt.Errorf("str at %v of length %d and kind %d: %w", a, n, kind, errTorn)
	}
	data := l.ASCIIData.From(a)
	switch {
	case state>>l.CompactBit&1 == 0:
		if data, err = mem.Pointer(r, l.PointerData.From(a)); err != nil {
			return "", err
		}
	case state>>l.ASCIIBit&1 == 0:
		data = l.CompactData.From(a)
	}
	raw, err := mem.Bytes(r, data, int(n)*int(kind))
	if err != nil {
		return "", err
	}
	return DecodeUnicode(int(kind), raw)
}
