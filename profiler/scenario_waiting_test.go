package profiler

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/internal/pytarget"
)

// fifos are how a test speaks with a thread of the target that waits and does not answer requests.
type fifos struct {
	t           *testing.T
	path        string // what the programs get
	asked, said *os.File
}

func makeFifos(t *testing.T, name string) fifos {
	t.Helper()
	f := fifos{t: t, path: filepath.Join(t.TempDir(), name)}
	open := func(end string) *os.File {
		if err := unix.Mkfifo(f.path+end, 0o600); err != nil {
			t.Fatal(err)
		}
		// For both: so that neither side waits for the other to open it.
		file, err := os.OpenFile(f.path+end, os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		return file
	}
	f.asked, f.said = open(".asked"), open(".said")
	return f
}

func (f fifos) ask() {
	f.t.Helper()
	if _, err := f.asked.WriteString("\n"); err != nil {
		f.t.Fatal(err)
	}
}

// hear waits until the target says something.
func (f fifos) hear() {
	f.t.Helper()
	deadline := time.Now().Add(time.Minute)
	if d, ok := f.t.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := f.said.SetReadDeadline(deadline); err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.said.Read(make([]byte, 1)); err != nil {
		f.t.Fatalf("the target says nothing: %v", err)
	}
}

// heaptap comes while the main thread waits, in Python or in C, with or without the GIL, and does not move; what another
// thread allocates meanwhile is there, and what the main thread allocates when it has woken up, from the stack
// that it had all the time.
func TestScenarioIdleMain(t *testing.T) {
	t.Parallel()
	library := outside(t)
	for _, in := range staged(t) {
		for _, c := range []struct {
			name  string
			waits string // Python, from wait
			wake  func(t *testing.T, tg *pytarget.Target, f fifos)
			want  []string
		}{
			{"input", "deep(3, waiting_in, wait_in_input, PATH)", func(_ *testing.T, _ *pytarget.Target, f fifos) { f.ask() },
				[]string{"raw 1 x 710000: leaf < waiting_in < deep*4"}},
			{"accept", "deep(3, waiting_in, wait_in_accept, PATH)", func(t *testing.T, _ *pytarget.Target, f fifos) {
				c, err := net.Dial("unix", f.path+".socket")
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
			}, []string{"raw 1 x 710000: leaf < waiting_in < deep*4"}},
			{"sleep", "deep(3, waiting_in, wait_in_sleep, PATH)", wakeMain,
				[]string{"raw 1 x 710000: leaf < waiting_in < deep*4"}},
			{"lock", "deep(3, waiting_in, wait_in_lock, PATH)", wakeMain,
				[]string{"raw 1 x 710000: leaf < waiting_in < deep*4"}},
			{"C without the GIL", "deep(3, waiting_in_c, giving, PATH, 720000, malloc)", wakeC,
				[]string{"malloc 1 x 720000: waiting_in_c < deep*4"}},
			{"C with the GIL", "deep(3, waiting_in_c, keeping, PATH, 720000, malloc)", wakeC,
				[]string{"malloc 1 x 720000: waiting_in_c < deep*4"}},
		} {
			t.Run(in.Name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				tg := stage(t, in, library, pytarget.Options{})
				main, other := makeFifos(t, "main"), makeFifos(t, "other")
				tg.Exec(fmt.Sprintf("PATH = %s; thread = start(deep, 2, waiting_in_c, giving, %s, 730000, malloc)",
					quotePython(main.path), quotePython(other.path)))
				other.hear()
				tg.Exec("__import__('pytarget').defer(lambda: " + c.waits + ")")
				main.hear()
				awaitState(t, tg.Pid(), 'S')
				mustAttach(t, tg.Pid())
				other.ask()
				other.hear()
				meanwhile := "malloc 1 x 730000: waiting_in_c < deep*3"
				wantBlocks(t, largeBlocks(t, tg.Pid()), meanwhile)
				c.wake(t, tg, main)
				tg.Challenge()
				wantBlocks(t, largeBlocks(t, tg.Pid()), append(c.want, meanwhile)...)
				other.ask()
				tg.Exec("finish(thread)")
				mustDetach(t, tg.Pid())
				tg.Challenge()
			})
		}
	}
}

// wakeMain sends the main thread a signal: to it and not to the process, of which any thread might take it.
func wakeMain(t *testing.T, tg *pytarget.Target, _ fifos) {
	t.Helper()
	if err := unix.Tgkill(tg.Pid(), tg.Pid(), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
}

// wakeC lets a thread in wait_and_allocate allocate and return.
func wakeC(_ *testing.T, _ *pytarget.Target, f fifos) {
	f.ask()
	f.hear()
	f.ask()
}
