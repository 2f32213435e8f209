package report

import (
	"io"
	"path/filepath"
	"testing"

	"github.com/heaptap/heaptap/heap"
)

// workers is a server of two processes that allocates in extensions, some of whose frames are symbolized.
func workers() *heap.Snapshot {
	const (
		cache  = "/srv/shop/_cache.cpython-313-x86_64-linux-gnu.so"
		zlib   = "/usr/lib/x86_64-linux-gnu/libz.so.1.2.13"
		python = "/usr/bin/python3.13"
	)
	in := func(object, file string, line int, function string) heap.Frame {
		return heap.Frame{Func: function, File: file, Line: line, FirstLine: line / 10 * 10, Module: object, BuildID: "c0ffee"}
	}
	var parts []heap.Part
	for i, process := range []string{"4711 gunicorn: master [shop]", "4712 gunicorn: worker [shop]"} {
		x := newSheet()
		x.s.Info = []heap.KeyValue{{Key: heap.InfoPid, Value: process[:4]}, {Key: "python", Value: "3.13.5"},
			{Key: heap.InfoRSS, Value: "104857600 bytes"}}
		module := frame("/srv/shop/server.py:120 <module>")
		get := frame("/srv/shop/server.py:42 Handler.get")
		start := heap.Frame{Module: "/usr/lib/x86_64-linux-gnu/libc.so.6", BuildID: "1ibc", Addr: 0x271ca}
		call := in(python, "/build/Objects/call.c", 240, "_PyObject_Vectorcall")
		grow := in(cache, "/srv/shop/cache.cc", 57, "shop::Cache<std::string>::grow(unsigned long)")
		reserve := in(cache, "/usr/include/c++/12/bits/vector.tcc", 79, "std::vector<shop::Entry>::reserve(unsigned long)")
		create := in("/usr/lib/x86_64-linux-gnu/libstdc++.so.6", "", 0, "operator new(unsigned long)")
		deflate := in(zlib, "", 0, "deflateInit2_")
		bare := heap.Frame{Module: "/usr/lib/x86_64-linux-gnu/libgomp.so.1", BuildID: "90mp", Addr: 0x8f12}
		for _, r := range []struct {
			domain string
			v      heap.Values
			stack  []heap.Frame
		}{
			{"malloc", live(int64(12+20*i)<<20, 40), []heap.Frame{start, module, call, get, call, grow, reserve, create}},
			{"malloc", live(3<<20, 12), []heap.Frame{start, module, call, get, call, deflate}},
			{"malloc", live(640<<10, 4), []heap.Frame{start, bare, bare}},
			{"obj", live(2<<20, 9000), []heap.Frame{start, module, call, get, call, grow, call}},
			{"mmap", live(8<<20, 1), []heap.Frame{start, call, call}},
		} {
			rec := heap.Record{Stack: x.b.Stack(r.stack...), Domain: x.b.Text(r.domain), Thread: x.b.Text("MainThread"), Age: 60}
			rec.SetValues(r.v)
			x.s.Records = append(x.s.Records, rec)
		}
		parts = append(parts, heap.Part{Process: process, Snapshot: x.s})
	}
	s, err := heap.Merge(parts)
	if err != nil {
		panic(err) // an error in this file
	}
	return s
}

// TestNativeGolden holds every report of a snapshot of several processes with native frames, in each view.
func TestNativeGolden(t *testing.T) {
	for v := range heap.NumFrameViews {
		s := workers().View(v)
		for file, report := range reports() {
			if v != heap.MixedFrames && file != "table.txt" && file != "tree.txt" {
				continue
			}
			t.Run(v.String()+"/"+file, func(t *testing.T) {
				golden(t, filepath.Join("workers", v.String(), file), func(w io.Writer) error { return report(w, s) })
			})
		}
	}
	mixed := workers().View(heap.MixedFrames)
	for g := range heap.NumGroupings {
		golden(t, filepath.Join("workers", "by-"+g.String()+".txt"), func(w io.Writer) error {
			return Table(w, mixed, TableOptions{By: g, Width: 80})
		})
	}
	golden(t, filepath.Join("workers", "tree-by-process.txt"), func(w io.Writer) error {
		return Tree(w, mixed.UnderProcesses(), TreeOptions{Width: 80})
	})
}

func TestPlaceNative(t *testing.T) {
	long := heap.Frame{Func: "std::vector<shop::Entry, std::allocator<shop::Entry> >::_M_realloc_insert<shop::Entry const&>(int)",
		File: "/usr/include/c++/12/bits/vector.tcc", Line: 439, Module: "/srv/a.so", BuildID: "c0ffee"}
	for _, test := range []struct {
		f     heap.Frame
		width int
		want  string
	}{
		{heap.Frame{Func: "deflate", File: "/src/deflate.c", Line: 17, Module: "/lib/libz.so.1"}, 0, "deflate (/src/deflate.c:17)"},
		{heap.Frame{Func: "deflate", File: "/src/deflate.c", Line: 17, Module: "/lib/libz.so.1"}, 24, "deflate (…/deflate.c:17)"},
		{heap.Frame{Func: "deflate", Module: "/lib/libz.so.1"}, 0, "deflate (libz.so.1)"},
		{heap.Frame{Module: "/lib/libz.so.1", Addr: 0x1234}, 0, "libz.so.1+0x1234"},
		{heap.Frame{File: "crt1.S", Line: 3, Module: "/lib/libz.so.1"}, 0, "[unknown] (crt1.S:3)"},
		{heap.Frame{Func: "\x1b[31m", Module: "/lib/\x1b.so"}, 0, `\x1b[31m (\x1b.so)`},
		{long, 0, "std::vector::_M_realloc_insert (/usr/include/c++/12/bits/vector.tcc:439)"},
		{long, 60, "std::vector::_M_realloc_insert (…/12/bits/vector.tcc:439)"},
		{long, 20, "std::vector::_M_rea…"},
		{heap.Frame{Func: "shop::Cache<int>::grow(unsigned long)", Module: "/srv/a.so"}, 60, "shop::Cache<int>::grow(unsigned long) (a.so)"},
		{heap.Frame{Func: "shop::Cache<int>::grow(unsigned long)", Module: "/srv/a.so"}, 40, "shop::Cache::grow (a.so)"},
	} {
		got := FitPlace(test.f, test.width)
		if test.width > 0 && Cells(got) > test.width {
			t.Errorf("%q has %d cells of %d", got, Cells(got), test.width)
		}
		if got != test.want {
			t.Errorf("width %d: %q, want %q", test.width, got, test.want)
		}
	}
}

// In the page, processes are told apart like types and threads, and native code has a colour of its own.
func TestPageProcesses(t *testing.T) {
	b := startBrowser(t, 1366, 768)
	b.open(htmlFile(t, &heap.Delta{New: workers().View(heap.MixedFrames)}, HTMLOptions{}))
	b.press("2")
	b.expectTexts("#legend > span", "program", "installed packages", "standard library", "native code", "other")
	b.press("3")
	b.expectTexts("#view-table .switch button", "Lines", "Functions", "Modules", "Types", "Processes", "Threads", "Domains")
	b.clickOn("#view-table .switch button[data-value=process]")
	b.expectTexts("#view-table tr.row .name", "4712 gunicorn: worker [shop]", "4711 gunicorn: master [shop]")
	b.press("1")
	b.eval(new(any), `[...document.querySelectorAll('#view-overview .ranks button')].find(
		e => e.textContent.includes('4711 gunicorn')).click()`)
	b.settle()
	if s := b.state(); s.Only["process"] != "4711 gunicorn: master [shop]" || s.Total != 26869760 {
		t.Errorf("%+v", s)
	}
	for _, theme := range []string{"dark", "light"} {
		b.devtools("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{
			"name": "prefers-color-scheme", "value": theme}}})
		for _, view := range []string{"1", "2", "3"} {
			b.press(view)
			b.expectContrast()
		}
	}
	b.expectQuiet()
	// A page of one process knows nothing of processes, and one without native code nothing of that.
	b.open(htmlFile(t, &heap.Delta{New: server()}, HTMLOptions{}))
	b.press("2")
	b.expectTexts("#legend > span", "program", "installed packages", "standard library", "other")
	b.press("3")
	b.expectTexts("#view-table .switch button", "Lines", "Functions", "Modules", "Types", "Threads", "Domains")
}
