package call

import (
	"encoding/binary"
	"maps"
	"testing"

	"golang.org/x/arch/x86/x86asm"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/ptrace"
)

// disassemble lists the instructions from an offset in the cave up to one of the kind given, with the offset behind.
func disassemble(t *testing.T, at int, last x86asm.Op) (list []x86asm.Inst, end int) {
	t.Helper()
	for at < len(caveCode) {
		in, err := x86asm.Decode(caveCode[at:], 64)
		if err != nil {
			t.Fatalf("offset %d: %v", at, err)
		}
		list = append(list, in)
		if at += in.Len; in.Op == last {
			return list, at
		}
	}
	t.Fatalf("no %v", last)
	return nil, 0
}

func TestCaveCode(t *testing.T) {
	list, _ := disassemble(t, caveSyscall, x86asm.RET)
	if len(list) != 2 || list[0].Op != x86asm.SYSCALL {
		t.Errorf("system call: %v", list)
	}
	list, _ = disassemble(t, caveSigreturn, x86asm.SYSCALL)
	if len(list) != 2 || list[0].Op != x86asm.MOV || list[0].Args[1] != x86asm.Imm(15) {
		t.Errorf("rt_sigreturn: %v", list)
	}
	list, marker := disassemble(t, caveCall, x86asm.SYSCALL)
	if marker != caveMarker {
		t.Errorf("marker at %d, want %d", marker, caveMarker)
	}
	at := caveCall
	for _, in := range list {
		at += in.Len
		if in.Op != x86asm.LDMXCSR {
			continue
		}
		m, ok := in.Args[0].(x86asm.Mem)
		if !ok || m.Base != x86asm.RIP {
			t.Fatalf("%v", in)
		}
		if v := binary.LittleEndian.Uint32(caveCode[at+int(m.Disp):]); v != 0x1f80 {
			t.Errorf("mxcsr %#x, want the ABI's 0x1f80", v)
		}
	}
	// Behind the marker: the child of a fork ends, the thread goes to rt_sigreturn with the stack pointer behind the
	// frame's first word.
	list, at = disassemble(t, caveMarker, x86asm.JMP)
	lea, jump := list[len(list)-2], list[len(list)-1]
	if m, ok := lea.Args[1].(x86asm.Mem); lea.Op != x86asm.LEA || !ok || m.Base != x86asm.RBX || m.Disp != blockFrame+8 {
		t.Errorf("to the frame: %v", lea)
	}
	if rel, ok := jump.Args[0].(x86asm.Rel); !ok || at+int(rel) != caveSigreturn {
		t.Errorf("jumps by %v, want to rt_sigreturn", jump)
	}
	list, _ = disassemble(t, at, x86asm.SYSCALL)
	if list[0].Op != x86asm.MOV || list[0].Args[1] != x86asm.Imm(231) {
		t.Errorf("end of a fork's child: %v", list)
	}
}

// TestCallImage: the block is where the code in the cave looks for it.
func TestCallImage(t *testing.T) {
	a := Args{Stack: []byte("0123456789abcdef+")}
	for i := range a.Vector {
		a.Vector[i] = [16]byte{byte(i + 1), 15: byte(i + 1)}
	}
	const f = mem.Addr(0x7fff0000c8 + 0x10)
	block, sp := callPlace(f, len(a.Stack))
	b := callImage(nil, block, sp, &a, 0x1234)
	if block%16 != 0 || sp%stackAlign != 0 || sp+mem.Addr(len(b)) != f || sp+mem.Addr(len(a.Stack)) > block-blockVector {
		t.Errorf("block at %v, stack at %v, %d bytes up to the frame at %v", block, sp, len(b), f)
	}
	if string(b[:len(a.Stack)]) != string(a.Stack) {
		t.Errorf("stack arguments %q", b[:len(a.Stack)])
	}
	at := 0
	list, _ := disassemble(t, caveCall, x86asm.CALL)
	for _, in := range list {
		if in.Op != x86asm.MOVAPS {
			continue
		}
		m := in.Args[1].(x86asm.Mem)
		if got := b[int64(block-sp)+m.Disp]; m.Base != x86asm.RBX || got != byte(at+1) ||
			in.Args[0] != x86asm.X0+x86asm.Reg(at) {
			t.Errorf("%v loads %d", in, got)
		}
		at++
	}
	if at != len(a.Vector) {
		t.Errorf("%d vector registers are loaded", at)
	}
	if got := binary.LittleEndian.Uint32(b[block-sp+blockMarker:]); got != 0x1234 {
		t.Errorf("marker %#x", got)
	}
}

// TestShelterCode: it makes rt_sigprocmask(SIG_SETMASK, blockedSignals, NULL, 8), goes to the frame, and returns.
func TestShelterCode(t *testing.T) {
	list, at := disassemble(t, caveShelter, x86asm.JMP)
	values := map[x86asm.Arg]x86asm.Arg{}
	call := -1
	for i, in := range list {
		if in.Op == x86asm.MOV {
			values[in.Args[0]] = in.Args[1]
		}
		if in.Op == x86asm.SYSCALL {
			call = i
		}
	}
	want := map[x86asm.Arg]x86asm.Arg{x86asm.EAX: x86asm.Imm(14), x86asm.EDI: x86asm.Imm(2), x86asm.R10L: x86asm.Imm(8),
		x86asm.RSP: x86asm.RBX}
	if !maps.Equal(values, want) || call != len(list)-3 {
		t.Errorf("%v", list)
	}
	if jump, ok := list[len(list)-1].Args[0].(x86asm.Rel); !ok || at+int(jump) != caveSigreturn {
		t.Errorf("jumps by %v, want to rt_sigreturn", list[len(list)-1])
	}
	at = caveShelter
	for _, in := range list {
		at += in.Len
		if m, ok := in.Args[1].(x86asm.Mem); in.Op == x86asm.LEA && (!ok || m.Base != x86asm.RIP ||
			binary.LittleEndian.Uint64(caveCode[at+int(m.Disp):]) != blockedSignals) {
			t.Errorf("mask: %v", in)
		}
	}
}

// fakeState has an XSAVE image with all features that AMX processors have.
func fakeState(size int, xcr0, inUse uint64) *ptrace.State {
	s := &ptrace.State{XState: make([]byte, size), Mask: 0x1234}
	s.Regs = ptrace.Regs{Rip: 0x400000, Rsp: 0x7fff0000, Cs: 0x33, Ss: 0x2b, OrigRax: ^uint64(0), R8: 8, Rdi: 7,
		Eflags: 0x202}
	binary.LittleEndian.PutUint64(s.XState[xsaveSoftware:], xcr0)
	binary.LittleEndian.PutUint64(s.XState[xsaveEnd:], inUse)
	return s
}

func TestFrameLayout(t *testing.T) {
	s := fakeState(2432, 0xe7, 0x7)
	const top = mem.Addr(0x10000)
	avx512 := &components{2: {576, 256, false}, 5: {1088, 64, false}, 6: {1152, 512, false}, 7: {1408, 1024, false}}
	f, err := buildFrame(make([]byte, maxFrame), top, s, 0xabc, avx512)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	xsave := mem.Addr(le.Uint64(f.bytes[frameFpstate:]))
	if f.at%16 != 8 || xsave%64 != 0 || xsave < f.at+frameSize || f.at+mem.Addr(len(f.bytes)) > top {
		t.Errorf("frame at %v, %d bytes, state at %v", f.at, len(f.bytes), xsave)
	}
	for _, w := range []struct {
		name string
		at   int
		want uint64
	}{
		{"return address", 0, 0xabc}, {"r8", 48, 8}, {"rdi", 112, 7}, {"rsp", 168, 0x7fff0000}, {"rip", 176, 0x400000},
		{"eflags", 184, 0x202}, {"segments", 192, 0x33 | 0x2b<<48}, {"signal mask", 304, 0x1234}, {"altstack", 24, 0},
		{"altstack flags", 32, 0}, {"altstack size", 40, 0},
	} {
		if got := le.Uint64(f.bytes[w.at:]); got != w.want {
			t.Errorf("%s: %#x, want %#x", w.name, got, w.want)
		}
	}
	for _, size := range []int{0, 575, maxXState + 8} {
		state := &ptrace.State{XState: make([]byte, size)}
		if _, err := buildFrame(make([]byte, maxFrame), top, state, 0, avx512); err == nil {
			t.Errorf("extended state of %d bytes was accepted", size)
		}
	}
}

// TestFrameImage has the components of a processor with AMX: tile configuration (17) and tile data (18).
func TestFrameImage(t *testing.T) {
	amx := &components{
		2: {576, 256, false}, 5: {1088, 64, false}, 6: {1152, 512, false}, 7: {1664, 1024, false},
		9: {2688, 8, false}, 17: {2752, 64, false}, 18: {2816, 8192, true},
	}
	const with, without = 0x602e7, 0x202e7
	for _, c := range []struct {
		name         string
		size         int
		xcr0, inUse  uint64
		want         int
		wantFeatures uint64
	}{
		{"SSE only", 576, 3, 3, 576, 3},
		{"AVX-512", 2696, 0x2e7, 7, 2696, 0x2e7},
		{"AMX unused", 11008, with, 7, 2816, without},
		{"AMX in use", 11008, with, 7 | 1<<18, 11008, with},
		{"cut image", 1000, 0x2e7, 7, 1000, 0x2e7},
	} {
		image, features := frameImage(fakeState(c.size, c.xcr0, c.inUse).XState, amx)
		if len(image) != c.want || features != c.wantFeatures {
			t.Errorf("%s: %d bytes, features %#x, want %d, %#x", c.name, len(image), features, c.want, c.wantFeatures)
		}
	}
	// The processor's own description fits what the kernel gives for this very process.
	if c := cpuComponent(2); c.size != 256 && c.size != 0 {
		t.Errorf("AVX: %+v", c)
	}
}
