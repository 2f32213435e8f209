package call

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
)

// soak is how much longer than by default a test runs: HEAPTAP_SOAK, at least 1.
func soak(t testing.TB) int {
	s := os.Getenv("HEAPTAP_SOAK")
	if s == "" {
		return 1
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("HEAPTAP_SOAK=%s", s)
	}
	return n
}

// payload is the code of testdata/payload.S, without the instructions that this processor has not.
func payload(t testing.TB) []byte {
	t.Helper()
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile("testdata/payload.S")
	if err != nil {
		t.Fatal(err)
	}
	text := string(src)
	for _, drop := range []struct{ flag, insn string }{
		{" avx ", "vzeroall"}, {" avx512bw ", "kxnorq"}, {" avx512f ", "vpternlogd"},
	} {
		if !strings.Contains(string(info), drop.flag) {
			text = strings.ReplaceAll(text, "\t"+drop.insn, "\t// "+drop.insn)
		}
	}
	dir := t.TempDir()
	asm, obj, bin := filepath.Join(dir, "p.S"), filepath.Join(dir, "p.o"), filepath.Join(dir, "p.bin")
	if err := os.WriteFile(asm, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"gcc", "-c", "-o", obj, asm}, {"objcopy", "-O", "binary", "-j", ".text", obj, bin}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	code, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// install maps an arena into the target and puts the payload there.
func (tg *target) install(pl *Plan, code []byte) arena {
	tg.t.Helper()
	var a arena
	_, err := pl.Borrow(deadline(tg.t), func(s *Session) (err error) {
		a, err = mapArena(s)
		return err
	})
	if err == nil {
		err = pl.memory.WriteAt(code, a.code)
	}
	if err != nil {
		tg.t.Fatal(err)
	}
	return a
}

// cycle is what the fidelity tests do with a borrowed thread: system calls from both places, and code.
func (a arena) cycle(s *Session, x uint64) error {
	if _, err := s.Syscall(unix.SYS_GETPPID); err != nil {
		return err
	}
	s.UseMemory(a.data, a.size)
	got, err := s.Run(a.code, x, 7)
	if err != nil {
		return err
	}
	if got != x+14 {
		return fmt.Errorf("payload returned %d, want %d", got, x+14)
	}
	_, err = s.Syscall(unix.SYS_GETTID)
	return err
}

// The functions that the fidelity tests call: where the arena's data begin, the test says where they are.
const (
	callGetpid = iota
	callSnprintf
	callUsleep
	callTable
)

// table writes the addresses of the functions that callCycle calls.
func (tg *target) table(pl *Plan, a arena) {
	tg.t.Helper()
	b := words(uint64(tg.function("getpid")), uint64(tg.function("snprintf")), uint64(tg.function("usleep")))
	if err := pl.memory.WriteAt(b, a.data); err != nil {
		tg.t.Fatal(err)
	}
}

// callCycle is what they do with functions: on the session's own memory, with all registers changed, with scratch memory,
// variadic with a vector register, sleeping, and often.
func (a arena) callCycle(s *Session, x uint64) error {
	m := s.plan.memory
	var fn [callTable]mem.Addr
	for i := range fn {
		var err error
		if fn[i], err = mem.Pointer(m, a.data+mem.Addr(8*i)); err != nil {
			return err
		}
	}
	r, err := s.Call(a.code, ints(x, 7))
	if err != nil || r.RAX != x+14 {
		return fmt.Errorf("payload returned %d, want %d, %w", r.RAX, x+14, err)
	}
	buf, err := s.Map(pageSize, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return err
	}
	if err := m.WriteAt([]byte("%.3f %s %lu\x00"), buf); err != nil {
		return err
	}
	args := ints(uint64(buf+100), 200, uint64(buf), uint64(buf), x)
	args.Vector[0], args.AL = f64(1.5), 1
	want := fmt.Sprintf("1.500 %%.3f %%s %%lu %d", x)
	text := make([]byte, len(want))
	if r, err = s.Call(fn[callSnprintf], args); err == nil {
		err = m.ReadAt(text, buf+100)
	}
	if err != nil || int(r.RAX) != len(want) || string(text) != want {
		return fmt.Errorf("snprintf: %d, %q, want %q, %w", r.RAX, text, want, err)
	}
	if r, err = s.Call(fn[callUsleep], ints(300)); err != nil || r.RAX != 0 {
		return fmt.Errorf("usleep: %d, %w", r.RAX, err)
	}
	for range 5 {
		if r, err = s.Call(fn[callGetpid], Args{}); err != nil || int(r.RAX) != s.plan.process.Pid {
			return fmt.Errorf("getpid: %d, %w", r.RAX, err)
		}
	}
	return nil
}

// TestRegisters borrows a thread that checks all its registers, again and again.
func TestRegisters(t *testing.T) {
	ctx := deadline(t)
	code := payload(t)
	bin := compile(t, "regs", "-mno-red-zone")
	for _, mode := range []string{"quiet", "storm", "altstack", "handler"} {
		t.Run(mode, func(t *testing.T) {
			var args []string
			if mode != "quiet" {
				args = append(args, mode)
			}
			tg := start(t, bin, args...)
			a := tg.install(tg.plan(Options{}), code)
			pl := tg.plan(Options{Tid: tg.second()})
			tg.table(pl, a)
			for i := range 700 * soak(t) {
				cycle := a.cycle
				if i%2 == 0 {
					cycle = a.callCycle
				}
				if _, err := pl.Borrow(ctx, func(s *Session) error { return cycle(s, uint64(i)) }); err != nil {
					t.Fatalf("borrowing %d: %v", i, err)
				}
			}
			answer := tg.do("check")
			t.Log(answer)
			if !strings.Contains(answer, " bad 0 ") {
				t.Error(answer)
			}
			tg.finish()
		})
	}
}

var errDie = errors.New("as if killed")

// die makes the tracer leave the borrowed thread as its death would: the kernel detaches where it stands.
func (s *Session) die() error {
	s.lost = errDie
	return errDie
}

// TestFrame leaves borrowed threads to restore themselves from the frame, and shows that each part of it is needed.
func TestFrame(t *testing.T) {
	ctx := deadline(t)
	code := payload(t)
	bin := compile(t, "regs", "-mno-red-zone")
	put32 := func(off func(f frame) int, v uint32) func(f frame) {
		return func(f frame) { binary.LittleEndian.PutUint32(f.bytes[off(f):], v) }
	}
	xsave := func(at int) func(f frame) int {
		return func(f frame) int {
			return int(mem.Addr(binary.LittleEndian.Uint64(f.bytes[frameFpstate:]))-f.at) + at
		}
	}
	last := func(f frame) int { return len(f.bytes) - 4 }
	for _, c := range []struct {
		name   string
		mutate func(f frame)
		breaks bool
	}{
		{"intact", nil, false},
		{"no first magic", put32(xsave(xsaveSoftware), 0), true},
		{"no second magic", put32(last, 0), true},
		{"no features", put32(xsave(xsaveEnd), 0), true},
		{"misaligned state", func(f frame) { f.bytes[frameFpstate] += 8 }, true},
		{"no state", func(f frame) { clear(f.bytes[frameFpstate:][:8]) }, true},
		{"no stack segment", func(f frame) { clear(f.bytes[frameSegs+6:][:2]) }, true},
		{"one register", func(f frame) { f.bytes[frameGregs] ^= 1 }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			tg := start(t, bin)
			a := tg.install(tg.plan(Options{}), code)
			pl := tg.plan(Options{Tid: tg.second()})
			var err error
			for range 200 {
				_, err = pl.Borrow(ctx, func(s *Session) error {
					s.UseMemory(a.data, a.size)
					if err := s.prepareFrame(); err != nil {
						return err
					}
					if c.mutate != nil {
						c.mutate(s.frame)
						if err := pl.memory.WriteAt(s.frame.bytes, s.frame.at); err != nil {
							return err
						}
					}
					if _, err := s.enter(a.code, &Args{}); err != nil {
						return err
					}
					return s.die()
				})
				if !errors.Is(err, errDie) {
					break
				}
			}
			if !c.breaks {
				if !errors.Is(err, errDie) {
					t.Fatal(err)
				}
				if answer := tg.do("check"); !strings.Contains(answer, " bad 0 ") {
					t.Error(answer)
				}
				tg.finish()
				return
			}
			if !errors.Is(err, errDie) {
				t.Logf("ended: %v", err)
				return
			}
			if answer := tg.do("check"); strings.Contains(answer, " bad 0 ") {
				t.Errorf("the frame was broken, but the target is not: %s", answer)
			}
		})
	}
}
