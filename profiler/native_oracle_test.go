package profiler

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/heaptap/heaptap/internal/pytarget"
	"github.com/heaptap/heaptap/mem"
)

// nativeDir holds C sources: an allocator that counts, to be preloaded, and a workload of random calls.
const nativeDir = "testdata/native"

// compile builds a shared library of a C source in nativeDir and returns its path.
func compile(t testing.TB, out, source string, flags ...string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"-O1", "-g", "-shared", "-fPIC", "-fno-builtin", "-pthread", "-o", out,
		filepath.Join(nativeDir, source)}, flags...)
	cmd := exec.CommandContext(t.Context(), "gcc", args...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, text)
	}
	return out
}

// A workModule is one build of work.c and how it gets into the target.
type workModule struct {
	name  string
	flags []string
	file  string // within the folder of modules; "": NAME.so
	early bool   // loaded before the attach
	load  string // by the target: a call that is given the path
	alone bool   // its allocator is not the others', so that it works on its own table and the preloaded oracle sees nothing of it
}

// workModules are the ways in which slots come to be.
func workModules(glibc bool) []workModule {
	const (
		lazy, now, deep = "os.RTLD_LAZY", "os.RTLD_NOW", "os.RTLD_NOW | 8"
		runpath         = "-Wl,--enable-new-dtags,-rpath,$ORIGIN/below"
		rpath           = "-Wl,--disable-new-dtags,-rpath,$ORIGIN/below"
	)
	plain := func(mode string) string { return "load(%q, %q, " + mode + ")" }
	list := []workModule{
		{name: "lazy", flags: []string{"-Wl,-z,lazy"}, early: true, load: plain(lazy)},
		{name: "relro", flags: []string{"-Wl,-z,now,-z,relro"}, early: true, load: plain(now)},
		{name: "noplt", flags: []string{"-fno-plt"}, early: true, load: plain(now)},
		{name: "packed", flags: []string{"-Wl,-z,pack-relative-relocs"}, early: true, load: plain(lazy)},
		{name: "latelazy", flags: []string{"-Wl,-z,lazy"}, load: plain(lazy)},
		{name: "latenow", flags: []string{"-Wl,-z,now,-z,relro"}, load: plain(now)},
		{name: "latenoplt", flags: []string{"-fno-plt", "-Wl,-z,pack-relative-relocs"}, load: plain(lazy)},
		// Their dlopen finds what stands below their own folder, and nobody else's would.
		{name: "runpath", flags: []string{runpath}, load: plain(now)},
		{name: "rpath", flags: []string{rpath}, load: plain(lazy)},
		{name: "byrunpath", file: "below/libbyrunpath.so", load: "load_by(%q, 'runpath', os.path.basename(%q), os.RTLD_NOW)"},
		{name: "byrpath", file: "below/libbyrpath.so", load: "load_by(%q, 'rpath', os.path.basename(%q), os.RTLD_LAZY)"},
		{name: "deep", flags: []string{"-Wl,-z,lazy"}, load: plain(deep), alone: true},
	}
	if glibc {
		list = append(list, workModule{name: "apart", load: "load_apart(%q, %q)", alone: true})
	}
	return list
}

// buildModules compiles them all, with one more that two of them need, and returns the folder.
func buildModules(t testing.TB) string {
	dir := t.TempDir()
	compile(t, filepath.Join(dir, "below", "libneeded.so"), "work.c", "-Wl,-soname,libneeded.so,-Bsymbolic", "-Dwork_run=needed_run")
	for _, m := range workModules(true) {
		flags := append([]string{"-Wl,-Bsymbolic"}, m.flags...)
		if m.name == "runpath" || m.name == "rpath" {
			flags = append(flags, "-DDEPENDS=needed_run", "-L"+filepath.Join(dir, "below"), "-lneeded")
		}
		compile(t, filepath.Join(dir, cmp.Or(m.file, m.name+".so")), "work.c", flags...)
	}
	return dir
}

// Bits of work.c's `without`.
const (
	withoutPvalloc = 1 << iota
	withoutMappings
	withoutBlocks
	withoutNiceties
	withoutBorrowed
)

// allocators are the preloaded ones, in Debian's packages.
var allocators = []struct {
	name, file string
	without    uint64
	calls      int // of each thread in one round
}{
	{name: "glibc", calls: 6000},
	{name: "jemalloc", file: "libjemalloc.so.2", without: withoutPvalloc | withoutNiceties, calls: 6000},
	{name: "tcmalloc", file: "libtcmalloc_minimal.so.4", without: withoutNiceties, calls: 6000},
	{name: "mimalloc", file: "libmimalloc.so.2", without: withoutNiceties, calls: 1500}, // slow when threads come and go
}

// libraryPath finds a library that a Debian package has put where the loader looks.
func libraryPath(t testing.TB, file string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join("/usr/lib/*-linux-gnu", file))
	if err != nil || len(found) == 0 {
		t.Fatalf("%s is not on this machine; .ci/run installs it", file)
	}
	return found[0]
}

// TestNativeOracle: what is live in domains malloc, mmap and file is, block by block, what a counting allocator that is
// preloaded into the target has, and what the workload itself holds: over random calls of every function, in threads that
// free each other's blocks, with failures, through slots of every kind, in modules loaded before the attach and after it.
func TestNativeOracle(t *testing.T) {
	t.Parallel()
	dir := buildModules(t)
	preload := compile(t, filepath.Join(dir, "oracle.so"), "oracle.c")
	for _, a := range allocators {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			chain := preload
			if a.file != "" {
				chain += ":" + libraryPath(t, a.file)
			}
			w := startNativeWork(t, dir, debian(t), a.without, "LD_PRELOAD="+chain)
			w.oracle = w.address(w.tg.Exec("oracle()"))
			w.through(workModules(a.name == "glibc"), a.calls)
		})
	}
	// Nothing preloaded: the workload is the only witness.
	for _, in := range pytarget.Interpreters(t) {
		if in.Root != "" || in.Minor() != 8 && in.Minor() != 13 {
			continue
		}
		t.Run("plain/"+in.Name, func(t *testing.T) {
			t.Parallel()
			startNativeWork(t, dir, in, 0).through(workModules(true), 3000)
		})
	}
}

// TestUnseenFrees: blocks that are freed by calls that no hook sees do not stay for ever, nor damage what is known of others:
// when malloc gives their places to others they are known to be gone.
func TestUnseenFrees(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	compile(t, filepath.Join(dir, "lazy.so"), "work.c", "-Wl,-Bsymbolic")
	w := startNativeWork(t, dir, debian(t), 0)
	w.load(workModules(true)[0])
	mustAttach(t, w.tg.Pid())
	const calls = 20000
	if n := w.address(w.tg.Exec(fmt.Sprintf("modules['lazy'].work_unseen(%d, %d)", w.rnd.Uint32(), calls))); n < calls/4 {
		t.Fatalf("only %d of %d blocks were freed unseen", n, calls)
	}
	w.rest()
	var blocks, bytes uint64
	for _, b := range liveBlocks(t, w.tg.Pid()) {
		if b.domain == Malloc {
			blocks++
			bytes += b.size
		}
	}
	// One whose place has become the middle of another's is not noticed.
	if blocks > calls/4 {
		t.Errorf("%d blocks of %d bytes are left of %d that were allocated and freed", blocks, bytes, calls)
	}
	status := mustBe(t, w.tg.Pid(), Tracking)
	for _, total := range status.Totals {
		if total.Domain == Malloc && (total.LiveBlocks > blocks+calls/100 || total.LiveBlocks < blocks) {
			t.Errorf("status says that %d blocks are live, of which there are %d", total.LiveBlocks, blocks)
		}
	}
	mustDump(t, w.tg.Pid())
	w.goOn()
	mustDetach(t, w.tg.Pid())
	w.tg.Challenge()
}

// nativeWork is a target with modules of work.c.
type nativeWork struct {
	t       *testing.T
	tg      *pytarget.Target
	dir     string
	rnd     *rand.Rand
	without uint64
	oracle  mem.Addr            // 0: none is preloaded
	tables  map[string]mem.Addr // of the modules
	loaded  []workModule
	memory  *target
}

func startNativeWork(t *testing.T, dir string, in pytarget.Interpreter, without uint64, env ...string) *nativeWork {
	t.Helper()
	tg := pytarget.Start(t, in, "", pytarget.Options{Env: env})
	tg.ExecFile("drive.py", string(must(os.ReadFile(filepath.Join(nativeDir, "drive.py")))))
	opened, err := open(tg.Pid())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(opened.close)
	return &nativeWork{
		t: t, tg: tg, dir: dir, rnd: newRand(t), without: without, tables: map[string]mem.Addr{}, memory: opened,
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// through is the whole test.
func (w *nativeWork) through(modules []workModule, calls int) {
	for _, m := range modules {
		if m.early {
			w.load(m)
		}
	}
	w.work(calls)
	w.rest()
	w.nextEra()
	if _, err := Attach(w.t.Context(), w.tg.Pid(), AttachOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.goOn()

	w.work(calls)
	w.compare("modules loaded before")
	for _, m := range modules {
		if !m.early {
			w.load(m)
		}
	}
	w.work(calls)
	w.compare("modules loaded after")
	// Others come to stand where some have been.
	w.unload("latenow")
	w.unload("latelazy")
	w.compare("modules unloaded")
	for _, m := range modules {
		if m.name == "latenow" || m.name == "latelazy" {
			w.load(m)
		}
	}
	w.work(calls)
	w.compare("modules loaded again")
	for _, m := range w.loaded {
		w.end(m)
	}
	w.compare("all freed")

	w.work(calls)
	if d, err := Detach(w.t.Context(), w.tg.Pid()); err != nil || !d.Unmapped {
		w.t.Fatalf("detach: %+v, %v", d, err)
	}
	w.work(calls)
	w.sound("after the detach")
	w.tg.Challenge()
}

func (w *nativeWork) load(m workModule) {
	w.t.Helper()
	path := filepath.Join(w.dir, cmp.Or(m.file, m.name+".so"))
	w.tables[m.name] = w.address(w.tg.Exec(fmt.Sprintf(m.load, m.name, path)))
	w.loaded = append(w.loaded, m)
}

func (w *nativeWork) address(repr string) mem.Addr {
	w.t.Helper()
	a, err := strconv.ParseUint(repr, 10, 64)
	if err != nil {
		w.t.Fatal(err)
	}
	return mem.Addr(a)
}

func (w *nativeWork) unload(name string) {
	w.t.Helper()
	i := slices.IndexFunc(w.loaded, func(m workModule) bool { return m.name == name })
	w.end(w.loaded[i])
	w.tg.Exec(fmt.Sprintf("unload(%q)", name))
	w.loaded = slices.Delete(w.loaded, i, i+1)
	delete(w.tables, name)
}

// end has a module free all that is in its table.
func (w *nativeWork) end(m workModule) {
	w.t.Helper()
	w.tg.Exec(fmt.Sprintf("end(%q, %d)", m.name, w.withoutOf(m)))
}

// work has several threads work through the slots of all modules, each twice: on its own table and on another's.
func (w *nativeWork) work(calls int) {
	w.t.Helper()
	w.tg.Exec(fmt.Sprintf("work(%s, %d, %d)", w.orders(), calls, w.rnd.Uint32()))
}

func (w *nativeWork) withoutOf(m workModule) uint64 {
	if m.alone {
		return withoutBorrowed | withoutNiceties
	}
	return w.without
}

// orders is a list of what threads are to do at the same time, in Python.
func (w *nativeWork) orders() string {
	var shared []string
	for _, m := range w.loaded {
		if !m.alone {
			shared = append(shared, m.name)
		}
	}
	var out strings.Builder
	order := func(module, function, table string, without uint64) {
		gil := "False"
		if w.rnd.IntN(4) == 0 && function != "work_foreign" {
			gil = "True"
		}
		fmt.Fprintf(&out, "(%q, %q, %q, %d, %s), ", module, function, table, without, gil)
	}
	for i, m := range w.loaded {
		function, without := "work_run", w.withoutOf(m)
		if i%3 == 1 {
			function = "work_foreign"
		}
		if m.alone {
			order(m.name, function, m.name, without)
			continue
		}
		order(m.name, function, m.name, without)
		order(m.name, "work_run", shared[w.rnd.IntN(len(shared))], without)
		if m.name == "runpath" || m.name == "rpath" {
			order(m.name, "work_below", m.name, without)
		}
	}
	return "[" + out.String() + "]"
}

// rest stops the target where nothing is being allocated.
func (w *nativeWork) rest() {
	w.t.Helper()
	w.tg.Exec("rest()")
	awaitState(w.t, w.tg.Pid(), 'T')
}

func (w *nativeWork) goOn() { w.tg.Signal(syscall.SIGCONT) }

// nextEra tells the preloaded oracle that what is allocated from now on is tracked.
func (w *nativeWork) nextEra() {
	w.t.Helper()
	if w.oracle == 0 {
		return
	}
	if err := mem.PutU64(w.memory.mem, w.oracle, trackedEra); err != nil {
		w.t.Fatal(err)
	}
}
