package demo

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestServes(t *testing.T) {
	s, err := Start(t.Context(), "python3", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for tick := time.Tick(10 * time.Millisecond); ; {
		if answered, _ := s.Visits(); answered >= 40 {
			break
		}
		select {
		case <-tick:
		case <-deadline.C:
			t.Fatalf("forty requests were not answered in time: %s", s.output.lastLine())
		}
	}
	if _, failed := s.Visits(); failed != 0 {
		t.Errorf("%d requests failed: %s", failed, s.output.text)
	}
	s.Close()
	if err := syscall.Kill(s.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("after Close the server's process %d: %v, want none", s.Pid, err)
	}
	s.Close()
}

func TestNoPython(t *testing.T) {
	if _, err := Start(t.Context(), "python-that-is-not-there", t.TempDir()); !errors.Is(err, ErrNoPython) {
		t.Errorf("error %v, want ErrNoPython", err)
	}
}

// A Python that cannot run the program is told from one that can, with its last words.
func TestUnusablePython(t *testing.T) {
	dir := t.TempDir()
	fake := filepath.Join(dir, "python3")
	script := "#!/bin/sh\necho first >&2\necho 'SyntaxError: too old' >&2\nexit 1\n"
	if err := os.WriteFile(fake, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), fake, dir)
	if !errors.Is(err, ErrNoPython) || !strings.Contains(err.Error(), "SyntaxError: too old") {
		t.Errorf("error %v, want ErrNoPython with the last line of stderr", err)
	}
}

// Ctrl-C while Python is starting leaves nothing behind.
func TestInterruptedStart(t *testing.T) {
	dir := t.TempDir()
	fake := filepath.Join(dir, "python3")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\ncat\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, fake, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}
