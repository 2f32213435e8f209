package launch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// Gate is code in a process, entered in the place of its program's entry.
type Gate struct {
	at     mem.Addr
	entry  mem.Addr // the program's
	vector mem.Addr // the word of the auxiliary vector that leads to the gate
	memory mem.Memory
}

// ErrNoGate says that a process cannot be made to wait at its program's entry: it has no loader that would go there, or
// no room for the gate's code. It comes wrapped.
var ErrNoGate = errors.New("no gate can be placed")

const (
	atEntry = 9 // AT_ENTRY
	atBase  = 7 // AT_BASE: of the loader

	gateStep  = 100 * time.Microsecond
	gateLimit = 30 * time.Second
)

// Place places a gate in a process that has just executed a program: that is stopped there, with its stack pointer at sp.
// Keeper is the pid, as the process sees it, of whoever will open the gate, 0 where that is not known. When the keeper is
// gone, or does not open the gate within half a minute, the process goes on.
//
// The loader reads the program's entry from the auxiliary vector on the stack; it is made to read the gate's address. No
// instruction of the program's is written over.
func Place(p *proc.Process, sp mem.Addr, keeper int) (*Gate, error) {
	fail := func(err error) (*Gate, error) {
		return nil, fmt.Errorf("process %d: %w: %w", p.Pid, ErrNoGate, err)
	}
	m, err := p.Mem()
	if err != nil {
		return nil, err
	}
	vector, err := auxiliaryVector(m, sp)
	if err != nil {
		return fail(err)
	}
	if vector.value(atBase) == 0 || vector.value(atEntry) == 0 {
		return fail(errors.New("the program has no loader"))
	}
	at, err := call.Space(p, gateSize)
	if err != nil {
		return fail(err)
	}
	g := &Gate{at: at, entry: mem.Addr(vector.value(atEntry)), vector: vector[atEntry].at, memory: m}
	body := append(append([]byte(nil), gateCode...), make([]byte, gateSize-len(gateCode))...)
	le := binary.LittleEndian
	le.PutUint64(body[gateEntry:], uint64(g.entry))
	le.PutUint64(body[gatePause+8:], uint64(gateStep))
	le.PutUint32(body[gateSleeps:], uint32(gateLimit/(2*gateStep))) // the kernel's slack doubles a sleep
	le.PutUint32(body[gateKeeper:], uint32(keeper))
	if err := m.WriteAt(body, at); err != nil {
		return fail(err)
	}
	if err := mem.PutU64(m, g.vector, uint64(at)); err != nil {
		return fail(err)
	}
	return g, nil
}

// Arrived reports whether a program counter at a system call's entry is that of the gate's first one: everything that the
// loader does is done.
func (g *Gate) Arrived(pc mem.Addr) bool { return pc == g.at+gateArrived }

// Settle makes the auxiliary vector what it was. The process must have arrived.
func (g *Gate) Settle() error { return mem.PutU64(g.memory, g.vector, uint64(g.entry)) }

// Open lets the process go on to its program's entry.
func (g *Gate) Open() error {
	var open [4]byte
	open[0] = 1
	return g.memory.WriteAt(open[:], g.at+gateOpen)
}

// vector is an auxiliary vector by AT_ number.
type vector map[uint64]element

type element struct {
	at    mem.Addr // of the value
	value uint64
}

func (v vector) value(number uint64) uint64 { return v[number].value }

// auxiliaryVector reads the vector of a program that has not run yet: behind its arguments and its environment, which are
// arrays of addresses that end with 0 (System V ABI, "Process Initialization").
func auxiliaryVector(m mem.Reader, sp mem.Addr) (vector, error) {
	const (
		chunk = 4096
		most  = 64 << 20 // bytes of addresses: more than the kernel takes
	)
	arguments, err := mem.U64(m, sp)
	if err != nil {
		return nil, err
	}
	if arguments > most/8 {
		return nil, fmt.Errorf("%d arguments", arguments)
	}
	at := sp + mem.Addr(8+8*(arguments+1))
	for end := at + most; at < end; {
		v, err := mem.U64(m, at)
		if err != nil {
			return nil, err
		}
		at += 8
		if v == 0 {
			break
		}
	}
	out := vector{}
	for range chunk / 16 {
		number, err := mem.U64(m, at)
		if err != nil {
			return nil, err
		}
		value, err := mem.U64(m, at+8)
		if err != nil {
			return nil, err
		}
		if number == 0 {
			return out, nil
		}
		out[number] = element{at + 8, value}
		at += 16
	}
	return nil, errors.New("an auxiliary vector without an end")
}
