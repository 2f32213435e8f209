package dso

import (
	"github.com/heaptap/heaptap/mem"
)

// blockSize is how much of a module is read at once where much of it will be.
const blockSize = 16 << 10

// maxBlocks bounds what is kept at a time; the tables of large programs have a few hundred blocks.
const maxBlocks = 4096

// blocks is memory that keeps what it has read, for one pass over a module's tables, whose thousands of small reads
// would be a system call each. It is for one goroutine.
type blocks struct {
	mem.Reader
	size uint64              // of a block, bytes, a power of 2
	kept map[mem.Addr][]byte // by address of the block; nil where the block cannot be read whole
}

func newBlocks(r mem.Reader, size uint64) *blocks {
	return &blocks{Reader: r, size: size, kept: make(map[mem.Addr][]byte)}
}

// ReadAt implements [mem.Reader].
func (b *blocks) ReadAt(p []byte, a mem.Addr) error {
	at := a.AlignDown(b.size)
	if uint64(a-at)+uint64(len(p)) > b.size {
		return b.Reader.ReadAt(p, a)
	}
	block, ok := b.kept[at]
	if !ok {
		var err error
		if block, err = mem.Bytes(b.Reader, at, int(b.size)); err != nil {
			block = nil // a hole in it: what is asked for may still be there
		}
		if len(b.kept) >= maxBlocks {
			clear(b.kept)
		}
		b.kept[at] = block
	}
	if block == nil {
		return b.Reader.ReadAt(p, a)
	}
	copy(p, block[a-at:])
	return nil
}

// through is the module as seen through memory that keeps what it has read.
func (m *Module) through() *Module {
	seen := *m
	seen.reader = newBlocks(m.reader, blockSize)
	return &seen
}
