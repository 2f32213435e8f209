// Package mem reads and writes the memory of a target through one tiny interface, so that a live process, a captured
// region and a fake are the same thing to everything above.
//
// It knows addresses and bytes and nothing of processes, ELF or Python. A failed access is always an error that says
// where; it is never a zero value. Values are little-endian, as every CPU that heaptap supports is.
package mem

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// Addr is an address in the target's address space. It is never a pointer of ours.
type Addr uint64

// String formats a as C does: 0x7f12….
func (a Addr) String() string { return "0x" + strconv.FormatUint(uint64(a), 16) }

// Add returns a+n, and false where that leaves the address space.
func (a Addr) Add(n uint64) (Addr, bool) {
	s := a + Addr(n)
	return s, s >= a
}

// AlignDown returns a rounded down to a multiple of n, a power of two.
func (a Addr) AlignDown(n uint64) Addr { return a &^ Addr(n-1) }

// Reader reads target memory. ReadAt fills all of p or returns an error, normally a *[Fault].
type Reader interface {
	ReadAt(p []byte, a Addr) error
}

// Writer writes target memory. WriteAt writes all of p or returns an error. An 8-byte write to an 8-byte-aligned
// address is one store to every observer in the target.
type Writer interface {
	WriteAt(p []byte, a Addr) error
}

// Memory is a target's memory, readable and writable.
type Memory interface {
	Reader
	Writer
}

// Fault says which access failed. Err is the cause, for example syscall.EFAULT or syscall.ESRCH.
type Fault struct {
	Op   string // "read" or "write"
	Addr Addr
	Len  int
	Err  error
}

func (f *Fault) Error() string {
	return fmt.Sprintf("%s %d bytes at %v: %v", f.Op, f.Len, f.Addr, f.Err)
}

func (f *Fault) Unwrap() error { return f.Err }

// Bytes reads n bytes at a. The caller bounds n: a length that the target merely claims must be clamped first.
func Bytes(r Reader, a Addr, n int) ([]byte, error) {
	b := make([]byte, n)
	if err := r.ReadAt(b, a); err != nil {
		return nil, err
	}
	return b, nil
}

// U8 reads one byte at a.
func U8(r Reader, a Addr) (uint8, error) {
	var b [1]byte
	err := r.ReadAt(b[:], a)
	return b[0], err
}

// U16 reads two bytes at a.
func U16(r Reader, a Addr) (uint16, error) {
	var b [2]byte
	if err := r.ReadAt(b[:], a); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint16(b[:]), nil
}

// U32 reads four bytes at a.
func U32(r Reader, a Addr) (uint32, error) {
	var b [4]byte
	if err := r.ReadAt(b[:], a); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b[:]), nil
}

// U64 reads eight bytes at a.
func U64(r Reader, a Addr) (uint64, error) {
	var b [8]byte
	if err := r.ReadAt(b[:], a); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// Pointer reads an address stored at a.
func Pointer(r Reader, a Addr) (Addr, error) {
	v, err := U64(r, a)
	return Addr(v), err
}

// PutU64 stores v at a, which should be 8-byte aligned.
func PutU64(w Writer, a Addr, v uint64) error {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	return w.WriteAt(b[:], a)
}

// CString reads the NUL-terminated string at a. It reads at most max bytes and never past the page in which the
// string ends; a string without a NUL within max is an error.
func CString(r Reader, a Addr, max int) (string, error) {
	const page = 4096
	var out []byte
	for len(out) < max {
		at := a + Addr(len(out))
		n := min(page-int(at%page), max-len(out))
		chunk, err := Bytes(r, at, n)
		if err != nil {
			return "", err
		}
		for i, c := range chunk {
			if c == 0 {
				return string(append(out, chunk[:i]...)), nil
			}
		}
		out = append(out, chunk...)
	}
	return "", fmt.Errorf("string at %v: no end within %d bytes", a, max)
}
