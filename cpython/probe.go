package cpython

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/heaptap/heaptap/mem"
)

// probe proves the layout on the live process: the lists of interpreters and threads lead to their ends, thread ids
// are those of threads, and at least one frame chain leads through code objects to its end.
func (c *candidate) probe(in *Interpreter) error {
	misfit := func(format string, args ...any) error {
		return c.unsupported("the layout known for this release does not fit this process: "+format, args...)
	}
	name, err := in.typeName(c.reader, in.CodeType)
	if err != nil {
		return err
	}
	if name != "code" {
		return misfit("PyCode_Type is named %q", name)
	}
	threads, err := in.threads(c.reader)
	if errors.Is(err, ErrBusy) {
		return misfit("%v", err)
	} else if err != nil {
		return err
	}
	if len(threads) == 0 {
		return c.notReady("it has no threads")
	}
	if !c.threadIDs(threads) {
		return misfit("thread ids are no addresses of thread descriptors")
	}
	frames, err := c.probeFrames(in, threads)
	if err != nil {
		return misfit("%v", err)
	}
	if frames > 0 {
		return nil
	}
	n, err := c.probeHeap(in)
	if err != nil {
		return err
	}
	if n < enoughCode {
		return misfit("no Python code runs, and only %d code objects were found on the heap", n)
	}
	in.Notes = append(in.Notes, "no Python code was running: the layout of code objects was probed on the heap, that of "+
		"frames could not be")
	return nil
}

const (
	enoughCode = 8       // code objects; importlib alone has more than 100
	maxHeap    = 1 << 28 // bytes of the heap that are searched for them
)

// probeHeap counts code objects in anonymous memory that decode sanely, until there are enough.
func (c *candidate) probeHeap(in *Interpreter) (int, error) {
	typeAt := int(in.Layout.Object.Type.Bytes)
	found, left := 0, uint64(maxHeap)
	for _, m := range c.maps {
		if !m.Write || !m.Read || m.Shared || m.Inode != 0 && !c.id.Module.Contains(m.Start) {
			continue
		}
		for at := m.Start; at < m.End && left > 0; at += scanChunk {
			b, err := mem.Bytes(c.reader, at, int(min(uint64(m.End-at), scanChunk)))
			if err != nil {
				break // it was unmapped meanwhile
			}
			left -= min(left, scanChunk)
			for i := 0; i+8 <= len(b); i += 8 {
				if mem.Addr(binary.LittleEndian.Uint64(b[i:])) != in.CodeType {
					continue
				}
				code, err := in.Code(c.reader, at+mem.Addr(i-typeAt))
				if err == nil && sane([]Frame{{Code: code}}) == nil {
					found++
				}
				if found == enoughCode {
					return found, nil
				}
			}
		}
	}
	return found, nil
}

// threadIDs reports whether some thread's id is mapped: pthread_self() is an address in both glibc and musl.
func (c *candidate) threadIDs(threads []ThreadState) bool {
	maps, err := c.process.Maps() // newer threads have newer stacks than the first look knew
	if err != nil {
		return false
	}
	for _, t := range threads {
		for _, m := range maps {
			if m.Contains(mem.Addr(t.ThreadID)) {
				return true
			}
		}
	}
	return false
}

// threads lists the threads of all interpreters.
func (in *Interpreter) threads(r mem.Reader) ([]ThreadState, error) {
	states, err := in.States(r)
	if err != nil {
		return nil, err
	}
	var threads []ThreadState
	for _, s := range states {
		threads = append(threads, s.Threads...)
	}
	return threads, nil
}

const (
	probedThreads = 64
	probeFor      = time.Second // at least, before a chain that never held together counts as a wrong layout
)

// probeFrames returns how many frames the first whole chain had. A chain that changes while it is read gives errors
// like a wrong layout does, so that each thread is tried often and one whole chain of any is enough. On a machine with
// too few processors a hundred tries may all meet the same busy thread or threads that have ended: so the threads are
// listed anew for each, and a busy process has some time.
func (c *candidate) probeFrames(in *Interpreter, threads []ThreadState) (int, error) {
	var last error
	idle := 0
	began := time.Now()
	for try := 0; try < maxTries || time.Since(began) < probeFor; try++ {
		if try > 0 {
			if now, err := in.threads(c.reader); err == nil && len(now) > 0 {
				threads = now
			}
		}
		threads = threads[:min(len(threads), probedThreads)]
		idle = 0
		for _, t := range threads {
			chain, err := in.chain(c.reader, t)
			if err == nil && len(chain) == 0 {
				idle++
				continue
			}
			var frames []Frame
			if err == nil {
				frames, err = in.frames(c.reader, chain)
			}
			if err == nil {
				err = sane(frames)
			}
			if err == nil && len(frames) > 0 {
				return len(frames), nil
			}
			last = err
		}
		if idle == len(threads) {
			return 0, nil
		}
	}
	if last == nil {
		last = fmt.Errorf("%d of %d threads run no Python code, the others only incomplete frames", idle, len(threads))
	}
	return 0, last
}

// sane checks what every compiler's output fulfils.
func sane(frames []Frame) error {
	for _, f := range frames {
		if f.Name == "" || f.FirstLine < 0 || f.FirstLine > maxFirstLine || f.Offset < -2 || f.Offset > maxLineTable {
			return fmt.Errorf("frame %v: name %q, first line %d, instruction %d", f.Addr, f.Name, f.FirstLine, f.Offset)
		}
	}
	return nil
}

func (in *Interpreter) typeName(r mem.Reader, typ mem.Addr) (string, error) {
	a, err := mem.Pointer(r, in.Layout.Object.TypeName.From(typ))
	if err != nil {
		return "", err
	}
	return mem.CString(r, a, 256)
}
