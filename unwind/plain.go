package unwind

import (
	"bytes"
	"encoding/binary"

	"github.com/heaptap/heaptap/mem"
)

// This file steps over frames of code without CFI: hand-written assembly, a JIT compiler's code, a libc that was built
// without (musl). No step is made on trust: what is taken for a return address has to stand behind a call instruction,
// in executable memory.

func (u *Unwinder) stepPlain(regs *Regs, memory mem.Reader) (caller, error) {
	if u.isSigreturn(regs, memory) {
		return stepSignal(regs, memory)
	}
	if !u.executable(regs.Lookup()) {
		return u.stepNoCode(regs, memory)
	}
	for _, step := range []func(*Unwinder, *Regs, mem.Reader) (caller, bool){
		(*Unwinder).stepLeaf, (*Unwinder).stepInstructions, (*Unwinder).stepFramePointer,
	} {
		if c, ok := step(u, regs, memory); ok {
			return c, nil
		}
	}
	if u.isStart(regs, memory) {
		return caller{}, ErrOutermost
	}
	return caller{}, ErrNoCFI
}

// isStart reports whether the frame is where a thread began. RBP is zero there: the ABI wants it so (section 3.4.1),
// _start and clone make it so shortly before they call something, and the loader's _start, which calls at once, has it
// from the kernel.
func (u *Unwinder) isStart(regs *Regs, memory mem.Reader) bool {
	const near, call = 64, 5
	rbp, known := regs.Register(RBP)
	if !known || rbp != 0 || !regs.Return {
		return false
	}
	code := u.code(regs.PC-near, near, memory)
	return bytes.Contains(code, []byte("\x31\xed")) || // xor %ebp, %ebp
		code != nil && bytes.HasSuffix(code[:near-call], []byte("\x48\x89\xe7")) // mov %rsp, %rdi
}

// sigreturns are the ways to call rt_sigreturn: the first is glibc's, musl's and Go's.
var sigreturns = [...]string{
	"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05", // mov $15, %rax; syscall
	"\xb8\x0f\x00\x00\x00\x0f\x05",         // mov $15, %eax; syscall
}

// isSigreturn reports whether PC is at one of the instructions that make the rt_sigreturn system call.
func (u *Unwinder) isSigreturn(regs *Regs, memory mem.Reader) bool {
	const syscall = 2 // bytes of the instruction
	for _, code := range sigreturns {
		b := []byte(code)
		if bytes.Equal(u.code(regs.PC, len(b), memory), b) {
			return true
		}
		if back := len(b) - syscall; !regs.Return && bytes.Equal(u.code(regs.PC-mem.Addr(back), len(b), memory), b) {
			return true
		}
	}
	return false
}

// code reads n bytes of code; nil if it cannot.
func (u *Unwinder) code(a mem.Addr, n int, memory mem.Reader) []byte {
	if u.part(a) != nil {
		memory = u.cfi
	}
	b, err := mem.Bytes(memory, a, n)
	if err != nil {
		return nil
	}
	return b
}

// returns reports whether a can be a return address: it is code, and behind a call. For a call of a fixed target it
// gives that.
func (u *Unwinder) returns(a mem.Addr, memory mem.Reader) (target mem.Addr, ok bool) {
	const longest = 7
	if a < longest || !u.executable(a-1) {
		return 0, false
	}
	b := u.code(a-longest, longest, memory)
	if b == nil {
		return 0, false
	}
	const direct = 5
	if b[longest-direct] == 0xe8 {
		target = a + mem.Addr(int32(binary.LittleEndian.Uint32(b[longest-direct+1:])))
		if u.executable(target) {
			return target, true
		}
	}
	for n := 2; n <= longest; n++ {
		if indirectCall(b[longest-n:]) {
			return 0, true
		}
	}
	return 0, false
}

// indirectCall reports whether the bytes are all of a call through a register or memory: FF /2, with or without a REX
// prefix.
func indirectCall(b []byte) bool {
	if b[0]&0xf0 == 0x40 {
		b = b[1:]
	}
	if len(b) < 2 || b[0] != 0xff || b[1]>>3&7 != 2 {
		return false
	}
	mod, rm := b[1]>>6, b[1]&7
	n := 2
	if mod != 3 && rm == 4 {
		if len(b) < 3 {
			return false
		}
		if n++; mod == 0 && b[2]&7 == 5 {
			n += 4
		}
	}
	switch {
	case mod == 1:
		n++
	case mod == 2, mod == 0 && rm == 5:
		n += 4
	}
	return n == len(b)
}

// comesBack reports whether a can be where a function returns to: behind a call, or the rt_sigreturn of a handler.
func (u *Unwinder) comesBack(a mem.Addr, memory mem.Reader) bool {
	if _, ok := u.returns(a, memory); ok {
		return true
	}
	return u.executable(a) && (u.isSigreturn(&Regs{PC: a, Return: true}, memory) || u.rowAt(a).signal)
}

// stepNoCode makes the step of a thread that has called what is no code, for example address 0: nothing has happened
// since the call.
func (u *Unwinder) stepNoCode(regs *Regs, memory mem.Reader) (caller, error) {
	if regs.Return {
		return caller{}, ErrNoCode
	}
	a, err := mem.Pointer(memory, regs.SP)
	if err != nil {
		return caller{}, err
	}
	if _, ok := u.returns(a, memory); !ok {
		return caller{}, ErrNoCode
	}
	c, err := stepOver(regs, regs.SP+8, Leaf, memory)
	return c, err
}

// stepLeaf makes the step of a thread at the very beginning of a function: the word at SP is the return address of a
// call of this address.
func (u *Unwinder) stepLeaf(regs *Regs, memory mem.Reader) (caller, bool) {
	if regs.Return {
		return caller{}, false
	}
	a, err := mem.Pointer(memory, regs.SP)
	if err != nil {
		return caller{}, false
	}
	if target, ok := u.returns(a, memory); !ok || target != regs.PC {
		return caller{}, false
	}
	c, err := stepOver(regs, regs.SP+8, Leaf, memory)
	return c, err == nil
}

// stepFramePointer makes the step of a function that keeps RBP as its frame pointer: the caller's RBP is at RBP, and
// the return address behind it. That RBP is not merely what another function left there has to be seen in the code.
func (u *Unwinder) stepFramePointer(regs *Regs, memory mem.Reader) (caller, bool) {
	rbp, known := regs.Register(RBP)
	if !known || rbp%8 != 0 || mem.Addr(rbp) < regs.SP {
		return caller{}, false
	}
	var b [16]byte
	if memory.ReadAt(b[:], mem.Addr(rbp)) != nil {
		return caller{}, false
	}
	outer, pc := binary.LittleEndian.Uint64(b[:]), mem.Addr(binary.LittleEndian.Uint64(b[8:]))
	if outer != 0 && outer <= rbp {
		return caller{}, false // not a chain of frames
	}
	if !u.comesBack(pc, memory) || !u.framed(regs, memory) {
		return caller{}, false
	}
	// What the function did with the other registers nobody knows.
	next := Regs{PC: pc, SP: mem.Addr(rbp) + 16, Return: true}
	next.Set(RBP, outer)
	return caller{regs: next, cfa: next.SP, how: FramePointer}, true
}
