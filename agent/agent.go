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
	"hash/fnv"
	"io"
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

// NativeFunction is a function whose GOT slots are hooked.
type NativeFunction struct {
	Stub  string   // between "ht_native_" and the variant's number
	Names []string // under which it is imported
}

// NativeNames are those functions, indexed by [NMalloc] and so on.
var NativeNames = [NativeFunctions]NativeFunction{
	NMalloc:           {"malloc", []string{"malloc"}},
	NCalloc:           {"calloc", []string{"calloc"}},
	NRealloc:          {"realloc", []string{"realloc"}},
	NReallocarray:     {"reallocarray", []string{"reallocarray"}},
	NFree:             {"free", []string{"free", "cfree"}},
	NPosixMemalign:    {"posix_memalign", []string{"posix_memalign"}},
	NAlignedAlloc:     {"aligned_alloc", []string{"aligned_alloc", "memalign"}},
	NValloc:           {"valloc", []string{"valloc"}},
	NPvalloc:          {"pvalloc", []string{"pvalloc"}},
	NFreeSized:        {"free_sized", []string{"free_sized"}},
	NFreeAlignedSized: {"free_aligned_sized", []string{"free_aligned_sized"}},
	NMmap:             {"mmap", []string{"mmap", "mmap64"}},
	NMunmap:           {"munmap", []string{"munmap"}},
	NMremap:           {"mremap", []string{"mremap"}},
	NDlopen:           {"dlopen", []string{"dlopen"}},
	NDlmopen:          {"dlmopen", []string{"dlmopen"}},
	NDlclose:          {"dlclose", []string{"dlclose"}},
	NDlsym:            {"dlsym", []string{"dlsym"}},
	NDlvsym:           {"dlvsym", []string{"dlvsym"}},
	NSigaction:        {"sigaction", []string{"sigaction"}},
	NPrctl:            {"prctl", []string{"prctl"}},
	NSyscall:          {"syscall", []string{"syscall"}},
}

// NativeHook is the offset in the image of one variant of what takes a native function's place in slots.
func NativeHook(img *inject.Image, function, variant int) (uint64, error) {
	return img.Symbol(fmt.Sprintf("ht_native_%s_%d", NativeNames[function].Stub, variant))
}

// NameHash is how the agent knows a function's name (FNV-1a).
func NameHash(name string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, name)
	return h.Sum64()
}

// WriteSlots writes the ledger of hooked slots, and then how many they are, into the tables at a, of which h is the header.
func WriteSlots(w mem.Writer, a mem.Addr, h *Tables, slots []Ledger) error {
	return writeWindow(w, a, &h.SlotsHooked, mem.Addr(unsafe.Offsetof(h.SlotsHooked)), slots)
}

// WriteModules does the same with the modules that need not be looked at.
func WriteModules(w mem.Writer, a mem.Addr, h *Tables, modules []Loaded) error {
	return writeWindow(w, a, &h.Modules, mem.Addr(unsafe.Offsetof(h.Modules)), modules)
}

func writeWindow[T any](w mem.Writer, a mem.Addr, win *Window, at mem.Addr, entries []T) error {
	if uint64(len(entries)) > win.Entries {
		return badTables("%d entries, where there is room for %d", len(entries), win.Entries)
	}
	win.Next = uint64(len(entries))
	if len(entries) > 0 {
		b := unsafe.Slice((*byte)(unsafe.Pointer(&entries[0])), uintptr(len(entries))*unsafe.Sizeof(entries[0]))
		if err := w.WriteAt(b, a+mem.Addr(win.Offset)); err != nil {
			return err
		}
	}
	return mem.PutU64(w, a+at+mem.Addr(unsafe.Offsetof(win.Next)), win.Next)
}

// ReadSlots reads the ledger of hooked slots of the tables at a, of which h is the header.
func ReadSlots(r mem.Reader, a mem.Addr, h *Tables) ([]Ledger, error) {
	var b []byte
	limit := h.Size
	err := copyWindows(r, a, h.Size, &limit, []window{{&b, h.SlotsHooked, uint64(unsafe.Sizeof(Ledger{}))}})
	return view[Ledger](b), err
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

// PutOriginal changes, in the tables at a, what stands behind the hook of an allocator's function.
func PutOriginal(w mem.Writer, a mem.Addr, domain, function int, original uint64) error {
	at := unsafe.Offsetof(Tables{}.Original) + uintptr(domain*Functions+function)*8
	return mem.PutU64(w, a+mem.Addr(at), original)
}

// PutLedger changes, in the tables at a, the i-th entry of the ledger.
func PutLedger(w mem.Writer, a mem.Addr, i int, e Ledger) error {
	at := unsafe.Offsetof(Tables{}.Ledger) + uintptr(i)*unsafe.Sizeof(e)
	return w.WriteAt(bytesOf(&e), a+mem.Addr(at))
}

// ReadEnding reads from the tables at a whether the interpreter is at its end: Ending….
func ReadEnding(r mem.Reader, a mem.Addr) (uint32, error) {
	return mem.U32(r, a+mem.Addr(unsafe.Offsetof(Tables{}.Ending)))
}

// LetEnd tells an interpreter that waits at its end to go on, and one that has not come to it not to wait.
func LetEnd(w mem.Writer, a mem.Addr) error {
	seen := uint32(EndingSeen)
	return w.WriteAt(bytesOf(&seen), a+mem.Addr(unsafe.Offsetof(Tables{}.Ending)))
}

// StateOffset is where [Tables].State stands, for a store of its own.
const StateOffset = mem.Addr(unsafe.Offsetof(Tables{}.State))
