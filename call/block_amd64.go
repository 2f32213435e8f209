package call

import (
	"encoding/binary"
	"slices"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/ptrace"
)

// The block of a call lies between the stack arguments and the signal frame. caveCall addresses it from its middle.
const (
	blockVector = 128 // how far before it are eight vector registers of 16 bytes
	blockXMM0   = 0
	blockXMM1   = 16
	blockRAX    = 32
	blockRDX    = 40
	blockST0    = 48
	blockErrno  = 64
	blockMarker = 68 // what the marker returns but in the child of a fork; 0: it does not tell
	blockOut    = 72 // the end of the results
	blockFrame  = 88 // the signal frame

	stackAlign = 64
)

// callPlace is where a call with so many bytes of stack arguments has its block, in memory with the signal frame at f,
// and the stack pointer before the call instruction.
func callPlace(f mem.Addr, stack int) (block, sp mem.Addr) {
	block = f - blockFrame
	return block, (block - blockVector - mem.Addr(stack)).AlignDown(stackAlign)
}

// callImage appends to b what is in memory from the stack pointer up to the frame at a call.
func callImage(b []byte, block, sp mem.Addr, a *Args, marker uint32) []byte {
	at := int(block - sp)
	b = slices.Grow(b, at+blockFrame)[:at+blockFrame]
	clear(b[copy(b, a.Stack):])
	for i, v := range a.Vector {
		copy(b[at-blockVector+16*i:], v[:])
	}
	binary.LittleEndian.PutUint32(b[at+blockMarker:], marker)
	return b
}

// callRegs calls the function fn, makes the marker system call and then restores the thread.
func callRegs(own *ptrace.Regs, c cave, block, sp, fn mem.Addr, marker uint64, errno keptErrno, a *Args) ptrace.Regs {
	r := borrowed(own, c.call(), sp)
	r.Rax, r.Rbp = uint64(a.AL), 0
	r.Rbx, r.R12, r.R13, r.R14, r.R15 = uint64(block), marker, uint64(errno.at), uint64(errno.value), uint64(fn)
	r.Rdi, r.Rsi, r.Rdx, r.Rcx, r.R8, r.R9 = a.Int[0], a.Int[1], a.Int[2], a.Int[3], a.Int[4], a.Int[5]
	return r
}

// callResult decodes the block from blockXMM0 to blockOut.
func callResult(b []byte) (r Result) {
	le := binary.LittleEndian
	copy(r.XMM0[:], b[blockXMM0:])
	copy(r.XMM1[:], b[blockXMM1:])
	copy(r.ST0[:], b[blockST0:])
	r.RAX, r.RDX = le.Uint64(b[blockRAX:]), le.Uint64(b[blockRDX:])
	r.Errno = int32(le.Uint32(b[blockErrno:]))
	return r
}
