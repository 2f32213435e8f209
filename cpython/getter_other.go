//go:build !amd64

package cpython

import (
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// CurrentThreadStateAt is, on this processor, always a call.
func (in *Interpreter) CurrentThreadStateAt(mem.Reader, []proc.Mapping) Place {
	return Place{InFunction, uint64(in.CurrentThreadState)}
}
