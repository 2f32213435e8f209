package heap

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// shop has blocks of several kinds; the number of bytes of each record is its name in the tests.
func shop() *Snapshot {
	s := &Snapshot{Info: []KeyValue{{InfoPid, "4711"}}}
	b := NewBuilder(s)
	main := Frame{Func: "<module>", File: "/srv/shop/server.py", Line: 120}
	get := Frame{Func: "Handler.get", File: "/srv/shop/server.py", Line: 42}
	keep := Frame{Func: "Sessions.remember", File: "/srv/shop/session.py", Line: 33}
	loads := Frame{Func: "JSONDecoder.decode", File: "/usr/lib/python3.11/json/decoder.py", Line: 345}
	frozen := Frame{Func: "_find_and_load", File: "<frozen importlib._bootstrap>", Line: 9}
	array := Frame{Func: "zeros", File: "/venv/lib/python3.11/site-packages/numpy/core/numeric.py", Line: 7}
	rec := func(bytes, size int64, stack int32, domain, thread, typ string, age int32) {
		s.Records = append(s.Records, Record{Stack: stack, Domain: b.Text(domain), Thread: b.Text(thread), Type: b.Text(typ),
			Age: age, MinSize: size, MaxSize: size, InuseBytes: bytes, InuseBlocks: max(1, bytes/size)})
	}
	rec(1000, 100, b.Stack(main, get, keep), "obj", "MainThread (4711)", "dict", 60)
	rec(2000, 50, b.Stack(main, get, keep), "obj", "worker (4712) and 2 before it", "app.models.User", 300)
	rec(3000, 3000, b.Stack(main, get, loads), "mem", "worker (4712)", "", 0)
	rec(400, 40, b.Stack(main, frozen), "obj", "MainThread (4711)", "str (utf8)", 3600)
	rec(50, 10, b.Stack(main, array), "obj", "MainThread (4711)", "numpy.ndarray", 5)
	rec(6, 6, None, "raw", "", "", UnknownAge)
	return s
}

// bytesOf are the records' bytes, which tell which they are.
func bytesOf(s *Snapshot) []int64 {
	var list []int64
	for i := range s.Records {
		list = append(list, s.Records[i].InuseBytes)
	}
	slices.Sort(list)
	return list
}

func TestFilter(t *testing.T) {
	where := func(w ...string) FilterSpec { return FilterSpec{Where: w} }
	for _, c := range []struct {
		spec FilterSpec
		want []int64
	}{
		{FilterSpec{}, []int64{6, 50, 400, 1000, 2000, 3000}},
		{FilterSpec{Type: []string{"dict"}}, []int64{1000}},
		{FilterSpec{Type: []string{"builtins.dict", "User"}}, []int64{1000, 2000}},
		{FilterSpec{Type: []string{"models.User"}}, []int64{2000}},
		{FilterSpec{Type: []string{"ndarray"}}, []int64{50}},
		{FilterSpec{Type: []string{"ndarray (data)"}}, nil},
		{FilterSpec{Type: []string{"str (utf8)"}}, []int64{400}},
		{FilterSpec{Type: []string{"s*r"}}, []int64{400}},
		{FilterSpec{Type: []string{"!User", "!dict"}}, []int64{6, 50, 400, 3000}},
		{FilterSpec{Type: []string{"-"}}, []int64{6, 3000}},
		{FilterSpec{Type: []string{"app.*"}}, []int64{2000}},
		{FilterSpec{Type: []string{"*arr?y"}}, []int64{50}},
		{FilterSpec{Func: []string{"decode"}}, []int64{3000}},
		{FilterSpec{Func: []string{"Handler.get"}}, nil},
		{FilterSpec{File: []string{"session.py"}}, []int64{1000, 2000}},
		{FilterSpec{File: []string{"shop/"}}, []int64{1000, 2000}},
		{FilterSpec{File: []string{"/srv/shop"}}, []int64{1000, 2000}},
		{FilterSpec{File: []string{"/srv/*/session.py"}}, []int64{1000, 2000}},
		{FilterSpec{File: []string{"python3.*"}}, []int64{50, 3000}},
		{FilterSpec{File: []string{"site-packages/**/numeric.py"}}, []int64{50}},
		{FilterSpec{File: []string{"-"}}, []int64{6}},
		{FilterSpec{Module: []string{"json"}}, []int64{3000}},
		{FilterSpec{Module: []string{"decoder"}}, nil},
		{FilterSpec{Module: []string{"json.decoder", "numpy"}}, []int64{50, 3000}},
		{FilterSpec{Module: []string{"num*"}}, []int64{50}},
		{FilterSpec{Module: []string{"shop"}}, []int64{1000, 2000}},
		{FilterSpec{Module: []string{"importlib"}}, []int64{400}},
		{FilterSpec{Thread: []string{"MainThread"}}, []int64{50, 400, 1000}},
		{FilterSpec{Thread: []string{"4712"}}, []int64{2000, 3000}},
		{FilterSpec{Thread: []string{"work*"}}, []int64{2000, 3000}},
		{FilterSpec{Domain: []string{"raw", "mem"}}, []int64{6, 3000}},
		{FilterSpec{Domain: []string{"!obj"}}, []int64{6, 3000}},
		{FilterSpec{MinSize: []string{"50"}}, []int64{1000, 2000, 3000}},
		{FilterSpec{MinSize: []string{"41"}, MaxSize: []string{"1K"}}, []int64{1000, 2000}},
		{FilterSpec{MinSize: []string{"!50"}}, []int64{6, 50, 400}},
		{FilterSpec{Older: []string{"1m"}}, []int64{400, 1000, 2000}},
		{FilterSpec{Newer: []string{"1m"}}, []int64{50, 3000}},
		{FilterSpec{Own: true}, []int64{1000, 2000}},
		{FilterSpec{Own: true, Type: []string{"dict"}, Older: []string{"30s"}}, []int64{1000}},

		{where(`type == "dict" && age > 60s && size >= 100 && !(file ~ "site-packages")`), []int64{1000}},
		{where(`type == "dict" || type == "str" && size < 50`), []int64{400, 1000}},
		{where(`(type == "dict" || type == "str") && size < 50`), []int64{400}},
		{where(`type ~ "^(dict|str)"`), []int64{400, 1000}},
		{where(`type !~ "[a-z]"`), []int64{6, 3000}},
		{where(`type != "dict"`), []int64{6, 50, 400, 2000, 3000}},
		{where(`stack.func == "Handler.get"`), []int64{1000, 2000, 3000}},
		{where(`stack.file != "session.py"`), []int64{6, 50, 400, 3000}},
		{where(`!stack.own`), []int64{6}},
		{where(`stack.line == 42 && line != 33`), []int64{3000}},
		{where(`depth == 0`), []int64{6}},
		{where(`depth > 2`), []int64{1000, 2000, 3000}},
		{where(`blocks >= 10`), []int64{400, 1000, 2000}},
		{where(`blocks > 40 && type == "dict"`), nil},
		{where(`blocks >= 10 && type == "dict"`), []int64{1000}},
		{where(`blocks > 5 || func == "decode"`), []int64{400, 1000, 2000, 3000}},
		{where(`pid == 4711 && domain == "raw"`), []int64{6}},
		{where(`pid != 4711`), nil},
		{where(`size == 50`), []int64{2000}},
		{where(`age < 1h`, `domain ~ 'o'`), []int64{50, 1000, 2000}},
		{where("type == `dict`"), []int64{1000}},
		{where(`!!(own)`), []int64{1000, 2000}},
	} {
		f, err := ParseFilter(c.spec)
		if err != nil {
			t.Errorf("%+v: %v", c.spec, err)
			continue
		}
		got, err := f.Apply(shop())
		if len(c.want) == 0 {
			if none := new(NoMatchError); !errors.As(err, &none) || len(none.There) == 0 {
				t.Errorf("%v: error %v, want a NoMatchError that says what there is", f, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", f, err)
			continue
		}
		if diff := gocmp.Diff(c.want, bytesOf(got)); diff != "" {
			t.Errorf("%v: want (-), got (+):\n%s", f, diff)
		}
		if err := got.Check(); err != nil {
			t.Errorf("%v: %v", f, err)
		}
		again, err := ParseFilter(FilterSpec{Where: []string{f.String()}})
		if !f.Everything() && (err != nil || again.String() != f.String()) {
			t.Errorf("%v is read as %v, %v", f, again, err)
		}
	}
}

func TestFilterErrors(t *testing.T) {
	where := func(w string) FilterSpec { return FilterSpec{Where: []string{w}} }
	for _, c := range []struct {
		spec FilterSpec
		at   int
		want string
	}{
		{where(``), 0, "--where: an expression is missing"},
		{where(`type = "dict"`), 5, "--where: one of == != ~ !~ should be here; equality is written =="},
		{where(`typ == "dict"`), 0, `--where: there is no field "typ"; did you mean type?`},
		{where(`colour == "red"`), 0, `there is no field "colour"; there are type, module,`},
		{where(`type == dict`), 8, `a text stands in quotes: type == "dict"`},
		{where(`type == "dict`), 8, `this text has no closing "`},
		{where(`(type == "dict"`), 0, "this parenthesis is not closed"},
		{where(`type == "dict") `), 14, "&& or || should be here"},
		{where(`type == "dict" and size > 3`), 15, "&& or || should be here; and is written &&"},
		{where(`type == "dict" & size > 3`), 15, "and is written &&"},
		{where(`type == "dict" &&`), 17, "it ends where a field should be"},
		{where(`type ~ "["`), 7, `"[" is no regular expression: missing closing ]`},
		{where(`type > "a"`), 5, "one of == != ~ !~ should be here"},
		{where(`size ~ 3`), 5, "one of == != < <= > >= should be here"},
		{where(`size > "3"`), 7, "size is compared with a number, without quotes"},
		{where(`size > 3parsecs`), 7, `"3parsecs" is not a size (for example 512KiB or 1M)`},
		{where(`age > 5MiB`), 6, `"5MiB" is not an age (for example 90s, 5m, 2h, 1d or 1h30m)`},
		{where(`age > 99999999999s`), 6, "is not an age"},
		{where(`depth > 1.5`), 8, `"1.5" is not a whole number`},
		{where(`stack.size > 5`), 0, "size is no property of the frames of a stack"},
		{where(`type == ""`), 8, `no type has an empty name; "-" stands for none`},
		{where(`domain == "heap"`), 10, `there is no domain "heap"; there are raw, mem, obj, malloc, mmap`},
		{where(`type == "ä" § own`), 13, `"§" means nothing here`},
		{where(strings.Repeat("(", 300)), 200, "more than 200 levels"},
		{where(`blocks > 5 || type == "dict"`), 0, "blocks is the number of blocks of a stack"},
		{FilterSpec{Domain: []string{"!heap"}}, 1, "--domain: there is no domain"},
		{FilterSpec{MinSize: []string{"ten"}}, 0, `--min-size: "ten" is not a size`},
		{FilterSpec{Older: []string{"!5x"}}, 1, `--older: "5x" is not an age`},

		{where(`age > 5m && age < 1m`), 0, "no age is > 5m and < 1m"},
		{FilterSpec{Older: []string{"5m"}, Newer: []string{"1m"}}, 0, "filter: no age is >= 5m and < 1m"},
		{FilterSpec{MinSize: []string{"1M"}, MaxSize: []string{"1K"}}, 0, "filter: no size is >= 1MiB and <= 1KiB"},
		{where(`size < 0`), 0, "no size is < 0"},
		{where(`size == 3 && size != 3`), 0, "nothing can be both size == 3 and"},
		{where(`type == "dict" && type == "list"`), 0, `no type is both == "dict" and == "list"`},
		{where(`type == "dict" && type != "builtins.dict"`), 0, `no type is both == "dict" and != "builtins.dict"`},
		{where(`own && !own`), 0, "nothing can be both own and !own"},
		{where(`domain == "raw" && domain == "obj"`), 0, `no domain is == "raw" and == "obj"; there are raw,`},
		{where(`domain ~ "x"`), 0, `no domain is ~ "x"`},
		{where(`!(domain ~ ".*")`), 0, `no domain is !~ ".*"`},
		{where(`(type == "a" || type == "b") && age > 5m && !(age > 1m)`), 0, "no age is > 5m and"},
	} {
		f, err := ParseFilter(c.spec)
		wrong := new(FilterError)
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: filter %v, error %v, want %q", c.spec, f, err, c.want)
			continue
		}
		if wrong.Offset != c.at {
			t.Errorf("%+v: error at %d, want %d", c.spec, wrong.Offset, c.at)
		}
	}
}

// Filters that look impossible but are not.
func TestFilterPossible(t *testing.T) {
	for _, w := range []string{
		`type == "User" && type == "models.User"`, `type == "a*" && type == "*b"`, `file == "a" && file == "b"`,
		`age >= 5m && age < 301s`, `size > 3 && size < 5`, `stack.line == 3 && stack.line == 4`,
		`type == "User" && type != "other.User"`, `(age > 5m && age < 1m) || own`, `age == 60s && age >= 60s`,
		`thread == "worker" && thread == "4711"`, `size >= 0`, `domain != "raw" && domain != "obj"`, `size != 0`,
	} {
		if _, err := ParseFilter(FilterSpec{Where: []string{w}}); err != nil {
			t.Errorf("%s: %v", w, err)
		}
	}
}

func TestNoMatchSaysWhatThereIs(t *testing.T) {
	for _, c := range []struct {
		where string
		want  []string
	}{
		{`type == "dcit"`, []string{`no type is "dcit"; nearest is dict`}},
		{`type == "Uesr"`, []string{`no type is "Uesr"; nearest is app.models.User`}},
		{`type == "Elephant"`, []string{`no type is "Elephant"; there are app.models.User, dict, str (utf8), numpy.ndarray`}},
		{`file == "sesion.py"`, []string{`no file is "sesion.py"; nearest is /srv/shop/session.py`}},
		{`func == "Handler.get"`, []string{"nothing was allocated right there, but by what was called from there: " +
			`stack.func == "Handler.get"`}},
		{`module == "nmpy"`, []string{`no module is "nmpy"; there are srv.shop.session, json.decoder, ` +
			"importlib._bootstrap, numpy.core.numeric"}},
		{`thread == "wroker"`, []string{`no thread is "wroker"; nearest is worker (4712)`}},
		{`age > 2d`, []string{"live blocks of 6 bytes (1) were left out: their labels do not tell ages or sizes " +
			"closely enough; a filter at the dump is exact", "blocks are between 0 and 7199 seconds old"}},
		{`size > 1MiB`, []string{"blocks have 6 to 3000 bytes"}},
		{`pid == 12`, []string{"it is a snapshot of process 4711"}},
		{`type == "dict" && domain == "raw"`, []string{"each of its conditions is met by some block, but all together by none"}},
		{`domain == "mmap"`, []string{`no domain is "mmap"; there are obj, mem, raw`}},
	} {
		f, err := ParseFilter(FilterSpec{Where: []string{c.where}})
		if err != nil {
			t.Errorf("%s: %v", c.where, err)
			continue
		}
		_, err = f.Apply(shop())
		none := new(NoMatchError)
		if !errors.As(err, &none) {
			t.Errorf("%s: error %v", c.where, err)
			continue
		}
		if diff := gocmp.Diff(c.want, none.There); diff != "" {
			t.Errorf("%s: want (-), got (+):\n%s", c.where, diff)
		}
	}
	f, err := ParseFilter(FilterSpec{Own: true})
	if err != nil {
		t.Fatal(err)
	}
	none := new(NoMatchError)
	if _, err := f.Apply(&Snapshot{}); !errors.As(err, &none) || !slices.Equal(none.There, []string{"there are no blocks at all"}) {
		t.Errorf("an empty snapshot: %v, %v", err, none.There)
	}
}

// A label that leaves the answer open is neither kept nor forgotten.
func TestFilterUndecided(t *testing.T) {
	for _, c := range []struct {
		where, want string
		kept        []int64
	}{
		{`age > 90s`, "live blocks of 1000 bytes (10) were left out", []int64{400, 2000}}, // 60 s to 2 min
		{`!(age > 90s)`, "live blocks of 1000 bytes (10) were left out", []int64{50, 3000}},
		{`age > 90s || type == "dict"`, "", []int64{400, 1000, 2000}},
		{`size > 70 && domain == "obj"`, "", []int64{1000}},
	} {
		s := shop()
		s.Records = s.Records[:5] // the sixth has no age at all
		f, err := ParseFilter(FilterSpec{Where: []string{c.where}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.Apply(s)
		if err != nil {
			t.Errorf("%s: %v", c.where, err)
			continue
		}
		if diff := gocmp.Diff(c.kept, bytesOf(got)); diff != "" {
			t.Errorf("%s: %s", c.where, diff)
		}
		said := ""
		for _, kv := range got.Info {
			if kv.Key == InfoUndecided {
				said = kv.Value
			}
		}
		if !strings.HasPrefix(said, c.want) || c.want == "" && said != "" {
			t.Errorf("%s: says %q, want %q", c.where, said, c.want)
		}
	}
	// Sizes between the smallest and the largest of a record.
	s := &Snapshot{Records: []Record{
		{Stack: None, Age: 0, MinSize: 10, MaxSize: 90, InuseBytes: 100, InuseBlocks: 2},
		{Stack: None, Age: 0, InuseBytes: 30, InuseBlocks: 1},  // one block: its size is known
		{Stack: None, Age: 0, InuseBytes: 300, InuseBlocks: 4}, // nothing is known
		{Stack: None, Age: UnknownAge, AllocBytes: 7, AllocBlocks: 1},
	}}
	for where, want := range map[string][]int64{
		`size < 91 && age < 1s`: {30, 100}, `size >= 30`: {30}, `size == 30`: {30}, `depth == 0`: {0, 30, 100, 300},
	} {
		f, err := ParseFilter(FilterSpec{Where: []string{where}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.Apply(s)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(want, bytesOf(got)); diff != "" {
			t.Errorf("%s: %s", where, diff)
		}
	}
}

// plainly judges a block by the expression as it stands, without memory.
func plainly(e *expr, m *Matcher, at *subject) bool {
	switch e.op {
	case opNot:
		return !plainly(e.kids[0], m, at)
	case opAnd:
		return !slices.ContainsFunc(e.kids, func(k *expr) bool { return !plainly(k, m, at) })
	case opOr:
		return slices.ContainsFunc(e.kids, func(k *expr) bool { return plainly(k, m, at) })
	}
	if e.test.anywhere {
		one := *e.test
		one.anywhere = false
		for n := at.stack; n != None; n = m.s.Stacks[n].Parent {
			if one.ofFrame(m.s.Frames[m.s.Stacks[n].Frame]) {
				return true
			}
		}
		return at.stack == None && one.ofFrame(Frame{})
	}
	return m.test(newJudge(e), at) == yes
}

// randomExpression makes an expression that has something to do with the snapshots of synthetic.
func randomExpression(rng *rand.Rand, depth int) string {
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	if depth > 0 && rng.IntN(3) > 0 {
		left, right := randomExpression(rng, depth-1), randomExpression(rng, depth-1)
		return pick("("+left+" && "+right+")", "("+left+" || "+right+")", "!("+left+")")
	}
	n := rng.IntN(300)
	return pick(
		fmt.Sprintf(`type == "Type%d"`, n%40), fmt.Sprintf(`type ~ "%d"`, n%10),
		fmt.Sprintf(`%sfunc == "Class%d.*"`, pick("", "stack."), n), fmt.Sprintf(`%sfile ~ "module%d"`, pick("", "stack."), n%30),
		fmt.Sprintf(`%smodule == "package%d"`, pick("", "stack."), n%20), fmt.Sprintf(`thread == "worker-%d"`, n%8),
		fmt.Sprintf(`domain == "%s"`, pick("raw", "mem", "obj")), fmt.Sprintf(`size %s %d`, pick("<", ">=", "=="), n*4),
		fmt.Sprintf(`age %s %ds`, pick("<", ">", ">=", "=="), n), fmt.Sprintf(`depth > %d`, n%40), `own`,
		fmt.Sprintf(`%sline < %d`, pick("", "stack."), n*10), `pid == 4711`)
}

// The matcher, with all that it remembers, against the plainest way to judge; and Apply on records that hold one block
// each against the matcher.
func TestMatcherOracle(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s := synthetic(300, 20, 2000)
	s.Info = append(s.Info, KeyValue{InfoPid, "4711"})
	for i := range s.Records {
		r := &s.Records[i]
		r.SetValues(Values{InuseBytes: int64(16 * (1 + rng.IntN(64))), InuseBlocks: 1})
		r.MinSize, r.MaxSize = r.InuseBytes, r.InuseBytes
		r.Age = 64 + int32(rng.IntN(40)) // no bounds of buckets: exact
		if rng.IntN(50) == 0 {
			r.Stack = None
		}
	}
	for range 300 {
		source := randomExpression(rng, 3)
		f, err := ParseFilter(FilterSpec{Where: []string{source}})
		if err != nil {
			continue // it happens to be impossible
		}
		m := f.On(s)
		passed := 0
		for i := range s.Records {
			r := &s.Records[i]
			got := m.Block(&Block{Stack: r.Stack, Domain: r.Domain, Thread: r.Thread, Type: r.Type, Age: r.Age,
				Size: uint64(r.InuseBytes)})
			at := subjectOf(r, false)
			if want := plainly(f.all, m, &at); got != want {
				t.Fatalf("%s: record %d (%+v, %+v): %v, want %v", source, i, *r, s.Callers(r.Stack), got, want)
			}
			if got {
				passed++
			}
		}
		kept, err := f.Apply(s)
		switch none := new(NoMatchError); {
		case errors.As(err, &none):
			if passed > 0 {
				t.Fatalf("%s: %v, though %d blocks pass", source, err, passed)
			}
		case err != nil:
			t.Fatal(err)
		case len(kept.Records) != passed:
			t.Fatalf("%s: Apply keeps %d records, %d blocks pass", source, len(kept.Records), passed)
		}
	}
}

// FuzzFilter: no text makes the parser panic; what it accepts says of itself what it accepts again; judging by it ends.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{
		`type == "dict" && age > 60s && size >= 1KiB && !(file ~ "site-packages")`, `!own || stack.own`, `((`, `"`,
		`blocks > 5 && line != 3`, `type == "a\"b\\c*?"`, `age < 1h30m || age == 1w`, `domain != 'raw'`, "module == `x`",
		`pid == 9223372036854775807 && depth <= 9223372036854775807`, `line > 9223372036854775807`, `size<=0`,
	} {
		f.Add(seed)
	}
	s := shop()
	f.Fuzz(func(t *testing.T, source string) {
		filter, err := ParseFilter(FilterSpec{Where: []string{source}})
		if err != nil {
			wrong := new(FilterError)
			if !errors.As(err, &wrong) || wrong.Offset < 0 || wrong.Offset > len(wrong.Source) || strings.Contains(wrong.Reason, "\n") &&
				!strings.Contains(source, "\n") {
				t.Fatalf("%q: %#v", source, err)
			}
			return
		}
		again, err := ParseFilter(FilterSpec{Where: []string{filter.String()}})
		if err != nil || again.String() != filter.String() {
			t.Fatalf("%q says %q, which is read as %v, %v", source, filter, again, err)
		}
		one, errOne := filter.Apply(s)
		two, errTwo := again.Apply(s)
		if (errOne == nil) != (errTwo == nil) || errOne == nil && !slices.Equal(bytesOf(one), bytesOf(two)) {
			t.Fatalf("%q and %q differ", source, filter)
		}
	})
}

// A million blocks through a filter that looks at everything.
func BenchmarkMatcher(b *testing.B) {
	s := synthetic(20_000, 30, 1_000_000)
	f, err := ParseFilter(FilterSpec{Where: []string{
		`type != "Type3" && age > 10s && size >= 64 && !(stack.file ~ "module77") && thread == "worker-*"`}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		m := f.On(s)
		passed := 0
		for i := range s.Records {
			r := &s.Records[i]
			if m.Block(&Block{Stack: r.Stack, Domain: r.Domain, Thread: r.Thread, Type: r.Type, Age: r.Age, Size: 100}) {
				passed++
			}
		}
		if passed == 0 || passed == len(s.Records) {
			b.Fatal(passed)
		}
	}
}
