package call

import "bytes"

// StubPart is a piece of the code that a borrowed thread executes: what one would see in a disassembly of it.
type StubPart struct {
	Name   string
	Offset int // in the stub, bytes
	Code   []byte
}

// Stub is the code that a borrowed thread executes around what it was borrowed for, in its parts. It is
// position-independent, and the same in every process.
func Stub() []StubPart {
	parts := []StubPart{
		{"make a system call", caveSyscall, caveCode[caveSyscall:caveSigreturn]},
		{"restore the thread from its signal frame", caveSigreturn, caveCode[caveSigreturn:caveCall]},
		{"call a function", caveCall, caveCode[caveCall:caveMarker]},
		{"after the call: heaptap takes over here, or the thread goes on by itself", caveMarker,
			caveCode[caveMarker:caveShelter]},
	}
	// Breakpoints fill up between parts.
	for i := range parts {
		parts[i].Code = bytes.TrimRight(parts[i].Code, "\xcc")
	}
	// The constant behind the last instruction is data.
	last := &parts[len(parts)-1]
	if i := bytes.LastIndex(last.Code, []byte{0x0f, 0x0b}); i >= 0 {
		last.Code = last.Code[:i+2]
	}
	return parts
}

// Extended is the extended state (x87, SSE, AVX…) that the thread had when it was stopped and will have again: an XSAVE
// image in the standard format, good until the Session ends.
func (s *Session) Extended() []byte { return s.state.XState }
