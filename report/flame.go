package report

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/heaptap/heaptap/heap"
)

// DefaultMaxNodes is the number of calls in a flame graph that does not say. It bounds the page to a few MiB.
const DefaultMaxNodes = 500_000

// maxNameBytes bounds the names in the page. Longer ones are cut.
const maxNameBytes = 1000

// flameTop is the number of lines in the table for browsers without scripts.
const flameTop = 20

// FlameOptions say what [Flame] shows at first; the reader can switch all of it but the last two.
type FlameOptions struct {
	Metric heap.Metric   // what widths stand for
	By     heap.Grouping // calls from different lines of a function apart, or together
	Invert bool          // what allocated on top, its callers below
	Title  string        // "" for "heap"
	// MaxNodes bounds the page: the smallest calls beyond are summed, which the page says. 0 is DefaultMaxNodes.
	MaxNodes int
}

//go:embed page/flame.html
var flameHTML string

//go:embed page/flame.css
var flameCSS string

//go:embed page/flame.js
var flameJS string

// Flame writes a flame graph as one HTML page that needs no network and allows itself none: zoom, search with the
// share that matches, inversion, bytes or blocks, live or allocated, all by mouse or keyboard.
//
// The page holds the tree of calls by line, gzipped, and lays it out as far as it is looked at.
func Flame(w io.Writer, s *heap.Snapshot, o FlameOptions) error {
	out := newOutput(w, "flame")
	page, err := newFlamePage(s, o)
	if err != nil {
		return fmt.Errorf("write flame report: %w", err)
	}
	t, err := template.New("flame").Parse(flameHTML)
	if err != nil {
		return fmt.Errorf("write flame report: %w", err)
	}
	if err := t.Execute(out, page); err != nil {
		return fmt.Errorf("write flame report: %w", err)
	}
	return out.flush()
}

// flamePage is what the template shows. What is not of a type of package template is escaped.
type flamePage struct {
	Title, Summary string
	Policy         string // content security policy: nothing but the page's own script and style
	CSS            template.CSS
	JS             template.JS
	Data           template.HTML // base64 of gzip of JSON of flameData
	Top            []flameLine
}

// flameLine is a line of the table for browsers without scripts.
type flameLine struct{ Bytes, Blocks, Share, Place string }

func newFlamePage(s *heap.Snapshot, o FlameOptions) (flamePage, error) {
	if o.Title == "" {
		o.Title = "heap"
	}
	data, err := packFlame(newFlameData(s, o))
	if err != nil {
		return flamePage{}, err
	}
	p := flamePage{
		Title: printable(o.Title), Summary: summary(s, o.Metric),
		Policy: fmt.Sprintf("default-src 'none'; script-src '%s'; style-src '%s'; img-src data:", sourceHash(flameJS),
			sourceHash(flameCSS)),
		CSS: template.CSS(flameCSS), JS: template.JS(flameJS), Data: template.HTML(data),
	}
	rows, _ := tableRows(s, TableOptions{Metric: o.Metric, Top: flameTop}, s.Total())
	total := s.Total()[o.Metric]
	for _, r := range rows {
		name := r.name
		if name == "" {
			name = place(r.frame)
		}
		p.Top = append(p.Top, flameLine{
			Size(r.values[inBytes(o.Metric)]), Count(r.values[inBlocks(o.Metric)]), Percent(share(r.values[o.Metric],
				total)), name,
		})
	}
	return p, nil
}

// sourceHash names a script or style in a content security policy.
func sourceHash(source string) string {
	sum := sha256.Sum256([]byte(source))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

func packFlame(d flameData) (string, error) {
	var packed bytes.Buffer
	text := base64.NewEncoder(base64.StdEncoding, &packed)
	zw := gzip.NewWriter(text)
	if err := json.NewEncoder(zw).Encode(d); err != nil {
		return "", err
	}
	if err := zw.Close(); err != nil {
		return "", err
	}
	if err := text.Close(); err != nil {
		return "", err
	}
	return packed.String(), nil
}

// flameData is what the script reads. Nodes are in preorder.
type flameData struct {
	Metrics []string    `json:"metrics"` // the columns of Own
	Strings []string    `json:"strings"`
	Frames  flameFrames `json:"frames"`
	// Up is for each node how many levels above the node before it its parent is: 0 for right below that.
	Up    []int       `json:"up"`
	Frame []int32     `json:"frame"` // for each node: index in Frames
	Own   [][]int64   `json:"own"`   // for each metric, for each node: what was allocated right there
	Cut   flameCut    `json:"cut"`
	Start flameStart  `json:"start"`
	Info  [][2]string `json:"info"`
}

// flameFrames are columns of equal length.
type flameFrames struct {
	Func     []int32 `json:"func"` // index in Strings
	File     []int32 `json:"file"` // index in Strings
	Line     []int   `json:"line"`
	Function []int32 `json:"function"` // number of the function: the same for its lines
}

// flameCut says what was summed to bound the page.
type flameCut struct {
	Frame int32  `json:"frame"` // index in Frames of the frame that stands for it; -1 where nothing was
	Note  string `json:"note"`
}

type flameStart struct {
	State  string `json:"state"` // "inuse", "alloc" or "peak"
	Unit   string `json:"unit"`  // "space" or "objects"
	By     string `json:"by"`    // "line" or "function"
	Invert bool   `json:"invert"`
}

func newFlameData(s *heap.Snapshot, o FlameOptions) flameData {
	maxNodes := o.MaxNodes
	if maxNodes <= 0 {
		maxNodes = DefaultMaxNodes
	}
	root := s.Tree(heap.ByLine)
	if !root.Own.IsZero() {
		none := &heap.Node{Frame: heap.Frame{Func: noStackName}, Own: root.Own, Cum: root.Own}
		root.Children, root.Own = append(root.Children, none), heap.Values{}
	}
	f := flameBuilder{
		frames: map[heap.Frame]int32{}, functions: map[heap.Frame]int32{}, strings: map[string]int32{},
		data: flameData{Cut: flameCut{Frame: -1}, Start: flameStartOf(o), Info: [][2]string{}},
	}
	// Arrays that stay empty are [] to the script, not null.
	f.data.Strings, f.data.Up, f.data.Frame = []string{}, []int{}, []int32{}
	f.data.Frames = flameFrames{Func: []int32{}, File: []int32{}, Line: []int{}, Function: []int32{}}
	for m := range heap.NumMetrics {
		if root.Cum[m] > 0 || m == o.Metric || m == o.Metric.Other() {
			f.metrics = append(f.metrics, m)
			f.data.Metrics = append(f.data.Metrics, m.String())
			f.data.Own = append(f.data.Own, []int64{})
		}
	}
	for _, kv := range s.Info {
		f.data.Info = append(f.data.Info, [2]string{kv.Key, kv.Value})
	}
	f.prune(root, maxNodes)
	f.add(root, o.Metric)
	return f.data
}

func flameStartOf(o FlameOptions) flameStart {
	state, unit, _ := strings.Cut(o.Metric.String(), "_")
	by := "line"
	if o.By == heap.ByFunction {
		by = "function"
	}
	return flameStart{State: state, Unit: unit, By: by, Invert: o.Invert}
}

// flameBuilder fills flameData.
type flameBuilder struct {
	data      flameData
	metrics   []heap.Metric
	frames    map[heap.Frame]int32
	functions map[heap.Frame]int32
	strings   map[string]int32
	depth     int // of the node that was added last; the root's is 0
}

// cutName stands for the calls that prune left out.
const cutName = "[smaller calls, not in this page]"

// prune keeps the n largest nodes of the tree, by their largest share in any metric, and sums what is below each in a
// child of its own. No node is larger than its parent, so that the kept ones are a tree.
func (f *flameBuilder) prune(root *heap.Node, n int) {
	type ranked struct {
		node  *heap.Node
		share float64
		order int
	}
	var all []ranked
	eachNode(root, func(node *heap.Node) {
		r := ranked{node: node, order: len(all)}
		for m, v := range node.Cum {
			r.share = max(r.share, share(v, root.Cum[m]))
		}
		all = append(all, r)
	})
	if len(all) <= n+1 {
		return
	}
	slices.SortFunc(all, func(a, b ranked) int { return cmp.Or(cmp.Compare(b.share, a.share), a.order-b.order) })
	dropped := make(map[*heap.Node]bool, len(all)-n-1)
	for _, r := range all[n+1:] {
		dropped[r.node] = true
	}
	var cut heap.Values
	cutFrame := heap.Frame{Func: cutName}
	for _, r := range all[:n+1] {
		rest := heap.Node{Frame: cutFrame}
		r.node.Children = slices.DeleteFunc(r.node.Children, func(c *heap.Node) bool {
			if dropped[c] {
				rest.Cum.Add(c.Cum)
			}
			return dropped[c]
		})
		if !rest.Cum.IsZero() {
			rest.Own = rest.Cum
			cut.Add(rest.Cum)
			r.node.Children = append(r.node.Children, &rest)
		}
	}
	f.data.Cut.Frame = f.frame(cutFrame)
	f.data.Cut.Note = fmt.Sprintf("To bound the size of this page, its %s smallest calls of %s are summed as “%s”: "+
		"%s of the live bytes, %s of all allocated.",
		Count(int64(len(dropped))), Count(int64(len(all)-1)), cutName,
		Percent(share(cut[heap.InuseBytes], root.Cum[heap.InuseBytes])), Percent(share(cut[heap.AllocBytes],
			root.Cum[heap.AllocBytes])))
}

// eachNode calls do with n and all below it, parents first.
func eachNode(n *heap.Node, do func(*heap.Node)) {
	do(n)
	for _, c := range n.Children {
		eachNode(c, do)
	}
}

// add adds the nodes below the root in preorder.
func (f *flameBuilder) add(root *heap.Node, m heap.Metric) {
	var visit func(n *heap.Node, depth int)
	visit = func(n *heap.Node, depth int) {
		if depth > 0 {
			f.data.Up = append(f.data.Up, f.depth-(depth-1))
			f.depth = depth
			f.data.Frame = append(f.data.Frame, f.frame(n.Frame))
			for column, m := range f.metrics {
				f.data.Own[column] = append(f.data.Own[column], n.Own[m])
			}
		}
		n.SortChildren(m)
		for _, c := range n.Children {
			visit(c, depth+1)
		}
	}
	visit(root, 0)
}

func (f *flameBuilder) frame(fr heap.Frame) int32 {
	i, ok := f.frames[fr]
	if !ok {
		i = int32(len(f.frames))
		f.frames[fr] = i
		fn := fr
		fn.Line = 0
		number, known := f.functions[fn]
		if !known {
			number = int32(len(f.functions))
			f.functions[fn] = number
		}
		c := &f.data.Frames
		c.Func = append(c.Func, f.text(printable(fr.Func)))
		c.File = append(c.File, f.text(printable(fr.File)))
		c.Line = append(c.Line, fr.Line)
		c.Function = append(c.Function, number)
	}
	return i
}

func (f *flameBuilder) text(t string) int32 {
	if len(t) > maxNameBytes {
		t = t[:maxNameBytes]
		for !utf8.ValidString(t) {
			t = t[:len(t)-1]
		}
		t += "…"
	}
	i, ok := f.strings[t]
	if !ok {
		i = int32(len(f.strings))
		f.strings[t] = i
		f.data.Strings = append(f.data.Strings, t)
	}
	return i
}
