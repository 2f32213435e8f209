// Package proc tells what /proc knows of a process: who it is, its mappings, threads, states and namespaces, and gives
// access to its live memory.
//
// It stops nothing and traces nothing. A Process is pinned to one life of a pid (pid and start time), so that a pid
// used again by another process is an error, never a silent switch. Methods may be called from several goroutines.
package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Errors on which callers branch. They come wrapped, with the pid.
var (
	ErrGone   = errors.New("no such process")
	ErrReused = errors.New("pid was given to another process")
	ErrZombie = errors.New("process has ended and waits for its parent (zombie)")
)

// Process is one life of one process.
type Process struct {
	Pid int

	start uint64 // field 22 of /proc/PID/stat, clock ticks since boot

	memOnce sync.Once
	mem     *Mem
	memErr  error
}

// Open pins the process that has this pid now.
func Open(pid int) (*Process, error) {
	if pid <= 0 {
		return nil, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	p := &Process{Pid: pid}
	st, err := p.Stat(pid)
	if err != nil {
		return nil, err
	}
	p.start = st.StartTicks
	return p, nil
}

// StartTicks is when the process started, in clock ticks since boot: with the pid it names this life.
func (p *Process) StartTicks() uint64 { return p.start }

// Check reports whether the process that was opened still has the pid and still runs: nil, or an error that wraps
// [ErrGone], [ErrReused] or [ErrZombie]. A process whose first thread has ended but that has others still runs.
func (p *Process) Check() error {
	st, err := p.Stat(p.Pid)
	if err != nil {
		return err
	}
	if st.StartTicks != p.start {
		return fmt.Errorf("process %d: %w", p.Pid, ErrReused)
	}
	if st.ended() {
		_, err := p.LiveThread()
		return err
	}
	return nil
}

// LiveThread is a thread of the process that has not ended: the first one, where it can be. Once the first thread has
// ended, most of /proc/PID is empty, and what concerns all threads must be asked of another.
func (p *Process) LiveThread() (int, error) {
	if st, err := p.Stat(p.Pid); err != nil {
		return 0, err
	} else if !st.ended() {
		return p.Pid, nil
	}
	tids, err := p.Threads()
	if err != nil {
		return 0, err
	}
	for _, tid := range tids {
		if st, err := p.Stat(tid); err == nil && !st.ended() {
			return tid, nil
		}
	}
	return 0, fmt.Errorf("process %d: %w", p.Pid, ErrZombie)
}

// livePath is the path of an entry of /proc/PID that a first thread that has ended would not have.
func (p *Process) livePath(entry string) (string, error) {
	tid, err := p.LiveThread()
	if err != nil {
		return "", err
	}
	return p.Path("task", strconv.Itoa(tid), entry), nil
}

// Path returns the path of an entry of /proc/PID.
func (p *Process) Path(elem ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(p.Pid)}, elem...)...)
}

// Root is the target's root directory as seen from here: a path inside the target, appended to Root, opens the file
// that the target would open.
func (p *Process) Root() string { return p.Path("root") }

// Exe is the program's path in the target's own file system, with " (deleted)" where that is so.
func (p *Process) Exe() (string, error) {
	path, err := p.livePath("exe")
	if err != nil {
		return "", err
	}
	s, err := os.Readlink(path)
	return s, p.wrap(err)
}

// Threads lists the thread ids, ascending. It is a moment's truth.
func (p *Process) Threads() ([]int, error) {
	names, err := readDirNames(p.Path("task"))
	if err != nil {
		return nil, p.wrap(err)
	}
	tids := make([]int, 0, len(names))
	for _, n := range names {
		if tid, err := strconv.Atoi(n); err == nil {
			tids = append(tids, tid)
		}
	}
	slices.Sort(tids)
	return tids, nil
}

// Auxv is the auxiliary vector that the kernel gave the program at exec, by AT_ number.
func (p *Process) Auxv() (map[uint64]uint64, error) {
	b, err := p.readLive("auxv")
	if err != nil {
		return nil, err
	}
	return parseAuxv(b)
}

// readLive reads a file that a first thread that has ended would show empty.
func (p *Process) readLive(entry string) ([]byte, error) {
	path, err := p.livePath(entry)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	return b, p.wrap(err)
}

// wrap turns a file error about /proc/PID into one that says what became of the process.
func (p *Process) wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH):
		return fmt.Errorf("process %d: %w", p.Pid, ErrGone)
	default:
		return fmt.Errorf("process %d: %w", p.Pid, err)
	}
}

// List returns the pids that exist now, ascending.
func List() ([]int, error) {
	names, err := readDirNames("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

func readDirNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// Pidfd opens a pidfd for the process. The caller closes it.
func (p *Process) Pidfd() (int, error) {
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if err != nil {
		return -1, p.wrap(err)
	}
	if err := p.Check(); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
