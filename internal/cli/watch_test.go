package cli

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/heap"
	"github.com/heaptap/heaptap/profiler"
)

// A watch over a real process, to its end. What happens between two looks, happens where the watch would wait.
func TestWatch(t *testing.T) {
	h := startHolder(t)
	pid := strconv.Itoa(h.pid)
	fd, err := unix.PidfdOpen(h.pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	run(t, ExitOK, "attach", pid)
	dir := filepath.Join(t.TempDir(), "new", "folder")
	named := func(second string) string { return filepath.Join(dir, "heaptap-"+pid+"-20261123-1405"+second+".pb.gz") }
	kept := 0
	grow := func() {
		for range 12 { // 1.2 MB
			kept++
			h.keep(kept)
		}
	}
	between := []func(){
		func() { // others put a file of their own in the place of the first snapshot
			if err := os.Rename(named("06"), filepath.Join(dir, "moved")); err != nil {
				t.Error(err)
			}
			if err := os.WriteFile(named("06"), []byte("mine"), 0o600); err != nil {
				t.Error(err)
			}
			grow()
		},
		grow,
		func() { kept++; h.keep(kept) }, // too little
		func() {
			h.stdin.(io.Closer).Close()
			ended(t, fd)
		},
	}
	var stdout, stderr bytes.Buffer
	now := fakeNow
	env := System()
	env.Stdout, env.Stderr, env.Term = &stdout, &stderr, Terminal{Width: func() int { return 0 }}
	env.Now = func() time.Time { return now }
	env.Sleep = func(_ context.Context, d time.Duration) error {
		if len(between) == 0 {
			t.Fatalf("the watch goes on:\n%s", &stderr)
		}
		between[0]()
		between = between[1:]
		now = now.Add(d)
		return nil
	}
	code := ExitCode(Main([]string{"watch", pid, "--every", "1h", "--growth", "1MiB/1m", "--keep", "1", "-o", dir}, env))
	if code != ExitNoProcess || stdout.Len() != 0 || len(between) != 0 {
		t.Fatalf("exit code %d, want %d\n%s%s", code, ExitNoProcess, &stdout, &stderr)
	}
	for _, line := range []string{
		"every 1h: wrote " + named("06"), ": wrote " + named("07"), ": wrote " + named("08"), "removed " + named("07"),
		"process " + pid + " has ended", "last seen at 14:05:09: ", "3 snapshots written, the newest 1 kept",
	} {
		if strings.Count(stderr.String(), line) != 1 {
			t.Errorf("not said once: %s", line)
		}
	}
	entries, err := filepath.Glob(filepath.Join(dir, "*"))
	if want := []string{named("06"), named("08"), filepath.Join(dir, "moved")}; err != nil || !slices.Equal(entries, want) {
		t.Errorf("files: %v, %v, want %v", entries, err, want)
	}
	f, err := os.Open(named("08"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := heap.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	if live := s.Total()[heap.InuseBytes]; live < 24*100000 {
		t.Errorf("%d bytes live, want 24 blocks of 100,000", live)
	}
	i := slices.IndexFunc(s.Info, func(kv heap.KeyValue) bool { return kv.Key == profiler.InfoTrigger })
	if i < 0 || !strings.HasSuffix(s.Info[i].Value, " MiB in 1.0 s to 2.3 MiB") {
		t.Errorf("the snapshot does not say what triggered it: %v", s.Info)
	}
	if t.Failed() {
		t.Log(stderr.String())
	}
}
