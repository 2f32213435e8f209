package unwind_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"testing"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/internal/gdb"
	"github.com/heaptap/heaptap/internal/pytarget"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/unwind"
)

// debugger is a gdb that has stopped a process.
type debugger struct {
	*gdb.Debugger
	t      *testing.T
	memory mem.Reader
	mods   []*dso.Module
	unw    *unwind.Unwinder
	table  *unwind.Table
	random *rand.Rand

	instants, stacks, frames, early, tabled int
}

// attach has gdb attach to a process.
func attach(t *testing.T, pid int) *debugger {
	t.Helper()
	d := &debugger{Debugger: gdb.Attach(t, pid), t: t, random: rand.New(rand.NewPCG(rand.Uint64(), 0))}
	p, err := proc.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	m, err := p.Mem()
	if err != nil {
		t.Fatal(err)
	}
	d.memory = m
	if d.mods, err = dso.Modules(p, m); err != nil {
		t.Fatal(err)
	}
	o := unwind.Options{}
	d.unw = unwind.New(d.mods, m, o)
	if d.table, err = unwind.Compile(d.mods, m, o); err != nil {
		t.Fatal(err)
	}
	return d
}

// compare lets the process go on and compares what gdb finds then with what we do.
func (d *debugger) compare(command string) {
	d.t.Helper()
	d.instants++
	for _, v := range d.Ask(command) {
		d.thread(v)
	}
}

func (d *debugger) thread(v gdb.Thread) {
	d.t.Helper()
	var regs unwind.Regs
	for n, x := range v.Regs {
		regs.Set(n, x)
	}
	d.stacks++
	frames, err := d.unw.Stack(regs, 5000)
	d.frames += len(frames)
	var pcs []mem.Addr
	for _, f := range frames {
		pcs = append(pcs, f.PC)
	}
	if err != nil || !slices.Equal(pcs, v.PCs) {
		d.t.Errorf("instant %d: found%s\n%v\ngdb%s\n%s", d.instants, d.describe(pcs), err, d.describe(v.PCs), v.Reason)
	}
	d.compiled(regs, frames)
}

// compiled compares the stack with what the compiled table gives, as far as all of it has CFI.
func (d *debugger) compiled(regs unwind.Regs, frames []unwind.Frame) {
	d.t.Helper()
	for _, f := range frames[:len(frames)-1] {
		if f.How != unwind.CFI && f.How != unwind.Signal {
			return
		}
	}
	d.tabled++
	got, err := d.table.Stack(regs, 5000, d.memory)
	for i, f := range got {
		if i >= len(frames) || f.PC != frames[i].PC || f.SP != frames[i].SP {
			d.t.Fatalf("instant %d: frame %d by the table is %v, by CFI %v", d.instants, i, &f, &frames[min(i, len(frames)-1)])
		}
	}
	if len(got) != len(frames) {
		d.t.Errorf("instant %d: %d frames by the table, %d by CFI: %v", d.instants, len(got), len(frames), err)
	}
}

func (d *debugger) describe(pcs []mem.Addr) string {
	s := stepper{mods: d.mods}
	return s.describe(pcs)
}

// background starts a program that says when it is ready, and whose input ends with the test.
func background(t *testing.T, command string, args ...string) int {
	t.Helper()
	cmd := exec.Command(command, args...)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("said %q, %v", line, err)
	}
	return cmd.Process.Pid
}

// program calls itself, C functions that call back, and stops at no time.
const program = `
import json, signal, functools, re
def deep(n, x):
    return sorted([x, n], key=lambda v: v * 2)[0] if n == 0 else deep(n - 1, x) + 1
class C:
    def __init__(self, n): self.n = n
    def __lt__(self, other): return deep(3, self.n) < deep(3, other.n)
    def __repr__(self): return str(deep(2, self.n))
def work(n):
    items = sorted(C(i * 7919 % 13) for i in range(8))
    text = json.dumps([{"a": [1, 2.5, None, "x" * n]}] * 3, default=repr)
    json.loads(text, object_hook=lambda d: functools.reduce(lambda a, b: a + b, [1, 2, deep(5, n)]))
    re.sub(r"(\d+)", lambda m: repr(items[0]), text)
signal.signal(signal.SIGPROF, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_PROF, 0.0007, 0.0007)
`

// Stacks are those that gdb finds.
func TestGDB(t *testing.T) {
	t.Parallel()
	instants := 250
	if testing.Short() {
		instants = 20
	}
	report := func(d *debugger) {
		d.t.Logf("%d instants, %d stacks, %d frames, %d compared with the table", d.instants, d.stacks, d.frames, d.tabled)
		if d.tabled*10 < d.stacks*9 {
			d.t.Error("few stacks have CFI throughout")
		}
	}
	for _, compile := range [][]string{{"-O2"}, {"-O1", "-static"}} {
		t.Run(fmt.Sprint("threads", compile), func(t *testing.T) {
			t.Parallel()
			d := attach(t, background(t, build(t, "gcc", "threads.c", append(compile, "-pthread")...)))
			d.compare("stay")
			if d.stacks != 6 {
				t.Errorf("%d threads", d.stacks)
			}
			for range instants {
				d.compare(fmt.Sprint("stepi ", 1+d.random.IntN(50)))
			}
			d.compare("stay")
			report(d)
		})
	}
	for _, in := range pytarget.Interpreters(t) {
		if in.Root != "" || in.Minor() != 11 && in.Minor() != 13 {
			continue
		}
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, program+"\ndef step(): work(5)\n", pytarget.Options{})
			tg.Forgive()
			d := attach(t, tg.Pid())
			for range instants {
				d.compare("continue")
				d.compare(fmt.Sprint("stepi ", 1+d.random.IntN(10)))
			}
			report(d)
		})
	}
}
