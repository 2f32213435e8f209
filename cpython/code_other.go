//go:build !amd64

package cpython

import (
	"debug/elf"
	"errors"

	"github.com/heaptap/heaptap/mem"
)

// supportedCPU reports whether targets of this CPU can be worked with by this build of heaptap.
func supportedCPU(elf.Machine) bool { return false }

var errCPU = errors.New("code of this CPU is not understood")

func dataRefs(mem.Reader, mem.Addr) ([]mem.Addr, error) { return nil, errCPU }

func constantRefs(mem.Reader, mem.Addr) ([]mem.Addr, error) { return nil, errCPU }

func sizeShift(mem.Reader, mem.Addr) (uint, bool, error) { return 0, false, errCPU }
