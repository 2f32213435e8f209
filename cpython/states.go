package cpython

import (
	"errors"
	"fmt"

	"github.com/heaptap/heaptap/mem"
)

const (
	maxInterpreters = 1 << 12
	maxThreads      = 1 << 17
	maxTries        = 100 // reads of something that changes while it is read
)

// errTorn says that what was read does not fit together: read it again.
var errTorn = errors.New("inconsistent")

// InterpreterState is one PyInterpreterState.
type InterpreterState struct {
	Addr    mem.Addr
	ID      int64 // 0 is the main interpreter; -1 in 3.6, which does not number them
	Threads []ThreadState
}

// ThreadState is one PyThreadState.
type ThreadState struct {
	Addr        mem.Addr
	Interpreter mem.Addr
	ThreadID    uint64 // pthread_self() of the thread
	NativeID    int    // thread id in the target's pid namespace; 0 where the release does not keep it (to 3.10)
	ID          uint64 // unique in its interpreter; 0 where unknown
}

// Finalizing reports whether the interpreter is shutting down.
func (in *Interpreter) Finalizing(r mem.Reader) (bool, error) {
	a, err := mem.Pointer(r, in.roots.finalizing)
	return a != 0, err
}

// FinalizingAt is where the pointer stands that is set when the interpreter begins to shut down.
func (in *Interpreter) FinalizingAt() mem.Addr { return in.roots.finalizing }

// States lists the interpreters, newest first, each with its threads, newest first. The lists change while they are
// read; an error that wraps [ErrBusy] says that no reading fitted together.
func (in *Interpreter) States(r mem.Reader) ([]InterpreterState, error) {
	return retry("list thread states", func() ([]InterpreterState, error) { return in.states(r) })
}

// retry repeats read while it gives errTorn or a fault: a pointer that was being replaced may lead anywhere.
func retry[T any](what string, read func() (T, error)) (T, error) {
	var v T
	var err error
	for range maxTries {
		v, err = read()
		if fault := (*mem.Fault)(nil); err == nil || !errors.Is(err, errTorn) && !errors.As(err, &fault) {
			return v, err
		}
	}
	return v, fmt.Errorf("%s: %w: %w", what, ErrBusy, err)
}

func (in *Interpreter) states(r mem.Reader) ([]InterpreterState, error) {
	l := &in.Layout
	heads, err := in.list(r, in.roots.interpreters, l.Interpreter.Next, maxInterpreters)
	if err != nil {
		return nil, fmt.Errorf("interpreters: %w", err)
	}
	out := make([]InterpreterState, len(heads))
	for i, a := range heads {
		out[i] = InterpreterState{Addr: a, ID: -1}
		if l.Interpreter.ID.Known {
			id, err := mem.U64(r, l.Interpreter.ID.From(a))
			if err != nil {
				return nil, err
			}
			out[i].ID = int64(id)
		}
		threads, err := in.list(r, l.Interpreter.Threads.From(a), l.Thread.Next, maxThreads)
		if err != nil {
			return nil, fmt.Errorf("threads of interpreter %v: %w", a, err)
		}
		for _, t := range threads {
			ts, err := in.threadState(r, t)
			if err != nil {
				return nil, err
			}
			if ts.Interpreter != a {
				return nil, fmt.Errorf("thread state %v is of interpreter %v, not %v: %w", t, ts.Interpreter, a, errTorn)
			}
			out[i].Threads = append(out[i].Threads, ts)
		}
	}
	return out, nil
}

// list follows pointers from the one stored at head to the end.
func (in *Interpreter) list(r mem.Reader, head mem.Addr, next Offset, max int) ([]mem.Addr, error) {
	var out []mem.Addr
	var seen loop
	a, err := mem.Pointer(r, head)
	for ; err == nil && a != 0; a, err = mem.Pointer(r, next.From(a)) {
		if a%8 != 0 || len(out) == max || seen.again(a) {
			return nil, fmt.Errorf("list has %v as element %d: %w", a, len(out), errTorn)
		}
		out = append(out, a)
	}
	return out, err
}

// loop notices that a list has come back to itself (Brent's algorithm): memory that was used again links anywhere.
type loop struct {
	mark      mem.Addr
	steps, at uint64
}

// again takes the next element and reports whether it is one seen before. It notices late, but in time proportional
// to the loop's length.
func (l *loop) again(a mem.Addr) bool {
	if a == l.mark {
		return true
	}
	if l.steps++; l.steps > l.at {
		l.mark, l.at = a, 2*l.at+1
	}
	return false
}

func (in *Interpreter) threadState(r mem.Reader, a mem.Addr) (ThreadState, error) {
	l := in.Layout.Thread
	ts := ThreadState{Addr: a}
	var err error
	word := func(o Offset) uint64 {
		if err != nil || !o.Known {
			return 0
		}
		var v uint64
		v, err = mem.U64(r, o.From(a))
		return v
	}
	ts.Interpreter = mem.Addr(word(l.Interpreter))
	ts.ThreadID = word(l.ThreadID)
	ts.NativeID = int(word(l.NativeID))
	ts.ID = word(l.ID)
	return ts, err
}
