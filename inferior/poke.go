package inferior

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// PokeOptions say how memory is written.
type PokeOptions struct {
	// Expect, where not nil, is what must stand there; else nothing is written and the error is a *[ContentError].
	Expect []byte
}

// Poke says what writing memory has changed.
type Poke struct {
	Addr   mem.Addr
	Old    []byte // what stood there
	New    []byte // what stands there now, read back
	Code   bool   // it is in memory that can be executed
	Single bool   // it was one store: no thread was stopped, and none can have seen a part of it
	// Threads were held while it was written, for as long as Pause.
	Threads int
	Pause   time.Duration
}

// ContentError says that memory does not hold what it should.
type ContentError struct {
	Addr       mem.Addr
	Have, Want []byte
	Written    bool // it was written, and something else came between
}

func (e *ContentError) Error() string {
	if e.Written {
		return fmt.Sprintf("memory at %v reads back as %x after %x was written", e.Addr, e.Have, e.Want)
	}
	return fmt.Sprintf("memory at %v holds %x, not %x", e.Addr, e.Have, e.Want)
}

// UnmappedError says that an address is not one of the process's.
type UnmappedError struct{ Addr mem.Addr }

func (e *UnmappedError) Error() string { return fmt.Sprintf("nothing is mapped at %v", e.Addr) }

// SharedError says that memory is a file's own: it is mapped shared, and read-only.
type SharedError struct {
	Addr mem.Addr
	Path string
}

func (e *SharedError) Error() string {
	return fmt.Sprintf("memory at %v is that of %s itself, shared and read-only", e.Addr, e.Path)
}

// InUseError says that a thread stands in the code that was to be changed, or is about to return to it.
type InUseError struct {
	Tid int
	PC  mem.Addr
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("thread %d stands at %v, in the middle of it", e.Tid, e.PC)
}

// wordSize is what one store can write, where it is aligned.
const wordSize = 8

// Poke writes memory of the process, whatever its protection, and reads it back. No thread ever sees a part of it:
// what fits one aligned word is one store; for anything else the process stands still meanwhile. Code in which a
// thread stands is not changed.
func (p *Process) Poke(ctx context.Context, a mem.Addr, b []byte, o PokeOptions) (*Poke, error) {
	k, err := p.poke(ctx, a, b, o)
	return k, p.wrap("write memory of", err)
}

func (p *Process) poke(ctx context.Context, a mem.Addr, b []byte, o PokeOptions) (*Poke, error) {
	if len(b) == 0 {
		return nil, errors.New("no bytes to write")
	}
	if o.Expect != nil && len(o.Expect) != len(b) {
		return nil, fmt.Errorf("%d bytes expected where %d are written", len(o.Expect), len(b))
	}
	maps, err := p.process.Maps()
	if err != nil {
		return nil, err
	}
	k := &Poke{Addr: a, New: b}
	if k.Code, err = writable(maps, a, uint64(len(b))); err != nil {
		return nil, err
	}
	if k.Old, err = mem.Bytes(p.memory, a, len(b)); err != nil {
		return nil, err
	}
	at, whole := k.store(p.memory)
	if whole != nil {
		k.Single = true
		return k, k.write(p.memory, at, whole, o)
	}
	return k, p.pokeStopped(ctx, k, o)
}

// writable checks that all of the range is mapped, and tells whether any of it is code.
func writable(maps []proc.Mapping, a mem.Addr, n uint64) (code bool, err error) {
	end, ok := a.Add(n)
	if !ok {
		return false, &UnmappedError{a}
	}
	for a < end {
		m, ok := mapping(maps, a)
		if !ok {
			return false, &UnmappedError{a}
		}
		if m.Shared && !m.Write {
			return false, &SharedError{a, m.Path}
		}
		code = code || m.Exec
		a = m.End
	}
	return code, nil
}

// store is the single store that does it: a byte, an aligned word, or in code, which nobody else writes, the aligned
// word that it is a part of. No bytes where there is no such store.
func (k *Poke) store(r mem.Reader) (mem.Addr, []byte) {
	word := k.Addr.AlignDown(wordSize)
	offset := int(k.Addr - word)
	switch {
	case len(k.New) == 1, offset == 0 && len(k.New) == wordSize:
		return k.Addr, k.New
	case !k.Code || offset+len(k.New) > wordSize:
		return 0, nil
	}
	whole, err := mem.Bytes(r, word, wordSize)
	if err != nil {
		return 0, nil
	}
	copy(whole[offset:], k.New)
	return word, whole
}

// write writes bytes at an address, once Expect is checked, and reads them back.
func (k *Poke) write(m mem.Memory, at mem.Addr, bytesAt []byte, o PokeOptions) error {
	if o.Expect != nil && !bytes.Equal(k.Old, o.Expect) {
		return &ContentError{Addr: k.Addr, Have: k.Old, Want: o.Expect}
	}
	if err := m.WriteAt(bytesAt, at); err != nil {
		return err
	}
	back, err := mem.Bytes(m, k.Addr, len(k.New))
	if err != nil {
		return err
	}
	if !bytes.Equal(back, k.New) {
		return &ContentError{Addr: k.Addr, Have: back, Want: k.New, Written: true}
	}
	return nil
}

// pokeStopped writes with every thread stopped.
func (p *Process) pokeStopped(ctx context.Context, k *Poke, o PokeOptions) error {
	p.stops.Lock()
	defer p.stops.Unlock()
	plan, err := call.Prepare(p.process, call.Options{})
	if err != nil {
		return err
	}
	report, err := plan.Freeze(ctx, func() error {
		if k.Code {
			if err := p.standsIn(k.Addr, k.Addr+mem.Addr(len(k.New))); err != nil {
				return err
			}
		}
		var err error
		if k.Old, err = mem.Bytes(p.memory, k.Addr, len(k.New)); err != nil {
			return err
		}
		return k.write(p.memory, k.Addr, k.New, o)
	})
	k.Threads, k.Pause = report.Threads, report.Pause
	return err
}

// standsIn looks for a thread, all of which are stopped, that would execute half of the old and half of the new code:
// its program counter is behind the first byte.
func (p *Process) standsIn(from, to mem.Addr) error {
	tids, err := p.process.Threads()
	if err != nil {
		return err
	}
	for _, tid := range tids {
		b, err := os.ReadFile(p.process.Path("task", strconv.Itoa(tid), "syscall"))
		if err != nil {
			return fmt.Errorf("thread %d: %w", tid, err)
		}
		f := bytes.Fields(b)
		if len(f) < 3 {
			continue // it has ended
		}
		pc, err := strconv.ParseUint(string(bytes.TrimPrefix(f[len(f)-1], []byte("0x"))), 16, 64)
		if err != nil {
			return fmt.Errorf("thread %d: system call line %.80q: %w", tid, b, err)
		}
		if a := mem.Addr(pc); a > from && a < to {
			return &InUseError{tid, a}
		}
	}
	return nil
}
