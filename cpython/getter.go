package cpython

// Where says where a value is found.
type Where uint8

// The places where the current thread state may be.
const (
	InFunction Where = iota // call the function at the address
	InVariable              // the 8 bytes at the address
	InThread                // the 8 bytes at this offset (mostly negative) from the thread pointer
)

// Place is where the current thread state is found: what [Interpreter.CurrentThreadState] returns, without calling it
// where its code is simple enough to be read.
type Place struct {
	Where Where
	Value uint64 // address, or offset
}
