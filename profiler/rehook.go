package profiler

import (
	"context"
	"errors"
	"fmt"
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

const (
	startingStep  = 50 * time.Microsecond // between two looks at the allocators
	startingLimit = time.Minute           // after which an interpreter that starts is not watched any more
)

// watchStart watches an interpreter that was hooked before it was initialised until it is: hooks that it has taken out are
// put in again. Then its layout is proved. The interpreter was found by [cpython.FindStarting].
func watchStart(ctx context.Context, pid int) (notes []string, err error) {
	t, err := open(pid)
	if err != nil {
		return nil, err
	}
	defer t.close()
	a, err := t.tracking()
	if err != nil {
		return nil, err
	}
	in, err := cpython.FindStarting(t.proc, t.mem)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(startingStep)
	defer tick.Stop()
	var before [cpython.NumDomains]allocatorWords
	for end := time.Now().Add(startingLimit); time.Now().Before(end); {
		done, err := in.Initialized(t.mem)
		if err != nil {
			return notes, err
		}
		now, gone, err := t.displaced(a, in)
		if err != nil {
			return notes, err
		}
		if gone && (now == before || done) {
			again, err := t.rehook(ctx, a, in, now)
			if err != nil {
				return notes, err
			}
			if again {
				notes = append(notes, "the interpreter has set its allocators anew (PYTHONMALLOC or -X dev, or a release "+
					"before 3.8): raw blocks from before may be missing")
			}
		}
		if before = now; done {
			_, err := cpython.Find(t.proc, t.mem)
			return notes, err
		}
		select {
		case <-ctx.Done():
			return notes, context.Cause(ctx)
		case <-tick.C:
		}
	}
	return notes, nil
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
		for i := range a.header.Ledger {
			e := a.header.Ledger[i]
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
	})
	return done && err == nil, err
}
