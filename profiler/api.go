// Package profiler is where the two halves of heaptap meet: the engine, which knows processes, and the heap model, which
// does not. It attaches to a running CPython, tracks its allocations, and gives snapshots.
//
// It keeps no state of its own: everything lives in the tables inside the target, so that each call may come from a new
// process. Calls for different targets may run at the same time; calls that change one target exclude each
// other by a lock that ends with its holder.
package profiler

import (
	"errors"
	"fmt"
	"time"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/heap"
)

// Domain is a class of allocations that is hooked and counted by itself.
type Domain uint8

// The domains: CPython's allocators (Doc/c-api/memory.rst), and what else C code asks for.
const (
	Raw           Domain   = iota // PyMem_RawMalloc and family: any thread, with or without the GIL
	Mem                           // PyMem_Malloc and family: buffers
	Obj                           // PyObject_Malloc and family: objects
	Malloc                        // malloc and family, where it is not called by CPython's allocators
	Mmap                          // mmap of memory without a file
	File                          // mmap of files; hooked together with Mmap
	NumDomains                    //
	PythonDomains = Malloc        // those before it are CPython's own
)

// String is the domain's name in filters, labels and reports.
func (d Domain) String() string {
	if d < NumDomains {
		return agent.DomainNames[d]
	}
	return fmt.Sprintf("domain(%d)", uint8(d))
}

// AttachOptions say what to track. The zero value tracks every block of every domain, exactly.
type AttachOptions struct {
	SampleBytes uint64   // mean distance between samples, bytes; 0 tracks every block
	Domains     []Domain // empty: all. File goes with Mmap
	// A block is temporary when it is freed within so many allocations of its thread; up to MostTemporary. 0: none
	// is. Sampling cannot tell.
	Temporary int
	Native    bool // stacks with the frames of machine code, Python's in the place of the interpreter's evaluations
	Follow    bool // forked children get tables of their own, and so do theirs
	// Hold keeps the tables for us, so that they outlive the process: Attachment.Held.
	Hold bool
	// AwaitEnd, with Hold, has the interpreter wait when it begins to end, before its objects go, until Held has made a
	// snapshot of it: Held.Look or Held.Wait must be called.
	AwaitEnd bool

	// OnSignal has the process write its tables to a file when a signal comes.
	OnSignal OnSignal

	starting bool // the interpreter need not be initialised
	named    bool // hold as those do who may not open mappings
}

// MostTemporary is the largest AttachOptions.Temporary.
const MostTemporary = agent.TemporaryMost

func (o AttachOptions) check() error {
	switch {
	case o.Temporary < 0 || o.Temporary > MostTemporary:
		return fmt.Errorf("attach: temporary blocks are those freed within 1 to %d allocations, not %d", MostTemporary, o.Temporary)
	case o.Temporary > 0 && o.SampleBytes != 0:
		return errors.New("attach: temporary blocks cannot be told when sampling")
	}
	_, err := o.OnSignal.Resolve()
	return err
}

// Attachment tells what an attach did.
type Attachment struct {
	Python  Python
	Hooked  []Domain      // domains whose allocators now pass through the agent
	Pause   time.Duration // how long the borrowed thread was held
	Tid     int           // the borrowed thread
	Took    time.Duration // the whole attach
	Notes   []string      // what a user should know: what is not seen and why
	Already bool          // tracking was on before; nothing was changed
	Held    *Held         // with AttachOptions.Hold; the caller closes it
}

// Python describes an interpreter in a process.
type Python struct {
	Version      string // "3.11.2"
	Flavour      string // "static", "shared" or "embedded"
	Debug        bool
	FreeThreaded bool
	Path         string // of the module that holds the interpreter, in the target's file system
}

// Totals counts blocks and bytes of one domain since tracking began. Frees count only blocks that were seen.
type Totals struct {
	Domain                  Domain
	LiveBlocks, LiveBytes   uint64
	AllocBlocks, AllocBytes uint64
	FreedBlocks, FreedBytes uint64
}

// State is the condition of tracking in a process.
type State string

// The states that [ReadStatus] can find.
const (
	Tracking   State = "tracking"     // hooks in place, every allocation goes through the agent
	Displaced  State = "displaced"    // tracking, but some hooks were taken out by somebody else
	Incomplete State = "incomplete"   // an attach or detach was cut short: detach or repair
	Passive    State = "pass-through" // detached, but the agent stays mapped since something still points into it
	Forked     State = "forked"       // child of a tracked process: hooks inherited, nothing recorded
)

// Status is what [ReadStatus] finds.
type Status struct {
	Pid           int
	State         State
	Python        Python
	Since         time.Time // when tracking began
	SampleBytes   uint64
	Totals        []Totals // one for each tracked domain
	UnseenFrees   uint64   // blocks freed that tracking never saw allocated (mostly: from before the attach)
	Stacks        uint64   // distinct stacks interned (trie nodes)
	CodeObjects   uint64
	Threads       uint64        // that have allocated
	AgentText     uint64        // bytes of code mapped
	AgentTables   uint64        // bytes of tables in memory (not reserved)
	AgentReserved uint64        // bytes of address space
	Resident      uint64        // bytes of the whole process in memory, where it is tracked
	Memory        *Memory       // what that is made of; nil where it is not known
	PeakBytes     uint64        // the most that was ever live, of all tracked domains
	Lost          uint64        // allocations not recorded since a table was full
	Follows       bool          // forked children are followed
	Followed      uint64        // forked children that have got tables of their own
	NotFollowed   uint64        // forked children that could not: no address space
	Parent        int           // of a followed child: its parent's pid, as that one sees it itself; 0: it was attached to
	OnSignal      *OutletStatus // writing upon a signal; nil where nobody wanted it
	NotSeen       []string      // what is not seen and why, a sentence each
}

// DumpOptions say how to take a snapshot.
type DumpOptions struct {
	Filter  *heap.Filter // leave out blocks that do not pass, one by one; nil leaves out none
	lengths bool         // look into some containers of each stack
	NoPause bool         // read while the target runs: no pause, and blocks that come and go meanwhile may be missing or doubled
	ending  bool         // the interpreter is at its end, and waits there
}

// Dump is a snapshot and what it cost.
type Dump struct {
	Snapshot   *heap.Snapshot
	Pause      time.Duration // how long the target stood still; 0 with NoPause
	Took       time.Duration
	containers []Container // where they were asked for
	Blocks     uint64      // live blocks read
	Notes      []string
}

// Detachment tells what a detach or repair did.
type Detachment struct {
	Restored int           // hooked words of CPython's allocators that were put back
	Slots    int           // hooked GOT slots that were put back
	Foreign  []string      // hooked words that hold somebody else's value and were left alone, a sentence each
	Unmapped bool          // the agent is gone from the target
	Why      string        // where not unmapped: why it stays, as a pass-through
	Pause    time.Duration // longest that a thread was held
}

// Candidate is a Python process as [List] finds it.
type Candidate struct {
	Pid     int
	Parent  int
	Python  Python
	RSS     uint64 // bytes
	User    string
	Tracked State // "" when not
	Command string
	Problem string // why it cannot be told or attached to, "" when it can
}
