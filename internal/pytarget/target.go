// Package pytarget runs real Python programs as targets of tests: in every interpreter that is to be had, in the
// situations in which a real process may be met, with answers over pipes and no waiting by the clock.
//
// A target computes what a test asks for ([Target.Exec], [Target.Challenge]), and can be compared with itself
// ([Target.Observe]). [Situations] lists what else it may be doing at that time: allocating, sleeping in one system call
// or another, full of threads or signals, or about to end. Nothing here knows what heaptap does to a target.
//
// A Target belongs to its test and ends with it, also when the test program is killed.
package pytarget

import (
	"bufio"
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed python/boot.py
var bootSource string

//go:embed python/target.py
var targetSource string

//go:embed python/launch.sh
var launchSource string

// patience is how long a target may take for one answer before the test gives it up, unless [Options] say otherwise:
// far longer than anything that a healthy target does on a busy machine.
const patience = 90 * time.Second

// Options say how a target is started. The zero value starts it in our namespaces, except that a target with a root of
// its own has its own mount namespace, in which that root is the root, as in a container.
type Options struct {
	Env           []string      // added to a small environment: "PYTHONMALLOC=debug"
	Args          []string      // of the interpreter: "-X", "dev"
	Container     bool          // new pid, mount, IPC, UTS and network namespaces; the target is pid 1 of its own
	UserNamespace bool          // with Container: a user namespace as well, in which the target is root and outside nobody
	PrivateIPC    bool          // a new IPC namespace, so that what is left there goes away with the target
	Patience      time.Duration // for one answer; 0: far longer than a request takes
	Chroot        bool          // a root of its own by chroot(2) alone, in our mount namespace
}

// Target is a running Python program that answers.
type Target struct {
	Interpreter Interpreter

	t       testing.TB
	process *os.Process
	stderr  *os.File // the target's standard output and error
	control *os.File // for the partner of a blocked target

	mu       sync.Mutex // one request at a time
	requests *os.File
	answers  *os.File
	lines    *bufio.Reader
	patience time.Duration

	ended    chan struct{} // closed when the process has been waited for
	state    *os.ProcessState
	waitErr  error
	expected atomic.Bool // the test knows that the target ends
}

// Start runs program in the interpreter and waits until its top level has run. The program runs in __main__ and may
// define step(), check() and answer(line), as python/target.py tells. The target is killed, with all its children, when
// the test ends; that it ended earlier without being asked fails the test.
func Start(t testing.TB, in Interpreter, program string, o Options) *Target {
	t.Helper()
	tg, err := start(t, in, program, o)
	if err != nil {
		output := ""
		if tg != nil {
			output = tg.Output()
		}
		t.Fatalf("start a target in %s: %v\n%s", in, err, output)
	}
	return tg
}

func start(t testing.TB, in Interpreter, program string, o Options) (*Target, error) {
	boot, err := json.Marshal(map[string]string{"target": targetSource, "program": program})
	if err != nil {
		return nil, err
	}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}
	requestsEnd, requests := pipe()
	answers, answersEnd := pipe()
	controlEnd, control := pipe()
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, requestsEnd, answersEnd, controlEnd)
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		return nil, err
	}

	cmd := command(in, o)
	cmd.Stdout, cmd.Stderr = stderr, stderr
	cmd.ExtraFiles = theirs // descriptors 3, 4 and 5
	tg := &Target{
		Interpreter: in, t: t, stderr: stderr, control: control,
		requests: requests, answers: answers, lines: bufio.NewReader(answers),
		ended: make(chan struct{}), patience: cmp.Or(o.Patience, patience),
	}
	if err := tg.launch(cmd); err != nil {
		return nil, err
	}
	t.Cleanup(tg.end)
	if err := tg.write(append(boot, '\n')); err != nil {
		return tg, tg.explain(err)
	}
	if _, err := tg.read(); err != nil {
		return tg, tg.explain(err)
	}
	return tg, nil
}

// launch starts the command and waits for its end in a thread of its own: the kernel kills a process that asked for it
// (Pdeathsig) when the thread that started it ends, so that thread has to live as long as the target.
func (tg *Target) launch(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		tg.process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		if tg.waitErr = awaitEnd(cmd.Process.Pid); tg.waitErr == nil {
			tg.waitErr = cmd.Wait()
		}
		tg.state = cmd.ProcessState
		close(tg.ended)
		// Whoever waits for an answer that cannot come any more is woken. (The pipe's end alone does not do that:
		// children of the target may hold it.)
		tg.answers.SetReadDeadline(time.Now().Add(time.Second))
	}()
	return <-started
}

// awaitEnd returns when our child has ended. It does not wait(2) for that: when a test traces its own child, any wait by
// any thread, whatever its options, takes the stops that the tracer waits for (do_wait in Linux' kernel/exit.c).
func awaitEnd(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != unix.EINTR {
			return err
		}
	}
}

// command puts the interpreter into the namespaces that the options ask for. Where mounts are to be made, a shell makes
// them and then becomes the interpreter, so that the pid stays.
func command(in Interpreter, o Options) *exec.Cmd {
	arguments := append([]string{in.Path}, o.Args...)
	arguments = append(arguments, "-c", bootSource)
	attributes := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	ownRoot := in.Root != ""
	switch {
	case o.Container:
		attributes.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET
	case ownRoot && !o.Chroot:
		attributes.Cloneflags = unix.CLONE_NEWNS
	}
	if o.PrivateIPC {
		attributes.Cloneflags |= unix.CLONE_NEWIPC
	}
	if o.UserNamespace {
		asMappedRoot(attributes)
	} else if os.Geteuid() != 0 && (ownRoot || attributes.Cloneflags != 0) {
		asNamespaceRoot(attributes)
	}
	directory := ""
	if attributes.Cloneflags&unix.CLONE_NEWNS != 0 {
		procfs := "ours"
		if o.Container {
			procfs = "new"
		}
		arguments = append([]string{"/bin/sh", "-c", launchSource, "launch", in.Root, procfs}, arguments...)
	} else if ownRoot {
		attributes.Chroot = in.Root
		directory = "/"
	}
	return &exec.Cmd{
		Path:        arguments[0],
		Args:        arguments,
		Dir:         directory,
		SysProcAttr: attributes,
		Env: append([]string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "LANG=C.UTF-8",
			"PYTHONNOUSERSITE=1", "PYTHONDONTWRITEBYTECODE=1",
		}, o.Env...),
	}
}

// asNamespaceRoot lets a caller who is not root make the other namespaces, as root of a new user namespace.
func asNamespaceRoot(attributes *syscall.SysProcAttr) {
	attributes.Cloneflags |= unix.CLONE_NEWUSER
	attributes.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
	attributes.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
}

// asMappedRoot puts the target into a user namespace whose root is an ordinary user outside, as rootless containers do.
// Only root may map to users other than itself; anybody else maps to itself.
func asMappedRoot(attributes *syscall.SysProcAttr) {
	if os.Geteuid() != 0 {
		asNamespaceRoot(attributes)
		return
	}
	const firstID, size = 100000, 65536 // what Debian's useradd gives the first user of /etc/subuid
	attributes.Cloneflags |= unix.CLONE_NEWUSER
	attributes.UidMappings = []syscall.SysProcIDMap{{HostID: firstID, Size: size}}
	attributes.GidMappings = []syscall.SysProcIDMap{{HostID: firstID, Size: size}}
	attributes.Credential = &syscall.Credential{}
}

// Pid is the target's process id in our pid namespace.
func (tg *Target) Pid() int { return tg.process.Pid }

// Do gives line to the program's answer(line) and returns what it returns, a string.
func (tg *Target) Do(line string) string {
	tg.t.Helper()
	return tg.must(request{Op: "do", Line: line})
}

// Exec runs Python source in the target's __main__ and returns the repr of its last expression statement, or "None".
// An exception fails the test.
func (tg *Target) Exec(source string) string {
	tg.t.Helper()
	return tg.must(request{Op: "exec", Source: source, Name: "<test>"})
}

// ExecFile is Exec for source that takes name for its file, as tracebacks and code objects show it.
func (tg *Target) ExecFile(name, source string) string {
	tg.t.Helper()
	return tg.must(request{Op: "exec", Source: source, Name: name})
}

// Try is Exec that returns the target's exception, or the target's end, as an error.
func (tg *Target) Try(source string) (string, error) {
	return tg.roundTrip(request{Op: "exec", Source: source, Name: "<test>"})
}

// TryText is Try for an expression whose value is a string, which it returns as it is, not as its repr.
func (tg *Target) TryText(expression string) (string, error) {
	return tg.roundTrip(request{Op: "eval", Source: expression, Name: "<test>"})
}

// Forgive tells that the target's end, if it has ended, is no failure of the test.
func (tg *Target) Forgive() { tg.expected.Store(true) }

// Challenge has the target compute something that it has not computed before and fails the test unless every result is
// right.
func (tg *Target) Challenge() {
	tg.t.Helper()
	seed := rand.Uint64()
	var got []string
	if err := tg.fill(&got, request{Op: "challenge", Seed: seed}); err != nil {
		tg.t.Fatalf("challenge %d: %v", seed, err)
	}
	if want := challenge(seed); !slices.Equal(got, want) {
		tg.t.Errorf("challenge %d: the target computes\n%q\nand should\n%q", seed, got, want)
	}
}

// Exit asks the target to end and returns its exit code once it has; a signal is minus its number.
func (tg *Target) Exit(code int) int {
	tg.t.Helper()
	tg.expected.Store(true)
	tg.must(request{Op: "exit", Code: code})
	return tg.Wait()
}

// Wait waits for the end of a target that ends by itself and returns its exit code; a signal is minus its number.
func (tg *Target) Wait() int {
	tg.t.Helper()
	tg.expected.Store(true)
	select {
	case <-tg.ended:
	case <-time.After(patience):
		tg.t.Fatalf("%v", tg.explain(fmt.Errorf("the target does not end within %v", patience)))
	}
	status := tg.state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return -int(status.Signal())
	}
	return status.ExitStatus()
}

// Signal sends the target a signal.
func (tg *Target) Signal(s syscall.Signal) {
	tg.t.Helper()
	if err := tg.process.Signal(s); err != nil {
		tg.t.Fatalf("send %v to the target: %v", s, err)
	}
}

// Ended is closed when the target has ended.
func (tg *Target) Ended() <-chan struct{} { return tg.ended }

// Output is what the target has written to its standard output and error.
func (tg *Target) Output() string {
	output, err := os.ReadFile(tg.stderr.Name())
	if err != nil {
		return err.Error()
	}
	return string(output)
}

// request is one line to the target, as answer() and serve() in python/target.py take it. Source is run and gives a
// repr (exec) or a JSON value (eval).
type request struct {
	Op     string `json:"op"` // "do", "exec", "eval", "observe", "challenge" or "exit"
	Line   string `json:"line"`
	Source string `json:"source"`
	Name   string `json:"name"`
	Code   int    `json:"code"`
	Seed   uint64 `json:"seed"`
}

func (tg *Target) must(r request) string {
	tg.t.Helper()
	answer, err := tg.roundTrip(r)
	if err != nil {
		tg.t.Fatalf("%s: %v\n%s", tg.Interpreter, err, tg.Output())
	}
	return answer
}

// roundTrip is a request whose answer is a string.
func (tg *Target) roundTrip(r request) (answer string, err error) {
	err = tg.fill(&answer, r)
	return answer, err
}

// eval fills result with the value of a Python expression, by way of JSON.
func (tg *Target) eval(source string, result any) error {
	return tg.fill(result, request{Op: "eval", Source: source, Name: "<test>"})
}

// fill fills result with a request's JSON value.
func (tg *Target) fill(result any, r request) error {
	value, err := tg.ask(r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(value, result); err != nil {
		return fmt.Errorf("target answers %s: %w", value, err)
	}
	return nil
}

func (tg *Target) ask(r request) (json.RawMessage, error) {
	line, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	tg.mu.Lock()
	defer tg.mu.Unlock()
	if err := tg.write(append(line, '\n')); err != nil {
		return nil, tg.explain(err)
	}
	value, err := tg.read()
	if raised := (*exceptionError)(nil); err != nil && !errors.As(err, &raised) {
		err = tg.explain(err)
	}
	return value, err
}

func (tg *Target) write(line []byte) error {
	if err := tg.requests.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := tg.requests.Write(line)
	return err
}

var errClosed = errors.New("the target has closed its answers")

// exceptionError is an exception that a request raised in the target.
type exceptionError struct{ traceback string }

func (e *exceptionError) Error() string { return "exception in the target:\n" + e.traceback }

func (tg *Target) read() (json.RawMessage, error) {
	limit := tg.patience
	select {
	case <-tg.ended:
		limit = time.Second // what it wrote before it ended
	default:
	}
	if err := tg.answers.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	line, err := tg.lines.ReadBytes('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errClosed
		}
		return nil, err
	}
	var answer struct {
		Value json.RawMessage `json:"value"`
		Error string          `json:"error"`
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		return nil, fmt.Errorf("target answers %q: %w", line, err)
	}
	if answer.Error != "" {
		return nil, &exceptionError{answer.Error}
	}
	return answer.Value, nil
}

// explain adds to an error all that can be told of a target that does not answer.
func (tg *Target) explain(err error) error {
	if errors.Is(err, errClosed) || errors.Is(err, unix.EPIPE) {
		// It is ending; how it does tells more than that it does.
		select {
		case <-tg.ended:
		case <-time.After(patience):
		}
	}
	select {
	case <-tg.ended:
		return fmt.Errorf("%w; the target has ended: %v", err, tg.state)
	default:
		return fmt.Errorf("%w; the target:\n%s", err, describe(tg.Pid()))
	}
}

// end kills the target and its children and reports when it had ended without being asked.
func (tg *Target) end() {
	select {
	case <-tg.ended:
		if !tg.expected.Load() {
			tg.t.Errorf("the target in %s has ended: %v\n%s", tg.Interpreter, tg.state, tg.Output())
		}
	default:
	}
	// The group outlives its leader: children are ended as well.
	if err := unix.Kill(-tg.Pid(), unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		tg.t.Errorf("end the target: %v", err)
	}
	<-tg.ended
	for _, f := range []*os.File{tg.requests, tg.answers, tg.control, tg.stderr} {
		f.Close()
	}
}
