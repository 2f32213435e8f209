package profiler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/internal/pytarget"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// victimEnv makes this test binary a heaptap that does one thing and ends: "attach PID", "dump PID" and so on. Tests
// kill it, or run it as another user.
const victimEnv = "HEAPTAP_TEST_VICTIM"

// onSignalEnv has an attach of such a one write files of that pattern upon USR2.
const onSignalEnv = "HEAPTAP_TEST_ON_SIGNAL"

func TestMain(m *testing.M) {
	if spec := os.Getenv(victimEnv); spec != "" {
		if err := victim(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// victim does what the environment says.
func victim(spec string) error {
	verb, number, _ := strings.Cut(spec, " ")
	if verb == "run" {
		return runVictim(number)
	}
	pid, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	ctx := context.Background()
	switch verb {
	case "attach":
		o := AttachOptions{}
		if pattern := os.Getenv(onSignalEnv); pattern != "" {
			o.OnSignal = OnSignal{Signal: unix.SIGUSR2, Pattern: pattern}
		}
		_, err = Attach(ctx, pid, o)
	case "follow":
		_, err = Attach(ctx, pid, AttachOptions{Follow: true})
	case "hold":
		_, err = Attach(ctx, pid, AttachOptions{Hold: true, named: true})
	case "follow-on":
		err = Follow(ctx, pid, FollowOptions{Attach: AttachOptions{Follow: true}, Tell: func(FollowEvent) error { return nil }})
	case "dump":
		_, err = TakeDump(ctx, pid, DumpOptions{})
	case "detach":
		_, err = Detach(ctx, pid)
	case "repair":
		_, err = Repair(ctx, pid)
	case "status":
		_, err = ReadStatus(ctx, pid)
	case "soak":
		err = soak(ctx, pid)
	default:
		err = fmt.Errorf("no verb %q", verb)
	}
	return err
}

// soak attaches, dumps and detaches until it is killed. It says when it begins. What an earlier one left is repaired.
func soak(ctx context.Context, pid int) error {
	fmt.Println("begun")
	for {
		_, err := Attach(ctx, pid, AttachOptions{})
		if errors.Is(err, ErrIncomplete) {
			if _, err := Repair(ctx, pid); err != nil {
				return fmt.Errorf("repair: %w", err)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("attach: %w", err)
		}
		if _, err := TakeDump(ctx, pid, DumpOptions{}); err != nil {
			return fmt.Errorf("dump: %w", err)
		}
		if d, err := Detach(ctx, pid); err != nil || !d.Unmapped {
			return fmt.Errorf("detach: %+v, %w", d, err)
		}
	}
}

// victimCommand is this test binary as a heaptap.
func victimCommand(t testing.TB, verb string, pid int, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(append(os.Environ(), env...), fmt.Sprintf("%s=%s %d", victimEnv, verb, pid))
	return cmd
}

// hookedWords reads the words that an attach changes: four functions in each of the three allocators, and slots.
func hookedWords(t testing.TB, pid int) pytarget.Words {
	t.Helper()
	tg, err := open(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tg.close)
	in, err := cpython.Find(tg.proc, tg.mem)
	if err != nil {
		t.Fatal(err)
	}
	l := in.Layout.Allocator
	at := map[string]mem.Addr{}
	for d, allocator := range in.Allocators {
		for f, offset := range [agent.Functions]cpython.Offset{l.Malloc, l.Calloc, l.Realloc, l.Free} {
			at[agent.DomainNames[d]+"."+agent.FunctionNames[f]] = offset.From(allocator)
		}
	}
	if len(at) != 12 {
		t.Fatalf("%d words, want 12", len(at))
	}
	slots := hookedSlots(t, tg)
	return func() (map[string]uint64, error) {
		words := map[string]uint64{}
		for name, a := range at {
			v, err := mem.U64(tg.mem, a)
			if err != nil {
				return nil, err
			}
			words[name] = v
		}
		return words, slots(words)
	}
}

// hookedSlots adds to words what all slots hold, of the modules that are there now, through which functions are called
// that an attach hooks. One that the loader binds meanwhile is as it was, and so is one whose module is unloaded.
func hookedSlots(t testing.TB, tg *target) func(words map[string]uint64) error {
	t.Helper()
	names := map[string]bool{}
	for _, fn := range agent.NativeNames {
		for _, name := range fn.Names {
			names[name] = true
		}
	}
	modules, err := dso.Modules(tg.proc, tg.mem)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]dso.Slot{}
	for _, m := range modules {
		slots, err := m.Slots()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range slots {
			if names[s.Symbol] {
				known[fmt.Sprintf("%s of %s at %v", s.Symbol, m.Path, s.Addr)] = s
			}
		}
	}
	if len(known) == 0 {
		t.Fatal("no module calls malloc through a slot")
	}
	return func(words map[string]uint64) error {
		for name, s := range known {
			v, err := mem.U64(tg.mem, s.Addr)
			var gone *mem.Fault
			bound := s.Lazy && slices.ContainsFunc(modules, func(m *dso.Module) bool { return m.Executable(mem.Addr(v)) })
			switch {
			case errors.As(err, &gone), bound:
				v = uint64(s.Value)
			case err != nil:
				return err
			}
			words[name] = v
		}
		return nil
	}
}

// mustAttach attaches and requires that tracking has begun.
func mustAttach(t testing.TB, pid int) *Attachment {
	t.Helper()
	return mustAttachWith(t, pid, AttachOptions{})
}

// mustAttachWith is the same with options that leave all domains hooked.
func mustAttachWith(t testing.TB, pid int, o AttachOptions) *Attachment {
	t.Helper()
	a, err := Attach(t.Context(), pid, o)
	if err != nil {
		t.Fatalf("attach: %v", err)
	}
	if a.Already || len(a.Hooked) != int(NumDomains) {
		t.Fatalf("attach: %+v", a)
	}
	return a
}

// mustDetach detaches and requires that nothing is left.
func mustDetach(t testing.TB, pid int) *Detachment {
	t.Helper()
	d, err := Detach(t.Context(), pid)
	if err != nil {
		t.Fatalf("detach: %v", err)
	}
	if !d.Unmapped || d.Restored != 12 || len(d.Foreign) != 0 {
		t.Fatalf("detach: %+v", d)
	}
	return d
}

// mustBe requires a state.
func mustBe(t testing.TB, pid int, want State) *Status {
	t.Helper()
	s, err := ReadStatus(t.Context(), pid)
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	if s.State != want {
		t.Fatalf("status is %s, want %s: %+v", s.State, want, s)
	}
	return s
}

// mustDump takes a snapshot; that it is sound was checked by its making.
func mustDump(t testing.TB, pid int) *Dump {
	t.Helper()
	d, err := TakeDump(t.Context(), pid, DumpOptions{})
	if err != nil {
		t.Fatalf("dump: %v", err)
	}
	return d
}

// mustBeUntracked requires that heaptap finds nothing of its own in the process.
func mustBeUntracked(t testing.TB, pid int) {
	t.Helper()
	if s, err := ReadStatus(t.Context(), pid); !errors.Is(err, ErrNotTracked) {
		t.Fatalf("status: %+v, %v, want %v", s, err, ErrNotTracked)
	}
}

// chosen are interpreters whose insides differ most, for tests that would take too long with every one: the oldest, one
// with 8-byte blocks' successor, Debian's static one, and those from 3.12 on.
func chosen(t testing.TB) []pytarget.Interpreter {
	t.Helper()
	all := pytarget.Interpreters(t)
	if testing.Short() {
		return all[len(all)-1:]
	}
	var list []pytarget.Interpreter
	for _, minor := range []int{6, 8, 11, 12, 13, 14, 15} {
		of := slices.DeleteFunc(slices.Clone(all), func(in pytarget.Interpreter) bool { return in.Minor() != minor || in.Embedded })
		if i := slices.IndexFunc(of, func(in pytarget.Interpreter) bool { return in.Origin == "bookworm" || in.Root != "" }); i >= 0 {
			list = append(list, of[i])
		} else if len(of) > 0 {
			list = append(list, of[0])
		}
	}
	return list
}

// debian is Debian's stripped static interpreter where it is installed, or else the newest one: what is tested with one
// interpreter only is tested with this.
func debian(t testing.TB) pytarget.Interpreter {
	t.Helper()
	all := pytarget.Interpreters(t)
	if i := slices.IndexFunc(all, func(in pytarget.Interpreter) bool { return in.Path == "/usr/bin/python3.11" }); i >= 0 {
		return all[i]
	}
	return all[len(all)-1]
}

// situation finds a situation by its name.
func situation(t testing.TB, name string) pytarget.Situation {
	t.Helper()
	all := pytarget.Situations()
	i := slices.IndexFunc(all, func(s pytarget.Situation) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("no situation %s", name)
	}
	return all[i]
}

// newRand is a source of chance whose seed the log tells, and HEAPTAP_TEST_SEED sets.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("HEAPTAP_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// letRun lets a target run for a random time of at most `most`, to come to it at any instant.
func letRun(t testing.TB, rnd *rand.Rand, most time.Duration) {
	t.Helper()
	select {
	case <-time.After(time.Duration(rnd.Int64N(int64(most)))):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// times is n, or HEAPTAP_TEST_SOAK times as many where that is set, or a twentieth with -short.
func times(t testing.TB, n int) int {
	t.Helper()
	if s := os.Getenv("HEAPTAP_TEST_SOAK"); s != "" {
		factor, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n * factor
	}
	if testing.Short() {
		return max(n/20, 1)
	}
	return n
}

// vmSize is the process's address space, bytes.
func vmSize(t testing.TB, pid int) uint64 {
	t.Helper()
	p, err := proc.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	status, err := p.Status(pid)
	if err != nil {
		t.Fatal(err)
	}
	return status.VmSize
}

// sharedMemory counts the descriptors and mappings of heaptap's tables in a process: the tests' own process must not
// gather them either.
func sharedMemory(t testing.TB, pid int) (n int) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	n = strings.Count(string(maps), tablesName)
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.Contains(to, tablesName) {
			n++
		}
	}
	return n
}

// isRoot skips what only root can arrange.
func needRoot(t testing.TB) {
	t.Helper()
	if unix.Geteuid() != 0 {
		t.Skip("needs root: it runs heaptap as another user")
	}
}
