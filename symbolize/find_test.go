package symbolize_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/symbolize"
)

// split is a library, taken apart.
type split struct {
	whole    string // with its symbols and debug information
	stripped string
	debug    string // what was taken from it
	id       string
	list     []uint64 // addresses in it
	want     [][]heap.Frame
}

// module is where the library was on the machine where the snapshot was taken.
const module = "/opt/far/away/libpool.so"

func splitLibrary(t *testing.T, flags ...string) split {
	t.Helper()
	dir := sources(t, cSources())
	s := split{whole: object(t, dir, "gcc", "libpool.so"), stripped: filepath.Join(dir, "stripped.so"),
		debug: filepath.Join(dir, "libpool.so.debug")}
	run(t, dir, "objcopy", slices.Concat([]string{"--only-keep-debug"}, flags, []string{s.whole, s.debug})...)
	run(t, dir, "objcopy", "--strip-all", "--add-gnu-debuglink="+s.debug, s.whole, s.stripped)
	s.id, s.list = buildID(t, s.whole), instructions(t, s.whole)
	r := symbolize.Frames(framesAt(module, s.id, s.list), symbolize.Options{Dirs: []string{s.whole}})
	s.want = r.Chains
	if r.Objects[0].Named < len(s.list)*9/10 {
		t.Fatalf("%+v", r.Objects)
	}
	return s
}

// place copies a file to a place in a new folder.
func place(t *testing.T, dir, name, from string) {
	t.Helper()
	to := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o666); err != nil {
		t.Fatal(err)
	}
}

// On another machine, where nothing is at the object's own path, a folder with its files tells all.
func TestSources(t *testing.T) {
	s := splitLibrary(t)
	id := s.id
	for name, files := range map[string]map[string]string{
		"build-id":         {".build-id/" + id[:2] + "/" + id[2:] + ".debug": s.debug},
		"build-id, short":  {id[:2] + "/" + id[2:] + ".debug": s.debug},
		"system":           {"usr/lib/debug/.build-id/" + id[:2] + "/" + id[2:] + ".debug": s.debug},
		"debuginfod":       {id + "/debuginfo": s.debug},
		"debuginfod, both": {id + "/debuginfo": s.debug, id + "/executable": s.stripped},
		"tree":             {"opt/far/away/libpool.so": s.whole},
		"debug link":       {"opt/far/away/libpool.so": s.stripped, "opt/far/away/.debug/libpool.so.debug": s.debug},
		"debug link, far":  {"opt/far/away/libpool.so": s.stripped, "usr/lib/debug/opt/far/away/libpool.so.debug": s.debug},
		"flat":             {"libpool.so.debug": s.debug},
		"any name":         {"a/b/c": s.debug, "a/other.txt": "/dev/null"},
		"beside another": {"libpool.so": s.stripped, "libpool.so.debug": "/bin/true", "x/y": s.debug,
			".build-id/" + id[:2] + "/" + id[2:] + ".debug": "/bin/true"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for to, from := range files {
				place(t, dir, to, from)
			}
			r := symbolize.Frames(framesAt(module, id, s.list), symbolize.Options{Dirs: []string{t.TempDir(), dir}})
			if diff := gocmp.Diff(s.want, r.Chains); diff != "" {
				t.Errorf("with all symbols (-), from the folder (+):\n%.1000s", diff)
			}
			if !strings.HasPrefix(r.Objects[0].Debug, dir) {
				t.Errorf("%+v", r.Objects)
			}
			if strings.HasPrefix(name, "debuginfod") {
				cached := symbolize.Frames(framesAt(module, id, s.list), symbolize.Options{Caches: []string{dir}})
				if gocmp.Diff(s.want, cached.Chains) != "" {
					t.Errorf("as a cache: %+v", cached.Objects)
				}
			}
			if name == "tree" || strings.HasPrefix(name, "debug link") {
				below := symbolize.Frames(framesAt(module, id, s.list), symbolize.Options{Roots: []string{dir}})
				if gocmp.Diff(s.want, below.Chains) != "" {
					t.Errorf("as the root: %+v", below.Objects)
				}
			}
		})
	}
}

// Compressed or not, what was split off is the same.
func TestCompressed(t *testing.T) {
	for _, flag := range []string{"--compress-debug-sections=zlib", "--compress-debug-sections=zlib-gnu",
		"--compress-debug-sections=zstd"} {
		t.Run(flag, func(t *testing.T) {
			s := splitLibrary(t, flag)
			r := symbolize.Frames(framesAt(module, s.id, s.list), symbolize.Options{Dirs: []string{s.debug}})
			// Each library was built in a folder of its own.
			if diff := gocmp.Diff(s.want, r.Chains); diff != "" {
				t.Errorf("with all symbols (-), compressed (+):\n%.1000s", diff)
			}
		})
	}
}

// Without DWARF there are names; without a symbol table, those that are exported; and from .gnu_debugdata the others.
func TestNamesOnly(t *testing.T) {
	s := splitLibrary(t)
	dir := filepath.Dir(s.whole)
	run(t, dir, "strip", "--strip-debug", "-o", "symbols.so", s.whole)
	mini := filepath.Join(dir, "mini")
	run(t, dir, "objcopy", "--strip-debug", "-R", ".comment", s.whole, mini)
	run(t, dir, "xz", "-k", mini)
	run(t, dir, "objcopy", "--add-section", ".gnu_debugdata="+mini+".xz", s.stripped, "withmini.so")
	outer := map[uint64]string{}
	for i, chain := range s.want {
		if len(chain) > 0 {
			outer[s.list[i]] = chain[len(chain)-1].Func
		}
	}
	for _, test := range []struct {
		file    string
		statics bool
	}{{"symbols.so", true}, {"withmini.so", true}, {"stripped.so", false}} {
		t.Run(test.file, func(t *testing.T) {
			alone := t.TempDir() // the debug file is not beside it
			place(t, alone, test.file, filepath.Join(dir, test.file))
			r := symbolize.Frames(framesAt(module, s.id, s.list), symbolize.Options{Dirs: []string{alone}})
			named, seen := 0, map[string]bool{}
			for i, chain := range r.Chains {
				if len(chain) == 0 {
					continue
				}
				named++
				f := chain[0]
				seen[f.Func] = true
				if want := outer[s.list[i]]; len(chain) != 1 || f.Line != 0 || f.BuildID != s.id || f.Module != module ||
					f.Func != want && want != "one" && want != "rust" && want != "older" {
					t.Errorf("%#x: %+v, want %s", s.list[i], chain, want)
				}
			}
			t.Logf("%d of %d addresses named", named, len(s.list))
			for _, name := range []string{"duplicate", "mycrate::foo::bar", "crate::vec::push", "bare"} {
				if !seen[name] {
					t.Errorf("no %s among %v", name, seen)
				}
			}
			if seen["walk"] != test.statics {
				t.Errorf("the static function walk is known: %v", seen["walk"])
			}
			if r.Objects[0].Debug != "" {
				t.Errorf("%+v", r.Objects)
			}
		})
	}
}

// A file of another build is not used, wherever it is.
func TestOtherBuild(t *testing.T) {
	s := splitLibrary(t)
	dir := t.TempDir()
	id := strings.Repeat("12", len(s.id)/2)
	for _, name := range []string{"opt/far/away/libpool.so", ".build-id/12/" + id[2:] + ".debug", id + "/debuginfo",
		"libpool.so"} {
		place(t, dir, name, s.whole)
	}
	r := symbolize.Frames(framesAt(module, id, s.list), symbolize.Options{Dirs: []string{dir}, Caches: []string{dir},
		Roots: []string{dir}})
	if i := slices.IndexFunc(r.Chains, func(c []heap.Frame) bool { return c != nil }); i >= 0 {
		t.Errorf("%#x: %+v", s.list[i], r.Chains[i])
	}
	if o := r.Objects[0]; o.Named != 0 || !strings.Contains(o.Problem, "is another build of it") {
		t.Errorf("%+v", o)
	}
	// Nor one with a build-id for an object without.
	r = symbolize.Frames(framesAt(module, "", s.list), symbolize.Options{Roots: []string{dir}})
	if o := r.Objects[0]; o.Named != 0 || !strings.Contains(o.Problem, "is another build of it") {
		t.Errorf("%+v", o)
	}
}

// An object without a build-id is what is at its path, if that has none either.
func TestNoBuildID(t *testing.T) {
	dir := sources(t, cSources())
	file := object(t, dir, "gcc", "none.so", "-Wl,--build-id=none")
	list := instructions(t, file)
	if r := symbolize.Frames(framesAt(file, "", list), symbolize.Options{Roots: []string{"/"}}); r.Objects[0].Named < len(list)*9/10 {
		t.Errorf("%+v", r.Objects)
	}
	if r := symbolize.Frames(framesAt(file, "", list), symbolize.Options{}); r.Objects[0].Named != 0 {
		t.Errorf("%+v", r.Objects)
	}
}

// dwz moves what several libraries share into a file of its own.
func TestDwz(t *testing.T) {
	c, cxx := sources(t, cSources()), sources(t, cxxSources())
	dir := t.TempDir()
	var plain []symbolize.Result
	var ids []string
	var lists [][]uint64
	files := []string{
		object(t, cxx, "g++", "a.so", "-std=c++17"), object(t, cxx, "g++", "b.so", "-std=c++17", "-O3"),
		object(t, c, "gcc", "c.so"),
	}
	for _, file := range files {
		ids, lists = append(ids, buildID(t, file)), append(lists, instructions(t, file))
		plain = append(plain, symbolize.Frames(framesAt(file, ids[len(ids)-1], lists[len(lists)-1]),
			symbolize.Options{Roots: []string{"/"}}))
		place(t, dir, filepath.Base(file), file)
	}
	run(t, dir, "dwz", "-m", "shared.debug", "a.so", "b.so", "c.so")
	if out, err := exec.CommandContext(t.Context(), "readelf", "-SW", filepath.Join(dir, "a.so")).Output(); err != nil ||
		!strings.Contains(string(out), ".gnu_debugaltlink") {
		t.Fatalf("dwz shared nothing: %v\n%s", err, out)
	}
	for i, file := range files {
		r := symbolize.Frames(framesAt(file, ids[i], lists[i]), symbolize.Options{Dirs: []string{dir}})
		if diff := gocmp.Diff(plain[i].Chains, r.Chains); diff != "" {
			t.Errorf("%s before dwz (-) and after (+):\n%.1500s", file, diff)
		}
	}
	// Without the shared file there are names still.
	if err := os.Remove(filepath.Join(dir, "shared.debug")); err != nil {
		t.Fatal(err)
	}
	r := symbolize.Frames(framesAt(files[0], ids[0], lists[0]), symbolize.Options{Dirs: []string{dir}})
	if o := r.Objects[0]; o.Named < len(lists[0])*9/10 || !strings.Contains(o.Problem, "shared.debug") {
		t.Errorf("%+v", o)
	}
}

// Frames that are not of machine code, or that have a name, stay as they are; equal ones are told alike.
func TestOthersStay(t *testing.T) {
	s := splitLibrary(t)
	frames := []heap.Frame{
		{Func: "main", File: "a.py", Line: 1}, {Func: "known", Module: module, BuildID: s.id, Addr: s.list[3]},
		{Module: module, BuildID: s.id, Addr: s.list[3]}, {Module: module, BuildID: s.id, Addr: s.list[3]},
		{Module: module, BuildID: "xyz", Addr: 1}, {Module: module, BuildID: "0", Addr: 1}, {Module: "[vdso]", BuildID: "1234", Addr: 1},
		{Module: module, BuildID: s.id, Addr: 1 << 63},
	}
	r := symbolize.Frames(frames, symbolize.Options{Dirs: []string{s.whole}})
	for i, chain := range r.Chains {
		if (chain != nil) != (i == 2 || i == 3) {
			t.Errorf("frame %d: %+v", i, chain)
		}
	}
	if diff := gocmp.Diff(r.Chains[2], r.Chains[3]); diff != "" {
		t.Error(diff)
	}
	var problems []string
	for _, o := range r.Objects {
		problems = append(problems, o.Problem)
	}
	want := []string{`its build-id is "0"`, "", `its build-id is "xyz"`, "it is no file"}
	slices.Sort(problems)
	slices.Sort(want)
	if diff := gocmp.Diff(want, problems); diff != "" {
		t.Error(diff)
	}
}
