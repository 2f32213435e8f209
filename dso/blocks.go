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
	kept map[mem.Addr][]byte // by address of the block; nil where the block cannot be read whole
}

// ReadAt implements [mem.Reader].
func (b *blocks) ReadAt(p []byte, a mem.Addr) error {
	at := a.AlignDown(blockSize)
	if len(p) > blockSize || a+mem.Addr(len(p)) > at+blockSize {
		return b.Reader.ReadAt(p, a)
	}
	block, ok := b.kept[at]
	if !ok {
		var err error
		if block, err = mem.Bytes(b.Reader, at, blockSize); err != nil {
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
	seen.reader = &blocks{Reader: m.reader, kept: make(map[mem.Addr][]byte)}
	return &seen
}
