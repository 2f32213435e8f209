package profiler

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/internal/pytarget"
)

// TestFilterSetLater: a process that is tracked sets itself a seccomp filter that would kill it for system calls which only
// the agent makes. It lives, and is tracked on.
func TestFilterSetLater(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]string{
		"prctl":      "lib.filter_prctl()",
		"syscall":    "lib.filter_syscall()",
		"indirectly": "lib.filter_indirectly()",
		"ctypes":     "ctypes.CDLL(None).prctl(22, 2, ctypes.c_void_p(lib.filter_program()), 0, 0)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, debian(t), "import ctypes, os", pytarget.Options{})
			dir := t.TempDir()
			library := compile(t, filepath.Join(dir, "filter.so"), "filter.c")
			late := compile(t, filepath.Join(dir, "late.so"), "filter.c")
			tg.Exec("lib = ctypes.CDLL(" + quotePython(library) + "); lib.filter_program.restype = ctypes.c_void_p")
			if _, err := Attach(t.Context(), tg.Pid(), AttachOptions{Native: true}); err != nil {
				t.Fatal(err)
			}
			if got := tg.Exec("lib.filter_passes(), lib.filter_allow(), " + set); got != "(1, 0, 0)" {
				t.Fatalf("calls that pass, no new privileges, and the filter: %s", got)
			}
			const threads = 20
			tg.Exec("late = ctypes.CDLL(" + quotePython(late) + "); late.filter_thread(); None") // new modules, new threads
			tg.Exec("for _ in range(20): assert lib.filter_thread() == 0")
			got := 0
			for _, b := range liveBlocks(t, tg.Pid()) {
				if b.domain == Malloc && b.size == 1000 {
					got++
				}
			}
			if got < threads {
				t.Errorf("%d of %d blocks of threads were seen", got, threads)
			}
			status := mustBe(t, tg.Pid(), Tracking)
			if !strings.Contains(strings.Join(status.NotSeen, "\n"), "seccomp filter") {
				t.Errorf("status does not say that there is a filter: %q", status.NotSeen)
			}
			tg.Challenge()
			mustDetach(t, tg.Pid())
			if got := tg.Exec("lib.filter_passes()"); got != "1" {
				t.Error("after the detach, calls do not pass")
			}
			tg.Challenge()
		})
	}
}
