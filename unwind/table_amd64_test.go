package unwind

import (
	"bufio"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// loaded starts a program that has loaded these libraries, and returns its modules and memory.
func loaded(t testing.TB, libraries ...string) ([]*dso.Module, mem.Reader) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "loads")
	if out, err := exec.Command("gcc", "-o", bin, filepath.Join("testdata", "loads.c")).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	cmd := exec.Command(bin, libraries...)
	cmd.Stderr = os.Stderr
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
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("said %q, %v", line, err)
	}
	p, err := proc.Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	r, err := p.Mem()
	if err != nil {
		t.Fatal(err)
	}
	mods, err := dso.Modules(p, r)
	if err != nil {
		t.Fatal(err)
	}
	return mods, r
}

// At all boundaries of all rows of all functions of real libraries, and between them, the table makes the step that the
// CFI makes.
func TestTableIsCFI(t *testing.T) {
	t.Parallel()
	mods, r := loaded(t, "libstdc++.so.6", "libpython3.11.so.1.0", "libm.so.6", "libcrypto.so.3", "libsqlite3.so.0")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, m := range mods {
		rows, err := CompileModule(m, r, Options{})
		if err != nil {
			t.Errorf("%s: %v", m, err)
		}
		table := &Table{Modules: []TableModule{{m.Start, m.End, 0, uint32(len(rows))}}, Rows: rows}
		if err := table.check(); err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		u := New([]*dso.Module{m}, r, Options{})
		own := u.module(m)
		own.load(u)
		functions, err := own.functions(u)
		if err != nil || len(functions) == 0 {
			t.Errorf("%s: %d functions, %v", m, len(functions), err)
		}
		c := comparison{t: t, u: u, table: table, random: random}
		for _, f := range functions {
			c.function(f)
		}
		kinds := map[Kind]int{}
		for _, row := range rows {
			kinds[row.Rule.Kind()]++
		}
		t.Logf("%s: %d functions, %d rows, %d bytes; compared at %d instructions, %d not supported; %v",
			filepath.Base(m.Path), len(functions), len(rows), tableRow*len(rows), c.compared, c.unsupported, kinds)
		if c.unsupported*100 > c.compared {
			t.Errorf("%s: %d of %d instructions are not supported", m, c.unsupported, c.compared)
		}
	}
}

// comparison compares a table with CFI.
type comparison struct {
	t                     *testing.T
	u                     *Unwinder
	table                 *Table
	random                *rand.Rand
	compared, unsupported int
}

func (c *comparison) function(f *fde) {
	err := f.rows(func(start, end mem.Addr, _ *rules) bool {
		for _, pc := range []mem.Addr{start, end - 1, start + mem.Addr(c.random.Uint64N(uint64(end-start)))} {
			c.at(pc, f)
		}
		return true
	})
	if err != nil {
		c.t.Error(err)
	}
}

func (c *comparison) at(pc mem.Addr, f *fde) {
	regs := Regs{PC: pc, SP: mem.Addr(c.random.Uint64N(1<<46) &^ 7)}
	for n := range Registers {
		if n != RSP && n != RIP {
			regs.Set(n, uint64(regs.SP)+c.random.Uint64N(1<<20)&^7)
		}
	}
	full, found, err := Regs{}, caller{}, error(nil)
	if r, failed := f.find(pc); failed != nil {
		c.t.Fatal(failed)
	} else {
		found, err = c.u.stepCFI(&row{rules: r, signal: f.signal}, &regs, anything{})
	}
	full = found.regs
	full.keep(1 << RBP)
	small := regs
	small.keep(1 << RBP)
	frame, failed := c.table.Step(&small, anything{})
	c.compared++
	if errors.Is(failed, ErrUnsupported) {
		c.unsupported++
		return
	}
	cause := failed
	if end := (*EndError)(nil); errors.As(failed, &end) {
		cause = end.Err
	}
	if cause != err {
		c.t.Errorf("%v: table %v, CFI %v", pc, failed, err)
	}
	if err == nil && (small != full || frame.CFA != found.cfa) {
		c.t.Errorf("%v: rule %#x: table %v\nCFI %v", pc, c.table.Rule(pc), small, full)
	}
}

func TestTableBinary(t *testing.T) {
	t.Parallel()
	mods, r := loaded(t)
	table, err := Compile(mods, r, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := table.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := tableHead + tableModule*len(table.Modules) + tableRow*len(table.Rows); len(b) != want {
		t.Errorf("%d bytes, want %d", len(b), want)
	}
	again, err := ParseTable(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(table, again); diff != "" {
		t.Error(diff)
	}
	for cut := range 100 {
		if _, err := ParseTable(b[:len(b)-1-cut]); !errors.Is(err, errTable) {
			t.Fatalf("without %d bytes: %v", cut+1, err)
		}
	}
	slices.Reverse(table.Modules)
	if b, err = table.AppendBinary(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseTable(b); !errors.Is(err, errTable) {
		t.Errorf("with modules out of order: %v", err)
	}
}

// A rule is read as it was packed.
func TestPack(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind        Kind
		offset      int64
		frame       FrameRule
		frameOffset int64
		fits        bool
	}{
		{KindSP, 8, FrameSame, 0, true},
		{KindSP, 1<<20 - 8, FrameAtCFA, -1024, true},
		{KindFPDeref, -1 << 20, FrameAtFP, 1016, true},
		{KindSP, 1 << 20, FrameSame, 0, false},
		{KindSP, 12, FrameSame, 0, false},
		{KindFP, 16, FrameAtCFA, -1032, false},
		{KindFP, 16, FrameAtCFA, 1024, false},
	} {
		p := pack(c.kind, c.offset, c.frame, c.frameOffset)
		if !c.fits {
			if p != Packed(KindUnsupported) {
				t.Errorf("%v: %#x", c, p)
			}
			continue
		}
		frame, frameOffset := p.Frame()
		if p.Kind() != c.kind || p.Offset() != c.offset || frame != c.frame || frameOffset != c.frameOffset {
			t.Errorf("%v: %v %d %v %d", c, p.Kind(), p.Offset(), frame, frameOffset)
		}
	}
}
