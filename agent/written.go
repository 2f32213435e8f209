package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"
	"unsafe"

	"github.com/heaptap/heaptap/mem"
)

// Written is tables that the agent wrote to a file upon a signal (signal.h). It is a [mem.Reader] of them, for
// [Capture.Copy]: they stand at address 0.
type Written struct {
	File   FileHead
	Outlet Outlet // as it was

	header   Tables
	size     uint64 // of the file
	file     io.ReaderAt
	sections map[uint64]piece // by offset in the tables
}

// piece is where in the file a section's bytes are.
type piece struct{ at, length uint64 }

// ErrNotWhole: the writing was cut short.
var ErrNotWhole = errors.New("the file is not whole: the process ended, or the disk was full, while it was written")

// MagicSize is how much of a file [IsWritten] looks at.
const MagicSize = 8

// IsWritten reports whether a file that begins so was written by the agent.
func IsWritten(first []byte) bool {
	return len(first) >= MagicSize && binary.LittleEndian.Uint64(first) == FileMagic
}

const mostSections = maxThreads + 64

// OpenWritten reads what is where in a file of so many bytes, and checks that it fits together.
func OpenWritten(file io.ReaderAt, size int64) (*Written, error) {
	w := &Written{file: file, size: uint64(max(size, 0)), sections: map[uint64]piece{}}
	at := uint64(unsafe.Sizeof(w.File))
	if err := w.read(bytesOf(&w.File), 0); err != nil {
		return nil, err
	}
	switch {
	case !IsWritten(bytesOf(&w.File)):
		return nil, ErrNoTables
	case w.File.Fingerprint != Fingerprint():
		return nil, &OtherVersionError{Have: w.File.Fingerprint, Want: Fingerprint()}
	case w.File.Complete != 1:
		return nil, ErrNotWhole
	}
	for at < w.size {
		var s Section
		if err := w.read(bytesOf(&s), at); err != nil {
			return nil, err
		}
		at += uint64(unsafe.Sizeof(s))
		if s.Length > w.size-at || s.Offset > w.File.Size || s.Length > w.File.Size-s.Offset || len(w.sections) == mostSections {
			return nil, badTables("section of %d bytes at %#x does not fit", s.Length, s.Offset)
		}
		w.sections[s.Offset] = piece{at, s.Length}
		at += s.Length
	}
	return w, w.readHeader()
}

func (w *Written) read(b []byte, at uint64) error {
	if at > w.size || uint64(len(b)) > w.size-at {
		return ErrNotWhole
	}
	_, err := w.file.ReadAt(b, int64(at))
	if err == io.EOF { // of the last bytes
		err = nil
	}
	return err
}

// readHeader reads the header and what was written of each window: the target went on meanwhile.
func (w *Written) readHeader() error {
	h := &w.header
	p := w.sections[0]
	if p.length != uint64(unsafe.Sizeof(*h)) {
		return badTables("a header of %d bytes", p.length)
	}
	if err := w.read(bytesOf(h), p.at); err != nil {
		return err
	}
	if h.Size != w.File.Size {
		return badTables("%d bytes of tables, and %d", h.Size, w.File.Size)
	}
	for _, x := range []struct {
		win   *Window
		entry uint64
	}{
		{&h.Bases, 8}, {&h.Leaves, leafSize}, {&h.Stats, statSize}, {&h.Others, othersSize}, {&h.Nodes, nodeSize}, {&h.Slots, 4},
		{&h.Mappings, uint64(unsafe.Sizeof(Mapping{}))}, {&h.Timeline, pointSize}, {&h.Resident, pointSize},
		{&h.Codes, uint64(unsafe.Sizeof(Code{}))}, {&h.Arena, 1},
	} {
		x.win.Next = min(x.win.Next, w.sections[x.win.Offset].length/x.entry)
	}
	h.Leaves.Next = min(h.Leaves.Next, w.sections[h.Bases.Offset].length/8)
	o := w.sections[h.Outlet.Offset]
	if o.length != outletSize {
		return badTables("an outlet of %d bytes", o.length)
	}
	return w.read(bytesOf(&w.Outlet), o.at)
}

// ReadAt implements [mem.Reader].
func (w *Written) ReadAt(b []byte, a mem.Addr) error {
	header := bytesOf(&w.header)
	if uint64(a) <= uint64(len(header)) && len(b) <= len(header)-int(a) {
		copy(b, header[a:])
		return nil
	}
	if len(b) == 0 {
		return nil
	}
	// Sections are read from their beginnings, save for long ones, which are read in pieces.
	if p, ok := w.sections[uint64(a)]; ok && uint64(len(b)) <= p.length {
		return w.read(b, p.at)
	}
	for offset, p := range w.sections {
		if in := uint64(a) - offset; uint64(a) >= offset && in <= p.length && uint64(len(b)) <= p.length-in {
			return w.read(b, p.at+in)
		}
	}
	return &mem.Fault{Op: "read", Addr: a, Len: len(b), Err: fmt.Errorf("not in the file: %w", syscall.EFAULT)}
}

// Size is the file's, bytes: a limit of what can be copied of it.
func (w *Written) Size() uint64 { return w.size }

// Name is the name of a file that was written last, as the target named it.
func (o *Outlet) FileName() string { return text(o.Name[:]) }

// PatternText is the pattern of the files' names.
func (o *Outlet) PatternText() string { return text(o.Pattern[:]) }

// CommandLine is the process's, arguments separated by spaces.
func (o *Outlet) CommandLine() string {
	return string(bytes.TrimRight(bytes.ReplaceAll(bytes.TrimRight(o.Command[:], "\x00"), []byte{0}, []byte{' '}), " "))
}

// ResidentPages is how many pages the process had in memory, 0 where that is not known.
func (o *Outlet) ResidentPages() uint64 {
	var size, resident uint64
	if _, err := fmt.Sscan(text(o.Statm[:]), &size, &resident); err != nil {
		return 0
	}
	return resident
}

func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}
