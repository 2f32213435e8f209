package report

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/heaptap/heaptap/heap"
)

// SourceFile is a file of a program.
type SourceFile struct {
	Text     []byte
	Modified time.Time // when it was written last; zero where unknown
	Path     string    // where it was found, "" where that is what frames call it
}

// Sources returns the file that frames call by a name, or an error that says why it cannot be had. The name comes from
// the program that was profiled, and need not be trusted.
type Sources func(name string) (SourceFile, error)

// ListingOptions say what a [Listing] shows.
type ListingOptions struct {
	Metric     heap.Metric // what lines are chosen by; the numbers beside them are in its unit
	Cumulative bool        // choose lines by what was allocated below them, too
	Top        int         // lines to show the surroundings of; 0 is DefaultTop, negative is all
	Width      int         // of the terminal in columns; 0 is no limit
	Sources    Sources     // must not be nil
}

// sourceContext is the number of lines shown around one that allocates.
const sourceContext = 2

// Listing writes the lines with the most memory as they stand in their files, with what each allocated itself and with
// what it called beside it. It says which files cannot be had, and which have changed since they ran.
func Listing(w io.Writer, s *heap.Snapshot, o ListingOptions) error {
	out := newOutput(w, "source")
	rows := sourceRows(s)
	heap.SortRows(rows, o.Metric, o.Cumulative)
	top := o.Top
	if top == 0 {
		top = DefaultTop
	}
	files := chooseSource(rows, top, func(r *heap.Row) int64 {
		if o.Cumulative {
			return r.Cum[o.Metric]
		}
		return r.Own[o.Metric]
	})
	if len(files) == 0 {
		out.printf("No line of a file %s anything.\n", map[bool]string{true: "led to", false: "allocated"}[o.Cumulative])
	}
	l := sourceListing{out, s, o}
	for i, f := range files {
		if i > 0 {
			out.printf("\n")
		}
		l.file(f)
	}
	return out.flush()
}

// sourceRows returns a row for each line of each file, whatever the functions that share it.
func sourceRows(s *heap.Snapshot) []heap.Row {
	lines := *s
	lines.Frames = make([]heap.Frame, len(s.Frames))
	for i, f := range s.Frames {
		lines.Frames[i] = heap.Frame{File: f.File, Line: f.Line}
	}
	return lines.ByLine()
}

// chosenFile is a file with lines to show.
type chosenFile struct {
	name   string
	chosen []int             // numbers of the lines, ascending
	rows   map[int]*heap.Row // all of the file's lines that have blocks, by number
	value  int64             // of the chosen lines
}

// chooseSource returns the files of the first n rows that have a file, a line and a value, the files with the largest
// values first. A negative n is all.
func chooseSource(rows []heap.Row, n int, value func(*heap.Row) int64) []*chosenFile {
	byName := map[string]*chosenFile{}
	var files []*chosenFile
	for i := range rows {
		r := &rows[i]
		if n == 0 || value(r) <= 0 {
			break
		}
		if r.Frame.File == "" || r.Frame.Line == 0 {
			continue
		}
		n--
		f := byName[r.Frame.File]
		if f == nil {
			f = &chosenFile{name: r.Frame.File, rows: map[int]*heap.Row{}}
			byName[f.name] = f
			files = append(files, f)
		}
		f.chosen = append(f.chosen, r.Frame.Line)
		f.value += value(r)
	}
	for i := range rows {
		if f := byName[rows[i].Frame.File]; f != nil {
			f.rows[rows[i].Frame.Line] = &rows[i]
		}
	}
	for _, f := range files {
		slices.Sort(f.chosen)
	}
	slices.SortStableFunc(files, func(a, b *chosenFile) int { return cmp.Compare(b.value, a.value) })
	return files
}

// span is a run of lines, both ends included.
type span struct{ from, to int }

// around returns the runs of lines within a distance of the given ones, in a file of so many lines.
func around(lines []int, distance, count int) []span {
	var spans []span
	for _, n := range lines {
		if n > count {
			continue
		}
		s := span{max(1, n-distance), min(count, n+distance)}
		if last := len(spans) - 1; last >= 0 && s.from <= spans[last].to+2 { // a gap of one line takes as much room
			spans[last].to = s.to
		} else {
			spans = append(spans, s)
		}
	}
	return spans
}

// maxSourceLine bounds a line of source in bytes. Longer ones are data.
const maxSourceLine = 400

// splitSource returns the lines of a text, printable and with tabs as blanks.
func splitSource(text []byte) []string {
	text = bytes.TrimSuffix(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), []byte("\n"))
	if len(text) == 0 {
		return nil
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		lines[i] = cut(Printable(expandTabs(strings.TrimSuffix(line, "\r"))), maxSourceLine)
	}
	return lines
}

func expandTabs(line string) string {
	const stop = 8
	if !strings.Contains(line, "\t") {
		return line
	}
	var b strings.Builder
	column := 0
	for _, r := range line {
		if r == '\t' {
			blanks := stop - column%stop
			b.WriteString(strings.Repeat(" ", blanks))
			column += blanks
			continue
		}
		b.WriteRune(r)
		column++
	}
	return b.String()
}

// doubts says what speaks against a file being the one that ran; "" for nothing.
func (f SourceFile) doubts(s *heap.Snapshot, last, count int) string {
	var list []string
	switch {
	case f.Modified.IsZero() || s.Time.IsZero():
	case f.Modified.After(s.Time):
		list = append(list, "changed since the snapshot was taken: these may not be the lines that ran")
	case f.Modified.After(s.Time.Add(-s.Duration)):
		list = append(list, "changed while it was tracked: these may not be the lines that ran")
	}
	if last > count {
		list = append(list, fmt.Sprintf("has only %s %s: it is not the file that ran", Count(int64(count)),
			plural(int64(count), "line", "lines")))
	}
	return strings.Join(list, "; ")
}

// sourceListing writes the listings of files.
type sourceListing struct {
	out output
	s   *heap.Snapshot
	o   ListingOptions
}

func (l sourceListing) file(f *chosenFile) {
	total := l.s.Total()[l.o.Metric]
	title := Printable(f.name)
	if !l.o.Cumulative { // what lines led to may count a block more than once
		title += fmt.Sprintf(": %s %s on %s %s, %s", l.amount(f.value), state(l.o.Metric), Count(int64(len(f.chosen))),
			plural(int64(len(f.chosen)), "line", "lines"), Percent(share(f.value, total)))
	}
	l.out.paragraph(title, l.o.Width)
	source, err := l.o.Sources(f.name)
	if err != nil {
		l.out.paragraph("no source: "+Printable(err.Error()), l.o.Width)
	}
	text := splitSource(source.Text)
	if source.Path != "" {
		l.out.paragraph("found as "+Printable(source.Path), l.o.Width)
	}
	last := f.chosen[len(f.chosen)-1]
	if doubt := source.doubts(l.s, last, len(text)); err == nil && doubt != "" {
		l.out.paragraph(doubt, l.o.Width)
	}
	spans := around(f.chosen, sourceContext, len(text))
	if len(text) < last { // the lines that are not there still have their numbers
		for _, n := range f.chosen {
			if n > len(text) {
				spans = append(spans, span{n, n})
			}
		}
	}
	l.spans(f, text, spans)
}

// spans writes runs of lines, apart from each other where numbers are left out.
func (l sourceListing) spans(f *chosenFile, text []string, spans []span) {
	lines := [][]string{{"OWN", "TOTAL", "LINE"}}
	code := []string{""}
	for i, s := range spans {
		if i > 0 && s.from > spans[i-1].to+1 {
			lines, code = append(lines, []string{"", "", "…"}), append(code, "")
		}
		for n := s.from; n <= s.to; n++ {
			line := []string{"", "", fmt.Sprint(n)}
			if r := f.rows[n]; r != nil {
				line[0], line[1] = l.amountOrNone(r.Own[l.o.Metric]), l.amountOrNone(r.Cum[l.o.Metric])
			}
			lines = append(lines, line)
			if n <= len(text) {
				code = append(code, text[n-1])
			} else {
				code = append(code, "")
			}
		}
	}
	for i, numbers := range alignRight(lines) {
		line := strings.TrimRight(numbers+"  "+code[i], " ")
		if l.o.Width > 0 {
			line = Fit(line, max(l.o.Width, Cells(numbers)+2+leastRoom))
		}
		l.out.printf("%s\n", line)
	}
}

func (l sourceListing) amount(v int64) string {
	if l.o.Metric.Bytes() {
		return Size(v)
	}
	return Count(v) + " " + plural(v, "block", "blocks")
}

func (l sourceListing) amountOrNone(v int64) string {
	switch {
	case v == 0:
		return ""
	case l.o.Metric.Bytes():
		return Size(v)
	}
	return Count(v)
}

// Bounds on the source in a page.
const (
	pageSourceLines   = 120       // places, by what they allocated and as many by what they led to
	pageSourceContext = 5         // lines around each
	pageSourceBytes   = 400 << 10 // of text
)

// pageSources returns the source of the lines with the most memory, now and before, and says what is missing.
func pageSources(d *heap.Delta, o pageOptions) ([]pageSource, string) {
	var files []*chosenFile
	for _, s := range []*heap.Snapshot{d.New, d.Old} {
		if s == nil {
			continue
		}
		rows := sourceRows(s)
		for _, cumulative := range []bool{false, true} {
			heap.SortRows(rows, o.metric, cumulative)
			more := chooseSource(slices.Clone(rows), pageSourceLines, func(r *heap.Row) int64 {
				if cumulative {
					return r.Cum[o.metric]
				}
				return r.Own[o.metric]
			})
			files = mergeChosen(files, more)
		}
	}
	list, found, room := []pageSource{}, 0, pageSourceBytes
	for _, f := range files {
		p := pageSourceOf(f, d.New, o.sources, &room)
		if len(p.Parts) > 0 {
			found++
		}
		list = append(list, p)
	}
	note := fmt.Sprintf("Source of the lines with the most memory: %s of %s %s could be had.", Count(int64(found)),
		Count(int64(len(list))), plural(int64(len(list)), "file", "files"))
	if room <= 0 {
		note += fmt.Sprintf(" Only the first %s are in this page.", Size(pageSourceBytes))
	}
	return list, note
}

// mergeChosen adds the files and lines of more to files.
func mergeChosen(files, more []*chosenFile) []*chosenFile {
	for _, f := range more {
		i := slices.IndexFunc(files, func(g *chosenFile) bool { return g.name == f.name })
		if i < 0 {
			files = append(files, f)
			continue
		}
		files[i].chosen = append(files[i].chosen, f.chosen...)
		slices.Sort(files[i].chosen)
		files[i].chosen = slices.Compact(files[i].chosen)
	}
	return files
}

func pageSourceOf(f *chosenFile, s *heap.Snapshot, sources Sources, room *int) pageSource {
	p := pageSource{File: cutText(Printable(f.name)), Parts: []pageLines{}}
	if *room <= 0 {
		p.Note = "left out to bound the size of this page"
		return p
	}
	source, err := sources(f.name)
	if err != nil {
		p.Note = cutText(Printable(err.Error()))
		return p
	}
	text := splitSource(source.Text)
	var notes []string
	if source.Path != "" {
		notes = append(notes, "found as "+cutText(Printable(source.Path)))
	}
	if doubt := source.doubts(s, f.chosen[len(f.chosen)-1], len(text)); doubt != "" {
		notes = append(notes, doubt)
	}
	p.Note = strings.Join(notes, "; ")
	for _, r := range around(f.chosen, pageSourceContext, len(text)) {
		part := pageLines{First: r.from, Lines: []string{}}
		for _, line := range text[r.from-1 : r.to] {
			if *room -= len(line); *room > 0 {
				part.Lines = append(part.Lines, line)
			}
		}
		if len(part.Lines) > 0 {
			p.Parts = append(p.Parts, part)
		}
	}
	return p
}
