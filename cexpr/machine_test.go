package cexpr

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/mem"
)

// harness is a Machine: a child process that runs testdata/corpus/harness.c and makes the calls it is told to.
type harness struct {
	t       testing.TB
	memory  *os.File
	in      io.WriteCloser
	out     io.Reader
	symbols map[string][]elf.Symbol
	sorted  []elf.Symbol
	types   *Types
	next    mem.Addr // of scratch memory
	limit   mem.Addr
	result  elf.Symbol
	calls   []Call
	regs    map[string][]byte
}

// startHarness runs the program at path. It is over when the test is.
func startHarness(t testing.TB, path string) *harness {
	t.Helper()
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	h := &harness{t: t, symbols: map[string][]elf.Symbol{}, regs: map[string][]byte{}}
	list, err := file.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if kind := elf.ST_TYPE(s.Info); kind == elf.STT_FUNC || kind == elf.STT_OBJECT {
			h.symbols[s.Name] = append(h.symbols[s.Name], s)
			h.sorted = append(h.sorted, s)
		}
	}
	sort.SliceStable(h.sorted, func(i, j int) bool { return h.sorted[i].Value < h.sorted[j].Value })
	d, err := file.DWARF()
	if err != nil {
		t.Fatal(err)
	}
	h.types = NewTypes(d)
	h.result = h.symbols["harness_result"][0]
	scratch := h.symbols["harness_scratch"][0]
	h.next, h.limit = mem.Addr(scratch.Value), mem.Addr(scratch.Value+scratch.Size)
	cmd := exec.Command(path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.in, h.out = in, out
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("harness: %v", err)
		}
	})
	h.memory, err = os.OpenFile(fmt.Sprintf("/proc/%d/mem", cmd.Process.Pid), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.memory.Close() })
	h.must(h.Call(0, &Call{})) // it has filled its variables when it answers
	h.calls = nil
	return h
}

func (h *harness) must(_ *Result, err error) {
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) ReadAt(b []byte, a mem.Addr) error {
	if a >= 1<<63 {
		return &mem.Fault{Op: "read", Addr: a, Len: len(b), Err: os.ErrInvalid}
	}
	if _, err := h.memory.ReadAt(b, int64(a)); err != nil {
		return &mem.Fault{Op: "read", Addr: a, Len: len(b), Err: err}
	}
	return nil
}

func (h *harness) WriteAt(b []byte, a mem.Addr) error {
	if _, err := h.memory.WriteAt(b, int64(a)); err != nil {
		return &mem.Fault{Op: "write", Addr: a, Len: len(b), Err: err}
	}
	return nil
}

func (h *harness) Register(name string) ([]byte, error) {
	if b, ok := h.regs[name]; ok {
		return b, nil
	}
	return nil, &UnknownRegisterError{name}
}

func (h *harness) SetRegister(name string, b []byte) error {
	h.regs[name] = b
	return nil
}

func (h *harness) Lookup(name string) (Entity, error) {
	found := h.symbols[plainName(name)]
	if len(found) == 0 {
		if e, ok, err := h.types.Constant(name); ok || err != nil {
			return e, err
		}
		return Entity{}, &NotFoundError{Name: name}
	}
	s := found[0]
	e := Entity{Name: s.Name, Addr: mem.Addr(s.Value), Size: s.Size, Source: ".symtab"}
	var err error
	if elf.ST_TYPE(s.Info) == elf.STT_OBJECT {
		e.Kind = Object
		e.Type, err = h.types.Variable(s.Name, s.Value)
	} else {
		e.Type, err = h.types.Function(s.Name, s.Value)
	}
	return e, err
}

func (h *harness) TypeNamed(name string) (*Type, error) { return h.types.Named(name) }

func (h *harness) Symbol(a mem.Addr) (string, uint64, bool) {
	i := sort.Search(len(h.sorted), func(i int) bool { return h.sorted[i].Value > uint64(a) })
	for i--; i >= 0; i-- {
		if s := h.sorted[i]; uint64(a) < s.Value+s.Size {
			return s.Name, uint64(a) - s.Value, true
		}
		if uint64(a)-h.sorted[i].Value > 1<<16 {
			break
		}
	}
	return "", 0, false
}

func (h *harness) Allocate(n uint64) (mem.Addr, error) {
	a := h.next
	if uint64(h.limit-a) < n {
		return 0, fmt.Errorf("allocate %d bytes: no scratch memory left", n)
	}
	h.next = (a + mem.Addr(n) + 15) &^ 15
	return a, nil
}

func (h *harness) Errno() (int, bool) { return 2, true }

// Call makes the harness call fn; with 0 it only answers.
func (h *harness) Call(fn mem.Addr, c *Call) (*Result, error) {
	h.calls = append(h.calls, *c)
	if fn == 0 {
		fn = mem.Addr(h.symbols["harness_ready"][0].Value)
	}
	request := binary.LittleEndian.AppendUint64(nil, uint64(fn))
	for _, n := range c.Int {
		request = binary.LittleEndian.AppendUint64(request, n)
	}
	for _, v := range c.Vector {
		request = append(request, v[:]...)
	}
	request = binary.LittleEndian.AppendUint64(request, uint64(c.Vectors))
	request = binary.LittleEndian.AppendUint64(request, uint64(len(c.Stack)))
	request = append(request, c.Stack...)
	if _, err := h.in.Write(request); err != nil {
		return nil, err
	}
	answer := make([]byte, h.result.Size)
	if _, err := io.ReadFull(h.out, answer); err != nil {
		return nil, err
	}
	r := &Result{RAX: binary.LittleEndian.Uint64(answer), RDX: binary.LittleEndian.Uint64(answer[8:])}
	copy(r.XMM0[:], answer[16:])
	copy(r.XMM1[:], answer[32:])
	copy(r.ST0[:], answer[48:])
	copy(r.ST1[:], answer[64:])
	return r, nil
}

// gcc compiles the harness together with other sources.
func gcc(t testing.TB, output string, sources ...string) {
	t.Helper()
	arguments := []string{"-g", "-O1", "-fno-pie", "-no-pie", "-static", "-nostdlib", "-ffreestanding",
		"-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-lto", "-Wno-psabi", "-w", "-o", output,
		"-I", filepath.Join("testdata", "corpus"), filepath.Join("testdata", "corpus", "harness.c")}
	cmd := exec.Command("gcc", append(arguments, sources...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc %s: %v\n%s", strings.Join(sources, " "), err, out)
	}
}
