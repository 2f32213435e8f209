package cexpr_test

import (
	"encoding/binary"
	"fmt"

	"github.com/heaptap/heaptap/cexpr"
	"github.com/heaptap/heaptap/mem"
)

// calculator is the smallest machine: it has one function, which adds, and no memory of its own.
type calculator struct {
	mem.Fake
}

func (*calculator) Register(name string) ([]byte, error) {
	if name == "rip" {
		return binary.LittleEndian.AppendUint64(nil, 0x401000), nil
	}
	return nil, &cexpr.UnknownRegisterError{Name: name}
}

func (*calculator) SetRegister(name string, _ []byte) error {
	return &cexpr.UnknownRegisterError{Name: name}
}

func (*calculator) Lookup(name string) (cexpr.Entity, error) {
	if name == "add" {
		return cexpr.Entity{Name: name, Addr: 0x401000, Size: 16}, nil
	}
	return cexpr.Entity{}, &cexpr.NotFoundError{Name: name, Near: []string{"add"}}
}

func (*calculator) TypeNamed(string) (*cexpr.Type, error) { return nil, nil }
func (*calculator) Allocate(uint64) (mem.Addr, error)     { return 0x10000, nil }
func (*calculator) Errno() (int, bool)                    { return 0, false }
func (*calculator) Symbol(a mem.Addr) (string, uint64, bool) {
	return "add", uint64(a - 0x401000), a>>4 == 0x40100
}
func (*calculator) Call(_ mem.Addr, c *cexpr.Call) (*cexpr.Result, error) {
	return &cexpr.Result{RAX: c.Int[0] + c.Int[1]}, nil
}

func Example() {
	program, err := cexpr.Parse(`$n = (int)add(40, 2); $n * 1.5; $rip; (int)sub(1, 2)`)
	if err != nil {
		fmt.Println(err)
		return
	}
	outcomes, err := program.Run(&calculator{}, &cexpr.Env{})
	for _, o := range outcomes {
		fmt.Print(o)
	}
	fmt.Println(err)
	// Output:
	// $1 = 42
	// $2 = 63
	// $3 = (void (*)()) 0x401000 <add>
	// no symbol "sub"; similar: add
	//   $n = (int)add(40, 2); $n * 1.5; $rip; (int)sub(1, 2)
	//                                              ^
}
