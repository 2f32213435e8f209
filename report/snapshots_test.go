package report

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/heaptap/heaptap/heap"
)

var frameText = regexp.MustCompile(`^(.*):(\d+) (.*)$`)

// frame makes a frame of "file:line function"; functions begin at the line's ten.
func frame(text string) heap.Frame {
	m := frameText.FindStringSubmatch(text)
	line, err := strconv.Atoi(m[2])
	if err != nil {
		panic(err) // a typing error in this file
	}
	return heap.Frame{Func: m[3], File: m[1], Line: line, FirstLine: line / 10 * 10}
}

// sheet makes snapshots from lines of text.
type sheet struct {
	s *heap.Snapshot
	b *heap.Builder
}

func newSheet() sheet {
	s := &heap.Snapshot{Time: time.Date(2026, 11, 23, 20, 15, 0, 0, time.UTC), Duration: 90 * time.Second}
	return sheet{s, heap.NewBuilder(s)}
}

// add adds a record for the stack, whose frames are given outermost first.
func (x sheet) add(domain, typ string, age int32, v heap.Values, stack ...string) {
	var frames []heap.Frame
	for _, f := range stack {
		frames = append(frames, frame(f))
	}
	r := heap.Record{Stack: x.b.Stack(frames...), Domain: x.b.Text(domain), Type: x.b.Text(typ),
		Thread: x.b.Text("MainThread"), Age: age}
	r.SetValues(v)
	x.s.Records = append(x.s.Records, r)
}

func live(bytes, blocks int64) heap.Values {
	return heap.Values{heap.InuseBytes: bytes, heap.InuseBlocks: blocks, heap.AllocBytes: 3 * bytes,
		heap.AllocBlocks: 4 * blocks}
}

// server is a small web application with a leak, with everything that a report shows.
func server() *heap.Snapshot {
	const std = "/usr/lib/python3.13/"
	x := newSheet()
	x.s.Info = []heap.KeyValue{
		{Key: "python", Value: "3.13.5 (static)"}, {Key: "command", Value: "python3 /srv/shop/server.py --port 8000"},
		{Key: "not seen", Value: "1,234 blocks from before the attach were freed since"},
	}
	main := []string{"/srv/shop/server.py:120 <module>", "/srv/shop/server.py:101 main"}
	request := append(main[:2:2], std+"socketserver.py:235 BaseServer.serve_forever",
		std+"socketserver.py:697 ThreadingMixIn.process_request",
		std+"http/server.py:436 BaseHTTPRequestHandler.handle_one_request", "/srv/shop/server.py:42 Handler.do_GET")
	with := func(base []string, more ...string) []string { return append(base[:len(base):len(base)], more...) }

	x.add("obj", "dict", 64, live(18<<20, 81920), with(request, "/srv/shop/session.py:33 Sessions.remember")...)
	x.add("obj", "str", 64, live(7<<20, 65536), with(request, "/srv/shop/session.py:33 Sessions.remember",
		"/srv/shop/session.py:18 Session.__init__")...)
	x.add("obj", "list", 1, live(640<<10, 2048), with(request, "/srv/shop/session.py:35 Sessions.remember")...)
	x.add("obj", "Product", 1024, live(5<<20, 20480), with(main, "/srv/shop/catalog.py:57 load",
		std+"json/__init__.py:293 load",
		std+"json/decoder.py:345 JSONDecoder.decode", std+"json/decoder.py:361 JSONDecoder.raw_decode",
		"/srv/shop/catalog.py:21 product")...)
	x.add("mem", "", 1024, live(3<<20, 12), with(main, "/srv/shop/catalog.py:57 load",
		std+"json/__init__.py:293 load")...)
	x.add("obj", "Template", 512, live(2<<20, 9000), with(main, "/srv/shop/pages.py:12 templates",
		"/usr/lib/python3/dist-packages/jinja2/environment.py:1010 Environment.get_template",
		"/usr/lib/python3/dist-packages/jinja2/environment.py:969 Environment._load_template",
		"/usr/lib/python3/dist-packages/jinja2/loaders.py:125 BaseLoader.load")...)
	x.add("obj", "Node", 512, live(900<<10, 7000), with(main, "/srv/shop/pages.py:12 templates",
		"/usr/lib/python3/dist-packages/jinja2/environment.py:1010 Environment.get_template",
		"/usr/lib/python3/dist-packages/jinja2/environment.py:969 Environment._load_template",
		"/usr/lib/python3/dist-packages/jinja2/parser.py:1029 Parser.parse")...)
	x.add("obj", "str", 0, live(300<<10, 900), with(request, "/srv/shop/pages.py:30 render",
		"/srv/shop/pages.py:35 <genexpr>")...)
	x.add("obj", "module", 2048, live(1<<20, 4000), with(main[:1], "<frozen importlib._bootstrap>:1360 _find_and_load",
		"<frozen importlib._bootstrap_external>:1022 SourceLoader.get_code")...)
	walk := main
	for range 8 {
		walk = with(walk, "/srv/shop/catalog.py:80 walk")
	}
	x.add("obj", "tuple", 16, live(200<<10, 3200), walk...)
	x.add("raw", "", heap.UnknownAge, live(96<<10, 40))
	x.add("obj", "bytes", 0, heap.Values{heap.AllocBytes: 64 << 20, heap.AllocBlocks: 100_000}, with(request,
		"/srv/shop/server.py:47 Handler.do_GET")...)
	return x.s
}

// sampled has estimates, and a peak.
func sampled() *heap.Snapshot {
	x := newSheet()
	x.s.SampleBytes = 512 << 10
	v := live(40<<20, 80)
	v[heap.PeakBytes], v[heap.PeakBlocks] = 50<<20, 100
	x.add("obj", "bytearray", 8, v, "/app/worker.py:10 <module>", "/app/worker.py:77 Worker.fill")
	v = live(1<<20, 2)
	v[heap.PeakBytes], v[heap.PeakBlocks] = 90<<20, 180
	x.add("obj", "bytes", 8, v, "/app/worker.py:10 <module>", "/app/worker.py:90 Worker.burst")
	return x.s
}

// hostile has names that are traps for one format or another.
func hostile() *heap.Snapshot {
	x := newSheet()
	x.s.Info = []heap.KeyValue{{Key: "command", Value: "python3 </script><script>alert(1)</script>\n\x1b[31m"}}
	for i, f := range []heap.Frame{
		{Func: "</script><script>document.title='owned'</script>", File: "/tmp/<img src=x onerror=alert(1)>.py",
			Line: 1},
		{Func: "größe.<locals>.計算", File: "/srv/日本語/プログラム.py", Line: 2},
		{Func: "a;b c\nd\te", File: "/srv/semi;colon.py", Line: 3},
		{Func: "\x1b[31mred\x1b[0m", File: "/srv/esc\x07.py", Line: 4},
		{Func: "\u202etxt.exe", File: "/srv/bidi.py", Line: 5},
		{Func: "bad\xff\xfeutf8", File: "/srv/\x80.py", Line: 6},
		{Func: `=HYPERLINK("http://x","y"),"quoted"`, File: `C:\dir\file.py`, Line: 7},
		{Func: "", File: "", Line: 0},
		{Func: "emoji_👩‍🔬_e\u0301", File: "/srv/" + strings.Repeat("long/", 40) + "path.py", Line: 9},
		{Func: strings.Repeat("very_long_name_", 100), File: "/srv/x.py", Line: 10},
		{Func: "__proto__", File: "constructor", Line: 11},
	} {
		r := heap.Record{
			Stack: x.b.Stack(heap.Frame{Func: "<module>", File: "/srv/main.py", Line: 1}, f),
			Type:  x.b.Text("</td>\x1b]0;x\x07"),
			Age:   heap.UnknownAge, InuseBytes: int64(4000 - 300*i), InuseBlocks: 1, AllocBytes: 5000, AllocBlocks: 2,
		}
		x.s.Records = append(x.s.Records, r)
	}
	return x.s
}

// deep is one recursion of n calls.
func deep(n int) *heap.Snapshot {
	x := newSheet()
	stack := []string{"/srv/deep.py:1 <module>"}
	for range n {
		stack = append(stack, "/srv/deep.py:12 descend")
	}
	x.add("obj", "list", 1, live(1<<20, 100), append(stack, "/srv/deep.py:20 leaf")...)
	return x.s
}

// large has stacks of about the given depth that share prefixes as real ones do. The same arguments give the same
// snapshot.
func large(stacks, depth int) *heap.Snapshot {
	rng := rand.New(rand.NewPCG(7, uint64(stacks)))
	x := newSheet()
	var frames []int32
	for i := range 5000 {
		dir := [...]string{"/srv/app/", "/srv/app/", "/usr/lib/python3.13/", "/usr/lib/python3/dist-packages/"}[i%4]
		frames = append(frames, x.b.Frame(heap.Frame{
			Func: fmt.Sprintf("Class%d.method_%d", i%300, i/3), File: fmt.Sprintf("%spackage%d/module%d.py", dir, i%20,
				i%300), Line: 1 + i, FirstLine: 1 + i/2*2,
		}))
	}
	path := make([]int32, depth)
	for i := range stacks {
		from := 0
		if i > 0 {
			from = depth - 1 - int(min(rng.ExpFloat64()*float64(depth)/8, float64(depth-1)))
		}
		for d := from; d < depth; d++ {
			parent := heap.None
			if d > 0 {
				parent = path[d-1]
			}
			path[d] = x.b.Push(parent, frames[(d*151+int(rng.ExpFloat64()*40))%len(frames)])
		}
		n := 1 + int64(rng.ExpFloat64()*20)
		r := heap.Record{Stack: path[depth-1], Age: heap.UnknownAge}
		r.SetValues(live(n*int64(16+16*rng.IntN(64)), n))
		x.s.Records = append(x.s.Records, r)
	}
	return x.s
}
