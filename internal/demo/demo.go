// Package demo runs the small leaking server that ships with heaptap, with a load of innocent visitors, so that
// there is something to track. It knows nothing of tracking.
package demo

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

//go:embed shop.py
var source []byte

// SourceName is the name of the server's program in its folder.
const SourceName = "shop.py"

// ErrNoPython says that there is no Python to run the server with.
var ErrNoPython = errors.New("no usable python3")

// Server is a running server. Close ends it.
type Server struct {
	Pid    int    // of the Python, which is not our own child where python3 is a wrapper
	Source string // path of the program

	command *exec.Cmd
	stdin   io.Closer
	output  *tail
	visits  *visitors
	end     sync.Once
}

// startLimit bounds the time between starting Python and its first words.
const startLimit = 20 * time.Second

// minimum is the oldest Python that runs the server.
const minimum = "3.6"

// Start writes the server's program into dir, runs it with the interpreter python (a path, or a name to be found in
// PATH), waits until it serves and lets visitors in. The context bounds the start only.
func Start(ctx context.Context, python, dir string) (*Server, error) {
	path, err := exec.LookPath(python)
	if err != nil {
		return nil, fmt.Errorf("start demo server: %w: %w", ErrNoPython, err)
	}
	program := filepath.Join(dir, SourceName)
	if err := os.WriteFile(program, source, 0o644); err != nil {
		return nil, fmt.Errorf("start demo server: %w", err)
	}
	s := &Server{Source: program, output: &tail{}}
	stdout, err := s.start(path, program)
	if err != nil {
		return nil, fmt.Errorf("start demo server: %w", err)
	}
	port, err := s.greeting(ctx, stdout)
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("start demo server: %s: %w", path, err)
	}
	s.visits = visit(fmt.Sprintf("http://127.0.0.1:%d", port))
	return s, nil
}

// start runs Python in a process group of its own, so that a Ctrl-C in the terminal reaches heaptap alone, which then
// detaches before it ends the server. Should heaptap be killed, the end of stdin ends the server.
func (s *Server) start(python, program string) (io.Reader, error) {
	s.command = exec.Command(python, "-I", "-u", program)
	s.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.command.Stderr = s.output
	in, err := s.command.StdinPipe()
	if err != nil {
		return nil, err
	}
	s.stdin = in
	// Not StdoutPipe: Wait would close it under the reader.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.command.Stdout = w
	err = s.command.Start()
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// greeting reads the one line that the server writes: its port and its pid.
func (s *Server) greeting(ctx context.Context, stdout io.Reader) (port int, err error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(stdout).ReadString('\n')
		line <- text
	}()
	select {
	case text := <-line:
		if _, err := fmt.Sscanf(text, "serving %d %d", &port, &s.Pid); err == nil {
			return port, nil
		}
		s.Close()
		return 0, fmt.Errorf("%w (%s or later is needed): %s", ErrNoPython, minimum, s.output.lastLine())
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// patience is how long a server may take to end by itself.
const patience = 2 * time.Second

// kill ends the server's process group, which also holds what a wrapper started.
func (s *Server) kill() { syscall.Kill(-s.command.Process.Pid, syscall.SIGKILL) }

// Visits is how many requests were answered, and how many were not.
func (s *Server) Visits() (answered, failed int64) {
	return s.visits.answered.Load(), s.visits.failed.Load()
}

// Close ends visitors and server and waits until both are gone. It may be called again.
//
// Nothing waits for the server before: a wait in the process that traces it, by whatever thread and for whatever state,
// would take the ptrace stops that the tracer waits for (wait_task_stopped in the kernel's exit.c).
func (s *Server) Close() {
	s.end.Do(func() {
		if s.visits != nil {
			s.visits.stop()
		}
		s.stdin.Close()
		timer := time.AfterFunc(patience, s.kill)
		s.command.Wait() // how it ended does not matter, nor does that it was killed
		timer.Stop()
	})
}

// tail keeps the end of what a process says on stderr.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if extra := len(t.text) - tailSize; extra > 0 {
		t.text = t.text[extra:]
	}
	return len(p), nil
}

func (t *tail) lastLine() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimSpace(string(t.text))
	if text == "" {
		return "it said nothing"
	}
	return text[strings.LastIndexByte(text, '\n')+1:]
}
