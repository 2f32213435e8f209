package cpython

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/heaptap/heaptap/mem"
)

// allocators finds the three PyMemAllocatorEx: in _PyRuntime from 3.12 on; before, in private variables to which the
// public functions refer. Each must look like an allocator twice in a row.
func (c *candidate) allocators(in *Interpreter) error {
	fields := [NumDomains]Offset{in.Layout.Runtime.Raw, in.Layout.Runtime.Mem, in.Layout.Runtime.Obj}
	for d, field := range fields {
		var err error
		if field.Known {
			in.Allocators[d] = field.From(in.Runtime)
			err = c.checkAllocator(in, in.Allocators[d])
		} else {
			in.Allocators[d], err = c.allocatorOf(in, wrappers[d])
		}
		if err != nil {
			return err
		}
	}
	a := in.Allocators
	if a[Raw] == a[Mem] || a[Mem] == a[Obj] || a[Raw] == a[Obj] {
		return c.unsupported("its allocators at %v, %v, %v are not three", a[Raw], a[Mem], a[Obj])
	}
	return c.blockAlign(in)
}

func (c *candidate) checkAllocator(in *Interpreter, a mem.Addr) error {
	first, ok, err := c.allocatorAt(in, a)
	if err != nil {
		return err
	}
	again, ok2, err := c.allocatorAt(in, a)
	if err != nil {
		return err
	}
	if !ok || !ok2 || first.ctx != again.ctx || a%8 != 0 || !c.id.Module.Writable(a) {
		return c.unsupported("what should be an allocator at %v is none", a)
	}
	return nil
}

// allocatorOf finds the allocator that a wrapper calls through. The wrapper loads the function and its context in
// either order, so that each address it names may be that of the one or of the other.
func (c *candidate) allocatorOf(in *Interpreter, wrapper string) (mem.Addr, error) {
	entry, err := c.address(wrapper)
	if err != nil {
		return 0, err
	}
	refs, err := dataRefs(c.reader, entry)
	if err != nil {
		return 0, fmt.Errorf("decode %s: %w", wrapper, err)
	}
	for _, ref := range refs {
		for _, a := range []mem.Addr{ref, ref - mem.Addr(in.Layout.Allocator.Malloc.Bytes)} {
			if c.checkAllocator(in, a) == nil {
				return a, nil
			}
		}
	}
	return 0, c.unsupported("the allocator behind %s was not found", wrapper)
}

// allocator is a PyMemAllocatorEx.
type allocator struct {
	ctx                           mem.Addr
	malloc, calloc, realloc, free mem.Addr
}

// allocatorAt reads an allocator; false if the four are not all functions or the context is no address.
func (c *candidate) allocatorAt(in *Interpreter, a mem.Addr) (allocator, bool, error) {
	al, err := in.readAllocator(c.reader, a)
	if err != nil {
		return al, false, err
	}
	for _, f := range [...]mem.Addr{al.malloc, al.calloc, al.realloc, al.free} {
		if !c.executable(f) {
			return al, false, nil
		}
	}
	return al, al.ctx == 0 || c.mapped(al.ctx), nil
}

func (in *Interpreter) readAllocator(r mem.Reader, a mem.Addr) (allocator, error) {
	l := in.Layout.Allocator
	b, err := mem.Bytes(r, a, int(l.Size))
	if err != nil {
		return allocator{}, fmt.Errorf("read allocator: %w", err)
	}
	word := func(o Offset) mem.Addr { return mem.Addr(binary.LittleEndian.Uint64(b[o.Bytes:])) }
	return allocator{word(l.Ctx), word(l.Malloc), word(l.Calloc), word(l.Realloc), word(l.Free)}, nil
}

func (f *finder) executable(a mem.Addr) bool {
	for _, m := range f.maps {
		if m.Contains(a) {
			return m.Exec
		}
	}
	return false
}

func (f *finder) mapped(a mem.Addr) bool {
	for _, m := range f.maps {
		if m.Contains(a) {
			return true
		}
	}
	return false
}

// blockAlign corrects an alignment of 8 where this build was changed to 16 (pyenv patches 3.6), or does not use
// pymalloc. Where the code does not tell, 8 stays: it is never wrong, only finer than needed.
func (c *candidate) blockAlign(in *Interpreter) error {
	if in.Layout.BlockAlign != 8 {
		return nil
	}
	state, err := in.AllocatorState(c.reader)
	if err != nil {
		return err
	}
	if state.Backend != Pymalloc {
		return nil
	}
	shift, ok, err := sizeShift(c.reader, state.malloc)
	if err != nil {
		return fmt.Errorf("decode the object allocator: %w", err)
	}
	if ok {
		in.Layout.BlockAlign = 1 << shift
	}
	return nil
}

// Backend says where the object domain's blocks come from in the end.
type Backend uint8

// The backends.
const (
	Pymalloc Backend = iota + 1 // CPython's own, the default
	Libc                        // PYTHONMALLOC=malloc or malloc_debug
	Foreign                     // functions of another module: an extension's, or hooks that are in place
)

// String is the backend in lower case.
func (b Backend) String() string {
	switch b {
	case Pymalloc:
		return "pymalloc"
	case Libc:
		return "malloc"
	case Foreign:
		return "foreign"
	}
	return fmt.Sprintf("backend(%d)", uint8(b))
}

// AllocatorState is what stands in the allocators at a moment.
type AllocatorState struct {
	Backend Backend // of the object domain
	Debug   bool    // CPython's debug allocators are in between (PYTHONMALLOC=debug, -X dev)
	Tracing bool    // tracemalloc is on
	Foreign bool    // in some domain, functions of another module are called first

	malloc mem.Addr // the object domain's innermost function
}

const maxWrapping = 8 // allocators around allocators that are followed

// AllocatorState tells what the allocators hold now. It goes by their contexts: those of tracemalloc and of the debug
// allocators are in the interpreter's own data and hold the allocator they wrap. A hook that leaves the context as it
// is does not hide what it hooks.
func (in *Interpreter) AllocatorState(r mem.Reader) (AllocatorState, error) {
	var s AllocatorState
	var inner [NumDomains]allocator
	for d, a := range in.Allocators {
		al, err := in.readAllocator(r, a)
		if err != nil {
			return s, err
		}
		s.Foreign = s.Foreign || !in.Module.Executable(al.malloc)
		if inner[d], err = in.unwrap(r, al, &s); err != nil {
			return s, err
		}
	}
	s.malloc = inner[Obj].malloc
	switch {
	case !in.Module.Executable(s.malloc):
		s.Backend = Foreign
	case s.malloc == inner[Raw].malloc:
		s.Backend = Libc
	default:
		s.Backend = Pymalloc
	}
	return s, nil
}

// unwrap goes from an allocator to the innermost one it wraps, noting in s what it meets.
func (in *Interpreter) unwrap(r mem.Reader, al allocator, s *AllocatorState) (allocator, error) {
	for range maxWrapping {
		if al.ctx == 0 {
			return al, nil
		}
		if !in.Module.Writable(al.ctx) {
			s.Foreign = true
			return al, nil
		}
		at, debug, err := wrapped(r, al.ctx)
		if err != nil {
			return al, err
		}
		s.Debug, s.Tracing = s.Debug || debug, s.Tracing || !debug
		if al, err = in.readAllocator(r, at); err != nil {
			return al, err
		}
	}
	return al, fmt.Errorf("allocators wrapped %d times", maxWrapping)
}

// wrapped is the place of the allocator that the one with this context has wrapped, and whether that is a debug allocator:
// debug_alloc_api_t is {char api_id; PyMemAllocatorEx alloc}, the id padded to 8 bytes; tracemalloc's context is the saved
// allocator itself, which begins with a context: NULL or an address.
func wrapped(r mem.Reader, context mem.Addr) (at mem.Addr, debug bool, err error) {
	id, err := mem.U64(r, context)
	if slices.Contains([]uint64{'r', 'm', 'o'}, id&0xff) && id < 4096 {
		return context + 8, true, err
	}
	return context, false, err
}

// Reaches reports whether a call through a domain's allocator comes to code between from and to: at once, or by way of
// what the debug allocators and tracemalloc have wrapped.
func (in *Interpreter) Reaches(r mem.Reader, d Domain, from, to mem.Addr) (bool, error) {
	al, err := in.readAllocator(r, in.Allocators[d])
	for range maxWrapping {
		if err != nil {
			return false, err
		}
		for _, f := range []mem.Addr{al.malloc, al.calloc, al.realloc, al.free} {
			if f >= from && f < to {
				return true, nil
			}
		}
		if al.ctx == 0 || !in.Module.Writable(al.ctx) {
			return false, nil
		}
		var at mem.Addr
		if at, _, err = wrapped(r, al.ctx); err == nil {
			al, err = in.readAllocator(r, at)
		}
	}
	return false, fmt.Errorf("allocators wrapped %d times", maxWrapping)
}
