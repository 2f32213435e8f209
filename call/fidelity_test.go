package call

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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

// TestRegisters borrows a thread that checks all its registers, again and again.
func TestRegisters(t *testing.T) {
	ctx := deadline(t)
	code := payload(t)
	bin := compile(t, "regs", "-mno-red-zone")
	for _, mode := range []string{"quiet", "storm"} {
		t.Run(mode, func(t *testing.T) {
			var args []string
			if mode != "quiet" {
				args = append(args, mode)
			}
			tg := start(t, bin, args...)
			a := tg.install(tg.plan(Options{}), code)
			pl := tg.plan(Options{Tid: tg.second()})
			for i := range 2000 * soak(t) {
				if _, err := pl.Borrow(ctx, func(s *Session) error { return a.cycle(s, uint64(i)) }); err != nil {
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
