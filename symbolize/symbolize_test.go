package symbolize_test

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/symbolize"
)

// object builds a shared library from all C or C++ files below a folder.
func object(t testing.TB, dir, compiler, name string, flags ...string) string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"*.cc", "src/*.c"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			inside, err := filepath.Rel(dir, f)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, inside)
		}
	}
	slices.Sort(files)
	run(t, dir, compiler, slices.Concat([]string{"-g", "-O2", "-shared", "-fPIC", "-Wl,--build-id", "-o", name}, flags,
		files)...)
	return filepath.Join(dir, name)
}

// Against addr2line, which follows the same DWARF with other code: functions, what was inlined, files and lines of
// every instruction of several kinds of builds.
func TestWitness(t *testing.T) {
	c, cxx := sources(t, cSources()), sources(t, cxxSources())
	for _, test := range []struct {
		dir, compiler, name string
		flags               []string
	}{
		{c, "gcc", "c5.so", []string{"-gdwarf-5"}},
		{c, "gcc", "c4.so", []string{"-gdwarf-4"}},
		{c, "gcc", "clto.so", []string{"-flto", "-ffat-lto-objects"}},
		{c, "gcc", "csections.so", []string{"-ffunction-sections", "-Wl,--gc-sections"}},
		{c, "gcc", "cz.so", []string{"-gz=zlib"}},
		{cxx, "g++", "cxx5.so", []string{"-gdwarf-5", "-std=c++17"}},
		{cxx, "g++", "cxx4.so", []string{"-gdwarf-4", "-std=c++17"}},
		{cxx, "g++", "cxx0.so", []string{"-O0", "-std=c++17"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			file := object(t, test.dir, test.compiler, test.name, test.flags...)
			list := instructions(t, file)
			r := symbolize.Frames(framesAt(file, buildID(t, file), list), symbolize.Options{Roots: []string{"/"}})
			deepest := compare(t, file, list, r)
			t.Logf("%d addresses, up to %d calls at one", len(list), deepest)
			if want := 3; deepest < want && test.name != "cxx0.so" {
				t.Errorf("at most %d calls at one address: the program inlines nothing", deepest)
			}
		})
	}
}

// However the DWARF is packed, it says the same: addr2line reads some of these forms wrongly or not at all.
func TestForms(t *testing.T) {
	for _, program := range []struct {
		compiler string
		files    map[string]string
		flags    []string
	}{{"gcc", cSources(), nil}, {"g++", cxxSources(), []string{"-std=c++17"}}} {
		dir := sources(t, program.files)
		plain := object(t, dir, program.compiler, "plain.so", program.flags...)
		list := instructions(t, plain)
		want := symbolize.Frames(framesAt(plain, buildID(t, plain), list), symbolize.Options{Roots: []string{"/"}})
		for _, form := range [][]string{
			{"-gdwarf64"}, {"-fdebug-types-section"}, {"-gz=zlib"}, {"-gdwarf-3"},
		} {
			t.Run(program.compiler+strings.Join(form, ""), func(t *testing.T) {
				file := object(t, dir, program.compiler, "form.so", slices.Concat(program.flags, form)...)
				if !slices.Equal(instructions(t, file), list) {
					t.Fatal("the compiler made other code")
				}
				got := symbolize.Frames(framesAt(file, buildID(t, file), list), symbolize.Options{Roots: []string{"/"}})
				different := 0
				for i := range list {
					if a, b := calls(got.Chains[i]), calls(want.Chains[i]); !slices.Equal(a, b) {
						if different++; different <= 5 {
							t.Errorf("%#x:\n got  %q\n want %q", list[i], a, b)
						}
					}
				}
				if different > 0 {
					t.Errorf("%d of %d addresses differ", different, len(list))
				}
			})
		}
	}
}

// largePython is a pattern for the libpython of pyenv's newest interpreter, which has debug information.
func largePython(t testing.TB) string {
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(cmp.Or(os.Getenv("PYENV_ROOT"), filepath.Join(home, ".pyenv")), "versions/3.13*/lib/libpython3.*.so.1.0")
}

// A library of the system, with debug files in the system's place: libc, where the package libc6-dbg is installed, and
// whatever Python there is.
func TestWitnessLarge(t *testing.T) {
	found := 0
	for _, pattern := range []string{"/lib/x86_64-linux-gnu/libc.so.6", largePython(t)} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			id := buildID(t, file)
			debug := "/usr/lib/debug/.build-id/" + id[:2] + "/" + id[2:] + ".debug"
			if _, err := os.Stat(debug); err != nil {
				debug = file
			}
			if out, err := exec.CommandContext(t.Context(), "readelf", "-SW", debug).Output(); err != nil ||
				!strings.Contains(string(out), ".debug_info") {
				continue
			}
			found++
			t.Run(filepath.Base(file), func(t *testing.T) {
				list := addresses(t, file, 10_000)
				r := symbolize.Frames(framesAt(file, id, list), symbolize.Options{Roots: []string{"/"}})
				compare(t, debug, list, r)
			})
		}
	}
	if found == 0 {
		t.Error("no library with debug information: libc has it where the package libc6-dbg is installed")
	}
}

// clone is what addr2line leaves behind the names of copies and parts of functions.
var clone = regexp.MustCompile(`(\.(constprop|isra|part|lto_priv|cold)(\.\d+)?)+| \[clone [^]]*\]`)

// compare holds what was found against addr2line's answers. Where an address is in no function (padding), addr2line
// names the function before. It returns the largest number of calls at an address.
func compare(t *testing.T, file string, list []uint64, r symbolize.Result) (deepest int) {
	t.Helper()
	different, otherFile := 0, 0
	for i, want := range witness(t, file, list) {
		got := calls(r.Chains[i])
		deepest = max(deepest, len(got))
		if len(got) == 1 && strings.HasPrefix(got[0], "?? ") {
			continue
		}
		for k := range want {
			want[k] = clone.ReplaceAllString(want[k], "")
			want[k] = strings.TrimPrefix(want[k], "__GI_")
		}
		if slices.Equal(got, want) {
			continue
		}
		if len(got) == len(want) {
			agreeOnOuter(got, want)
		}
		if slices.Equal(got, want) {
			continue
		}
		// BFD (binutils 2.40) takes rows whose file is that of another directory for the unit's own, and, with LTO, for
		// "<artificial>"; line and function are the same then.
		if len(got) == len(want) && sameButFile(got[0], want[0]) && slices.Equal(got[1:], want[1:]) {
			otherFile++
			continue
		}
		if different++; different <= 5 {
			t.Logf("%#x:\n got  %q\n want %q", list[i], got, want)
		}
	}
	// Of the names of one address in assembler, and of inherited constructors, tools choose differently.
	if different*1000 > len(list) {
		t.Errorf("%d of %d addresses differ", different, len(list))
	}
	if otherFile*8 > len(list) {
		t.Errorf("the file of %d of %d lines differs", otherFile, len(list))
	}
	return deepest
}

// agreeOnOuter takes out of want what addr2line does with a function whose linker's name the DWARF lacks: it gives that
// name, from the symbol table, to whichever call comes first that has none, be it one that was inlined.
func agreeOnOuter(got, want []string) {
	last := len(got) - 1
	outer, _ := function(got[last])
	for k := range want {
		name, where := function(want[k])
		_, here := function(got[k])
		if here != where {
			continue
		}
		bare, _, _ := strings.Cut(name, "<")
		if k < last && name == outer || k == last && strings.Contains(outer, bare) {
			want[k] = got[k]
		}
	}
}

// function takes a call apart.
func function(call string) (name, where string) {
	i := strings.LastIndexByte(call, ' ')
	return call[:i], call[i+1:]
}

// sameButFile tells whether two calls are of one function and line.
func sameButFile(a, b string) bool {
	nameA, whereA := function(a)
	nameB, whereB := function(b)
	return nameA == nameB && whereA[strings.LastIndexByte(whereA, ':'):] == whereB[strings.LastIndexByte(whereB, ':'):]
}

// instructions are the addresses of all instructions in the functions of a file.
func instructions(t testing.TB, file string) []uint64 {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "objdump", "-d", "-j", ".text", "--no-show-raw-insn", file).Output()
	if err != nil {
		t.Fatalf("objdump: %v", err)
	}
	var list []uint64
	for line := range strings.Lines(string(out)) {
		text, rest, ok := strings.Cut(strings.TrimSpace(line), ":\t")
		if a, err := strconv.ParseUint(text, 16, 64); ok && err == nil && !strings.Contains(rest, "nop") {
			list = append(list, a)
		}
	}
	return list
}

// BenchmarkFrames symbolizes 10,000 random addresses of a large library.
func BenchmarkFrames(b *testing.B) {
	files, err := filepath.Glob(largePython(b))
	if err != nil || len(files) == 0 {
		b.Skip("no libpython 3.13 with debug information")
	}
	frames := framesAt(files[0], buildID(b, files[0]), addresses(b, files[0], 10_000))
	for b.Loop() {
		symbolize.Frames(frames, symbolize.Options{Roots: []string{"/"}})
	}
}
