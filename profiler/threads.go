package profiler

import (
	"errors"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/proc"
)

// nameThreads gives the threads in c the names that they have now. The agent notes a thread's name when it first
// allocates, and most threads are named after that: Python names them itself (since 3.14), long after it has allocated for
// them. Ended threads keep what was noted.
func (t *target) nameThreads(c *agent.Capture) error {
	threads := c.Threads()
	numbered := map[uint32][]int{}
	for i := range threads {
		if tid := threads[i].Tid; tid != 0 {
			numbered[tid] = append(numbered[tid], i)
		}
	}
	tids, err := t.proc.Threads()
	if err != nil {
		return err
	}
	for _, tid := range tids {
		status, err := t.proc.Status(tid)
		if errors.Is(err, proc.ErrGone) {
			continue // the thread has ended meanwhile
		}
		if err != nil {
			return err
		}
		inside := tid
		if n := len(status.NSpid); n > 0 {
			inside = status.NSpid[n-1]
		}
		// Of two records with one number, one is of a thread that has ended; which of them is not known.
		if found := numbered[uint32(inside)]; len(found) == 1 {
			name := &threads[found[0]].Name
			*name = [len(name)]byte{}
			copy(name[:len(name)-1], status.Name)
		}
	}
	return nil
}
