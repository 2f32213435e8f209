package call

// StubPart is a piece of the code that a borrowed thread executes: what one would see in a disassembly of it.
type StubPart struct {
	Name   string
	Offset int // in the stub, bytes
	Code   []byte
}

// Stub is the code that a borrowed thread executes. There is none for arm64 yet.
func Stub() []StubPart { return nil }

// Extended is the extended state that the thread had when it was stopped and will have again.
func (s *Session) Extended() []byte { return s.state.XState }
