package unwind

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sort"

	"github.com/heaptap/heaptap/mem"
)

// This file is the compiled form of CFI: what an unwinder in the target needs that steps from call to call and keeps
// PC, SP and RBP only. [Table.Step] is its reference; the format is below, in little-endian, everything aligned to its
// size:
//
//	offset 0   8 bytes   the magic "htunwnd1"
//	8          uint32    number of modules
//	12         uint32    number of rows
//	16         modules, 24 bytes each, ascending, not overlapping:
//	           0   uint64   start
//	           8   uint64   end
//	           16  uint32   the module's first row
//	           20  uint32   how many rows it has
//	then       rows, 8 bytes each, within a module ascending by start:
//	           0   uint32   start of the code, from the module's start
//	           4   uint32   rule
//
// A row holds from its start up to the next row's, the last one to the module's end; before its first row a module has
// no CFI. A rule is, from the lowest bit on:
//
//	4 bits    kind, one of the Kind constants
//	2 bits    where the caller's RBP is, one of the Frame constants
//	8 bits    signed, in units of 8 bytes: offset for that
//	18 bits   signed, in units of 8 bytes: offset for the CFA
//
// The return address is at CFA - 8, and the caller's SP is the CFA, but for KindSignal.

// Kind says how a row's canonical frame address is found.
type Kind uint8

// The kinds.
const (
	KindNone        Kind = iota // there is no CFI
	KindOutermost               // nobody called this
	KindSP                      // SP + offset
	KindFP                      // RBP + offset
	KindFPDeref                 // the word at RBP + offset: frames of a stack that was realigned
	KindSPDeref                 // the word at SP + offset, plus 8: hand-written code that realigns the stack
	KindPLT                     // SP + 8, and 8 more if the lowest four bits of PC are at least offset / 8
	KindSignal                  // SP points to a ucontext, which has the caller's PC, SP and RBP
	KindUnsupported             // there is CFI, and it cannot be told in a row: the stack ends
)

// FrameRule says where a row's caller's RBP is.
type FrameRule uint8

// The rules for RBP.
const (
	FrameSame    FrameRule = iota // in RBP
	FrameAtCFA                    // in the word at CFA + offset
	FrameAtFP                     // in the word at RBP + offset
	FrameUnknown                  // lost
)

// Rule bits.
const (
	kindBits, frameBits, frameOffsetBits, offsetBits = 4, 2, 8, 18

	frameShift       = kindBits
	frameOffsetShift = frameShift + frameBits
	offsetShift      = frameOffsetShift + frameOffsetBits
	word             = 8
)

// Packed is the rule of a row.
type Packed uint32

// pack makes a rule; KindUnsupported if an offset does not fit.
func pack(k Kind, offset int64, f FrameRule, frameOffset int64) Packed {
	if !fits(offset, offsetBits) || !fits(frameOffset, frameOffsetBits) {
		return Packed(KindUnsupported)
	}
	return Packed(k) | Packed(f)<<frameShift |
		Packed(frameOffset/word)&(1<<frameOffsetBits-1)<<frameOffsetShift | Packed(offset/word)<<offsetShift
}

func fits(offset int64, bits int) bool {
	limit := int64(1) << (bits - 1)
	return offset%word == 0 && offset/word >= -limit && offset/word < limit
}

// Kind is how the CFA is found.
func (p Packed) Kind() Kind { return Kind(p & (1<<kindBits - 1)) }

// Offset is the offset for the CFA, in bytes.
func (p Packed) Offset() int64 { return int64(int32(p)>>offsetShift) * word }

// Frame is where the caller's RBP is, and the offset for that, in bytes.
func (p Packed) Frame() (FrameRule, int64) {
	return FrameRule(p >> frameShift & (1<<frameBits - 1)), int64(int8(p>>frameOffsetShift)) * word
}

// Row is what holds from an instruction on.
type Row struct {
	Start uint32 // from the module's start
	Rule  Packed
}

// TableModule is the part of a table for one module.
type TableModule struct {
	Start, End mem.Addr
	First      uint32 // row
	Rows       uint32
}

// Table is compiled CFI.
type Table struct {
	Modules []TableModule
	Rows    []Row
}

const (
	tableMagic   = "htunwnd1"
	tableHead    = 16
	tableModule  = 24
	tableRow     = 8
	maxTableRows = 1 << 28
)

// AppendBinary appends the table's binary form to b.
func (t *Table) AppendBinary(b []byte) ([]byte, error) {
	if len(t.Rows) > maxTableRows {
		return b, fmt.Errorf("unwind table: %d rows", len(t.Rows))
	}
	le := binary.LittleEndian
	b = append(b, tableMagic...)
	b = le.AppendUint32(b, uint32(len(t.Modules)))
	b = le.AppendUint32(b, uint32(len(t.Rows)))
	for _, m := range t.Modules {
		b = le.AppendUint64(b, uint64(m.Start))
		b = le.AppendUint64(b, uint64(m.End))
		b = le.AppendUint32(b, m.First)
		b = le.AppendUint32(b, m.Rows)
	}
	for _, r := range t.Rows {
		b = le.AppendUint32(b, r.Start)
		b = le.AppendUint32(b, uint32(r.Rule))
	}
	return b, nil
}

var errTable = errors.New("unwind table is damaged")

// ParseTable reads a table's binary form.
func ParseTable(b []byte) (*Table, error) {
	d := decoder{b: b}
	if string(d.take(uint64(len(tableMagic)))) != tableMagic {
		return nil, fmt.Errorf("%w: no magic", errTable)
	}
	modules, rows := d.u32(), d.u32()
	if want := tableHead + tableModule*uint64(modules) + tableRow*uint64(rows); want != uint64(len(b)) {
		return nil, fmt.Errorf("%w: %d bytes for %d modules and %d rows", errTable, len(b), modules, rows)
	}
	t := &Table{Modules: make([]TableModule, modules), Rows: make([]Row, rows)}
	for i := range t.Modules {
		t.Modules[i] = TableModule{mem.Addr(d.u64()), mem.Addr(d.u64()), d.u32(), d.u32()}
	}
	for i := range t.Rows {
		t.Rows[i] = Row{d.u32(), Packed(d.u32())}
	}
	return t, t.check()
}

// check looks whether the table can be searched.
func (t *Table) check() error {
	end := mem.Addr(0)
	for _, m := range t.Modules {
		if m.Start < end || m.End < m.Start || uint64(m.First)+uint64(m.Rows) > uint64(len(t.Rows)) {
			return fmt.Errorf("%w: module %v to %v with rows from %d, %d of them", errTable, m.Start, m.End, m.First, m.Rows)
		}
		end = m.End
		rows := t.Rows[m.First:][:m.Rows]
		for i := 1; i < len(rows); i++ {
			if rows[i].Start <= rows[i-1].Start {
				return fmt.Errorf("%w: row %d of module %v is not in order", errTable, i, m.Start)
			}
		}
	}
	return nil
}

// Rule is the rule for the instruction at pc.
func (t *Table) Rule(pc mem.Addr) Packed {
	i := sort.Search(len(t.Modules), func(i int) bool { return t.Modules[i].Start > pc }) - 1
	if i < 0 || pc >= t.Modules[i].End || pc-t.Modules[i].Start > 1<<32-1 {
		return Packed(KindNone)
	}
	m := t.Modules[i]
	rows, at := t.Rows[m.First:][:m.Rows], uint32(pc-m.Start)
	j := sort.Search(len(rows), func(i int) bool { return rows[i].Start > at }) - 1
	if j < 0 {
		return Packed(KindNone)
	}
	return rows[j].Rule
}

// ErrUnsupported says that there is CFI that a row cannot hold. It comes in an [*EndError].
var ErrUnsupported = errors.New("call frame information that the table cannot hold")

// Step is [Unwinder.Step] by the table alone, over PC, SP and RBP.
func (t *Table) Step(regs *Regs, memory mem.Reader) (Frame, error) {
	f := Frame{Regs: *regs}
	c, err := t.caller(regs, memory)
	if errors.Is(err, ErrOutermost) {
		return f, ErrOutermost
	}
	if err != nil {
		return f, t.end(regs.PC, err)
	}
	f.CFA, f.How = c.cfa, c.how
	*regs = c.regs
	return f, nil
}

func (t *Table) end(pc mem.Addr, cause error) error { return &EndError{PC: pc, Err: cause} }

// Stack is [Unwinder.Stack] by the table alone.
func (t *Table) Stack(regs Regs, limit int, memory mem.Reader) ([]Frame, error) {
	return stack(limit, t.end, func() (Frame, error) { return t.Step(&regs, memory) })
}

func (t *Table) caller(regs *Regs, memory mem.Reader) (caller, error) {
	rule := t.Rule(regs.Lookup())
	if regs.Return && rule.Kind() != KindSignal && t.Rule(regs.PC).Kind() == KindSignal {
		rule = t.Rule(regs.PC) // nothing calls rt_sigreturn: what stands before it does not matter
	}
	cfa, err := t.frameAddress(rule, regs, memory)
	if err != nil {
		return caller{}, err
	}
	if rule.Kind() == KindSignal {
		return t.signal(regs, memory)
	}
	pc, err := mem.Pointer(memory, cfa-word)
	if err != nil {
		return caller{}, err
	}
	next := Regs{PC: pc, SP: cfa, Return: true}
	rbp, known := regs.Register(RBP)
	switch where, offset := rule.Frame(); where {
	case FrameAtCFA:
		rbp, err = mem.U64(memory, cfa+mem.Addr(offset))
		known = err == nil
	case FrameAtFP:
		if known {
			rbp, err = mem.U64(memory, mem.Addr(rbp)+mem.Addr(offset))
			known = err == nil
		}
	case FrameUnknown:
		known = false
	}
	if known {
		next.Set(RBP, rbp)
	}
	return caller{regs: next, cfa: cfa, how: CFI}.checked(regs)
}

func (t *Table) frameAddress(rule Packed, regs *Regs, memory mem.Reader) (mem.Addr, error) {
	offset := mem.Addr(rule.Offset())
	rbp, known := regs.Register(RBP)
	switch rule.Kind() {
	case KindNone:
		return 0, ErrNoCFI
	case KindOutermost:
		return 0, ErrOutermost
	case KindSP:
		return regs.SP + offset, nil
	case KindFP, KindFPDeref:
		if !known {
			return 0, ErrUnknown
		}
		if rule.Kind() == KindFP {
			return mem.Addr(rbp) + offset, nil
		}
		return mem.Pointer(memory, mem.Addr(rbp)+offset)
	case KindSPDeref:
		a, err := mem.Pointer(memory, regs.SP+offset)
		return a + word, err
	case KindPLT:
		if regs.PC&15 >= offset/word {
			return regs.SP + 2*word, nil
		}
		return regs.SP + word, nil
	case KindSignal:
		return 0, nil
	}
	return 0, ErrUnsupported
}

// signal makes the step of rt_sigreturn.
func (t *Table) signal(regs *Regs, memory mem.Reader) (caller, error) {
	c, err := stepSignal(regs, memory)
	c.regs.keep(1 << RBP)
	return c, err
}
