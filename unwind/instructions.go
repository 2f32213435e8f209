package unwind

import (
	"bytes"
	"slices"

	"golang.org/x/arch/x86/x86asm"

	"github.com/heaptap/heaptap/mem"
)

const (
	maxInstructions = 2048    // looked at for one frame
	maxEffort       = 200_000 // and for all frames of one stack
	maxReturns      = 4       // ways out of a function that are compared
	maxPaths        = 256

	endbr64 = "\xf3\x0f\x1e\xfa" // which x86asm doesn't know
)

// path is one way that a function may take from where it stands: what its instructions have done to the stack pointer
// and to the registers that it has to give back.
type path struct {
	pc  mem.Addr
	sp  mem.Addr
	rbp uint64
	// knowsRBP tells that rbp is what the function has in RBP; not so once it was used for something else.
	knowsRBP bool
	saved    [Registers]slot // of callee-saved registers
	pushed   []push
	floor    mem.Addr // the stack pointer at the beginning: what is below has yet to be pushed
}

// push is a callee-saved register that the path has pushed, and what it was then.
type push struct {
	at       mem.Addr
	n        int
	slot     slot
	rbp      uint64
	knowsRBP bool
}

// slot says where the caller's value of a register is.
type slot struct {
	popped bool     // at address at of the stack
	lost   bool     // it was changed, and not popped since
	at     mem.Addr // of the word
}

// way is how a function returns.
type way struct {
	sp    mem.Addr // at the return instruction
	saved [Registers]slot
}

// stepInstructions follows the function's instructions until it returns. A function has to leave the stack as it found
// it, on whatever way: the ways out that are found have to agree, and there has to be a return address at the end.
func (u *Unwinder) stepInstructions(regs *Regs, memory mem.Reader) (caller, bool) {
	first := path{pc: regs.PC, sp: regs.SP, floor: regs.SP}
	first.rbp, first.knowsRBP = regs.Register(RBP)
	var ways []way
	for _, w := range u.waysOut(first, memory) {
		// A way can also lead out of a function that ends in a call of abort, into another.
		pc, err := mem.Pointer(memory, w.sp)
		if err != nil || w.sp < regs.SP {
			continue
		}
		if u.comesBack(pc, memory) {
			ways = append(ways, w)
		}
	}
	if len(ways) == 0 {
		return caller{}, false
	}
	sp := ways[0].sp
	for _, w := range ways[1:] {
		if w.sp != sp {
			return caller{}, false
		}
	}
	c, err := stepOver(regs, sp+8, Instructions, memory)
	if err != nil {
		return caller{}, false
	}
	for n, s := range ways[0].saved {
		differs := func(w way) bool { return w.saved[n] != s }
		switch {
		case s.lost || slices.ContainsFunc(ways, differs):
			c.regs.Forget(n)
		case s.popped:
			c.regs.Forget(n)
			if v, err := mem.U64(memory, s.at); err == nil {
				c.regs.Set(n, v)
			}
		}
	}
	return c, true
}

// waysOut follows all branches, breadth first.
func (u *Unwinder) waysOut(first path, memory mem.Reader) []way {
	var ways []way
	seen := map[mem.Addr]bool{}
	paths := []path{first}
	for steps := 0; len(paths) > 0 && steps < maxInstructions && u.effort < maxEffort; steps++ {
		u.effort++
		p := paths[0]
		paths = paths[1:]
		if seen[p.pc] {
			continue
		}
		seen[p.pc] = true
		next, end, ok := u.follow(p, memory)
		if end {
			if ways = append(ways, way{p.sp, p.saved}); len(ways) == maxReturns {
				return ways
			}
		}
		if ok && len(paths)+len(next) < maxPaths {
			paths = append(paths, next...)
		}
	}
	return ways
}

// maxDecoded bounds how many instructions are kept decoded, at some 150 bytes each.
const maxDecoded = 1 << 14

// decode decodes the instruction at a.
func (u *Unwinder) decode(a mem.Addr, memory mem.Reader) (x86asm.Inst, bool) {
	if in, ok := u.decoded[a]; ok {
		return in, in.Len > 0
	}
	if !u.executable(a) {
		return x86asm.Inst{}, false
	}
	in, ok := u.disassemble(a, memory)
	if !ok {
		in.Len = 0
	}
	if u.part(a) != nil { // what a JIT compiler wrote may be something else the next time
		if len(u.decoded) >= maxDecoded {
			clear(u.decoded)
		}
		u.decoded[a] = in
	}
	return in, ok
}

func (u *Unwinder) disassemble(a mem.Addr, memory mem.Reader) (x86asm.Inst, bool) {
	const longest = 15
	b := u.code(a, longest, memory)
	if b == nil {
		b = u.code(a, int(pageSize-a%pageSize), memory) // the last page
	}
	if bytes.HasPrefix(b, []byte(endbr64)) {
		return x86asm.Inst{Op: x86asm.NOP, Len: len(endbr64)}, true
	}
	if n := vectorLength(b); n > 0 {
		return x86asm.Inst{Op: x86asm.NOP, Len: n}, true
	}
	in, err := x86asm.Decode(b, 64)
	return in, err == nil && in.Op != 0
}

// follow executes the instruction at a path's end. It gives the paths that continue from there, or that the function
// returns here. Where it cannot tell what the instruction does to the stack, the path is not followed further.
func (u *Unwinder) follow(p path, memory mem.Reader) (next []path, end, ok bool) {
	in, ok := u.decode(p.pc, memory)
	if !ok {
		return nil, false, false
	}
	after := p.pc + mem.Addr(in.Len)
	p.pc = after
	switch {
	case in.Op == x86asm.RET:
		return nil, in.Args[0] == nil, false
	case in.Op == x86asm.CALL:
		return []path{p}, false, true // it comes back with the same stack, and gives back what has to be given back
	case in.Op == x86asm.JMP || endsFlow(in.Op) || in.Op == x86asm.ENTER:
		to, is := in.Args[0].(x86asm.Rel)
		if !is || in.Op != x86asm.JMP {
			return nil, false, false
		}
		p.pc = after + mem.Addr(int64(to))
		return []path{p}, false, true
	}
	if to, is := in.Args[0].(x86asm.Rel); is {
		branch := p
		branch.pc = after + mem.Addr(int64(to))
		return []path{p, branch}, false, true
	}
	if !p.execute(&in, memory) {
		return nil, false, false
	}
	return []path{p}, false, true
}

// endsFlow reports whether what stands behind the instruction does not run after it.
func endsFlow(op x86asm.Op) bool {
	switch op {
	case x86asm.RET, x86asm.LRET, x86asm.JMP, x86asm.HLT, x86asm.UD2, x86asm.INT, x86asm.IRETQ, x86asm.SYSEXIT,
		x86asm.SYSRET:
		return true
	}
	return false
}

// prologues are the ways to set up a frame pointer: push %rbp; mov %rsp, %rbp in both encodings.
var prologues = [...]string{"\x55\x48\x89\xe5", "\x55\x48\x8b\xec"}

// framed reports whether the function that PC is in has set up RBP as its frame pointer: its prologue stands before PC,
// and from there to PC the code is one function's.
func (u *Unwinder) framed(regs *Regs, memory mem.Reader) bool {
	const far = 4 // pages
	window := regs.PC % pageSize
	code := u.code(regs.PC-window, int(window), memory)
	for n := 0; n < far && code != nil; n++ {
		before := u.code(regs.PC-window-pageSize, pageSize, memory)
		if before == nil {
			break
		}
		code, window = append(before, code...), window+pageSize
	}
	for try := 0; try < 4 && code != nil; try++ {
		last := -1
		for _, p := range prologues {
			last = max(last, bytes.LastIndex(code, []byte(p)))
		}
		if last < 0 {
			return false
		}
		if one, sure := u.oneFunction(regs.PC-window+mem.Addr(last), regs.PC, memory); sure {
			return one
		}
		code = code[:last] // it was the end of another instruction
	}
	return false
}

// oneFunction decodes from a prologue to pc, and reports whether there is no sign of another function's beginning
// between; sure is false where the instructions don't lead to pc.
func (u *Unwinder) oneFunction(prologue, pc mem.Addr, memory mem.Reader) (one, sure bool) {
	const alignment = 16
	ended := false // the flow of instructions has ended, and only padding has come since
	for a := prologue; a < pc; {
		in, ok := u.decode(a, memory)
		if !ok {
			return false, false
		}
		a += mem.Addr(in.Len)
		switch {
		case endsFlow(in.Op) || in.Op == x86asm.CALL && a%alignment == 0:
			ended = true
		case in.Op != x86asm.NOP:
			ended = false
		}
		if ended && a%alignment == 0 {
			return false, true
		}
		if a > pc {
			return false, false
		}
	}
	return true, true
}

// execute does what an instruction does to the stack pointer, RBP and the registers to be given back; false where that
// cannot be told.
func (p *path) execute(in *x86asm.Inst, memory mem.Reader) bool {
	switch in.Op {
	case x86asm.PUSH, x86asm.PUSHFQ:
		p.push(in.Args[0])
		return true
	case x86asm.POPFQ:
		p.sp += 8
		return true
	case x86asm.POP:
		return p.pop(in.Args[0], memory)
	case x86asm.LEAVE:
		if !p.knowsRBP {
			return false
		}
		p.sp = mem.Addr(p.rbp)
		return p.pop(x86asm.RBP, memory)
	case x86asm.CMP, x86asm.TEST, x86asm.NOP:
		return true
	case x86asm.XCHG, x86asm.XADD:
		p.change(in.Args[1])
		if in.Args[1] == x86asm.RSP {
			return false
		}
	case x86asm.CPUID:
		p.change(x86asm.RBX)
		return true
	}
	if in.Args[0] == x86asm.RSP {
		return p.moveSP(in)
	}
	p.change(in.Args[0])
	if in.Op == x86asm.MOV && in.Args[0] == x86asm.RBP && in.Args[1] == x86asm.RSP {
		p.rbp, p.knowsRBP = uint64(p.sp), true
	}
	return true
}

func (p *path) push(from x86asm.Arg) {
	p.sp -= 8
	reg, is := from.(x86asm.Reg)
	if n := dwarfNumber(reg); is && n >= 0 {
		p.pushed = append(slices.Clip(p.pushed), push{p.sp, n, p.saved[n], p.rbp, p.knowsRBP})
	}
}

// pop takes a word from the stack.
func (p *path) pop(to x86asm.Arg, memory mem.Reader) bool {
	at := p.sp
	p.sp += 8
	reg, is := to.(x86asm.Reg)
	if !is {
		return true
	}
	if reg == x86asm.RSP {
		return false
	}
	n := dwarfNumber(reg)
	if n < 0 {
		return true
	}
	if at < p.floor {
		p.unpush(n, at)
		return true
	}
	p.saved[n] = slot{popped: true, at: at}
	if n == RBP {
		v, err := mem.U64(memory, at)
		p.rbp, p.knowsRBP = v, err == nil
	}
	return true
}

// unpush takes back what the path itself has pushed.
func (p *path) unpush(n int, at mem.Addr) {
	p.saved[n] = slot{lost: true}
	if n == RBP {
		p.knowsRBP = false
	}
	for _, was := range p.pushed {
		if was.at == at && was.n == n {
			p.saved[n] = was.slot
			if n == RBP {
				p.rbp, p.knowsRBP = was.rbp, was.knowsRBP
			}
		}
	}
}

// change notes that a register, or a part of it, gets a value that is not the caller's.
func (p *path) change(to x86asm.Arg) {
	reg, is := to.(x86asm.Reg)
	if !is {
		return
	}
	if n := dwarfNumber(reg); n >= 0 {
		p.saved[n] = slot{lost: true}
		if n == RBP {
			p.knowsRBP = false
		}
	}
}

// moveSP executes an instruction whose result is the stack pointer.
func (p *path) moveSP(in *x86asm.Inst) bool {
	switch in.Op {
	case x86asm.ADD, x86asm.SUB, x86asm.AND:
		n, is := in.Args[1].(x86asm.Imm)
		switch {
		case !is:
			return false
		case in.Op == x86asm.ADD:
			p.sp += mem.Addr(int64(n))
		case in.Op == x86asm.SUB:
			p.sp -= mem.Addr(int64(n))
		default:
			p.sp &= mem.Addr(int64(n))
		}
		return true
	case x86asm.MOV:
		p.sp = mem.Addr(p.rbp)
		return in.Args[1] == x86asm.RBP && p.knowsRBP
	case x86asm.LEA:
		m, is := in.Args[1].(x86asm.Mem)
		switch {
		case !is || m.Index != 0 || m.Segment != 0:
			return false
		case m.Base == x86asm.RSP:
			p.sp += mem.Addr(m.Disp)
			return true
		case m.Base == x86asm.RBP && p.knowsRBP:
			p.sp = mem.Addr(p.rbp) + mem.Addr(m.Disp)
			return true
		}
	}
	return false
}

// dwarfNumber is the number of the callee-saved register that reg is, or is a part of; -1 for others.
func dwarfNumber(reg x86asm.Reg) int {
	switch reg {
	case x86asm.RBX, x86asm.EBX, x86asm.BX, x86asm.BL, x86asm.BH:
		return RBX
	case x86asm.RBP, x86asm.EBP, x86asm.BP, x86asm.BPB:
		return RBP
	case x86asm.R12, x86asm.R12L, x86asm.R12W, x86asm.R12B:
		return R12
	case x86asm.R13, x86asm.R13L, x86asm.R13W, x86asm.R13B:
		return R13
	case x86asm.R14, x86asm.R14L, x86asm.R14W, x86asm.R14B:
		return R14
	case x86asm.R15, x86asm.R15L, x86asm.R15W, x86asm.R15B:
		return R15
	}
	return -1
}
