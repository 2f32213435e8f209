package profiler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/inject"
	"github.com/heaptap/heaptap/internal/fault"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// Attach begins to track the process's allocations, and returns; tracking goes on without us.
//
// Everything is prepared while the target runs. One thread is borrowed for five system calls; all else
// is written from outside. Each hooked word is in the agent's ledger before it is written, and does nothing before the
// last store, which makes all of them active at once: killed at any instant, we leave a target that runs as before and
// an agent that [Detach] or [Repair] removes.
func Attach(ctx context.Context, pid int, o AttachOptions) (*Attachment, error) {
	began := time.Now()
	if err := o.check(); err != nil {
		return nil, err
	}
	t, err := openLocked(ctx, pid)
	if err != nil {
		return nil, err
	}
	defer t.close()

	already, err := t.alreadyTracked()
	if err != nil {
		return nil, err
	}
	if already != nil {
		if o.Hold {
			already.Held, err = t.hold()
		}
		if o.OnSignal.Signal != 0 {
			already.Notes = append(already.Notes, "no signal was asked for files: that is done by the attach that begins the tracking")
		}
		return already, err
	}
	find := cpython.Find
	if o.starting {
		find = cpython.FindStarting
	}
	in, err := find(t.proc, t.mem)
	if err != nil {
		return nil, err
	}
	result := &Attachment{Python: describe(in), Hooked: domainsOf(o.Domains), Notes: in.Notes}
	pl, err := prepareAgent(t, in, o)
	if err != nil {
		return nil, err
	}
	if o.Follow {
		result.Notes = append(result.Notes, pl.follow()...)
	}
	fault.Point("attach/prepared")
	report, err := pl.place(ctx)
	if err != nil {
		return nil, err
	}
	result.Tid, result.Pause = report.Tid, report.Pause
	result.Notes = append(result.Notes, report.Notes...)
	result.Notes = append(result.Notes, pl.native.notes...)
	if err := pl.hook(result.Hooked); err != nil {
		pl.dropTables()
		return nil, errors.Join(err, pl.undo(ctx))
	}
	if pl.outlet != nil {
		report, err := pl.installOutlet(ctx)
		if err != nil {
			pl.dropTables()
			return nil, errors.Join(err, pl.undo(ctx))
		}
		result.Pause = max(result.Pause, report.Pause)
		result.Notes = append(result.Notes, pl.outletNotes()...)
	}
	if o.Hold {
		if result.Held, err = t.holdTables(pl.base+agent.TablesOffset, pl.header.Size, pl.tables); err != nil {
			return nil, errors.Join(err, pl.undo(ctx))
		}
	}
	result.Took = time.Since(began)
	return result, nil
}

// alreadyTracked says what there is in the target already: nothing that matters (nil, nil), an agent at work, or an
// error that says what to do about it.
func (t *target) alreadyTracked() (*Attachment, error) {
	all, err := t.locate()
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		switch {
		case a.err != nil:
			return nil, a.err
		case a.state() == Tracking:
			return &Attachment{Already: true, Python: pythonOf(a.header)}, nil
		case a.state() == Incomplete:
			return nil, fmt.Errorf("process %d: %w", t.proc.Pid, ErrIncomplete)
		}
	}
	return nil, nil
}

func domainsOf(chosen []Domain) []Domain {
	if len(chosen) > 0 {
		return chosen
	}
	return []Domain{Raw, Mem, Obj, Malloc, Mmap, File}
}

const pageSize = 4096

// placing is an agent on its way into a target.
type placing struct {
	t      *target
	plan   *call.Plan
	in     *cpython.Interpreter
	image  *inject.Image
	header agent.Tables
	size   uint64 // of the reservation
	before []agent.Range
	outlet *agent.Outlet // nil: no signal is asked of

	named  bool     // the tables are a file that can be opened by name for a moment: see hold.go
	tables *os.File // that file, opened
	base   mem.Addr
	ledger []inject.Word // as in the header
	native nativePlan
	code   []agent.CodeModule // what to unwind native frames by; nil: they are not wanted
}

// prepareAgent does everything that needs no stop.
func prepareAgent(t *target, in *cpython.Interpreter, o AttachOptions) (*placing, error) {
	pl := &placing{t: t, in: in}
	var err error
	if pl.image, err = agent.Image(); err != nil {
		return nil, err
	}
	if pl.plan, err = call.Prepare(t.proc, call.Options{}); err != nil {
		return nil, err
	}
	if o.Hold {
		if err := pl.planHold(o.named); err != nil {
			return nil, err
		}
	}
	modules, err := dso.Modules(t.proc, t.mem)
	if err != nil {
		return nil, err
	}
	status, err := t.proc.Status(t.proc.Pid)
	if err != nil {
		return nil, err
	}
	nsPid, err := t.innermostPid()
	if err != nil {
		return nil, err
	}
	h := &pl.header
	if h.Config, err = configure(t, in, modules, pl.plan, nsPid, o.SampleBytes); err != nil {
		return nil, err
	}
	if o.AwaitEnd {
		pl.planEnding()
	}
	if err := pl.planNative(modules, domainsOf(o.Domains)); err != nil {
		return nil, err
	}
	if o.Native {
		if err := pl.planFrames(modules); err != nil {
			return nil, err
		}
	}
	if err := pl.planMemory(status, o.Follow); err != nil {
		return nil, err
	}
	maps, err := t.proc.Maps()
	if err != nil {
		return nil, err
	}
	pl.before = noteBefore(maps)
	if err := pl.planOutlet(o.OnSignal); err != nil {
		return nil, err
	}
	h.Config.Temporary = uint32(o.Temporary)
	h.Magic, h.Fingerprint, h.State = agent.Magic, agent.Fingerprint(), agent.StateHooking
	h.Started = uint64(time.Now().UnixNano())
	h.Owner, h.OwnerStart = uint64(t.proc.Pid), t.proc.StartTicks()
	h.Python = agent.Python{
		Version: packVersion(in.Version), Flavour: uint32(in.Flavour), LineFormat: uint32(in.Layout.Lines),
		InstrUnit: instrUnit(in.Layout.Frame.InstrKind), ModuleBase: uint64(in.Module.Start),
	}
	return pl, nil
}

// planMemory decides how large the tables may be. With children that are followed there must be room for another's
// beside them.
func (pl *placing) planMemory(status proc.Status, follow bool) error {
	for nr, name := range map[uint64]string{unix.SYS_MMAP: "mmap", unix.SYS_MADVISE: "madvise", unix.SYS_MUNMAP: "munmap"} {
		if ok, known := pl.plan.Allowed(nr); known && !ok {
			return &SeccompError{Pid: pl.t.proc.Pid, Call: name}
		}
	}
	limits, err := pl.t.proc.Limits()
	if err != nil {
		return err
	}
	machine, err := readMachine()
	if err != nil {
		return err
	}
	const roomy = 64 << 30
	part := uint64(2)
	if follow {
		part = 4
	}
	budget := min(roomy, machine.commit/part)
	if limits.AddressSpace != proc.Unlimited {
		budget = min(budget, (limits.AddressSpace-min(limits.AddressSpace, status.VmSize))/part)
	}
	// The most that is not above the budget and has a size that is ours alone.
	most := budget - (budget-reserveMark)%reserveModulus
	if budget < reserveMark || most < agent.MinTables+agent.TablesOffset {
		return &AddressSpaceError{Pid: pl.t.proc.Pid, Limit: limits.AddressSpace, Used: status.VmSize}
	}
	pl.size = pl.header.Plan(most-agent.TablesOffset, machine.ram, pl.header.Config.GranuleLog2) + agent.TablesOffset
	pl.size += (reserveMark - pl.size%reserveModulus + reserveModulus) % reserveModulus
	pl.header.Size = pl.size - agent.TablesOffset
	return nil
}

// place maps the agent's memory: the only time that a thread is borrowed, for five system calls and no code of ours.
// The reservation is where the code will be; the tables come next, by which a later heaptap finds what was left half
// done. They are shared memory without a name, since one from memfd_create takes two calls more.
func (pl *placing) place(ctx context.Context) (call.Report, error) {
	report, err := pl.plan.Borrow(ctx, func(s *call.Session) error {
		const none = ^uint64(0)
		base, err := s.Syscall(unix.SYS_MMAP, 0, pl.size, unix.PROT_READ|unix.PROT_EXEC,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE, none, 0)
		if err != nil {
			return fmt.Errorf("reserve %d MiB of address space: %w", pl.size>>20, err)
		}
		pl.base = mem.Addr(base)
		fault.Point("attach/reserved")
		flag, tables := base+agent.FlagOffset, base+agent.TablesOffset
		back, kind, err := pl.tablesFile(s)
		if err != nil {
			return pl.unplace(s, err)
		}
		for _, step := range []struct {
			what string
			nr   uint64
			args []uint64
		}{
			{"tables", unix.SYS_MMAP, []uint64{tables, pl.header.Size, unix.PROT_READ | unix.PROT_WRITE,
				unix.MAP_SHARED | kind | unix.MAP_FIXED | unix.MAP_NORESERVE, back, 0}},
			// A core dump would bring every page of the reservation into being.
			{"tables' mark to be left out of core dumps", unix.SYS_MADVISE,
				[]uint64{tables, pl.header.Size, unix.MADV_DONTDUMP}},
			{"flag page", unix.SYS_MMAP, []uint64{flag, pageSize, unix.PROT_READ | unix.PROT_WRITE,
				unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_FIXED, none, 0}},
			{"flag page's mark to be wiped on fork", unix.SYS_MADVISE, []uint64{flag, pageSize, unix.MADV_WIPEONFORK}},
		} {
			if _, err := s.Syscall(step.nr, step.args...); err != nil {
				return errors.Join(pl.unplace(s, fmt.Errorf("map the agent's %s: %w", step.what, err)), closeIn(s, back))
			}
			fault.Point("attach/mapped")
		}
		return closeIn(s, back)
	})
	if err != nil {
		pl.dropTables()
	}
	return report, err
}

// unplace takes back the reservation after an error in the middle.
func (pl *placing) unplace(s *call.Session, err error) error {
	if _, undo := s.Syscall(unix.SYS_MUNMAP, uint64(pl.base), pl.size); undo != nil {
		return &RestoreError{Pid: pl.t.proc.Pid, What: "the agent's reservation stays mapped", Err: errors.Join(undo, err)}
	}
	return err
}

// hook fills the tables and swaps the allocators' pointers. The target runs.
func (pl *placing) hook(domains []Domain) error {
	h, m := &pl.header, pl.t.mem
	h.Image = uint64(pl.base)
	if err := m.WriteAt(pl.image.Text, pl.base); err != nil {
		return fmt.Errorf("write the agent's code: %w", err)
	}
	fault.Point("attach/written")
	if err := pl.fillLedger(domains); err != nil {
		return err
	}
	if err := pl.placeStubs(); err != nil {
		return err
	}
	if err := agent.WriteBefore(m, pl.base+agent.TablesOffset, h, pl.before); err != nil {
		return err
	}
	// Before there is a header, so that whoever finds one is told whose it is.
	if err := agent.WriteFlag(m, pl.base+agent.FlagOffset, agent.Flag{Tables: agent.TablesOwn}); err != nil {
		return err
	}
	if err := agent.WriteHeader(m, pl.base+agent.TablesOffset, h); err != nil {
		return err
	}
	if pl.outlet != nil {
		if err := agent.WriteOutlet(m, pl.base+agent.TablesOffset, h, pl.outlet); err != nil {
			return err
		}
	}
	if err := pl.writeNative(); err != nil {
		return err
	}
	if err := pl.publishFrames(); err != nil {
		return err
	}
	fault.Point("attach/ledger")
	for _, w := range pl.ledger {
		if err := fault.Err("attach/hook"); err != nil {
			return err
		}
		if err := w.Install(m); err != nil {
			return fmt.Errorf("hook: %w", err)
		}
		fault.Point("attach/hooked")
	}
	if err := pl.hookSlots(); err != nil {
		return err
	}
	if err := writeState(m, pl.base, agent.StateTracking); err != nil {
		return err
	}
	fault.Point("attach/state")
	first := agent.Flag{Tables: agent.TablesOwn, UntilSample: int64(rand.ExpFloat64() * float64(h.Config.SampleBytes))}
	if err := agent.WriteFlag(m, pl.base+agent.FlagOffset, first); err != nil {
		return err
	}
	// The one store that makes every hook active.
	first.Active = 1
	if err := agent.WriteFlag(m, pl.base+agent.FlagOffset, first); err != nil {
		return err
	}
	fault.Point("attach/active")
	return nil
}

// fillLedger reads the allocators and decides what each hooked word will hold.
func (pl *placing) fillLedger(domains []Domain) error {
	l := pl.in.Layout.Allocator
	offsets := [agent.Functions]cpython.Offset{agent.Malloc: l.Malloc, agent.Calloc: l.Calloc, agent.Realloc: l.Realloc, agent.Free: l.Free}
	for _, d := range domains {
		if d >= PythonDomains {
			continue
		}
		for f, off := range offsets {
			at := off.From(pl.in.Allocators[d])
			old, err := mem.U64(pl.t.mem, at)
			if err != nil {
				return fmt.Errorf("read allocator %v.%s: %w", d, agent.FunctionNames[f], err)
			}
			hook, err := agent.Hook(pl.image, int(d), f, pl.header.Config.SampleBytes != 0)
			if err != nil {
				return err
			}
			w := inject.Word{Addr: at, Old: old, New: uint64(pl.base) + hook}
			pl.header.Original[d][f] = old
			pl.header.Ledger[len(pl.ledger)] = agent.Ledger{
				Address: uint64(at), Old: old, New: w.New, Kind: agent.LedgerAllocator, What: uint32(d)<<8 | uint32(f),
			}
			pl.ledger = append(pl.ledger, w)
		}
	}
	return nil
}

// undo takes everything out again after a failure.
func (pl *placing) undo(ctx context.Context) error {
	a := &placed{image: pl.base, size: pl.size, header: &pl.header}
	d, err := pl.t.remove(ctx, a)
	if err == nil && !d.Unmapped {
		err = errors.New(d.Why)
	}
	if err != nil {
		return &RestoreError{Pid: pl.t.proc.Pid, What: "the agent stays mapped", Err: err}
	}
	return nil
}

// writeState stores one of agent.State… in the tables of the agent whose image is at base.
func writeState(m mem.Writer, base mem.Addr, state uint64) error {
	return mem.PutU64(m, base+agent.TablesOffset+agent.StateOffset, state)
}

// machine is what there is of memory, bytes.
type machine struct {
	ram    uint64
	commit uint64 // that may still be promised, where the kernel promises no more than it has
}

func readMachine() (machine, error) {
	m := machine{commit: math.MaxUint64}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, err
	}
	value := func(key string) uint64 {
		_, rest, _ := strings.Cut(string(b), key+":")
		if f := strings.Fields(rest); len(f) > 0 && err == nil {
			var kb uint64
			kb, err = strconv.ParseUint(f[0], 10, 54)
			return kb << 10
		}
		err = cmp.Or(err, fmt.Errorf("/proc/meminfo has no %s", key))
		return 0
	}
	m.ram = value("MemTotal")
	const strict = "2" // Documentation/mm/overcommit-accounting.rst
	if mode, err := os.ReadFile("/proc/sys/vm/overcommit_memory"); err == nil && strings.TrimSpace(string(mode)) == strict {
		limit, used := value("CommitLimit"), value("Committed_AS")
		m.commit = limit - min(limit, used)
	}
	return m, err
}

func describe(in *cpython.Interpreter) Python {
	return Python{
		Version: in.Version.String(), Flavour: in.Flavour.String(), Debug: in.Debug,
		FreeThreaded: in.FreeThreaded, Path: in.Module.Path,
	}
}

// pythonOf is what the tables say of the interpreter.
func pythonOf(h *agent.Tables) Python {
	return Python{
		Version: unpackVersion(h.Python.Version).String(),
		Flavour: cpython.Flavour(h.Python.Flavour).String(),
	}
}

// packVersion and unpackVersion are how the tables hold a version: a byte each, the last one level and serial.
func packVersion(v cpython.Version) uint32 {
	return uint32(v.Major)<<24 | uint32(v.Minor)<<16 | uint32(v.Micro)<<8 | uint32(v.Level)<<4 | uint32(v.Serial)&0xf
}

func unpackVersion(p uint32) cpython.Version {
	return cpython.Version{
		Major: uint8(p >> 24), Minor: uint8(p >> 16), Micro: uint8(p >> 8),
		Level: cpython.Level(p >> 4 & 0xf), Serial: uint8(p & 0xf),
	}
}
