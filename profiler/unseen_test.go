package profiler

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/internal/pytarget"
)

// An allocator that is linked into a library under names of its own is named by status, with the library; one that is
// called malloc is hooked, and not named.
func TestUnseenAllocators(t *testing.T) {
	t.Parallel()
	lib := compile(t, filepath.Join(t.TempDir(), "pool.so"), "pool.c")
	hidden := compile(t, filepath.Join(t.TempDir(), "hidden.so"), "pool.c", "-fvisibility=hidden")
	tg := pytarget.Start(t, debian(t), "", pytarget.Options{})
	tg.Exec(fmt.Sprintf("ctypes = __import__('ctypes'); libs = [ctypes.CDLL(p) for p in %s]",
		fmt.Sprintf("[%q, %q, %q]", lib, hidden, libraryPath(t, "libmimalloc.so.2"))))
	mustAttach(t, tg.Pid())
	s := mustBe(t, tg.Pid(), Tracking)
	for _, want := range []string{lib, hidden} {
		if !slices.ContainsFunc(s.NotSeen, func(n string) bool {
			return strings.Contains(n, want) && strings.Contains(n, "jemalloc") && strings.Contains(n, "_rjem_malloc")
		}) {
			t.Errorf("%s is not named: %q", want, s.NotSeen)
		}
	}
	for _, n := range s.NotSeen {
		if strings.Contains(n, "mimalloc") {
			t.Errorf("%q, whose malloc is hooked", n)
		}
	}
	mustDetach(t, tg.Pid())
}
