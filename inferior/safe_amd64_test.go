package inferior

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/heaptap/heaptap/call"
)

// Threads that stand in the allocator, the loader, stdio and so on are not borrowed for functions that need these, are
// for functions that do not, and are as soon as they have left.
func TestSafePoints(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		state  string
		in     string // what the refusal names
		unsafe []string
		safe   []string
		build  []string
	}{
		{state: "malloc", in: "in malloc (target)", unsafe: []string{"malloc_trim(0)", "malloc(10)", "(int)add(1, 2)", `printf("")`},
			safe: []string{"getpid()", "(double)cos(1.0)", `(long)strlen("x")`}, build: []string{"-DOWN_MALLOC"}},
		{state: "stdio", in: "stdio", unsafe: []string{"fflush(stdout)", "(int)add(1, 2)", `fprintf(stderr, "")`},
			safe: []string{"getpid()", "malloc_usable_size(0)"}},
		{state: "loader", in: "in dl_iterate_phdr (libc.so.6)", unsafe: []string{`dlopen("libm.so.6", 2)`, "(int)add(1, 2)"},
			safe: []string{"getpid()", "(double)cos(1.0)"}},
		{state: "lock", safe: []string{"getpid()", "malloc_trim(0)", "(int)add(1, 2)"}}, // it waits, and holds nothing
		{state: "once", in: "pthread_once", unsafe: []string{"(int)add(1, 2)"}, safe: []string{"getpid()"}},
		{state: "handler", safe: []string{"getpid()", "malloc_trim(0)", "(int)add(1, 2)"}},
		{state: "callback", safe: []string{"malloc_trim(0)", "(int)add(1, 2)"}},
		{state: "read", safe: []string{"malloc_trim(0)", "(int)add(1, 2)", `printf("")`}},
	} {
		t.Run(c.state, func(t *testing.T) {
			t.Parallel()
			tg := startTarget(t, append(c.build, "-g")...)
			if c.state == "lock" {
				tg.do("lock")
			}
			tg.enter(c.state, 1)
			for _, e := range c.unsafe {
				o := Options{Thread: c.state, Timeout: 200 * time.Millisecond}
				_, _, err := evaluate(t, tg.Process, o, e)
				var busy *call.BusyError
				if !errors.As(err, &busy) || !strings.Contains(busy.Error(), c.in) {
					t.Errorf("%s in %s: %v, want a refusal that says %q", e, c.state, err, c.in)
				}
				if c.state == "loader" { // what is called there needs the loader not
					now := Options{Thread: c.state, When: call.Now}
					if got, _, err := evaluate(t, tg.Process, now, "(int)add(1, 2)"); err != nil || got[0] != "3" {
						t.Errorf("now: %q, %v", got, err)
					}
				}
				explained, err := tg.Explain(deadline(t), []string{e}, o)
				if explained == nil || !errors.As(err, &busy) {
					t.Errorf("explain %s in %s: %v", e, c.state, err)
				}
			}
			for _, e := range c.safe {
				if _, _, err := evaluate(t, tg.Process, Options{Thread: c.state}, e); err != nil {
					t.Errorf("%s in %s: %v", e, c.state, err)
				}
			}
			// Any thread: the first, which waits for input, can be used at once.
			for _, e := range c.unsafe {
				if _, got, err := evaluate(t, tg.Process, Options{}, e); err != nil || got.Thread.Name == c.state {
					t.Errorf("%s in any thread: %v in %v", e, err, got.Thread)
				}
			}
			tg.computes(100)
			if len(c.unsafe) > 0 {
				tg.waitsUntilItHasLeft(c.state)
			}
		})
	}
}

// waitsUntilItHasLeft makes a call in a thread that cannot be used now, and lets it go on meanwhile.
func (tg *target) waitsUntilItHasLeft(state string) {
	tg.t.Helper()
	looked := make(chan struct{})
	go func() {
		<-looked
		tg.in.Write([]byte("open\n"))
	}()
	once := false
	_, _, err := evaluate(tg.t, tg.Process, Options{Thread: state, Trace: func(s call.Step) {
		if !once {
			once = true
			close(looked)
		}
	}}, "(int)add(1, 2)")
	// The thread may have ended by then, which is a way to have left.
	if err != nil && !errors.Is(err, call.ErrNoThread) && !errors.As(err, new(*call.BusyError)) {
		tg.t.Errorf("wait for %s: %v", state, err)
	}
	if !once {
		close(looked)
	}
	tg.says("opened")
	tg.computes(10)
}

// The signal handler that has interrupted malloc holds what malloc does.
func TestHandlerOverMalloc(t *testing.T) {
	t.Parallel()
	tg := startTarget(t, "-DOWN_MALLOC", "-g")
	th := tg.enter("malloc", 1)
	p := tg.position(th, everything)
	if p.Holds&Allocator == 0 || !strings.Contains(p.Why, "malloc") {
		t.Errorf("in malloc: %+v", p)
	}
	p = tg.position(Thread{Tid: tg.Pid()}, everything)
	if p.Why != "" || p.Holds != 0 || p.End != nil {
		t.Errorf("the first thread: %q, holds %v, %v", p.Why, p.Holds, p.End)
	}
	if !strings.Contains(p.Safe(), "called from main") {
		t.Errorf("why it is safe: %s", p.Safe())
	}
}

// position judges a thread as it stands now.
func (tg *target) position(th Thread, needed Resources) Position {
	tg.t.Helper()
	job, err := tg.prepare(deadline(tg.t), []string{"1"}, Options{})
	if err != nil {
		tg.t.Fatal(err)
	}
	regs, err := tg.Registers(deadline(tg.t), th.Tid)
	if err != nil {
		tg.t.Fatal(err)
	}
	t := call.StoppedThread{Tid: th.Tid, PC: regs.General.PC(), SP: regs.General.SP(), Regs: regs.General}
	return job.machine.judge.position(t, th.Name, needed)
}

func TestNeeds(t *testing.T) {
	t.Parallel()
	tg := startTarget(t, "-g")
	job, err := tg.prepare(deadline(t), []string{"1"}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]Resources{
		"getpid": 0, "strlen": 0, "cos": 0, "malloc": Allocator, "fprintf": Allocator | Stdio,
		"dlopen": Allocator | Loader, "setenv": Allocator | Library, "add": everything, "qsort": everything,
	} {
		f, err := tg.table.symbols.Resolve(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := job.machine.judge.need(f.Name, f.Module); got != want {
			t.Errorf("%s needs %v, want %v", name, got, want)
		}
	}
	// A function of the program's own that is called like one of the C library's may be anything.
	main := tg.table.symbols.Modules()[0]
	if got := job.machine.judge.need("strlen", main); got != everything {
		t.Errorf("the program's strlen needs %v", got)
	}
	if h := job.machine.judge.hold(&Frame{Module: main, Function: "puts", Symbol: "puts"}); h != nil {
		t.Errorf("the program's puts holds %v", h.holds)
	}
}

func TestPlainName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"malloc": "malloc", "malloc@@GLIBC_2.2.5": "malloc", "_int_free.part.0": "_int_free", "exit.cold": "exit",
		"operator new(unsigned long)": "operator_new", "__GI___libc_free": "__libc_free", "": "",
		"tcmalloc::CentralFreeList::Populate()": "tcmalloc::CentralFreeList::Populate",
	} {
		if got := plainName(name); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
	p := parsePatterns("malloc mi_* *_unlocked")
	for name, want := range map[string]bool{"malloc": true, "mallocx": false, "mi_free": true, "fputs_unlocked": true, "": false} {
		if p.match(name) != want {
			t.Errorf("%q matches: %v", name, !want)
		}
	}
}
