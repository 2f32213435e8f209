package cexpr

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSyntaxErrors points at what does not parse.
func TestSyntaxErrors(t *testing.T) {
	for source, want := range map[string]string{
		"1 +":                    "expression expected at the end\n  1 +\n     ^",
		"f(1":                    ", or ) expected at the end",
		"1 2":                    "operator or ; expected, found 2\n  1 2\n    ^",
		"":                       "no expression",
		";;":                     "no expression",
		"08":                     `invalid number "08"`,
		"1uu":                    `invalid number "1uu"`,
		"0x":                     `invalid number "0x"`,
		"1e":                     `invalid number "1e"`,
		"'":                      "missing closing '",
		`"abc`:                   "missing closing \"\n  \"abc\n  ^",
		`"\q"`:                   `unknown escape \q`,
		"a.1":                    "operator or ; expected",
		"a.":                     "member's name expected",
		"(int":                   ") expected",
		"(int)":                  "expression expected",
		"(long char)1":           "these words do not name a type together",
		"a ? b":                  ": expected",
		"#":                      "unexpected '#'",
		"/* x":                   "comment does not end",
		"99999999999999999999":   "does not fit 64 bits",
		"sizeof":                 "expression expected",
		"struct x":               "expression expected",
		strings.Repeat("(", 500): "nests too deep",
	} {
		_, err := Parse(source)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %s", source, err, want)
		}
	}
}

// withProcess is a machine that looks like a process with a libc.
func withProcess() *fake {
	f := newFake()
	for name, e := range map[string]Entity{
		"malloc":            {Addr: 0x7f0000001000, Size: 64, Module: "libc.so.6"},
		"fprintf":           {Addr: 0x7f0000002000, Size: 64},
		"open":              {Addr: 0x7f0000002100, Size: 64},
		"cos":               {Addr: 0x7f0000003000, Size: 64},
		"mystery":           {Addr: 0x7f0000004000, Size: 64},
		"snprintf":          {Addr: 0x7f0000005000, Size: 64},
		"_exit":             {Addr: 0x7f0000006000, Size: 64},
		"gettimeofday":      {Addr: 0x7f0000006100, Size: 64},
		"strlen":            {Addr: 0x7f0000007000, Kind: IFunc},
		"libc.so.6!getenv":  {Addr: 0x7f0000008000, Size: 64, Name: "getenv"},
		"memcpy@GLIBC_2.14": {Addr: 0x7f0000008100, Size: 64, Name: "memcpy"},
		"main.c:counter":    {Addr: 0x10100, Kind: Object, Size: 4},
		"stderr":            {Addr: 0x10000, Kind: Object, Size: 8},
		"blob":              {Addr: 0x10200, Kind: Object, Size: 24},
		"odd":               {Addr: 0x10300, Kind: Object},
		"ns::f":             {Addr: 0x7f0000009000, Type: &Type{Kind: FunctionType, Elem: intType()}},
		"BLACK":             {Kind: Constant, Value: 3},
	} {
		if e.Name == "" {
			e.Name = name
		}
		f.entities[name] = e
	}
	f.next = 0x11000
	f.registers["rax"] = []byte{1, 2, 3, 4, 5, 6, 7, 8}
	f.registers["rip"] = binary.LittleEndian.AppendUint64(nil, 0x7f0000001004)
	f.registers["rsp"] = binary.LittleEndian.AppendUint64(nil, 0x7ffc00001000)
	f.registers["eflags"] = []byte{0x46, 2, 0, 0}
	f.registers["st0"] = []byte{0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0x3f}
	f.registers["r8"] = make([]byte, 8)
	f.registers["xmm0"] = append([]byte{0, 0, 128, 63}, make([]byte, 12)...)
	return f
}

// TestRun is what gdb is not asked: what depends on a process, or is heaptap's own.
func TestRun(t *testing.T) {
	for _, c := range []struct{ source, want string }{
		{"$rax", "578437695752307201"},
		{"$eax", "67305985"},
		{"$ax", "513"},
		{"$al", "1"},
		{"$ah", "2"},
		{"$al = 9; $rax", "578437695752307209"},
		{"$rip", "(void (*)()) 0x7f0000001004 <malloc+4>"},
		{"$rsp", "(void *) 0x7ffc00001000"},
		{"$rsp + 8", "(void *) 0x7ffc00001008"},
		{"$eflags", "[ PF ZF IF ]"},
		{"$eflags & 4", "4"},
		{"$st0", "1.5"},
		{"$st0 * 2", "3"},
		{"$r8 = -1; $r8d", "-1"},
		{"$xmm0.v4_float", "{1, 0, 0, 0}"},
		{"$xmm0.v4_float[0] = 2; $xmm0.v4_int32", "{1073741824, 0, 0, 0}"},
		{"$xmm0", "{v8_bfloat16 = {0, 1, 0, 0, 0, 0, 0, 0}, v8_half = {0, 1.875, 0, 0, 0, 0, 0, 0}, " +
			"v4_float = {1, 0, 0, 0}, v2_double = {5.2635442471208903e-315, 0}, v16_int8 = {0, 0, -128, 63, 0 <repeats 12 times>}, " +
			"v8_int16 = {0, 16256, 0, 0, 0, 0, 0, 0}, v4_int32 = {1065353216, 0, 0, 0}, v2_int64 = {1065353216, 0}, " +
			"uint128 = 1065353216}"},
		{"1; $1 + 1; $ + $1", "3"},
		{"$a = 5, $a * 2", "10"},
		{"malloc", "{void *(size_t)} 0x7f0000001000 <malloc>"},
		{"mystery", "{<text variable, no debug info>} 0x7f0000004000 <mystery>"},
		{"&mystery", "(<text variable, no debug info> *) 0x7f0000004000 <mystery>"},
		{"(long)mystery", "139637976743936"},
		{"(int)mystery(1)", "-2"},
		{"(double)mystery(1)", "0.5"},
		{"(char *)mystery()", `0xfffffffffffffffe <error: Cannot access memory at address 0xfffffffffffffffe>`},
		{"((long (*)(int))mystery)(3)", "-2"},
		{"((long (*)(int))0x7f0000004000)(3)", "-2"},
		{"blob", `'\000' <repeats 23 times>`},
		{"*(int *)&blob", "0"},
		{"(long)blob", "0"},
		{"main.c:counter = 7; main.c:counter", "7"},
		{"'main.c'::counter", "0"},
		{"libc.so.6!getenv", "{char *(const char *)} 0x7f0000008000 <libc.so.6!getenv>"},
		{"memcpy@GLIBC_2.14", "{void *(void *, const void *, size_t)} 0x7f0000008100 <memcpy@GLIBC_2.14>"},
		{"ns::f()", "-2"},
		{"BLACK + 1", "4"},
		{"O_RDONLY | O_CREAT", "64"},
		{"NULL", "(void *) 0x0"},
		{"(FILE *)0", "(FILE *) 0x0"},
		{"(PyObject *)16", "(PyObject *) 0x10"},
		{"sizeof(size_t) + sizeof(pid_t)", "12"},
		{"sizeof(struct timeval)", "16"},
		{"strlen", "{size_t (const char *)} 0xfffffffffffffffe"},
		{"(size_t)1", "1"},
		{"(size_t)(1)", "1"},
		{"(uint8_t)65", "65 'A'"},
		{"errno", "2"},
		{"1 ? 2 : malloc(3)", "2"},
		{"0 && malloc(3)", "0"},
		{"sizeof(malloc(3))", "8"},
	} {
		f := withProcess()
		f.errno = 2
		f.results = []Result{{RAX: ^uint64(1), XMM0: [16]byte{6: 0xe0, 7: 0x3f}}}
		got, err := printed(f, &Env{}, c.source)
		if err != nil || got != c.want {
			t.Errorf("%s:\n got %s, %v\nwant %s", c.source, got, err, c.want)
		}
	}
}

// TestRunErrors says what cannot be done, why, and where.
func TestRunErrors(t *testing.T) {
	for source, want := range map[string]string{
		"mystery(1)":          "'mystery' has unknown return type; cast the call to its declared return type",
		"1 + nosuch":          "no symbol \"nosuch\"; similar: ns::f\n  1 + nosuch\n      ^",
		"malloc()":            "too few arguments: 0 of 1 for void *(size_t)",
		"malloc(1, 2)":        "too many arguments: 2 for void *(size_t)\n  malloc(1, 2)\n            ^",
		"malloc(\"x\" + 1.5)": "no operation +",
		"*malloc":             "",
		"odd":                 "it has an unknown type; cast it to its declared type",
		"&1":                  "it has no address",
		"1 = 2":               "it cannot be assigned to",
		"$nothere.x":          "a value of type void has no members",
		"$r8 = \"x\"":         "",
		"&$rax":               "a register has no address",
		"*(int *)8":           "cannot access memory at address 0x8",
		"(struct nothere)1":   "from int to struct nothere: no such conversion",
		"(nothere *)1":        "no type is known as nothere",
		"sizeof(nothere)":     "no symbol \"nothere\"",
		"$9":                  "there is no result $9 yet",
		"buf(0)":              "a buffer has 1 to",
		"1.5 % 2":             "no operation % on floating values",
		"1 / 0":               "division by zero\n  1 / 0\n    ^",
		"*(void *)0":          "a pointer to void points at nothing known; cast it",
		"$ymm0":               "no register $ymm0",
		"a b":                 "",
	} {
		f := withProcess()
		_, err := printed(f, &Env{}, source)
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %s", source, err, want)
		}
	}
	f := withProcess()
	f.refuse = errors.New("registers stay as they are")
	if _, err := printed(f, &Env{}, "$rax = 1"); !errors.Is(err, f.refuse) {
		t.Errorf("a refused register: %v", err)
	}
}

// TestCallLayout lays out the call that the README promises.
func TestCallLayout(t *testing.T) {
	f := withProcess()
	f.results = []Result{{RAX: 40}}
	if err := f.WriteAt([]byte{0, 0x20, 1, 0, 0, 0, 0, 0}, 0x10000); err != nil {
		t.Fatal(err)
	}
	got, err := printed(f, &Env{}, `fprintf(stderr, "instruction pointer = %p %f\n", $rip, 1.5f)`)
	if err != nil || got != "40" {
		t.Fatalf("%s, %v", got, err)
	}
	want := Call{Int: [6]uint64{0x12000, 0x11000, 0x7f0000001004}, Ints: 3, Vectors: 1}
	want.Vector[0] = [16]byte{6: 0xf8, 7: 0x3f}
	if diff := cmp.Diff(want, f.calls[0]); diff != "" {
		t.Error(diff)
	}
	b := make([]byte, 32)
	if err := f.ReadAt(b, 0x11000); err != nil || string(b[:31]) != "instruction pointer = %p %f\n\x00\x00\x00" {
		t.Errorf("the string in the target: %q, %v", b, err)
	}
}

// TestBuffers prints what a call left in a buffer.
func TestBuffers(t *testing.T) {
	f := withProcess()
	p, err := Parse(`$b = buf(16), snprintf($b, 16, "x"), $b[0] = 'o', $b[1] = 'k'; snprintf(buf(4), 4, "")`)
	if err != nil {
		t.Fatal(err)
	}
	f.results = []Result{{RAX: 2}, {RAX: ^uint64(0)}}
	f.errno = 9
	outcomes, err := p.Run(f, &Env{})
	if err != nil || len(outcomes) != 2 {
		t.Fatalf("%v, %v", outcomes, err)
	}
	if got := outcomes[0].String(); got != "$1 = 107 'k'\nbuf(16) = \"ok\", '\\000' <repeats 13 times>\n" {
		t.Errorf("%q", got)
	}
	if got := outcomes[1].String(); got != "$2 = -1  errno = 9 (EBADF: bad file descriptor)\nbuf(4) = \"\\000\\000\"\n" &&
		got != "$2 = -1  errno = 9 (EBADF: bad file descriptor)\nbuf(4) = \"\\000\\000\\000\"\n" {
		t.Errorf("%q", got)
	}
	b, err := json.Marshal(outcomes[1])
	want := `{"expression":"snprintf(buf(4), 4, \"\")","number":2,"type":"int","value":-1,"text":"-1",` +
		`"errno":{"number":9,"name":"EBADF","message":"bad file descriptor"},` +
		`"buffers":[{"address":"0x11020","bytes":"AAAAAA==","text":"\"\\000\\000\\000\""}]}`
	if err != nil || string(b) != want {
		t.Errorf("%s, %v\nwant %s", b, err, want)
	}
}

// TestExplain plans nested calls without making any.
func TestExplain(t *testing.T) {
	f := withProcess()
	p, err := Parse(`$p = malloc(10); fprintf(stderr, "%p %s", $p, (char *)malloc(20) + 1); strlen("x") ? _exit(1) : 0`)
	if err != nil {
		t.Fatal(err)
	}
	env := &Env{}
	plans, err := p.Explain(f, env)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range plans {
		line := c.Source + " " + c.Type.String() + " from " + c.TypeFrom + " -> " + c.Returns
		for _, a := range c.Arguments {
			line += "; " + a.Where + ": " + a.Source + ": " + a.Text
		}
		got = append(got, line)
	}
	want := []string{
		"malloc(10) void *(size_t) from built-in prototypes -> rax; rdi: 10: 10",
		"malloc(20) void *(size_t) from built-in prototypes -> rax; rdi: 20: 20",
		`fprintf(stderr, "%p %s", $p, (char *)malloc(20) + 1) int (FILE *, const char *, ...) from built-in prototypes` +
			` -> rax; rdi: stderr: (FILE *) 0x0; rsi: "%p %s": "%p %s", placed in the target; rdx: $p: the result of call 1` +
			`; rcx: (char *)malloc(20) + 1: computed from the result of call 2`,
		"resolver of strlen void *(void) from indirect function -> rax",
		`strlen("x") size_t (const char *) from built-in prototypes -> rax; rdi: "x": "x", placed in the target`,
		"_exit(1) void (int) from built-in prototypes -> nothing; rdi: 1: 1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(f.calls) > 0 || f.next != 0x11000 || len(env.vars) > 0 || len(env.history) > 0 {
		t.Error("explaining did something")
	}
}

// TestJSON writes values of each kind for scripts.
func TestJSON(t *testing.T) {
	f := withProcess()
	pair := &Type{Kind: Struct, Name: "struct pair", Size: 16, Fields: []Field{
		{Name: "n", Type: intType()},
		{Name: "s", Type: pointerTo(charType()), Offset: 8}}}
	f.types["struct pair"] = pair
	copy(f.Segments[0].Data[0x100:], "text\x00")
	copy(f.Segments[0].Data[0x200:], []byte{5, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1})
	for source, want := range map[string]string{
		"1":                           "1",
		"'a'":                         "97",
		"1.5":                         "1.5",
		"1/0.0":                       `"inf"`,
		"(_Bool)1":                    "true",
		"18446744073709551615u":       "18446744073709551615",
		`"abc"`:                       `"abc"`,
		`"\xff"`:                      `{"hex":"ff"}`,
		"(void *)0":                   `{"address":"0x0"}`,
		"malloc":                      `{"address":"0x7f0000001000","symbol":"malloc"}`,
		"(char *)0x10100":             `{"address":"0x10100","symbol":"main.c:counter","string":"text"}`,
		"*(struct pair *)0x10200":     `{"n":5,"s":{"address":"0x10100","symbol":"main.c:counter","string":"text"}}`,
		"*(int (*)[2])0x10200":        "[5,0]",
		"(void)0":                     "null",
		"((struct pair *)0x10200)->n": "5",
	} {
		p, err := Parse(source)
		if err != nil {
			t.Fatal(err)
		}
		o, err := p.Run(f, &Env{})
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		got := string(o[0].Data)
		if got == "" {
			got = "null"
		}
		if got != want || !json.Valid([]byte(got)) {
			t.Errorf("%s: %s, want %s", source, got, want)
		}
	}
}
