package unwind

import (
	"fmt"

	"github.com/heaptap/heaptap/mem"
)

// kind says how a value is recovered.
type kind uint8

const (
	unspecified   kind = iota
	undefined          // not at all
	sameValue          // it is as in the callee
	atOffset           // at CFA + offset
	isOffset           // it is CFA + offset
	inRegister         // in register reg, plus offset: a CFA's rule
	atExpression       // at the address that expr computes
	isExpression       // what expr computes
	maxRemembered = 256
)

// rule is how one value of the caller's frame is recovered.
type rule struct {
	kind   kind
	reg    uint8
	offset int64
	expr   []byte
}

// rules is one row of the table that an FDE stands for: how to recover everything at certain instructions.
type rules struct {
	cfa  rule
	regs [Registers]rule
}

// Call frame instructions (DWARF 5, section 7.24, and what GNU adds).
const (
	cfaAdvance         = 0x40
	cfaOffset          = 0x80
	cfaRestore         = 0xc0
	cfaNop             = 0x00
	cfaSetLoc          = 0x01
	cfaAdvance1        = 0x02
	cfaAdvance2        = 0x03
	cfaAdvance4        = 0x04
	cfaOffsetExtended  = 0x05
	cfaRestoreExtended = 0x06
	cfaUndefined       = 0x07
	cfaSameValue       = 0x08
	cfaRegister        = 0x09
	cfaRemember        = 0x0a
	cfaRestoreState    = 0x0b
	cfaDefCFA          = 0x0c
	cfaDefRegister     = 0x0d
	cfaDefOffset       = 0x0e
	cfaDefExpression   = 0x0f
	cfaExpression      = 0x10
	cfaOffsetSigned    = 0x11
	cfaDefCFASigned    = 0x12
	cfaDefOffsetSigned = 0x13
	cfaValOffset       = 0x14
	cfaValOffsetSigned = 0x15
	cfaValExpression   = 0x16
	cfaAdvance8        = 0x1d
	cfaArgsSize        = 0x2e
	cfaNegativeOffset  = 0x2f
)

// execution runs a CFI program.
type execution struct {
	*fde
	code       decoder
	now        rules
	initial    rules   // what the CIE's program left, for restoring
	remembered []rules // by remember_state
	at         mem.Addr
	visit      func(start, end mem.Addr, r *rules) bool
	stopped    bool
}

// rows runs the program of the FDE and calls visit for each range of instructions with the same rules, in order, until
// visit returns false. The rules are only good during the call.
func (f *fde) rows(visit func(start, end mem.Addr, r *rules) bool) error {
	x := execution{fde: f, code: f.cie.program, at: f.start}
	if err := x.run(); err != nil {
		return err
	}
	if x.at != f.start {
		return x.fail("the CIE's program advances")
	}
	x.initial, x.code, x.remembered, x.visit = x.now, f.program, x.remembered[:0], visit
	if err := x.run(); err != nil {
		return err
	}
	if !x.stopped && x.at < f.end {
		visit(x.at, f.end, &x.now)
	}
	return nil
}

// find returns the rules for the instruction at pc, or nil where the program tells of none.
func (f *fde) find(pc mem.Addr) (*rules, error) {
	var found *rules
	err := f.rows(func(start, end mem.Addr, r *rules) bool {
		if start <= pc && pc < end {
			kept := *r
			found = &kept
		}
		return pc >= end
	})
	if found != nil {
		return found, nil // damage behind the row does not matter
	}
	return nil, err
}

func (x *execution) fail(what string) error { return &CFIError{Offset: x.fde.at, What: what} }

func (x *execution) run() error {
	for x.code.more() && !x.stopped {
		if what := x.instruction(x.code.u8()); what != "" {
			return x.fail(what)
		}
		if x.code.bad != "" {
			return x.fail(x.code.bad)
		}
	}
	return nil
}

// instruction executes one. What it returns is "", or what is wrong.
func (x *execution) instruction(op uint8) string {
	c := &x.code
	low := uint64(op & 0x3f)
	switch op & 0xc0 {
	case cfaAdvance:
		return x.advance(low * x.codeAlign)
	case cfaOffset:
		return x.set(low, rule{kind: atOffset, offset: x.unsigned()})
	case cfaRestore:
		return x.restore(low)
	}
	switch op {
	case cfaNop:
	case cfaSetLoc:
		return x.moveTo(c.pointer(x.encoding, x.bases))
	case cfaAdvance1:
		return x.advance(uint64(c.u8()) * x.codeAlign)
	case cfaAdvance2:
		return x.advance(uint64(c.u16()) * x.codeAlign)
	case cfaAdvance4:
		return x.advance(uint64(c.u32()) * x.codeAlign)
	case cfaAdvance8:
		return x.advance(c.u64() * x.codeAlign)
	case cfaRemember:
		if len(x.remembered) == maxRemembered {
			return "too many states are remembered"
		}
		x.remembered = append(x.remembered, x.now)
	case cfaRestoreState:
		n := len(x.remembered) - 1
		if n < 0 {
			return "restores a state, and none is remembered"
		}
		x.now, x.remembered = x.remembered[n], x.remembered[:n]
	case cfaArgsSize:
		c.uleb() // of outgoing arguments: matters to who lands in a handler
	default:
		if op >= cfaDefCFA && op <= cfaDefExpression || op == cfaDefCFASigned || op == cfaDefOffsetSigned {
			return x.define(op)
		}
		return x.register(op)
	}
	return ""
}

// define changes the rule of the CFA.
func (x *execution) define(op uint8) string {
	c, cfa := &x.code, &x.now.cfa
	switch op {
	case cfaDefCFA:
		n := c.uleb()
		return x.setCFA(n, int64(c.uleb()))
	case cfaDefCFASigned:
		n := c.uleb()
		return x.setCFA(n, x.signed())
	case cfaDefExpression:
		*cfa = rule{kind: isExpression, expr: c.block()}
		return ""
	}
	if cfa.kind != inRegister {
		return "changes a part of a CFA that is no register plus offset"
	}
	switch op {
	case cfaDefRegister:
		return x.setCFA(c.uleb(), cfa.offset)
	case cfaDefOffset:
		cfa.offset = int64(c.uleb())
	case cfaDefOffsetSigned:
		cfa.offset = x.signed()
	}
	return ""
}

// register changes the rule of a register.
func (x *execution) register(op uint8) string {
	c := &x.code
	switch op {
	case cfaOffsetExtended, cfaNegativeOffset, cfaOffsetSigned, cfaValOffset, cfaValOffsetSigned, cfaRestoreExtended,
		cfaUndefined, cfaSameValue, cfaRegister, cfaExpression, cfaValExpression:
	default:
		return fmt.Sprintf("instruction %#x is not defined", op)
	}
	n := c.uleb()
	switch op {
	case cfaOffsetExtended:
		return x.set(n, rule{kind: atOffset, offset: x.unsigned()})
	case cfaOffsetSigned:
		return x.set(n, rule{kind: atOffset, offset: x.signed()})
	case cfaNegativeOffset:
		return x.set(n, rule{kind: atOffset, offset: -x.unsigned()})
	case cfaValOffset:
		return x.set(n, rule{kind: isOffset, offset: x.unsigned()})
	case cfaValOffsetSigned:
		return x.set(n, rule{kind: isOffset, offset: x.signed()})
	case cfaRestoreExtended:
		return x.restore(n)
	case cfaUndefined:
		return x.set(n, rule{kind: undefined})
	case cfaSameValue:
		return x.set(n, rule{kind: sameValue})
	case cfaRegister:
		return x.set(n, inReg(c.uleb(), 0))
	case cfaExpression:
		return x.set(n, rule{kind: atExpression, expr: c.block()})
	}
	return x.set(n, rule{kind: isExpression, expr: c.block()})
}

// unsigned and signed read an offset in units of the data alignment.
func (x *execution) unsigned() int64 { return int64(x.code.uleb()) * x.dataAlign }
func (x *execution) signed() int64   { return x.code.sleb() * x.dataAlign }

// inReg is a register plus an offset; one that is not kept is one that nobody knows.
func inReg(n uint64, offset int64) rule {
	return rule{kind: inRegister, reg: uint8(min(n, Registers)), offset: offset}
}

func (x *execution) setCFA(n uint64, offset int64) string {
	x.now.cfa = inReg(n, offset)
	return ""
}

// set gives a register its rule. Vector and other registers are nobody's concern here.
func (x *execution) set(n uint64, r rule) string {
	if n < Registers {
		x.now.regs[n] = r
	}
	return ""
}

func (x *execution) restore(n uint64) string {
	if n < Registers {
		x.now.regs[n] = x.initial.regs[n]
	}
	return ""
}

func (x *execution) advance(n uint64) string {
	to, ok := x.at.Add(n)
	if !ok {
		return "advances over the end of the address space"
	}
	return x.moveTo(to)
}

func (x *execution) moveTo(to mem.Addr) string {
	if to < x.at {
		return "goes back"
	}
	if to > x.at && x.visit != nil && x.at < x.end {
		x.stopped = !x.visit(x.at, min(to, x.end), &x.now)
	}
	x.at = to
	return ""
}
