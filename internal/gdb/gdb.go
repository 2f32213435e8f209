// Package gdb has a gdb attached to a process, as a witness in tests for what its threads' stacks are.
//
// One who traces a process keeps all others from it: whatever a test does by ptrace comes before Attach or after End.
package gdb

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/heaptap/heaptap/mem"
)

//go:embed bt.py
var script []byte

// patience is how long gdb may take for one answer.
const patience = 60 * time.Second

// Debugger is a gdb that has stopped a process.
type Debugger struct {
	t       testing.TB
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers *os.File
	lines   *bufio.Scanner
	said    output
}

// Thread is a thread as gdb sees it.
type Thread struct {
	Regs   [17]uint64 // by DWARF number
	PCs    []mem.Addr // of its frames, innermost first, without those of inlined functions and of tail calls
	Reason string     // why there are no more
	Result uint64     // of a function
}

// Attach has gdb attach to a process. Where a test fails, it is killed with the test's end, perhaps after the process.
func Attach(t testing.TB, pid int) *Debugger {
	t.Helper()
	if _, err := exec.LookPath("gdb"); err != nil && os.Getenv("CI") == "" {
		t.Skip("no gdb here to compare with")
	}
	file := filepath.Join(t.TempDir(), "bt.py")
	if err := os.WriteFile(file, script, 0o600); err != nil {
		t.Fatal(err)
	}
	commands, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, answers, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d := &Debugger{t: t, in: in, answers: out, lines: bufio.NewScanner(out)}
	d.lines.Buffer(nil, 1<<20)
	d.cmd = exec.Command("gdb", "-nx", "-q", "-batch", "-p", fmt.Sprint(pid), "-x", file)
	d.cmd.ExtraFiles = []*os.File{commands, answers}
	d.cmd.Stdout, d.cmd.Stderr = &d.said, &d.said
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	commands.Close()
	answers.Close()
	t.Cleanup(d.End)
	return d
}

type output []byte

func (o *output) Write(b []byte) (int, error) {
	*o = append(*o, b...)
	return len(b), nil
}

// Ask has gdb do one of the things that bt.py lists, and returns what it finds then.
func (d *Debugger) Ask(command string) []Thread {
	d.t.Helper()
	fmt.Fprintln(d.in, command)
	d.answers.SetReadDeadline(time.Now().Add(patience))
	if !d.lines.Scan() {
		d.t.Fatalf("gdb has no answer to %q: %v", command, d.lines.Err())
	}
	var threads []Thread
	if err := json.Unmarshal(d.lines.Bytes(), &threads); err != nil {
		d.t.Fatal(err)
	}
	return threads
}

// Allocators says where the functions begin at which Allocation stops.
func (d *Debugger) Allocators(entries []mem.Addr) {
	d.t.Helper()
	command := "allocators"
	for _, e := range entries {
		command += " " + e.String()
	}
	d.Ask(command)
}

// Elsewhere lets the process go on to its next SIGPROF, whatever it allocates meanwhile.
func (d *Debugger) Elsewhere() {
	d.t.Helper()
	d.Ask("elsewhere")
}

// Allocation lets n calls of the allocators go by. It returns the next caller's thread, of which the first frame is the
// allocator's, as it was at the call, and is back when that call has returned.
func (d *Debugger) Allocation(n int) Thread {
	d.t.Helper()
	return d.Ask(fmt.Sprint("allocation ", n))[0]
}

// End has gdb let go of the process.
func (d *Debugger) End() {
	if d.cmd.ProcessState != nil {
		return
	}
	d.in.Close()
	if d.t.Failed() {
		d.cmd.Process.Kill() // it may wait for the process for ever
	}
	d.cmd.Wait()
	d.answers.Close()
	if d.t.Failed() {
		d.t.Logf("gdb said: %s", strings.TrimSpace(string(d.said)))
	}
}
