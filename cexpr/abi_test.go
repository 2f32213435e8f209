package cexpr

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heaptap/heaptap/mem"
)

var (
	abiSeed  = flag.Uint64("abiseed", 1, "seed of the random signatures; 0: another one each time")
	abiCount = flag.Int("abicount", 1600, "how many random signatures")
)

// signatures writes C functions with random parameters and results. Each compares what it gets with what it should.
type signatures struct {
	rand   *rand.Rand
	source strings.Builder
	types  int
}

// ctype is a type of the generated program: how a variable of it is declared, and how it is compared.
type ctype struct {
	declare  func(name string) string
	leaves   []string // paths from a variable to what can be compared, with "" for the variable itself
	values   func() string
	variadic string // what va_arg asks for; "": the type itself
	wide     bool   // aligned to 16 bytes, and passed in integer registers
	aligned  bool   // to 16 bytes
}

func plain(name string) func(string) string {
	return func(v string) string { return name + " " + v }
}

func (g *signatures) integer(bits uint, signed bool) string {
	n := g.rand.Uint64()
	if g.rand.IntN(3) == 0 {
		n = g.rand.Uint64N(200)
	}
	if signed {
		return fmt.Sprintf("(%d)", int64(n<<(64-bits))>>(64-bits)/2)
	}
	return fmt.Sprintf("%du", n<<(64-bits)>>(64-bits))
}

func (g *signatures) floating() string {
	return fmt.Sprintf("%d.%d", g.rand.IntN(200)-100, g.rand.IntN(8)*125)
}

// scalar chooses a type without members.
func (g *signatures) scalar() ctype {
	integers := []struct {
		name   string
		bits   uint
		signed bool
		as     string
	}{{"char", 8, true, "int"}, {"signed char", 8, true, "int"}, {"unsigned char", 8, false, "int"},
		{"short", 16, true, "int"},
		{"unsigned short", 16, false, "int"}, {"int", 32, true, ""}, {"unsigned", 32, false, ""}, {"long", 62, true, ""},
		{"unsigned long", 64, false, ""}, {"long long", 62, true, ""}, {"void *", 48, false, ""},
		{"small_t", 8, false, "int"},
		{"_Bool", 1, false, "int"}, {"enum level", 2, false, ""}, {"__int128", 62, true, ""}}
	floats := []struct{ name, as string }{{"float", "double"}, {"double", ""}, {"long double", ""}}
	whole := []string{""}
	switch n := g.rand.IntN(20); {
	case n < 11:
		t := integers[g.rand.IntN(len(integers))]
		return ctype{plain(t.name), whole, func() string {
			cast := ""
			if strings.HasSuffix(t.name, "*") || t.name == "enum level" {
				cast = "(" + t.name + ")"
			}
			return cast + g.integer(t.bits, t.signed)
		}, t.as, t.name == "__int128", t.name == "__int128"}
	case n < 17:
		t := floats[g.rand.IntN(len(floats))]
		return ctype{plain(t.name), whole, g.floating, t.as, false, t.name == "long double"}
	case n < 19:
		name := []string{"v4f", "v2d", "v4i", "v2f"}[g.rand.IntN(4)]
		count := int(name[1] - '0')
		var leaves []string
		for i := range count {
			leaves = append(leaves, fmt.Sprintf("[%d]", i))
		}
		return ctype{plain(name), leaves, func() string {
			var list []string
			for range count {
				list = append(list, fmt.Sprint(g.rand.IntN(1000)-500))
			}
			return "{" + strings.Join(list, ", ") + "}"
		}, "", false, name != "v2f"}
	}
	name := []string{"float", "double", "long double"}[g.rand.IntN(3)]
	value := func() string { return g.floating() + " + " + g.floating() + "i" }
	return ctype{plain("_Complex " + name), whole, value, "", false,
		name == "long double"}
}

// any chooses a type of any kind.
func (g *signatures) any(depth int) ctype {
	if depth > 2 || g.rand.IntN(5) < 3 {
		return g.scalar()
	}
	return g.structure(depth)
}

// structure defines a new structure or union.
func (g *signatures) structure(depth int) ctype {
	g.types++
	name := fmt.Sprintf("struct s%d", g.types)
	union := g.rand.IntN(8) == 0
	if union {
		name = fmt.Sprintf("union s%d", g.types)
	}
	count := 1 + g.rand.IntN(3)
	if g.rand.IntN(6) == 0 {
		count = 1 + g.rand.IntN(9)
	}
	var members, leaves []string
	var values []func() string
	wide, aligned := false, false
	for i := range count {
		field := fmt.Sprintf("m%d", i)
		t := g.any(depth + 1)
		wide, aligned = wide || t.wide, aligned || t.aligned
		switch g.rand.IntN(12) {
		case 0: // an array
			n := 1 + g.rand.IntN(3)
			members = append(members, t.declare(fmt.Sprintf("%s[%d]", field, n))+";")
			for k := range n {
				for _, l := range t.leaves {
					leaves = append(leaves, fmt.Sprintf(".%s[%d]%s", field, k, l))
				}
			}
			values = append(values, func() string {
				var list []string
				for range n {
					list = append(list, t.values())
				}
				return "{" + strings.Join(list, ", ") + "}"
			})
			continue
		case 1: // a bit-field
			bits := 1 + g.rand.IntN(31)
			members = append(members, fmt.Sprintf("unsigned %s : %d;", field, bits))
			leaves = append(leaves, "."+field)
			values = append(values, func() string { return fmt.Sprint(g.rand.Uint32() >> (32 - bits)) })
			continue
		}
		members = append(members, t.declare(field)+";")
		for _, l := range t.leaves {
			leaves = append(leaves, "."+field+l)
		}
		values = append(values, t.values)
	}
	wide = wide || union && aligned
	attribute := ""
	switch n := g.rand.IntN(25); {
	case n == 0 && !aligned: // debug information does not say it, and the layout may not either
		attribute = " __attribute__((packed))"
	case n == 1:
		attribute, aligned, wide = " __attribute__((aligned(16)))", true, true
	}
	fmt.Fprintf(&g.source, "%s { %s }%s;\n", name, strings.Join(members, " "), attribute)
	if union { // what is compared is the member that is set
		first := leaves[:0:0]
		for _, l := range leaves {
			if l == ".m0" || strings.HasPrefix(l, ".m0.") || strings.HasPrefix(l, ".m0[") {
				first = append(first, l)
			}
		}
		leaves, values = first, values[:1]
	}
	return ctype{plain(name), leaves, func() string {
		var list []string
		for _, v := range values {
			list = append(list, v())
		}
		return "{" + strings.Join(list, ", ") + "}"
	}, "", wide, aligned}
}

// function writes the nth function with its arguments and its result, and returns the call.
func (g *signatures) function(n int) string {
	result := g.any(0)
	count := g.rand.IntN(6)
	if g.rand.IntN(4) == 0 {
		count = g.rand.IntN(16)
	}
	variadic := count > 1 && g.rand.IntN(4) == 0
	named := count
	if variadic {
		named = 1 + g.rand.IntN(count-1)
	}
	var parameters, arguments, body []string
	for i := range count {
		t := g.any(0)
		for i >= named && t.wide { // gcc 12's va_arg crashes: it takes these out of registers as if those were aligned
			t = g.any(0)
		}
		argument := fmt.Sprintf("arg%d_%d", n, i)
		fmt.Fprintf(&g.source, "%s = %s;\n", t.declare(argument), t.values())
		arguments = append(arguments, argument)
		p := fmt.Sprintf("p%d", i)
		if i < named {
			parameters = append(parameters, t.declare(p))
		} else {
			as := t.declare("")
			if t.variadic != "" {
				as = t.variadic
			}
			body = append(body, fmt.Sprintf("__typeof__(%s) %s = __builtin_va_arg(ap, %s);", argument, p, as))
		}
		for _, l := range t.leaves {
			body = append(body, fmt.Sprintf("if (%s%s != %s%s) wrong++;", p, l, argument, l))
		}
	}
	if variadic {
		parameters = append(parameters, "...")
		body = append([]string{"__builtin_va_list ap;", fmt.Sprintf("__builtin_va_start(ap, p%d);", named-1)}, body...)
		body = append(body, "__builtin_va_end(ap);")
	}
	if len(parameters) == 0 {
		parameters = []string{"void"}
	}
	want := fmt.Sprintf("want%d", n)
	fmt.Fprintf(&g.source, "%s = %s;\n", result.declare(want), result.values())
	fmt.Fprintf(&g.source, "%s(%s)\n{\n\t%s\n\tcalled++;\n\treturn %s;\n}\n", result.declare(fmt.Sprintf("f%d", n)),
		strings.Join(parameters, ", "), strings.Join(body, "\n\t"), want)
	return fmt.Sprintf("f%d(%s)", n, strings.Join(arguments, ", "))
}

const abiPrologue = `
typedef float v4f __attribute__((vector_size(16)));
typedef double v2d __attribute__((vector_size(16)));
typedef int v4i __attribute__((vector_size(16)));
typedef float v2f __attribute__((vector_size(8)));
typedef unsigned char small_t;
enum level { LOW, MIDDLE, HIGH, HIGHER };
int wrong, called;
`

// TestABI calls thousands of functions with random signatures, compiled by gcc, each of which compares its arguments
// with what they should be; results are compared here.
func TestABI(t *testing.T) {
	seed := *abiSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	const parts = 4 // compiled at the same time
	var group sync.WaitGroup
	for part := range parts {
		group.Go(func() {
			t.Run(fmt.Sprint(part), func(t *testing.T) { testABI(t, seed+uint64(part), *abiCount/parts) })
		})
	}
	group.Wait()
}

func testABI(t *testing.T, seed uint64, count int) {
	g := &signatures{rand: rand.New(rand.NewPCG(seed, 1))}
	g.source.WriteString(abiPrologue)
	var calls []string
	for n := range count {
		calls = append(calls, g.function(n))
	}
	folder := t.TempDir()
	source, program := filepath.Join(folder, "abi.c"), filepath.Join(folder, "abi")
	if err := os.WriteFile(source, []byte(g.source.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	gcc(t, program, source)
	h := startHarness(t, program)
	scratch := h.next
	wrong, called := h.variable("wrong"), h.variable("called")
	for n, call := range calls {
		h.next = scratch
		got, err := printed(h, &Env{}, call)
		if errors.Is(err, io.EOF) {
			t.Fatalf("seed %d: the callee crashed: %v", seed, err)
		}
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
			continue
		}
		want, err := printed(h, &Env{}, fmt.Sprintf("want%d", n))
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
			continue
		}
		bad, err := mem.U32(h, wrong)
		if err != nil {
			t.Fatal(err)
		}
		if bad != 0 || got != want {
			f, _ := h.Lookup(fmt.Sprintf("f%d", n))
			t.Errorf("seed %d: %s of type %s: %d parts of arguments are wrong; result %s, want %s", seed, call, f.Type, bad,
				got, want)
			if err := h.WriteAt(make([]byte, 4), wrong); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n, err := mem.U32(h, called); err != nil || int(n) != count {
		t.Errorf("%d calls arrived of %d: %v", n, count, err)
	}
}

// variable is where a variable of the program lies.
func (h *harness) variable(name string) mem.Addr {
	h.t.Helper()
	s := h.symbols[name]
	if len(s) != 1 {
		h.t.Fatalf("%d symbols %s", len(s), name)
	}
	return mem.Addr(s[0].Value)
}
