package cexpr

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "ask gdb again what the corpus prints")

// Where functions and variables lie differs between compilers; which symbol an address belongs to does not.
var programAddress = regexp.MustCompile(`\b0x[45][0-9a-f]{5}\b`)

// differences are where gdb 13 does something else, for reasons of its own, and what is right here.
var differences = map[string]string{
	// gdb loses the character before a broken one at the end.
	"ubytes": `"\001\002a", <incomplete sequence \310>`,
	// gdb computes -x as 0-x.
	"-d_nan": "nan(0x8000000001234)",
	// gdb has no integers above 64 bits in arithmetic.
	"i128 = i128 << 100": "1267650600228229401496703205376",
	"i128":               "1267650600228229401496703205376",
	"u128 + 1":           "1267650600228229401496703205384",
	"u128 * 3":           "3802951800684688204490109616149",
	"give_128(i128)":     "1267650600228229401496703205377",
	// C promotes narrow bit-fields to int.
	"bits.a + bits.b": "-2",
	// C can be written so.
	"2[arr]": "3",
	// C's conversions.
	"(unsigned long)1e19": "10000000000000000000",
	"(_Bool)0.5":          "true",
	// A structure that nobody knows can still be pointed at.
	"(struct nothere*)0": "(struct nothere *) 0x0",
	// gdb warns.
	"bits.c = 0x1ffffffffff": "1099511627775",
	"bits.a += 9":            "3",
	// gdb passes vectors as if they were structures.
	"give_v(vec4f, vec4f)": "{4, 8, 12, 18}",
}

// TestCorpus compares what some thousand expressions print with what gdb printed, over the same program in the same
// state. With -update, gdb is asked again.
func TestCorpus(t *testing.T) {
	folder := filepath.Join("testdata", "corpus")
	program := filepath.Join(t.TempDir(), "corpus")
	gcc(t, program, filepath.Join(folder, "corpus.c"))
	golden := filepath.Join(folder, "gdb.txt")
	if *update {
		askGDB(t, program, filepath.Join(folder, "expressions.txt"), golden)
	}
	b, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	h := startHarness(t, program)
	env := &Env{}
	compared := 0
	for entry := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n\n") {
		source, want, ok := strings.Cut(entry, "\n")
		if !ok {
			t.Fatalf("golden entry %q", entry)
		}
		if other, known := differences[source]; known && want != other && !(source == "i128" && want == "-5") {
			want = other
		}
		got, err := printed(h, env, source)
		got = programAddress.ReplaceAllString(got, "0x…")
		switch {
		case strings.HasPrefix(want, "error: ") && err != nil:
		case want == "void" && got == "":
		case err != nil:
			t.Errorf("%s\n%v\nwant %s", source, err, want)
		case got != want:
			t.Errorf("%s\n got %s\nwant %s", source, got, want)
		}
		compared++
	}
	if compared < 1000 {
		t.Errorf("only %d expressions compared", compared)
	}
}

// printed runs one expression.
func printed(m Machine, env *Env, source string) (string, error) {
	p, err := Parse(source)
	if err != nil {
		return "", err
	}
	outcomes, err := p.Run(m, env)
	if err != nil {
		return "", err
	}
	return outcomes[len(outcomes)-1].Text, nil
}

// askGDB writes what gdb prints: the expression, what it prints without $1 =, an empty line.
func askGDB(t *testing.T, program, expressions, golden string) {
	t.Helper()
	answers := filepath.Join(t.TempDir(), "answers")
	cmd := exec.Command("gdb", "-nx", "-batch", "-x", filepath.Join("testdata", "corpus", "ask.py"), program)
	cmd.Env = append(os.Environ(), "CORPUS_IN="+expressions, "CORPUS_OUT="+answers, "LC_ALL=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gdb: %v\n%s", err, out)
	}
	b, err := os.ReadFile(answers)
	if err != nil {
		t.Fatal(err)
	}
	number := regexp.MustCompile(`(?m)^\$\d+ = `)
	text := programAddress.ReplaceAllString(number.ReplaceAllString(string(b), ""), "0x…")
	if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
