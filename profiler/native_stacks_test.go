package profiler

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/internal/pytarget"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/unwind"
)

const stacksProgram = `
import ctypes, threading

lib = ctypes.CDLL(%q)
back_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)

class Deep:
    def call(self, depth):
        return self.further(depth)

    def further(self, depth):
        return sum(lib.stacks_chain(d) for d in [depth])

back = back_type(Deep().call)

def work(seed, blocks):
    return lib.stacks_run(ctypes.c_ulonglong(seed), blocks, back)

def work_in_thread(seed, blocks):
    t = threading.Thread(target=work, args=(seed, blocks))
    t.start()
    t.join()

lib.stacks_notes.restype = ctypes.c_void_p
notes = hex(lib.stacks_notes())
`

// TestNativeStacks: each block's stack has the frames that libgcc's unwinder found at the call that allocated it, to the
// thread's first function, with Python frames where it found the interpreter's evaluation function, and nowhere else. In
// a library that is loaded after the attach, too, when a dump or who holds the tables has been there.
func TestNativeStacks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lib := compile(t, filepath.Join(dir, "stacks.so"), "stacks.c", "-O2")
	for _, in := range pytarget.Interpreters(t) {
		for _, loaded := range []string{"before", "after", "held"} {
			t.Run(in.Name+"/"+loaded, func(t *testing.T) {
				t.Parallel()
				seed := rand.Uint64() >> 1
				t.Logf("seed %d", seed)
				tg := pytarget.Start(t, in, "", pytarget.Options{})
				lib := bring(t, tg, lib)
				if loaded == "before" {
					tg.ExecFile("stacks.py", fmt.Sprintf(stacksProgram, lib))
				}
				at, err := Attach(t.Context(), tg.Pid(), AttachOptions{Native: true, Hold: loaded == "held"})
				if err != nil {
					t.Fatal(err)
				}
				if loaded != "before" {
					tg.ExecFile("stacks.py", fmt.Sprintf(stacksProgram, lib))
				}
				switch loaded {
				case "after":
					mustDump(t, tg.Pid())
				case "held":
					defer at.Held.Close()
					if end, err := at.Held.Look(0); err != nil || end != "" {
						t.Fatal(end, err)
					}
				}
				tg.Exec(fmt.Sprintf("work(%d, 1000)", seed))
				tg.Exec(fmt.Sprintf("work_in_thread(%d, 1000)", seed+1))
				compareStacks(t, in, tg)
				tg.Challenge()
				mustDetach(t, tg.Pid())
			})
		}
	}
}

// bring returns the path under which the target finds a file of ours. One with a root of its own gets a copy.
func bring(t *testing.T, tg *pytarget.Target, path string) string {
	t.Helper()
	if tg.Interpreter.Root == "" {
		return path
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	there := filepath.Join("/tmp", filepath.Base(path))
	if err := os.WriteFile(filepath.Join("/proc", strconv.Itoa(tg.Pid()), "root", there), b, 0o755); err != nil {
		t.Fatal(err)
	}
	return there
}

// compareStacks compares the notes of stacks.c with what the tables have of their blocks.
func compareStacks(t *testing.T, in pytarget.Interpreter, tg *pytarget.Target) {
	t.Helper()
	target, err := open(tg.Pid())
	if err != nil {
		t.Fatal(err)
	}
	defer target.close()
	address, err := tg.TryText("notes")
	if err != nil {
		t.Fatal(err)
	}
	var notes mem.Addr
	if _, err := fmt.Sscanf(strings.Trim(address, `"'`), "0x%x", &notes); err != nil {
		t.Fatal(err)
	}
	total := 0
	if _, err := fmt.Sscan(tg.Exec("lib.stacks_run(0, 0, back)"), &total); err != nil {
		text, err := tg.TryText("lib.stacks_run(0, 0, back)")
		if _, err2 := fmt.Sscan(text, &total); err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
	}
	w := newStackWitness(t, target)
	ours := blockStacks(t, target)

	const depth, size = 400, 16 + 400*8
	compared, wrong := 0, 0
	for i := range min(total, 8192) {
		b, err := mem.Bytes(target.mem, notes+mem.Addr(i*size), size)
		if err != nil {
			t.Fatal(err)
		}
		block := mem.Addr(binary.LittleEndian.Uint64(b))
		frames := int(binary.LittleEndian.Uint64(b[8:]))
		stack, known := ours[block]
		if !known || frames >= depth {
			t.Errorf("block %v of %d frames is not live", block, frames)
			continue
		}
		pcs := make([]mem.Addr, frames)
		for j := range pcs {
			pcs[j] = mem.Addr(binary.LittleEndian.Uint64(b[16+8*j:]))
		}
		theirs := w.places(pcs)
		// The first are both in grab, at two calls. Neighbouring evaluations have their frames together.
		want, have := slices.Compact(theirs[1:]), slices.Compact(stack[1:])
		if compared++; !slices.Equal(want, have) {
			if wrong++; wrong <= 3 {
				t.Errorf("block %v:\nlibgcc %s\nours   %s", block, strings.Join(want, " "), strings.Join(have, " "))
			}
		}
	}
	if compared < 1500 || wrong > 0 {
		t.Errorf("%d stacks compared, %d are wrong", compared, wrong)
	}
	t.Logf("%d stacks compared", compared)
}

// stackWitness writes down a stack that another unwinder found in the way in which ours are written down.
type stackWitness struct {
	mem        mem.Reader
	modules    []*dso.Module
	evaluation [][2]mem.Addr
}

func newStackWitness(t *testing.T, target *target) *stackWitness {
	t.Helper()
	modules, err := dso.Modules(target.proc, target.mem)
	if err != nil {
		t.Fatal(err)
	}
	python, err := cpython.Find(target.proc, target.mem)
	if err != nil {
		t.Fatal(err)
	}
	return &stackWitness{
		mem: target.mem, modules: modules,
		evaluation: unwind.New(modules, target.mem, unwind.Options{}).Parts(python.Evaluation),
	}
}

// TestNativeStacksIncomplete: where an evaluation has no complete Python frame yet, as when it makes the first one's cells,
// its native frame stays.
func TestNativeStacksIncomplete(t *testing.T) {
	t.Parallel()
	for _, in := range pytarget.Interpreters(t) {
		if in.Minor() < 11 { // cells are made before the evaluation
			continue
		}
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, `
def cell(x):
    return (lambda: x).__closure__[0]
`, pytarget.Options{})
			if _, err := Attach(t.Context(), tg.Pid(), AttachOptions{Native: true}); err != nil {
				t.Fatal(err)
			}
			var object mem.Addr
			if _, err := fmt.Sscan(tg.Exec("kept = list(map(cell, [1])); id(kept[0])"), &object); err != nil {
				t.Fatal(err)
			}
			target, err := open(tg.Pid())
			if err != nil {
				t.Fatal(err)
			}
			defer target.close()
			const head = 16 // what the collector has before an object
			stack := blockStacks(t, target)[object-head]
			w := newStackWitness(t, target)
			i := slices.IndexFunc(stack, func(place string) bool {
				return slices.ContainsFunc(w.modules, func(m *dso.Module) bool {
					name, at, _ := strings.Cut(place, "+")
					n, err := strconv.ParseUint(at, 0, 64)
					return err == nil && m.Name() == name && w.place(mem.Addr(n)+m.Bias) == "python"
				})
			})
			if i < 0 || slices.Index(stack, "python") < i {
				t.Errorf("the evaluation that makes a cell is not among %q", stack)
			}
		})
	}
}

// sigreturn is the code of libc's rt_sigreturn: mov $15, %rax; syscall.
const sigreturn = "\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"

// places are the places of frames' program counters, innermost first, of which all are addresses to return to.
func (w *stackWitness) places(pcs []mem.Addr) []string {
	var places []string
	exact := false // of what a signal interrupted, and of rt_sigreturn, which nobody calls
	for _, pc := range pcs {
		code, err := mem.Bytes(w.mem, pc, len(sigreturn))
		restores := err == nil && string(code) == sigreturn
		if !exact && !restores {
			pc-- // into the call
		}
		exact = restores
		places = append(places, w.place(pc))
	}
	return places
}

// natives are the same, without regard to Python.
func (w *stackWitness) natives(pcs []mem.Addr) []string {
	return (&stackWitness{mem: w.mem, modules: w.modules}).places(pcs)
}

// place names an address of code as heap.Frame has it, or "python" in the evaluation function.
func (w *stackWitness) place(pc mem.Addr) string {
	for _, e := range w.evaluation {
		if pc >= e[0] && pc < e[1] {
			return "python"
		}
	}
	for _, m := range w.modules {
		if m.Contains(pc) {
			return fmt.Sprintf("%s+%#x", m.Name(), uint64(pc-m.Bias))
		}
	}
	return fmt.Sprintf("%v", pc)
}

// blockStacks are the stacks of all live blocks, innermost frame first.
func blockStacks(t *testing.T, target *target) map[mem.Addr][]string {
	t.Helper()
	b := allNodes(t, target)
	stacks := make(map[mem.Addr][]string)
	for blk, err := range b.c.Blocks() {
		if err != nil {
			t.Fatal(err)
		}
		stacks[blk.Addr] = nodePlaces(t, b, blk.Node)
	}
	return stacks
}

// allNodes copies the tables of a target that does nothing.
func allNodes(t *testing.T, target *target) *snapshotBuilder {
	t.Helper()
	a, err := target.tracked()
	if err != nil {
		t.Fatal(err)
	}
	limit, err := target.tablesLimit(a)
	if err != nil {
		t.Fatal(err)
	}
	c := &agent.Capture{}
	if err := c.Copy(target.mem, a.tablesAt(), limit); err != nil {
		t.Fatal(err)
	}
	if err := c.CopyNames(target.mem, a.tablesAt(), limit); err != nil {
		t.Fatal(err)
	}
	return newSnapshotBuilder(c, &heap.Snapshot{}, &typeLabels{}, 0)
}

// nodePlaces are the places of a node's stack, innermost frame first, as stackWitness has them.
func nodePlaces(t *testing.T, b *snapshotBuilder, n uint32) []string {
	t.Helper()
	var frames []string
	for ; b.nodes[n].Code != agent.CodeRoot; n = b.nodes[n].Parent {
		node := &b.nodes[n]
		if node.Code == agent.CodeDomain {
			continue
		}
		f, err := b.describeFrame(node.Code, node.Instr)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case f.Native():
			frames = append(frames, fmt.Sprintf("%s+%#x", filepath.Base(f.Module), f.Addr))
		case strings.HasPrefix(f.Func, "["):
			frames = append(frames, f.Func)
		default:
			frames = append(frames, "python")
		}
	}
	return frames
}
