package cexpr

import (
	"fmt"
	"strings"

	"github.com/heaptap/heaptap/mem"
)

// fake is a Machine of nothing but tables.
type fake struct {
	mem.Fake
	entities  map[string]Entity
	types     map[string]*Type
	registers map[string][]byte
	refuse    error // of SetRegister
	results   []Result
	calls     []Call
	called    []mem.Addr
	errno     int
	next      mem.Addr
}

const fakeScratch = 0x10000

// newFake has 64 KiB of scratch memory.
func newFake() *fake {
	f := &fake{entities: map[string]Entity{}, types: map[string]*Type{}, registers: map[string][]byte{}, next: fakeScratch}
	f.Segments = []mem.Segment{{Addr: fakeScratch, Data: make([]byte, 1<<16)}}
	return f
}

func (f *fake) Register(name string) ([]byte, error) {
	if b, ok := f.registers[name]; ok {
		return b, nil
	}
	return nil, &UnknownRegisterError{name}
}

func (f *fake) SetRegister(name string, b []byte) error {
	if f.refuse != nil {
		return f.refuse
	}
	f.registers[name] = b
	return nil
}

func (f *fake) Lookup(name string) (Entity, error) {
	if e, ok := f.entities[name]; ok {
		return e, nil
	}
	var near []string
	for known := range f.entities {
		if strings.HasPrefix(known, name[:1]) {
			near = append(near, known)
		}
	}
	return Entity{}, &NotFoundError{Name: name, Near: near}
}

func (f *fake) TypeNamed(name string) (*Type, error) { return f.types[name], nil }

func (f *fake) Symbol(a mem.Addr) (string, uint64, bool) {
	for name, e := range f.entities {
		if e.Kind != Constant && a >= e.Addr && a < e.Addr+mem.Addr(max(e.Size, 1)) {
			return name, uint64(a - e.Addr), true
		}
	}
	return "", 0, false
}

func (f *fake) Allocate(n uint64) (mem.Addr, error) {
	a := f.next
	if n > 1<<16 || f.next+mem.Addr(n) > fakeScratch+1<<16 {
		return 0, fmt.Errorf("allocate %d bytes: none left", n)
	}
	f.next = (a + mem.Addr(n) + 15) &^ 15
	return a, nil
}

func (f *fake) Call(fn mem.Addr, c *Call) (*Result, error) {
	f.calls, f.called = append(f.calls, *c), append(f.called, fn)
	if len(f.results) == 0 {
		return &Result{}, nil
	}
	r := f.results[0]
	f.results = f.results[1:]
	return &r, nil
}

func (f *fake) Errno() (int, bool) { return f.errno, f.errno != 0 }
