package profiler

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/internal/fault"
	"github.com/heaptap/heaptap/mem"
)

// OnSignal has the agent itself write its tables to a file when the process gets a signal, for places where nothing may
// trace it then: the zero value does not.
//
// A handler that is there already is called afterwards, as it would have been; where there is none, the signal that would
// have ended the process does not do so. The handler makes system calls only. [ReadTables] reads the file.
type OnSignal struct {
	Signal syscall.Signal
	// Pattern of the files' names, an absolute path in the target's file system: %p is the process's id, %n a number, %%
	// a percent sign. A file that exists is never written over. "" is DefaultPattern.
	Pattern string
}

// DefaultPattern is where the files go that a signal asks for.
const DefaultPattern = "/tmp/heaptap-%p-%n.tables"

// Resolve checks the options and fills in what they leave open.
func (o OnSignal) Resolve() (OnSignal, error) {
	if o.Signal == 0 {
		if o.Pattern != "" {
			return o, errors.New("attach: a pattern for files, and no signal that asks for them")
		}
		return o, nil
	}
	o.Pattern = cmp.Or(o.Pattern, DefaultPattern)
	switch {
	case !mayAsk(o.Signal):
		return o, fmt.Errorf("attach: signal %s is not one that can ask for a file: HUP, USR1, USR2, URG, WINCH, PWR, and those from %d on can",
			SignalName(o.Signal), firstRealtime)
	case !path.IsAbs(o.Pattern):
		return o, fmt.Errorf("attach: the files' names, %q, are not an absolute path: it is not known to what else they are relative", o.Pattern)
	case strings.ContainsRune(o.Pattern, 0) || len(o.Pattern) >= agent.PatternBytes:
		return o, fmt.Errorf("attach: the files' names take %d bytes or hold a zero byte; the most is %d bytes", len(o.Pattern), agent.PatternBytes-1)
	case strings.Contains(path.Dir(o.Pattern), "%"):
		return o, fmt.Errorf("attach: the folder of the files, %q, is to have no %% in it", path.Dir(o.Pattern))
	}
	if !strings.Contains(strings.ReplaceAll(o.Pattern, "%%", ""), "%n") {
		ext := path.Ext(o.Pattern)
		o.Pattern = strings.TrimSuffix(o.Pattern, ext) + "-%n" + ext
	}
	return o, nil
}

// The real-time signals; glibc and musl keep the two or three before firstRealtime to themselves.
const firstRealtime, lastRealtime = 35, 64

// mayAsk reports whether nothing breaks when a signal does not do what it does by default: which is to end the process
// without anybody waiting for that, or nothing.
func mayAsk(s syscall.Signal) bool {
	switch s {
	case unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGURG, unix.SIGWINCH, unix.SIGPWR:
		return true
	}
	return s >= firstRealtime && s <= lastRealtime
}

// SignalName is a signal's name without SIG, or its number.
func SignalName(s syscall.Signal) string {
	if name := unix.SignalName(s); name != "" {
		return strings.TrimPrefix(name, "SIG")
	}
	return fmt.Sprint(int(s))
}

// OutletStatus is how writing upon a signal stands.
type OutletStatus struct {
	Signal  syscall.Signal
	Pattern string
	Written uint64 // files
	Failed  uint64 // signals upon which none could be written
	Passed  uint64 // signals that came while a file was being written
	Error   error  // why the last one failed; nil where it did not
	Last    string // the last file's name, "" where there is none
	Place   Place
}

// Place says whether the agent's handler is in place.
type Place string

// The places of a handler.
const (
	InPlace      Place = "in place"
	Foreign      Place = "foreign"   // the program has put something else there since
	PlaceUnknown Place = "not known" // it could not be looked at
)

// planOutlet prepares what is to be done upon a signal.
func (pl *placing) planOutlet(o OnSignal) error {
	o, err := o.Resolve()
	if err != nil || o.Signal == 0 {
		return err
	}
	pid := pl.t.proc.Pid
	for nr, name := range map[uint64]string{
		unix.SYS_RT_SIGACTION: "rt_sigaction", unix.SYS_OPENAT: "openat", unix.SYS_WRITE: "write", unix.SYS_PWRITE64: "pwrite64",
		unix.SYS_CLOSE: "close", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_GETPID: "getpid", unix.SYS_PRLIMIT64: "prlimit64",
	} {
		if ok, known := pl.plan.Allowed(nr); !ok || !known {
			return fmt.Errorf("write files on signal: %w", &SeccompError{Pid: pid, Call: name})
		}
	}
	dir := path.Dir(o.Pattern)
	if st, err := os.Stat(pl.t.proc.Root() + dir); err != nil || !st.IsDir() {
		return fmt.Errorf("write files on signal into %s of process %d: %w", dir, pid, cmp.Or(errors.Unwrap(err), error(unix.ENOTDIR)))
	}
	x := &agent.Outlet{State: agent.OutletPlanned, Signal: uint32(o.Signal)}
	copy(x.Pattern[:], o.Pattern)
	for nr, bit := range map[uint64]uint32{unix.SYS_CLOCK_GETTIME: agent.OutletClock, unix.SYS_READ: agent.OutletRead} {
		if ok, known := pl.plan.Allowed(nr); ok && known {
			x.May |= bit
		}
	}
	pl.outlet = x
	return nil
}

// installOutlet puts the agent's handler in the place of the signal's, in a borrowed thread. What was there is in the
// tables before it is replaced: the kernel writes it there itself, so that nobody can come between.
func (pl *placing) installOutlet(ctx context.Context) (call.Report, error) {
	signal := pl.outlet.Signal
	handler, err := pl.image.Symbol("ht_on_signal")
	if err != nil {
		return call.Report{}, err
	}
	restorer, err := pl.image.Symbol("ht_signal_restore")
	if err != nil {
		return call.Report{}, err
	}
	tables := pl.base + agent.TablesOffset
	_, old, err := agent.OutletAt(tables, &pl.header)
	if err != nil {
		return call.Report{}, err
	}
	scratch := pl.base + agent.ScratchOffset
	return pl.plan.Borrow(ctx, func(s *call.Session) error {
		if _, err := s.Syscall(unix.SYS_RT_SIGACTION, uint64(signal), 0, uint64(old), signalSetSize); err != nil {
			return fmt.Errorf("read the disposition of signal %d: %w", signal, err)
		}
		was, err := agent.ReadSigaction(pl.t.mem, old)
		if err != nil {
			return err
		}
		ours := replacing(was)
		ours.Handler, ours.Restorer = uint64(pl.base)+handler, uint64(pl.base)+restorer
		if err := agent.WriteSigaction(pl.t.mem, scratch, ours); err != nil {
			return err
		}
		fault.Point("attach/signal-read")
		if _, err := s.Syscall(unix.SYS_RT_SIGACTION, uint64(signal), uint64(scratch), uint64(old), signalSetSize); err != nil {
			return fmt.Errorf("set the disposition of signal %d: %w", signal, err)
		}
		fault.Point("attach/signal-set")
		return agent.PutOutletState(pl.t.mem, tables, &pl.header, agent.OutletSet)
	})
}

// outletNotes are what a user should know of what was there before.
func (pl *placing) outletNotes() []string {
	was, err := agent.ReadOutlet(pl.t.mem, pl.base+agent.TablesOffset, &pl.header)
	if err != nil || was.Old.Handler != sigIgnore {
		return nil
	}
	return []string{fmt.Sprintf("signal %s was ignored; programs that the process executes would have inherited that, and now do not",
		SignalName(syscall.Signal(was.Signal)))}
}

const (
	signalSetSize = 8 // bytes of the kernel's sigset_t
	sigDefault    = 0
	sigIgnore     = 1

	saRestorer  = 0x04000000 // on both CPUs; package unix has none of these
	saSiginfo   = 4
	saOnStack   = 0x08000000
	saRestart   = 0x10000000
	saResetHand = 0x80000000
)

// replacing is a disposition that behaves as another, but for the handler: where there was a handler, its calls are
// interrupted and its signals blocked as before. Where there was none, system calls go on after the file is written.
func replacing(was agent.Sigaction) agent.Sigaction {
	if was.Handler == sigDefault || was.Handler == sigIgnore {
		return agent.Sigaction{Flags: saRestorer | saSiginfo | saOnStack | saRestart}
	}
	// A handler that is to be called once is, by the agent.
	return agent.Sigaction{Flags: was.Flags&^saResetHand | saRestorer | saSiginfo, Mask: was.Mask}
}

// outletOf is what the tables say of a signal, nil where there is none.
func (t *target) outletOf(a *placed) (*agent.Outlet, error) {
	x, err := agent.ReadOutlet(t.mem, a.tablesAt(), a.header)
	if err != nil || x.State == agent.OutletNone || x.Signal == 0 || x.Signal > lastRealtime {
		return nil, err
	}
	return x, nil
}

// disposition reads what the target does upon a signal, in a borrowed thread.
func (t *target) disposition(s *call.Session, a *placed, signal uint32) (agent.Sigaction, error) {
	scratch := a.image + agent.ScratchOffset + mem.Addr(agent.SigactionSize)
	if _, err := s.Syscall(unix.SYS_RT_SIGACTION, uint64(signal), 0, uint64(scratch), signalSetSize); err != nil {
		return agent.Sigaction{}, fmt.Errorf("read the disposition of signal %d: %w", signal, err)
	}
	return agent.ReadSigaction(t.mem, scratch)
}

// dropOutlet gives a signal the disposition that it had, if it still has ours.
func (t *target) dropOutlet(ctx context.Context, a *placed, d *Detachment) error {
	x, err := t.outletOf(a)
	if err != nil || x == nil {
		return err
	}
	plan, err := call.Prepare(t.proc, call.Options{})
	if err != nil {
		return err
	}
	from, to := a.text()
	ours := func(s agent.Sigaction) bool { at := mem.Addr(s.Handler); return at >= from && at < to }
	scratch := a.image + agent.ScratchOffset
	got := scratch + mem.Addr(agent.SigactionSize)
	foreign := false
	report, err := plan.Borrow(ctx, func(s *call.Session) error {
		is, err := t.disposition(s, a, x.Signal)
		if err != nil || !ours(is) {
			foreign = err == nil && x.State == agent.OutletSet && is != x.Old
			return err
		}
		put := func(v agent.Sigaction) (was agent.Sigaction, err error) {
			if err := agent.WriteSigaction(t.mem, scratch, v); err != nil {
				return was, err
			}
			if _, err := s.Syscall(unix.SYS_RT_SIGACTION, uint64(x.Signal), uint64(scratch), uint64(got), signalSetSize); err != nil {
				return was, fmt.Errorf("set the disposition of signal %d: %w", x.Signal, err)
			}
			return agent.ReadSigaction(t.mem, got)
		}
		// Another thread may have set it between: then that is put back.
		was, err := put(x.Old)
		if err == nil && !ours(was) {
			foreign = true
			_, err = put(was)
		}
		fault.Point("detach/signal")
		return err
	})
	if err == nil && !foreign && !a.forked { // what comes there from now on is no concern of ours
		err = agent.PutOutletState(t.mem, a.tablesAt(), a.header, agent.OutletPlanned)
	}
	d.Pause = max(d.Pause, report.Pause)
	if foreign {
		d.Foreign = append(d.Foreign, fmt.Sprintf("signal %s has another handler than heaptap's by now; left alone",
			SignalName(syscall.Signal(x.Signal))))
	}
	return err
}

// chained reports whether a thread is in a handler that the agent's has called, and to which it will return.
func (t *target) chained(a *placed) (mem.Addr, error) {
	if a.header == nil {
		return 0, nil
	}
	x, err := t.outletOf(a)
	if err != nil || x == nil {
		return 0, err
	}
	image, err := agent.Image()
	if err != nil {
		return 0, err
	}
	at, err := image.Symbol("ht_signal_chained")
	return a.image + mem.Addr(at), err
}

// outletStatus tells how writing upon a signal stands; nil where nobody wanted it. What the process does upon a signal is
// told to nobody but itself, so a thread is borrowed to ask.
func (t *target) outletStatus(ctx context.Context, a *placed) (*OutletStatus, error) {
	x, err := t.outletOf(a)
	if err != nil || x == nil {
		return nil, err
	}
	s := &OutletStatus{Signal: syscall.Signal(x.Signal), Pattern: x.PatternText(), Written: uint64(x.Written),
		Failed: uint64(x.Failed), Passed: uint64(x.Passed), Place: PlaceUnknown}
	if x.Error != 0 {
		s.Error = syscall.Errno(x.Error)
	}
	if x.Written > 0 && s.Error == nil {
		s.Last = x.FileName()
	}
	status, err := t.proc.Status(t.proc.Pid)
	if err != nil {
		return nil, err
	}
	if status.SigCgt&(1<<(x.Signal-1)) == 0 {
		s.Place = Foreign
		return s, nil
	}
	unlock, err := t.lock()
	if err != nil {
		return s, nil // somebody is at work on it
	}
	defer unlock()
	plan, err := call.Prepare(t.proc, call.Options{})
	if err != nil {
		return s, nil
	}
	var is agent.Sigaction
	_, err = plan.Borrow(ctx, func(session *call.Session) (err error) {
		is, err = t.disposition(session, a, x.Signal)
		return err
	})
	from, to := a.text()
	switch at := mem.Addr(is.Handler); {
	case errors.As(err, new(*call.RestoreError)):
		return nil, err
	case err != nil:
	case at >= from && at < to:
		s.Place = InPlace
	default:
		s.Place = Foreign
	}
	return s, nil
}

// IsTables reports whether a file that begins so was written by an agent upon a signal: see [ReadTables].
func IsTables(first []byte) bool { return agent.IsWritten(first) }

// TablesMagic is how many bytes [IsTables] looks at.
const TablesMagic = agent.MagicSize

// ReadTables makes a snapshot of the tables that an agent wrote to a file, on whatever machine.
func ReadTables(r io.Reader) (*Dump, error) {
	began := time.Now()
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	w, err := agent.OpenWritten(bytes.NewReader(b), int64(len(b)))
	var other *agent.OtherVersionError
	if errors.As(err, &other) {
		return nil, fmt.Errorf("tables of another version of heaptap (%016x, this one reads %016x): the one that attached reads them",
			other.Have, other.Want)
	}
	if err != nil {
		return nil, err
	}
	c := &agent.Capture{Running: true}
	if err := c.Copy(w, 0, w.Size()); err != nil {
		return nil, err
	}
	if err := c.CopyNames(w, 0, w.Size()); err != nil {
		return nil, err
	}
	taken := time.Unix(0, int64(w.File.Time))
	if w.File.Time == 0 {
		taken = time.Unix(0, int64(c.Header.Started)).Add(time.Duration(min(w.File.Seconds, 1<<33)) * time.Second)
	}
	d := &Dump{Notes: []string{"types are not known: the process was not there to be asked"}}
	now := int64(min(w.File.Seconds, 1<<40))
	info := snapshotInfo{pid: int(w.File.Pid), command: w.Outlet.CommandLine(), taken: taken, now: &now,
		resident: w.Outlet.ResidentPages() * pageSize, by: "signal " + SignalName(syscall.Signal(w.File.Signal))}
	if d.Snapshot, d.Blocks, err = buildSnapshot(c, noTypes(), nil, nil, info); err != nil {
		return nil, err
	}
	d.Took = time.Since(began)
	return d, nil
}
