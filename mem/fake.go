package mem

import (
	"syscall"
)

// Fake is memory that lives in this process: segments at chosen addresses. It is for tests and for captured regions.
// The zero value has no memory. An access that is not wholly inside one segment fails as the kernel's would.
type Fake struct {
	Segments []Segment
}

// Segment is len(Data) bytes of memory at Addr.
type Segment struct {
	Addr Addr
	Data []byte
}

func (f *Fake) find(op string, a Addr, n int) ([]byte, error) {
	for _, s := range f.Segments {
		if a >= s.Addr && uint64(a-s.Addr) <= uint64(len(s.Data)) && n <= len(s.Data)-int(a-s.Addr) {
			return s.Data[a-s.Addr:][:n], nil
		}
	}
	return nil, &Fault{Op: op, Addr: a, Len: n, Err: syscall.EFAULT}
}

// ReadAt implements [Reader].
func (f *Fake) ReadAt(p []byte, a Addr) error {
	b, err := f.find("read", a, len(p))
	copy(p, b)
	return err
}

// WriteAt implements [Writer].
func (f *Fake) WriteAt(p []byte, a Addr) error {
	b, err := f.find("write", a, len(p))
	copy(b, p)
	return err
}
