package ptrace

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestCloakAndRewind(t *testing.T) {
	const none = -1
	for _, c := range []struct {
		name      string
		nr        int64
		rax       int64
		rsi       uint64
		cloaked   int64 // rax after Cloak
		again     bool  // Rewind makes the call again
		rewindRax int64 // else: rax after Rewind
		rdx       uint64
	}{
		{"user code", none, -4, 0, -4, false, -4, 0},
		{"result", unix.SYS_READ, 5, 0, 5, false, 5, 0},
		{"restart", unix.SYS_READ, restartSys, 0, restartSys, true, 0, 0},
		{"restart always", unix.SYS_CLONE, restartNoIntr, 0, restartNoIntr, true, 0, 0},
		{"restart without handler", unix.SYS_PAUSE, restartNoHand, 0, restartNoHand, true, 0, 0},
		{"EINTR", unix.SYS_EPOLL_WAIT, -4, 0, restartNoHand, true, 0, 0},
		{"EINTR of a connect", unix.SYS_CONNECT, -4, 0, -4, false, -4, 0},
		{"EINTR of a close", unix.SYS_CLOSE, -4, 0, -4, false, -4, 0},
		{"io_uring waits", unix.SYS_IO_URING_ENTER, -4, 0, restartNoHand, true, 0, 0},
		{"io_uring submits", unix.SYS_IO_URING_ENTER, -4, 1, -4, false, -4, 0},
		{"relative sleep", unix.SYS_NANOSLEEP, restartBlock, 0, restartBlock, false, -4, 0},
		{"absolute sleep", unix.SYS_CLOCK_NANOSLEEP, restartBlock, 1, restartBlock, true, 0, 0},
		{"futex", unix.SYS_FUTEX, restartBlock, 128, restartBlock, false, -4, 0},
		{"absolute futex", unix.SYS_FUTEX, restartBlock, 128 | 9, restartBlock, true, 0, 0},
		{"second stop of a sleep", unix.SYS_RESTART_SYSCALL, restartBlock, 0, restartBlock, false, -4, 0},
		{"poll", unix.SYS_POLL, restartBlock, 0, restartBlock, false, -4, 1000},
		{"poll for ever", unix.SYS_POLL, restartBlock, 0, restartBlock, true, 0, 0xffffffff},
	} {
		r := Regs{Rax: uint64(c.rax), OrigRax: uint64(c.nr), Rsi: c.rsi, Rdx: c.rdx, Rip: 0x1002}
		cloaked := r
		if cloaked.Cloak(); int64(cloaked.Rax) != c.cloaked {
			t.Errorf("%s: cloaked %d, want %d", c.name, int64(cloaked.Rax), c.cloaked)
		}
		r.Rewind()
		if int64(r.OrigRax) != none {
			t.Errorf("%s: still in a system call", c.name)
		}
		switch {
		case c.again && (r.Rip != 0x1000 || int64(r.Rax) != c.nr):
			t.Errorf("%s: at %#x with %d, want the call again", c.name, r.Rip, int64(r.Rax))
		case !c.again && (r.Rip != 0x1002 || int64(r.Rax) != c.rewindRax):
			t.Errorf("%s: at %#x with %d, want %d", c.name, r.Rip, int64(r.Rax), c.rewindRax)
		}
	}
}

func TestSubstitute(t *testing.T) {
	values := map[uint64]uint64{7: 8}
	for _, c := range []struct {
		name          string
		before, after Regs
		any           bool
	}{
		{"kept over calls", Regs{Rbx: 7, OrigRax: 1}, Regs{Rbx: 8, OrigRax: 1}, true},
		{"a system call's own", Regs{Rax: 7, Rcx: 7, R11: 7, Rip: 7, Rsp: 7, OrigRax: 7}, Regs{Rax: 7, Rcx: 7, R11: 7, Rip: 7, Rsp: 7, OrigRax: 7}, false},
		{"user code", Regs{Rax: 7, Rsp: 7, OrigRax: ^uint64(0)}, Regs{Rax: 8, Rsp: 7, OrigRax: ^uint64(0)}, true},
	} {
		r := c.before
		if any := r.Substitute(values); any != c.any || r != c.after {
			t.Errorf("%s: %v, %+v", c.name, any, r)
		}
	}
}
