package profiler

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

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
}{
	{name: "glibc"},
	{name: "jemalloc", file: "libjemalloc.so.2", without: withoutPvalloc | withoutNiceties},
	{name: "tcmalloc", file: "libtcmalloc_minimal.so.4", without: withoutNiceties},
	{name: "mimalloc", file: "libmimalloc.so.2", without: withoutNiceties},
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
			w.through(workModules(a.name == "glibc"))
		})
	}
	// Nothing preloaded: the workload is the only witness.
	for _, in := range pytarget.Interpreters(t) {
		if in.Root != "" || in.Minor() != 8 && in.Minor() != 13 {
			continue
		}
		t.Run("plain/"+in.Name, func(t *testing.T) {
			t.Parallel()
			startNativeWork(t, dir, in, 0).through(workModules(true))
		})
	}
}

// nativeWork is a target with modules of work.c.
type nativeWork struct {
	t         *testing.T
	tg        *pytarget.Target
	dir       string
	rnd       *rand.Rand
	without   uint64
	oracle    mem.Addr            // 0: none is preloaded
	tables    map[string]mem.Addr // of the modules
	loaded    []workModule
	memory    *target
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
func (w *nativeWork) through(modules []workModule) {
	const calls = 6000
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

// The structures of oracle.c.
type (
	countedBlock struct {
		Address, Size, Caller uint64
		Era, Mark             uint32
	}
	countedRange struct {
		Start, End, Caller uint64
		Era, Mark          uint32
		File               uint64
	}
	countedTable struct {
		Era, Lost, UnknownFrees, Ranges uint64
		Locks                           [countedShards + 2]uint32
		Range                           [countedRanges]countedRange
		Block                           [countedShards][countedPerShard]countedBlock
	}
)

const (
	countedShards   = 64
	countedPerShard = 1 << 12
	countedRanges   = 1 << 14

	trackedEra = 1
)

// The structures of work.c.
type (
	workSlot struct {
		Taken, Alignment uint32
		Block, Size      uint64
	}
	workLoose struct {
		At, Pages, File uint64
	}
	workField struct {
		Taken, Reserved uint32
		At              uint64
		Page            [64]byte // 0: none, 1: anonymous, 2: of a file
		Loose           [16]workLoose
	}
	workTable struct {
		Slot            [4096]workSlot
		Field           [8]workField
		Calls, Refused  uint64
		Wrong, Reserved uint32
		Message         [256]byte
	}
)

// readInto fills a structure of C's, whose fields are as wide here as there.
func readInto[T any](t testing.TB, m mem.Reader, a mem.Addr, into *T) {
	t.Helper()
	if err := m.ReadAt(unsafe.Slice((*byte)(unsafe.Pointer(into)), unsafe.Sizeof(*into)), a); err != nil {
		t.Fatal(err)
	}
}

// sound requires that the workload has met nothing that is wrong.
func (w *nativeWork) sound(when string) (calls, refused uint64) {
	w.t.Helper()
	for _, m := range w.loaded {
		table := new(workTable)
		readInto(w.t, w.memory.mem, w.tables[m.name], table)
		if table.Wrong != 0 {
			w.t.Errorf("%s: %s: %d things are wrong, the first is: %s", when, m.name, table.Wrong, cString(table.Message[:]))
		}
		calls += table.Calls
		refused += table.Refused
	}
	return calls, refused
}

// nativeView is what somebody says is live: blocks by address, and ranges of mappings.
type nativeView struct {
	blocks   map[mem.Addr]uint64
	mappings map[mem.Addr]nativeMapping // by start
}

type nativeMapping struct {
	end  mem.Addr
	file bool
}

// compare stops the target and requires that all witnesses agree.
func (w *nativeWork) compare(when string) {
	w.t.Helper()
	w.rest()
	defer w.goOn()
	calls, refused := w.sound(when)
	blocks := liveBlocks(w.t, w.tg.Pid())
	ours, python := splitViews(blocks)
	w.compareTotals(when, blocks)
	c := &complaints{t: w.t, when: when}
	alone := nativeView{map[mem.Addr]uint64{}, map[mem.Addr]nativeMapping{}}
	for _, m := range w.loaded {
		held := w.heldBy(m)
		w.compareHeld(c, m, held, ours)
		if m.alone {
			maps.Copy(alone.blocks, held.blocks)
			maps.Copy(alone.mappings, held.mappings)
		}
	}
	if w.oracle != 0 {
		w.compareCounted(c, ours, python, alone)
	}
	c.end()
	w.t.Logf("%s: %d calls, of which %d were refused; live are %d blocks and %d mappings",
		when, calls, refused, len(ours.blocks), len(ours.mappings))
}

// complaints says the first few differences, and how many there are.
type complaints struct {
	t    *testing.T
	when string
	n    int
}

func (c *complaints) say(format string, args ...any) {
	c.t.Helper()
	if c.n++; c.n <= 5 {
		c.t.Errorf(c.when+": "+format, args...)
	}
}

func (c *complaints) end() {
	c.t.Helper()
	if c.n > 5 {
		c.t.Errorf("%s: %d differences in all", c.when, c.n)
	}
}

// splitViews makes of heaptap's blocks a view of the native domains, and of the others by address.
func splitViews(blocks []oracleBlock) (native nativeView, python map[mem.Addr]oracleBlock) {
	native = nativeView{map[mem.Addr]uint64{}, map[mem.Addr]nativeMapping{}}
	python = map[mem.Addr]oracleBlock{}
	for _, b := range blocks {
		switch b.domain {
		case Malloc:
			native.blocks[b.addr] = b.size
		case Mmap, File:
			native.mappings[b.addr] = nativeMapping{b.addr + mem.Addr(b.size), b.domain == File}
		default:
			python[b.addr] = b
		}
	}
	return native, python
}

// compareTotals requires that status and a dump's records have the same sums as the blocks.
func (w *nativeWork) compareTotals(when string, blocks []oracleBlock) {
	w.t.Helper()
	type sum struct{ blocks, bytes uint64 }
	want := map[string]sum{}
	for _, b := range blocks {
		s := want[b.domain.String()]
		want[b.domain.String()] = sum{s.blocks + 1, s.bytes + b.size}
	}
	status := mustBe(w.t, w.tg.Pid(), Tracking)
	for _, total := range status.Totals {
		if got := (sum{total.LiveBlocks, total.LiveBytes}); got != want[total.Domain.String()] {
			w.t.Errorf("%s: status says that %+v are live in domain %s, blocks are %+v", when, got, total.Domain,
				want[total.Domain.String()])
		}
	}
	if status.Lost != 0 {
		w.t.Errorf("%s: %d allocations were lost", when, status.Lost)
	}
	d := mustDump(w.t, w.tg.Pid())
	got := map[string]sum{}
	for _, r := range d.Snapshot.Records {
		if r.InuseBlocks != 0 {
			s := got[d.Snapshot.Strings[r.Domain]]
			got[d.Snapshot.Strings[r.Domain]] = sum{s.blocks + uint64(r.InuseBlocks), s.bytes + uint64(r.InuseBytes)}
		}
	}
	if !maps.Equal(got, want) {
		w.t.Errorf("%s: a dump's records say that %+v are live, blocks are %+v", when, got, want)
	}
}

// heldBy is what a module's table holds.
func (w *nativeWork) heldBy(m workModule) nativeView {
	w.t.Helper()
	table := new(workTable)
	readInto(w.t, w.memory.mem, w.tables[m.name], table)
	v := nativeView{map[mem.Addr]uint64{}, map[mem.Addr]nativeMapping{}}
	for _, s := range table.Slot {
		if s.Block != 0 {
			v.blocks[mem.Addr(s.Block)] = s.Size
		}
	}
	for _, f := range table.Field {
		for i, kind := range f.Page {
			if at := mem.Addr(f.At) + mem.Addr(i*pageSize); f.At != 0 && kind != 0 {
				v.mappings[at] = nativeMapping{at + pageSize, kind == 2}
			}
		}
		for _, l := range f.Loose {
			if l.At != 0 {
				v.mappings[mem.Addr(l.At)] = nativeMapping{mem.Addr(l.At) + mem.Addr(l.Pages*pageSize), l.File != 0}
			}
		}
	}
	return v
}

// compareHeld requires that we have what a module holds that was loaded after the attach, and that what we have of the
// blocks of an earlier one has the right size: of those it may have held some before. The fields' pages are known, not
// their mappings.
func (w *nativeWork) compareHeld(c *complaints, m workModule, held, ours nativeView) {
	w.t.Helper()
	for _, at := range slices.Sorted(maps.Keys(held.blocks)) {
		if size, ok := ours.blocks[at]; !ok && !m.early || ok && size != held.blocks[at] {
			c.say("%s holds %d bytes at %v, of which we have %d (%v)", m.name, held.blocks[at], at, size, ok)
		}
	}
	pages := map[mem.Addr]bool{} // to whether of a file
	for start, r := range ours.mappings {
		for at := start; at < r.end; at += pageSize {
			pages[at] = r.file
		}
	}
	for start, r := range held.mappings {
		for at := start; at < r.end; at += pageSize {
			if file, ok := pages[at]; !ok && !m.early || ok && file != r.file {
				c.say("%s holds the page %v (file %v), of which we have %v (file %v)", m.name, at, r.file, ok, file)
			}
		}
	}
}

// compareCounted requires that we and the preloaded allocator agree on every block and every mapping. Beside the
// workload's own, which have to be there in the domain malloc, or mmap, or file:
//   - a block that we have in one of Python's domains, at the same address, was asked for by Python's allocator;
//   - a block that did not come by way of a hook is none of ours to see, if the loader itself has asked for it;
//   - a mapping of an arena's size is Python's container.
//
// alone is what modules hold that have an allocator of their own.
func (w *nativeWork) compareCounted(c *complaints, ours nativeView, python map[mem.Addr]oracleBlock, alone nativeView) {
	w.t.Helper()
	all := new(countedTable)
	readInto(w.t, w.memory.mem, w.oracle, all)
	if all.Lost != 0 {
		w.t.Fatalf("the preloaded allocator has lost %d blocks", all.Lost)
	}
	callers, err := w.memory.proc.Maps()
	if err != nil {
		w.t.Fatal(err)
	}
	callerOf := func(a uint64) string {
		for _, m := range callers {
			if mem.Addr(a) >= m.Start && mem.Addr(a) < m.End {
				return filepath.Base(m.Path)
			}
		}
		return "nowhere"
	}
	var agree, nested int
	byLoader := map[string]int{}
	ourBlocks := maps.Clone(ours.blocks)
	for shard := range all.Block {
		for _, b := range all.Block[shard] {
			if b.Address == 0 {
				continue
			}
			at := mem.Addr(b.Address)
			size, ok := ourBlocks[at]
			delete(ourBlocks, at)
			p, isPython := python[at]
			caller := callerOf(b.Caller)
			switch {
			case ok && size == b.Size && b.Era == trackedEra:
				agree++
			case ok:
				c.say("block at %v: we have %d bytes, the preloaded allocator has %d, of era %d, by %s", at, size, b.Size, b.Era, caller)
			case b.Era != trackedEra:
			case isPython && b.Mark == 0 && max(p.size, 1) == b.Size:
				nested++
			case b.Mark == 0 && strings.HasPrefix(caller, "ld-"):
				byLoader[caller]++
			default:
				c.say("block of %d bytes at %v, mark %d, by %s: we do not have it (in Python: %+v)", b.Size, at, b.Mark, caller, p)
			}
		}
	}
	for at, size := range ourBlocks {
		if held, ok := alone.blocks[at]; !ok || held != size {
			c.say("block of %d bytes at %v: the preloaded allocator does not have it", size, at)
		}
	}
	ranges := maps.Clone(ours.mappings)
	for _, r := range all.Range[:min(all.Ranges, countedRanges)] {
		at := mem.Addr(r.Start)
		got, ok := ranges[at]
		delete(ranges, at)
		want := nativeMapping{mem.Addr(r.End), r.File != 0}
		arena := r.Mark == 0 && want == nativeMapping{at + arenaSize, false}
		switch {
		case ok && got == want && r.Era == trackedEra:
			agree++
		case !ok && (r.Era != trackedEra || arena):
		default:
			c.say("mapping at %v: we have %+v (%v), the preloaded allocator has %+v, of era %d, mark %d, by %s",
				at, got, ok, want, r.Era, r.Mark, callerOf(r.Caller))
		}
	}
	for at, r := range ranges {
		if !w.isAlone(alone, at, r) {
			c.say("mapping from %v to %v (file %v): the preloaded allocator does not have it", at, r.end, r.file)
		}
	}
	w.t.Logf("%s: %d agree, %d are Python's, by the loader %v", c.when, agree, nested, byLoader)
}

// arenaSize is ARENA_SIZE of Objects/obmalloc.c since 3.10.
const arenaSize = 1 << 20

// isAlone reports whether modules with an allocator of their own hold all pages of a mapping.
func (w *nativeWork) isAlone(alone nativeView, start mem.Addr, m nativeMapping) bool {
	for at := start; at < m.end; {
		held, ok := alone.mappings[at]
		if !ok || held.file != m.file {
			return false
		}
		at = held.end
	}
	return true
}
