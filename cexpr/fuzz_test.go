package cexpr

import (
	"debug/dwarf"
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzParse parses anything, evaluates what parses over a fake process, and explains it.
func FuzzParse(f *testing.F) {
	b, err := os.ReadFile(filepath.Join("testdata", "corpus", "expressions.txt"))
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f.Add(strings.TrimSpace(line))
	}
	for _, s := range []string{"libc.so.6!malloc(10)", "a.c:b", "'a.c'::b", "x@V_1", "*p@3", "buf(20)", "errno = 3", "$st0",
		"$eflags", "$xmm0.v4_float[1] = 2", "(int(*(*)(void))(int, ...))0", "sizeof(struct stat)", "(struct stat *)0x10000",
		"*(struct stat *)65536", "ns::x::f(1)", "stderr->x", "Py_None", "'\\377'", "U\"\\U0001f600\"", "(complex)1", "(_Complex double)1 * 2.5", "1e400l",

		"(float)1e400l", "(long double)1e-4940l / 3", "((char[8])\"abcdefg\")[3]", "(int[2])1", "*(char(*)[4])0x10000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, source string) {
		p, err := Parse(source)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		m := withProcess()
		m.results = []Result{{RAX: 0x10000}, {RAX: 1}}
		for range 2 { // explaining must not disturb, so it goes before and after
			if _, err := p.Explain(m, &Env{}); err != nil && err.Error() == "" {
				t.Error("an error without words")
			}
			if len(m.calls) > 0 {
				break
			}
			outcomes, _ := p.Run(m, &Env{})
			for _, o := range outcomes {
				if _, err := o.MarshalJSON(); err != nil {
					t.Errorf("%s: %v", o.Text, err)
				}
				_ = o.String()
			}
		}
	})
}

// sections are those that types are read from.
var sections = []string{".debug_abbrev", ".debug_info", ".debug_str", ".debug_ranges", ".debug_line_str",
	".debug_rnglists", ".debug_addr", ".debug_str_offsets"}

// FuzzTypes reads types from anything: whatever it is, there is a type that can be used, or an error.
func FuzzTypes(f *testing.F) {
	folder := f.TempDir()
	for name, source := range map[string]string{
		"small": "struct s { int a : 3; char b[4]; struct s *next; union { int x; float y; }; }; enum e { A, B = -1 };\n" +
			"typedef struct s t; t v; int f(t x, const char *y, enum e z, ...) { return x.a; }\n" +
			"int (*g(int n))(t *, double) { return 0; } _Complex double c; __int128 w;",
	} {
		program := filepath.Join(folder, name)
		if err := os.WriteFile(program+".c", []byte(source), 0o600); err != nil {
			f.Fatal(err)
		}
		gcc(f, program, program+".c")
		file, err := elf.Open(program)
		if err != nil {
			f.Fatal(err)
		}
		defer file.Close()
		var data [8][]byte
		for i, name := range sections {
			if s := file.Section(name); s != nil {
				if data[i], err = s.Data(); err != nil {
					f.Fatal(err)
				}
			}
		}
		f.Add(data[0], data[1], data[2], data[3], data[4], data[5], data[6], data[7])
	}
	f.Fuzz(func(t *testing.T, abbrev, info, str, ranges, lineStr, rnglists, addr, strOffsets []byte) {
		d, err := dwarf.New(abbrev, nil, nil, info, nil, nil, ranges, str)
		if err != nil {
			return
		}
		for i, b := range [][]byte{lineStr, rnglists, addr, strOffsets} {
			if err := d.AddSection(sections[4+i], b); err != nil {
				return
			}
		}
		readTypes(t, NewTypes(d))
	})
}

// readTypes looks into everything that t has.
func readTypes(t *testing.T, types *Types) {
	m := withProcess()
	use := func(typ *Type, err error) {
		if err != nil || typ == nil {
			return
		}
		_ = typ.String()
		size, err := typ.size()
		if err != nil || size > 1<<16 {
			return
		}
		r := &run{m: m, env: &Env{}}
		v := Value{Type: typ, Bytes: make([]byte, size), Lvalue: true, Addr: fakeScratch}
		_, _ = v.Format(m), v.JSON(m)
		_, _ = classify(typ)
		_, _, _ = returnsIn(typ)
		_, _ = new(Call).pass(v.Bytes, typ)
		_, _ = r.decay(v)
		_, _ = typ.under().member("a", new(int))
		if typ.is(FunctionType) {
			for _, p := range typ.Params {
				if v, err := r.passAs(intValue(1, intType()), p); err == nil {
					_, _ = new(Call).pass(v.Bytes, p)
				}
			}
		}
	}
	_, err := types.Function("f", 0x401000)
	if err != nil || types.makeIndex() != nil {
		return
	}
	for name := range types.index.types {
		use(types.Named(name))
	}
	for name := range types.index.variables {
		use(types.Variable(name, 0))
	}
	for name := range types.index.functions {
		use(types.Function(name, 0))
	}
	for name := range types.index.constants {
		if _, _, err := types.Constant(name); err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
	}
}
