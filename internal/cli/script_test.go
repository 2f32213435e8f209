package cli

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden parts of the scripts anew")

// The scripts run these two programs: heaptap itself, whose engine and clock are fake where FAKE names a scene; and
// another command on a disk that is soon full.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"heaptap":   func() { os.Exit(Main(os.Args[1:], scriptEnv())) },
		"smalldisk": func() { os.Exit(smallDisk(os.Args[1:])) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			// The Python of the machine's own choice is found through these.
			for _, name := range []string{"HOME", "PYENV_ROOT", "PYENV_VERSION"} {
				e.Setenv(name, os.Getenv(name))
			}
			e.Setenv("TZ", "UTC")
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name == "mount" {
				return smallDisk([]string{"64k", "true"}) == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits CODE COMMAND... runs a command, which must end with that code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if want, err := strconv.Atoi(args[0]); err != nil || code != want {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// scriptEnv is the real world but for what FAKE says: "SCENE", "SCENE:VARIANT" or "ok:VARIANT".
func scriptEnv() Env {
	env := System()
	scene, variant, _ := strings.Cut(os.Getenv("FAKE"), ":")
	if scene == "" {
		return env
	}
	err, known := scenes()[scene]
	if !known && scene != "ok" {
		panic("no scene " + scene)
	}
	env.Engine = fakeEngine{err, variant}
	env.Now = func() time.Time { return fakeNow }
	asWatched(&env, variant)
	return env
}

// smallDisk SIZE COMMAND... runs the command in a folder "disk" on which SIZE bytes fit, says what files are there when
// it has ended, and returns its code. Only the command sees the disk: it is in a mount namespace of its own.
func smallDisk(args []string) int {
	if os.Getenv("SMALLDISK_INSIDE") == "" {
		self, err := os.Executable()
		if err != nil {
			return failed(err)
		}
		c := exec.Command(self, args...)
		c.Args[0] = "smalldisk"
		c.Env = append(os.Environ(), "SMALLDISK_INSIDE=1")
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		c.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		return codeOf(c.Run())
	}
	dir, err := os.MkdirTemp("", "smalldisk")
	if err != nil {
		return failed(err)
	}
	defer os.Remove(dir)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+args[0]); err != nil {
		return failed(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	c := exec.Command(args[1], args[2:]...)
	c.Dir, c.Stdout, c.Stderr = dir, os.Stdout, os.Stderr
	code := codeOf(c.Run())
	entries, err := os.ReadDir(dir)
	if err != nil {
		return failed(err)
	}
	for _, e := range entries {
		fmt.Println("on disk:", e.Name())
	}
	return code
}

func failed(err error) int {
	fmt.Fprintln(os.Stderr, "smalldisk:", err)
	return 125
}

func codeOf(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return failed(err)
}
