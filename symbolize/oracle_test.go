package symbolize_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/heap"
)

// addresses picks random addresses in a file's code.
func addresses(t testing.TB, file string, n int) []uint64 {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "readelf", "-SW", file).Output()
	if err != nil {
		t.Fatalf("readelf %s: %v", file, err)
	}
	for line := range strings.Lines(string(out)) {
		_, rest, ok := strings.Cut(line, "] .text ")
		if !ok {
			continue
		}
		fields := strings.Fields(rest) // type, address, offset, size
		start, err1 := strconv.ParseUint(fields[1], 16, 64)
		size, err2 := strconv.ParseUint(fields[3], 16, 64)
		if err1 != nil || err2 != nil {
			t.Fatal(line)
		}
		var list []uint64
		rng := rand.New(rand.NewPCG(1, 2))
		for range n {
			list = append(list, start+rng.Uint64N(size))
		}
		slices.Sort(list)
		return list
	}
	t.Fatalf("%s has no .text", file)
	return nil
}

// witness asks addr2line: for each address the calls, innermost first, as "function file:line".
func witness(t testing.TB, file string, list []uint64) [][]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "addr2line", "-a", "-i", "-f", "-C", "-e", file)
	var in bytes.Buffer
	for _, a := range list {
		fmt.Fprintf(&in, "%#x\n", a)
	}
	cmd.Stdin = &in
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("addr2line: %v", err)
	}
	var answers [][]string
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text := lines.Text()
		if strings.HasPrefix(text, "0x") {
			answers = append(answers, nil)
			continue
		}
		lines.Scan()
		where, _, _ := strings.Cut(lines.Text(), " (discriminator")
		last := &answers[len(answers)-1]
		*last = append(*last, call(text, where))
	}
	if len(answers) != len(list) {
		t.Fatalf("addr2line answers %d of %d addresses", len(answers), len(list))
	}
	return answers
}

// call is one form for what addr2line and we say of a call.
func call(function, where string) string {
	file, line, _ := strings.Cut(where, ":")
	if line == "" || line == "?" {
		line = "0"
	}
	if file == "??" || file == "" {
		file = "."
	}
	return function + " " + path.Clean(file) + ":" + line
}

func calls(chain []heap.Frame) []string {
	var list []string
	for _, f := range chain {
		function := f.Func
		if function == "" {
			function = "??"
		}
		list = append(list, call(function, fmt.Sprintf("%s:%d", f.File, f.Line)))
	}
	if len(list) == 0 {
		list = []string{call("??", "??:0")}
	}
	return list
}

// buildID is that of a file.
func buildID(t testing.TB, file string) string {
	t.Helper()
	f, err := dso.OpenFile(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return hex.EncodeToString(f.BuildID())
}

// framesAt are frames as a snapshot has them.
func framesAt(module, id string, list []uint64) []heap.Frame {
	var frames []heap.Frame
	for _, a := range list {
		frames = append(frames, heap.Frame{Module: module, BuildID: id, Addr: a})
	}
	return frames
}
