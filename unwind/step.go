package unwind

import (
	"encoding/binary"
	"errors"

	"github.com/heaptap/heaptap/mem"
)

// calleeSaved are the registers that a function leaves to its caller as they were (System V ABI for x86-64, figure
// 3.4). The others are the caller's no longer once it has made a call.
const calleeSaved = 1<<RBX | 1<<RBP | 1<<R12 | 1<<R13 | 1<<R14 | 1<<R15

// caller is what a step found.
type caller struct {
	regs Regs
	cfa  mem.Addr
	how  Rule
}

func (u *Unwinder) step(regs *Regs, memory mem.Reader) (Frame, error) {
	f := Frame{Regs: *regs}
	c, err := u.caller(regs, memory)
	if errors.Is(err, ErrOutermost) {
		return f, ErrOutermost
	}
	if err != nil {
		return f, u.end(regs.PC, err)
	}
	f.CFA, f.How = c.cfa, c.how
	*regs = c.regs
	return f, nil
}

// caller finds the caller of the frame with these registers.
func (u *Unwinder) caller(regs *Regs, memory mem.Reader) (caller, error) {
	if c := u.known(regs); c != nil {
		return u.stepKnown(c, regs, memory)
	}
	r := u.row(regs)
	if r.rules != nil {
		return u.stepCFI(r, regs, memory)
	}
	if isMachine(r.err) {
		return caller{}, r.err
	}
	c, err := u.stepPlain(regs, memory)
	if err == ErrNoCFI && r.err != nil {
		err = r.err
	}
	return c, err
}

func (u *Unwinder) known(regs *Regs) *Code {
	for i, c := range u.options.Code {
		if a := regs.Lookup(); c.Start <= a && a < c.End || c.Signal && regs.PC == c.Start {
			return &u.options.Code[i]
		}
	}
	return nil
}

func (u *Unwinder) stepKnown(c *Code, regs *Regs, memory mem.Reader) (caller, error) {
	switch {
	case c.Outermost:
		return caller{}, ErrOutermost
	case c.Signal:
		return stepSignal(regs, memory)
	}
	return stepOver(regs, regs.SP+mem.Addr(c.CFA), Known, memory)
}

// row returns what CFI says about a frame's instruction.
func (u *Unwinder) row(regs *Regs) *row {
	r := u.rowAt(regs.Lookup())
	if regs.Return && !r.signal && (r.rules == nil || r.end == regs.PC) {
		// rt_sigreturn is not called but returned to, so that what is before it is another function. glibc has its FDE
		// begin a byte early for unwinders that don't think of that.
		if exact := u.rowAt(regs.PC); exact.signal {
			return exact
		}
	}
	return r
}

func (u *Unwinder) rowAt(pc mem.Addr) *row {
	if r := u.rows[pc]; r != nil {
		return r
	}
	r := &row{}
	if p := u.part(pc); p != nil {
		f, err := p.module.find(u, pc)
		if f != nil {
			r.rules, err = f.find(pc)
			r.signal, r.end = f.signal, f.end
		}
		r.err = err
	}
	if len(u.rows) >= maxRows {
		clear(u.rows)
	}
	u.rows[pc] = r
	return r
}

// stepCFI applies a row of CFI.
func (u *Unwinder) stepCFI(r *row, regs *Regs, memory mem.Reader) (caller, error) {
	if r.rules.regs[RIP].kind == undefined {
		return caller{}, ErrOutermost
	}
	cfa, err := r.rules.frameAddress(regs, memory)
	if err != nil {
		return caller{}, err
	}
	next := Regs{SP: cfa, Return: !r.signal, Signal: r.signal}
	pc, err := r.rules.regs[RIP].recover(RIP, cfa, regs, memory)
	if err != nil {
		return caller{}, err
	}
	next.PC = mem.Addr(pc)
	for n := range r.rules.regs {
		if n == RIP || n == RSP && r.rules.regs[n].kind <= sameValue {
			continue
		}
		if v, err := r.rules.regs[n].recover(n, cfa, regs, memory); err == nil {
			next.Set(n, v)
		}
	}
	c := caller{regs: next, cfa: cfa, how: CFI}
	if r.signal {
		c.how = Signal
	}
	return c.checked(regs)
}

// frameAddress computes the canonical frame address.
func (r *rules) frameAddress(regs *Regs, memory mem.Reader) (mem.Addr, error) {
	switch r.cfa.kind {
	case inRegister:
		v, known := regs.Register(int(r.cfa.reg))
		if !known {
			return 0, ErrUnknown
		}
		return mem.Addr(v + uint64(r.cfa.offset)), nil
	case isExpression:
		v, err := evaluate(r.cfa.expr, regs, memory)
		return mem.Addr(v), err
	}
	return 0, errNoRule
}

// recover computes the caller's value of register n.
func (r *rule) recover(n int, cfa mem.Addr, regs *Regs, memory mem.Reader) (uint64, error) {
	switch r.kind {
	case unspecified:
		if calleeSaved&(1<<n) == 0 {
			return 0, ErrUnknown
		}
		fallthrough
	case sameValue:
		if v, known := regs.Register(n); known && n != RIP {
			return v, nil
		}
	case atOffset:
		return mem.U64(memory, cfa+mem.Addr(r.offset))
	case isOffset:
		return uint64(cfa) + uint64(r.offset), nil
	case inRegister:
		if v, known := regs.Register(int(r.reg)); known {
			return v, nil
		}
	case atExpression:
		a, err := evaluate(r.expr, regs, memory, uint64(cfa))
		if err != nil {
			return 0, err
		}
		return mem.U64(memory, mem.Addr(a))
	case isExpression:
		return evaluate(r.expr, regs, memory, uint64(cfa))
	}
	return 0, ErrUnknown
}

// checked refuses a step that makes no way, and one that comes from nowhere.
func (c caller) checked(from *Regs) (caller, error) {
	if c.regs.PC == 0 && c.how != Signal { // a signal can be due to a call of 0
		return caller{}, ErrOutermost
	}
	if c.regs.SP <= from.SP && c.how != Signal {
		return caller{}, ErrNotUp
	}
	return c, nil
}

// stepOver makes the step of a frame of which only the canonical frame address is known: callee-saved registers are
// the caller's.
func stepOver(regs *Regs, cfa mem.Addr, how Rule, memory mem.Reader) (caller, error) {
	pc, err := mem.Pointer(memory, cfa-8)
	if err != nil {
		return caller{}, err
	}
	next := *regs
	next.PC, next.SP, next.Return, next.Signal = pc, cfa, true, false
	next.keep(calleeSaved)
	return caller{regs: next, cfa: cfa, how: how}.checked(regs)
}

// contextRegisters are the registers in the order of a ucontext's gregs (Linux,
// arch/x86/include/uapi/asm/sigcontext.h).
var contextRegisters = [...]int{R8, R9, R10, R11, R12, R13, R14, R15, RDI, RSI, RBP, RBX, RDX, RAX, RCX, RSP, RIP}

// contextGregs is their offset.
const contextGregs = 40

// stepSignal makes the step of rt_sigreturn: SP points to the ucontext.
func stepSignal(regs *Regs, memory mem.Reader) (caller, error) {
	var b [len(contextRegisters) * 8]byte
	if err := memory.ReadAt(b[:], regs.SP+contextGregs); err != nil {
		return caller{}, err
	}
	next := Regs{Signal: true}
	for i, n := range contextRegisters {
		next.Set(n, binary.LittleEndian.Uint64(b[8*i:]))
	}
	return caller{regs: next, cfa: next.SP, how: Signal}.checked(regs)
}
