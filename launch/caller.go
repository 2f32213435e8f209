package launch

import (
	"debug/elf"
	"reflect"
	"syscall"
	"unsafe"
)

// Caller is what a program inherits and the Go runtime has changed in this process since it began: which signals are
// ignored (bit N-1 for signal N), and which are blocked.
type Caller struct {
	Ignored   uint64
	Mask      uint64
	MaskKnown bool
}

// ThisCaller says what this process has inherited. The runtime leaves alone SIGHUP and SIGINT, where they are ignored and
// nothing is notified of them, and the job's signals, but installs handlers for all others. It keeps what it found in
// variables for which a program that was not stripped has symbols; a stripped one tells less.
func ThisCaller() Caller {
	var c Caller
	const ignored = 1 // SIG_IGN
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		if a, err := actionOf(sig); err == nil && a.handler == ignored {
			c.Ignored |= 1 << (sig - 1)
		}
	}
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return c
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		return c
	}
	at := map[string]elf.Symbol{}
	const self = "github.com/heaptap/heaptap/launch.ThisCaller"
	for _, s := range symbols {
		switch s.Name {
		case "runtime.fwdSig", "runtime.initSigmask", self:
			at[s.Name] = s
		}
	}
	bias := uint64(reflect.ValueOf(ThisCaller).Pointer()) - at[self].Value
	if at[self].Value == 0 {
		return c
	}
	if s := at["runtime.fwdSig"]; s.Value != 0 && s.Size == 65*8 {
		for sig, action := range unsafe.Slice(variable[uint64](s.Value+bias), 65) {
			if sig > 0 && action == ignored {
				c.Ignored |= 1 << (sig - 1)
			}
		}
	}
	if s := at["runtime.initSigmask"]; s.Value != 0 && s.Size == 8 {
		c.Mask, c.MaskKnown = *variable[uint64](s.Value + bias), true
	}
	return c
}

// variable is a variable of this program by its address.
func variable[T any](a uint64) *T { return *(**T)(unsafe.Pointer(&a)) }
