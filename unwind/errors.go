package unwind

import (
	"debug/elf"
	"errors"
	"fmt"

	"github.com/heaptap/heaptap/mem"
)

// Why a stack ends. But for ErrOutermost and ErrDepth they come in an [*EndError].
var (
	ErrOutermost = errors.New("outermost frame")                                    // there is no caller
	ErrDepth     = errors.New("the stack has more frames than asked for")           // there are more
	ErrNoCode    = errors.New("not in executable memory")                           // PC is no code
	ErrNoCFI     = errors.New("no call frame information, and no verifiable frame") // code without any
	ErrNotUp     = errors.New("the frame address does not rise")                    // corrupt, or a loop
	errNoRule    = errors.New("call frame information has no rule for the frame address")
	ErrUnknown   = errors.New("the rule needs a register that is not known") // lost on the way
)

// EndError says why the caller of the frame at PC cannot be found. Err is the cause: one of the errors above, a
// [*CFIError], a [*MachineError], or a failed read.
type EndError struct {
	PC     mem.Addr
	Module string // path of the module that PC is in, "" for none and in a Table
	Err    error
}

func (e *EndError) Error() string {
	if e.Module == "" {
		return fmt.Sprintf("unwind frame at %v: %v", e.PC, e.Err)
	}
	return fmt.Sprintf("unwind frame at %v in %s: %v", e.PC, e.Module, e.Err)
}

func (e *EndError) Unwrap() error { return e.Err }

// CFIError says that call frame information is not as its specification wants it, or uses what is not supported.
type CFIError struct {
	Offset uint64 // of the entry in its section
	What   string
}

func (e *CFIError) Error() string {
	return fmt.Sprintf("CFI entry at offset %#x: %s", e.Offset, e.What)
}

// MachineError says that a module is for a CPU that cannot be unwound.
type MachineError struct{ Machine elf.Machine }

func (e *MachineError) Error() string { return fmt.Sprintf("%v code cannot be unwound", e.Machine) }
