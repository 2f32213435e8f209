package inferior

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
)

func (tg *target) locate(place string) Location {
	tg.t.Helper()
	l, err := tg.Locate(deadline(tg.t), place, 0)
	if err != nil {
		tg.t.Fatal(err)
	}
	return l
}

func (tg *target) poke(a mem.Addr, b []byte, o PokeOptions) *Poke {
	tg.t.Helper()
	k, err := tg.Poke(deadline(tg.t), a, b, o)
	if err != nil {
		tg.t.Fatal(err)
	}
	return k
}

// Variables, constants in read-only pages, and code.
func TestPoke(t *testing.T) {
	t.Parallel()
	tg := startTarget(t)
	k := tg.poke(tg.locate("counter").Addr, binary.LittleEndian.AppendUint32(nil, 77), PokeOptions{})
	if k.Code || !bytes.Equal(k.Old, []byte{41, 0, 0, 0}) || k.Single != (k.Threads == 0) {
		t.Errorf("poke of a variable: %+v", k)
	}
	k = tg.poke(tg.locate("greeting").Addr, []byte("HELLO"), PokeOptions{Expect: []byte("hello")})
	if k.Single || k.Threads != 1 || k.Pause <= 0 {
		t.Errorf("poke of five bytes of data, which are no single store: %+v", k)
	}
	// factor is an aligned word.
	k = tg.poke(tg.locate("factor").Addr, binary.LittleEndian.AppendUint64(nil, 0x4024000000000000), PokeOptions{})
	if !k.Single || k.Threads != 0 {
		t.Errorf("poke of a word: %+v", k)
	}
	// constant ends in mov $1111, %eax.
	at := tg.locate("constant")
	code, err := mem.Bytes(tg.Memory(), at.Addr, int(at.Size))
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(code, []byte{0xb8, 0x57, 0x04, 0, 0})
	if i < 0 {
		t.Fatalf("constant is not as expected: % x", code)
	}
	if k = tg.poke(at.Addr+mem.Addr(i)+1, []byte{0xae, 0x08}, PokeOptions{}); !k.Code {
		t.Errorf("poke of code: %+v", k)
	}
	if got, want := tg.do("call"), "2222 77 20 HELLO, world"; got != want {
		t.Errorf("target says %q, want %q", got, want)
	}
}

func TestPokeRefused(t *testing.T) {
	t.Parallel()
	tg := startTarget(t)
	at := tg.locate("greeting").Addr
	ctx := deadline(t)
	var content *ContentError
	if _, err := tg.Poke(ctx, at, []byte("x"), PokeOptions{Expect: []byte("y")}); !errors.As(err, &content) || content.Written {
		t.Errorf("poke of what is not there: %v", err)
	}
	var unmapped *UnmappedError
	if _, err := tg.Poke(ctx, 16, []byte("x"), PokeOptions{}); !errors.As(err, &unmapped) {
		t.Errorf("poke of nothing: %v", err)
	}
	if _, err := tg.Poke(ctx, ^mem.Addr(0), []byte("xy"), PokeOptions{}); !errors.As(err, &unmapped) {
		t.Errorf("poke beyond the address space: %v", err)
	}
	if _, err := tg.Poke(ctx, at, nil, PokeOptions{}); err == nil {
		t.Error("poke of no bytes is no error")
	}
	// Memory of the test's own: a file's pages, shared and read-only.
	self, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("shared"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page, err := unix.Mmap(int(f.Fd()), 0, 6, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	maps, err := self.process.Maps()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range maps {
		if m.Path != path {
			continue
		}
		var shared *SharedError
		if _, err := self.Poke(ctx, m.Start, []byte("x"), PokeOptions{}); !errors.As(err, &shared) || shared.Path != path {
			t.Errorf("poke of a shared file: %v", err)
		}
	}
	if got := tg.do("call"); !strings.HasSuffix(got, "hello, world") {
		t.Errorf("target says %q", got)
	}
}

// Code that threads are executing is changed thousands of times, across words: no thread ever executes half of it, and
// the ones that stand in it are told of.
func TestPokeRunningCode(t *testing.T) {
	t.Parallel()
	tg := startTarget(t)
	tg.enter("constant", 2)
	at := tg.locate("constant")
	old, err := mem.Bytes(tg.Memory(), at.Addr, int(at.Size))
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(old, []byte{0xb8, 0x57, 0x04, 0, 0})
	if i < 0 {
		t.Fatalf("constant is not as expected: % x", old)
	}
	// All of the function: the instructions before the constant, too.
	changed := bytes.Clone(old)
	copy(changed[i+1:], []byte{0xae, 0x08})
	ctx := deadline(t)
	done, inUse := 0, 0
	for n := 0; done < 30 && n < 1000; n++ {
		b := old
		if done%2 == 0 {
			b = changed
		}
		_, err := tg.Poke(ctx, at.Addr, b, PokeOptions{})
		var use *InUseError
		switch {
		case errors.As(err, &use):
			inUse++
			if use.PC <= at.Addr || use.PC >= at.Addr+mem.Addr(at.Size) {
				t.Fatalf("%v is not in constant", use)
			}
		case err != nil:
			t.Fatal(err)
		default:
			done++
		}
	}
	if done < 30 || inUse == 0 {
		t.Errorf("%d changes, %d times in use: the threads do not meet the change", done, inUse)
	}
	tg.poke(tg.locate("word").Addr, binary.LittleEndian.AppendUint32(nil, 0xdead), PokeOptions{})
	tg.computes(1000)
}
