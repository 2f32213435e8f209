// Package cexpr evaluates C expressions, written as a user of gdb would type them, over a [Machine]: memory, registers,
// names and calls of a live process, or of a fake. It knows nothing of processes: it parses, types, computes as the
// compiler for x86-64 would, lays out calls as the System V AMD64 ABI asks, and prints as gdb does.
//
// Types come from debug information ([Types] reads DWARF) by way of the Machine, else from a built-in table of
// declarations, else from a symbol's kind and size. What is not known is refused with a message that says how to
// tell it.
//
// A [Program] is immutable. An [Env] and a run belong to one goroutine at a time.
package cexpr

import "encoding/json"

// Program is one or more expressions, separated by semicolons, that parsed.
type Program struct {
	src        string
	statements []statement
	ambiguous  []string // names that are variables here, unless the Machine knows them as types
}

// Env holds what expressions leave for later ones: results $1, $2… and named variables. The zero value is empty.
type Env struct {
	history []Value
	vars    map[string]Value
}

// Outcome is what one expression of a program came to.
type Outcome struct {
	Source  string // the expression
	Number  int    // of the result in the history: $1 is 1; 0 for void
	Value   Value
	Text    string          // Value as gdb prints it, read when it was evaluated; "" for void
	Data    json.RawMessage // Value for scripts, read when it was evaluated
	Errno   int             // where the last call answered -1, and errno is known and not 0; else 0
	Buffers []Buffer        // what calls left in the expression's buf(N), in their order
}

// Buffer is an out-buffer after the expression's calls.
type Buffer struct {
	Addr  uint64
	Bytes []byte
	Text  string // as gdb prints an array of char
}

// Planned is a call that was laid out and not made.
type Planned struct {
	Source    string // the call as written
	Function  Entity
	Type      *Type
	TypeFrom  string // "debug information", "built-in prototypes", "cast", …
	Call      *Call
	Arguments []PlannedArgument
	Returns   string // where the result comes back: "rax", "xmm0", "memory at rdi", …
}

// PlannedArgument is one argument of a planned call.
type PlannedArgument struct {
	Source string
	Type   *Type
	Where  string // "rdi", "xmm0", "rdi, rsi", "stack+0"
	Text   string // the value as gdb prints it, or what it will be: "result of call 1", a string to be placed
	Known  bool   // false: it depends on what is not there before the calls are made
}

// Parse reads expressions separated by semicolons. The error is a *[SyntaxError].
func Parse(src string) (*Program, error) { return parse(src) }

// Run evaluates the expressions in order and stops at the first error, which is an *[EvalError]; the outcomes before
// it are returned too.
func (p *Program) Run(m Machine, env *Env) ([]Outcome, error) { return p.run(m, env) }

// Explain evaluates without calling, allocating or writing anything, and returns the calls that Run would make.
func (p *Program) Explain(m Machine, env *Env) ([]Planned, error) { return p.explain(m, env) }

// SyntaxError is a place in the source that does not parse.
type SyntaxError struct {
	Src  string
	Pos  int // in bytes
	What string
}

func (e *SyntaxError) Error() string { return e.What + "\n" + caret(e.Src, e.Pos) }

// EvalError is a place in the source that could not be evaluated, and why.
type EvalError struct {
	Src string
	Pos int // in bytes
	Err error
}

func (e *EvalError) Error() string { return e.Err.Error() + "\n" + caret(e.Src, e.Pos) }

func (e *EvalError) Unwrap() error { return e.Err }
