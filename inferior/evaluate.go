package inferior

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/cexpr"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
)

// Options say in which thread and when functions are called.
type Options struct {
	// Thread is an id or a name; "" or "any" is the one that is disturbed least, among those that can be used at once.
	Thread string
	// When is the instant: a safe point, now, or as soon as a thread has entered the function Entry.
	When  call.When
	Entry string
	// Timeout bounds the wait for the instant, and each call. 0 means 10 seconds.
	Timeout time.Duration
	// StopAll holds all other threads meanwhile.
	StopAll bool
	// Keep leaves literals and buffers in the process for good.
	Keep bool
	// Force calls also what would not be called: Python's functions without its lock, and what needs a lock that the
	// thread may hold.
	Force bool
	// Trace is told each step, with a thread held. nil: nobody is.
	Trace func(call.Step)
}

// Evaluation is what expressions came to.
type Evaluation struct {
	Outcomes []cexpr.Outcome
	Thread   Thread        // that was borrowed; the zero Thread where none had to be
	Threads  int           // how many were held
	Pause    time.Duration // the longest that any was
	Kept     []Range       // memory left in the process, with Options.Keep
	Notes    []string
}

// Evaluate evaluates C expressions in order; $1 and named variables of one are known to the next. At the first that
// fails it stops: the outcomes before it are in the result, which is never nil. Nothing is borrowed from the process if
// an expression does not parse or names what is not there; none of its threads runs anything if no function is called.
func (p *Process) Evaluate(ctx context.Context, expressions []string, o Options) (*Evaluation, error) {
	out := &Evaluation{}
	err := p.evaluate(ctx, expressions, o, out)
	return out, err
}

func (p *Process) evaluate(ctx context.Context, expressions []string, o Options, out *Evaluation) error {
	job, err := p.prepare(ctx, expressions, o)
	if err != nil {
		return err
	}
	if job.looksOnly() {
		var env cexpr.Env
		if err := job.run(job.machine, &env, out); !errors.Is(err, errNoThread) {
			return err
		}
		out.Outcomes = nil // it wants more than was planned: a string, or an assignment
	}
	return job.borrow(ctx, out)
}

// job is expressions made ready.
type job struct {
	process  *Process
	options  Options
	programs []*cexpr.Program
	planned  []cexpr.Planned
	planErr  error // why planning did not come to the end: what comes behind it is known only in the run
	thread   Thread
	machine  *machine // looks only
	needed   Resources
	gil      string // the function for which the thread must hold Python's lock from the start; "" if none
	call     call.Options
	denied   *GILError // the first thread that did not hold the lock that gil needs
	since    time.Time // when that was
}

// prepare does all that can be done without disturbing the process.
func (p *Process) prepare(ctx context.Context, expressions []string, o Options) (*job, error) {
	j := &job{process: p, options: o}
	for _, src := range expressions {
		program, err := cexpr.Parse(src)
		if err != nil {
			return nil, err
		}
		j.programs = append(j.programs, program)
	}
	var err error
	if o.Thread != "" && o.Thread != "any" {
		if j.thread, err = p.FindThread(o.Thread); err != nil {
			return nil, err
		}
	}
	symbols, err := p.Symbols()
	if err != nil {
		return nil, err
	}
	python := viewPython(p.process, p.memory, symbols)
	j.machine = &machine{
		process: p, symbols: symbols, types: newTypeSource(symbols.Modules()), force: o.Force,
		judge: newJudge(p.walker(symbols, python), python), named: make(map[mem.Addr]dso.Found),
		looked: make(map[string]cexpr.Entity),
	}
	j.machine.registers = j.glance(ctx)
	if err := j.plan(expressions); err != nil {
		return nil, err
	}
	return j, j.options4call(symbols)
}

// glance reads the registers of the thread that will probably be borrowed, once, and lets it go on.
func (j *job) glance(ctx context.Context) func() (*Registers, error) {
	var regs *Registers
	var err error
	return func() (*Registers, error) {
		if regs == nil && err == nil {
			tid := j.thread.Tid
			if tid == 0 {
				tid, err = j.process.process.LiveThread()
			}
			if err == nil {
				regs, err = j.process.Registers(ctx, tid)
			}
		}
		return regs, err
	}
}

// plan finds out which functions will be called, and what they need. A name that is not there ends it.
func (j *job) plan(expressions []string) error {
	// All in one, since what one leaves the next may use. That they parse one by one is known.
	whole, err := cexpr.Parse(strings.Join(expressions, separator))
	if err != nil {
		return err
	}
	j.planned, err = whole.Explain(j.machine, &cexpr.Env{})
	if err != nil {
		if j.hopeless(err) {
			return inOne(err, expressions)
		}
		j.planErr = err
	}
	if j.planErr != nil {
		j.needed = everything
	}
	ensured := false
	for _, c := range j.planned {
		name, module := j.machine.name(c.Function.Addr)
		if c.Function.Addr == 0 {
			name = ""
		}
		j.needed |= j.machine.judge.need(name, module)
		if plainName(name) == "PyGILState_Ensure" {
			ensured = true
		}
		if j.gil == "" && !ensured && j.machine.judge.needsGIL(name, module) {
			j.gil = name
		}
	}
	return nil
}

// separator stands between expressions that are planned together.
const separator = ";\n"

// inOne makes an error's place in all expressions together a place in the one that it is in.
func inOne(err error, expressions []string) error {
	var e *cexpr.EvalError
	if !errors.As(err, &e) {
		return err
	}
	pos := e.Pos
	for _, src := range expressions {
		if pos <= len(src) {
			return &cexpr.EvalError{Src: src, Pos: pos, Err: e.Err}
		}
		pos -= len(src) + len(separator)
	}
	return err
}

// hopeless reports whether an expression that could not be planned cannot be evaluated either: memory that cannot be read
// now may be there once the calls before have been made.
func (j *job) hopeless(err error) bool {
	return len(j.planned) == 0 || !errors.As(err, new(*mem.Fault))
}

// looksOnly reports whether it is worth trying without borrowing a thread.
func (j *job) looksOnly() bool {
	return len(j.planned) == 0 && j.planErr == nil && j.options.When != call.Entry && j.options.Trace == nil
}

// options4call makes package call's options.
func (j *job) options4call(symbols *dso.Symbols) error {
	o := j.options
	j.call = call.Options{
		Timeout: o.Timeout, Tid: j.thread.Tid, When: o.When, StopAll: o.StopAll, Keep: o.Keep, Trace: o.Trace,
	}
	if o.When == call.Entry {
		f, err := symbols.Resolve(o.Entry)
		if err != nil {
			return err
		}
		if f.Entry() == 0 || !f.Module.Executable(f.Entry()) {
			return fmt.Errorf("%v is not a function that can be waited for", &f)
		}
		j.call.Entry, j.call.EntrySize = f.Entry(), f.Size
	}
	if o.When == call.Safe && !o.Force && (j.needed != 0 || j.gil != "") {
		j.call.Busy = j.busy
	}
	return nil
}

// patience is how long the holder of Python's lock is looked for among the threads of a process.
const patience = 500 * time.Millisecond

// busy says why a thread cannot be borrowed where it stands.
func (j *job) busy(t call.StoppedThread) (string, error) {
	st, err := j.process.process.Stat(t.Tid)
	if err != nil {
		return "", err
	}
	p := j.machine.judge.position(t, st.Comm, j.needed)
	if j.gil != "" && p.GIL == WithoutGIL {
		if j.denied == nil {
			j.denied, j.since = &GILError{j.gil, t.Tid}, time.Now()
		} else if time.Since(j.since) > patience {
			return "", j.denied
		}
		return "without Python's GIL, which " + j.gil + " needs", nil
	}
	return p.Why, nil
}

// warm has the symbols read that judging a thread will take, before one is held for it: a look at where the thread is
// that will probably be borrowed, with its stack as it is while it runs on. What comes out of it does not matter.
func (j *job) warm() {
	if j.call.Busy == nil {
		return
	}
	regs, err := j.machine.registers()
	if err != nil {
		return // the borrowing will say why
	}
	t := call.StoppedThread{Tid: regs.Tid, PC: regs.General.PC(), SP: regs.General.SP(), Regs: regs.General}
	j.machine.judge.position(t, "", j.needed)
}

// run evaluates all programs.
func (j *job) run(m *machine, env *cexpr.Env, out *Evaluation) error {
	for _, program := range j.programs {
		outcomes, err := program.Run(m, env)
		out.Outcomes = append(out.Outcomes, outcomes...)
		if err != nil {
			return err
		}
	}
	return nil
}

// borrow evaluates in a borrowed thread.
func (j *job) borrow(ctx context.Context, out *Evaluation) error {
	p := j.process
	j.machine.findErrno()
	j.warm()
	p.stops.Lock()
	defer p.stops.Unlock()
	plan, err := call.Prepare(p.process, j.call)
	if err != nil {
		return err
	}
	var failed error // of an expression, as against the borrowing
	report, err := plan.Borrow(ctx, func(s *call.Session) error {
		m := *j.machine
		m.session = s
		m.registers = sessionRegisters(s)
		switch {
		case j.options.When != call.Safe:
			m.judged = everything | Interpreter // whoever names the instant has judged it
		case j.call.Busy != nil:
			m.judged = j.needed
		}
		if err := m.watchErrno(); err != nil {
			return err
		}
		var env cexpr.Env
		failed = j.run(&m, &env, out)
		if j.options.Keep {
			out.Kept = m.mapped
		}
		return failed
	})
	out.Thread.Tid, out.Threads, out.Pause = report.Tid, report.Threads, report.Pause
	out.Notes = append(out.Notes, report.Notes...)
	if st, err := p.process.Stat(report.Tid); err == nil {
		out.Thread.Name = st.Comm
	}
	if failed != nil && !errors.As(err, new(*call.RestoreError)) {
		var callee *CalleeError
		if errors.As(failed, &callee) {
			callee.Frames = j.machine.judge.walker.withLines(callee.Frames)
		}
		return failed
	}
	return j.refused(err)
}

// refused puts first that no thread held the lock that was needed, where that is why none could be borrowed.
func (j *job) refused(err error) error {
	if j.denied != nil && (errors.As(err, new(*call.BusyError)) || errors.Is(err, j.denied)) {
		return j.denied
	}
	return err
}

// sessionRegisters are those with which the thread was interrupted.
func sessionRegisters(s *call.Session) func() (*Registers, error) {
	var regs *Registers
	return func() (*Registers, error) {
		if regs == nil {
			regs = &Registers{Thread: Thread{Tid: s.Tid()}, General: s.Regs(), Extended: s.Extended()}
		}
		return regs, nil
	}
}
