package inferior

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/heaptap/heaptap/ptrace"
)

// Register is one register's value at a moment.
type Register struct {
	Name  string
	Class RegisterClass
	Bytes []byte // little-endian; as many as the register is wide
}

// RegisterClass says what a register is for.
type RegisterClass uint8

// The classes.
const (
	General RegisterClass = iota + 1 // integers, addresses, program counter, flags
	Segment                          // segment selectors and bases
	Float                            // x87
	Vector                           // SSE and AVX
)

// Uint64 is the value of a register of at most eight bytes, and the low eight of a wider one.
func (r Register) Uint64() uint64 {
	var b [8]byte
	copy(b[:], r.Bytes)
	return binary.LittleEndian.Uint64(b[:])
}

// Registers are all registers of a stopped thread.
type Registers struct {
	Thread
	General  ptrace.Regs
	Extended []byte // the XSAVE image, standard format; nil where it was not read
}

// ErrNoRegister says that the processor has no register of that name, or that it cannot be written. It comes wrapped.
var ErrNoRegister = errors.New("no such register")

// Register finds a register, or a part of one, by the name that assemblers and debuggers use, without a prefix.
func (r *Registers) Register(name string) (Register, error) {
	name = strings.ToLower(name)
	if f, ok := findPart(name); ok {
		return Register{f.name, f.class, f.read(&r.General)}, nil
	}
	if v, ok := extended(r.Extended, name); ok {
		return v, nil
	}
	return Register{}, fmt.Errorf("register %q: %w", name, ErrNoRegister)
}

// All lists the registers, general ones first, without the parts of others.
func (r *Registers) All() []Register {
	var out []Register
	for _, f := range general {
		out = append(out, Register{f.name, f.class, f.read(&r.General)})
	}
	return append(out, allExtended(r.Extended)...)
}

// part is a general register, or some bits of one.
type part struct {
	name  string
	class RegisterClass
	word  func(*ptrace.Regs) *uint64
	shift uint8 // of its lowest bit
	bits  uint8
	// wide parts clear the rest of their register when they are written, as the processor does.
	wide bool
}

func (f part) read(r *ptrace.Regs) []byte {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], *f.word(r)>>f.shift)
	return b[:f.bits/8]
}

// RangeError says that a value does not fit a register.
type RangeError struct {
	Name  string
	Value uint64
	Bits  int
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("%#x does not fit the %d bits of %s", e.Value, e.Bits, e.Name)
}

func (f part) write(r *ptrace.Regs, v uint64) error {
	mask := ^uint64(0) >> (64 - f.bits)
	if v > mask && ^v >= mask>>1+1 { // neither as an unsigned nor as a negative number
		return &RangeError{f.name, v, int(f.bits)}
	}
	v &= mask
	word := f.word(r)
	if f.wide {
		*word = v
	} else {
		*word = *word&^(mask<<f.shift) | v<<f.shift
	}
	return nil
}

func findPart(name string) (part, bool) {
	for _, table := range [][]part{general, parts} {
		if i := slices.IndexFunc(table, func(f part) bool { return f.name == name }); i >= 0 {
			return table[i], true
		}
	}
	return part{}, false
}

// Registers reads all registers of a thread, which stands still meanwhile.
func (p *Process) Registers(ctx context.Context, tid int) (*Registers, error) {
	r := &Registers{Thread: Thread{Tid: tid}}
	if st, err := p.process.Stat(tid); err == nil {
		r.Name = st.Comm
	}
	err := p.hold(ctx, tid, func(th *ptrace.Thread) error { return r.read(th) })
	if err != nil {
		return nil, p.wrap("read registers of", err)
	}
	return r, nil
}

func (r *Registers) read(th *ptrace.Thread) error {
	if err := th.Regs(&r.General); err != nil {
		return err
	}
	// The kernel's own bound of the image is far below this.
	image := make([]byte, 1<<15)
	n, err := th.XState(image)
	if err != nil {
		return err
	}
	r.Extended = image[:n]
	return nil
}

// SetRegister changes a general register of a thread, or a part of one, for good, and returns what it was before and
// is now. A thread that is in a system call and is given another program counter leaves that call; another register
// given to it is there when the call returns, unless the call returns in it.
func (p *Process) SetRegister(ctx context.Context, tid int, name string, value uint64) (before, after Register, err error) {
	f, ok := findPart(strings.ToLower(name))
	if !ok {
		err = ErrNoRegister
		if _, isExtended := extended(make([]byte, 1<<15), strings.ToLower(name)); isExtended {
			err = errors.New("only general registers can be written")
		}
		return before, after, fmt.Errorf("register %q: %w", name, err)
	}
	err = p.hold(ctx, tid, func(th *ptrace.Thread) error {
		var regs ptrace.Regs
		if err := th.Regs(&regs); err != nil {
			return err
		}
		before = Register{f.name, f.class, f.read(&regs)}
		was := regs.PC()
		if err := f.write(&regs, value); err != nil {
			return err
		}
		if regs.PC() != was {
			leaveSyscall(&regs)
		}
		if err := th.SetRegs(&regs); err != nil {
			return err
		}
		var now ptrace.Regs
		if err := th.Regs(&now); err != nil {
			return err
		}
		after = Register{f.name, f.class, f.read(&now)}
		if now != regs {
			return fmt.Errorf("register %s is %#x after writing %#x", f.name, after.Uint64(), value)
		}
		return nil
	})
	return before, after, p.wrap("write register of", err)
}
