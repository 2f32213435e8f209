package profiler

import (
	_ "embed"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/internal/pytarget"
)

//go:embed testdata/types/halfbuilt.py
var halfBuiltSource string

// lastToCollectWithin is the last release whose collector runs within the allocation of an object.
const lastToCollectWithin = 11

// TestHalfBuilt: memory of an object that has neither count nor type yet is not taken for what was there before.
func TestHalfBuilt(t *testing.T) {
	for _, in := range pytarget.Interpreters(t) {
		if in.Minor() > lastToCollectWithin {
			continue
		}
		t.Run(in.Name, func(t *testing.T) {
			t.Parallel()
			tg := pytarget.Start(t, in, "", pytarget.Options{})
			if _, err := Attach(t.Context(), tg.Pid(), AttachOptions{}); err != nil {
				t.Fatal(err)
			}
			tg.ExecFile("halfbuilt.py", halfBuiltSource)
			for first := range 20 {
				tg.Exec(fmt.Sprintf("__import__('pytarget').defer(lambda: build(%d))", first))
				awaitState(t, tg.Pid(), 'T')
				d, err := TakeDump(t.Context(), tg.Pid(), DumpOptions{})
				tg.Signal(syscall.SIGCONT)
				if err != nil {
					t.Fatal(err)
				}
				if blankMade(t, d.Snapshot) == 1 {
					tg.Challenge()
					return
				}
			}
			t.Error("no half-built object was seen")
		})
	}
}

// blankMade counts the objects that are made at make's second line and have no type. None may have another than theirs.
func blankMade(t *testing.T, s *heap.Snapshot) (blank int64) {
	t.Helper()
	for _, r := range s.Records {
		frames := s.Callers(r.Stack)
		if r.InuseBlocks == 0 || len(frames) == 0 || !strings.HasSuffix(frames[0].Func, "make") ||
			frames[0].Line != frames[0].FirstLine+2 {
			continue
		}
		switch name := s.Text(r.Type); name {
		case "":
			blank += r.InuseBlocks
		case "__main__.Fresh":
		default:
			t.Errorf("%d blocks of %s are made where Fresh() is called", r.InuseBlocks, name)
		}
	}
	return blank
}
