package call

import (
	"bytes"

	"github.com/heaptap/heaptap/mem"
)

// savedPC is where a signal frame holds the interrupted program counter, counted from its return address
// (struct rt_sigframe: pretcode, then ucontext, whose registers begin at 48 with r8).
const savedPC = 176

// IsSavedPC reports whether the word at slot is the program counter that a signal frame saves: whether, at the right
// distance below it, stands a pointer to code that returns from a signal handler.
func IsSavedPC(r mem.Reader, slot mem.Addr) bool {
	restorer, err := mem.Pointer(r, slot-savedPC)
	if err != nil {
		return false
	}
	code, err := mem.Bytes(r, restorer, len(sigreturnCode))
	return err == nil && bytes.Equal(code, sigreturnCode)
}

// sigreturnCode is mov $15, %rax; syscall: what every libc's restorer consists of, and the cave's.
var sigreturnCode = []byte{0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05}
