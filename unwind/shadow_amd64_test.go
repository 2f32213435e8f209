package unwind_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
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
	t      testing.TB
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
	jumps  []mismatch // where several frames were left at once, and the stacks after that
}

// call is a call that has not returned: where to, and where on the stack that is noted. For the first of a signal's
// stack it is the interrupted instruction.
type call struct {
	pc, at mem.Addr
	signal bool
}

// step is a program under a stepper's eyes, from its first instruction on. It must be called on a locked OS thread.
func step(t testing.TB, command string, args ...string) *stepper {
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
	case in.Op == x86asm.SYSCALL && slices.Contains([]uint64{unix.SYS_MMAP, unix.SYS_MPROTECT, unix.SYS_MUNMAP}, was.Rax):
		s.reload()
	}
	depth := len(*top)
	for n := depth; n > 0 && (*top)[n-1].at < mem.Addr(s.regs.Rsp) && !(*top)[n-1].signal; n-- {
		*top = (*top)[:n-1]
	}
	if depth-len(*top) > 1 {
		s.jumps = append(s.jumps, mismatch{step: s.steps, got: s.want()})
	}
	return true
}

// run executes one instruction, or delivers a signal. It returns the signal that came instead.
func (s *stepper) run(deliver syscall.Signal) syscall.Signal {
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SINGLESTEP, uintptr(s.pid), 0, uintptr(deliver), 0, 0)
	if errno != 0 {
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
			return fmt.Sprintf("%s+%#x", filepath.Base(m.Path), uint64(a-m.Bias))
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

// mismatch is a stack that was not found as it is. Within longjmp it may already be the one that will be.
type mismatch struct {
	step int
	got  []mem.Addr
	text string
}

// tally is what comparing has come to.
type tally struct {
	compared, early, missing int // stacks; those that ended early; those that did so more than a few frames below the end
	wrong                    []mismatch
	reasons                  map[string]int
	hows                     map[unwind.Rule]int
}

// compareAll runs the program to its end and compares the stacks that it has on the way: every one for a share of 1.
func (s *stepper) compareAll(share int) tally {
	c := tally{reasons: map[string]int{}, hows: map[unwind.Rule]int{}}
	seed := rand.Uint64()
	s.t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for s.next() {
		if random.IntN(share) == 0 {
			s.compare(&c)
		}
	}
	// libc's longjmp describes the frame that it goes to as soon as it has loaded the first of its registers.
	c.wrong = slices.DeleteFunc(c.wrong, func(m mismatch) bool {
		return slices.ContainsFunc(s.jumps, func(j mismatch) bool {
			return max(j.step-m.step, m.step-j.step) < 20 && (len(m.got) < 2 || slices.Equal(m.got[2:], j.got[1:]))
		})
	})
	return c
}

func (s *stepper) compare(c *tally) {
	c.compared++
	frames, got, err := s.got()
	for _, f := range frames {
		c.hows[f.How]++
	}
	want := s.want()
	if slices.Equal(got, want) && err == nil {
		return
	}
	if len(c.wrong) > 100 {
		s.t.Fatal("too many stacks are wrong")
	}
	var end *unwind.EndError
	if len(got) > len(want) || !slices.Equal(got, want[:len(got)]) || !errors.As(err, &end) ||
		!errors.Is(err, unwind.ErrNoCFI) {
		c.wrong = append(c.wrong, mismatch{s.steps, got,
			fmt.Sprintf("found%s\nis%s\n%v", s.describe(got), s.describe(want), err)})
		return
	}
	c.early++
	if len(want)-len(got) > 4 {
		c.missing++
	}
	c.reasons[s.where(end.PC)+" "+end.Err.Error()]++
}

// Stacks at every moment of a program's life, from the loader's first instruction to exit, are those that its call and
// return instructions make.
func TestShadowStack(t *testing.T) {
	t.Parallel()
	share := 5
	if testing.Short() {
		share = 100
	}
	for _, c := range []struct {
		compile []string
		early   float64 // the share of stacks that may end early, for want of CFI
		missing float64 // the share of those that may lack more than a few frames
	}{
		// The loader's first instructions have no CFI, nor has what a static program runs before main.
		{[]string{"gcc", "-O1", "-Wl,-z,lazy"}, 0.005, 0.005},
		{[]string{"gcc", "-O3", "-fomit-frame-pointer", "-fcf-protection=full", "-Wl,-z,lazy,-z,ibtplt"}, 0.005, 0.005},
		{[]string{"gcc", "-O2", "-static"}, 0.01, 0.01},
		{[]string{"gcc", "-O2", "-static-pie"}, 0.01, 0.01},
		{[]string{"gcc", "-O2", "-fno-asynchronous-unwind-tables", "-fno-omit-frame-pointer"}, 0.02, 1},
		{[]string{"gcc", "-O2", "-fno-asynchronous-unwind-tables"}, 0.02, 1},
		{[]string{"gcc", "-O2", "-g", "-gz", "-fno-asynchronous-unwind-tables"}, 0.005, 0.005}, // .debug_frame
		// musl is built without, so that a stack ends where a function that never returns has made a call: main's
		// caller.
		{[]string{"musl-gcc", "-O2"}, 1, 0.1},
		{[]string{"musl-gcc", "-O2", "-static"}, 1, 0.1},
	} {
		t.Run(strings.Join(c.compile, " "), func(t *testing.T) {
			t.Parallel()
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			s := step(t, build(t, c.compile[0], "walk.c", c.compile[1:]...))
			result := s.compareAll(share)
			t.Logf("%d steps, %d compared, %d ended early, %d of them far from the end, %v", s.steps, result.compared,
				result.early, result.missing, result.hows)
			for reason, n := range result.reasons {
				t.Log(n, reason)
			}
			for _, m := range result.wrong[:min(3, len(result.wrong))] {
				t.Errorf("step %d: %s", m.step, m.text)
			}
			if got := float64(result.early) / float64(result.compared); got > c.early {
				t.Errorf("%v of the stacks ended early, want %v at most", got, c.early)
			}
			if got := float64(result.missing) / float64(result.compared); got > c.missing {
				t.Errorf("%v of the stacks lack several frames, want %v at most", got, c.missing)
			}
		})
	}
}
