package agent

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// hostedFlags compile the agent's sources as an ordinary program. The linker puts the tables where the linker script
// would put them, above the heap and below the sanitizers' own memory; that they go on behind their header is what the compiler is told not to warn of.
var hostedFlags = []string{
	"-std=gnu11", "-DHT_HOSTED", "-O1", "-g", "-pthread", "-no-pie",
	"-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-Wno-stringop-overflow", "-Wno-array-bounds",
	"-fno-sanitize-recover=all",
	"-Wl,--defsym=ht_tables=0x50000000,--defsym=ht_flag=0x4ff00000",
}

// hosted builds the test program with some sanitizers and returns its path.
func hosted(t testing.TB, sanitizers ...string) string {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the agent's C tests need gcc: %v", err)
		}
		t.Skipf("the agent's C tests need gcc: %v", err)
	}
	// The compiler's reading is unknown to the go command, which would show an older result for other sources.
	sources, err := filepath.Glob("*/*.[ch]") // src and test
	if err != nil || len(sources) == 0 {
		t.Fatalf("sources: %v, %v", sources, err)
	}
	for _, name := range sources {
		if _, err := os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(t.TempDir(), "hosted")
	args := append([]string{"-o", program, "test/hosted.c"}, hostedFlags...)
	args = append(append(args, sanitizers...), "-lm")
	if out, err := exec.Command(gcc, args...).CombinedOutput(); err != nil {
		t.Fatalf("build the hosted agent: %v\n%.4000s", err, out)
	}
	return program
}

// TestHosted runs the C tests of the tables (test) under the address and undefined behaviour sanitizers.
func TestHosted(t *testing.T) {
	// The tables are one object of which the compiler knows the header only.
	program := hosted(t, "-fsanitize=address,undefined", "-fno-sanitize=object-size")
	names, err := exec.Command(program, "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.Lines(string(names)) {
		name = strings.TrimSpace(name)
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			runHosted(t, program, "test", name)
		})
	}
}

// TestHostedThreads runs the C tests that use several threads under the thread sanitizer.
func TestHostedThreads(t *testing.T) {
	program := hosted(t, "-fsanitize=thread")
	for _, name := range []string{"concurrent", "threads takeover race"} {
		runHosted(t, program, "test", name)
	}
}

// runHosted runs the program with a seed that it logs, and returns what it prints.
func runHosted(t *testing.T, program string, args ...string) []byte {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	cmd := exec.CommandContext(t.Context(), program, append(args, fmt.Sprint(seed))...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%.8000s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}
