package dso

import (
	"bytes"
	"debug/dwarf"
	"debug/elf"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/heaptap/heaptap/mem"
)

// form is a way to build and to strip testdata/names.c.
type form struct {
	name   string
	cc     string // "" is gcc
	flags  []string
	static bool                                               // no loader, so no library
	finish func(t *testing.T, path string)                    // what is done to the built program
	source Source                                             // where its full table is found
	bare   bool                                               // it has no full table anywhere
	debug  bool                                               // it has DWARF somewhere
	all    bool                                               // its loader is asked of every name
	more   func(t *testing.T, f form, r *running, s *Symbols) // what else holds for it
}

var forms = []form{
	{name: "pie", flags: []string{"-g"}, source: Symtab, debug: true, all: true},
	{name: "non-pie", flags: []string{"-g", "-no-pie", "-fno-pie"}, source: Symtab, debug: true, all: true},
	{name: "sysv hash, eager", flags: []string{"-Wl,--hash-style=sysv", "-Wl,-z,now"}, source: Symtab},
	{name: "packed relocations", flags: []string{"-Wl,-z,pack-relative-relocs"}, source: Symtab, more: hasPacked},
	{name: "no build-id", flags: []string{"-Wl,--build-id=none"}, source: Symtab},
	{name: "static", flags: []string{"-static"}, static: true, source: Symtab},
	{name: "static-pie", flags: []string{"-static-pie"}, static: true, source: Symtab},
	{name: "musl", cc: "musl-gcc", flags: []string{"-g"}, source: Symtab, debug: true, all: true},
	{name: "musl static", cc: "musl-gcc", flags: []string{"-g", "-static"}, static: true, source: Symtab, debug: true},
	{name: "stripped", flags: []string{"-s", "-rdynamic"}, bare: true},
	{name: "MiniDebugInfo, xz", finish: miniDebugInfo(packXZ), source: MiniDebugInfo},
	{name: "MiniDebugInfo, zstd", finish: miniDebugInfo(packZstd), source: MiniDebugInfo},
	{name: "debug link", flags: []string{"-g"}, finish: debugLink(""), source: DebugLink, debug: true},
	{name: "debug link in .debug", flags: []string{"-g", "-Wl,--build-id=none"}, finish: debugLink(".debug"),
		source: DebugLink, debug: true},
	{name: "debug link to another file", flags: []string{"-g", "-rdynamic"}, finish: brokenLink, bare: true},
	{name: "compressed debug, zlib", flags: []string{"-g", "-gz=zlib"}, source: Symtab, debug: true},
	{name: "compressed debug, zlib-gnu", flags: []string{"-g", "-gdwarf-4", "-gz=zlib-gnu"}, source: Symtab, debug: true},
	{name: "compressed debug, zstd", flags: []string{"-g"}, finish: compressDebug("zstd"), source: Symtab, debug: true},
	{name: "compressed debug file, zstd", flags: []string{"-g"}, finish: compressedDebugFile, source: DebugLink,
		debug: true},
	{name: "DWARF 4 with type units", flags: []string{"-g", "-gdwarf-4", "-fdebug-types-section"}, source: Symtab,
		debug: true},
}

// tool runs one of binutils.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func packXZ(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func packZstd(t *testing.T, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// miniDebugInfo does what Fedora's find-debuginfo does: the symbols of functions that are not dynamic, compressed, in a
// section of the stripped file. No source files are among them.
func miniDebugInfo(pack func(*testing.T, []byte) []byte) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		var keep []string
		for line := range strings.Lines(tool(t, "nm", path)) {
			if f := strings.Fields(line); len(f) == 3 && strings.Contains("tTi", f[1]) {
				keep = append(keep, f[2])
			}
		}
		names, debug, mini := path+".keep", path+".debug", path+".mini"
		write(t, names, []byte(strings.Join(keep, "\n")))
		tool(t, "objcopy", "--only-keep-debug", path, debug)
		tool(t, "objcopy", "-S", "--remove-section", ".gdb_index", "--remove-section", ".comment", "--keep-symbols="+names,
			debug, mini)
		b, err := os.ReadFile(mini)
		if err != nil {
			t.Fatal(err)
		}
		write(t, mini, pack(t, b))
		tool(t, "strip", path)
		tool(t, "objcopy", "--add-section", ".gnu_debugdata="+mini, path)
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
}

// debugLink moves what can be stripped to a file beside the program, or in a directory beside it.
func debugLink(dir string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		where := filepath.Join(filepath.Dir(path), dir)
		if err := os.MkdirAll(where, 0o755); err != nil {
			t.Fatal(err)
		}
		splitTo(t, path, filepath.Join(where, "names.debug"))
		tool(t, "objcopy", "--add-gnu-debuglink="+filepath.Join(where, "names.debug"), path)
	}
}

func splitTo(t *testing.T, path, debug string) {
	t.Helper()
	tool(t, "objcopy", "--only-keep-debug", path, debug)
	tool(t, "strip", path)
}

// brokenLink leaves a debug file whose checksum is not the link's.
func brokenLink(t *testing.T, path string) {
	t.Helper()
	debugLink("")(t, path)
	f, err := os.OpenFile(filepath.Join(filepath.Dir(path), "names.debug"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("another build")
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func compressDebug(how string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		tool(t, "objcopy", "--compress-debug-sections="+how, path)
	}
}

func compressedDebugFile(t *testing.T, path string) {
	t.Helper()
	compressDebug("zstd")(t, path)
	debugLink("")(t, path)
}

func (f form) start(t *testing.T) *running {
	t.Helper()
	dir := t.TempDir()
	r := &running{path: filepath.Join(dir, "names")}
	cc := f.cc
	if cc == "" {
		cc = "gcc"
	}
	flags := append([]string{filepath.Join("testdata", "names2.c")}, f.flags...)
	if cc == "gcc" {
		flags = append(flags, "-DHAVE_IFUNC")
	}
	var args []string
	if !f.static {
		late := filepath.Join(dir, "late.so")
		compile(t, cc, late, "late.c", append(flags[1:], lateFlags()...)...)
		args = []string{late}
	}
	if !f.static {
		flags = append(flags, "-DHAVE_DLOPEN")
	}
	compile(t, cc, r.path, "names.c", flags...)
	if f.finish != nil {
		f.finish(t, r.path)
	}
	r.run(t, exec.Command(r.path, args...))
	return r
}

func lateFlags() []string {
	return []string{"-shared", "-fPIC", "-Wl,--version-script=" + filepath.Join("testdata", "late.map")}
}

func (r *running) symbols(t *testing.T) *Symbols {
	t.Helper()
	s, err := LoadSymbols(r.proc, r.mem)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// one is where the program said that something is.
func (r *running) one(t *testing.T, what, version, name string) mem.Addr {
	t.Helper()
	for _, s := range r.said {
		if s.what == what && s.version == version && s.name == name {
			return s.addr
		}
	}
	t.Fatalf("the program did not say %s %s %s", what, version, name)
	return 0
}

// Everything that is told of a program is right, however it was built and stripped.
func TestForms(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			r := f.start(t)
			for name, check := range map[string]func(*testing.T, form, *running, *Symbols){
				"names of program": checkNamesOfProgram, "debug": checkDebug, "at": checkAt,
				"names of libraries": checkNamesOfLibraries, "indirect": checkIndirect, "copy": checkCopiedVariable,
				"slots": checkSlots, "pointers": checkPointers, "PLT": checkPLT,
			} {
				t.Run(name, func(t *testing.T) { check(t, f, r, r.symbols(t)) })
			}
			if f.all {
				t.Run("every name", func(t *testing.T) { checkEveryName(t, r, r.symbols(t)) })
			}
			t.Run("lazy", func(t *testing.T) { checkLazySlots(t, f, r, r.symbols(t)) }) // it binds one
		})
	}
}

// What the program says of itself is found by name, from the source that it was put into.
func checkNamesOfProgram(t *testing.T, f form, r *running, s *Symbols) {
	for _, name := range []string{"hidden_helper", "names!hidden_helper", "names.c:hidden_helper", "hidden_object",
		"testdata/names.c:hidden_helper", "names!names.c:hidden_object"} {
		plain := name[strings.LastIndexAny(name, "!:")+1:]
		want := r.one(t, "own", "-", plain)
		got, err := s.Resolve(name)
		if f.bare {
			if notFound := (*NotFoundError)(nil); !errors.As(err, &notFound) {
				t.Errorf("%s in a stripped program: %+v, %v", name, got, err)
			}
			continue
		}
		if f.source == MiniDebugInfo && (strings.HasSuffix(name, "object") || strings.Contains(name, ":")) {
			continue // it tells only functions, without their files
		}
		file := "names.c"
		if f.source == MiniDebugInfo {
			file = ""
		}
		if err != nil || got.Addr != want || got.Source != f.source || got.File != file || !got.Module.Main {
			t.Errorf("%s: %+v, %v; want %v from %v", name, got, err, want, f.source)
		}
	}
	if f.bare {
		return
	}
	if got, err := s.Resolve("global_function"); err != nil || got.Addr != r.one(t, "own", "-", "global_function") {
		t.Errorf("global_function: %+v, %v", got, err)
	}
	if f.source == MiniDebugInfo {
		return
	}
	if got, err := s.Resolve("thread_local_object"); err != nil || got.Kind() != TLS || got.Size != 4 {
		t.Errorf("thread_local_object: %+v, %v", got, err)
	}
	testTwins(t, r, s)
	if f.more != nil {
		f.more(t, f, r, s)
	}
}

// testTwins: two statics of one name are told apart by their files, and only so.
func testTwins(t *testing.T, r *running, s *Symbols) {
	t.Helper()
	var ambiguous *AmbiguousError
	if got, err := s.Resolve("twin"); !errors.As(err, &ambiguous) || len(ambiguous.Candidates) != 2 {
		t.Errorf("twin: %+v, %v; want two candidates", got, err)
	}
	for file, what := range map[string]string{"names.c": "own", "names2.c": "own2"} {
		if got, err := s.Resolve(file + ":twin"); err != nil || got.Addr != r.one(t, what, "-", "twin") {
			t.Errorf("%s:twin: %+v, %v", file, got, err)
		}
	}
}

// Debug information is read from wherever it is, and tells the source file of a global function.
func checkDebug(t *testing.T, f form, r *running, s *Symbols) {
	d, err := s.Modules()[0].Debug()
	if !f.debug {
		if !errors.Is(err, ErrNoDebug) {
			t.Errorf("Debug: %v, %v", d, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if d.Source != f.source {
		t.Errorf("from %v, want %v", d.Source, f.source)
	}
	units := d.Reader()
	var names []string
	for e, err := units.Next(); e != nil || err != nil; e, err = units.Next() {
		if err != nil {
			t.Fatal(err)
		}
		if name, ok := e.Val(dwarf.AttrName).(string); ok && e.Tag == dwarf.TagSubprogram {
			names = append(names, name)
		}
	}
	for _, want := range []string{"hidden_helper", "twin_of_other_file", "main"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s among the subprograms %v", want, names)
		}
	}
	got, err := s.Resolve("names.c:global_function")
	if err != nil || got.Addr != r.one(t, "own", "-", "global_function") {
		t.Errorf("names.c:global_function: %+v, %v", got, err)
	}
	if got, err := s.Resolve("names2.c:global_function"); err == nil {
		t.Errorf("names2.c:global_function: %+v", got)
	}
}

// At is the reverse of Lookup, in the middle of things too.
func checkAt(t *testing.T, f form, r *running, s *Symbols) {
	for _, said := range append(r.all("own"), r.all("libc")...) {
		static := strings.Contains("hidden_helper twin hidden_object", said.name)
		if f.bare && static || f.source == MiniDebugInfo && strings.HasSuffix(said.name, "object") {
			continue
		}
		got, off, ok := s.At(said.addr + 2)
		if !ok || got.Addr != said.addr || off != 2 {
			t.Errorf("%s+2: %+v, %d, %v; want %v", said.name, got, off, ok, said.addr)
			continue
		}
		// An alias may be called otherwise; musl's malloc is one of __libc_malloc, glibc's strtol of strtoll.
		if all, err := s.Lookup(said.name); err != nil || got.Name != said.name && all[0].Addr != got.Addr {
			t.Errorf("%s+2 is called %s", said.name, got.Name)
		}
	}
	if got, off, ok := s.At(0x10); ok {
		t.Errorf("an address of nothing: %+v, %d", got, off)
	}
}

// Names of libraries are where dlsym and dlvsym say: of a library that was opened late, and of one that was opened
// twice.
func checkNamesOfLibraries(t *testing.T, f form, r *running, s *Symbols) {
	if f.static {
		return
	}
	for _, said := range r.all("libc") {
		for _, name := range []string{said.name, "libc!" + said.name} {
			if f.cc != "" && said.name != name {
				continue // musl's is called by its file's name, which distributions choose
			}
			if got, err := s.Resolve(name); err != nil || got.Addr != said.addr {
				t.Errorf("%s: %+v, %v; want %v", name, got, err, said.addr)
			}
		}
	}
	late := r.one(t, "late", "-", "late_function")
	copies := 1 + len(r.all("again"))
	all, err := s.Lookup("late_function")
	if err != nil || len(all) != copies || all[0].Addr != late {
		t.Errorf("late_function: %+v, %v; want %d, %v first", all, err, copies, late)
	}
	_, err = s.Resolve("late.so!late_function")
	if ambiguous := (*AmbiguousError)(nil); errors.As(err, &ambiguous) != (copies == 2) {
		t.Errorf("late_function in %d link namespaces: %v", copies, err)
	}
	if all, err := s.Lookup("late.so!internal_of_library"); !f.bare && (err != nil || len(all) != copies) {
		t.Errorf("internal_of_library: %+v, %v", all, err)
	}
	testVersions(t, f, r, s)
}

// checkEveryName asks the program's own loader of all that its modules export, and compares.
func checkEveryName(t *testing.T, r *running, s *Symbols) {
	compared, unbound := 0, 0
	for name := range exportedNames(t, s) {
		if _, err := io.WriteString(r.stdin, name+"\n"); err != nil {
			t.Fatal(err)
		}
		r.listen(t)
		said := r.said[len(r.said)-1]
		got, err := s.Resolve(name)
		switch {
		case err == nil && got.Kind() == IFunc && got.Bound == 0:
			unbound++
		case said.addr == 0:
			if err == nil && s.class(&got) == bound {
				t.Errorf("%s: %+v; the loader knows of none", name, got)
			}
		case err != nil:
			t.Errorf("%s: %v; want %v", name, err, said.addr)
		case got.Entry() != said.addr:
			// The address of a function that a non-PIE program refers to is its PLT entry, for all modules.
			if at, _, ok := s.At(said.addr); !ok || at.Name != name+"@plt" || !at.Module.Main {
				t.Errorf("%s: %+v; want %v, which is %+v", name, got, said.addr, at)
			}
		default:
			compared++
		}
	}
	if compared < 1000 {
		t.Errorf("%d names compared, %d indirect functions not bound", compared, unbound)
	}
}

// exportedNames are those of the modules that the program was started with.
func exportedNames(t *testing.T, s *Symbols) map[string]bool {
	t.Helper()
	out := make(map[string]bool)
	for _, m := range s.Modules() {
		if !s.scope().startup[m] {
			continue
		}
		table, err := m.exportTable()
		if err != nil {
			t.Fatal(err)
		}
		for i := range table.len() {
			sym := m.symbolOf(table, i)
			if isDefinition(table.raw(i)) && !sym.Hidden && sym.Type != elf.STT_TLS {
				out[sym.Name] = true
			}
		}
	}
	return out
}

// testVersions: the default version comes first, and each is found by its own name.
func testVersions(t *testing.T, f form, r *running, s *Symbols) {
	t.Helper()
	if !f.bare {
		got, err := s.named("late.so")[0].Symtab("versioned", "late_function")
		want := r.one(t, "late", "-", "versioned")
		if err != nil || got["versioned"].Addr != want || got["versioned"].Version != "NEW" || len(got) != 2 {
			t.Errorf("versioned in the file's table: %+v, %v; want %v", got, err, want)
		}
	}
	for _, said := range r.all("late") {
		if said.name != "versioned" {
			continue
		}
		name := said.name
		if said.version != "-" {
			name += "@" + said.version
		}
		all, err := s.Lookup(name)
		if err != nil || !slices.ContainsFunc(all, func(f Found) bool { return f.Addr == said.addr }) {
			t.Errorf("%s: %+v, %v; want %v", name, all, err, said.addr)
			continue
		}
		if all[0].Hidden != (said.version == "OLD") || said.version == "-" && !all[len(all)-1].Hidden {
			t.Errorf("%s: the default version is not first: %+v", name, all)
		}
	}
	if got, err := s.Lookup("versioned@NONE"); err == nil {
		t.Errorf("versioned@NONE: %+v", got)
	}
}

// An indirect function is told as what its resolver returned, in the program and in libraries.
func checkIndirect(t *testing.T, f form, r *running, s *Symbols) {
	for _, said := range append(r.all("bound"), r.all("chosen")...) {
		if f.bare && said.what == "chosen" {
			continue
		}
		all, err := s.Lookup(said.name)
		if err != nil || all[0].Kind() != IFunc || all[0].Bound != said.addr || all[0].Entry() != said.addr {
			t.Errorf("%s: %+v, %v; want bound to %v", said.name, all, err, said.addr)
		}
	}
	if f.static || f.cc != "" {
		return
	}
	all, err := s.Lookup("lonely")
	if err != nil || all[0].Kind() != IFunc || all[0].Bound != 0 || all[0].Entry() != 0 {
		t.Errorf("an indirect function that nobody refers to: %+v, %v; want it not bound", all, err)
	}
}

// The variable in use is the program's copy where there is one.
func checkCopiedVariable(t *testing.T, f form, r *running, s *Symbols) {
	want := r.one(t, "stream", "-", "stderr")
	got, err := s.Resolve("stderr")
	if err != nil || got.Addr != want || got.Kind() != Object {
		t.Fatalf("stderr: %+v, %v; want %v", got, err, want)
	}
	if f.static || f.cc != "" {
		return
	}
	if got.Copy == nil || !got.Copy.is("libc") || !got.Module.Main {
		t.Errorf("not known to be a copy of libc's: %+v", got)
	}
	all, err := s.Lookup("libc!stderr")
	if err != nil || len(all) == 0 || !all[0].Original || all[0].Addr == want {
		t.Errorf("libc!stderr: %+v, %v; want the original", all, err)
	}
}

func hasPacked(t *testing.T, _ form, _ *running, s *Symbols) {
	t.Helper()
	if s.Modules()[0].dynamic.relrSize == 0 {
		t.Error("the program has no packed relocations")
	}
}

// Several goroutines may ask at once.
func TestConcurrent(t *testing.T) {
	r := forms[0].start(t)
	s := r.symbols(t)
	want := r.one(t, "own", "-", "hidden_helper")
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for _, name := range []string{"hidden_helper", "names.c:hidden_helper", "names!hidden_helper"} {
				if got, err := s.Resolve(name); err != nil || got.Addr != want {
					t.Errorf("%s: %+v, %v", name, got, err)
				}
			}
			if got, _, ok := s.At(want + 1); !ok || got.Name != "hidden_helper" {
				t.Errorf("at %v: %+v", want, got)
			}
			for _, m := range s.Modules() {
				if _, err := m.Slots(); err != nil {
					t.Error(err)
				}
			}
			if _, err := s.Lookup("no_such_name_as_this"); err == nil {
				t.Error("found what is not there")
			}
		})
	}
	group.Wait()
}

// Names that do not exist give those that resemble them.
func TestNear(t *testing.T) {
	r := forms[0].start(t)
	s := r.symbols(t)
	for wrong, want := range map[string]string{"globl_function": "global_function", "hiden_helper": "hidden_helper",
		"Global_Object": "global_object", "late.so!getenv": "libc.so.6!getenv", "none.so!getenv": "libc.so.6!getenv",
		"_global_function": "global_function",
		"getevn":           "getenv"} {
		_, err := s.Lookup(wrong)
		var notFound *NotFoundError
		if !errors.As(err, &notFound) || !slices.Contains(notFound.Near, want) || !errors.Is(err, ErrNoSymbol) {
			t.Errorf("%s: %v; want %s among the proposals", wrong, err, want)
		}
	}
	_, err := s.Lookup("nothing_at_all_like_this_one")
	if notFound := (*NotFoundError)(nil); !errors.As(err, &notFound) || len(notFound.Near) > 0 {
		t.Errorf("proposals for nonsense: %v", err)
	}
}

// Search finds by pattern, in one module or all.
func TestSearch(t *testing.T) {
	r := forms[0].start(t)
	s := r.symbols(t)
	for pattern, want := range map[string]string{"hidden_*": "hidden_helper hidden_object", "/^twin$/": "twin twin",
		"names!glob?l_*": "global_function global_object", "late.so!/late_fun/": "late_function late_function",
		"nothing_like_*": ""} {
		got, err := s.Search(pattern)
		var names []string
		for _, f := range got {
			names = append(names, f.Name)
		}
		if err != nil || strings.Join(names, " ") != want {
			t.Errorf("%s: %v, %v; want %s", pattern, names, err, want)
		}
	}
	for _, wrong := range []string{"/(/", "[", "libc!["} {
		if got, err := s.Search(wrong); err == nil {
			t.Errorf("pattern %s: %v", wrong, got)
		}
	}
}

// Files are those that the target sees: of one that runs in its own mount and pid namespace with another root, and of
// one that only changed its root directory.
func TestOtherRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may change the root directory")
	}
	for name, command := range map[string]func(root string) *exec.Cmd{
		"chroot": func(root string) *exec.Cmd {
			cmd := exec.Command("/bin/names", "/lib/late.so")
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
			return cmd
		},
		"container": func(root string) *exec.Cmd {
			cmd := exec.Command("/bin/sh", "-ec", `mount --make-rprivate / && mount --bind "$0" "$0" && cd "$0"
				pivot_root . old
				exec /bin/names /lib/late.so`, root)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
			return cmd
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := makeRoot(t)
			r := new(running)
			cmd := command(root)
			cmd.Env, cmd.Dir = []string{"LD_LIBRARY_PATH=/lib64", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, "/"
			r.run(t, cmd)
			testOtherRoot(t, r)
		})
	}
}

func testOtherRoot(t *testing.T, r *running) {
	t.Helper()
	s := r.symbols(t)
	want := r.one(t, "own", "-", "hidden_helper")
	got, err := s.Resolve("hidden_helper")
	if err != nil || got.Addr != want || got.Source != BuildIDFile || !strings.HasPrefix(got.From, debugRoot) {
		t.Errorf("hidden_helper: %+v, %v; want %v by build-id", got, err, want)
	}
	if d, err := s.Modules()[0].Debug(); err != nil || d.Source != BuildIDFile {
		t.Errorf("Debug: %+v, %v", d, err)
	}
	all, err := s.Lookup("late.so!internal_of_library")
	if err != nil || len(all) != 2 || all[0].Source != DebugLink || all[0].From != debugRoot+"/lib/late.debug" {
		t.Errorf("internal_of_library: %+v, %v; want by debug link through an absolute symbolic link", all, err)
	}
	for _, said := range append(r.all("libc"), r.all("bound")...) {
		if got, err := s.Resolve("/lib64/libc.so.6!" + said.name); err != nil || got.Entry() != said.addr {
			t.Errorf("%s: %+v, %v; want %v", said.name, got, err, said.addr)
		}
	}
}

// makeRoot makes a root with the program, libc and loader. The program's debug file is in the build-id directory there;
// that of its library is in a directory to which an absolute symbolic link leads.
func makeRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "lib64", "lib", "usr/lib/debug", "opt/lib", "proc", "old"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(root, "bin/names")
	compile(t, "gcc", program, "names.c", filepath.Join("testdata", "names2.c"), "-g", "-DHAVE_DLOPEN", "-DHAVE_IFUNC")
	late := filepath.Join(root, "lib/late.so")
	compile(t, "gcc", late, "late.c", append(lateFlags(), "-g", "-DHAVE_IFUNC")...)
	splitTo(t, late, filepath.Join(root, "opt/lib/late.debug"))
	tool(t, "objcopy", "--add-gnu-debuglink="+filepath.Join(root, "opt/lib/late.debug"), late)
	if err := os.Symlink("/opt/lib", filepath.Join(root, debugRoot, "lib")); err != nil {
		t.Fatal(err)
	}
	for inside, outside := range map[string]string{"lib64/ld-linux-x86-64.so.2": "/lib64/ld-linux-x86-64.so.2",
		"lib64/libc.so.6": strings.TrimSpace(tool(t, "gcc", "-print-file-name=libc.so.6"))} {
		b, err := os.ReadFile(outside)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, inside), b)
	}
	id := buildIDOf(t, program)
	dir := filepath.Join(root, debugRoot, ".build-id", id[:2])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	splitTo(t, program, filepath.Join(dir, id[2:]+".debug"))
	return root
}

func buildIDOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	o, err := openObject(f, path, Symtab)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	id := o.buildID()
	if want := tool(t, "readelf", "-n", path); id == nil || !strings.Contains(want, "Build ID: "+hex.EncodeToString(id)) {
		t.Fatalf("build-id %x; readelf says %s", id, want)
	}
	return hex.EncodeToString(id)
}
