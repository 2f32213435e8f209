package heap

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// seen is what a matcher was asked about: what there is to tell to somebody whose filter found nothing.
type seen struct {
	stacks, types, domains, threads, processes []int64 // bytes by index; stacks by index + 1
	sizes, ages                                numbers
}

// numbers is the range in which numbers were.
type numbers struct {
	low, high int64
	some      bool
}

func (n *numbers) add(low, high int64) {
	if !n.some {
		n.low, n.high, n.some = low, high, true
		return
	}
	n.low, n.high = min(n.low, low), max(n.high, high)
}

func (x *seen) add(s *Snapshot, stack, typ, domain, thread, process int32, bytes int64) {
	tally(&x.stacks, stack+1, len(s.Stacks)+1, bytes)
	tally(&x.types, typ, len(s.Strings), bytes)
	tally(&x.domains, domain, len(s.Strings), bytes)
	tally(&x.threads, thread, len(s.Strings), bytes)
	tally(&x.processes, process, len(s.Strings), bytes)
}

func tally(table *[]int64, index int32, size int, bytes int64) {
	if int(index) >= len(*table) {
		*table = append(*table, make([]int64, max(size, int(index)+1)-len(*table))...)
	}
	(*table)[index] += bytes + 1 // a block of no bytes is something, too
}

func (x *seen) addRecord(s *Snapshot, r *Record, at *subject) {
	if r.Values().IsZero() {
		return
	}
	x.add(s, r.Stack, r.Type, r.Domain, r.Thread, r.Process, max(r.InuseBytes, r.AllocBytes, r.PeakBytes))
	if at.notLive {
		return
	}
	if at.ageTo >= 0 {
		x.ages.add(at.ageFrom, at.ageTo-1)
	}
	if at.sizeTo != math.MaxInt64 {
		x.sizes.add(at.sizeFrom, at.sizeTo)
	}
}

// noMatch says what there was.
func (m *Matcher) noMatch(open Values) error {
	e := &NoMatchError{Filter: m.f.String()}
	if text := openText(open); text != "" && open[InuseBlocks] > 0 {
		e.There = append(e.There, text)
	}
	m.f.all.tests(true, func(t *test, positive bool) {
		if text := m.seen.missed(m.s, t); positive && text != "" && !slices.Contains(e.There, text) {
			e.There = append(e.There, text)
		}
	})
	if len(e.There) == 0 {
		e.There = []string{"each of its conditions is met by some block, but all together by none"}
		if len(m.seen.stacks) == 0 {
			e.There = []string{"there are no blocks at all"}
		}
	}
	return e
}

// missed says what there was instead of what the test wanted; "" where some block passes it.
func (x *seen) missed(s *Snapshot, t *test) string {
	switch {
	case len(x.stacks) == 0:
		return ""
	case t.field.name == "size":
		return x.sizes.missed(t, "blocks have %d to %d bytes")
	case t.field.name == "age":
		return x.ages.missed(t, "blocks are between %d and %d seconds old")
	case t.field.axis == processAxis:
		return x.missedProcess(s, t)
	case t.field.value != textValue:
		return ""
	}
	names := x.names(s, t)
	for n := range names {
		if t.ofName(n) {
			return ""
		}
	}
	if t.field.frame && !t.anywhere && x.anywhere(s, t) {
		outer := *t
		outer.anywhere = true
		return fmt.Sprintf("nothing was allocated right there, but by what was called from there: %s", &outer)
	}
	return fmt.Sprintf("no %s is %s; %s", t.field.name, quote(t.text), nearOrLargest(t, names))
}

func (n numbers) missed(t *test, format string) string {
	if !n.some || within(t, n.low, n.high) != no {
		return ""
	}
	return fmt.Sprintf(format, n.low, n.high)
}

// missedProcess says which processes there are; "" where one of them passes.
func (x *seen) missedProcess(s *Snapshot, t *test) string {
	m := Matcher{s: s, process: s.processOf()}
	var there []string
	for i, bytes := range x.processes {
		if bytes == 0 {
			continue
		}
		if m.processTest(t, int32(i)) != no {
			return ""
		}
		there = append(there, cmp.Or(s.Text(int32(i)), m.process))
	}
	slices.Sort(there)
	if len(there) == 1 {
		return "it is a snapshot of process " + there[0]
	}
	if len(there) > shown {
		there = append(there[:shown:shown], fmt.Sprintf("%d more", len(there)-shown))
	}
	return "the processes are " + strings.Join(there, ", ")
}

// named is a text that a test looks at; of a module, whether it is own code.
type named struct {
	text string
	own  bool
}

// names are the texts that the test looks at, with bytes.
func (x *seen) names(s *Snapshot, t *test) map[named]int64 {
	names := map[named]int64{}
	labels := map[axis][]int64{typeAxis: x.types, domainAxis: x.domains, threadAxis: x.threads}[t.field.axis]
	for i, bytes := range labels {
		if bytes > 0 {
			names[named{text: s.Text(int32(i))}] += bytes
		}
	}
	if !t.field.frame {
		return names
	}
	frames := make([]named, len(s.Frames))
	for i, f := range s.Frames {
		frames[i] = t.nameIn(f)
	}
	for i, bytes := range x.stacks {
		if bytes == 0 || i == 0 {
			continue
		}
		n := int32(i - 1)
		if !t.anywhere {
			n = s.allocating(n)
		}
		for ; n != None; n = s.Stacks[n].Parent {
			names[frames[s.Stacks[n].Frame]] += bytes
			if !t.anywhere {
				break
			}
		}
	}
	return names
}

// nameIn is what of a frame a test of texts looks at.
func (t *test) nameIn(f Frame) named {
	switch t.field.name {
	case "func":
		return named{text: f.Func}
	case "file":
		return named{text: cmp.Or(f.File, f.Module)}
	}
	module, own := f.ModuleName()
	return named{module, own}
}

// ofName tells whether the test passes such a text.
func (t *test) ofName(n named) bool {
	if t.field.name == "module" {
		return t.ofModule(n.text, n.own)
	}
	return t.ofText(n.text)
}

// anywhere tells whether any frame of the stacks passes the test.
func (x *seen) anywhere(s *Snapshot, t *test) bool {
	outer := *t
	outer.anywhere = true
	for name := range x.names(s, &outer) {
		if t.ofName(name) {
			return true
		}
	}
	return false
}

// shown is how many names are told at most.
const shown = 5

// nearOrLargest lists the name that is nearest to what the test wants, or those with the most bytes.
func nearOrLargest(t *test, names map[named]int64) string {
	var list []string
	bytes := map[string]int64{}
	for n, b := range names {
		if bytes[n.text] == 0 && n.text != "" {
			list = append(list, n.text)
		}
		bytes[n.text] += b
	}
	if len(list) == 0 {
		return fmt.Sprintf("no block has a %s that is known", t.field.name)
	}
	slices.SortFunc(list, func(a, b string) int {
		return cmp.Or(cmp.Compare(bytes[b], bytes[a]), cmp.Compare(a, b))
	})
	if t.pattern != nil {
		tails := make([]string, len(list))
		for i, name := range list {
			tails[i] = tailLike(name, t.text, t.field.names)
		}
		if near := nearest(t.text, tails); near != "" {
			return "nearest is " + list[slices.Index(tails, near)]
		}
	}
	if len(list) > shown {
		list = append(list[:shown:shown], fmt.Sprintf("%d more", len(list)-shown))
	}
	return "there are " + strings.Join(list, ", ")
}

// tailLike cuts from the front of a name what the pattern does not name: of app.models.User, where the pattern has one
// part, User.
func tailLike(name, pattern string, kind textKind) string {
	mark := "."
	switch kind {
	case filePath:
		mark = "/"
	case threadName:
		name, _ = splitThread(name)
		return name
	case plainWord, moduleName:
		return name
	}
	parts := strings.Split(name, mark)
	return strings.Join(parts[max(0, len(parts)-1-strings.Count(pattern, mark)):], mark)
}

// openText says what a filter has left out since it could not decide.
func openText(open Values) string {
	switch {
	case open[InuseBlocks] > 0 && open[InuseBytes] == 0:
		return fmt.Sprintf("%d blocks of unknown age were left out", open[InuseBlocks])
	case open[InuseBlocks] > 0:
		return fmt.Sprintf("live blocks of %s bytes (%d) were left out: their labels do not tell ages or sizes closely "+
			"enough; a filter at the dump is exact", formatSize(open[InuseBytes]), open[InuseBlocks])
	case !open.IsZero():
		return "what was allocated or live at the peak is known by stack, not by type, age or size, and was left out"
	}
	return ""
}
