package unwind

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
)

// jit is code outside of all modules.
const jit = mem.Addr(0x9000000)

// plain unwinds the innermost frame of code at jit, which is called from a module's code, at 0x102.
func plain(code []byte, pc mem.Addr, returns bool, stack []uint64) (Regs, Frame, error) {
	text := bytes.Repeat([]byte{0xf4}, 0x1000)
	copy(text[0x100:], "\xff\xd0\x90") // call *%rax
	m, segments := fuzzModule(nil, text)
	m.Programs = nil
	page := bytes.Repeat([]byte{0xf4}, 0x1000)
	copy(page, code)
	segments = append(segments, mem.Segment{Addr: fuzzStack, Data: words(stack...)}, mem.Segment{Addr: jit, Data: page})
	u := New([]*dso.Module{m}, &mem.Fake{Segments: segments}, Options{
		Executable: func(a mem.Addr) bool { return a >= jit && a < jit+0x1000 },
	})
	regs := at(0)
	regs.PC, regs.Return = pc, returns
	regs.Set(RBP, uint64(fuzzStack)+32)
	f, err := u.Step(&regs)
	return regs, f, err
}

// Steps over code without CFI are made only where they can be shown to be right.
func TestPlain(t *testing.T) {
	t.Parallel()
	const caller = uint64(fuzzCode) + 0x102
	const framed = "\x55\x48\x89\xe5\xc5\xf8\x77\xff\xd0\xff\xe0" // push; mov; vzeroupper; call *%rax; jmp *%rax
	stack := []uint64{1, 2, 3, 4, uint64(fuzzStack) + 64, caller, 7, 8, 0, 9}
	bad := []uint64{1, 2, 3, 4, uint64(fuzzStack) + 64, caller + 1, 7, 8, 0, 9}
	entry := []uint64{caller, 2, 3, 4, uint64(fuzzStack) + 64, 6, 7, 8}
	for _, c := range []struct {
		name    string
		code    string
		pc      mem.Addr
		returns bool
		stack   []uint64
		how     Rule
		sp      mem.Addr
		rbp     uint64
		err     error
	}{
		{"frame pointer", framed, jit + 9, true, stack, FramePointer, 48, uint64(fuzzStack) + 64, nil},
		{"no return address", framed, jit + 9, true, bad, None, 0, 0, ErrNoCFI},
		{"no prologue", "\x90\x90\x90\x90\xc5\xf8\x77\xff\xd0\xff\xe0", jit + 9, true, stack, None, 0, 0, ErrNoCFI},
		{"another's prologue",
			"\x55\x48\x89\xe5\x5d\xc3\x66\x0f\x1f\x44\x00\x00\x90\x90\x90\x90\x90\xff\xd0\xff\xe0",
			jit + 19, true, stack, None, 0, 0, ErrNoCFI},
		{"until it returns", "\x90\xff\xd0\x48\x83\xc4\x20\x5d\xc3", jit + 3, true, stack, Instructions, 48,
			uint64(fuzzStack) + 64, nil},
		{"before its prologue", "\x55\x48\x89\xe5\x53\xff\xd0\x5b\x5d\xc3", jit, false, entry, Instructions, 8,
			uint64(fuzzStack) + 32, nil},
		{"branches", "\x75\x06\x48\x83\xc4\x20\x5d\xc3\x48\x8d\x64\x24\x20\x5d\xc3", jit, false,
			[]uint64{1, 2, 3, 4, 5, caller}, Instructions, 48, 5, nil},
		{"branches that disagree", "\x75\x05\x48\x83\xc4\x20\xc3\x48\x83\xc4\x28\xc3", jit, false,
			[]uint64{1, 2, 3, 4, caller, caller}, None, 0, 0, ErrNoCFI},
		{"address 0", "", 0, false, entry, Leaf, 8, uint64(fuzzStack) + 32, nil},
		{"address 0, not called", "", 0, false, stack, None, 0, 0, ErrNoCode},
		{"return to no code", "", 0x123, true, entry, None, 0, 0, ErrNoCode},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			regs, f, err := plain([]byte(c.code), c.pc, c.returns, c.stack)
			if f.How != c.how || !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Fatalf("by %v, %v; want %v, %v", f.How, err, c.how, c.err)
			}
			if err != nil {
				return
			}
			rbp, known := regs.Register(RBP)
			if uint64(regs.PC) != caller || regs.SP != fuzzStack+c.sp || !known || rbp != c.rbp {
				t.Errorf("%v rbp %#x, %v; want sp %v rbp %#x", &regs, rbp, known, fuzzStack+c.sp, c.rbp)
			}
		})
	}
}

// The lengths of vector instructions are those that the disassembler of binutils finds in libc and libm.
func TestVectorLength(t *testing.T) {
	t.Parallel()
	mods, _ := loaded(t, "libm.so.6")
	checked := 0
	for _, m := range mods {
		if base := filepath.Base(m.Path); base != "libc.so.6" && base != "libm.so.6" {
			continue
		}
		raw, err := exec.Command("objdump", "-d", "-w", m.Path).Output()
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
			fields := strings.Split(lines.Text(), "\t")
			if len(fields) < 3 || strings.Contains(fields[2], "(bad)") {
				continue
			}
			b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(fields[1]), " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			padded := append(b[:len(b):len(b)], make([]byte, 15)...)
			got := vectorLength(padded)
			vector := b[0] == 0xc4 || b[0] == 0xc5 || b[0] == 0x62
			if got != 0 && (got != len(b) || !vector) {
				t.Errorf("%s: %d bytes", lines.Text(), got)
			}
			if got == 0 && vector && !general(fields[2]) {
				t.Errorf("%s: not known", lines.Text())
			}
			if got != 0 {
				checked++
			}
		}
	}
	if checked < 1000 {
		t.Errorf("only %d instructions", checked)
	}
}

// general reports whether a disassembled instruction has a general register for its result, which comes last, or may.
func general(text string) bool {
	name, operands, _ := strings.Cut(text, " ")
	if strings.HasPrefix(name, "kmov") || strings.HasPrefix(name, "vmov") || strings.HasPrefix(name, "vcvt") {
		return true
	}
	at := strings.LastIndex(operands, ",")
	last := strings.TrimSpace(operands[at+1:])
	return strings.HasPrefix(last, "%r") || strings.HasPrefix(last, "%e") || strings.HasPrefix(name, "vpextr") ||
		name == "vextractps"
}
