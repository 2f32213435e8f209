package pytarget

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/proc"
)

// Observation is what can be seen of a process from outside, and of a responsive target also from inside, and has to
// be the same again after something was borrowed from it and given back.
type Observation struct {
	Mapped      []string           // file mappings, shared, named and executable memory: "START-END PERMS OFFSET PATH"
	Anonymous   []string           // private memory, heap and stack, in the same form
	Descriptors map[int]string     // number to what it refers to
	Threads     map[int]ThreadView // by thread id
	Process     map[string]string  // fields of /proc/PID/status, namespaces, limits, root and working directory
	Inside      *InsideView        // nil when the process was not asked
	Words       map[string]uint64  // words of its memory that the test chose
}

// ThreadView is what /proc tells of a thread that should not change while the thread lives.
type ThreadView struct {
	Name    string
	Blocked string // signal mask, hexadecimal
	Seccomp string
}

// InsideView is what only the process itself knows of its signal state.
type InsideView struct {
	Altstack []uint64          `json:"altstack"` // address, flags, size; of the main thread
	Handlers map[string]string `json:"handlers"` // signal number to the name of its Python handler
}

// Words reads words of a target's memory that a test wants compared, by a name for each.
type Words func() (map[string]uint64, error)

// Activity says how strictly two observations are compared.
type Activity int

// The activities.
const (
	// Quiet: the process did nothing in between; everything has to be equal.
	Quiet Activity = iota
	// Busy: the process allocates, and starts and ends threads by itself. Private memory, thread ids and pending
	// signals may differ, and a mask may differ for the moment that a thread is in a signal handler or in libc.
	Busy
)

// processFields are the lines of /proc/PID/status that belong to an observation.
var processFields = []string{
	"TracerPid", "Uid", "Gid", "Groups", "NStgid", "ShdPnd", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff",
	"CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "CoreDumping", "THP_enabled",
}

// processFiles are the files of /proc/PID that belong to an observation whole.
var processFiles = []string{"limits", "personality", "coredump_filter", "oom_score_adj", "timerslack_ns", "cmdline", "environ"}

// processLinks are the links of /proc/PID that belong to an observation.
var processLinks = []string{"exe", "cwd", "root", "ns/mnt", "ns/pid", "ns/ipc", "ns/uts", "ns/net", "ns/user", "ns/cgroup"}

// Observe looks at any process from outside. words may be nil.
func Observe(pid int, words Words) (Observation, error) {
	o := Observation{Descriptors: map[int]string{}, Threads: map[int]ThreadView{}, Process: map[string]string{}}
	p, err := proc.Open(pid)
	if err != nil {
		return o, fmt.Errorf("observe: %w", err)
	}
	defer p.Close()
	if err := o.memory(p); err != nil {
		return o, fmt.Errorf("observe: %w", err)
	}
	if err := o.descriptors(p); err != nil {
		return o, fmt.Errorf("observe: %w", err)
	}
	if err := o.threads(p); err != nil {
		return o, fmt.Errorf("observe: %w", err)
	}
	if err := o.process(p); err != nil {
		return o, fmt.Errorf("observe: %w", err)
	}
	if words != nil {
		if o.Words, err = words(); err != nil {
			return o, fmt.Errorf("observe: %w", err)
		}
	}
	return o, nil
}

func (o *Observation) memory(p *proc.Process) error {
	maps, err := os.ReadFile(p.Path("maps"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			return fmt.Errorf("line of maps %q", line)
		}
		path := strings.Join(fields[5:], " ")
		line = strings.TrimSpace(strings.Join([]string{fields[0], fields[1], fields[2], path}, " "))
		if (fields[1] == "rw-p" || fields[1] == "---p") && fields[4] == "0" && (path == "" || privateName(path)) {
			o.Anonymous = append(o.Anonymous, line)
		} else {
			o.Mapped = append(o.Mapped, line)
		}
	}
	return nil
}

// privateName tells whether the kernel or Python (3.15 names its arenas) calls private memory so.
func privateName(path string) bool {
	return path == "[heap]" || path == "[stack]" || strings.HasPrefix(path, "[anon:cpython")
}

func (o *Observation) descriptors(p *proc.Process) error {
	entries, err := os.ReadDir(p.Path("fd"))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		number, err := strconv.Atoi(entry.Name())
		if err != nil {
			return err
		}
		target, err := os.Readlink(p.Path("fd", entry.Name()))
		if os.IsNotExist(err) {
			continue // closed meanwhile
		} else if err != nil {
			return err
		}
		o.Descriptors[number] = target
	}
	return nil
}

func (o *Observation) threads(p *proc.Process) error {
	tids, err := p.Threads()
	if err != nil {
		return err
	}
	for _, tid := range tids {
		thread, err := lookAtThread(p.Path("task", strconv.Itoa(tid), "status"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // ended meanwhile
		} else if err != nil {
			return err
		}
		o.Threads[tid] = thread
	}
	return nil
}

// lookAtThread sees a signal as blocked only if it is so for a while: libc blocks all for the moment in which it starts
// a thread or forks, and the kernel a handler's own while that runs.
func lookAtThread(path string) (ThreadView, error) {
	const looks = 100
	var thread ThreadView
	blocked := ^uint64(0)
	for range looks {
		fields, err := statusFields(path)
		if err != nil {
			return thread, err
		}
		mask, err := strconv.ParseUint(fields["SigBlk"], 16, 64)
		if err != nil {
			return thread, fmt.Errorf("%s: SigBlk: %w", path, err)
		}
		blocked &= mask
		thread = ThreadView{Name: fields["Name"], Blocked: fmt.Sprintf("%016x", blocked), Seccomp: fields["Seccomp"]}
		if blocked == 0 {
			break
		}
	}
	return thread, nil
}

func (o *Observation) process(p *proc.Process) error {
	fields, err := statusFields(p.Path("status"))
	if err != nil {
		return err
	}
	for _, name := range processFields {
		if value, ok := fields[name]; ok {
			o.Process[name] = value
		}
	}
	for _, name := range processFiles {
		data, err := os.ReadFile(p.Path(name))
		if err != nil {
			return err
		}
		o.Process[name] = strings.TrimSpace(string(bytes.ReplaceAll(data, []byte{0}, []byte{'\n'})))
	}
	for _, name := range processLinks {
		if o.Process[name], err = os.Readlink(p.Path(name)); err != nil {
			return err
		}
	}
	return nil
}

// statusFields reads a file of "Name:\tvalue" lines.
func statusFields(path string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.Join(strings.Fields(value), " ")
		}
	}
	return fields, nil
}

// Diff describes what is different in a later observation of the same process, "" if nothing is.
func (o Observation) Diff(later Observation, activity Activity) string {
	if activity == Busy {
		masks := map[string]bool{}
		for _, thread := range o.Threads {
			masks[thread.Blocked] = true
		}
		o, later = o.lasting(later, nil), later.lasting(o, masks)
	}
	return cmp.Diff(o, later)
}

// lasting leaves out what a busy process changes by itself: private memory, pending signals, and threads that other
// does not know, unless such a thread has a signal mask that is not among masks (nil: any is): it would have inherited
// what was not given back.
func (o Observation) lasting(other Observation, masks map[string]bool) Observation {
	o.Anonymous = nil
	o.Process = maps.Clone(o.Process)
	delete(o.Process, "ShdPnd")
	threads := map[int]ThreadView{}
	for tid, thread := range o.Threads {
		_, both := other.Threads[tid]
		if both || masks != nil && !masks[thread.Blocked] {
			threads[tid] = thread
		}
	}
	o.Threads = threads
	return o
}

// Observe looks at the target from inside, since it has to answer for that, and then from outside. words may be nil.
func (tg *Target) Observe(words Words) Observation {
	tg.t.Helper()
	inside := tg.lookInside()
	tg.awaitReading()
	return tg.lookOutside(inside, words)
}

// awaitReading waits until the target, which has answered, waits for the next question, or for whatever its situation has
// it wait for: on its way there it allocates.
func (tg *Target) awaitReading() {
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); runtime.Gosched() {
		call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", tg.Pid()))
		const write = "1 " // on x86-64
		if err != nil || !strings.HasPrefix(string(call), write) && !strings.HasPrefix(string(call), "running") {
			return
		}
	}
}

func (tg *Target) lookInside() *InsideView {
	tg.t.Helper()
	inside := new(InsideView)
	if err := tg.fill(inside, request{Op: "observe"}); err != nil {
		tg.t.Fatalf("%s: %v", tg.Interpreter, err)
	}
	return inside
}

func (tg *Target) lookOutside(inside *InsideView, words Words) Observation {
	tg.t.Helper()
	o, err := Observe(tg.Pid(), words)
	if err != nil {
		tg.t.Fatalf("%s: %v", tg.Interpreter, err)
	}
	o.Inside = inside
	return o
}

// settling is how long a process may take until it is seen in a moment when nothing differs: the threads of a busy one
// pass through handlers and libc, which block signals for microseconds, unless the machine stops them right there, and
// a thread that was held may not have run since, on its way back into its system call or its stop.
const settling = 10 * time.Second

// Unchanged fails the test unless the target is as it was before, when it was observed with [Target.Observe] and not
// asked anything since if it is quiet; or by [Observe], and cannot be asked. It has to be seen so once, since what was not given back stays away for good.
func (tg *Target) Unchanged(before Observation, activity Activity, words Words) {
	tg.t.Helper()
	var diff string
	for deadline := time.Now().Add(settling); time.Now().Before(deadline); {
		var now Observation
		if activity == Quiet || before.Inside == nil {
			// A quiet target is asked nothing before it is seen as it was: an answer allocates.
			now = tg.lookOutside(before.Inside, words)
		} else {
			now = tg.Observe(words)
		}
		if diff = before.Diff(now, activity); diff == "" {
			break
		}
	}
	if diff == "" && activity == Quiet && before.Inside != nil {
		now := before
		now.Inside = tg.lookInside()
		diff = before.Diff(now, activity)
	}
	if diff != "" {
		tg.t.Errorf("%s: the target is not as before (-before +after):\n%s", tg.Interpreter, diff)
	}
}
