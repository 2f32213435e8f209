package profiler

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/internal/fault"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// Held keeps the tables of a tracked process, which are shared memory, for us: they can be read after the process has
// ended, in whatever way.
type Held struct {
	process *proc.Process
	memory  *proc.Mem
	pid     int
	command string
	at      mem.Addr // of the tables in the process
	file    *os.File
	pidfd   int
	notes   []string
	atEnd   *Dump // as the interpreter began to end; nil: it has not, or could not be looked at
	close   func() error

	modulesLooks uint64 // of the agent's that native stacks know of
}

// End is why there is nothing more to watch.
type End string

// The ends that [Held.Wait] sees.
const (
	Ended    End = "the process has ended"
	Executed End = "the process has executed another program"
	Released End = "tracking was ended by another heaptap"
)

// Hold holds the tables of a process that is tracked already. That takes a privilege (CAP_SYS_ADMIN or
// CAP_CHECKPOINT_RESTORE), since the tables have no name any more; an attach with [AttachOptions].Hold needs none.
func Hold(ctx context.Context, pid int) (*Held, error) {
	t, err := open(pid)
	if err != nil {
		return nil, err
	}
	defer t.close()
	return t.hold()
}

func (t *target) hold() (*Held, error) {
	a, err := t.tracking()
	if err != nil {
		return nil, err
	}
	return t.holdTables(a.tablesAt(), a.header.Size, nil)
}

// NotHeldError says that the tables of a process cannot be kept.
type NotHeldError struct {
	Pid int
	Err error
}

func (e *NotHeldError) Error() string {
	return fmt.Sprintf("process %d: its tables cannot be held from outside: %v", e.Pid, e.Err)
}

func (e *NotHeldError) Unwrap() error { return e.Err }

// holdTables opens the tables at an address. file is they, where they are open already.
func (t *target) holdTables(at mem.Addr, size uint64, file *os.File) (*Held, error) {
	p, err := proc.Open(t.proc.Pid)
	if err != nil {
		return nil, err
	}
	h := &Held{process: p, pid: p.Pid, command: t.command(), at: at, file: file, pidfd: -1}
	h.close = sync.OnceValue(func() error {
		if h.memory != nil {
			agent.LetEnd(h.memory, h.at) // it has no memory any more, mostly
		}
		if h.pidfd >= 0 {
			unix.Close(h.pidfd)
		}
		err := p.Close()
		if h.file != nil {
			err = errors.Join(err, h.file.Close())
		}
		return err
	})
	if err := h.open(size); err != nil {
		h.close()
		return nil, err
	}
	fault.Point("hold/opened")
	return h, nil
}

func (h *Held) open(size uint64) error {
	if err := h.process.Check(); err != nil {
		return err
	}
	var err error
	if h.memory, err = h.process.Mem(); err != nil {
		return err
	}
	if h.pidfd, err = h.process.Pidfd(); err != nil {
		return err
	}
	if h.file == nil {
		if h.file, err = os.Open(h.process.Path("map_files", fmt.Sprintf("%x-%x", uint64(h.at), uint64(h.at)+size))); err != nil {
			return &NotHeldError{h.pid, err}
		}
	}
	// What was opened must be what it should be.
	if _, err := agent.ReadHeader(heldMemory{h.file, h.at}, h.at); err != nil {
		return &NotHeldError{h.pid, err}
	}
	return nil
}

// Close lets go. The process stays tracked.
func (h *Held) Close() error { return h.close() }

// Pid is the process.
func (h *Held) Pid() int { return h.pid }

// lookEvery is how often Wait looks for what no descriptor tells.
const lookEvery = 25 * time.Millisecond

// Wait waits until the process ends or is no longer tracked.
func (h *Held) Wait(ctx context.Context) (End, error) {
	for {
		if end, err := h.Look(lookEvery); err != nil || end != "" {
			return end, err
		}
		if err := context.Cause(ctx); err != nil {
			return "", err
		}
	}
}

// Look waits at most so long for the process to end, and says how it is then: "" is as before.
func (h *Held) Look(limit time.Duration) (End, error) {
	fds := []unix.PollFd{{Fd: int32(h.pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(limit.Milliseconds()))
	switch {
	case err != nil && err != unix.EINTR:
		return "", fmt.Errorf("wait for process %d: %w", h.pid, err)
	case n > 0:
		return Ended, nil
	}
	_, err = agent.ReadHeader(h.memory, h.at)
	switch {
	case err == nil:
		h.attend()
		return "", nil
	case !errors.Is(err, proc.ErrGone):
		return Released, nil
	}
	// Its memory is gone: it is ending, or has executed something.
	if st, err := h.process.Status(h.pid); err == nil && st.State != 'Z' && st.VmSize != 0 {
		return Executed, nil
	}
	return "", nil
}

// deadNote is what every snapshot of a dead process says.
const deadNote = "types of objects are not known: they are read from the process's memory, which is gone"

// attend does what the process needs us for while we stay.
func (h *Held) attend() {
	h.lookAtEnd()
	h.lookAtModules()
}

// lookAtModules has native stacks found in modules that were loaded since the last look. What fails shows as stacks that
// end early, and is tried again.
func (h *Held) lookAtModules() {
	header, err := agent.ReadHeader(h.memory, h.at)
	if err != nil || header.NativeStacks == 0 || header.ModulesLooks == h.modulesLooks {
		return
	}
	t, err := open(h.pid)
	if err != nil {
		return
	}
	defer t.close()
	a, err := t.tracking()
	if err == nil && a.tablesAt() == h.at && t.refreshUnlocked(a) == nil {
		h.modulesLooks = header.ModulesLooks
	}
}

// lookAtEnd makes a snapshot of a process whose interpreter waits at its end. What fails is as if it had not waited.
func (h *Held) lookAtEnd() {
	is, err := agent.ReadEnding(h.memory, h.at)
	if err != nil || is != agent.EndingWaits {
		return
	}
	fault.Point("hold/ending")
	d, err := TakeDump(context.Background(), h.pid, DumpOptions{ending: true})
	if errors.Is(err, ErrBusy) {
		return // it waits on: another look will be
	}
	if err == nil {
		d.Notes = append(d.Notes, "as the interpreter began to end, before it freed its objects")
		h.atEnd = d
	} else {
		h.notes = append(h.notes, fmt.Sprintf("the interpreter's end could not be looked at before it freed its objects: %v", err))
	}
	agent.LetEnd(h.memory, h.at)
}

// planEnding has the interpreter wait when it ends, where it can tell that we are gone.
func (pl *placing) planEnding() {
	ours, err := os.Readlink("/proc/self/ns/pid")
	theirs, err2 := os.Readlink(pl.t.proc.Path("ns", "pid"))
	if err != nil || err2 != nil || ours != theirs {
		return
	}
	for _, nr := range []uint64{unix.SYS_KILL, unix.SYS_NANOSLEEP} {
		if ok, known := pl.plan.Allowed(nr); !ok || !known {
			return
		}
	}
	pl.header.EndingWord, pl.header.EndingKeeper = uint64(pl.in.FinalizingAt()), uint32(os.Getpid())
}

// Dump makes a snapshot of what the tables hold: as the interpreter began to end, if it did and could be looked at then;
// else as they are now. With the process's memory gone, that has no types of objects.
func (h *Held) Dump(o DumpOptions) (*Dump, error) {
	if h.atEnd != nil && o.Filter == nil {
		return h.atEnd, nil
	}
	began := time.Now()
	r := heldMemory{h.file, h.at}
	var st unix.Stat_t
	if err := unix.Fstat(int(h.file.Fd()), &st); err != nil {
		return nil, err
	}
	limit := uint64(st.Blocks)*1024 + 64<<20 // twice what is there, with room
	d := &Dump{}
	c := &agent.Capture{Running: true} // it may have been killed in the middle of something
	if err := c.Copy(r, h.at, limit); err != nil {
		return nil, err
	}
	if err := c.CopyNames(r, h.at, limit); err != nil {
		return nil, err
	}
	labels := noTypes(deadNote)
	d.Notes = append(append(d.Notes, h.notes...), labels.notes...)
	info := snapshotInfo{pid: h.pid, command: h.command, taken: began, paused: true}
	var err error
	if d.Snapshot, d.Blocks, err = buildSnapshot(c, labels, o.Filter, nil, info); err != nil {
		return nil, err
	}
	d.Took = time.Since(began)
	return d, nil
}

// heldMemory reads a file as the memory that begins at an address.
type heldMemory struct {
	file *os.File
	at   mem.Addr
}

// ReadAt implements [mem.Reader].
func (m heldMemory) ReadAt(b []byte, a mem.Addr) error {
	n, err := m.file.ReadAt(b, int64(a-m.at))
	if err != nil {
		return &mem.Fault{Op: "read", Addr: a + mem.Addr(n), Len: len(b) - n, Err: err}
	}
	return nil
}

// memfdName is the name of tables that were made to be held.
const memfdName = "heaptap"

// planHold chooses how the tables can be held. A privileged heaptap opens them like any mapping, and the process makes no
// call more than else. Others have the process make them by memfd_create, open them while the process has a descriptor,
// and have it closed.
func (pl *placing) planHold(named bool) error {
	if !named && mayOpenMappings() {
		return nil
	}
	for nr, name := range map[uint64]string{unix.SYS_MEMFD_CREATE: "memfd_create", unix.SYS_CLOSE: "close"} {
		if ok, known := pl.plan.Allowed(nr); known && !ok {
			return &SeccompError{Pid: pl.t.proc.Pid, Call: name}
		}
	}
	pl.named = true
	return nil
}

// mayOpenMappings tries it on our own.
func mayOpenMappings() bool {
	self, err := proc.Open(os.Getpid())
	if err != nil {
		return false
	}
	maps, err := self.Maps()
	if err != nil {
		return false
	}
	for _, m := range maps {
		if m.Inode == 0 {
			continue
		}
		f, err := os.Open(self.Path("map_files", fmt.Sprintf("%x-%x", uint64(m.Start), uint64(m.End))))
		if err != nil {
			return false
		}
		f.Close()
		return true
	}
	return false
}

// tablesFile gives the descriptor of the tables in the process, and the kind of mapping: none, and anonymous, where they
// need no name. The file is given its length from here, where no limit of the process's on files is in the way.
func (pl *placing) tablesFile(s *call.Session) (fd, kind uint64, err error) {
	if !pl.named {
		return ^uint64(0), unix.MAP_ANONYMOUS, nil
	}
	if err := pl.t.mem.WriteAt(append([]byte(memfdName), 0), pl.base); err != nil {
		return 0, 0, fmt.Errorf("name the agent's tables: %w", err)
	}
	if fd, err = s.Syscall(unix.SYS_MEMFD_CREATE, uint64(pl.base), unix.MFD_CLOEXEC); err != nil {
		return 0, 0, fmt.Errorf("make the agent's tables: %w", err)
	}
	fault.Point("attach/named")
	pl.tables, err = os.OpenFile(pl.t.proc.Path("fd", strconv.FormatUint(fd, 10)), os.O_RDWR, 0)
	if err == nil {
		err = unix.Ftruncate(int(pl.tables.Fd()), int64(pl.header.Size))
	}
	if err != nil {
		return 0, 0, errors.Join(fmt.Errorf("open the agent's tables: %w", err), closeIn(s, fd))
	}
	return fd, 0, nil
}

// closeIn closes a descriptor of the process's, unless it is none.
func closeIn(s *call.Session, fd uint64) error {
	if fd == ^uint64(0) {
		return nil
	}
	if _, err := s.Syscall(unix.SYS_CLOSE, fd); err != nil {
		return fmt.Errorf("close the tables' descriptor: %w", err)
	}
	return nil
}

// dropTables closes what tablesFile has opened.
func (pl *placing) dropTables() {
	if pl.tables != nil {
		pl.tables.Close()
		pl.tables = nil
	}
}

// closeLeft closes descriptors of tables in the process that a heaptap, killed between two calls, has left there.
func (t *target) closeLeft(ctx context.Context) error {
	links, err := filepath.Glob(t.proc.Path("fd", "*"))
	if err != nil {
		return err
	}
	var left []uint64
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != heldName+" (deleted)" {
			continue
		}
		fd, err := strconv.ParseUint(filepath.Base(link), 10, 32)
		if err != nil {
			return err
		}
		left = append(left, fd)
	}
	if len(left) == 0 {
		return nil
	}
	plan, err := call.Prepare(t.proc, call.Options{})
	if err != nil {
		return err
	}
	_, err = plan.Borrow(ctx, func(s *call.Session) error {
		for _, fd := range left {
			if err := closeIn(s, fd); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}
