package unwind

import (
	"errors"
	"fmt"

	"github.com/heaptap/heaptap/mem"
)

const (
	maxOperations = 1000 // of one expression; real ones have less than 20
	maxStack      = 128
)

// Operations of DWARF expressions (DWARF 5, section 7.7.1).
const (
	opAddr       = 0x03
	opDeref      = 0x06
	opConst1u    = 0x08
	opConst1s    = 0x09
	opConst2u    = 0x0a
	opConst2s    = 0x0b
	opConst4u    = 0x0c
	opConst4s    = 0x0d
	opConst8u    = 0x0e
	opConst8s    = 0x0f
	opConstu     = 0x10
	opConsts     = 0x11
	opDup        = 0x12
	opDrop       = 0x13
	opOver       = 0x14
	opPick       = 0x15
	opSwap       = 0x16
	opRot        = 0x17
	opAbs        = 0x19
	opAnd        = 0x1a
	opDiv        = 0x1b
	opMinus      = 0x1c
	opMod        = 0x1d
	opMul        = 0x1e
	opNeg        = 0x1f
	opNot        = 0x20
	opOr         = 0x21
	opPlus       = 0x22
	opPlusUconst = 0x23
	opShl        = 0x24
	opShr        = 0x25
	opShra       = 0x26
	opXor        = 0x27
	opBra        = 0x28
	opEq         = 0x29
	opNe         = 0x2e
	opSkip       = 0x2f
	opLit0       = 0x30
	opLit31      = 0x4f
	opReg0       = 0x50
	opReg31      = 0x6f
	opBreg0      = 0x70
	opBreg31     = 0x8f
	opRegx       = 0x90
	opBregx      = 0x92
	opDerefSize  = 0x94
	opNop        = 0x96
	opStackValue = 0x9f
)

var (
	errStack     = errors.New("expression: the stack has too few or too many values")
	errEndless   = errors.New("expression: does not come to an end")
	errDivision  = errors.New("expression: division by zero")
	errBranch    = errors.New("expression: branch to outside of it")
	errTruncated = errors.New("expression: ends in the middle of an operation")
)

// machine evaluates one DWARF expression. DWARF 5, section 6.4.2: the operations that need more than a frame's
// registers and memory don't occur in CFI.
type machine struct {
	code   decoder
	stack  []uint64
	regs   *Regs
	memory mem.Reader
}

// evaluate computes an expression over a frame's registers; initial is what it finds on its stack.
func evaluate(expr []byte, regs *Regs, memory mem.Reader, initial ...uint64) (uint64, error) {
	var room [16]uint64
	m := machine{code: decoder{b: expr}, stack: append(room[:0], initial...), regs: regs, memory: memory}
	for n := 0; m.code.more(); n++ {
		if n == maxOperations {
			return 0, errEndless
		}
		if err := m.operation(m.code.u8()); err != nil {
			return 0, err
		}
		if m.code.bad != "" {
			return 0, errTruncated
		}
	}
	return m.pop()
}

func (m *machine) operation(op uint8) error {
	switch {
	case op >= opLit0 && op <= opLit31:
		return m.push(uint64(op - opLit0))
	case op >= opReg0 && op <= opReg31:
		return m.register(uint64(op-opReg0), 0)
	case op >= opBreg0 && op <= opBreg31:
		return m.register(uint64(op-opBreg0), m.code.sleb())
	case op == opRegx:
		return m.register(m.code.uleb(), 0)
	case op == opBregx:
		n := m.code.uleb()
		return m.register(n, m.code.sleb())
	case op >= opAddr && op <= opConsts && op != opDeref:
		return m.constant(op)
	case op >= opDup && op <= opRot:
		return m.shuffle(op)
	case op == opAbs || op == opNeg || op == opNot || op == opPlusUconst:
		return m.unary(op)
	case op >= opAnd && op <= opXor || op >= opEq && op <= opNe:
		return m.binary(op)
	case op == opSkip || op == opBra:
		return m.jump(op)
	case op == opDeref:
		return m.load(8)
	case op == opDerefSize:
		return m.load(m.code.u8())
	case op == opNop || op == opStackValue:
		return nil
	}
	return fmt.Errorf("expression: operation %#x is not for CFI", op)
}

func (m *machine) push(v uint64) error {
	if len(m.stack) == maxStack {
		return errStack
	}
	m.stack = append(m.stack, v)
	return nil
}

func (m *machine) pop() (uint64, error) {
	if len(m.stack) == 0 {
		return 0, errStack
	}
	v := m.stack[len(m.stack)-1]
	m.stack = m.stack[:len(m.stack)-1]
	return v, nil
}

func (m *machine) register(n uint64, offset int64) error {
	v, known := m.regs.Register(int(min(n, Registers)))
	if !known {
		return ErrUnknown
	}
	return m.push(v + uint64(offset))
}

func (m *machine) constant(op uint8) error {
	c := &m.code
	switch op {
	case opConst1u:
		return m.push(uint64(c.u8()))
	case opConst1s:
		return m.push(uint64(int8(c.u8())))
	case opConst2u:
		return m.push(uint64(c.u16()))
	case opConst2s:
		return m.push(uint64(int16(c.u16())))
	case opConst4u:
		return m.push(uint64(c.u32()))
	case opConst4s:
		return m.push(uint64(int32(c.u32())))
	case opAddr, opConst8u, opConst8s:
		return m.push(c.u64())
	case opConstu:
		return m.push(c.uleb())
	case opConsts:
		return m.push(uint64(c.sleb()))
	}
	return fmt.Errorf("expression: operation %#x is not defined", op)
}

func (m *machine) shuffle(op uint8) error {
	index := uint8(0)
	if op == opPick {
		index = m.code.u8()
	}
	s := m.stack
	need := map[uint8]int{opDup: 1, opDrop: 1, opOver: 2, opPick: int(index) + 1, opSwap: 2, opRot: 3}[op]
	if len(s) < need {
		return errStack
	}
	top := len(s) - 1
	switch op {
	case opDup, opPick:
		return m.push(s[top-int(index)])
	case opOver:
		return m.push(s[top-1])
	case opDrop:
		m.stack = s[:top]
	case opSwap:
		s[top], s[top-1] = s[top-1], s[top]
	case opRot:
		s[top], s[top-1], s[top-2] = s[top-1], s[top-2], s[top]
	}
	return nil
}

func (m *machine) unary(op uint8) error {
	v, err := m.pop()
	if err != nil {
		return err
	}
	switch op {
	case opAbs:
		if int64(v) < 0 {
			v = -v
		}
	case opNeg:
		v = -v
	case opNot:
		v = ^v
	case opPlusUconst:
		v += m.code.uleb()
	}
	return m.push(v)
}

func (m *machine) binary(op uint8) error {
	b, err := m.pop()
	if err != nil {
		return err
	}
	a, err := m.pop()
	if err != nil {
		return err
	}
	if b == 0 && (op == opDiv || op == opMod) {
		return errDivision
	}
	return m.push(combine(op, a, b))
}

// combine computes a op b; a was on the stack before b. Division and comparison are signed, the remainder is not.
func combine(op uint8, a, b uint64) uint64 {
	truth := func(t bool) uint64 {
		if t {
			return 1
		}
		return 0
	}
	switch op {
	case opAnd:
		return a & b
	case opDiv:
		return uint64(int64(a) / int64(b))
	case opMinus:
		return a - b
	case opMod:
		return a % b
	case opMul:
		return a * b
	case opOr:
		return a | b
	case opPlus:
		return a + b
	case opShl:
		return a << b
	case opShr:
		return a >> b
	case opShra:
		return uint64(int64(a) >> b)
	case opXor:
		return a ^ b
	}
	x, y := int64(a), int64(b)
	return truth([...]bool{x == y, x >= y, x > y, x <= y, x < y, x != y}[op-opEq])
}

func (m *machine) jump(op uint8) error {
	offset := int(int16(m.code.u16()))
	if op == opBra {
		if v, err := m.pop(); err != nil || v == 0 {
			return err
		}
	}
	to := m.code.pos + offset
	if to < 0 || to > len(m.code.b) {
		return errBranch
	}
	m.code.pos = to
	return nil
}

func (m *machine) load(size uint8) error {
	a, err := m.pop()
	if err != nil {
		return err
	}
	if size == 0 || size > 8 {
		return fmt.Errorf("expression: load of %d bytes", size)
	}
	var b [8]byte
	if err := m.memory.ReadAt(b[:size], mem.Addr(a)); err != nil {
		return err
	}
	d := decoder{b: b[:]}
	return m.push(d.u64())
}
