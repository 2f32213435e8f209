package call

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
)

// function finds a function by name, in the program's symbol table or in what its C library exports.
func (tg *target) function(name string) mem.Addr { return tg.symbol(name, elf.STT_FUNC) }

func (tg *target) variable(name string) mem.Addr { return tg.symbol(name, elf.STT_OBJECT) }

func (tg *target) symbol(name string, kind elf.SymType) mem.Addr {
	tg.t.Helper()
	maps, err := tg.proc.Maps()
	if err != nil {
		tg.t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range maps {
		if m.Offset != 0 || m.Inode == 0 || seen[m.Path] {
			continue
		}
		seen[m.Path] = true
		f, err := elf.Open(m.Path)
		if err != nil {
			continue
		}
		defer f.Close()
		bias := m.Start
		if f.Type == elf.ET_EXEC {
			bias = 0
		}
		own, _ := f.Symbols()
		exported, _ := f.DynamicSymbols()
		for _, s := range append(own, exported...) {
			if s.Name == name && s.Section != elf.SHN_UNDEF && elf.ST_TYPE(s.Info) == kind {
				return bias + mem.Addr(s.Value)
			}
		}
	}
	tg.t.Fatalf("no symbol %s", name)
	return 0
}

func ints(v ...uint64) (a Args) {
	copy(a.Int[:], v)
	return a
}

func f64(v float64) (r [16]byte) {
	binary.LittleEndian.PutUint64(r[:], math.Float64bits(v))
	return r
}

func asF64(r [16]byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(r[:])) }

func words(v ...uint64) (b []byte) {
	for _, w := range v {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// TestCall calls functions of all shapes, with one session.
func TestCall(t *testing.T) {
	for _, compiler := range []string{"gcc", "musl-gcc"} {
		t.Run(compiler, func(t *testing.T) { testCall(t, compileBy(t, compiler, "functions")) })
	}
}

func testCall(t *testing.T, bin string) {
	tg := start(t, bin)
	pl := tg.plan(Options{Tid: tg.second()})
	fn := tg.function
	before := tg.settled()
	_, err := pl.Borrow(deadline(t), func(s *Session) error {
		call := func(name string, a Args) Result {
			t.Helper()
			r, err := s.Call(fn(name), a)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return r
		}
		a := ints(1, 10, 100, 1000, 10000, 100000)
		a.Stack = words(1000000, 10000000, 100000000)
		if r := call("ints", a); r.RAX != 987654321 {
			t.Errorf("ints: %d", r.RAX)
		}
		a = ints(7)
		for i := range a.Vector {
			a.Vector[i] = f64(math.Pow(10, float64(i)))
		}
		a.Stack = words(math.Float64bits(1e8), uint64(math.Float32bits(0.25)))
		if r := call("reals", a); asF64(r.XMM0) != 987654321+7+0.25 {
			t.Errorf("reals: %v", asF64(r.XMM0))
		}
		a = Args{Stack: append(words(0x8000000000000000), 0xff, 0x3f, 0, 0, 0, 0, 0, 0)} // 1 as a long double
		a.Vector[0] = f64(2.5)
		if r := call("extended", a); r.ST0 != [10]byte{7: 0xa0, 8: 0x00, 9: 0x40} {
			t.Errorf("extended: %x", r.ST0)
		}
		a = ints(2, 3, 4)
		a.Vector[0], a.Vector[1], a.AL = f64(0.5), f64(2), 2
		if r := call("variadic", a); asF64(r.XMM0) != 3*0.5+4*2 {
			t.Errorf("variadic: %v", asF64(r.XMM0))
		}
		if r := call("two_ints", ints(40)); r.RAX != 41 || r.RDX != 42 {
			t.Errorf("two_ints: %d, %d", r.RAX, r.RDX)
		}
		a = Args{}
		a.Vector[0] = f64(40)
		if r := call("two_reals", a); asF64(r.XMM0) != 41 || asF64(r.XMM1) != 42 {
			t.Errorf("two_reals: %v, %v", asF64(r.XMM0), asF64(r.XMM1))
		}
		if r := call("int_and_real", ints(40)); r.RAX != 41 || asF64(r.XMM0) != 40.5 {
			t.Errorf("int_and_real: %d, %v", r.RAX, asF64(r.XMM0))
		}
		if r := call("deep", ints(7000)); r.RAX != 7000 {
			t.Errorf("deep: %d", r.RAX)
		}
		if r := call("trashes", Args{}); r.RAX != 77 || r.XMM0[0] != 0xff {
			t.Errorf("trashes: %d", r.RAX)
		}
		if r := call("self", Args{}); int(r.RAX) != tg.second() {
			t.Errorf("called in thread %d", r.RAX)
		}
		return callInMemory(s, call)
	})
	if err != nil {
		t.Fatal(err)
	}
	tg.sound(before)
	tg.finish()
}

// callInMemory has calls that need scratch memory: a struct by value and in memory, the state at the entry.
func callInMemory(s *Session, call func(string, Args) Result) error {
	buf, err := s.Map(4096, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return err
	}
	a := ints(uint64(buf))
	a.Stack = words(1, 2, 3, 4, 5)
	if r := call("in_memory", a); r.RAX != uint64(buf) {
		return fmt.Errorf("in_memory returned %#x", r.RAX)
	}
	b, err := mem.Bytes(s.plan.memory, buf, 40)
	if err != nil || string(b) != string(words(2, 4, 6, 8, 10)) {
		return fmt.Errorf("in_memory: %x, %v", b, err)
	}
	for _, stack := range []int{0, 8, 16, 100, 70000} {
		a := ints(uint64(buf))
		a.Stack = make([]byte, stack)
		r := call("entered", a)
		b, err := mem.Bytes(s.plan.memory, buf, 40)
		if err != nil {
			return err
		}
		le := binary.LittleEndian
		sp, flags, mxcsr := le.Uint64(b), le.Uint64(b[8:]), le.Uint32(b[16:])
		control, tags := le.Uint16(b[24:]), le.Uint16(b[32:])
		if sp%64 != 56 || flags&(eflagsTrap|eflagsDirection) != 0 || mxcsr != 0x1f80 || control != 0x37f || tags != 0xffff ||
			r.RAX != 0 {
			return fmt.Errorf("entered with %d bytes of arguments: sp %#x flags %#x mxcsr %#x x87 %#x %#x, rbp %#x",
				stack, sp, flags, mxcsr, control, tags, r.RAX)
		}
	}
	return nil
}

func putInt(pl *Plan, at mem.Addr, v uint32) error {
	return pl.memory.WriteAt(binary.LittleEndian.AppendUint32(nil, v), at)
}

// TestKeepErrno: the thread's errno is as it was, also after a call that was abandoned.
func TestKeepErrno(t *testing.T) {
	tg := start(t, compile(t, "functions"))
	pl := tg.plan(Options{Tid: tg.second()})
	_, err := pl.Borrow(deadline(t), func(s *Session) error {
		r, err := s.Call(tg.function("where_errno"), Args{})
		if err != nil {
			return err
		}
		at := mem.Addr(r.RAX)
		if err := putInt(pl, at, 4711); err != nil {
			return err
		}
		if err := s.KeepErrno(at); err != nil {
			return err
		}
		r, err = s.Call(tg.function("fails"), ints(12))
		if err != nil || int32(r.RAX) != -1 || r.Errno != 12 {
			return fmt.Errorf("fails: %+v, %w", r, err)
		}
		if now, err := mem.U32(pl.memory, at); now != 4711 {
			return fmt.Errorf("errno is %d after the call, %w", now, err)
		}
		if err := putInt(pl, at, 1); err != nil {
			return err
		}
		var fe *FaultError
		if _, err := s.Call(tg.function("go_segv"), Args{}); !errors.As(err, &fe) {
			return err
		}
		if now, err := mem.U32(pl.memory, at); now != 4711 {
			return fmt.Errorf("errno is %d after the fault, %w", now, err)
		}
		return putInt(pl, at, 0)
	})
	if err != nil {
		t.Error(err)
	}
	tg.finish()
}

func faulted(sig syscall.Signal) func(error) bool {
	return func(err error) bool {
		var fe *FaultError
		return errors.As(err, &fe) && fe.Signal == sig && fe.PC == mem.Addr(fe.Regs.Rip)
	}
}

func exited(nr uint64, status int) func(error) bool {
	return func(err error) bool {
		var ee *ExitedError
		return errors.As(err, &ee) && ee.Nr == nr && (nr == unix.SYS_EXECVE || ee.Status == status)
	}
}

// TestFailures calls functions that go wrong, several times each: the thread goes on from where it was, and the process
// with it.
func TestFailures(t *testing.T) {
	for _, compiler := range []string{"gcc", "musl-gcc"} {
		t.Run(compiler, func(t *testing.T) { testFailures(t, compileBy(t, compiler, "functions"), compiler == "gcc") })
	}
}

func testFailures(t *testing.T, bin string, glibc bool) {
	for _, c := range []struct {
		function string
		is       func(error) bool
	}{
		{"go_segv", faulted(unix.SIGSEGV)},
		{"go_wild", faulted(unix.SIGSEGV)},
		{"go_ill", faulted(unix.SIGILL)},
		{"go_fpe", faulted(unix.SIGFPE)},
		{"go_bus", faulted(unix.SIGBUS)},
		{"go_abort", faulted(unix.SIGABRT)},
		{"go_throw", faulted(unix.SIGABRT)},
		{"go_trap", faulted(unix.SIGTRAP)},
		{"go_raise", faulted(unix.SIGSEGV)},
		{"go_overflow", faulted(unix.SIGSEGV)},
		{"go_exit", exited(unix.SYS_EXIT_GROUP, 3)},
		{"go__exit", exited(unix.SYS_EXIT_GROUP, 4)},
		{"go_exit_thread", exited(unix.SYS_EXIT, 5)},
		{"go_execve", exited(unix.SYS_EXECVE, 0)},
	} {
		if c.function == "go_throw" && !glibc {
			continue // it is not in there: no unwinder is built for musl
		}
		rounds := 10
		if !glibc && (c.function == "go_abort" || c.function == "go_exit") {
			rounds = 1 // musl has a lock in each, which the first call leaves held
		}
		t.Run(c.function, func(t *testing.T) {
			tg := start(t, bin)
			pl := tg.plan(Options{Tid: tg.second()})
			before := tg.settled()
			fn, self := tg.function(c.function), tg.function("self")
			for range rounds {
				_, err := pl.Borrow(deadline(t), func(s *Session) error {
					if _, err := s.Call(fn, Args{}); !c.is(err) {
						return fmt.Errorf("called: %w", err)
					}
					r, err := s.Call(self, Args{}) // and it can go on
					if err == nil && int(r.RAX) != tg.second() {
						err = fmt.Errorf("thread %d", r.RAX)
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				if answer := tg.do("check"); !strings.Contains(answer, " bad 0 jumped 0 ") {
					t.Fatal(answer)
				}
			}
			if c.function != "go_bus" { // which maps
				tg.sound(before)
			}
			tg.finish()
		})
	}
}

// TestPthreadExit ends a thread, which cannot be undone, and then tries to end the last one, and with it the process.
func TestPthreadExit(t *testing.T) {
	tg := start(t, compile(t, "functions"))
	fn := tg.function("go_pthread_exit")
	for _, c := range []struct {
		tid  int
		want ExitedError
	}{{tg.second(), ExitedError{Nr: unix.SYS_EXIT, Ended: true}}, {tg.proc.Pid, ExitedError{Nr: unix.SYS_EXIT_GROUP}}} {
		pl := tg.plan(Options{Tid: c.tid})
		_, err := pl.Borrow(deadline(t), func(s *Session) error {
			_, err := s.Call(fn, Args{})
			return err
		})
		var ee *ExitedError
		if !errors.As(err, &ee) || ee.Nr != c.want.Nr || ee.Ended != c.want.Ended {
			t.Fatalf("%v, want %+v", err, c.want)
		}
		if answer := tg.do("ping"); answer != "ok" {
			t.Error(answer)
		}
		for tids, err := tg.proc.Threads(); len(tids) != 1; tids, err = tg.proc.Threads() { // it is still ending
			if err != nil || t.Context().Err() != nil {
				t.Fatalf("threads %v, %v", tids, err)
			}
		}
	}
	tg.finish()
}

// TestAbandoned calls functions that do not end in time, in a thread that computes and in one that waits in read.
func TestAbandoned(t *testing.T) {
	bin := compile(t, "functions")
	for _, function := range []string{"go_wait", "go_lock", "go_spin", "go_calls"} {
		t.Run(function, func(t *testing.T) {
			tg := start(t, bin)
			before := tg.settled()
			for i := range 6 {
				pl := tg.plan(Options{Tid: []int{tg.proc.Pid, tg.second()}[i%2], Timeout: 100 * time.Millisecond})
				_, err := pl.Borrow(deadline(t), func(s *Session) error {
					_, err := s.Call(tg.function(function), Args{})
					return err
				})
				var te *TimeoutError
				if !errors.As(err, &te) || te.PC == 0 {
					t.Fatal(err)
				}
				tg.sound(before)
			}
			tg.finish()
		})
	}
}

// TestLongjmp: a function jumps out of the call. The program goes on from there, with its own signal mask.
func TestLongjmp(t *testing.T) {
	bin := compile(t, "functions")
	for _, function := range []string{"go_longjmp", "go_siglongjmp"} {
		t.Run(function, func(t *testing.T) {
			tg := start(t, bin)
			pl := tg.plan(Options{Tid: tg.second()})
			before := tg.settled()
			for i := range 5 {
				_, err := pl.Borrow(deadline(t), func(s *Session) error {
					_, err := s.Call(tg.function(function), Args{})
					var lj *LongjmpError
					if !errors.As(err, &lj) {
						return fmt.Errorf("called: %w", err)
					}
					if _, err := s.Call(tg.function("self"), Args{}); !errors.Is(err, errLeft) {
						return fmt.Errorf("called when it has left: %w", err)
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if answer := tg.do("check"); !strings.Contains(answer, fmt.Sprintf(" bad 0 jumped %d ", i+1)) {
					t.Fatal(answer)
				}
			}
			// The next borrowing gives back what the calls had mapped.
			if _, err := pl.Borrow(deadline(t), func(*Session) error { return nil }); err != nil {
				t.Error(err)
			}
			tg.sound(before)
			tg.finish()
		})
	}
}

// TestChildren calls functions that make processes and threads.
func TestChildren(t *testing.T) {
	tg := start(t, compile(t, "functions"))
	before := tg.settled()
	for _, opts := range []Options{{Tid: tg.second()}, {Tid: tg.second(), StopAll: true}} {
		pl := tg.plan(opts)
		_, err := pl.Borrow(deadline(t), func(s *Session) error {
			buf, err := s.Map(4096, unix.PROT_READ|unix.PROT_WRITE)
			if err != nil {
				return err
			}
			if err := pl.memory.WriteAt([]byte("exit 3\x00"), buf); err != nil {
				return err
			}
			// The program that it executes has the thread's mask, not a call's.
			if err := pl.memory.WriteAt([]byte("grep -q '^SigBlk:.*0000000000000000$' /proc/self/status\x00"), buf+100); err != nil {
				return err
			}
			r, err := s.Call(tg.function("go_system"), ints(uint64(buf+100)))
			if err != nil || r.RAX != 0 {
				return fmt.Errorf("mask of a child: %#x, %w", r.RAX, err)
			}
			r, err = s.Call(tg.function("go_system"), ints(uint64(buf)))
			if err != nil || int32(r.RAX) != 3<<8 {
				return fmt.Errorf("system: %#x, %w", r.RAX, err)
			}
			for _, how := range []string{"go_fork", "go_vfork"} {
				r, err := s.Call(tg.function(how), Args{})
				if err != nil || int32(r.RAX) <= 0 {
					return fmt.Errorf("%s: %d, %w", how, r.RAX, err)
				}
				r, err = s.Call(tg.function("go_reap"), ints(r.RAX))
				if err != nil || int32(r.RAX) != 0 {
					return fmt.Errorf("child of %s ended with %#x, %w", how, r.RAX, err)
				}
			}
			r, err = s.Call(tg.function("go_thread"), Args{})
			if err != nil || r.RAX != 0 {
				return fmt.Errorf("thread: %d, %w", r.RAX, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if answer := tg.do("check"); !strings.Contains(answer, " bad 0 jumped 0 ") {
			t.Fatal(answer)
		}
	}
	if after := tg.health(); fmt.Sprint(after.Masks) != fmt.Sprint(before.Masks) {
		t.Errorf("%v, were %v", after.Masks, before.Masks)
	}
	tg.finish()
}

// TestMap: scratch memory goes with the session, unless it is to be kept.
func TestMap(t *testing.T) {
	tg := start(t, compile(t, "functions"))
	before := tg.settled()
	for _, keep := range []bool{false, true} {
		pl := tg.plan(Options{Tid: tg.second(), Keep: keep})
		var at []mem.Addr
		_, err := pl.Borrow(deadline(t), func(s *Session) error {
			for i := range 10 {
				a, err := s.Map(uint64(1+i*5000), unix.PROT_READ|unix.PROT_WRITE)
				if err != nil {
					return err
				}
				at = append(at, a)
				if err := mem.PutU64(pl.memory, a, 1<<i); err != nil {
					return err
				}
			}
			_, err := s.Map(0, unix.PROT_READ)
			if !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("mapped nothing: %w", err)
			}
			_, err = s.Call(tg.function("self"), Args{})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if !keep {
			tg.sound(before)
		}
		for i, a := range at {
			v, err := mem.U64(pl.memory, a)
			if keep != (err == nil) || keep && v != 1<<i {
				t.Errorf("keep %v: %v holds %d, %v", keep, a, v, err)
			}
		}
	}
	tg.finish()
}

// TestNarrow calls a function in a process that may map little more than it has: on a smaller stack, or not at all.
func TestNarrow(t *testing.T) {
	tg := start(t, compile(t, "functions"))
	before := tg.settled()
	for _, c := range []struct {
		room uint64
		kib  uint64 // of stack that a function can use; 0: none can be called
	}{{4 << 20, 700}, {600 << 10, 150}, {100 << 10, 0}} {
		st, err := tg.proc.Status(tg.proc.Pid)
		if err != nil {
			t.Fatal(err)
		}
		limit := unix.Rlimit{Cur: st.VmSize + c.room, Max: unix.RLIM_INFINITY}
		if err := unix.Prlimit(tg.proc.Pid, unix.RLIMIT_AS, &limit, nil); err != nil {
			t.Fatal(err)
		}
		_, err = tg.plan(Options{Tid: tg.second()}).Borrow(deadline(t), func(s *Session) error {
			r, err := s.Call(tg.function("deep"), ints(c.kib))
			if c.kib == 0 {
				if !errors.Is(err, unix.ENOMEM) {
					return fmt.Errorf("called without room: %w", err)
				}
				return nil
			}
			if err != nil || r.RAX != c.kib {
				return fmt.Errorf("deep: %d, %w", r.RAX, err)
			}
			return nil
		})
		if err != nil {
			t.Errorf("room for %d KiB: %v", c.room>>10, err)
		}
		tg.sound(before)
	}
	tg.finish()
}

// TestCallRate measures calls on a held thread. It reports, and fails only far below what is promised, since the
// machine's load decides.
func TestCallRate(t *testing.T) {
	tg := start(t, compile(t, "functions"))
	pl := tg.plan(Options{Tid: tg.second()})
	fn := tg.function("getpid")
	const n = 3000
	_, err := pl.Borrow(deadline(t), func(s *Session) error {
		began := time.Now()
		for range n {
			if r, err := s.Call(fn, Args{}); err != nil || int(r.RAX) != tg.proc.Pid {
				return fmt.Errorf("getpid: %d, %w", r.RAX, err)
			}
		}
		rate := n / time.Since(began).Seconds()
		t.Logf("%.0f calls a second", rate)
		if rate < 500 {
			return fmt.Errorf("only %.0f calls a second", rate)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	tg.finish()
}
