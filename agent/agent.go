// Package agent holds the code that heaptap places inside a target, and reads the tables that it writes there.
//
// The code is C (src), committed as built objects; abi_gen.go is generated from their DWARF. The reader trusts nothing
// that it reads: the tables stand in memory that the target can write to, so that every count is clamped to its window
// and every number checked before it is used as an index.
package agent

import (
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/heaptap/heaptap/inject"
	"github.com/heaptap/heaptap/mem"
)

//go:generate go run ./internal/build -src src -o .

// Image returns the agent's code for this machine's CPU.
func Image() (*inject.Image, error) { return inject.ParseImage(object) }

// Fingerprint names this build of the agent and its tables: equal fingerprints mean equal layouts and code.
func Fingerprint() uint64 {
	sum := sha256.Sum256(object)
	return binary.LittleEndian.Uint64(sum[:])
}

// FunctionNames are the names of an allocator's functions, indexed by [Malloc] and so on.
var FunctionNames = [Functions]string{"malloc", "calloc", "realloc", "free"}

// DomainNames are the names of the domains, indexed by [Raw] and so on; the first [PythonDomains] are CPython's.
var DomainNames = [Domains]string{"raw", "mem", "obj", "malloc", "mmap", "file"}

// Hook is the offset in the image of what takes the place of one allocator function. When sampling, a short function
// stands before most hooks.
func Hook(img *inject.Image, domain, function int, sampled bool) (uint64, error) {
	name := "ht_" + DomainNames[domain] + "_" + FunctionNames[function]
	if sampled {
		if at, err := img.Symbol(name + "_sampled"); err == nil {
			return at, nil
		}
	}
	return img.Symbol(name)
}

// bytesOf is the memory of a value whose type has no pointers.
func bytesOf[T any](v *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) }

// view is b as values of T, which has no pointers. b comes from make or [alignedBytes], so that it is aligned.
func view[T any](b []byte) []T {
	var t T
	n := len(b) / int(unsafe.Sizeof(t))
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), n)
}

// ReadHeader reads the tables' header at a and checks that it is ours. A header of another build is returned together
// with an [*OtherVersionError].
func ReadHeader(r mem.Reader, a mem.Addr) (*Tables, error) {
	h := new(Tables)
	if err := r.ReadAt(bytesOf(h), a); err != nil {
		return nil, err
	}
	if h.Magic != Magic {
		return nil, fmt.Errorf("tables at %v: %w", a, ErrNoTables)
	}
	if want := Fingerprint(); h.Fingerprint != want {
		return h, &OtherVersionError{Have: h.Fingerprint, Want: want}
	}
	return h, nil
}

// ReadFlag reads the flag page's contents at a.
func ReadFlag(r mem.Reader, a mem.Addr) (Flag, error) {
	var f Flag
	err := r.ReadAt(bytesOf(&f), a)
	return f, err
}

// WriteFlag writes the flag page's contents at a, the word that makes hooks active last.
func WriteFlag(w mem.Writer, a mem.Addr, f Flag) error {
	if err := mem.PutU64(w, a+mem.Addr(unsafe.Offsetof(f.UntilSample)), uint64(f.UntilSample)); err != nil {
		return err
	}
	if err := mem.PutU64(w, a+FlagTablesOffset, f.Tables); err != nil {
		return err
	}
	return mem.PutU64(w, a, f.Active)
}

// FlagTablesOffset is where [Flag].Tables stands, for a store of its own.
const FlagTablesOffset = mem.Addr(unsafe.Offsetof(Flag{}.Tables))

// WriteHeader writes the header at a.
func WriteHeader(w mem.Writer, a mem.Addr, h *Tables) error { return w.WriteAt(bytesOf(h), a) }

// StateOffset is where [Tables].State stands, for a store of its own.
const StateOffset = mem.Addr(unsafe.Offsetof(Tables{}.State))
