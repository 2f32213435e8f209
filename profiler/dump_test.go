package profiler

import (
	"testing"

	"github.com/heaptap/heaptap/internal/pytarget"
)

// A dump that stops the target keeps off those who change it, and they it: a detach that met one half way had to leave
// the process incomplete. One that does not stop it minds nobody.
func TestDumpLocks(t *testing.T) {
	tg := pytarget.Start(t, debian(t), "", pytarget.Options{})
	mustAttach(t, tg.Pid())
	other, err := open(tg.Pid())
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	unlock, err := other.lock()
	if err != nil {
		t.Fatal(err)
	}
	if d, err := TakeDump(t.Context(), tg.Pid(), DumpOptions{}); !is(ErrBusy)(err) {
		t.Errorf("dump while another heaptap is at work: %v, %v, want %v", d, err, ErrBusy)
	}
	if _, err := TakeDump(t.Context(), tg.Pid(), DumpOptions{NoPause: true}); err != nil {
		t.Errorf("dump without a pause: %v", err)
	}
	unlock()
	mustDump(t, tg.Pid())
	mustDetach(t, tg.Pid())
}
