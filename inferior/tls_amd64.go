package inferior

import (
	"debug/elf"
	"fmt"
	"strings"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
)

// threadLocal is the address of a thread's own copy of a thread-local variable (ELF Handling for Thread-Local Storage,
// variant II): the program's block ends at the thread pointer; other modules' blocks are found through the thread's
// vector (DTV), in which glibc and musl number modules in the order in which they were loaded.
func threadLocal(r mem.Reader, modules []*dso.Module, f *dso.Found, tp mem.Addr) (mem.Addr, error) {
	fail := func(err error) (mem.Addr, error) {
		return 0, fmt.Errorf("find the thread's own %s: %w", f.Name, err)
	}
	if f.Module.Main {
		block, ok := tlsSegment(f.Module)
		if !ok {
			return fail(fmt.Errorf("%s has no thread-local storage", f.Module.Name()))
		}
		align := max(block.Align, 1)
		size := (block.Memsz + align - 1) &^ (align - 1)
		return tp - mem.Addr(size) + f.Addr, nil
	}
	number, musl := 0, false
	for _, m := range modules {
		if strings.HasPrefix(m.Name(), "ld-musl-") || strings.HasPrefix(m.Name(), "libc.musl-") {
			musl = true
		}
	}
	for _, m := range modules {
		if _, ok := tlsSegment(m); ok {
			number++
		}
		if m == f.Module {
			break
		}
	}
	vector, err := mem.Pointer(r, tp+8)
	if err != nil {
		return fail(err)
	}
	entry := vector + mem.Addr(number)*16
	if musl {
		entry = vector + mem.Addr(number)*8
	}
	block, err := mem.Pointer(r, entry)
	switch {
	case err != nil:
		return fail(err)
	case block == 0 || block == ^mem.Addr(0):
		return fail(&unusedTLSError{f.Module.Name()})
	}
	return block + f.Addr, nil
}

func tlsSegment(m *dso.Module) (elf.ProgHeader, bool) {
	for _, p := range m.Programs {
		if p.Type == elf.PT_TLS {
			return p, true
		}
	}
	return elf.ProgHeader{}, false
}
