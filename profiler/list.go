package profiler

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/proc"
)

// List finds the Python processes that can be seen from here, ascending by pid. Processes that cannot be looked into
// are in it when their name says Python. It stops nothing. Processes that come or go meanwhile may be missing.
//
// It looks closely only at processes that have a file named after Python mapped or whose program exports CPython's API,
// so that it is fast among many others.
func List(ctx context.Context) ([]Candidate, error) {
	pids, err := proc.List()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	l := &lister{programs: map[fileID]bool{}, users: map[int]string{}}
	found := make([]*Candidate, len(pids))
	next := make(chan int)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := range next {
				found[i] = l.look(pids[i])
			}
		})
	}
	for i := range pids {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	workers.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var list []Candidate
	for _, c := range found {
		if c != nil {
			list = append(list, *c)
		}
	}
	return list, nil
}

// fileID names a file as stat(2) does.
type fileID struct{ dev, ino uint64 }

// lister remembers what processes have in common.
type lister struct {
	mu       sync.Mutex
	programs map[fileID]bool // exports CPython's API
	users    map[int]string
}

// look tells what the process is; nil if it is no Python or has gone.
func (l *lister) look(pid int) *Candidate {
	p, err := proc.Open(pid)
	if err != nil {
		return nil
	}
	defer p.Close()
	st, err := p.Status(pid)
	if err != nil || st.VmSize == 0 || p.Check() != nil { // without memory: kernel threads and zombies
		return nil
	}
	stat, err := p.Stat(pid)
	if err != nil {
		return nil
	}
	c := &Candidate{Pid: pid, Parent: stat.Ppid, RSS: st.VmRSS, Command: commandLine(p, st.Name)}
	maps, err := p.Maps()
	switch {
	case errors.Is(err, fs.ErrPermission):
		if !namedPython(st.Name) && !namedPython(path.Base(firstWord(c.Command))) {
			return nil
		}
		c.Problem = "not permitted to look into it: another user's, or protected"
	case err != nil || !(mapsPython(maps) || l.programIsPython(p)):
		return nil
	case !l.describe(p, maps, c):
		return nil
	}
	c.User = l.user(st.Uid[1])
	return c
}

// describe fills in what the interpreter is; false if there is none after all or the process has gone.
func (l *lister) describe(p *proc.Process, maps []proc.Mapping, c *Candidate) bool {
	err := l.identify(p, c)
	if errors.As(err, new(*cpython.NotPythonError)) || p.Check() != nil {
		return false
	}
	if err == nil && mapsAgent(maps) {
		err = l.tracking(p, c)
	}
	if err != nil {
		c.Problem = err.Error()
	}
	return true
}

// mapsAgent reports whether something of heaptap may be in the process.
func mapsAgent(maps []proc.Mapping) bool {
	return slices.ContainsFunc(maps, isTables) || slices.ContainsFunc(maps, isReservation)
}

func (l *lister) tracking(p *proc.Process, c *Candidate) error {
	m, err := p.Mem()
	if err != nil {
		return err
	}
	a, err := (&target{proc: p, mem: m}).tracked()
	if errors.Is(err, ErrNotTracked) {
		return nil
	}
	if a != nil {
		c.Tracked = a.state()
	}
	return err
}

func (l *lister) identify(p *proc.Process, c *Candidate) error {
	m, err := p.Mem()
	if err != nil {
		return err
	}
	in, err := cpython.Find(p, m)
	var unsupported *cpython.UnsupportedError
	var notReady *cpython.NotReadyError
	switch {
	case err == nil:
		c.Python = describePython(in.Identity)
	case errors.As(err, &unsupported):
		c.Python = describePython(unsupported.Identity)
		return unsupported
	case errors.As(err, &notReady):
		c.Python = describePython(notReady.Identity)
		return notReady
	}
	return err
}

// describePython is what users see of an interpreter. Version is "" where it is not known.
func describePython(id cpython.Identity) Python {
	p := Python{Debug: id.Debug, FreeThreaded: id.FreeThreaded}
	if id.Version != (cpython.Version{}) {
		p.Version = id.Version.String()
	}
	if id.Flavour != 0 {
		p.Flavour = id.Flavour.String()
	}
	if id.Module != nil {
		p.Path = id.Module.Path
	}
	return p
}

// mapsPython reports whether code of a file that is named after Python is mapped: python3.11, libpython3.11.so.1.0,
// or a module for either, _datetime.cpython-311-x86_64-linux-gnu.so.
func mapsPython(maps []proc.Mapping) bool {
	for _, m := range maps {
		if m.Exec && m.Inode != 0 && namedPython(path.Base(m.Path)) {
			return true
		}
	}
	return false
}

func namedPython(name string) bool {
	return strings.Contains(name, "python") || strings.HasPrefix(name, "pypy")
}

// exportedByAll is a function that every CPython exports.
const exportedByAll = "Py_GetVersion"

// programIsPython reports whether the process's program exports CPython's API: an interpreter is built into it.
func (l *lister) programIsPython(p *proc.Process) bool {
	f, err := os.Open(p.Path("exe"))
	if err != nil {
		return false
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	id := fileID{uint64(st.Dev), st.Ino}
	l.mu.Lock()
	is, known := l.programs[id]
	l.mu.Unlock()
	if known {
		return is
	}
	is = exports(f, exportedByAll)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.programs[id] = is
	return is
}

func exports(file *os.File, name string) bool {
	f, err := elf.NewFile(file)
	if err != nil {
		return false
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return false
	}
	for _, s := range symbols {
		if s.Name == name && s.Section != elf.SHN_UNDEF {
			return true
		}
	}
	return false
}

// commandLine is the process's arguments, or its name where it has erased them.
func commandLine(p *proc.Process, name string) string {
	b, err := os.ReadFile(p.Path("cmdline"))
	b = bytes.TrimRight(b, "\x00")
	if err != nil || len(b) == 0 {
		return "[" + name + "]"
	}
	return string(bytes.ReplaceAll(b, []byte{0}, []byte{' '}))
}

func firstWord(s string) string {
	word, _, _ := strings.Cut(s, " ")
	return word
}

func (l *lister) user(uid int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	name, ok := l.users[uid]
	if !ok {
		name = userName(uid)
		l.users[uid] = name
	}
	return name
}

// userName is a user's name, or the number where it has none here.
func userName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}
