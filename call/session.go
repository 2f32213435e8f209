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

	placing
	first    placing // where the first frame was, before UseMemory and the arena
	given    bool    // by UseMemory
	frame    frame   // the frame that is in memory, once framed
	framed   bool    // frame has been written for the present memory
	rec      record  // as it is in the cave
	previous region  // the committed frame and its stack
	undo     saved   // what the first frame has covered
	armed    bool    // a commit has happened: the thread has not its own registers
	ranUser  bool    // code other than the cave's has run: the extended state may differ
	calling  bool    // a function is being called
	tracing  bool    // of the thread's children
	left     bool    // the function has left the call: the thread goes on by itself
	lost     error   // the thread could not be stopped any more: it must finish alone
	world    *world  // StopAll: all threads
	began    time.Time
	notes    []string

	// What functions need.
	arena      region // mapped for them, or adopted
	opened     bool   // it can be used
	mapped     []owned
	low, floor mem.Addr // where the next mapping goes below, and not below
	errno      keptErrno
	mark       marker
	own        ownStack
	sleep      swappedSleep

	xstate   [maxXState]byte
	scratch  [maxXState]byte
	callBuf  []byte
	frameBuf [maxFrame]byte
	undoBuf  [maxFrame]byte
	pageBuf  [8 * placeSize / pageSize]byte
	recBuf   [recordSize]byte
	regs     ptrace.Regs
	signal   ptrace.SignalInfo
}

// placing is where frames and stacks go.
type placing struct {
	memory region
	stack  bool // memory has room for a stack below the frame
	shelf  bool // memory is the plan's shelf: read-only, so that no handler can run on it
}

// point marks a step, for tests that kill us there and for Options.Trace.
func (s *Session) point(name, detail string) {
	fault.Point(name)
	if trace := s.plan.opts.Trace; trace != nil {
		trace(Step{name, s.Tid(), time.Since(s.began), s.regs.PC(), s.regs.SP(), detail})
	}
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
	s.regs = s.state.Regs
	s.point("call/saved", "registers, extended state and signal mask saved")
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
	s.first = s.placing
	s.rec.Arena = s.plan.left
	return nil
}

// UseMemory makes [base, base+size) of the target, writable and nobody else's, the place of frames and stacks from now
// on: a stack that grows down from the frame at its upper end. Before, they are on pages of the thread's own stack
// that it never used. A region that is too small or not writable is an error of the next Syscall or Run.
func (s *Session) UseMemory(base mem.Addr, size uint64) {
	s.placing = placing{memory: region{base, base + mem.Addr(size)}, stack: true}
	s.given, s.framed = true, false
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

func packArgs(args []uint64) (a [maxArgs]uint64, err error) {
	if copy(a[:], args) < len(args) {
		err = fmt.Errorf("%d arguments, at most %d are possible", len(args), maxArgs)
	}
	return a, err
}

// prepareFrame writes the record and the frame for the present memory, unless they are there already.
func (s *Session) prepareFrame() error {
	switch {
	case s.lost != nil:
		return s.lost
	case s.left:
		return errLeft
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
	s.rec.Tid, s.rec.Region = uint64(s.Tid()), [2]region{s.previous, stackTo(s.memory.Lo, f.at)}
	if err := s.writeRecord(); err != nil {
		return err
	}
	s.point("call/recorded", "thread recorded as borrowed")
	if err := s.plan.memory.WriteAt(f.bytes, f.at); err != nil {
		return fmt.Errorf("write signal frame: %w", err)
	}
	s.frame, s.framed = f, true
	s.point("call/framed", "signal frame written")
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

func (s *Session) writeRecord() error {
	s.rec.encode(s.recBuf[:])
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
	s.regs = *regs
	s.point("call/armed", "registers set: from here on the thread restores itself")
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
	s.point("call/sheltered", "sheltered until signals are blocked")
	return nil
}

func (s *Session) block() error {
	if err := s.thread.SetSigMask(blockedSignals); err != nil {
		return err
	}
	s.point("call/blocked", "signals held")
	return nil
}

// end gives everything back and lets the thread go.
func (s *Session) end() error {
	switch {
	case s.lost != nil:
		return s.lost
	case s.left:
		return s.ended(s.letGo())
	}
	if err := s.giveBack(); err != nil {
		s.notes = append(s.notes, fmt.Sprintf("memory for functions stays mapped: %v", err))
	}
	switch {
	case s.lost != nil:
		return s.lost
	case !s.armed:
		return s.ended(s.thread.Detach(0))
	}
	back := s.state
	if !s.ranUser {
		back.XState = nil
	}
	s.point("call/restoring", "thread done with")
	if s.shelf {
		if err := s.takeShelter(); err != nil {
			return s.ended(err)
		}
	}
	if err := s.thread.Restore(&back, s.scratch[:]); err != nil {
		return s.ended(err)
	}
	s.regs = back.Regs
	s.point("call/restored", "registers, extended state and signal mask given back and verified")
	err := s.tidy()
	s.point("call/tidied", "covered memory given back, record cleared")
	err = errors.Join(err, s.thread.Detach(0))
	s.point("call/detached", "thread let go")
	return s.ended(err)
}

// tidy gives back the memory that the frames covered and clears the record. The thread has its own registers again.
func (s *Session) tidy() error {
	err := s.plan.memory.WriteAt(s.undo.bytes, s.undo.at)
	s.rec = record{Arena: s.rec.Arena}
	return errors.Join(err, s.writeRecord())
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
