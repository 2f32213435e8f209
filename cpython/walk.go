package cpython

import (
	"fmt"
	"slices"

	"github.com/heaptap/heaptap/mem"
)

// maxFrames bounds a stack. The default recursion limit is 1,000; programs set it to a million at most.
const maxFrames = 1 << 20

// Frame is one Python frame.
type Frame struct {
	Code
	Addr   mem.Addr // of the frame
	Offset int      // of the instruction, bytes; negative before the first
	Line   int
	// Entry tells that the interpreter's evaluating C function was called for this frame. From 3.11 on it evaluates also
	// the frames inward of it, up to the next Entry: Python functions that Python functions have called.
	Entry bool
}

// Walk reads a thread's Python stack, innermost frame first, with the target running. It is read until two readings
// are the same; an error that wraps [ErrBusy] says that the thread did not stand still for that.
func (in *Interpreter) Walk(r mem.Reader, t ThreadState) ([]Frame, error) {
	return retry(fmt.Sprintf("walk thread state %v", t.Addr), func() ([]Frame, error) {
		chain, err := in.chain(r, t)
		if err != nil {
			return nil, err
		}
		frames, err := in.frames(r, chain)
		if err != nil {
			return nil, err
		}
		again, err := in.chain(r, t)
		if err != nil {
			return nil, err
		}
		if !slices.Equal(chain, again) {
			return nil, fmt.Errorf("stack changed while it was read: %w", errTorn)
		}
		return frames, nil
	})
}

// rawFrame is what a frame holds before its code object is looked at.
type rawFrame struct {
	addr, code mem.Addr
	instr      uint64 // as in the frame, sign-extended
	owner      uint8
	entry      bool
}

// chain reads the frames of a thread, shims left out.
func (in *Interpreter) chain(r mem.Reader, t ThreadState) ([]rawFrame, error) {
	l := in.Layout.Frame
	a, err := in.innermost(r, t.Addr)
	if err != nil {
		return nil, err
	}
	callers, err := in.evaluations(r, t.Addr)
	if err != nil {
		return nil, err
	}
	var out []rawFrame
	var seen loop
	for n := 0; a != 0; n++ {
		if a%8 != 0 || n == maxFrames || seen.again(a) {
			return nil, fmt.Errorf("frame %d is at %v: %w", n, a, errTorn)
		}
		f := rawFrame{addr: a}
		if l.Owner.Known {
			if f.owner, err = mem.U8(r, l.Owner.From(a)); err != nil {
				return nil, err
			}
		}
		if !l.Owner.Known || f.owner < l.OwnerSkip {
			if f.code, err = mem.Pointer(r, l.Code.From(a)); err != nil {
				return nil, err
			}
			f.code &^= mem.Addr(l.CodeMask)
			if f.instr, err = in.instr(r, a); err != nil {
				return nil, err
			}
			// The frame inward of one that called the evaluation anew was what it was called for; so is each one to 3.10.
			if n := len(out); n > 0 && (callers[a] || !l.Owner.Known) {
				out[n-1].entry = true
			}
			out = append(out, f)
		} else if len(out) > 0 {
			out[len(out)-1].entry = true // a shim stands behind the frame for which it was made
		}
		if a, err = mem.Pointer(r, l.Previous.From(a)); err != nil {
			return nil, err
		}
	}
	if len(out) > 0 {
		out[len(out)-1].entry = true
	}
	return out, nil
}

// evaluations are the frames at which each evaluation but the innermost stands, where _PyCFrame tells (3.11 and 3.12).
func (in *Interpreter) evaluations(r mem.Reader, tstate mem.Addr) (map[mem.Addr]bool, error) {
	l := in.Layout.Thread
	if !l.CFrame.Known || l.Frame.Known {
		return nil, nil
	}
	cframe, err := mem.Pointer(r, l.CFrame.From(tstate))
	if err != nil {
		return nil, err
	}
	out := make(map[mem.Addr]bool)
	for n := 0; cframe != 0; n++ {
		if cframe%8 != 0 || n == maxFrames {
			return nil, fmt.Errorf("C frame %d is at %v: %w", n, cframe, errTorn)
		}
		current, err := mem.Pointer(r, l.CFrameCurrent.From(cframe))
		if err != nil {
			return nil, err
		}
		if n > 0 && current != 0 {
			out[current] = true
		}
		const previous = 8 // behind the current frame, in both releases that have it
		if cframe, err = mem.Pointer(r, l.CFrameCurrent.From(cframe)+previous); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// innermost is the address of a thread's innermost frame, 0 if it runs no Python code.
func (in *Interpreter) innermost(r mem.Reader, tstate mem.Addr) (mem.Addr, error) {
	l := in.Layout.Thread
	if l.Frame.Known {
		return mem.Pointer(r, l.Frame.From(tstate))
	}
	cframe, err := mem.Pointer(r, l.CFrame.From(tstate))
	if err != nil {
		return 0, err
	}
	if cframe == 0 {
		return 0, fmt.Errorf("thread state %v has no C frame: %w", tstate, errTorn)
	}
	return mem.Pointer(r, l.CFrameCurrent.From(cframe))
}

func (in *Interpreter) instr(r mem.Reader, frame mem.Addr) (uint64, error) {
	l := in.Layout.Frame
	if l.InstrSize == 4 {
		v, err := mem.U32(r, l.Instr.From(frame))
		return uint64(int32(v)), err
	}
	return mem.U64(r, l.Instr.From(frame))
}

// frames looks at the code objects of a chain.
func (in *Interpreter) frames(r mem.Reader, chain []rawFrame) ([]Frame, error) {
	codes := make(map[mem.Addr]Code)
	var out []Frame
	for _, raw := range chain {
		code, ok := codes[raw.code]
		if !ok {
			var err error
			if code, err = in.Code(r, raw.code); err != nil {
				return nil, err
			}
			codes[raw.code] = code
		}
		f := Frame{Code: code, Addr: raw.addr, Offset: in.byteOffset(raw, raw.code), Entry: raw.entry}
		if in.incomplete(raw, f) {
			if n := len(out); n > 0 && raw.entry {
				out[n-1].Entry = true
			}
			continue
		}
		if f.Line, ok = Line(in.Layout.Lines, code.FirstLine, code.LineTable, f.Offset); !ok {
			f.Line = code.FirstLine
		}
		out = append(out, f)
	}
	return out, nil
}

// byteOffset makes a frame's instruction into the byte offset that [Line] takes.
func (in *Interpreter) byteOffset(f rawFrame, code mem.Addr) int {
	switch in.Layout.Frame.InstrKind {
	case InstrUnitIndex:
		return int(int64(f.instr)) * 2
	case InstrPointer:
		return int(int64(f.instr - uint64(in.Layout.Code.Adaptive.From(code))))
	default:
		return int(int64(f.instr))
	}
}

// incomplete reports whether a frame is still being set up: CPython itself does not show it
// (_PyFrame_IsIncomplete in Include/internal/pycore_frame.h, 3.11).
func (in *Interpreter) incomplete(raw rawFrame, f Frame) bool {
	l := in.Layout.Frame
	return l.Owner.Known && raw.owner != l.OwnerGen && f.Offset < 2*f.firstTraceable
}
