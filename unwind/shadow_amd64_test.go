package unwind_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/arch/x86/x86asm"
	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/unwind"
)

// build compiles a program from testdata and returns its path.
func build(t testing.TB, compiler, source string, flags ...string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), strings.TrimSuffix(source, filepath.Ext(source)))
	args := append([]string{"-o", bin, filepath.Join("testdata", source)}, flags...)
	if out, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", compiler, args, err, out)
	}
	return bin
}

// stepper runs a program instruction by instruction and keeps account of its calls: what a perfect unwinder would
// find.
type stepper struct {
	t      *testing.T
	pid    int
	proc   *proc.Process
	memory *proc.Mem
	mods   []*dso.Module
	unw    *unwind.Unwinder
	stacks [][]call // one for each signal that is being handled, and one more
	kinds  map[mem.Addr]x86asm.Inst
	regs   unix.PtraceRegs
	ended  bool
	steps  int
}

// call is a call that has not returned: where to, and where on the stack that is noted. For the first of a signal's
// stack it is the interrupted instruction.
type call struct {
	pc, at mem.Addr
	signal bool
}

// step is a program under a stepper's eyes, from its first instruction on. It must be called on a locked OS thread.
func step(t *testing.T, command string, args ...string) *stepper {
	t.Helper()
	cmd := exec.Command(command, args...)
	cmd.Env = []string{"LD_BIND_NOW="}
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &stepper{t: t, pid: cmd.Process.Pid, stacks: [][]call{nil}, kinds: map[mem.Addr]x86asm.Inst{}}
	t.Cleanup(func() {
		if !s.ended {
			syscall.Kill(s.pid, syscall.SIGKILL)
			syscall.Wait4(s.pid, nil, 0, nil)
		}
	})
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(s.pid, &status, 0, nil); err != nil || !status.Stopped() {
		t.Fatalf("wait: %v, %v", status, err)
	}
	var err error
	if s.proc, err = proc.Open(s.pid); err == nil {
		s.memory, err = s.proc.Mem()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.read()
	s.reload()
	return s
}

func (s *stepper) read() {
	if err := unix.PtraceGetRegs(s.pid, &s.regs); err != nil {
		s.t.Fatal(err)
	}
}

// reload lists modules anew.
func (s *stepper) reload() {
	mods, err := dso.Modules(s.proc, s.memory)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mods = mods
	s.unw = unwind.New(mods, s.memory, unwind.Options{})
	clear(s.kinds)
}

// fromPtrace converts what ptrace gives.
func fromPtrace(r *unix.PtraceRegs) unwind.Regs {
	regs := unwind.Regs{PC: mem.Addr(r.Rip), SP: mem.Addr(r.Rsp)}
	for n, v := range map[int]uint64{
		unwind.RAX: r.Rax, unwind.RDX: r.Rdx, unwind.RCX: r.Rcx, unwind.RBX: r.Rbx, unwind.RSI: r.Rsi, unwind.RDI: r.Rdi,
		unwind.RBP: r.Rbp, unwind.R8: r.R8, unwind.R9: r.R9, unwind.R10: r.R10, unwind.R11: r.R11, unwind.R12: r.R12,
		unwind.R13: r.R13, unwind.R14: r.R14, unwind.R15: r.R15,
	} {
		regs.Set(n, v)
	}
	return regs
}

// instruction decodes the one at a.
func (s *stepper) instruction(a mem.Addr) x86asm.Inst {
	in, ok := s.kinds[a]
	if !ok {
		b := make([]byte, 15)
		if s.memory.ReadAt(b, a) != nil {
			b = b[:4096-a%4096]
			if err := s.memory.ReadAt(b, a); err != nil {
				s.t.Fatalf("instruction at %v: %v", a, err)
			}
		}
		in, _ = x86asm.Decode(b, 64)
		s.kinds[a] = in
	}
	return in
}

// next executes one instruction; false when the program has ended.
func (s *stepper) next() bool {
	in := s.instruction(mem.Addr(s.regs.Rip))
	was := s.regs
	signal := s.run(0)
	if s.ended {
		return false
	}
	if signal != 0 {
		s.deliver(signal)
		return !s.ended
	}
	top := &s.stacks[len(s.stacks)-1]
	switch {
	case in.Op == x86asm.CALL:
		*top = append(*top, call{pc: mem.Addr(was.Rip) + mem.Addr(in.Len), at: mem.Addr(s.regs.Rsp)})
		return true
	case in.Op == x86asm.SYSCALL && was.Rax == unix.SYS_RT_SIGRETURN:
		if len(s.stacks) < 2 || (*top)[0].pc != mem.Addr(s.regs.Rip) {
			s.t.Fatalf("rt_sigreturn to %#x: %v", s.regs.Rip, *top)
		}
		s.stacks = s.stacks[:len(s.stacks)-1]
		return true
	case in.Op == x86asm.SYSCALL && (was.Rax == unix.SYS_MMAP || was.Rax == unix.SYS_MPROTECT || was.Rax == unix.SYS_MUNMAP):
		s.reload()
	}
	for n := len(*top); n > 0 && (*top)[n-1].at < mem.Addr(s.regs.Rsp) && !(*top)[n-1].signal; n-- {
		*top = (*top)[:n-1]
	}
	return true
}

// run executes one instruction, or delivers a signal. It returns the signal that came instead.
func (s *stepper) run(deliver syscall.Signal) syscall.Signal {
	if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SINGLESTEP, uintptr(s.pid), 0, uintptr(deliver), 0, 0); errno != 0 {
		s.t.Fatal(errno)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(s.pid, &status, 0, nil); err != nil {
		s.t.Fatal(err)
	}
	s.steps++
	if !status.Stopped() {
		s.ended = true
		if status.ExitStatus() != 0 {
			s.t.Fatalf("the program ended: %#x", status)
		}
		return 0
	}
	s.read()
	if status.StopSignal() == syscall.SIGTRAP {
		return 0
	}
	return status.StopSignal()
}

// deliver lets a signal's handler begin: the kernel stops before its first instruction.
func (s *stepper) deliver(signal syscall.Signal) {
	interrupted := call{pc: mem.Addr(s.regs.Rip), signal: true}
	s.run(signal)
	restorer, err := mem.Pointer(s.memory, mem.Addr(s.regs.Rsp))
	if err != nil {
		s.t.Fatal(err)
	}
	s.stacks = append(s.stacks, []call{interrupted, {pc: restorer, at: mem.Addr(s.regs.Rsp)}})
}

// want is the stack as it is: program counters, innermost first.
func (s *stepper) want() []mem.Addr {
	out := []mem.Addr{mem.Addr(s.regs.Rip)}
	for i := len(s.stacks) - 1; i >= 0; i-- {
		for j := len(s.stacks[i]) - 1; j >= 0; j-- {
			out = append(out, s.stacks[i][j].pc)
		}
	}
	return out
}

// got is the stack as it is found.
func (s *stepper) got() ([]unwind.Frame, []mem.Addr, error) {
	frames, err := s.unw.Stack(fromPtrace(&s.regs), 1000)
	var pcs []mem.Addr
	for _, f := range frames {
		pcs = append(pcs, f.PC)
	}
	return frames, pcs, err
}

// where names an address by module and offset.
func (s *stepper) where(a mem.Addr) string {
	for _, m := range s.mods {
		if m.Contains(a) {
			return fmt.Sprintf("%s+%#x", filepath.Base(m.Path), a-m.Bias)
		}
	}
	return a.String()
}

func (s *stepper) describe(pcs []mem.Addr) string {
	var b strings.Builder
	for _, a := range pcs {
		fmt.Fprintf(&b, "\n\t%s", s.where(a))
	}
	return b.String()
}

func TestShadowStack(t *testing.T) {
	if os.Getenv("SHADOW") == "" {
		t.Skip("dev")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	bin := build(t, "gcc", "walk.c", "-O2")
	s := step(t, bin)
	r := rand.New(rand.NewPCG(1, 2))
	compared, bad, honest := 0, 0, 0
	ends := map[string]int{}
	for s.next() {
		if r.IntN(1) != 0 {
			continue
		}
		frames, got, err := s.got()
		compared++
		if want := s.want(); !slices.Equal(got, want) {
			var end *unwind.EndError
			if errors.As(err, &end) && len(got) <= len(want) && slices.Equal(got, want[:len(got)]) {
				honest++
				ends[s.where(end.PC)+" "+err.Error()]++
				continue
			}
			if bad++; bad < 10 {
				t.Errorf("step %d: found%s\nwant%s\n%v %v", s.steps, s.describe(got), s.describe(want), err, frames[len(frames)-1].How)
			}
		}
	}
	t.Logf("%d steps, %d compared, %d wrong, %d ended early", s.steps, compared, bad, honest)
	for e, n := range ends {
		t.Log(n, e)
	}
}
