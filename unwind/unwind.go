// Package unwind finds the callers of a stopped thread: it steps from frame to frame by call frame information (CFI)
// that it reads from the target's own memory, and where code has none, by what its instructions do.
//
// A step is only made when it is justified: by CFI, by a signal frame, by a frame pointer or by code whose return
// address stands behind a call instruction. Else the stack ends with an error that says why. Whatever a target claims
// is bounded; a stack never loops, since the canonical frame address has to rise with each frame of one stack.
//
// [Compile] makes of CFI a [Table] for an unwinder that is to run elsewhere, such as in the target itself.
//
// It knows registers and memory, and nothing of ptrace or of symbols. Only x86-64 is known; modules of other CPUs give
// a [*MachineError].
package unwind

import (
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"slices"
	"sort"

	"golang.org/x/arch/x86/x86asm"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
)

// Options say what else an [Unwinder] may ask. The zero value asks nothing but the target's memory.
type Options struct {
	// Executable reports whether an address outside of all modules is code: that of a JIT compiler. nil: none is.
	Executable func(mem.Addr) bool
	// Section returns a section of the module's file by name, with its link-time address, or nil where there is none.
	// It is asked for .eh_frame of modules whose program headers lead to none, and for .debug_frame (which has no
	// address) when there is no other CFI. nil: dso's Module.DebugSection.
	Section func(m *dso.Module, name string) (data []byte, address uint64, err error)
	// Code is code without CFI whose frames the caller knows. It goes before everything else.
	Code []Code
}

// Code is a piece of code, at whose instructions the canonical frame address is SP + CFA and the return address stands
// below it. Where Signal is set, SP points to a ucontext instead, as it does in the C library's rt_sigreturn. Where
// Outermost is set, nobody called it.
type Code struct {
	Start, End mem.Addr
	CFA        uint64
	Signal     bool
	Outermost  bool
}

// Rule says by what a frame's caller was found.
type Rule uint8

// The rules.
const (
	None         Rule = iota // it was not: the last frame
	CFI                      // call frame information
	Signal                   // the frame is rt_sigreturn, and the caller is what a signal interrupted
	FramePointer             // RBP, verified
	Leaf                     // the word at SP, verified to be the return address of a call of this very function
	Instructions             // what the function's own instructions do until it returns, verified
	Known                    // Options.Code
)

// String names the rule.
func (r Rule) String() string {
	names := [...]string{"none", "cfi", "signal", "frame pointer", "leaf", "instructions", "known"}
	if int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("Rule(%d)", uint8(r))
}

// Frame is one frame of a stack.
type Frame struct {
	Regs          // as they are in this frame; what a caller's frame can no longer tell is not known
	CFA  mem.Addr // the canonical frame address: the caller's SP behind the call; 0 if How is None
	How  Rule     // by what the caller was found
}

// maxRows bounds how many rows of CFI are kept decoded, at some 700 bytes each.
const maxRows = 1 << 13

// Unwinder steps through the stacks of one process. It keeps the CFI that it has read, so it is good as long as the
// modules are loaded. It is for one goroutine.
type Unwinder struct {
	reader  mem.Reader
	options Options
	cfi     *pages // of CFI and of modules' code
	stack   *pages // of the stack that is being walked
	parts   []part // by start
	rows    map[mem.Addr]*row
	effort  int                      // instructions that were followed since the beginning of a stack
	decoded map[mem.Addr]x86asm.Inst // Len 0: not an instruction
}

// part is a segment and its module.
type part struct {
	dso.Segment
	module *module
}

// row is what CFI says about the instruction at one address.
type row struct {
	rules  *rules // nil: nothing
	signal bool
	end    mem.Addr // of the FDE's code
	err    error    // why it says nothing, if that is an error
}

// New makes an unwinder for a process with these modules. It reads nothing yet.
func New(mods []*dso.Module, r mem.Reader, o Options) *Unwinder {
	u := &Unwinder{reader: r, options: o, cfi: newPages(r), stack: newPages(r), rows: map[mem.Addr]*row{},
		decoded: map[mem.Addr]x86asm.Inst{}}
	for _, m := range mods {
		own := &module{Module: m}
		for _, s := range m.Segments {
			if s.Flags&elf.PF_X != 0 {
				s.End = (s.End + pageSize - 1).AlignDown(pageSize) // whole pages are mapped, and heaptap uses their ends
			}
			u.parts = append(u.parts, part{s, own})
		}
	}
	slices.SortStableFunc(u.parts, func(a, b part) int { return cmp.Compare(a.Start, b.Start) })
	return u
}

// part returns the segment that a lies in, or nil.
func (u *Unwinder) part(a mem.Addr) *part {
	i := sort.Search(len(u.parts), func(i int) bool { return u.parts[i].Start > a }) - 1
	if i < 0 || a >= u.parts[i].End {
		return nil
	}
	return &u.parts[i]
}

// executable reports whether code may stand at a.
func (u *Unwinder) executable(a mem.Addr) bool {
	if p := u.part(a); p != nil {
		return p.Flags&elf.PF_X != 0
	}
	return u.options.Executable != nil && u.options.Executable(a)
}

// Step describes the frame that regs belong to and makes of regs those of its caller. The frame is good also with an
// error, but for CFA and How. [ErrOutermost] says that there is no caller; an [*EndError], that none can be found, and
// why. regs is then as it was.
func (u *Unwinder) Step(regs *Regs) (Frame, error) {
	u.effort = 0
	return u.step(regs, u.reader)
}

// Stack returns the frames from that of regs outwards, at most limit. The error says why the stack ends where it does:
// nil at an outermost frame, [ErrDepth] at the limit, else an [*EndError]. The thread has to stand still meanwhile.
func (u *Unwinder) Stack(regs Regs, limit int) ([]Frame, error) {
	return u.StackIn(u.reader, regs, limit)
}

// StackIn is [Unwinder.Stack] with a stack in other memory: a copy that was made while the thread stood still.
func (u *Unwinder) StackIn(memory mem.Reader, regs Regs, limit int) ([]Frame, error) {
	u.stack.forget()
	u.stack.reader = memory
	u.effort = 0
	return stack(limit, u.end, func() (Frame, error) { return u.step(&regs, u.stack) })
}

// stack makes steps up to the end of a stack.
func stack(limit int, end func(mem.Addr, error) error, step func() (Frame, error)) ([]Frame, error) {
	var frames []Frame
	var signals []mem.Addr // SP of the signal frames so far
	for len(frames) < limit {
		f, err := step()
		if f.How == Signal {
			// What a signal interrupted may be on any stack, so it alone can lead back.
			if slices.Contains(signals, f.SP) {
				f.CFA, f.How, err = 0, None, end(f.PC, ErrNotUp)
			}
			signals = append(signals, f.SP)
		}
		frames = append(frames, f)
		if errors.Is(err, ErrOutermost) {
			return frames, nil
		}
		if err != nil {
			return frames, err
		}
	}
	return frames, ErrDepth
}

func (u *Unwinder) end(pc mem.Addr, cause error) error {
	e := &EndError{PC: pc, Err: cause}
	if p := u.part(pc - 1); p != nil { // a return address may be behind the last call of a module
		e.Module = p.module.Path
	} else if p = u.part(pc); p != nil {
		e.Module = p.module.Path
	}
	return e
}
