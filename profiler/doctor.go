package profiler

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/ptrace"
)

// Verdict says what a check means for an attach.
type Verdict string

// The verdicts of a [Check].
const (
	Fine   Verdict = "ok"
	Warns  Verdict = "warn" // an attach may fail, or see less
	Blocks Verdict = "stop" // an attach will fail
)

// Check is one fact that decides whether an attach can succeed.
type Check struct {
	Name     string // a word or two, unique in a list
	Verdict  Verdict
	Fact     string // what was found
	WayRound string // what to do about it; "" where there is nothing to do
}

// Examine checks whether an attach can succeed on this machine and, where pid is not 0, on that process. It stops
// nothing and changes nothing. The error says that the process cannot be examined at all: it does not exist, or has
// ended. Everything else that stands in the way is a Check.
func Examine(ctx context.Context, pid int) ([]Check, error) {
	self, err := examineSelf()
	if err != nil {
		return nil, err
	}
	var checks []Check
	if pid == 0 {
		return append(self.machine(), self.yama(nil)), nil
	}
	p, err := proc.Open(pid)
	if err != nil {
		return nil, fmt.Errorf("examine: %w", err)
	}
	defer p.Close()
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("examine: %w", err)
	}
	st, err := p.Status(pid)
	if err != nil {
		return nil, fmt.Errorf("examine: %w", err)
	}
	checks = append(checks, self.machine()...)
	checks = append(checks, (&patient{p, st, ptrace.Diagnose(p), self}).checks()...)
	// Whatever was read of a process that has gone meanwhile means nothing.
	if err := errors.Join(p.Check(), context.Cause(ctx)); err != nil {
		return nil, fmt.Errorf("examine: %w", err)
	}
	return checks, nil
}

// examiner is what decides about an attach on our own side.
type examiner struct {
	status proc.Status
	facts  ptrace.Facts
}

func examineSelf() (*examiner, error) {
	p, err := proc.Open(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("examine this process: %w", err)
	}
	st, err := p.Status(p.Pid)
	if err != nil {
		return nil, fmt.Errorf("examine this process: %w", err)
	}
	return &examiner{status: st, facts: ptrace.Diagnose(p)}, nil
}

// machine checks what is the same for all targets.
func (e *examiner) machine() []Check {
	return []Check{platform(), kernel(), e.privilege(), e.ownSeccomp(), hiddenProcesses()}
}

func platform() Check {
	c := Check{Name: "platform", Verdict: Fine, Fact: runtime.GOOS + "/" + runtime.GOARCH}
	if runtime.GOARCH != "amd64" {
		c.Verdict, c.WayRound = Blocks, "attaching is built for amd64 only; snapshots can be read here"
	}
	return c
}

// The oldest kernel whose ptrace has all that the engine needs: PTRACE_GET_SYSCALL_INFO and pidfd_open came with 5.3.
const needMajor, needMinor = 5, 3

func kernel() Check {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Check{Name: "kernel", Verdict: Warns, Fact: "uname: " + err.Error()}
	}
	release := string(bytes.TrimRight(u.Release[:], "\x00"))
	c := Check{Name: "kernel", Verdict: Fine, Fact: "Linux " + release}
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		c.Verdict, c.Fact = Warns, c.Fact+": version not understood"
	} else if major < needMajor || major == needMajor && minor < needMinor {
		c.Verdict = Blocks
		c.Fact += fmt.Sprintf(" is older than %d.%d, whose ptrace is needed", needMajor, needMinor)
		c.WayRound = "a newer kernel"
	}
	return c
}

func (e *examiner) privilege() Check {
	c := Check{Name: "privilege", Verdict: Fine, Fact: "user " + userName(e.status.Uid[1])}
	if e.facts.HasPtraceCap {
		c.Fact += ", with CAP_SYS_PTRACE"
	} else {
		c.Fact += ", without CAP_SYS_PTRACE: only processes of the same user"
	}
	return c
}

func (e *examiner) ownSeccomp() Check {
	c := Check{Name: "sandbox", Verdict: Fine, Fact: "no seccomp filter on heaptap itself"}
	if e.facts.OurSeccomp != 0 {
		c.Fact = "heaptap itself runs under a seccomp filter, which lets process_vm_readv through"
	}
	if err := readOwnMemory(); err != nil {
		c.Verdict, c.Fact = Warns, "process_vm_readv: "+err.Error()+": a seccomp filter may forbid ptrace too"
		c.WayRound = "in a container: --cap-add SYS_PTRACE, or --security-opt seccomp=unconfined"
	}
	return c
}

// readOwnMemory makes the system call that reads a target's memory, on ourselves.
func readOwnMemory() error {
	from, to := []byte{1}, []byte{0}
	local := []unix.Iovec{{Base: &to[0], Len: 1}}
	remote := []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&from[0])), Len: 1}}
	_, err := unix.ProcessVMReadv(os.Getpid(), local, remote, 0)
	runtime.KeepAlive(from)
	return err
}

// hiddenProcesses tells whether /proc hides other users' processes (hidepid, proc(5)).
func hiddenProcesses() Check {
	c := Check{Name: "/proc", Verdict: Fine, Fact: "shows all processes of this pid namespace"}
	_, err := os.Stat("/proc/1/stat")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.Verdict, c.Fact = Warns, "is mounted with hidepid: other users' processes cannot be seen"
		c.WayRound = "run heaptap as root, or mount -o remount,hidepid=0 /proc"
	case err != nil:
		c.Verdict, c.Fact = Warns, err.Error()
	}
	return c
}

// yama explains kernel.yama.ptrace_scope (admin-guide/LSM/Yama.rst). denied, where not nil, is how the kernel refused
// access to the process in question.
func (e *examiner) yama(denied error) Check {
	scope := e.facts.YamaScope
	c := Check{Name: "yama", Verdict: Fine, Fact: fmt.Sprintf("kernel.yama.ptrace_scope is %d", scope)}
	switch scope {
	case -1:
		c.Fact = "not in this kernel"
		return c
	case 0:
		return c
	case 1:
		c.Fact += ": without CAP_SYS_PTRACE only a process's own ancestors may trace it"
		c.WayRound = "sudo heaptap …, or sudo sysctl kernel.yama.ptrace_scope=0"
	case 2:
		c.Fact += ": only CAP_SYS_PTRACE may trace"
		c.WayRound = "sudo heaptap …"
	default:
		c.Verdict, c.Fact = Blocks, c.Fact+": nothing may trace, until the next boot"
		c.WayRound = "boot without kernel.yama.ptrace_scope=3 in sysctl.d"
		return c
	}
	switch {
	case e.facts.HasPtraceCap:
		c.WayRound = ""
	case denied != nil:
		c.Verdict = Blocks
	default:
		c.Verdict = Warns
	}
	return c
}

// patient is a process under examination.
type patient struct {
	*proc.Process
	status proc.Status
	facts  ptrace.Facts
	self   *examiner
}

func (p *patient) checks() []Check {
	if p.status.VmSize == 0 {
		return []Check{{"python", Blocks, "a kernel thread", "heaptap ps lists the Python processes"}}
	}
	_, denied := p.Mem()
	list := []Check{p.access(denied), p.self.yama(denied), p.traced(), p.state()}
	if denied != nil {
		return append(list, p.namespaces())
	}
	list = append(list, p.class())
	if list[len(list)-1].Verdict == Fine {
		list = append(list, p.python())
	}
	return append(list, p.seccomp(), p.addressSpace(), p.memoryLimit(), p.namespaces(), p.tracked())
}

// python looks for the interpreter as an attach does.
func (p *patient) python() Check {
	c := Check{Name: "python", Verdict: Fine}
	m, err := p.Mem()
	if err != nil {
		return Check{"python", Blocks, err.Error(), ""}
	}
	in, err := cpython.Find(p.Process, m)
	var unsupported *cpython.UnsupportedError
	var notReady *cpython.NotReadyError
	switch {
	case err == nil:
		id := describePython(in.Identity)
		c.Fact = fmt.Sprintf("CPython %s, %s, in %s", id.Version, id.Flavour, id.Path)
		if len(in.Notes) > 0 {
			c.Fact += "; " + strings.Join(in.Notes, "; ")
		}
	case errors.As(err, new(*cpython.NotPythonError)):
		c.Verdict, c.Fact, c.WayRound = Blocks, "no CPython is loaded", "heaptap ps lists the Python processes"
	case errors.As(err, &unsupported):
		c.Verdict, c.Fact = Blocks, unsupported.Error()
		c.WayRound = "CPython 3.6 to 3.15, release builds with GIL, can be tracked"
	case errors.As(err, &notReady):
		c.Verdict, c.Fact, c.WayRound = Blocks, notReady.Error(), "try again when it has started"
	default:
		c.Verdict, c.Fact = Blocks, err.Error()
	}
	return c
}

// tracked tells whether something of heaptap is in the process already.
func (p *patient) tracked() Check {
	c := Check{Name: "tracked", Verdict: Fine, Fact: "nothing of heaptap is in it"}
	m, err := p.Mem()
	if err != nil {
		return Check{"tracked", Warns, err.Error(), ""}
	}
	a, err := (&target{proc: p.Process, mem: m}).tracked()
	switch {
	case errors.Is(err, ErrNotTracked):
	case err != nil:
		c.Verdict, c.Fact = Blocks, err.Error()
		c.WayRound = "detach it with the heaptap that attached"
	case a.state() == Tracking:
		c.Fact = "tracked already"
	default:
		c.Verdict, c.Fact = Warns, "heaptap was here before: "+string(a.state())
		c.WayRound = fmt.Sprintf("heaptap repair %d", p.Pid)
	}
	return c
}

// access asks the kernel by opening the process's memory, which it permits under the same rules as an attach, and where
// it refuses names the rule (ptrace(2), "Ptrace access mode checking").
func (p *patient) access(denied error) Check {
	c := Check{Name: "access", Verdict: Fine, Fact: "the kernel lets us at the process's memory"}
	if denied == nil {
		return c
	}
	if !errors.Is(denied, fs.ErrPermission) {
		return Check{"access", Blocks, denied.Error(), ""}
	}
	c.Verdict = Blocks
	owner, us := p.status.Uid, p.self.status.Uid
	capable := p.facts.HasPtraceCap
	switch {
	case capable && !p.facts.SameUserNS:
		c.Fact = "CAP_SYS_PTRACE does not reach the process: it seems to live in another user namespace"
		c.WayRound = "run heaptap as root outside of the container, or inside the container"
	case !capable && (owner[0] != us[0] || owner[1] != us[0] || owner[2] != us[0]):
		c.Fact = fmt.Sprintf("the process belongs to user %s, heaptap runs as %s", userName(owner[1]), userName(us[0]))
		c.WayRound = fmt.Sprintf("sudo heaptap …, or run heaptap as %s", userName(owner[1]))
	case !capable && p.status.CapEff&^p.self.status.CapEff != 0:
		c.Fact = "the process has capabilities that heaptap has not"
		c.WayRound = "sudo heaptap …; in a container --cap-add SYS_PTRACE"
	case !capable && !p.facts.Dumpable:
		c.Fact = "the process is not dumpable (prctl(2)): it changed its user, or its program cannot be read"
		c.WayRound = "sudo heaptap …"
	default:
		c.Fact = "the kernel refuses access: " + denied.Error()
		c.WayRound = "sudo heaptap …; in a container --cap-add SYS_PTRACE"
		if p.facts.Security != "" {
			c.Fact += "; the process is confined as " + p.facts.Security
			c.WayRound += ", or a profile that allows ptrace"
		}
	}
	return c
}

func (p *patient) traced() Check {
	c := Check{Name: "tracer", Verdict: Fine, Fact: "nobody traces the process"}
	if pid := p.status.TracerPid; pid != 0 {
		c.Verdict = Blocks
		c.Fact = fmt.Sprintf("process %d (%s) traces it, and there can be but one", pid, commandOf(pid))
		c.WayRound = "end that debugger, strace or profiler, or let it detach"
	}
	return c
}

func (p *patient) state() Check {
	c := Check{Name: "state", Verdict: Fine, Fact: "alive"}
	switch {
	case p.cgroupFile("cgroup.freeze") == "1":
		c.Verdict, c.Fact = Blocks, "its control group is frozen: no thread can be stopped or borrowed"
		c.WayRound = "thaw it (docker unpause, systemctl thaw)"
	case p.status.State == 'T':
		c.Fact = "stopped by a signal; it will stay stopped"
	case p.status.State == 'D':
		c.Verdict, c.Fact = Warns, "the main thread is in an uninterruptible wait: other threads must be borrowed"
	}
	return c
}

// class looks at the ELF header of the program.
func (p *patient) class() Check {
	f, err := os.Open(p.Path("exe"))
	if err != nil {
		return Check{"program", Warns, err.Error(), ""}
	}
	defer f.Close()
	var ident [elf.EI_NIDENT]byte
	if _, err := f.ReadAt(ident[:], 0); err != nil {
		return Check{"program", Warns, "read its program: " + err.Error(), ""}
	}
	if elf.Class(ident[elf.EI_CLASS]) != elf.ELFCLASS64 {
		return Check{"program", Blocks, "a 32-bit program", "only 64-bit programs can be tracked"}
	}
	return Check{Name: "program", Verdict: Fine, Fact: "64-bit"}
}

func (p *patient) seccomp() Check {
	c := Check{Name: "seccomp", Verdict: Fine, Fact: "the process has no seccomp filter"}
	switch p.status.Seccomp {
	case 1:
		c.Verdict, c.Fact = Blocks, "the process is in strict seccomp mode: it may not map memory"
	case 2:
		c.Verdict, c.Fact = Warns, "the process has a seccomp filter; attach evaluates it and refuses where it forbids mmap"
	}
	return c
}

func (p *patient) addressSpace() Check {
	var lim unix.Rlimit
	if err := unix.Prlimit(p.Pid, unix.RLIMIT_AS, nil, &lim); err != nil {
		return Check{"rlimit", Warns, "RLIMIT_AS cannot be read: " + err.Error(), ""}
	}
	if lim.Cur == unix.RLIM_INFINITY {
		return Check{Name: "rlimit", Verdict: Fine, Fact: "RLIMIT_AS is unlimited"}
	}
	left := uint64(0)
	if lim.Cur > p.status.VmSize {
		left = lim.Cur - p.status.VmSize
	}
	return Check{"rlimit", Warns,
		fmt.Sprintf("RLIMIT_AS leaves %d MiB of addresses: the tables may not find room for many live blocks", left>>20),
		fmt.Sprintf("prlimit --as=unlimited --pid %d", p.Pid)}
}

// tightMemory is the room in a memory cgroup below which the tables of a busy process may matter.
const tightMemory = 64 << 20

// memoryLimit looks at the process's memory cgroup (version 2), on whose account the tables go.
func (p *patient) memoryLimit() Check {
	c := Check{Name: "cgroup", Verdict: Fine, Fact: "no memory limit to be seen"}
	limit, err1 := strconv.ParseUint(p.cgroupFile("memory.max"), 10, 64)
	used, err2 := strconv.ParseUint(p.cgroupFile("memory.current"), 10, 64)
	if err1 != nil || err2 != nil {
		return c
	}
	left := uint64(0)
	if limit > used {
		left = limit - used
	}
	c.Fact = fmt.Sprintf("%d of %d MiB of its memory limit are left", left>>20, limit>>20)
	if left < tightMemory {
		c.Verdict, c.Fact = Warns, c.Fact+"; the tables count against it"
		c.WayRound = "attach --sample 512KiB, or raise memory.max"
	}
	return c
}

// cgroupFile reads a file of the process's control group, "" where there is none or it cannot be seen from here.
func (p *patient) cgroupFile(name string) string {
	b, err := os.ReadFile(p.Path("cgroup"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if dir, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok && !strings.Contains(dir, "..") {
			text, _ := os.ReadFile(filepath.Join("/sys/fs/cgroup", dir, name))
			return strings.TrimSpace(string(text))
		}
	}
	return ""
}

func (p *patient) namespaces() Check {
	c := Check{Name: "namespaces", Verdict: Fine, Fact: "the same as heaptap's"}
	var differ []string
	for _, ns := range []string{"pid", "mnt", "user", "net"} {
		theirs, err := os.Readlink(p.Path("ns", ns))
		if err != nil {
			return Check{Name: c.Name, Verdict: Fine, Fact: "not to be seen from here"}
		}
		ours, err := os.Readlink(filepath.Join("/proc/self/ns", ns))
		if err != nil || ours != theirs {
			differ = append(differ, ns)
		}
	}
	if len(differ) > 0 {
		c.Fact = "its own: " + strings.Join(differ, ", ") + " (a container); heaptap works across them"
	}
	return c
}

// commandOf is the short name of a process, "?" where it cannot be told.
func commandOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(b))
}
