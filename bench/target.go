package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A target is a running Python with workloads/driver.py, which obeys a command at a time.
type target struct {
	pid     int
	dir     string // its programs, as seen from here
	within  string // the same, as the target sees it
	cmd     *exec.Cmd
	stop    context.CancelFunc
	in      io.WriteCloser
	answers *bufio.Reader
	stderr  bytes.Buffer
}

// runLimit ends a target that has hung.
const runLimit = 15 * time.Minute

// start starts the interpreter with its driver. It is ready when it answers the first command.
func start(ctx context.Context, in interpreter) (*target, error) {
	parent := os.TempDir()
	if in.Root != "" {
		parent = filepath.Join(in.Root, "tmp")
	}
	dir, err := stage(parent, in.library)
	if err != nil {
		return nil, err
	}
	t := &target{dir: dir, within: dir}
	argv := []string{in.Path}
	if in.Root != "" {
		t.within = path.Join("/tmp", filepath.Base(dir))
		// unshare replaces itself, so that the pid is Python's in the end.
		argv = []string{"unshare", "--mount", "--mount-proc", "--root=" + in.Root, "--wd=/", in.Path}
	}
	argv = append(argv, "-s", "-B", path.Join(t.within, "driver.py"))
	ctx, t.stop = context.WithTimeout(ctx, runLimit)
	t.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
	// Nothing of the caller's environment changes what Python does, and hashes are the same in every run.
	t.cmd.Env = []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/", "LC_ALL=C.UTF-8", "PYTHONHASHSEED=0"}
	t.cmd.Stderr = &t.stderr
	if err := t.begin(); err != nil {
		t.stop()
		return nil, errors.Join(fmt.Errorf("start %s: %w", in.Path, err), os.RemoveAll(dir))
	}
	return t, nil
}

func (t *target) begin() error {
	var err error
	if t.in, err = t.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	t.answers = bufio.NewReader(out)
	if err := t.cmd.Start(); err != nil {
		return err
	}
	t.pid = t.cmd.Process.Pid
	return nil
}

// do sends one command and decodes the answer into answer, which may be nil.
func (t *target) do(command string, answer any) error {
	if _, err := fmt.Fprintln(t.in, command); err != nil {
		return fmt.Errorf("target %q: %w", command, t.died(err))
	}
	line, err := t.answers.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("target %q: %w", command, t.died(err))
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(line, answer); err != nil {
		return fmt.Errorf("target %q: answer %q: %w", command, line, err)
	}
	return nil
}

// died says why a target's pipe has ended: how it exited, and the last line that it wrote to its standard error.
func (t *target) died(err error) error {
	t.stop()
	if waited := t.cmd.Wait(); waited != nil {
		err = waited
	}
	lines := strings.Split(strings.TrimSpace(t.stderr.String()), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return fmt.Errorf("%w: %s", err, last)
	}
	return err
}

// exit has the target leave by itself: one that fails to has been harmed.
func (t *target) exit() error {
	if err := t.do("exit", nil); err != nil {
		return err
	}
	if err := t.cmd.Wait(); err != nil {
		return fmt.Errorf("target exit: %w", t.died(err))
	}
	return nil
}

// close kills the target if it still runs and removes what was staged for it.
func (t *target) close() {
	t.stop()
	if t.cmd.ProcessState == nil {
		t.cmd.Wait() // killed: its status says nothing
	}
	os.RemoveAll(t.dir) // a leftover below the temporary directory is harmless
}

// resetPeak makes the kernel forget the highest resident size so far (proc(5), clear_refs, since Linux 4.0).
func (t *target) resetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", t.pid), []byte("5"), 0)
}

// peak is the highest resident size since start or [target.resetPeak], in bytes. Shared memory, as tables in a memfd
// are, counts as far as the target itself has touched it.
func (t *target) peak() (uint64, error) {
	name := fmt.Sprintf("/proc/%d/status", t.pid)
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", name, err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("read %s: no VmHWM", name)
}
