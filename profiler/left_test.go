package profiler

import (
	"path/filepath"
	"testing"

	"github.com/heaptap/heaptap/internal/pytarget"
)

// TestLeftCalls: a call of an allocator may be left by longjmp, or end its thread. What the thread allocates afterwards is
// counted all the same, and the agent goes at the detach, whatever the thread does by then.
func TestLeftCalls(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T) *pytarget.Target {
		t.Parallel()
		library := compile(t, filepath.Join(t.TempDir(), "leave.so"), "leave.c")
		tg := pytarget.Start(t, debian(t), "import ctypes, os, threading", pytarget.Options{Env: []string{"LD_PRELOAD=" + library}})
		tg.Exec("lib = ctypes.CDLL(" + quotePython(library) + "); ready, go = os.pipe(), os.pipe()")
		mustAttach(t, tg.Pid())
		return tg
	}
	t.Run("goes on", func(t *testing.T) {
		tg := start(t)
		const blocks = 500
		tg.Exec("lib.leave_make(500); None")
		got := 0
		for _, b := range liveBlocks(t, tg.Pid()) {
			if b.domain == Malloc && b.size == 1000 {
				got++
			}
		}
		if got < blocks {
			t.Errorf("%d of %d blocks were seen", got, blocks)
		}
		mustDetach(t, tg.Pid())
		tg.Challenge()
	})
	t.Run("waits", func(t *testing.T) {
		tg := start(t)
		tg.Exec("waits = threading.Thread(target=lib.leave_wait, args=(ready[1], go[0])); waits.start(); os.read(ready[0], 1); None")
		mustDetach(t, tg.Pid())
		if got := tg.Exec("os.write(go[1], b'x'); waits.join(60); waits.is_alive()"); got != "False" {
			t.Errorf("the thread has not ended: %s", got)
		}
		tg.Challenge()
	})
	t.Run("ends", func(t *testing.T) {
		tg := start(t)
		if got := tg.Exec("lib.leave_end()"); got != "0" {
			t.Fatal(got)
		}
		mustDetach(t, tg.Pid())
		tg.Challenge()
	})
}
