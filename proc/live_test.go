package proc

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
)

// self is this process.
func self(t *testing.T) *Process {
	t.Helper()
	p, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestSelf(t *testing.T) {
	p := self(t)
	if err := p.Check(); err != nil {
		t.Error(err)
	}
	exe, err := p.Exe()
	if want, _ := os.Executable(); exe != want || err != nil {
		t.Errorf("exe %s, %v, want %s", exe, err, want)
	}
	tids, err := p.Threads()
	if err != nil || !slices.Contains(tids, p.Pid) || !slices.IsSorted(tids) {
		t.Errorf("threads %v, %v", tids, err)
	}
	st, err := p.Status(p.Pid)
	if err != nil || st.Tgid != p.Pid || st.Uid[1] != os.Geteuid() || st.Threads < len(tids)-1 {
		t.Errorf("%+v, %v", st, err)
	}
	auxv, err := p.Auxv()
	if err != nil || auxv[6] != uint64(os.Getpagesize()) { // AT_PAGESZ
		t.Errorf("%v, %v", auxv, err)
	}
	pids, err := List()
	if err != nil || !slices.Contains(pids, p.Pid) {
		t.Errorf("%v, %v", pids, err)
	}
	fd, err := p.Pidfd()
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
}

func TestMemory(t *testing.T) {
	m, err := self(t).Mem()
	if err != nil {
		t.Fatal(err)
	}
	region, err := unix.Mmap(-1, 0, 64*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(region)
	at := mem.Addr(uintptr(unsafe.Pointer(&region[0])))
	region[5*PageSize] = 7

	touched, err := m.Touched(at, 8, make([]byte, 64))
	if err != nil || !slices.Equal(touched, []bool{false, false, false, false, false, true, false, false}) {
		t.Errorf("touched %v, %v", touched, err)
	}
	for _, protect := range []int{unix.PROT_READ | unix.PROT_WRITE, unix.PROT_READ, unix.PROT_NONE} {
		if err := unix.Mprotect(region, protect); err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{1, 100, bulk, len(region)} {
			want := bytes.Repeat([]byte{byte(n), byte(protect)}, (n+1)/2)[:n]
			if err := m.WriteAt(want, at); err != nil {
				t.Errorf("write %d, protection %d: %v", n, protect, err)
			}
			if got, err := mem.Bytes(m, at, n); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read %d, protection %d: %v", n, protect, err)
			}
		}
	}
	var fault *mem.Fault
	if _, err := mem.Bytes(m, 8, 8); !errors.As(err, &fault) || fault.Op != "read" || fault.Addr != 8 {
		t.Errorf("read of address 8: %v", err)
	}
	if _, err := mem.Bytes(m, 8, 2*bulk); !errors.As(err, &fault) {
		t.Errorf("long read of address 8: %v", err)
	}
	if err := m.WriteAt([]byte{1}, 8); !errors.As(err, &fault) || fault.Op != "write" {
		t.Errorf("write to address 8: %v", err)
	}
}

// TestOpenMapped maps a file with an awkward name, which the kernel cannot show unambiguously.
func TestOpenMapped(t *testing.T) {
	p := self(t)
	for _, deleted := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "a\nb  c (deleted)")
		content := bytes.Repeat([]byte("heaptap "), 512)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := unix.Mmap(int(f.Fd()), 0, len(content), unix.PROT_READ, unix.MAP_PRIVATE)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Munmap(b)
		if deleted {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		maps, err := p.Maps()
		if err != nil {
			t.Fatal(err)
		}
		at := mem.Addr(uintptr(unsafe.Pointer(&b[0])))
		i := slices.IndexFunc(maps, func(m Mapping) bool { return m.Contains(at) })
		if i < 0 || maps[i].Size() != uint64(len(content)) {
			t.Fatalf("no mapping at %v in %v", at, maps)
		}
		g, err := p.OpenMapped(maps[i])
		if err != nil {
			t.Errorf("deleted %v: %v", deleted, err)
			continue
		}
		got, err := io.ReadAll(g)
		g.Close()
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("deleted %v: %d bytes, %v", deleted, len(got), err)
		}
	}
	if _, err := p.OpenMapped(Mapping{Path: "[heap]"}); err == nil {
		t.Error("opened the heap")
	}
}

func TestGone(t *testing.T) {
	for _, pid := range []int{0, -1, 1 << 30} {
		if _, err := Open(pid); !errors.Is(err, ErrGone) {
			t.Errorf("pid %d: %v", pid, err)
		}
	}
	p := self(t)
	other := &Process{Pid: p.Pid, start: p.start + 1}
	if err := other.Check(); !errors.Is(err, ErrReused) {
		t.Error(err)
	}
	if _, err := other.Mem(); !errors.Is(err, ErrReused) {
		t.Error(err)
	}
}

// TestExecAndEnd follows a child through an exec and its end.
func TestExecAndEnd(t *testing.T) {
	cmd := exec.Command("sh", "-c", `echo ready; read x; exec sh -c 'echo again; read x'`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	lines.Scan()
	p, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	m, err := p.Mem()
	if err != nil {
		t.Fatal(err)
	}
	before, err := p.Identity()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := p.Identity(); err != nil || again != before {
		t.Errorf("%+v, then %+v, %v", before, again, err)
	}
	if _, err := mem.Bytes(m, mem.Addr(before.Headers), 8); err != nil {
		t.Error(err)
	}

	io.WriteString(in, "\n")
	if !lines.Scan() || lines.Text() != "again" {
		t.Fatalf("%q, %v", lines.Text(), lines.Err())
	}
	after, err := p.Identity()
	if err != nil || after == before {
		t.Errorf("exec was not noticed: %+v, %v", after, err)
	}
	if err := p.Check(); err != nil {
		t.Error(err)
	}
	for _, n := range []int{8, bulk} {
		if _, err := mem.Bytes(m, mem.Addr(after.Headers).AlignDown(PageSize), n); !errors.Is(err, ErrGone) {
			t.Errorf("read %d bytes of the new program: %v", n, err)
		}
	}

	in.Close()
	lines.Scan() // end of its output: it is ending
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, p.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(); !errors.Is(err, ErrZombie) {
		t.Errorf("zombie: %v", err)
	}
	if _, err := p.Maps(); !errors.Is(err, ErrZombie) {
		t.Errorf("zombie's mappings: %v", err)
	}
	cmd.Wait()
	if err := p.Check(); !errors.Is(err, ErrGone) {
		t.Errorf("gone: %v", err)
	}
}

// TestUses compares what is in memory with what was touched.
func TestUses(t *testing.T) {
	p := self(t)
	region, err := unix.Mmap(-1, 0, 64*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(region)
	for i := range 5 {
		region[3*i*PageSize] = 1
	}
	at := mem.Addr(uintptr(unsafe.Pointer(&region[0])))
	maps, err := p.Maps()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(maps, func(m Mapping) bool { return m.Start == at })
	if i < 0 {
		t.Fatalf("no mapping at %v", at)
	}
	m, err := p.Mem()
	if err != nil {
		t.Fatal(err)
	}
	if n := m.InMemory(at, at+64*PageSize); n != 5*PageSize {
		t.Errorf("%d bytes in memory by the page map", n)
	}
	if n := m.InMemory(at+PageSize, at+4*PageSize); n != PageSize {
		t.Errorf("%d bytes of three pages in memory by the page map", n)
	}
	if n, err := p.Resident(maps[i]); n != 5*PageSize || err != nil {
		t.Errorf("%d bytes in memory, %v", n, err)
	}
	found := 0
	for u, err := range p.Uses() {
		if err != nil {
			t.Fatal(err)
		}
		if u.Rss != u.SharedClean+u.SharedDirty+u.PrivateClean+u.PrivateDirty || u.Rss > u.Size() || u.Anonymous > u.Rss {
			t.Errorf("%+v", u)
		}
		if u.Start == at {
			found++
		}
	}
	if found != 1 {
		t.Errorf("the mapping came %d times", found)
	}
	if _, err := p.Resident(Mapping{Start: 8, End: 16}); err == nil {
		t.Error("a mapping that is not there has a size")
	}
}
