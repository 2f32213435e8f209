package inferior

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/cexpr"
)

// evaluate returns the results' texts.
func evaluate(t testing.TB, p *Process, o Options, expressions ...string) ([]string, *Evaluation, error) {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	e, err := p.Evaluate(deadline(t), expressions, o)
	var texts []string
	for _, r := range e.Outcomes {
		if r.Number == 0 {
			continue // void
		}
		text := r.Text
		if r.Errno != 0 {
			text += " " + unix.ErrnoName(syscall.Errno(r.Errno))
		}
		texts = append(texts, text)
	}
	return texts, e, err
}

// evaluates fails the test unless the expression comes to that.
func (tg *target) evaluates(expression, want string) {
	tg.t.Helper()
	texts, _, err := evaluate(tg.t, tg.Process, Options{}, expression)
	if got := strings.Join(texts, "; "); err != nil || got != want {
		tg.t.Errorf("%s = %s, %v; want %s", expression, got, err, want)
	}
}

// builds are the ways in which a C program comes: what needs no debug information has to do in all of them.
var builds = []struct {
	name     string
	compiler string
	flags    []string
}{
	{"dynamic", "gcc", nil},
	{"debug", "gcc", []string{"-g", "-no-pie"}},
	{"static", "gcc", []string{"-static"}},
	{"static-pie", "gcc", []string{"-static-pie"}},
	{"stripped", "gcc", []string{"-s", "-rdynamic"}},
	{"musl", "musl-gcc", nil},
	{"musl-static", "musl-gcc", []string{"-static"}},
}

func TestExpressions(t *testing.T) {
	t.Parallel()
	for _, b := range builds {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			tg := start(t, compile(t, b.compiler, b.flags...))
			tg.evaluates("getpid()", fmt.Sprint(tg.Pid()))
			tg.evaluates("(double)cos(1.0)", "0.54030230586813977")
			tg.evaluates(`(long)strlen("hello")`, "5")
			tg.evaluates("1 + 2 * 3", "7")
			tg.evaluates("counter", "41")
			tg.evaluates("*(char(*)[5])&greeting", `"hello"`)
			tg.evaluates("(int)add(40, (int)add(1, 1))", "42")
			tg.evaluates("(double)scale(2.0)", "5")
			tg.evaluates("(long)many(1, 2, 3, 4, 5, 6, 7, 8)", "891")
			tg.evaluates("(long)sum(3, 1L, 2L, 3L)", "6")
			tg.evaluates("(int)fail()", "-1 ENOENT")
			tg.evaluates("own", "7")
			tg.evaluates("*(int*)__errno_location()", "0") // what fail has set is not left behind
			tg.evaluates("(void)nothing(); counter", "42")
			tg.evaluates("counter = 41", "41")
			tg.evaluates("$a = (int)add(1, 2); $a * 2", "3; 6")
			tg.evaluates("(int)apply(add, 20, 3)", "23")
			tg.evaluates(`open("/there/is/no/such/file", 0)`, "-1 ENOENT")
			tg.evaluates("$rsp == 0", "0")
			if !strings.Contains(b.name, "musl") {
				tg.evaluates("malloc_trim(0) <= 1", "1")
			}
			tg.computes(1000)
		})
	}
}

// What only debug information tells: types of the program's own functions and variables.
func TestDebugInformation(t *testing.T) {
	t.Parallel()
	tg := startTarget(t, "-g")
	tg.evaluates("origin", "{x = 1.5, y = -2.5}")
	tg.evaluates("mirror(origin)", "{x = -1.5, y = 2.5}")
	tg.evaluates("make_pair(1, 2)", "{first = 1, second = 2}")
	tg.evaluates("make_large(5)", "{values = {5, 6, 7, 8, 9}}")
	tg.evaluates("make_large(5).values[4] + make_pair(1, 2).second", "11")
	tg.evaluates("operations[0](20, 3)", "23")
	tg.evaluates("subtract(20, 3)", "17")
	tg.evaluates("half(3)", "1.5")
	tg.evaluates("widen(1.25)", "2.5")
	tg.evaluates("is_even(2)", "true")
	tg.evaluates("narrow(300)", "44 ','")
	tg.evaluates("paint", "GREEN")
	tg.evaluates("(enum color)BLUE", "BLUE")
	tg.evaluates("sizeof(struct large)", "40")
	tg.evaluates("((struct point *)&origin)->y", "-2.5")
	texts, e, err := evaluate(t, tg.Process, Options{}, "say(buf(16), 16)")
	if err != nil || len(texts) != 1 || !strings.Contains(texts[0], `"said 41"`) {
		t.Errorf("say: %q, %v", texts, err)
	} else if b := e.Outcomes[0].Buffers; len(b) != 1 || string(b[0].Bytes[:8]) != "said 41\x00" {
		t.Errorf("say left %+v", b)
	}
	tg.computes(10)
}

// Functions that do not return as they should are told of, and the target goes on.
func TestCalleeFails(t *testing.T) {
	t.Parallel()
	tg := startTarget(t, "-g")
	fault := func(sig syscall.Signal) func(error) bool {
		return func(err error) bool {
			var f *call.FaultError
			return errors.As(err, &f) && f.Signal == sig
		}
	}
	as := func(target any) func(error) bool { return func(err error) bool { return errors.As(err, target) } }
	for _, c := range []struct {
		expression string
		is         func(error) bool
		text       string
	}{
		{"crash()", fault(unix.SIGSEGV), "crash: SIGSEGV"},
		{"illegal()", fault(unix.SIGILL), "illegal: SIGILL"},
		{"divide(1, 0)", fault(unix.SIGFPE), "divide: SIGFPE"},
		{"abort()", fault(unix.SIGABRT), "abort: SIGABRT"},
		{"stop_here()", fault(unix.SIGTRAP), "stop_here: SIGTRAP"},
		{"leave()", as(new(*call.ExitedError)), "leave: was about to end the process (status 3)"},
		{"forever()", as(new(*call.TimeoutError)), "forever: not done after"},
		{"spin()", as(new(*call.TimeoutError)), "spin: not done after"},
		{"((int (*)(void))16)()", fault(unix.SIGSEGV), "0x10: SIGSEGV"},
	} {
		o := Options{}
		if strings.Contains(c.text, "not done") {
			o.Timeout = 300 * time.Millisecond
		}
		texts, _, err := evaluate(t, tg.Process, o, "add(1, 1)", c.expression, "add(2, 2)")
		var callee *CalleeError
		if !c.is(err) || !errors.As(err, &callee) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.expression, err)
			continue
		}
		if len(texts) != 1 || texts[0] != "2" {
			t.Errorf("%s: before it %q", c.expression, texts)
		}
		if name := callee.Function; name != "0x10" && (len(callee.Frames) == 0 || callee.Frames[0].Module == nil) {
			t.Errorf("%s: no frames in %+v", c.expression, callee)
		}
		tg.computes(100)
	}
}

// An expression that cannot be evaluated is refused before anything is borrowed.
func TestRefused(t *testing.T) {
	t.Parallel()
	tg := startTarget(t, "-g")
	for expression, want := range map[string]any{
		"1 +":                   new(*cexpr.SyntaxError),
		"no_such_function(1)":   new(*cexpr.NotFoundError),
		"add(1, no_such_thing)": new(*cexpr.NotFoundError),
		"$nothere(1)":           nil,
		"$rax = 1":              new(*ReadOnlyRegisterError),
		"*(int *)8":             nil,
		"$xyz + 1":              nil,
	} {
		e, err := tg.Evaluate(deadline(t), []string{expression}, Options{})
		if err == nil || want != nil && !errors.As(err, want) {
			t.Errorf("%s: %v", expression, err)
		}
		if e == nil || e.Thread.Tid != 0 {
			t.Errorf("%s: a thread was borrowed", expression)
		}
	}
	if _, err := tg.Evaluate(deadline(t), []string{"1"}, Options{Thread: "nobody"}); !errors.As(err, new(*NoThreadError)) {
		t.Errorf("thread nobody: %v", err)
	}
	var near *cexpr.NotFoundError
	_, err := tg.Evaluate(deadline(t), []string{"substract(1, 2)"}, Options{})
	if !errors.As(err, &near) || !strings.Contains(strings.Join(near.Near, " "), "subtract") {
		t.Errorf("a name misspelt: %v", err)
	}
	tg.computes(10)
}

// Strings and buffers are gone after the call, or stay for good where that is asked for.
func TestKeep(t *testing.T) {
	t.Parallel()
	tg := startTarget(t, "-g")
	maps := func() int {
		m, err := tg.process.Maps()
		if err != nil {
			t.Fatal(err)
		}
		return len(m)
	}
	before := maps()
	tg.evaluates(`(long)strlen("gone")`, "4")
	if after := maps(); after != before {
		t.Errorf("%d mappings, %d before", after, before)
	}
	_, e, err := evaluate(t, tg.Process, Options{Keep: true}, `$s = "kept"; (long)strlen($s)`)
	if err != nil || len(e.Kept) == 0 {
		t.Fatalf("keep: %+v, %v", e, err)
	}
	tg.evaluates(fmt.Sprintf("*(char (*)[5])%#x", uint64(e.Kept[0].Addr)), `"kept"`)
}

// Each function is called with its own registers: the target's vector and x87 state is as it was.
func TestThreads(t *testing.T) {
	t.Parallel()
	tg := startTarget(t, "-g")
	waiting := tg.enter("read", 1)
	texts, e, err := evaluate(t, tg.Process, Options{Thread: "read"}, "gettid()")
	if err != nil || len(texts) != 1 || texts[0] != fmt.Sprint(waiting.Tid) || e.Thread != waiting {
		t.Errorf("gettid() in thread read: %q, %+v, %v", texts, e, err)
	}
	texts, _, err = evaluate(t, tg.Process, Options{Thread: fmt.Sprint(waiting.Tid), StopAll: true}, "gettid()")
	if err != nil || texts[0] != fmt.Sprint(waiting.Tid) {
		t.Errorf("gettid() in thread %d: %q, %v", waiting.Tid, texts, err)
	}
	tg.enter("read", 2)
	if _, _, err = evaluate(t, tg.Process, Options{Thread: "read"}, "gettid()"); !errors.As(err, new(*AmbiguousThreadError)) {
		t.Errorf("three threads of a name: %v", err)
	}
	tg.computes(10)
}
