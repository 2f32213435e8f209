package profiler

import (
	"context"
	"time"

	"github.com/heaptap/heaptap/agent"
)

// Observation is what is quickly known of a tracked process.
type Observation struct {
	Since   time.Time // when tracking began
	Tracked uint64    // bytes live, of all tracked domains
	Blocks  uint64    // likewise
	Peak    uint64    // bytes: the most that was ever live, also between two looks
	RSS     uint64    // bytes of the process in memory; 0 where not known
}

// Observe looks at a tracked process, as [ReadStatus] does, but asks the kernel nothing that takes longer the larger the
// process is: it may be called each second for weeks. The target is not stopped.
func Observe(ctx context.Context, pid int) (*Observation, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t, err := open(pid)
	if err != nil {
		return nil, err
	}
	defer t.close()
	a, err := t.tracking()
	if err != nil {
		return nil, err
	}
	h := a.header
	o := &Observation{Since: time.Unix(0, int64(h.Started)), Peak: h.PeakBytes >> sampleShift(h)}
	if o.RSS, err = t.noteResident(a); err != nil {
		return nil, err
	}
	threads, err := agent.ReadThreads(t.mem, a.tablesAt(), h)
	if err != nil {
		return nil, err
	}
	for d := range hookedDomains(h) {
		sum := totals(h, threads, d)
		o.Tracked += sum.LiveBytes
		o.Blocks += sum.LiveBlocks
	}
	return o, t.proc.Check()
}
