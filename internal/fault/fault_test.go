package fault

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

func TestParse(t *testing.T) {
	for _, bad := range []string{"x", "=kill", "x=die", "x#0=kill", "x#y=kill", "a=kill,b"} {
		if _, err := parse(bad, ""); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if p, err := parse("", ""); p != nil || err != nil {
		t.Errorf("nothing asked for: %v, %v", p, err)
	}
}

func TestErrorAtHit(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p, err := parse("a#2=error,b=error", log)
	if err != nil {
		t.Fatal(err)
	}
	var got []bool
	for _, name := range []string{"a", "b", "a", "a", "b", "c"} {
		got = append(got, p.hit(name))
	}
	for i, want := range []bool{false, true, true, false, true, false} {
		if got[i] != want {
			t.Errorf("hit %d: %v, want %v", i, got[i], want)
		}
	}
	b, err := os.ReadFile(log)
	if err != nil || string(b) != "a\nb\na\na\nb\nc\n" {
		t.Errorf("log %q, %v", b, err)
	}
}

// childEnv makes this test binary hit the point "here" three times and end.
const childEnv = "HEAPTAP_TEST_FAULT_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	for range 3 {
		Point("here")
	}
	var ie *InjectedError
	if errors.As(Err("there"), &ie) {
		os.Exit(40)
	}
	os.Exit(0)
}

func TestInProcess(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		spec string
		code int // -1: killed
	}{
		{"", 0},
		{"here#3=kill", -1},
		{"here#4=kill", 0},
		{"there=error", 40},
		{"nonsense", 2},
	} {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), childEnv+"=1", Env+"="+c.spec)
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != c.code {
			t.Errorf("%q: exit code %d, want %d", c.spec, got, c.code)
		}
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); c.code == -1 && ws.Signal() != syscall.SIGKILL {
			t.Errorf("%q: %v", c.spec, ws)
		}
	}
}
