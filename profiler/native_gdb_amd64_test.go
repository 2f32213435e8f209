package profiler

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/internal/gdb"
	"github.com/heaptap/heaptap/internal/pytarget"
	"github.com/heaptap/heaptap/mem"
)

// callbacksProgram has Python called from C and C from Python, several deep: SQL functions, collations, a trace; a
// parser's handlers; comparisons in qsort; weak references, a signal's handler, exceptions, generators, a thread.
const callbacksProgram = `
import ctypes, functools, io, json, os, pickle, re, signal, sqlite3, threading, weakref, xml.parsers.expat, zlib

libc = ctypes.CDLL(None)
compare_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))

def sorted_by_c(n):
    values = (ctypes.c_int * 12)(*[i * n % 37 for i in range(12)])
    libc.qsort(values, 12, 4, compare_type(lambda a, b: int(str(a[0])) - int(str(b[0]))))
    return list(values)

class Sum:
    def __init__(self): self.total = []
    def step(self, x): self.total = sorted(self.total + [x], key=lambda v: -v)
    def finalize(self): return json.dumps([str(x) for x in self.total])

def by_sql(n):
    db = sqlite3.connect(":memory:")
    db.create_function("twice", 1, lambda x: "%s %s" % (x, sorted_by_c(n)[0]))
    db.create_collation("odd", lambda a, b: (len(a) > len(b)) - (len(a) < len(b)))
    db.create_aggregate("gathered", 1, Sum)
    db.set_trace_callback(lambda text: text.upper())
    db.execute("create table t (a, b)")
    db.executemany("insert into t values (?, ?)", ((i, "b" * (i * n % 9)) for i in range(9)))
    db.execute("select twice(b) from t order by b collate odd").fetchall()
    return db.execute("select gathered(a) from t").fetchall()

def by_parser(n):
    p, found = xml.parsers.expat.ParserCreate(), []
    p.StartElementHandler = lambda name, attributes: found.append((name, dict(attributes)))
    p.CharacterDataHandler = lambda text: found.append(re.sub("[0-9]", lambda m: m.group() * 2, text))
    p.Parse("<a>%s</a>" % "".join("<b n='%d'>text %d</b>" % (i, i * n) for i in range(6)), True)
    return found

class Odd:
    def __init__(self, n): self.n = n
    def __lt__(self, other): return sorted_by_c(self.n) < sorted_by_c(other.n)
    def __reduce__(self): return Odd, (int(str(self.n)),)
    def __del__(self): self.gone = str(self.n)

def objects(n):
    odd = [Odd(i * n % 5) for i in range(3)]
    kept = [weakref.ref(o, lambda r: [str(r)]) for o in odd]
    pickle.loads(pickle.dumps(sorted(odd)))
    return functools.reduce(lambda a, b: [a, b], (x for x in (str(o.n) for o in odd))), kept

def deep(n):
    try:
        return deep(n - 1) if n else json.loads('{"a": [1, {}]}', object_pairs_hook=lambda p: 1 // 0)
    except ZeroDivisionError as e:
        raise (ValueError(str(e)) if n % 2 else e) from e
    finally:
        zlib.decompress(zlib.compress(b"%d" % n * 50))

def handler(number, frame):
    handled.append(by_parser(number)[:1])

handled = []
signal.signal(signal.SIGALRM, handler)
signal.signal(signal.SIGPROF, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_PROF, 0.0007, 0.0007)

def round_of(n):
    for f in (by_sql, by_parser, objects):
        f(n)
    try:
        deep(n % 12)
    except (ValueError, ZeroDivisionError):
        pass

def step():
    handled.clear()
    t = threading.Thread(target=round_of, args=(2,))
    t.start()
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    round_of(7)
    t.join()
`

// librariesStep has libraries.py, without its leak, work all the time.
const librariesStep = `
import signal

signal.signal(signal.SIGPROF, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_PROF, 0.0007, 0.0007)

class leaky:
    keep_order = lose = staticmethod(lambda n: n)

def step():
    answers(step.turn, 4)
    step.turn += 4

step.turn = 0
`

// TestNativeStacksGDB: at random allocations of programs that have Debian's libraries allocate, call back and forth
// between C and Python, have threads and signals, native stacks have the frames that gdb's bt has at the call, with
// Python's in the place of the evaluation function's, and nowhere else.
func TestNativeStacksGDB(t *testing.T) {
	t.Parallel()
	libraries := string(must(os.ReadFile(filepath.Join(nativeDir, "libraries.py")))) + librariesStep
	for _, in := range pytarget.Interpreters(t) {
		program := callbacksProgram
		switch {
		case in.Origin == "bookworm":
			program = libraries
		case in.Embedded, in.Origin == "pyenv" && (in.Minor() == 8 || in.Minor() == 12), in.Minor() >= 14:
		default:
			continue
		}
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			throughGDB(t, pytarget.Start(t, in, program, pytarget.Options{}))
		})
	}
}

func throughGDB(t *testing.T, tg *pytarget.Target) {
	allocations := 1000
	if testing.Short() {
		allocations = 50
	}
	if _, err := Attach(t.Context(), tg.Pid(), AttachOptions{Native: true}); err != nil {
		t.Fatal(err)
	}
	target, err := open(tg.Pid())
	if err != nil {
		t.Fatal(err)
	}
	defer target.close()
	a, err := target.tracked()
	if err != nil {
		t.Fatal(err)
	}

	d := gdb.Attach(t, tg.Pid())
	d.Allocators(allocatorHooks(t, a))
	type pair struct {
		node uint32
		pcs  []mem.Addr
		why  string
	}
	var pairs []pair
	nested := 0
	random := newRand(t)
	for len(pairs) < allocations {
		if random.IntN(4) == 0 {
			d.Elsewhere()
		}
		at := d.Allocation(random.IntN(10))
		if slices.ContainsFunc(at.PCs[1:], func(pc mem.Addr) bool { return pc >= a.image && pc < a.tablesAt() }) {
			nested++ // it is what one of Python's allocators asks malloc for
			continue
		}
		if at.Result == 0 {
			continue
		}
		node := blockNode(t, target.mem, a, mem.Addr(at.Result))
		if node == 0 {
			t.Fatalf("the block at %#x is not live, of which the stack is %v", at.Result, at.PCs)
		}
		pairs = append(pairs, pair{node, at.PCs[1:], at.Reason})
	}
	d.End()
	tg.Challenge()

	w, b := newStackWitness(t, target), allNodes(t, target)
	wrong, frames, evaluations, bare := 0, 0, 0, 0
	for _, p := range pairs {
		want, have := w.places(p.pcs), nodePlaces(t, b, p.node)
		for i, itself := range w.natives(p.pcs) {
			if want[i] != "python" {
				continue
			}
			evaluations++
			if slices.Contains(have, itself) { // no Python frame of it is complete
				want[i] = itself
				bare++
			}
		}
		frames += len(p.pcs)
		if want, have := slices.Compact(want), slices.Compact(have); !slices.Equal(want, have) {
			if wrong++; wrong <= 3 {
				t.Errorf("gdb  %s\n(%s)\nours %s", strings.Join(want, " "), p.why, strings.Join(have, " "))
			}
		}
	}
	if wrong > 0 {
		t.Errorf("of %d stacks, %d are wrong", len(pairs), wrong)
	}
	if bare*50 > evaluations {
		t.Errorf("%d of %d evaluations have no Python frames", bare, evaluations)
	}
	t.Logf("%d stacks of %d frames compared, %d of them evaluations, of which %d have no complete Python frame; "+
		"%d calls were nested", len(pairs), frames, evaluations, bare, nested)
	mustDetach(t, tg.Pid())
	tg.Challenge()
}

// allocatorHooks are the functions of the agent's that return a block: those that stand for Python's allocators, and for
// malloc and its like.
func allocatorHooks(t *testing.T, a *placed) []mem.Addr {
	t.Helper()
	image, err := agent.Image()
	if err != nil {
		t.Fatal(err)
	}
	var hooks []mem.Addr
	add := func(at uint64, err error) {
		if err != nil {
			t.Fatal(err)
		}
		hooks = append(hooks, a.image+mem.Addr(at))
	}
	for domain := range agent.PythonDomains {
		for _, function := range []int{agent.Malloc, agent.Calloc, agent.Realloc} {
			add(agent.Hook(image, domain, function, false))
		}
	}
	for _, function := range []int{agent.NMalloc, agent.NCalloc, agent.NRealloc, agent.NReallocarray, agent.NAlignedAlloc} {
		for variant, original := range a.header.Native[function] {
			if original != 0 {
				add(agent.NativeHook(image, function, variant))
			}
		}
	}
	return hooks
}

// blockNode is the node of a live block's stack, read from a target that need not stand still; 0 where the block is not known.
func blockNode(t *testing.T, m mem.Reader, a *placed, block mem.Addr) uint32 {
	t.Helper()
	h, err := agent.ReadHeader(m, a.tablesAt())
	if err != nil {
		t.Fatal(err)
	}
	entry := func(w agent.Window, i uint64) uint32 {
		v, err := mem.U32(m, a.tablesAt()+mem.Addr(w.Offset+4*i))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	granule := uint64(block) >> h.Config.GranuleLog2
	mid := uint64(entry(h.Root, granule>>(agent.LeafWordsLog2+agent.MidEntriesLog2)))
	leaf := uint64(entry(h.Mids, mid<<agent.MidEntriesLog2|granule>>agent.LeafWordsLog2&(1<<agent.MidEntriesLog2-1)))
	word, err := mem.U64(m, a.tablesAt()+mem.Addr(h.Leaves.Offset+8*(leaf<<agent.LeafWordsLog2|granule&(1<<agent.LeafWordsLog2-1))))
	if err != nil {
		t.Fatal(err)
	}
	if word>>agent.LiveBit == 0 {
		return 0
	}
	var s agent.Stat
	stat := word & (1<<agent.StackBits - 1)
	node, err := mem.U32(m, a.tablesAt()+mem.Addr(h.Stats.Offset+stat*uint64(unsafe.Sizeof(s))+uint64(unsafe.Offsetof(s.Node))))
	if err != nil {
		t.Fatal(err)
	}
	return node
}
