package tui

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/report"
)

// screen is what fills the terminal.
type screen int

const (
	listScreen screen = iota
	treeScreen
	detailScreen
	helpScreen
)

// entry is the line at the bottom in which the user types.
type entry struct {
	prompt string // "": nobody types
	text   string
	done   func(text string) error
}

// model is the state of the view. bubbletea calls its methods one at a time.
type model struct {
	o             Options
	ctx           context.Context
	width, height int

	series  series
	raw     *heap.Snapshot // the last look, unfiltered
	looking bool
	frozen  bool
	took    time.Duration // the last look
	failed  error         // ends the view
	message string        // for the user, until the next key
	entry   entry

	screen  screen
	before  screen // where esc leads back to from help and detail
	by      int    // index in groupings
	sort    column
	search  string
	cursor  int // in the list
	chosen  heap.Group
	picked  bool // chosen is what the cursor stands on, and keeps it there when rows move
	tree    tree
	detail  detail
	filter  *heap.Filter
	nothing string // why no block is shown
}

func newModel(ctx context.Context, o Options) *model {
	filter := o.Filter
	if filter == nil {
		filter = &heap.Filter{}
	}
	return &model{o: o, ctx: ctx, width: 80, height: 24, filter: filter, by: max(0, slices.Index(groupings[:], o.Grouping)),
		tree: tree{open: map[string]bool{"": true}}}
}

// looked is what a look has brought.
type looked struct {
	snapshot *heap.Snapshot
	took     time.Duration
	err      error
}

// dumped is what a dump has brought.
type dumped struct {
	file string
	err  error
}

// due says that it is time to look.
type due struct{}

func (m *model) Init() tea.Cmd { return m.look() }

func (m *model) look() tea.Cmd {
	if m.looking || m.frozen {
		return nil
	}
	m.looking = true
	return func() tea.Msg {
		began := time.Now()
		s, err := m.o.Look(m.ctx)
		return looked{s, time.Since(began), err}
	}
}

func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case due:
		return m, m.look()
	case looked:
		return m, m.take(msg)
	case dumped:
		m.message = "wrote " + msg.file
		if msg.err != nil {
			m.message = "no dump: " + msg.err.Error()
		}
	case tea.KeyPressMsg:
		m.message = ""
		if m.entry.prompt != "" {
			m.typed(msg)
			return m, nil
		}
		return m, m.key(msg.String())
	case tea.PasteMsg:
		if m.entry.prompt != "" {
			m.entry.text += msg.Content
		}
	}
	return m, nil
}

// take shows what a look has brought. A large heap is looked at less often: at most a third of the time is spent on it.
func (m *model) take(l looked) tea.Cmd {
	m.looking = false
	if l.err != nil {
		m.failed = l.err
		return tea.Quit
	}
	m.took = l.took
	if !m.frozen {
		m.raw = l.snapshot
		m.show()
	}
	return tea.Tick(max(m.o.Interval-l.took, 2*l.took), func(time.Time) tea.Msg { return due{} })
}

// show passes the last look through the filter to the screens.
func (m *model) show() {
	if m.raw == nil {
		return
	}
	s, err := m.filter.Apply(m.raw)
	m.nothing = ""
	if err != nil {
		m.nothing = err.Error()
		empty := *m.raw
		empty.Records = nil
		s = &empty
	}
	m.series.add(s)
	m.tree.show(s, m.treeGrouping())
	if m.screen == detailScreen {
		m.detail.show(s)
	}
}

// treeGrouping is what the tree's nodes stand for.
func (m *model) treeGrouping() heap.Grouping {
	if groupings[m.by] == heap.ByLine {
		return heap.ByLine
	}
	return heap.ByFunction
}

// restart forgets the past, which was seen through another filter.
func (m *model) restart() {
	m.series = series{}
	m.show()
}

func (m *model) key(key string) tea.Cmd {
	switch key {
	case "q", "ctrl+c":
		return tea.Quit
	case "?", "f1":
		if m.screen != helpScreen {
			m.before, m.screen = m.screen, helpScreen
			return nil
		}
		m.screen = m.before
	case "esc", "backspace":
		m.back()
	case "space", "p":
		m.frozen = !m.frozen
		return m.look()
	case "d":
		return m.dump()
	case "+", "=":
		m.o.Interval = min(m.o.Interval*2, time.Hour)
		m.message = "a look each " + m.o.Interval.String()
	case "-":
		m.o.Interval = max(m.o.Interval/2, 100*time.Millisecond)
		m.message = "a look each " + m.o.Interval.String()
	case "w", "f":
		m.entry = entry{prompt: "filter: ", text: m.filter.String(), done: m.setFilter}
	case "/":
		m.entry = entry{prompt: "search: ", text: m.search, done: func(text string) error {
			m.search, m.cursor, m.picked = text, 0, false
			return nil
		}}
	default:
		return m.screenKey(key)
	}
	return nil
}

func (m *model) screenKey(key string) tea.Cmd {
	switch m.screen {
	case helpScreen:
		m.screen = m.before
	case treeScreen:
		if !m.choose(key) {
			m.tree.key(key, m.bodyHeight())
		}
	case detailScreen:
		m.detail.key(key, m.bodyHeight())
	default:
		if !m.choose(key) {
			m.listKey(key)
		}
	}
	return nil
}

// choose changes what is shown, in the list and the tree.
func (m *model) choose(key string) bool {
	switch {
	case len(key) == 1 && key[0] >= '1' && int(key[0]-'1') < len(groupings):
		m.group(int(key[0] - '1'))
		m.screen = listScreen
	case key == "tab":
		m.group((m.by + 1) % len(groupings))
	case key == "shift+tab":
		m.group((m.by + len(groupings) - 1) % len(groupings))
	case key == "t", key == "6":
		m.screen = treeScreen - m.screen // there and back
	case key == "s":
		m.sort = (m.sort + 1) % numColumns
		if m.sort == byRate && !tellsRate(groupings[m.by]) {
			m.sort++
		}
		m.cursor, m.picked = 0, false
	default:
		return false
	}
	return true
}

func (m *model) group(i int) {
	m.by, m.cursor, m.picked = i, 0, false
	if m.sort == byRate && !tellsRate(groupings[i]) {
		m.sort = byLive
	}
	if m.series.last != nil {
		m.tree.show(m.series.last, m.treeGrouping())
	}
}

func (m *model) back() {
	switch {
	case m.screen == helpScreen, m.screen == detailScreen:
		m.screen = m.before
	case m.search != "":
		m.search = ""
	case m.screen == treeScreen:
		m.screen = listScreen
	}
}

func (m *model) dump() tea.Cmd {
	if m.o.Dump == nil {
		return nil
	}
	m.message = "taking a snapshot"
	return func() tea.Msg {
		file, err := m.o.Dump(m.ctx)
		return dumped{file, err}
	}
}

func (m *model) setFilter(text string) error {
	spec := heap.FilterSpec{}
	if strings.TrimSpace(text) != "" {
		spec.Where = []string{text}
	}
	f, err := heap.ParseFilter(spec)
	if err != nil {
		return err
	}
	m.filter = f
	m.restart()
	return nil
}

// typed takes a key while the user types a line.
func (m *model) typed(key tea.KeyPressMsg) {
	switch key.String() {
	case "esc", "ctrl+c":
		m.entry = entry{}
	case "enter":
		if err := m.entry.done(m.entry.text); err != nil {
			m.message = err.Error()
			return
		}
		m.entry = entry{}
	case "backspace":
		if runes := []rune(m.entry.text); len(runes) > 0 {
			m.entry.text = string(runes[:len(runes)-1])
		}
	case "ctrl+u":
		m.entry.text = ""
	default:
		m.entry.text += key.Text
	}
}

// visible are the list's rows that the search lets pass, in order.
func (m *model) visible() []*row {
	wanted := strings.ToLower(m.search)
	return slices.DeleteFunc(m.series.sorted(m.by, m.sort), func(r *row) bool {
		idle := r.live == 0 && r.rate == 0 && r.growth == 0
		return idle || !strings.Contains(strings.ToLower(r.name), wanted)
	})
}

func (m *model) listKey(key string) {
	rows := m.visible()
	m.cursor = m.at(rows)
	if next, ok := moved(m.cursor, len(rows), m.bodyHeight(), key); ok {
		m.cursor = next
		m.picked = next > 0 // who stands at the top wants to see the top
		if m.picked {
			m.chosen = rows[next].group
		}
		return
	}
	if (key == "enter" || key == "right") && m.cursor < len(rows) {
		m.detail = detail{grouping: groupings[m.by], group: rows[m.cursor].group, source: m.o.Source}
		m.detail.show(m.series.last)
		m.before, m.screen = listScreen, detailScreen
	}
}

// at is where the cursor is among rows that may have moved.
func (m *model) at(rows []*row) int {
	if m.picked {
		if i := slices.IndexFunc(rows, func(r *row) bool { return r.group == m.chosen }); i >= 0 {
			return i
		}
	}
	return max(0, min(m.cursor, len(rows)-1))
}

// moved is where a key leads from line `at` of n, a page at a time or to the ends.
func moved(at, n, page int, key string) (int, bool) {
	switch key {
	case "up", "k":
		at--
	case "down", "j":
		at++
	case "pgup", "ctrl+b":
		at -= page
	case "pgdown", "ctrl+f":
		at += page
	case "home", "g":
		at = 0
	case "end", "G":
		at = n - 1
	default:
		return at, false
	}
	return max(0, min(at, n-1)), true
}

// The lines above and below what scrolls.
const (
	headHeight = 4
	footHeight = 1
)

func (m *model) bodyHeight() int { return max(1, m.height-headHeight-footHeight) }

func (m *model) View() tea.View {
	v := tea.NewView(m.draw())
	v.AltScreen = true
	v.WindowTitle = "heaptap " + m.o.Title
	return v
}

// draw is the whole screen, line by line, none longer than the terminal is wide.
func (m *model) draw() string {
	var lines []string
	switch m.screen {
	case helpScreen:
		lines = m.drawHelp()
	case detailScreen:
		lines = m.detail.draw(m.width, m.height-footHeight)
	case treeScreen:
		lines = append(m.drawHead(), m.tree.draw(m.width, m.bodyHeight())...)
	default:
		lines = append(m.drawHead(), m.drawList()...)
	}
	for len(lines) < m.height-footHeight {
		lines = append(lines, "")
	}
	lines = append(lines[:max(0, m.height-footHeight)], m.drawFoot())
	for i, line := range lines {
		if lipgloss.Width(line) > m.width { // on terminals too narrow for the numbers
			lines[i] = lipgloss.NewStyle().MaxWidth(m.width).Render(line)
		}
	}
	return strings.Join(lines, "\n")
}

func (m *model) drawHead() []string {
	state := ""
	switch {
	case m.frozen:
		state = "frozen"
	case m.raw == nil:
		state = "looking"
	}
	title := "heaptap " + report.Printable(m.o.Title)
	lines := []string{bold.Render(pad(title, m.width-len(state)-1)) + " " + accent.Render(state)}
	all := &m.series.all
	if m.raw == nil {
		return append(lines, "", "", "")
	}
	rss := ""
	if n := len(m.raw.Timeline); n > 0 && m.raw.Timeline[n-1].RSS != heap.Unmeasured {
		rss = "  RSS " + report.Size(int64(m.raw.Timeline[n-1].RSS))
	}
	trend := 8 + max(0, min(m.width-80, 40))
	numbers := fmt.Sprintf(" live %s %s/s%s  alloc %s/s  %s blocks", report.Size(all.live),
		bytesASecond(all.growth, true), rss, bytesASecond(all.rate, false), report.Count(all.blocks))
	lines = append(lines, accent.Render(sparkline(all.trend, trend))+pad(numbers, m.width-trend))
	return append(lines, m.drawTabs(), dim.Render(pad(m.headings(), m.width)))
}

func (m *model) drawTabs() string {
	var b strings.Builder
	used := 0
	tab := func(i int, name string, on bool) {
		text := fmt.Sprintf(" %d %s ", i+1, name)
		used += len(text)
		if on {
			text = selected.Render(text)
		}
		b.WriteString(text)
	}
	for i, g := range groupings {
		tab(i, g.String(), m.screen == listScreen && i == m.by)
	}
	tab(len(groupings), "tree", m.screen == treeScreen)
	var notes []string
	if !m.filter.Everything() {
		notes = append(notes, "filter: "+m.filter.String())
	}
	if m.search != "" {
		notes = append(notes, "search: "+m.search)
	}
	if len(notes) > 0 {
		b.WriteString(accent.Render(pad("  "+report.Printable(strings.Join(notes, "   ")), max(0, m.width-used))))
	}
	return b.String()
}

func (m *model) drawFoot() string {
	switch {
	case m.entry.prompt != "":
		line := m.entry.prompt + m.entry.text + "▏"
		if m.message != "" {
			line += "   " + m.message
		}
		return bold.Render(pad(line, m.width))
	case m.message != "":
		return bold.Render(pad(report.Printable(m.message), m.width))
	}
	keys := "↑↓ ↵ stacks  tab view  t tree  s sort  / search  w filter  space freeze  ? help"
	switch m.screen {
	case treeScreen:
		keys = "↑↓  → open  ← close  * open all below  t list  w filter  space freeze  ? help"
	case detailScreen:
		keys = "↑↓ scroll  n p next, previous stack  esc back  space freeze  ? help"
	case helpScreen:
		keys = "any key goes back"
	}
	return dim.Render(pad(keys, m.width))
}

func (m *model) drawHelp() []string {
	text := `heaptap top: what is live where, as it changes

 1 2 3 4 5   by line, function, module, type or thread; tab: the next of these
 6 t         as a tree of calls, callers above; → opens a node, ← closes it,
             * opens all below it
 enter →     the stacks of a row, with their source; n p: the next, the previous
 ↑ ↓ j k     move; PgUp, PgDn, Home, End; esc: back
 s           sort by the next column
 /           search: rows that contain a text
 w           filter by an expression:
             type == "dict" && age > 60s && !(file ~ "site-packages")
 space       freeze the view; the process goes on
 d           take a snapshot to a file, for heaptap report
 + -         look less often, more often
 q           quit; tracking goes on

 LIVE        bytes allocated since the attach and not freed
 RATE        bytes allocated a second, whether they stay or not; ? is unknown
 GROWTH      bytes a second that stay
 TREND       LIVE over the last looks (on 100 columns and more)
`
	return strings.Split(text, "\n")
}
