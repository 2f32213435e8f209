package heap

import (
	"path"
	"slices"
	"strings"
)

// ReplaceFrames returns the snapshot with calls in the place of frames: where chains[i] is not empty, it stands for
// Frames[i], innermost call first. So inlined functions, which share an address, become calls of their own. The
// snapshot shares with s what stays.
func (s *Snapshot) ReplaceFrames(chains [][]Frame) *Snapshot {
	replaced := *s
	replaced.Frames, replaced.Stacks = nil, nil
	b := NewBuilder(&replaced)
	replaced.Strings = s.Strings
	frames := make([][]int32, len(s.Frames)) // outermost first
	for i, f := range s.Frames {
		if i >= len(chains) || len(chains[i]) == 0 {
			frames[i] = []int32{b.Frame(f)}
			continue
		}
		for _, f := range slices.Backward(chains[i]) {
			frames[i] = append(frames[i], b.Frame(f))
		}
	}
	depth := []int32{0} // of each node of replaced.Stacks, plus 1 (of None: 0)
	nodes := make([]int32, len(s.Stacks))
	for i, n := range s.Stacks {
		node := None
		if n.Parent != None {
			node = nodes[n.Parent]
		}
		for _, f := range frames[n.Frame] {
			if depth[node+1] == MaxDepth {
				break // what is deeper is counted there
			}
			below := depth[node+1] + 1
			if node = b.Push(node, f); int(node) == len(depth)-1 {
				depth = append(depth, below)
			}
		}
		nodes[i] = node
	}
	replaced.Records = slices.Clone(s.Records)
	for i := range replaced.Records {
		if r := &replaced.Records[i]; r.Stack != None {
			r.Stack = nodes[r.Stack]
		}
	}
	return &replaced
}

// NativeCut is the function of a frame that stands for native callers that are not known: those of code that there was
// no information to unwind by, or not yet.
const NativeCut = "[native callers not known]"

// FrameView says which frames of a stack somebody wants to see.
type FrameView int

// Views of stacks.
const (
	// MixedFrames is Python and machine code, without what only brings the one to the other: frames of the interpreter
	// itself, of libc where it starts a program or a thread, and at the end of a stack of what allocates for others
	// (operator new, libc's strdup) or is not known (NativeCut). Of a stack that has no other frames, they are shown.
	MixedFrames  FrameView = iota
	PythonFrames           // what is left where machine code is left out
	AllFrames
	NumFrameViews // how many there are
)

// String is the view's name on the command line.
func (v FrameView) String() string {
	switch v {
	case MixedFrames:
		return "mixed"
	case PythonFrames:
		return "python"
	}
	return "all"
}

// HasNative tells whether any frame is of machine code, or stands for some.
func (s *Snapshot) HasNative() bool {
	return slices.ContainsFunc(s.Frames, func(f Frame) bool { return roleOf(f) != python })
}

// CutNative returns what was allocated at stacks of which some native callers are not known.
func (s *Snapshot) CutNative() Values {
	var cut Values
	if slices.ContainsFunc(s.Frames, func(f Frame) bool { return roleOf(f) == unknown }) {
		for _, r := range s.ByFunction() {
			if roleOf(r.Frame) == unknown {
				cut.Add(r.Cum)
			}
		}
	}
	return cut
}

// View returns the snapshot with those frames only. Blocks stay, and belong to what is left of their stacks.
func (s *Snapshot) View(v FrameView) *Snapshot {
	if v == AllFrames || !s.HasNative() {
		return s
	}
	view := *s
	view.Frames, view.Stacks = nil, nil
	b := NewBuilder(&view)
	view.Strings = s.Strings
	frames := make([]int32, len(s.Frames)) // None: not yet there
	roles := make([]role, len(s.Frames))
	for i, f := range s.Frames {
		frames[i], roles[i] = None, roleOf(f)
	}
	kept := func(node, f int32) int32 {
		if frames[f] == None {
			frames[f] = b.Frame(s.Frames[f])
		}
		return b.Push(node, frames[f])
	}
	// For each node of s: what is left of its stack; the same without hiding, for stacks of which nothing would be
	// left; and what is left up to who asked for the memory.
	type left struct{ mixed, all, caller int32 }
	nodes := make([]left, len(s.Stacks))
	for i, n := range s.Stacks {
		at := left{None, None, None}
		if n.Parent != None {
			at = nodes[n.Parent]
		}
		r := roles[n.Frame]
		switch {
		case v == PythonFrames && r != python:
			nodes[i] = at
			continue
		case v == PythonFrames:
			at.mixed = kept(at.mixed, n.Frame)
			at.caller = at.mixed
			nodes[i] = at
			continue
		}
		switch {
		case r == interpreter, r == system && at.mixed == None: // hidden
		case r != python && r != native && at.caller != None:
			at.mixed = kept(at.mixed, n.Frame)
		default:
			at.mixed = kept(at.mixed, n.Frame)
			at.caller = at.mixed
		}
		if at.mixed == None {
			at.all = kept(at.all, n.Frame)
		}
		nodes[i] = at
	}
	view.Records = slices.Clone(s.Records)
	for i := range view.Records {
		r := &view.Records[i]
		if r.Stack == None {
			continue
		}
		at := nodes[r.Stack]
		switch {
		case at.caller != None:
			r.Stack = at.caller
		case at.mixed != None:
			r.Stack = at.mixed
		default:
			r.Stack = at.all
		}
	}
	return view.compact()
}

// allocating is the node of the innermost call of a stack that is not one of the interpreter's own machine code; the
// stack's own where all are.
func (s *Snapshot) allocating(stack int32) int32 {
	for n := stack; n != None; n = s.Stacks[n].Parent {
		if f := s.Frames[s.Stacks[n].Frame]; !f.Native() || !ofInterpreter(path.Base(f.Module)) {
			return n
		}
	}
	return stack
}

// role is what a frame does on a stack.
type role int8

const (
	python role = iota
	native
	interpreter
	system    // of libc and the loader
	allocator // allocates for its caller
	unknown   // NativeCut
)

func roleOf(f Frame) role {
	if f.Func == NativeCut && f.File == "" && f.Module == "" {
		return unknown
	}
	if !f.Native() {
		return python
	}
	base := path.Base(f.Module)
	switch {
	case ofInterpreter(base):
		return interpreter
	case allocates(f.Func):
		return allocator
	case ofSystem(base):
		return system
	}
	return native
}

// ofSystem tells whether a file of that name is libc or the loader.
func ofSystem(base string) bool {
	for _, prefix := range [...]string{"libc.so", "libc.musl", "libc-2.", "libpthread", "ld-linux", "ld-musl", "ld-2."} {
		if strings.HasPrefix(base, prefix) {
			return true
		}
	}
	return false
}

// ofInterpreter tells whether a file of that name is CPython: libpython3.11.so.1.0, python3.13t.
func ofInterpreter(base string) bool {
	if strings.HasPrefix(base, "libpython") {
		return true
	}
	version, ok := strings.CutPrefix(base, "python")
	return ok && strings.Trim(version, "0123456789.tdmu") == ""
}

// allocates tells whether a function is one of those that only allocate for their callers, in C++ and Rust. In the C++
// library these are also what has a name that only the implementation may use, as std::vector<T>::_M_realloc_insert has.
func allocates(name string) bool {
	for _, prefix := range [...]string{"operator new", "std::__new_allocator<", "__gnu_cxx::new_allocator<", "std::allocator<",
		"std::allocator_traits<", "__rust_alloc", "__rust_realloc", "__rdl_alloc", "__rdl_realloc", "__rg_alloc", "__rg_realloc",
		"alloc::alloc::", "<alloc::alloc::Global", "alloc::raw_vec::", "<alloc::raw_vec::", "hashbrown::raw::alloc::"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	plain := PlainName(name)
	last := plain[strings.LastIndexByte(plain, ':')+1:]
	return strings.HasPrefix(last, "_") && (strings.HasPrefix(plain, "std::") || strings.HasPrefix(plain, "__gnu_cxx::"))
}

// ModuleName is the module that a frame belongs to, and whether that is somebody's own code: of Python as [ModuleOf]
// says; an extension module has the name by which it is imported; any other object of machine code that of its file
// ("libz.so.1"), and is own code where it is in no folder of the system's.
func (f Frame) ModuleName() (module string, own bool) {
	if !f.Native() {
		return ModuleOf(f.File)
	}
	base := path.Base(f.Module)
	if strings.HasPrefix(f.Module, "[") || ofInterpreter(base) {
		return base, false
	}
	parts := strings.Split(strings.Trim(f.Module, "/"), "/")
	if _, library := libraryRoot(parts); library {
		if strings.Contains(base, ".libs/") || strings.HasPrefix(base, "lib") {
			return base, false
		}
		module, _ = ModuleOf(f.Module)
		return module, false
	}
	for _, system := range [...]string{"/usr/", "/lib", "/bin/", "/sbin/", "/nix/store/"} {
		if strings.HasPrefix(f.Module, system) {
			return base, false
		}
	}
	if strings.HasSuffix(base, ".so") && !strings.HasPrefix(base, "lib") {
		return ModuleOf(f.Module)
	}
	return base, true
}

// PlainName is a name of C++ or Rust without the types of its parameters, its template arguments and its result:
// "std::vector::push_back" for "void std::vector<int>::push_back(int const&)". Other names stay as they are.
func PlainName(name string) string {
	if !strings.Contains(name, "::") && !strings.Contains(name, "(") || strings.HasPrefix(name, "<") {
		return name
	}
	var b strings.Builder
	depth := 0
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '(' && strings.HasPrefix(name[i:], "(anonymous namespace)") && depth == 0:
			b.WriteString("(anonymous namespace)")
			i += len("(anonymous namespace)") - 1
		case c == '(' && depth == 0 && !strings.HasSuffix(b.String(), "operator"):
			return b.String()
		case strings.HasSuffix(b.String(), "operator") && depth == 0 && strings.IndexByte("<>()=-", c) >= 0:
			rest, _, _ := strings.Cut(name[i+1:], "(") // operator<, operator(), operator->
			rest, _, _ = strings.Cut(rest, " ")
			return b.String() + string(c) + rest
		case c == '<':
			depth++
		case c == '>':
			depth--
		case c == ' ' && depth == 0 && !strings.HasSuffix(b.String(), "operator"):
			b.Reset() // what was before is the result's type
		case depth == 0:
			b.WriteByte(c)
		}
	}
	if b.Len() == 0 {
		return name
	}
	return b.String()
}
