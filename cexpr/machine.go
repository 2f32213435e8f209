package cexpr

import (
	"fmt"
	"strings"

	"github.com/heaptap/heaptap/mem"
)

// Machine is what an expression acts on: a stopped thread of a process, or a fake. Its methods are called from the
// goroutine that runs the program, in the order in which C evaluates, arguments from left to right.
type Machine interface {
	mem.Memory

	// Register returns the raw bytes, little-endian, of a whole register, named as the architecture does: rax…r15, rip,
	// eflags, cs ss ds es fs gs, fs_base, gs_base, orig_rax (8 bytes each, or fewer), xmm0… (16), ymm0… (32), st0…st7
	// (10), mxcsr, fctrl, fstat, ftag, fop, fioff, fooff, fiseg, foseg (4), k0… (8). Parts (eax, ah, r8d…) are taken out
	// of these here. *[UnknownRegisterError] for what it does not have.
	Register(name string) ([]byte, error)
	// SetRegister stores a whole register, in the form of Register. It may refuse.
	SetRegister(name string, b []byte) error

	// Lookup resolves a name as it was written: "name", "module!name", "file.c:name", "name@VERSION", "ns::f". Unknown:
	// *[NotFoundError]; more than one equally good: *[AmbiguousError].
	Lookup(name string) (Entity, error)
	// TypeNamed finds the debug information's type "name", "struct name", "union name", "enum name". It is asked only
	// for names, and for the insides of structures, that the built-in table does not have. Nil, nil: not known.
	TypeNamed(name string) (*Type, error)
	// Symbol names the function or object that contains a, for <printf+4>.
	Symbol(a mem.Addr) (name string, offset uint64, ok bool)

	// Allocate returns n bytes of the target's memory, zeroed, 16-byte aligned, that live as long as the run (string
	// literals, buffers, results and arguments of structure type).
	Allocate(n uint64) (mem.Addr, error)
	// Call calls the function at fn.
	Call(fn mem.Addr, c *Call) (*Result, error)
	// Errno is the errno of the thread that made the last call, and whether it is known.
	Errno() (int, bool)
}

// EntityKind says what a name stands for.
type EntityKind int

// What a name may stand for.
const (
	Function EntityKind = iota
	Object              // a variable, thread-local ones too: Addr is then the one of the thread
	IFunc               // Addr is of the resolver, which is called, without arguments, to learn the function's address
	Constant            // an enumerator: Value, of type Type
)

// Entity is what a name was resolved to.
type Entity struct {
	Name   string // as the symbol table or the debug information has it
	Module string // the ELF object's path, for reports; may be empty
	Kind   EntityKind
	Addr   mem.Addr
	Size   uint64 // as the symbol table has it; 0: not known
	Value  int64  // of a constant
	Type   *Type  // from debug information; nil: not known, the table of prototypes is asked by Name
	Source string // how it was found, for Explain: ".dynsym", ".symtab of …"
}

// Call is what a function is called with: registers and stack as the System V AMD64 ABI lays them out.
type Call struct {
	Int     [6]uint64   // rdi rsi rdx rcx r8 r9
	Ints    int         // how many of Int carry arguments
	Vector  [8][16]byte // xmm0…xmm7
	Vectors int         // how many of Vector carry arguments: the value of AL, for variadic functions and all others
	Stack   []byte      // what lies right above the return address; a multiple of 16 bytes
}

// Result is what a function leaves.
type Result struct {
	RAX, RDX   uint64
	XMM0, XMM1 [16]byte
	ST0, ST1   [10]byte // x87 registers, 80-bit; only read after functions that return long double
}

// NotFoundError says that nothing is called Name. Near are similar names.
type NotFoundError struct {
	Name string
	Near []string
}

func (e *NotFoundError) Error() string {
	text := fmt.Sprintf("no symbol %q", e.Name)
	if len(e.Near) > 0 {
		text += "; similar: " + strings.Join(e.Near, ", ")
	}
	return text
}

// AmbiguousError says that several things are called Name. Candidates are ways to write each of them.
type AmbiguousError struct {
	Name       string
	Candidates []string
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%q is ambiguous; write one of: %s", e.Name, strings.Join(e.Candidates, ", "))
}

// UnknownRegisterError says that the thread has no register of that name, or that it cannot be read.
type UnknownRegisterError struct {
	Name string
}

func (e *UnknownRegisterError) Error() string { return fmt.Sprintf("no register $%s", e.Name) }
