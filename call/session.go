package call

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/internal/fault"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/ptrace"
)

// Session is a borrowed thread, stopped. It is good only inside the function that it was given to, and only on that
// function's goroutine.
type Session struct {
	plan   *Plan
	ctx    context.Context
	thread *ptrace.Thread
	state  ptrace.State // what the thread will have again

	memory   region // where frames and stacks go
	stack    bool   // memory has room for a stack below the frame
	shelf    bool   // memory is the plan's shelf: read-only, so that no handler can run on it
	frame    frame  // the frame that is in memory, once framed
	framed   bool   // frame has been written for the present memory
	previous region // the committed frame and its stack, as in the record
	undo     saved  // what the first frame has covered
	armed    bool   // a commit has happened: the thread has not its own registers
	ranUser  bool   // code other than the cave's has run: the extended state may differ
	lost     error  // the thread could not be stopped any more: it must finish alone
	world    *world // BorrowAll: all threads

	xstate   [maxXState]byte
	scratch  [maxXState]byte
	frameBuf [maxFrame]byte
	undoBuf  [maxFrame]byte
	pageBuf  [8 * placeSize / pageSize]byte
	recBuf   [recordSize]byte
	regs     ptrace.Regs
	signal   ptrace.SignalInfo
}

// saved is bytes that a frame has covered.
type saved struct {
	at    mem.Addr
	bytes []byte
}

// Tid is the borrowed thread.
func (s *Session) Tid() int { return s.thread.Tid }

// Regs are the registers that the thread had when it was stopped and will have again.
func (s *Session) Regs() ptrace.Regs { return s.state.Regs }

// begin saves everything about the thread, which has just stopped, and finds memory for the first frame.
func (s *Session) begin() error {
	var err error
	if s.state, err = s.thread.Save(s.xstate[:]); err != nil {
		return err
	}
	fault.Point("call/saved")
	if s.thread.ShadowStack() {
		return fmt.Errorf("thread %d has a shadow stack (CET): %w", s.Tid(), ErrUnsupported)
	}
	if err := s.leaveSequence(); err != nil {
		return err
	}
	if err := s.plan.sameProgram(); err != nil {
		return err
	}
	place, ok := s.plan.findPlace(s.Tid(), &s.state.Regs, s.pageBuf[:])
	switch {
	case ok:
		s.memory, s.stack = place, true
	case s.plan.shelf != 0:
		if allowed, _ := s.plan.Allowed(unix.SYS_RT_SIGPROCMASK); allowed {
			s.memory, s.shelf = region{s.plan.shelf - shelfSize, s.plan.shelf}, true
		}
	}
	return nil
}

// UseMemory makes [base, base+size) of the target, writable and nobody else's, the place of frames and stacks from now
// on: a stack that grows down from the frame at its upper end. Before, they are on pages of the thread's own stack
// that it never used. A region that is too small or not writable is an error of the next Syscall or Run.
func (s *Session) UseMemory(base mem.Addr, size uint64) {
	s.memory, s.stack, s.shelf = region{base, base + mem.Addr(size)}, true, false
	s.framed = false
}

// Syscall makes one system call in the borrowed thread, with at most six arguments, and returns its result. An error
// of the call is a syscall.Errno; a filter that would not let it through is a *[SeccompError].
func (s *Session) Syscall(nr uint64, args ...uint64) (uint64, error) {
	v, err := s.syscall(nr, args)
	if err != nil {
		return 0, fmt.Errorf("system call %d: %w", nr, err)
	}
	if e := -int64(v); e >= 1 && e <= maxErrno {
		return v, syscall.Errno(e)
	}
	return v, nil
}

const maxErrno = 4095

func (s *Session) syscall(nr uint64, args []uint64) (uint64, error) {
	a, err := packArgs(args)
	if err != nil {
		return 0, err
	}
	if s.plan.seccomp.mode != 0 {
		if allowed, _ := s.plan.Allowed(nr, args...); !allowed {
			return 0, &SeccompError{nr}
		}
	}
	if err := s.prepareFrame(); err != nil {
		return 0, err
	}
	regs := syscallRegs(&s.state.Regs, s.plan.cave, s.frame.at, nr, &a)
	behind := s.plan.cave.syscall() + syscallSize
	if err := s.commit(&regs); err != nil {
		return 0, err
	}
	if err := s.advance(behind, "call/syscall-entered", "call/syscall-done"); err != nil {
		return 0, err
	}
	return uint64(s.regs.Result()), nil
}

// Run calls the position-independent code at entry as a C function with at most six integer arguments and returns its
// result. The code must already be in executable memory of the target, keep to the C calling convention, take no lock
// that the thread may hold, and make no system call that waits with a relative timeout.
//
// A fault in it is a *[FaultError]; running past the time limit is a *[TimeoutError]; both are undone, as far as
// registers go. When this process is killed meanwhile, the function finishes and the thread restores itself.
func (s *Session) Run(entry mem.Addr, args ...uint64) (uint64, error) {
	v, err := s.run(entry, args)
	if err != nil {
		return 0, fmt.Errorf("run code at %v: %w", entry, err)
	}
	return v, nil
}

func (s *Session) run(entry mem.Addr, args []uint64) (uint64, error) {
	a, err := packArgs(args)
	if err != nil {
		return 0, err
	}
	marker, err := s.plan.markerCall()
	if err != nil {
		return 0, err
	}
	if !s.stack {
		return 0, fmt.Errorf("no stack: give memory with UseMemory first")
	}
	if err := s.prepareFrame(); err != nil {
		return 0, err
	}
	regs := runRegs(&s.state.Regs, s.plan.cave, s.frame.at, entry, marker, &a)
	s.ranUser = true
	if err := s.commit(&regs); err != nil {
		return 0, err
	}
	if err := s.advance(s.plan.cave.marker(), "call/marker-entered", "call/marker-done"); err != nil {
		return 0, err
	}
	return runResult(&s.regs), nil
}

func packArgs(args []uint64) (a [maxArgs]uint64, err error) {
	if copy(a[:], args) < len(args) {
		err = fmt.Errorf("%d arguments, at most %d are possible", len(args), maxArgs)
	}
	return a, err
}

// markerCall is a system call without effect (its first argument is -1) that the target's seccomp filters admit.
func (pl *Plan) markerCall() (uint64, error) {
	candidates := [...]uint64{unix.SYS_GETPPID, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_SCHED_YIELD, unix.SYS_READ}
	for _, nr := range candidates {
		if allowed, _ := pl.Allowed(nr, ^uint64(0)); allowed {
			return nr, nil
		}
	}
	return 0, &SeccompError{unix.SYS_GETPPID}
}

// prepareFrame writes the record and the frame for the present memory, unless they are there already.
func (s *Session) prepareFrame() error {
	switch {
	case s.lost != nil:
		return s.lost
	case s.framed:
		return nil
	case s.memory == region{}:
		return &NoPlaceError{s.Tid()}
	}
	f, err := buildFrame(s.frameBuf[:], s.memory.Hi, &s.state, s.plan.cave.sigreturn(), &s.plan.features)
	if err != nil {
		return err
	}
	if f.at < s.memory.Lo || f.at > s.memory.Hi {
		return fmt.Errorf("memory of %d bytes at %v is too small for a frame", uint64(s.memory.Hi-s.memory.Lo), s.memory.Lo)
	}
	if err := s.cover(f); err != nil {
		return err
	}
	next := stackTo(s.memory.Lo, f.at)
	if err := s.writeRecord(record{Tid: uint64(s.Tid()), Region: [2]region{s.previous, next}}); err != nil {
		return err
	}
	fault.Point("call/recorded")
	if err := s.plan.memory.WriteAt(f.bytes, f.at); err != nil {
		return fmt.Errorf("write signal frame: %w", err)
	}
	fault.Point("call/framed")
	s.frame, s.framed = f, true
	return nil
}

// cover remembers what is where the first frame goes: on the thread's own stack or in a file's page. Memory from
// UseMemory is the caller's, and need not be given back.
func (s *Session) cover(f frame) error {
	if s.undo.bytes != nil {
		return nil
	}
	old := s.undoBuf[:len(f.bytes)]
	if err := s.plan.memory.ReadAt(old, f.at); err != nil {
		return err
	}
	s.undo = saved{f.at, old}
	return nil
}

func (s *Session) writeRecord(r record) error {
	r.encode(s.recBuf[:])
	if err := s.plan.memory.WriteAt(s.recBuf[:], s.plan.cave.record()); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

// commit makes the thread do what regs say, and then restore itself from the frame. First the registers, then the
// mask: a mask that is blocked without a frame to restore it would stay so. If we are killed in between, a signal's
// handler runs below the frame; where it could not, the thread is given shelter first.
func (s *Session) commit(regs *ptrace.Regs) error {
	if err := fault.Err("call/committing"); err != nil {
		return err
	}
	first := !s.armed
	if first && s.shelf {
		if err := s.takeShelter(); err != nil {
			return err
		}
		if err := s.block(); err != nil {
			return err
		}
	}
	s.armed = true
	if err := s.thread.SetRegs(regs); err != nil {
		return err
	}
	fault.Point("call/armed")
	s.previous = stackTo(s.memory.Lo, s.frame.at)
	if first && !s.shelf {
		return s.block()
	}
	return nil
}

// takeShelter gives the thread registers with which it restores itself, and with which signals may come although the
// frame is on the shelf.
func (s *Session) takeShelter() error {
	s.armed = true
	regs := shelterRegs(&s.state.Regs, s.plan.cave, s.frame.at)
	if err := s.thread.SetRegs(&regs); err != nil {
		return err
	}
	fault.Point("call/sheltered")
	return nil
}

func (s *Session) block() error {
	if err := s.thread.SetSigMask(blockedSignals); err != nil {
		return err
	}
	fault.Point("call/blocked")
	return nil
}

// advance lets the thread run until it has made the system call that ends at the address behind, within the time
// limit. Other system calls on the way are the borrowed code's own. s.regs are then the registers at that point.
func (s *Session) advance(behind mem.Addr, enteredPoint, donePoint string) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.plan.opts.Timeout)
	defer cancel()
	entered := false
	for sig := syscall.Signal(0); ; {
		if err := s.thread.Resume(true, sig); err != nil {
			return err
		}
		stop, err := s.thread.Wait(ctx)
		if errors.Is(err, ptrace.ErrDeadline) {
			return s.abandon(err)
		}
		if err != nil {
			return err
		}
		sig = 0
		switch stop.Kind {
		case ptrace.Exited:
			return fmt.Errorf("thread %d, while borrowed: %w", s.Tid(), ptrace.ErrGone)
		case ptrace.Signal:
			if sig, err = s.takeSignal(stop.Signal); err != nil {
				return err
			}
		case ptrace.Syscall:
			if err := s.thread.Regs(&s.regs); err != nil {
				return err
			}
			if s.regs.PC() != behind {
				entered = false
				continue
			}
			if !entered {
				entered = true
				fault.Point(enteredPoint)
				continue
			}
			if s.regs.WillRestart() {
				entered = false
				continue
			}
			fault.Point(donePoint)
			return nil
		}
	}
}

// takeSignal decides about a signal that is about to be delivered to borrowed code. A fault of the code's own is an
// error, and the thread is made ready to restore itself; everything else came from outside and goes through: a stop
// signal stops the job (the borrowed thread alone still runs), a fault signal that somebody sent is theirs.
func (s *Session) takeSignal(sig syscall.Signal) (syscall.Signal, error) {
	foreign, err := s.foreign(sig)
	if err != nil {
		return 0, err
	}
	if foreign {
		return sig, nil
	}
	if err := s.thread.Regs(&s.regs); err != nil {
		return 0, err
	}
	fe := &FaultError{Tid: s.Tid(), Signal: sig, PC: s.regs.PC()}
	if sig == unix.SIGSEGV || sig == unix.SIGBUS {
		fe.Addr = mem.Addr(s.signal.Addr)
	}
	fault.Point("call/faulted")
	return 0, errors.Join(error(fe), s.park())
}

// abandon takes the thread out of borrowed code that ran past its limit.
func (s *Session) abandon(cause error) error {
	grace, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.halt(grace); err != nil {
		s.lost = fmt.Errorf("borrowed code does not stop; the thread goes back by itself when it does: %w", err)
		return s.lost
	}
	fault.Point("call/abandoned")
	if err := s.thread.Regs(&s.regs); err != nil {
		return err
	}
	te := &TimeoutError{Tid: s.Tid(), Limit: s.plan.opts.Timeout, PC: s.regs.PC(), Err: cause}
	return errors.Join(te, s.park())
}

// halt stops a thread that runs borrowed code, anywhere. Signals from outside go through, a fault does not.
func (s *Session) halt(ctx context.Context) error {
	for {
		if err := s.thread.Interrupt(); err != nil {
			return err
		}
		stop, err := s.thread.Wait(ctx)
		if err != nil {
			return err
		}
		switch stop.Kind {
		case ptrace.Exited:
			return ptrace.ErrGone
		case ptrace.Signal:
			foreign, err := s.foreign(stop.Signal)
			if err != nil || !foreign {
				return err
			}
			if err := s.thread.Resume(true, stop.Signal); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// foreign reports whether the signal at whose delivery the thread stands came from outside, and is not a fault of the
// code that it runs.
func (s *Session) foreign(sig syscall.Signal) (bool, error) {
	if blockedSignals&(1<<(sig-1)) != 0 {
		return true, nil
	}
	var err error
	s.signal, err = s.thread.SignalInfo()
	return s.signal.Code <= 0, err
}

// park gives a thread that was torn out of borrowed code registers with which it restores itself.
func (s *Session) park() error {
	regs := sigreturnRegs(&s.state.Regs, s.plan.cave, s.frame.at)
	return s.thread.SetRegs(&regs)
}

// end gives everything back and lets the thread go.
func (s *Session) end() error {
	if s.lost != nil {
		return s.lost
	}
	if !s.armed {
		return s.ended(s.thread.Detach(0))
	}
	back := s.state
	if !s.ranUser {
		back.XState = nil
	}
	fault.Point("call/restoring")
	if s.shelf {
		if err := s.takeShelter(); err != nil {
			return s.ended(err)
		}
	}
	if err := s.thread.Restore(&back, s.scratch[:]); err != nil {
		return s.ended(err)
	}
	fault.Point("call/restored")
	err := s.tidy()
	fault.Point("call/tidied")
	err = errors.Join(err, s.thread.Detach(0))
	fault.Point("call/detached")
	return s.ended(err)
}

// tidy gives back the memory that the frames covered and clears the record. The thread has its own registers again.
func (s *Session) tidy() error {
	err := s.plan.memory.WriteAt(s.undo.bytes, s.undo.at)
	return errors.Join(err, s.writeRecord(record{}))
}

// ended makes of an error in giving back a *[RestoreError], unless there is no thread any more to give back to.
func (s *Session) ended(err error) error {
	if err == nil || errors.Is(err, ptrace.ErrGone) {
		return nil
	}
	return &RestoreError{Tid: s.Tid(), Err: err}
}

// sameProgram checks that the process has not executed another program since it was prepared for: the memory that was
// opened then would be gone.
func (pl *Plan) sameProgram() error {
	var magic [16]byte
	err := pl.memory.ReadAt(magic[:], pl.cave.at)
	if err == nil && string(magic[:]) == string(caveCode[:len(magic)]) {
		return nil
	}
	if err := pl.process.Check(); err != nil {
		return err
	}
	return ErrChanged
}
