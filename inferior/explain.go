package inferior

import (
	"context"
	"time"

	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/cexpr"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
)

// Explanation is what evaluating expressions would do.
type Explanation struct {
	Calls []PlannedCall // in order, as far as they are known before the first is made
	Rest  error         // why what follows is not known; nil where all is
	Needs Resources     // what all of them need
	// Position is where the thread stands that would be borrowed; nil where none would be, or where it was not waited for.
	Position *Position
	Pause    time.Duration // for which that thread was looked at
	Stub     []Instruction // that the thread would execute around each call; empty where nothing would be called
}

// PlannedCall is a call that would be made.
type PlannedCall struct {
	cexpr.Planned
	Symbol   *dso.Found // nil where no symbol names the function
	Needs    Resources
	NeedsGIL bool
	Code     []Instruction // the function's first instructions
}

// Instruction is one machine instruction of a listing.
type Instruction struct {
	Addr  mem.Addr // 0-based in code that is not placed yet
	Bytes []byte
	Text  string
	Note  string // what it is there for; "" mostly
}

// firstInstructions is how many instructions of a function are shown.
const firstInstructions = 4

// Explain tells what [Process.Evaluate] would do with the same arguments, without calling, writing or allocating
// anything for it. The thread that would be borrowed is waited for, looked at and let go. The explanation may come with
// an error: that no thread is at a safe point, for example.
func (p *Process) Explain(ctx context.Context, expressions []string, o Options) (*Explanation, error) {
	job, err := p.prepare(ctx, expressions, o)
	if err != nil {
		return nil, err
	}
	out := &Explanation{Needs: job.needed, Rest: job.planErr}
	for _, c := range job.planned {
		out.Calls = append(out.Calls, job.explain(c))
	}
	if job.looksOnly() {
		return out, nil
	}
	out.Stub = disassembleStub()
	if o.When == call.Entry {
		return out, nil
	}
	return out, job.rehearse(ctx, out)
}

func (j *job) explain(c cexpr.Planned) PlannedCall {
	out := PlannedCall{Planned: c, Needs: everything}
	fn := c.Function.Addr
	if fn == 0 {
		return out
	}
	name, module := j.machine.name(fn)
	if f, ok := j.machine.named[fn]; ok {
		out.Symbol = &f
	}
	out.Needs = j.machine.judge.need(name, module)
	out.NeedsGIL = j.machine.judge.needsGIL(name, module)
	size := uint64(firstInstructions * 15)
	if out.Symbol != nil && out.Symbol.Size > 0 {
		size = min(size, out.Symbol.Size)
	}
	if code, err := Disassemble(j.process.memory, fn, int(size), j.process.Describe); err == nil {
		out.Code = code[:min(len(code), firstInstructions)]
	}
	return out
}

// rehearse borrows the thread as an evaluation would, and only looks where it stands.
func (j *job) rehearse(ctx context.Context, out *Explanation) error {
	p := j.process
	p.stops.Lock()
	defer p.stops.Unlock()
	options := j.call
	options.Trace = nil
	plan, err := call.Prepare(p.process, options)
	if err != nil {
		return err
	}
	// Only what is gone with the thread is copied while it stands.
	var stopped call.StoppedThread
	var stack overlay
	var gil GIL
	judge := j.machine.judge
	report, err := plan.Borrow(ctx, func(s *call.Session) error {
		regs := s.Regs()
		stopped = call.StoppedThread{Tid: s.Tid(), PC: regs.PC(), SP: regs.SP(), Regs: regs}
		stack = copyStack(p.memory, judge.walker.maps, stopped.SP)
		gil = judge.python.holds(&regs)
		return nil
	})
	if stopped.Tid != 0 {
		name := ""
		if st, err := p.process.Stat(stopped.Tid); err == nil {
			name = st.Comm
		}
		position := judge.look(stopped, name, gil, &stack, j.needed)
		position.Frames = judge.walker.withLines(position.Frames)
		out.Position = &position
	}
	out.Pause = report.Pause
	return j.refused(err)
}
