package agent

import (
	"fmt"
	"unsafe"

	"github.com/heaptap/heaptap/mem"
)

// CodeModule is a loaded object as walks of native frames need it: where it is, what it is called in reports, and how to
// unwind its code. A Table, rows of package unwind's form, makes a module new; one that was read back ([ReadCode]) has
// none, and keeps what the tables have of it.
type CodeModule struct {
	Module
	Path    string
	BuildID []byte
	Table   []Row
}

// ErrCodeFull says that the tables have no room for the rows of all modules. It comes wrapped.
var ErrCodeFull = fmt.Errorf("the tables have no more room to unwind machine code by")

// codeWriter puts into the tables what is not there yet. Only a tracer writes these windows, and one at a time: the caller
// holds the target's lock.
type codeWriter struct {
	m mem.Memory
	a mem.Addr
	h *Tables
}

// put copies bytes to a window's free part, 8-byte aligned there, and returns their offset from the tables.
func (w codeWriter) put(win *Window, b []byte) (uint64, error) {
	first := (win.Next + 7) &^ 7
	if first > win.Entries || uint64(len(b)) > win.Entries-first {
		return 0, ErrCodeFull
	}
	if err := w.m.WriteAt(b, w.a+mem.Addr(win.Offset+first)); err != nil {
		return 0, err
	}
	return win.Offset + first, w.taken(win, first+uint64(len(b)))
}

// taken notes how much of a window is in use.
func (w codeWriter) taken(win *Window, next uint64) error {
	win.Next = next
	at := uintptr(unsafe.Pointer(win)) - uintptr(unsafe.Pointer(w.h))
	return mem.PutU64(w.m, w.a+mem.Addr(at+unsafe.Offsetof(win.Next)), next)
}

func (w codeWriter) blob(text []byte) (Blob, error) {
	if len(text) == 0 {
		return Blob{}, nil
	}
	offset, err := w.put(&w.h.ObjectNames, text)
	return Blob{Offset: offset, Length: uint32(len(text)), Kind: 1}, err
}

// add writes a new module's object and rows.
func (w codeWriter) add(c *CodeModule) error {
	var o Object
	var err error
	if o.Path, err = w.blob([]byte(c.Path)); err != nil {
		return err
	}
	if o.BuildId, err = w.blob(c.BuildID); err != nil {
		return err
	}
	objects := &w.h.Objects
	if objects.Next >= objects.Entries {
		return ErrCodeFull
	}
	size := uint64(unsafe.Sizeof(o))
	if err := w.m.WriteAt(bytesOf(&o), w.a+mem.Addr(objects.Offset+objects.Next*size)); err != nil {
		return err
	}
	c.Object = uint32(objects.Next)
	if err := w.taken(objects, objects.Next+1); err != nil {
		return err
	}
	rows := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(c.Table))), uintptr(len(c.Table))*unsafe.Sizeof(Row{}))
	c.Rows, err = w.put(&w.h.Rows, rows)
	c.RowCount = uint32(len(c.Table))
	return err
}

// PublishCode makes the agent in the tables at a, of which h is the header, unwind by these modules, ascending and not
// overlapping, from the next walk on. The target may run. With ErrCodeFull it is those modules that found room.
func PublishCode(m mem.Memory, a mem.Addr, h *Tables, modules []CodeModule) error {
	w := codeWriter{m, a, h}
	head := Modules{Generation: 1}
	if h.Stacks.Modules != 0 {
		var before Modules
		if err := m.ReadAt(bytesOf(&before), a+mem.Addr(h.Stacks.Modules)); err != nil {
			return err
		}
		head.Generation = before.Generation + 1
	}
	list := bytesOf(&head)
	var full error
	for i := range modules {
		c := &modules[i]
		if c.Table != nil {
			if err := w.add(c); err != nil {
				full = err
				continue
			}
		}
		head.Count++
		list = append(list[:len(list):len(list)], bytesOf(&c.Module)...)
	}
	copy(list, bytesOf(&head))
	offset, err := w.put(&h.Rows, list)
	if err != nil {
		return err
	}
	h.Stacks.Modules = offset
	if err := mem.PutU64(m, a+mem.Addr(unsafe.Offsetof(h.Stacks)+unsafe.Offsetof(h.Stacks.Modules)), offset); err != nil {
		return err
	}
	return full
}

// ReadCode reads back the modules that the agent unwinds by, without paths and rows.
func ReadCode(r mem.Reader, a mem.Addr, h *Tables) ([]CodeModule, error) {
	if h.Stacks.Modules == 0 {
		return nil, nil
	}
	const most = 1 << 14
	var head Modules
	size := uint64(unsafe.Sizeof(Module{}))
	at := h.Stacks.Modules
	if at > h.Size || h.Size-at < uint64(unsafe.Sizeof(head)) {
		return nil, badTables("modules at %#x", at)
	}
	if err := r.ReadAt(bytesOf(&head), a+mem.Addr(at)); err != nil {
		return nil, err
	}
	at += uint64(unsafe.Sizeof(head))
	if head.Count > most || uint64(head.Count)*size > h.Size-at {
		return nil, badTables("%d modules at %#x", head.Count, at)
	}
	list := make([]CodeModule, head.Count)
	for i := range list {
		if err := r.ReadAt(bytesOf(&list[i].Module), a+mem.Addr(at+uint64(i)*size)); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Object is the path and the build-id of the object of a native frame, whose node has such a code.
func (c *Capture) Object(code uint32) (path, buildID []byte, err error) {
	objects, i := view[Object](c.objects), code&^CodeObject
	if uint64(i) >= uint64(len(objects)) {
		return nil, nil, badTables("object %d of %d", i, len(objects))
	}
	if path, err = c.objectName(objects[i].Path); err != nil {
		return nil, nil, err
	}
	buildID, err = c.objectName(objects[i].BuildId)
	return path, buildID, err
}

func (c *Capture) objectName(b Blob) ([]byte, error) {
	return within(c.objectNames, c.Header.ObjectNames.Offset, b)
}
