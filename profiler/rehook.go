package profiler

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/inject"
	"github.com/heaptap/heaptap/internal/fault"
	"github.com/heaptap/heaptap/mem"
)

// An interpreter that starts may set its allocators once more, after they were hooked: always in 3.6 and 3.7, later where
// PYTHONMALLOC or -X dev say so. That is before it has allocated any object, and after a few hundred raw blocks. For a
// moment, several times, it also puts the default raw allocator in the place of any other (_PyMem_SetDefaultAllocator, up
// to 3.12), and puts back what was there: that is left alone.
//
// Where it is to be expected, the interpreter is followed from system call to system call until it is initialised, and its
// allocators are looked at each time: between setting them and the first object it always asks for random bytes.

const (
	startingStep  = 50 * time.Microsecond // between two looks at the allocators
	startingLimit = time.Minute           // after which an interpreter that starts is not watched any more
)

// watch watches the interpreter until it is initialised: hooks that it has taken out are put in again. Then its layout is
// proved.
func (s *starting) watch(ctx context.Context) error {
	tick := time.NewTicker(startingStep)
	defer tick.Stop()
	var before [cpython.NumDomains]allocatorWords
	for end := time.Now().Add(startingLimit); time.Now().Before(end); {
		done, err := s.in.Initialized(s.t.mem)
		if err != nil {
			return err
		}
		if ends, err := s.in.Finalizing(s.t.mem); err != nil || ends {
			return err
		}
		now, gone, err := s.t.displaced(s.a, s.in)
		if err != nil {
			return err
		}
		if gone && (now == before || done) {
			again, err := s.t.rehook(ctx, s.a, s.in, now)
			if err != nil {
				return err
			}
			s.again = s.again || again
		}
		if before = now; done {
			return s.prove(ctx)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}

const (
	proofStep  = 20 * time.Millisecond
	proofLimit = 5 * time.Second
)

// prove proves the layout. An interpreter that has just been initialised, in 3.6 one that is about to be, may have too
// little to show at first.
func (s *starting) prove(ctx context.Context) error {
	for end := time.Now().Add(proofLimit); ; {
		_, err := cpython.Find(s.t.proc, s.t.mem)
		if !errors.As(err, new(*cpython.UnsupportedError)) || time.Now().After(end) {
			return err
		}
		if err := pause(ctx, proofStep); err != nil {
			return err
		}
		if err := s.t.proc.Check(); err != nil {
			return err
		}
	}
}

// allocatorWords are an allocator as it stands in memory: context and functions.
type allocatorWords struct {
	context   uint64
	functions [agent.Functions]uint64
}

// displaced reads the allocators, and reports whether the hooks of the object domain are in nobody's way any more: they do
// not stand there, nor are they what somebody who does stand there has wrapped.
func (t *target) displaced(a *placed, in *cpython.Interpreter) (all [cpython.NumDomains]allocatorWords, gone bool, err error) {
	for d := range all {
		if all[d], err = readAllocatorWords(t.mem, in, in.Allocators[d]); err != nil {
			return all, false, err
		}
	}
	gone = true
	for _, d := range []cpython.Domain{cpython.Mem, cpython.Obj} {
		if !hooked(a, d) {
			continue
		}
		reaches, err := in.Reaches(t.mem, d, a.image, a.flagAt())
		if err != nil || reaches {
			return all, false, err
		}
	}
	return all, gone, nil
}

// hooked reports whether a domain's allocator is in the ledger.
func hooked(a *placed, d cpython.Domain) bool {
	for _, e := range a.header.Ledger {
		if e.Kind == agent.LedgerAllocator && e.What>>8 == uint32(d) {
			return true
		}
	}
	return false
}

func readAllocatorWords(r mem.Reader, in *cpython.Interpreter, at mem.Addr) (allocatorWords, error) {
	l := in.Layout.Allocator
	var w allocatorWords
	var err error
	if w.context, err = mem.U64(r, l.Ctx.From(at)); err != nil {
		return w, err
	}
	for f, off := range allocatorOffsets(in) {
		if w.functions[f], err = mem.U64(r, off.From(at)); err != nil {
			return w, err
		}
	}
	return w, nil
}

func allocatorOffsets(in *cpython.Interpreter) [agent.Functions]cpython.Offset {
	l := in.Layout.Allocator
	return [agent.Functions]cpython.Offset{agent.Malloc: l.Malloc, agent.Calloc: l.Calloc, agent.Realloc: l.Realloc, agent.Free: l.Free}
}

// rehook puts the agent in front of allocators that have taken its place, where they still are those that were seen. All
// threads stand still meanwhile, so that none is about to set them. It reports whether it did.
func (t *target) rehook(
	ctx context.Context, a *placed, in *cpython.Interpreter, seen [cpython.NumDomains]allocatorWords,
) (bool, error) {
	unlock, err := t.lock()
	if errors.Is(err, ErrBusy) {
		return false, nil // another look will be
	}
	if err != nil {
		return false, err
	}
	defer unlock()
	plan, err := call.Prepare(t.proc, call.Options{})
	if err != nil {
		return false, err
	}
	done := false
	_, err = plan.Freeze(ctx, func() error {
		now, gone, err := t.displaced(a, in)
		if err != nil || !gone || now != seen {
			return err
		}
		done = true
		return t.hookAgain(a, now)
	})
	return done && err == nil, err
}

// hookAgain puts the hooks in front of the allocators as they are now. Nobody may be about to change these.
func (t *target) hookAgain(a *placed, now [cpython.NumDomains]allocatorWords) error {
	for i, e := range a.header.Ledger {
		if e.Kind != agent.LedgerAllocator {
			continue
		}
		d, f := int(e.What>>8), int(e.What&0xff)
		old := now[d].functions[f]
		if at := mem.Addr(old); at >= a.image && at < a.flagAt() {
			continue // this one still stands
		}
		// First the ledger, as at an attach; what is behind a hook changes while nothing leads to the hook.
		e.Old = old
		if err := agent.PutLedger(t.mem, a.tablesAt(), i, e); err != nil {
			return err
		}
		if err := agent.PutOriginal(t.mem, a.tablesAt(), d, f, old); err != nil {
			return err
		}
		fault.Point("run/rehooking")
		if err := (inject.Word{Addr: mem.Addr(e.Address), Old: old, New: e.New}).Install(t.mem); err != nil {
			return fmt.Errorf("hook again: %w", err)
		}
	}
	return nil
}

// setsAllocators reports whether an interpreter that starts may set its allocators.
func setsAllocators(t *target, in *cpython.Interpreter) bool {
	if v := in.Version; v.Major == 3 && v.Minor < 8 {
		return true
	}
	for _, file := range []string{"environ", "cmdline"} {
		b, err := os.ReadFile(t.proc.Path(file))
		if err != nil {
			return true
		}
		for text := range strings.SplitSeq(string(b), "\x00") {
			if strings.HasPrefix(text, "PYTHONMALLOC=") || strings.HasPrefix(text, "PYTHONDEVMODE=") || strings.HasSuffix(text, "dev") {
				return true
			}
		}
	}
	return false
}

// starting is an interpreter that was hooked before it was initialised.
type starting struct {
	t  *target
	a  *placed
	in *cpython.Interpreter
	// The allocators were set anew and hooked again.
	again bool
}

func openStarting(pid int) (*starting, error) {
	t, err := open(pid)
	if err != nil {
		return nil, err
	}
	s := &starting{t: t}
	if s.a, err = t.tracking(); err == nil {
		s.in, err = cpython.FindStarting(t.proc, t.mem)
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return s, nil
}

// look is called while the process's only thread is stopped at a system call. It reports whether there is nothing more
// to look for.
func (s *starting) look() (bool, error) {
	now, gone, err := s.t.displaced(s.a, s.in)
	if err != nil {
		return false, err
	}
	if gone {
		s.again = true
		if err := s.t.hookAgain(s.a, now); err != nil {
			return false, err
		}
	}
	if ends, err := s.in.Finalizing(s.t.mem); err != nil || ends {
		return true, err
	}
	return s.in.Initialized(s.t.mem)
}
