package profiler

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/internal/fault"
	"github.com/heaptap/heaptap/launch"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/ptrace"
)

// RunOptions say what to start and what to track of it.
type RunOptions struct {
	Attach  AttachOptions
	Command launch.Command

	seen func(FollowEvent) // told of each child that is tracked from now on; nil: nobody is
}

// RunEvent is something that happens to a started command. One field is set.
type RunEvent struct {
	Tracked *Attachment // its Python is tracked from now on
	Note    string      // what a user should know
	Ended   *RunEnd     // the last one
}

// RunEnd is how a command ended.
type RunEnd struct {
	Code   int            // exit code, where no signal ended it
	Signal syscall.Signal // that ended it, or 0
	Core   bool           // it left a core dump
	// Held has the tables of the last Python that ran; nil where none was tracked. The receiver closes it.
	Held *Held
	// Children are snapshots of the children that were followed, each as it was at its end.
	Children []heap.Part

	name string // of the command's process
}

// Run is a command that was started to be tracked.
//
// It is followed, seized, from program to program until one has a Python in it; that one waits at its entry until it is
// hooked, and then runs free. Whatever becomes of us, the command goes on: a seized thread is let go by the kernel, and a
// gate opens by itself.
type Run struct {
	pid     int
	o       RunOptions
	process *proc.Process
	events  chan RunEvent
	stopped atomic.Bool
	held    *Held
	// tracer has started the command, and stays to its end: to the kernel its OS thread is the command's parent, whose end
	// a command may have asked to be told of (PR_SET_PDEATHSIG).
	tracer   *ptrace.Tracer
	children *children // nil: not followed
	name     string    // of the process, when it was tracked
	noting   sync.Mutex
	noted    map[string]bool // guarded by noting
}

// Start starts a command and returns when it runs. A *[launch.ExecError] says that it could not be executed. Its events
// are to be received until the one that says that it has ended; ctx ends the tracking of a command, not the command.
func Start(ctx context.Context, o RunOptions) (*Run, error) {
	o.Attach.Hold, o.Attach.AwaitEnd = true, true
	if err := o.Attach.check(); err != nil {
		return nil, err
	}
	r := &Run{o: o, events: make(chan RunEvent), noted: map[string]bool{}, tracer: ptrace.Start()}
	if why := privileged(o.Command.Path); why != "" {
		err := r.tracer.Do(func() (err error) {
			r.pid, err = launch.StartFree(o.Command)
			return err
		})
		if err != nil {
			return nil, errors.Join(err, r.tracer.Close())
		}
		go func() {
			defer close(r.events)
			r.note(why)
			r.untilEnd(ctx)
		}()
		return r, nil
	}
	l := &leader{run: r}
	err := r.tracer.Do(func() error {
		var err error
		if l.thread, err = launch.Start(ctx, r.tracer, o.Command); err != nil {
			return err
		}
		r.pid = l.thread.Tid
		r.process, err = proc.Open(r.pid)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, r.tracer.Close())
	}
	if o.Attach.Follow {
		r.followChildren(ctx)
	}
	go r.conduct(ctx, l)
	return r, nil
}

// privileged says why a program cannot be seized without taking from it what it runs with: who executes a set-uid
// program while traced by somebody without privileges does not get its user (execve(2)).
func privileged(path string) string {
	if unix.Geteuid() == 0 {
		return ""
	}
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	var xattr [64]byte
	n, _ := unix.Getxattr(path, "security.capability", xattr[:])
	if err == nil && (st.Mode&unix.S_ISUID != 0 || st.Mode&unix.S_ISGID != 0 && st.Mode&unix.S_IXGRP != 0 || n > 0) {
		return fmt.Sprintf("%s runs with privileges of its own, which the kernel would take from it if it was traced: nothing is tracked", path)
	}
	return ""
}

// Pid is the command's.
func (r *Run) Pid() int { return r.pid }

// Events are what happens, the end last.
func (r *Run) Events() <-chan RunEvent { return r.events }

// Stopped reports whether a signal has stopped the command, as a job.
func (r *Run) Stopped() bool { return r.stopped.Load() }

// Signal sends the command a signal.
func (r *Run) Signal(s syscall.Signal) error { return unix.Kill(r.pid, s) }

func (r *Run) note(text string) {
	r.noting.Lock()
	known := r.noted[text]
	r.noted[text] = true
	r.noting.Unlock()
	if !known {
		r.events <- RunEvent{Note: text}
	}
}

// conduct follows the command to its end. l has it stopped where it has executed its first program.
func (r *Run) conduct(ctx context.Context, l *leader) {
	defer close(r.events)
	for {
		found, err := l.lead(ctx)
		if err != nil {
			r.note("the command was lost sight of: " + err.Error())
		}
		if found == nil {
			break
		}
		if !r.track(ctx, found) {
			break
		}
		// It has executed something else.
		if l = r.seize(); l == nil {
			break
		}
	}
	r.untilEnd(ctx)
}

// found is a program with a Python in it.
type found struct {
	gate *launch.Gate // at which it waits; nil: it runs
}

// track attaches to a Python, and returns when that is over: true, when the process has executed another program.
func (r *Run) track(ctx context.Context, f *found) bool {
	notes, err := r.attach(ctx, f)
	var s *starting
	if err == nil {
		if s, err = openStarting(r.pid); err == nil {
			defer s.t.close()
		}
	}
	if f.gate != nil {
		if s != nil && setsAllocators(s.t, s.in) {
			err = errors.Join(err, r.startTraced(ctx, f.gate, s))
		}
		err = errors.Join(err, f.gate.Open())
	}
	fault.Point("run/opened")
	if r.gone() {
		return false
	}
	if err != nil {
		r.note("the command's Python is not tracked: " + err.Error())
		return r.untilExec(ctx)
	}
	if err := s.watch(ctx); err != nil && !r.gone() {
		r.misfit(ctx, err)
	}
	if s.again {
		notes = append(notes, "the interpreter has set its allocators after they were hooked, and they were hooked again: raw "+
			"blocks from before may be counted wrongly")
	}
	for _, n := range notes {
		r.note(n)
	}
	return r.untilExec(ctx)
}

// startTraced opens the gate and follows the interpreter until it is initialised.
func (r *Run) startTraced(ctx context.Context, gate *launch.Gate, s *starting) error {
	return r.tracer.Do(func() error {
		th, err := r.tracer.Seize(r.pid, r.pid, 0)
		if err != nil {
			return err
		}
		th.Expect()
		l := &leader{run: r, thread: th}
		stop, err := th.Stop(ctx)
		if err == nil {
			err = gate.Open()
		}
		for err == nil && stop.Kind != ptrace.Exited {
			var sig syscall.Signal
			done := false
			switch stop.Kind {
			case ptrace.Syscall:
				if done, err = s.look(); err != nil {
					continue
				}
			case ptrace.Event:
				if r.stopped.Store(stop.Signal != unix.SIGTRAP); stop.Signal != unix.SIGTRAP {
					if err = th.Listen(); err == nil {
						stop, err = th.Wait(ctx)
					}
					continue
				}
			case ptrace.Signal:
				sig = stop.Signal
			}
			if done {
				return th.Detach(sig)
			}
			if err = th.Resume(true, sig); err == nil {
				stop, err = th.Wait(ctx)
			}
		}
		if errors.Is(err, ptrace.ErrGone) || err == nil {
			return nil
		}
		return errors.Join(err, l.letGo())
	})
}

// misfit ends the tracking of an interpreter whose layout turned out to be another than was presumed.
func (r *Run) misfit(ctx context.Context, err error) {
	if !errors.As(err, new(*cpython.UnsupportedError)) {
		return
	}
	_, undone := Detach(ctx, r.pid)
	r.note("tracking was ended: " + errors.Join(err, undone).Error())
}

const (
	// A program is looked at so often, and so long, for a Python that can be attached to.
	lateStep = 2 * time.Millisecond
	lateMost = 10 * time.Second
)

// attach hooks the Python that waits at a gate. One that does not wait, or of which more has to be seen, is attached to as
// soon as that is possible.
func (r *Run) attach(ctx context.Context, f *found) (notes []string, err error) {
	o := r.o.Attach
	for end := time.Now().Add(lateMost); ; {
		o.starting = f.gate != nil
		at, err := Attach(ctx, r.pid, o)
		if !o.starting && errors.As(err, new(*cpython.NotReadyError)) {
			o.starting = true
			at, err = Attach(ctx, r.pid, o)
		}
		if err == nil {
			r.keep(at.Held)
			if st, err := r.process.Stat(r.pid); err == nil {
				r.name = st.Comm
			}
			r.events <- RunEvent{Tracked: at}
			return notes, nil
		}
		if !errors.As(err, new(*cpython.NotReadyError)) || r.gone() || time.Now().After(end) {
			return nil, err
		}
		if f.gate != nil {
			if err := f.gate.Open(); err != nil {
				return nil, err
			}
			f.gate = nil
			notes = append(notes, "the interpreter was hooked once it had started, since only then its layout can be proved: "+
				"what it allocated before is not seen")
		}
		if err := pause(ctx, lateStep); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// keep takes over new tables, in the place of those of an earlier program.
func (r *Run) keep(h *Held) {
	if r.held != nil {
		r.held.Close()
	}
	r.held = h
}

// gone reports whether the process has ended.
func (r *Run) gone() bool { return r.process.Check() != nil }

const (
	busyLook  = 5 * time.Millisecond // how often a command is looked at that may execute another program soon
	busyTime  = 10 * time.Second     // for so long after its start
	quietLook = 25 * time.Millisecond
)

// untilExec waits until the command has ended (false) or has executed another program (true).
func (r *Run) untilExec(ctx context.Context) bool {
	m, err := r.process.Mem() // of this program
	if err != nil {
		return false
	}
	began := time.Now()
	for ctx.Err() == nil {
		every := busyLook
		if time.Since(began) > busyTime {
			every = quietLook
		}
		if r.look(every) {
			return false
		}
		if r.held != nil {
			r.held.attend()
		}
		if !alive(m, r.process) {
			if r.look(0) {
				return false
			}
			if st, err := r.process.Status(r.pid); err == nil && st.VmSize != 0 {
				r.note("the command's Python has executed another program: tracking begins anew, a moment after that has begun")
				return true
			}
		}
	}
	return false
}

// alive reports whether the memory that was opened is still the process's.
func alive(m *proc.Mem, p *proc.Process) bool {
	var b [1]byte
	err := m.ReadAt(b[:], 0) // nothing is mapped there, mostly: an error of another kind
	return !errors.Is(err, proc.ErrGone)
}

// look waits at most so long for the command's end, and reports whether it has ended. It notices stops of the job. Nothing
// is taken from the kernel: another thread of ours may be tracing the command, and waits for its stops.
func (r *Run) look(limit time.Duration) bool {
	fd, err := unix.PidfdOpen(r.pid, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds()))
	if n > 0 && err == nil {
		return true
	}
	var info waitInfo
	const options = unix.WSTOPPED | unix.WNOHANG | unix.WNOWAIT
	err = waitid(r.pid, &info, options)
	const stopped = 5 // CLD_STOPPED: of the job; a tracer's stop is CLD_TRAPPED
	r.stopped.Store(err == nil && info.pid != 0 && info.code == stopped)
	return false
}

// untilEnd waits for the end and reports it.
func (r *Run) untilEnd(ctx context.Context) {
	for !r.look(quietLook) {
	}
	var info waitInfo
	for {
		err := waitid(r.pid, &info, unix.WEXITED)
		if err == unix.EINTR {
			continue
		}
		break
	}
	end := &RunEnd{Held: r.held, name: r.name}
	if r.children != nil {
		end.Children = r.children.end()
	}
	const exited, dumped = 1, 3 // CLD_
	if info.code == exited {
		end.Code = int(info.status)
	} else {
		end.Signal, end.Core = syscall.Signal(info.status), info.code == dumped
	}
	if err := r.tracer.Close(); err != nil {
		r.note(err.Error())
	}
	r.events <- RunEvent{Ended: end}
}

// seize takes up a command that has just executed another program, wherever in it it is.
func (r *Run) seize() *leader {
	l := &leader{run: r, running: true}
	err := r.tracer.Do(func() (err error) {
		l.thread, err = r.tracer.Seize(r.pid, r.pid, ptrace.TraceExec)
		return err
	})
	if err != nil {
		return nil
	}
	return l
}

// leader is the command's first thread, seized, on its way through programs that are no Python.
type leader struct {
	run     *Run
	thread  *ptrace.Thread
	running bool         // it is not stopped at an exec
	gate    *launch.Gate // on the way to
	python  pythonLook
}

// pythonLook is when to look for an interpreter that came without an exec: loaded by a program, or with no gate before it.
type pythonLook struct {
	next  time.Time
	every time.Duration
}

const (
	firstPythonLook = 2 * time.Millisecond
	lastPythonLook  = time.Second
)

// lead follows the command until it is a Python, of which it lets go: where it waits at its gate, or as it runs. nil is the
// command's end.
func (l *leader) lead(ctx context.Context) (*found, error) {
	var f *found
	err := l.run.tracer.Do(func() (err error) {
		l.thread.Expect()
		f, err = l.follow(ctx)
		if err != nil {
			err = errors.Join(err, l.letGo())
		}
		return err
	})
	return f, err
}

// letGo stops the thread where it is and lets it go.
func (l *leader) letGo() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := l.thread.Stop(ctx)
	if err == nil {
		err = l.thread.Detach(0)
	}
	if errors.Is(err, ptrace.ErrGone) {
		return nil
	}
	return err
}

func (l *leader) follow(ctx context.Context) (*found, error) {
	l.python = pythonLook{time.Now().Add(firstPythonLook), firstPythonLook}
	stop := ptrace.Stop{Kind: ptrace.Exec}
	for stopped := !l.running; ; stopped = true {
		if stopped {
			f, err := l.step(stop)
			if f != nil || err != nil || stop.Kind == ptrace.Exited {
				return f, err
			}
		}
		for {
			var err error
			short, cancel := context.WithDeadline(ctx, l.python.next)
			stop, err = l.thread.Wait(short)
			cancel()
			if err == nil {
				break
			}
			if !errors.Is(err, ptrace.ErrDeadline) || ctx.Err() != nil {
				return nil, err
			}
			f, err := l.lookForPython()
			if f != nil || err != nil {
				return f, err
			}
		}
	}
}

// step decides about a stop, and lets the thread go on.
func (l *leader) step(stop ptrace.Stop) (*found, error) {
	var sig syscall.Signal
	switch stop.Kind {
	case ptrace.Exited:
		return nil, nil
	case ptrace.Exec:
		if err := l.placeGate(); err != nil {
			return nil, err
		}
	case ptrace.Syscall:
		f, err := l.arrive()
		if f != nil || err != nil {
			return f, err
		}
	case ptrace.Event:
		if stop.Signal != unix.SIGTRAP {
			l.run.stopped.Store(true)
			return nil, l.thread.Listen()
		}
		l.run.stopped.Store(false)
	case ptrace.Signal:
		sig = stop.Signal
	}
	return nil, l.thread.Resume(l.gate != nil, sig)
}

// placeGate has the program that was executed wait where it begins. Without a gate it is looked at from time to time.
func (l *leader) placeGate() error {
	l.gate = nil
	l.python = pythonLook{time.Now().Add(firstPythonLook), firstPythonLook}
	var regs ptrace.Regs
	if err := l.thread.Regs(&regs); err != nil {
		if errors.As(err, new(*ptrace.ABIError)) {
			return nil
		}
		return err
	}
	// Its memory is another since the exec.
	p, err := proc.Open(l.run.pid)
	if err != nil {
		return err
	}
	l.run.process = p
	l.gate, err = launch.Place(p, regs.SP(), l.keeper())
	if errors.Is(err, launch.ErrNoGate) || errors.Is(err, proc.ErrGone) {
		return nil
	}
	fault.Point("run/gated")
	return err
}

// keeper is our pid as the command sees it, 0 where that is not known.
func (l *leader) keeper() int {
	ours, err := os.Readlink("/proc/self/ns/pid")
	theirs, err2 := os.Readlink(l.run.process.Path("ns", "pid"))
	if err != nil || err2 != nil || ours != theirs {
		return 0
	}
	return os.Getpid()
}

// arrive looks whether the thread has come to the gate, and whether a Python is behind it. If not, it goes on.
func (l *leader) arrive() (*found, error) {
	var regs ptrace.Regs
	if err := l.thread.Regs(&regs); err != nil {
		return nil, err
	}
	if l.gate == nil || !l.gate.Arrived(regs.PC()) {
		return nil, nil
	}
	fault.Point("run/arrived")
	gate := l.gate
	l.gate = nil
	if err := gate.Settle(); err != nil {
		return nil, err
	}
	is, err := l.isPython()
	if err != nil || !is {
		return nil, errors.Join(err, gate.Open())
	}
	// Free, it waits there.
	fault.Point("run/found")
	return &found{gate}, l.thread.Detach(0)
}

// isPython: what cannot be read as a program is none.
func (l *leader) isPython() (bool, error) {
	m, err := l.run.process.Mem()
	if err != nil {
		return false, err
	}
	is, err := cpython.HasPython(l.run.process, m)
	if fault := (*mem.Fault)(nil); err != nil && !errors.As(err, &fault) && !errors.Is(err, proc.ErrGone) {
		return false, nil
	}
	return is, err
}

// lookForPython looks for an interpreter in a program that runs, ever more rarely, and lets go of it.
func (l *leader) lookForPython() (*found, error) {
	l.python.every = min(2*l.python.every, lastPythonLook)
	l.python.next = time.Now().Add(l.python.every)
	if l.gate != nil {
		return nil, nil // it has not come to its gate yet
	}
	if is, err := l.isPython(); err != nil || !is {
		return nil, nil // it is loading or ending; a stop tells
	}
	l.run.note("the Python was found in a program that ran already: what it allocated before is not seen")
	return &found{}, l.letGo()
}
