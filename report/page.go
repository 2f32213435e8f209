package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/heaptap/heaptap/heap"
)

// DefaultMaxPageBytes bounds a page that does not say: what a mail or a ticket takes, and a browser opens at once.
const DefaultMaxPageBytes = 10 << 20

// DefaultMaxNodes is the number of calls in a page that does not say.
const DefaultMaxNodes = 500_000

// flameTop is the number of lines in the table for browsers without scripts.
const flameTop = 20

// The parts of the page. The scripts share one scope, in this order.
var (
	//go:embed page/page.html
	pageHTML string
	//go:embed page/page.css
	pageCSS string
	//go:embed page/core.js
	coreJS string
	//go:embed page/data.js
	dataJS string
	//go:embed page/flame.js
	flameJS string
	//go:embed page/overview.js
	overviewJS string
	//go:embed page/table.js
	tableJS string
	//go:embed page/tree.js
	treeJS string
	//go:embed page/ages.js
	agesJS string
	//go:embed page/source.js
	sourceJS string
	//go:embed page/app.js
	appJS string
)

// pageJS is the page's script.
func pageJS() string {
	return "'use strict';\n(async () => {\n" + coreJS + dataJS + flameJS + overviewJS + tableJS + treeJS + agesJS +
		sourceJS + appJS + "})();\n"
}

// The views of a page.
const (
	viewOverview = "overview"
	viewFlame    = "flame"
	viewTable    = "table"
	viewTree     = "tree"
	viewAges     = "ages"
	viewSource   = "source"
)

// pageOptions say what a page holds and shows at first.
type pageOptions struct {
	metric   heap.Metric
	by       heap.Grouping
	invert   bool
	title    string
	views    []string
	maxNodes int
	maxBytes int
	sources  Sources
}

// detailed tells whether threads, domains and ages have views, and not only types.
func (o pageOptions) detailed() bool { return len(o.views) > 1 }

// writePage writes a page of d, whose Old is nil where there is nothing to compare with.
func writePage(w io.Writer, format string, d *heap.Delta, o pageOptions) error {
	out := newOutput(w, format)
	page, err := newPage(d, o)
	if err != nil {
		return fmt.Errorf("write %s report: %w", format, err)
	}
	t, err := template.New("page").Parse(pageHTML)
	if err != nil {
		return fmt.Errorf("write %s report: %w", format, err)
	}
	if err := t.Execute(out, page); err != nil {
		return fmt.Errorf("write %s report: %w", format, err)
	}
	return out.flush()
}

// page is what the template shows. What is not of a type of package template is escaped.
type page struct {
	Title, Summary string
	Policy         string // content security policy: nothing but the page's own script and style
	CSS            template.CSS
	JS             template.JS
	Data           template.HTML // base64 of gzip of JSON of pageData
	Top            []pageLine
}

// pageLine is a line of the table for browsers without scripts.
type pageLine struct{ Bytes, Blocks, Share, Place string }

func newPage(d *heap.Delta, o pageOptions) (page, error) {
	if o.title == "" {
		o.title = "heap"
	}
	data, err := boundedData(d, o)
	if err != nil {
		return page{}, err
	}
	js := pageJS()
	p := page{
		Title: Printable(o.title), Summary: pageSummary(d, o.metric),
		Policy: fmt.Sprintf("default-src 'none'; script-src '%s'; style-src '%s'; img-src data:",
			sourceHash(js), sourceHash(pageCSS)),
		CSS: template.CSS(pageCSS), JS: template.JS(js), Data: template.HTML(data),
	}
	rows, _ := tableRows(d.New, TableOptions{Metric: o.metric, Top: flameTop}, d.New.Total())
	total := d.New.Total()[o.metric]
	for _, r := range rows {
		name := r.name
		if name == "" {
			name = cutText(FitPlace(r.frame, 0))
		}
		p.Top = append(p.Top, pageLine{
			Size(r.values[inBytes(o.metric)]), Count(r.values[inBlocks(o.metric)]), Percent(share(r.values[o.metric],
				total)), name,
		})
	}
	return p, nil
}

func pageSummary(d *heap.Delta, m heap.Metric) string {
	if d.Old == nil {
		return summary(d.New, m)
	}
	before, now := d.Old.Total(), d.New.Total()
	return fmt.Sprintf("%s %s in %s %s, before %s in %s", Size(now[inBytes(m)]), state(m), Count(now[inBlocks(m)]),
		plural(now[inBlocks(m)], "block", "blocks"), Size(before[inBytes(m)]), Count(before[inBlocks(m)]))
}

// sourceHash names a script or style in a content security policy.
func sourceHash(source string) string {
	sum := sha256.Sum256([]byte(source))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// boundedData packs the page's data into what its bound leaves, and cuts calls until they fit.
func boundedData(d *heap.Delta, o pageOptions) (string, error) {
	if o.maxBytes <= 0 {
		o.maxBytes = DefaultMaxPageBytes
	}
	if o.maxNodes <= 0 {
		o.maxNodes = DefaultMaxNodes
	}
	shell := len(pageHTML) + len(pageCSS) + len(pageJS()) + flameTop*maxNameBytes
	room := o.maxBytes - shell
	tree := newCalls()
	tree.add(d.New, callsNow, o.detailed())
	if d.Old != nil {
		tree.add(d.Old, callsOld, o.detailed())
	}
	about := aboutOf(d, o)
	nodes := o.maxNodes
	for {
		data, err := pack(newPageData(tree, about, o, nodes))
		if err != nil || len(data) <= room {
			return data, err
		}
		// What is packed grows with the number of calls, less than linearly: never more than half a bound too small.
		had := min(nodes, len(tree.nodes)-1)
		nodes = min(had*9/10*room/len(data), had/2+had/4)
		if nodes < 1 {
			return "", fmt.Errorf("a page of %s cannot even hold one call", Size(int64(o.maxBytes)))
		}
	}
}

// pack returns base64 of gzip of JSON.
func pack(d pageData) (string, error) {
	var packed bytes.Buffer
	text := base64.NewEncoder(base64.StdEncoding, &packed)
	zw, err := gzip.NewWriterLevel(text, packLevel)
	if err != nil {
		return "", err
	}
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

// packLevel of compression: beyond it time doubles for a few percent.
const packLevel = 5

// maxNameBytes bounds the texts in the page.
const maxNameBytes = 1000

func cutText(t string) string { return cut(t, maxNameBytes) }

// cut returns a text in at most so many bytes; an ellipsis says that there was more.
func cut(t string, most int) string {
	if len(t) <= most {
		return t
	}
	return strings.ToValidUTF8(t[:most], "") + "…"
}
