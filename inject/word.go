package inject

import (
	"fmt"

	"github.com/heaptap/heaptap/mem"
)

// Word is an aligned 8-byte word of the target that is swapped: what stood there and what we put there.
type Word struct {
	Addr     mem.Addr
	Old, New uint64
}

// ChangedError says that a word does not hold what it should, so that somebody else has been at it.
type ChangedError struct {
	Addr       mem.Addr
	Have, Want uint64
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("word at %v holds %#x, not %#x", e.Addr, e.Have, e.Want)
}

// Install writes New where Old stands. A word that holds neither is a [*ChangedError], and is left alone. The store is
// one store to every thread of the target, which may be running.
func (w Word) Install(m mem.Memory) error { return swap(m, w.Addr, w.Old, w.New) }

// Restore writes Old where New stands. A word that holds neither is a [*ChangedError], and is left alone.
func (w Word) Restore(m mem.Memory) error { return swap(m, w.Addr, w.New, w.Old) }

func swap(m mem.Memory, a mem.Addr, from, to uint64) error {
	if a%8 != 0 {
		return fmt.Errorf("word at %v is not aligned", a)
	}
	have, err := mem.U64(m, a)
	if err != nil {
		return err
	}
	switch have {
	case to:
		return nil
	case from:
	default:
		return &ChangedError{Addr: a, Have: have, Want: from}
	}
	if err := mem.PutU64(m, a, to); err != nil {
		return err
	}
	if have, err = mem.U64(m, a); err != nil {
		return err
	}
	if have != to {
		return &ChangedError{Addr: a, Have: have, Want: to}
	}
	return nil
}
