package heap

import (
	"fmt"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// at is a frame of machine code, "module!function" or "module+address".
func at(text string) Frame {
	if module, function, ok := strings.Cut(text, "!"); ok {
		return Frame{Func: function, Module: module, BuildID: "c0ffee", Addr: 0x1000 + uint64(len(function))}
	}
	if module, addr, ok := strings.Cut(text, "+"); ok {
		f := Frame{Module: module, BuildID: "c0ffee"}
		fmt.Sscanf(addr, "%x", &f.Addr)
		return f
	}
	if text == NativeCut {
		return Frame{Func: text}
	}
	return Frame{Func: text, File: "/srv/app.py", Line: 1}
}

// unknownCallers is NativeCut as at and withStacks read it.
var unknownCallers = strings.ReplaceAll(NativeCut, " ", "~")

// stackOf writes a stack, outermost first, as at reads it.
func stackOf(s *Snapshot, stack int32) string {
	var parts []string
	for _, f := range s.Callers(stack) {
		text := f.Func
		switch {
		case f.Native() && f.Func == "":
			text = fmt.Sprintf("%s+%x", f.Module, f.Addr)
		case f.Native():
			text = f.Module + "!" + f.Func
		}
		parts = append([]string{text}, parts...)
	}
	return strings.Join(parts, " ")
}

// withStacks is a snapshot of those stacks, of which record i has 1<<i bytes.
func withStacks(stacks ...string) *Snapshot {
	s := &Snapshot{}
	b := NewBuilder(s)
	for i, text := range stacks {
		var frames []Frame
		for word := range strings.FieldsSeq(text) {
			frames = append(frames, at(strings.ReplaceAll(word, "~", " ")))
		}
		s.Records = append(s.Records, Record{Stack: b.Stack(frames...), Age: UnknownAge, InuseBytes: 1 << i, InuseBlocks: 1})
	}
	return s
}

func TestView(t *testing.T) {
	for _, test := range []struct{ all, mixed, python string }{
		{"main handle", "main handle", "main handle"},
		{"", "", ""},
		// What starts a program, and the interpreter around Python.
		{"/usr/bin/python3.11!start /lib/libc.so.6!libcmain /usr/bin/python3.11!main main /usr/bin/python3.11!call handle " +
			"/usr/bin/python3.11!PyListNew",
			"main handle", "main handle"},
		// An extension keeps its frames; what it calls of the interpreter is its doing.
		{"main /usr/lib/libpython3.11.so.1.0!vectorcall /srv/ext.so!run /srv/ext.so!grow /usr/lib/libpython3.11.so.1.0!PyListNew",
			"main /srv/ext.so!run /srv/ext.so!grow", "main"},
		{"main /srv/ext.so!run /usr/lib/libpython3.11.so.1.0!PyObjectCall handle", "main /srv/ext.so!run handle", "main handle"},
		// libc calls back.
		{"/lib/libc.so.6!clone3 /srv/ext.so!run /lib/libc.so.6!qsort /srv/ext.so!compare", "/srv/ext.so!run /lib/libc.so.6!qsort " +
			"/srv/ext.so!compare", ""},
		// Who allocates for others is left out at the end, and only there.
		{"main /srv/ext.so!fill /usr/lib/libstdc++.so.6!operator~new(unsigned~long)", "main /srv/ext.so!fill", "main"},
		{"main /srv/ext.so!fill /srv/ext.so!std::allocator<int>::allocate() /usr/lib/libstdc++.so.6!operator~new(unsigned~long)",
			"main /srv/ext.so!fill", "main"},
		{"/usr/lib/libstdc++.so.6!operator~new(unsigned~long)", "/usr/lib/libstdc++.so.6!operator new(unsigned long)", ""},
		{"main /usr/lib/libstdc++.so.6!operator~new(int) /srv/ext.so!handler",
			"main /usr/lib/libstdc++.so.6!operator new(int) /srv/ext.so!handler", "main"},
		{"main /srv/ext.so!keep /lib/libc.so.6!strdup", "main /srv/ext.so!keep", "main"},
		{"main /srv/ext.so!put /srv/ext.so!alloc::raw_vec::RawVec<T,A>::grow_one /srv/ext.so!<alloc::raw_vec::RawVecInner>::finish_grow",
			"main /srv/ext.so!put", "main"},
		{"main /srv/ext.so!fill /srv/ext.so!std::vector<int>::push_back(int) " +
			"/srv/ext.so!void~std::vector<int>::_M_realloc_insert<int>(int*,~int&) /srv/ext.so!std::_Vector_base<int>::_M_allocate()",
			"main /srv/ext.so!fill /srv/ext.so!std::vector<int>::push_back(int)", "main"},
		{"main /srv/ext.so!std::__cxx11::basic_string<char>::append(char~const*) /srv/ext.so!shop::_grow(int)", "main " +
			"/srv/ext.so!std::__cxx11::basic_string<char>::append(char const*) /srv/ext.so!shop::_grow(int)", "main"},
		// So is what is not known, and Python's calls have nothing of it.
		{"main " + unknownCallers, "main", "main"},
		{"main " + unknownCallers + " /srv/ext.so!grow", "main [native callers not known] /srv/ext.so!grow", "main"},
		{"main " + unknownCallers + " handle /srv/ext.so!grow", "main [native callers not known] handle /srv/ext.so!grow", "main handle"},
		{unknownCallers, NativeCut, ""},
		// Of nothing else, all.
		{"/lib/libc.so.6!start /usr/bin/python3!main /usr/bin/python3!PyInitialize", "/lib/libc.so.6!start /usr/bin/python3!main " +
			"/usr/bin/python3!PyInitialize", ""},
		{"/srv/ext.so+1234 /srv/ext.so+99", "/srv/ext.so+1234 /srv/ext.so+99", ""},
	} {
		s := withStacks(test.all, "main /srv/other.so+1", test.all)
		for v, want := range map[FrameView]string{MixedFrames: test.mixed, PythonFrames: test.python,
			AllFrames: strings.ReplaceAll(test.all, "~", " ")} {
			got := s.View(v)
			if err := got.Check(); err != nil {
				t.Fatal(err)
			}
			for _, i := range []int{0, 2} {
				if stack := stackOf(got, got.Records[i].Stack); stack != want {
					t.Errorf("%v of %q: %q, want %q", v, test.all, stack, want)
				}
			}
			if got.Total() != s.Total() || stackOf(s, s.Records[0].Stack) != strings.ReplaceAll(test.all, "~", " ") {
				t.Errorf("%v of %q: the whole has changed", v, test.all)
			}
		}
	}
	if s := full(); s.View(MixedFrames) != s || s.View(PythonFrames) != s {
		t.Error("a snapshot without machine code was rewritten")
	}
}

func TestReplaceFrames(t *testing.T) {
	s := withStacks("main a.so+10 a.so+20", "main a.so+10", "a.so+30 main", "main a.so+11")
	chains := make([][]Frame, len(s.Frames))
	for i, f := range s.Frames {
		switch f.Addr {
		case 0x10, 0x11:
			chains[i] = []Frame{at("a.so!inner"), at("a.so!outer")}
		case 0x20:
			chains[i] = []Frame{at("a.so!leaf")}
		}
	}
	got := s.ReplaceFrames(chains)
	if err := got.Check(); err != nil {
		t.Fatal(err)
	}
	var stacks []string
	for i := range got.Records {
		stacks = append(stacks, stackOf(got, got.Records[i].Stack))
	}
	if diff := gocmp.Diff([]string{"main a.so!outer a.so!inner a.so!leaf", "main a.so!outer a.so!inner", "a.so+30 main",
		"main a.so!outer a.so!inner"}, stacks); diff != "" {
		t.Error(diff)
	}
	if got.Records[1].Stack != got.Records[3].Stack {
		t.Error("equal stacks are not one")
	}
	for _, r := range got.By(ByFunction) {
		if r.Frame.Func == "inner" && (r.Own[InuseBytes] != 2+8 || r.Cum[InuseBytes] != 1+2+8) {
			t.Errorf("%+v", r)
		}
	}
	// The deepest stack that there may be stays one.
	deep := &Snapshot{}
	b := NewBuilder(deep)
	stack := None
	for range MaxDepth {
		stack = b.Push(stack, b.Frame(at("a.so+10")))
	}
	deep.Records = []Record{{Stack: stack, Age: UnknownAge, InuseBytes: 1, InuseBlocks: 1}}
	if err := deep.ReplaceFrames([][]Frame{{at("a.so!inner"), at("a.so!outer")}}).Check(); err != nil {
		t.Error(err)
	}
}

func TestModuleName(t *testing.T) {
	for file, want := range map[string]string{
		"/usr/lib/python3/dist-packages/numpy/core/_multiarray_umath.cpython-311-x86_64-linux-gnu.so": "numpy.core._multiarray_umath false",
		"/usr/lib/python3.11/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so":                       "_json false",
		"/srv/venv/lib/python3.12/site-packages/numpy.libs/libopenblas64_p-r0.so":                     "libopenblas64_p-r0.so false",
		"/usr/lib/x86_64-linux-gnu/libc.so.6":                                                         "libc.so.6 false",
		"/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0":                                              "libpython3.11.so.1.0 false",
		"/home/me/.pyenv/versions/3.12.1/bin/python3.12":                                              "python3.12 false",
		"[vdso]":                                     "[vdso] false",
		"/srv/shop/_cache.cpython-311.so":            "srv.shop._cache true",
		"/srv/shop/libcache.so.2":                    "libcache.so.2 true",
		"/opt/shop/server":                           "server true",
		"/nix/store/abc-glibc-2.38/lib/libm.so.6":    "libm.so.6 false",
		"/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2": "ld-linux-x86-64.so.2 false",
	} {
		if module, own := (Frame{Module: file, File: "/build/x.c"}).ModuleName(); fmt.Sprint(module, " ", own) != want {
			t.Errorf("%s: %s %v, want %s", file, module, own, want)
		}
	}
}

func TestPlainName(t *testing.T) {
	for name, want := range map[string]string{
		"main": "main", "Handler.get.<locals>.<lambda>": "Handler.get.<locals>.<lambda>", "<module>": "<module>",
		"f(int)": "f", "std::vector<int>::push_back(int const&)": "std::vector::push_back",
		"void std::sort<int*, std::less<int> >(int*, int*)":             "std::sort",
		"shop::(anonymous namespace)::secret(shop::Hidden const&)":      "shop::(anonymous namespace)::secret",
		"shop::Session::operator()(int)":                                "shop::Session::operator()",
		"bool operator< <int>(A const&, B const&)":                      "operator<",
		"operator new(unsigned long)":                                   "operator new",
		"std::unique_ptr<int[]>::operator->() const":                    "std::unique_ptr::operator->",
		"core::ptr::drop_in_place<alloc::string::String>":               "core::ptr::drop_in_place",
		"<alloc::vec::Vec<T> as core::iter::Extend<T>>::extend":         "<alloc::vec::Vec<T> as core::iter::Extend<T>>::extend",
		"shop::Session::Session(int)::{lambda(int)#1}::operator()(int)": "shop::Session::Session",
	} {
		if got := PlainName(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestFilterNative(t *testing.T) {
	s := withStacks("main /srv/_cache.so!std::vector<int>::push_back(int~const&)", "main /usr/lib/libz.so.1!deflateInit",
		"main /usr/lib/libz.so.1+1234", "main /usr/lib/libpython3.11.so.1.0!PyListNew")
	for i, f := range s.Frames {
		if f.Func == "deflateInit" {
			s.Frames[i].File, s.Frames[i].Line = "/build/zlib/deflate.c", 77
		}
	}
	for _, test := range []struct {
		where string
		want  int64
	}{
		{`func == "push_back"`, 1}, {`func == "std::vector::push_back"`, 1}, {`func == "std::*"`, 1}, {`func == "vector::*"`, 1},
		{`func == "push_*"`, 1}, {`func == "deflateInit"`, 2}, {`module == "libz.so.1"`, 6}, {`module == "libz*"`, 6},
		{`file == "deflate.c"`, 2}, {`file == "libz.so.1"`, 6}, {`file == "/usr/lib"`, 14}, {`module == "_cache"`, 1}, {`own`, 1 + 8},
		{`stack.func == "main"`, 15}, {`line == 77`, 2}, {`func ~ "^std::vector<int>"`, 1}, {`module == "srv"`, 1 + 8},
	} {
		f, err := ParseFilter(FilterSpec{Where: []string{test.where}})
		if err != nil {
			t.Fatal(err)
		}
		kept, err := f.Apply(s)
		if err != nil {
			t.Errorf("%s: %v", test.where, err)
			continue
		}
		if got := kept.Total()[InuseBytes]; got != test.want {
			t.Errorf("%s: %d, want %d", test.where, got, test.want)
		}
	}
	// At a dump, where the interpreter's frames are still there, Python's calls are found below them.
	raw := withStacks("main handle /usr/bin/python3.11+10 /usr/bin/python3.11+20", "main /srv/ext.so+5 /usr/bin/python3.11+20",
		"/usr/bin/python3.11+30", "main handle")
	for where, want := range map[string]int64{`func == "handle"`: 1 + 8, `own`: 1 + 2 + 8, `module == "python3.11"`: 1 + 2 + 4,
		`module == "ext"`: 2, `func != "handle"`: 2 + 4, `file == "app.py"`: 1 + 8} {
		f, err := ParseFilter(FilterSpec{Where: []string{where}})
		if err != nil {
			t.Fatal(err)
		}
		m := f.On(raw)
		var got int64
		for i, r := range raw.Records {
			if m.Block(&Block{Stack: r.Stack, Size: 1 << i, Age: 1}) {
				got += r.InuseBytes
			}
		}
		if got != want {
			t.Errorf("%s at a dump: %d, want %d", where, got, want)
		}
	}
	f, err := ParseFilter(FilterSpec{Module: []string{"libx.so.1"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Apply(s); err == nil || !strings.Contains(fmt.Sprint(err.(*NoMatchError).There), "nearest is libz.so.1") {
		t.Errorf("%+v", err)
	}
}
