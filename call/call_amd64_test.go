package call

import (
	"errors"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
)

// add7 is f(a, b, c, d, e, g) = a + 2b + 3c + 4d + 5e + 6g.
var add7 = []byte{
	0x48, 0x8d, 0x04, 0x77, // lea (%rdi,%rsi,2), %rax
	0x48, 0x8d, 0x14, 0x52, // lea (%rdx,%rdx,2), %rdx
	0x48, 0x01, 0xd0, // add %rdx, %rax
	0x48, 0x8d, 0x04, 0x88, // lea (%rax,%rcx,4), %rax
	0x4f, 0x8d, 0x04, 0x80, // lea (%r8,%r8,4), %r8
	0x4c, 0x01, 0xc0, // add %r8, %rax
	0x4f, 0x8d, 0x0c, 0x49, // lea (%r9,%r9,2), %r9
	0x4a, 0x8d, 0x04, 0x48, // lea (%rax,%r9,2), %rax
	0xc3, // ret
}

// arena is memory in a target that the tests use as an agent would.
type arena struct {
	code, data mem.Addr
	size       uint64
}

// mapArena maps code and data into the borrowed thread's process.
func mapArena(s *Session) (arena, error) {
	a := arena{size: 64 << 10}
	code, err := s.Syscall(unix.SYS_MMAP, 0, a.size, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON,
		^uint64(0), 0)
	if err != nil {
		return a, err
	}
	data, err := s.Syscall(unix.SYS_MMAP, 0, a.size, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANON, ^uint64(0), 0)
	a.code, a.data = mem.Addr(code), mem.Addr(data)
	return a, err
}

func (a arena) unmap(s *Session) error {
	_, err1 := s.Syscall(unix.SYS_MUNMAP, uint64(a.code), a.size)
	return err1
}

func TestBorrow(t *testing.T) {
	ctx := deadline(t)
	bin := compile(t, "threads")
	for _, threads := range []string{"1", "4"} {
		t.Run(threads, func(t *testing.T) {
			tg := start(t, bin, threads)
			pl := tg.plan(Options{})
			report, err := pl.Borrow(ctx, func(s *Session) error {
				pid, err := s.Syscall(unix.SYS_GETPID)
				if err != nil {
					return err
				}
				if int(pid) != tg.proc.Pid {
					t.Errorf("getpid gave %d, want %d", pid, tg.proc.Pid)
				}
				if _, err := s.Syscall(unix.SYS_CLOSE, 1<<20); !errors.Is(err, syscall.EBADF) {
					t.Errorf("close(1<<20): %v, want EBADF", err)
				}
				a, err := mapArena(s)
				if err != nil {
					return err
				}
				if err := pl.memory.WriteAt(add7, a.code); err != nil {
					return err
				}
				s.UseMemory(a.data, a.size)
				got, err := s.Run(a.code, 1, 10, 100, 1000, 10000, 100000)
				if err != nil {
					return err
				}
				if want := uint64(1 + 20 + 300 + 4000 + 50000 + 600000); got != want {
					t.Errorf("ran f, got %d, want %d", got, want)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", report)
			if got := tg.do("ping"); got != "ok" {
				t.Errorf("target answered %q", got)
			}
			tg.finish()
		})
	}
}

func TestFreeze(t *testing.T) {
	ctx := deadline(t)
	bin := compile(t, "threads")
	for _, threads := range []string{"1", "16", "256"} {
		t.Run(threads, func(t *testing.T) {
			tg := start(t, bin, threads)
			pl := tg.plan(Options{})
			var pauses []time.Duration
			for range 20 {
				report, err := pl.Freeze(ctx, func() error { return nil })
				if err != nil {
					t.Fatal(err)
				}
				pauses = append(pauses, report.Pause)
			}
			slices.Sort(pauses)
			t.Logf("pause: %v median, %v longest", pauses[len(pauses)/2], pauses[len(pauses)-1])
			report, err := pl.BorrowAll(ctx, func(s *Session, all []StoppedThread) error {
				for _, st := range all {
					if st.PC == 0 || st.SP == 0 {
						t.Errorf("%+v", st)
					}
				}
				_, err := s.Syscall(unix.SYS_GETPID)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", report)
			tg.do("ping")
			tg.finish()
		})
	}
}
