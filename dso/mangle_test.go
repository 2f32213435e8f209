package dso

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Names as g++ 12 and rustc 1.95 (older and newer scheme) mangle them, and what users may call them.
func TestSourceNames(t *testing.T) {
	for _, c := range []struct {
		mangled string
		names   []string // that mean it
		others  []string // that do not
	}{
		{"_ZN2ns1fEi", []string{"ns::f", "ns::f(int)", "ns :: f ( int )"}, []string{"ns::f(double)", "f", "ns", "ns::ff"}},
		{"_ZN2ns3FooC1Ei", []string{"ns::Foo::Foo", "ns::Foo::Foo(int)"}, []string{"ns::Foo", "ns::Foo::~Foo"}},
		{"_ZN2ns3FooD1Ev", []string{"ns::Foo::~Foo", "ns::Foo::~Foo()"}, []string{"ns::Foo::Foo"}},
		{"_ZNK2ns3FooplERKS0_", []string{"ns::Foo::operator+", "ns::Foo::operator+(ns::Foo const&) const",
			"ns::Foo::operator+(const ns::Foo &) const"}, []string{"ns::Foo::operator-"}},
		{"_ZNK2ns3Foo3getEv", []string{"ns::Foo::get", "ns::Foo::get() const"}, []string{"ns::Foo::get(int)"}},
		{"_ZN2ns6globalE", []string{"ns::global"}, nil},
		{"_ZN2nsL3hidEPKcm", []string{"ns::hid", "ns::hid(const char *, unsigned long)",
			"ns::hid(char const*, unsigned long)"}, []string{"ns::hid(char*, unsigned long)"}},
		{"_ZN2ns7biggestIiEET_S1_S1_", []string{"ns::biggest", "ns::biggest<int>", "ns::biggest<int>(int, int)",
			"int ns::biggest<int>(int, int)"}, []string{"ns::biggest<double>", "ns::biggest(int,int)"}},
		{"_ZN2ns12_GLOBAL__N_14anonEi", []string{"ns::(anonymous namespace)::anon",
			"ns::(anonymous namespace)::anon(int)"}, []string{"ns::anon"}},
		{"_Z4lonei", []string{"lone", "lone(int)"}, []string{"lon", "alone"}},
		{"_Z4lonei.part.0", nil, []string{"lone", "lone(int)"}},
		{"_Z4lonei.lto_priv.0", []string{"lone"}, nil},
		{"_ZNSsC1EPKcRKSaIcE", []string{"std::basic_string::basic_string",
			"std::basic_string<char, std::char_traits<char>, std::allocator<char> >::basic_string"},
			[]string{"std::basic_string::append"}},
		{"_ZN1b5inner4deep17hd7ff53cd35bdbfafE", []string{"b::inner::deep"}, []string{"inner::deep", "b::inner::dee"}},
		{"_ZN1b5inner1P3get17h22c0a640cf3c0531E", []string{"b::inner::P::get"}, nil},
		{"_ZN44_$LT$b..inner..P$u20$as$u20$b..inner..Tr$GT$2go17h2b488d007f8671baE",
			[]string{"<b::inner::P as b::inner::Tr>::go"}, []string{"go"}},
		{"_RNvNtCsj6gjteTz5uu_1b5inner4deep", []string{"b::inner::deep"}, []string{"b::deep"}},
		{"_RNvMNtCsj6gjteTz5uu_1b5innerNtB2_1P3get", []string{"<b::inner::P>::get", "b::inner::P::get"},
			[]string{"b::inner::get"}},
		{"_RNvXs_NtCsj6gjteTz5uu_1b5innerNtB4_1PNtB4_2Tr2go", []string{"<b::inner::P as b::inner::Tr>::go"}, nil},
		{"_RINvNtCsj6gjteTz5uu_1b5inner3genlEB4_", []string{"b::inner::gen::<i32>", "b::inner::gen"},
			[]string{"b::inner::gen::<i64>"}},
		{"not_mangled", nil, []string{"not_mangled"}},
	} {
		for _, name := range c.names {
			if !parseSource(name).names(c.mangled) {
				t.Errorf("%q does not mean %s, %s", name, c.mangled, Demangle(c.mangled))
			}
		}
		for _, name := range c.others {
			if parseSource(name).names(c.mangled) {
				t.Errorf("%q means %s, %s", name, c.mangled, Demangle(c.mangled))
			}
		}
	}
}

// startMangled starts testdata/mangled.c, which has functions under mangled names and opens the C++ library.
func startMangled(t *testing.T, flags ...string) *running {
	t.Helper()
	r := &running{path: filepath.Join(t.TempDir(), "mangled")}
	compile(t, "gcc", r.path, "mangled.c", flags...)
	r.run(t, exec.Command(r.path))
	return r
}

// Functions of C++ and Rust are found by what their source calls them, mangled or not; overloads are ambiguous.
func TestMangledNames(t *testing.T) {
	for _, flags := range [][]string{{"-rdynamic"}, {"-rdynamic", "-s"}, nil} {
		r := startMangled(t, flags...)
		s := r.symbols(t)
		for _, said := range append(r.all("own"), r.all("library")...) {
			demangled := Demangle(said.name)
			for _, name := range []string{said.name, demangled, "mangled!" + demangled} {
				if said.what == "library" && strings.HasPrefix(name, "mangled!") {
					continue
				}
				got, err := s.Resolve(name)
				if err != nil || got.Addr != said.addr || got.Name != said.name || got.Demangled != demangled {
					t.Errorf("%v: %s: %+v, %v; want %v", flags, name, got, err, said.addr)
				}
			}
			if got, off, ok := s.At(said.addr + 1); !ok || off != 1 || got.Demangled != demangled {
				t.Errorf("%v: at %s+1: %+v, %d", flags, demangled, got, off)
			}
		}
		var ambiguous *AmbiguousError
		if _, err := s.Resolve("ns::f"); !errors.As(err, &ambiguous) || len(ambiguous.Candidates) != 2 {
			t.Errorf("%v: ns::f: %v; want two candidates", flags, err)
		}
		if found, err := s.Search("ns::f(*)"); err != nil || len(found) != 2 {
			t.Errorf("%v: search: %+v, %v", flags, found, err)
		}
		var notFound *NotFoundError
		if _, err := s.Lookup("ns::globl"); !errors.As(err, &notFound) || len(notFound.Near) == 0 ||
			notFound.Near[0] != "ns::global" {
			t.Errorf("%v: ns::globl: %v", flags, err)
		}
	}
}
