package ptrace

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/proc"
)

// TracedError says that another process already traces the thread.
type TracedError struct {
	Pid, Tid   int
	Tracer     int    // pid of the tracer
	TracerTid  int    // its thread that traces
	TracerName string // its command name
}

func (e *TracedError) Error() string {
	return fmt.Sprintf("thread %d of process %d is already traced by %s (pid %d)", e.Tid, e.Pid, e.TracerName, e.Tracer)
}

// ABIError says that a thread runs 32-bit code.
type ABIError struct {
	Tid      int
	RegsSize int // bytes of its register set
}

func (e *ABIError) Error() string {
	return fmt.Sprintf("thread %d runs 32-bit code (%d bytes of registers)", e.Tid, e.RegsSize)
}

// PermissionError says that the kernel forbids tracing, and the facts that may be why.
type PermissionError struct {
	Pid, Tid int
	Err      error // usually EPERM
	Facts    Facts
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("trace thread %d of process %d: %v (%s)", e.Tid, e.Pid, e.Err, e.Facts)
}

func (e *PermissionError) Unwrap() error { return e.Err }

// Facts are what ptrace(2) "Ptrace access mode checking" asks about, as far as they can be read.
type Facts struct {
	YamaScope    int  // kernel.yama.ptrace_scope; -1: no Yama here
	SameUser     bool // the target's three uids and gids equal our effective ones
	HasPtraceCap bool // we have CAP_SYS_PTRACE in our own user namespace
	SameUserNS   bool // the target lives in our user namespace
	Dumpable     bool // its /proc entries belong to its user
	OurSeccomp   int  // our own seccomp mode: 2 may filter ptrace away
	Security     string
}

func (f Facts) String() string {
	var s []string
	if f.YamaScope > 0 {
		s = append(s, fmt.Sprintf("kernel.yama.ptrace_scope is %d", f.YamaScope))
	}
	for _, c := range []struct {
		is   bool
		text string
	}{
		{!f.SameUser, "target has another user"},
		{!f.HasPtraceCap, "no CAP_SYS_PTRACE"},
		{!f.SameUserNS, "target is in another user namespace"},
		{!f.Dumpable, "target is not dumpable"},
		{f.OurSeccomp != 0, "we run under seccomp"},
	} {
		if c.is {
			s = append(s, c.text)
		}
	}
	if f.Security != "" {
		s = append(s, "security label "+f.Security)
	}
	return strings.Join(s, ", ")
}

// Diagnose reads the facts about tracing p.
func Diagnose(p *proc.Process) Facts {
	f := Facts{YamaScope: -1}
	if b, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			f.YamaScope = n
		}
	}
	if self, err := proc.Open(os.Getpid()); err == nil {
		if st, err := self.Status(self.Pid); err == nil {
			f.HasPtraceCap = st.CapEff&(1<<unix.CAP_SYS_PTRACE) != 0
			f.OurSeccomp = st.Seccomp
		}
	}
	if st, err := p.Status(p.Pid); err == nil {
		f.SameUser = st.Uid[0] == os.Geteuid() && st.Uid[1] == os.Geteuid() && st.Uid[2] == os.Geteuid() &&
			st.Gid[0] == os.Getegid() && st.Gid[1] == os.Getegid() && st.Gid[2] == os.Getegid()
		var entry unix.Stat_t
		if err := unix.Stat(p.Path(), &entry); err == nil {
			f.Dumpable = int(entry.Uid) == st.Uid[1]
		}
	}
	ours, err1 := os.Readlink("/proc/self/ns/user")
	theirs, err2 := os.Readlink(p.Path("ns", "user"))
	f.SameUserNS = err1 == nil && err2 == nil && ours == theirs
	if b, err := os.ReadFile(p.Path("attr", "current")); err == nil {
		if s := strings.TrimRight(string(b), "\x00\n"); s != "unconfined" && s != "kernel" {
			f.Security = s
		}
	}
	return f
}

// diagnose says why a seize failed.
func (t *Tracer) diagnose(pid, tid int, err error) error {
	p, perr := proc.Open(pid)
	if perr != nil {
		return fmt.Errorf("seize thread %d: %w", tid, ErrGone)
	}
	st, serr := p.Status(tid)
	if serr != nil || st.State == 'Z' || st.State == 'X' || errors.Is(err, ErrGone) {
		return fmt.Errorf("seize thread %d: %w", tid, ErrGone) // a zombie answers EPERM
	}
	if st.TracerPid != 0 {
		te := &TracedError{Pid: pid, Tid: tid, Tracer: st.TracerPid, TracerTid: st.TracerPid}
		te.TracerName = "unknown"
		if tracer, err := proc.Open(st.TracerPid); err == nil { // /proc/TID exists for every thread
			if ts, err := tracer.Status(st.TracerPid); err == nil {
				te.Tracer, te.TracerName = ts.Tgid, ts.Name
			}
		}
		return te
	}
	return &PermissionError{Pid: pid, Tid: tid, Err: err, Facts: Diagnose(p)}
}
