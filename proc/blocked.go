package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/heaptap/heaptap/mem"
)

// Blocked is where a thread waits. The zero value is a thread that runs.
type Blocked struct {
	In     bool // in a system call
	Nr     uint64
	Args   [6]uint64
	SP, PC mem.Addr
}

// Blocked reads /proc/PID/task/TID/syscall: "running"; -1, stack pointer, program counter; or the number of the system
// call that the thread is in, six arguments, stack pointer, program counter. It takes what ptrace takes to be allowed.
func (p *Process) Blocked(tid int) (Blocked, error) {
	b, err := os.ReadFile(p.Path("task", strconv.Itoa(tid), "syscall"))
	if err != nil {
		return Blocked{}, fmt.Errorf("thread %d: %w", tid, err)
	}
	return parseBlocked(string(b))
}

func parseBlocked(line string) (Blocked, error) {
	var c Blocked
	f := strings.Fields(line)
	if len(f) == 1 && f[0] == "running" {
		return c, nil
	}
	if len(f) < 3 {
		return c, fmt.Errorf("system call line %.80q: %d fields", line, len(f))
	}
	nr, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil || nr >= 0 && len(f) != 3+len(c.Args) {
		return c, fmt.Errorf("system call line %.80q: not understood", line)
	}
	values := make([]uint64, len(f)-1)
	for i, s := range f[1:] {
		if values[i], err = strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 64); err != nil {
			return Blocked{}, fmt.Errorf("system call line %.80q: %w", line, err)
		}
	}
	if nr >= 0 {
		c.In, c.Nr = true, uint64(nr)
		copy(c.Args[:], values)
	}
	c.SP, c.PC = mem.Addr(values[len(values)-2]), mem.Addr(values[len(values)-1])
	return c, nil
}
