package inferior

import (
	"bytes"
	"errors"
	"testing"

	"github.com/heaptap/heaptap/ptrace"
)

func TestRegisterParts(t *testing.T) {
	t.Parallel()
	r := Registers{General: ptrace.Regs{Rax: 0x1122334455667788, R9: 0xffffffffffffffff, Eflags: 0x246}}
	for name, want := range map[string]uint64{
		"rax": 0x1122334455667788, "RAX": 0x1122334455667788, "eax": 0x55667788, "ax": 0x7788, "al": 0x88, "ah": 0x77,
		"r9d": 0xffffffff, "r9b": 0xff, "pc": 0, "eflags": 0x246,
	} {
		v, err := r.Register(name)
		if err != nil || v.Uint64() != want {
			t.Errorf("%s is %#x, %v; want %#x", name, v.Uint64(), err, want)
		}
	}
	for _, name := range []string{"", "rx", "xmm16", "xmm01", "st8", "xmm", "k8x"} {
		if v, err := r.Register(name); !errors.Is(err, ErrNoRegister) {
			t.Errorf("%q is %v, %v", name, v, err)
		}
	}
	for _, c := range []struct {
		name        string
		value, want uint64
		fits        bool
	}{
		{"ax", 0xabcd, 0x112233445566abcd, true},
		{"eax", 0xabcd, 0xabcd, true}, // as the processor does: the upper half is cleared
		{"ah", 0xff, 0x112233445566ff88, true},
		{"al", 0x100, 0, false},
		{"al", ^uint64(0), 0x11223344556677ff, true}, // -1
		{"al", ^uint64(0x80), 0, false},              // -129
		{"al", ^uint64(0x7f), 0x1122334455667780, true},
		{"rax", ^uint64(0), ^uint64(0), true},
	} {
		regs := ptrace.Regs{Rax: 0x1122334455667788}
		part, _ := findPart(c.name)
		err := part.write(&regs, c.value)
		if (err == nil) != c.fits || c.fits && regs.Rax != c.want {
			t.Errorf("%s = %#x: rax is %#x, %v; want %#x", c.name, c.value, regs.Rax, err, c.want)
		}
	}
}

// A thread that spins for ever goes on when a register that it compares is set.
func TestSetRegister(t *testing.T) {
	t.Parallel()
	tg := startTarget(t)
	busy := tg.enter("busy", 1)
	ctx := deadline(t)
	regs, err := tg.Registers(ctx, busy.Tid)
	if err != nil {
		t.Fatal(err)
	}
	if regs.Name != "busy" || len(regs.Extended) < 576 {
		t.Errorf("registers of %v, %d bytes extended", regs.Thread, len(regs.Extended))
	}
	if at := tg.Describe(regs.General.PC()); at.Symbol == nil || at.Symbol.Name != "in_busy" {
		t.Errorf("the thread is at %v, want in_busy", at)
	}
	before, after, err := tg.SetRegister(ctx, busy.Tid, "r15", 0x1234)
	if err != nil || before.Uint64() != regs.General.R15 || after.Uint64() != 0x1234 {
		t.Errorf("set r15: %#x, %#x, %v", before.Uint64(), after.Uint64(), err)
	}
	if now, err := tg.Registers(ctx, busy.Tid); err != nil || now.General.R15 != 0x1234 {
		t.Errorf("r15 is %#x afterwards, %v", now.General.R15, err)
	}
	// The thread's end: its function returns to where its caller left off.
	if _, _, err := tg.SetRegister(ctx, busy.Tid, "rip", uint64(tg.locate("end_thread").Addr)); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := tg.FindThread("busy"); err != nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("the thread did not go where it was sent")
		}
	}
	if _, _, err := tg.SetRegister(ctx, tg.Pid(), "xmm0", 1); err == nil || errors.Is(err, ErrNoRegister) {
		t.Errorf("set xmm0: %v", err)
	}
	if _, _, err := tg.SetRegister(ctx, tg.Pid(), "rzx", 1); !errors.Is(err, ErrNoRegister) {
		t.Errorf("set rzx: %v", err)
	}
	if _, _, err := tg.SetRegister(ctx, tg.Pid(), "al", 256); !errors.As(err, new(*RangeError)) {
		t.Errorf("set al to 256: %v", err)
	}
	tg.computes(10)
}

// A thread that waits in read(2) goes on waiting after its registers were read and set.
func TestRegistersInSyscall(t *testing.T) {
	t.Parallel()
	tg := startTarget(t)
	for range 20 {
		regs, err := tg.Registers(deadline(t), tg.Pid())
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := tg.SetRegister(deadline(t), tg.Pid(), "rbx", regs.General.Rbx); err != nil {
			t.Fatal(err)
		}
	}
	tg.computes(7)
}

func TestExtendedRegisters(t *testing.T) {
	t.Parallel()
	image := make([]byte, 1088)
	for i := range 16 {
		image[160+i], image[576+i] = byte(i+1), byte(0x80+i)
	}
	image[512] = featureX87 | featureSSE
	r := Registers{Extended: image}
	x, err := r.Register("xmm0")
	if err != nil || x.Bytes[15] != 16 {
		t.Errorf("xmm0 is %x, %v", x.Bytes, err)
	}
	// AVX is in its initial state: what stands in its place is no value.
	y, err := r.Register("ymm0")
	if err != nil || !bytes.Equal(y.Bytes[16:], make([]byte, 16)) {
		t.Errorf("ymm0 is %x, %v", y.Bytes, err)
	}
	image[512] |= featureAVX
	if y, err = r.Register("ymm0"); err != nil || y.Bytes[16] != 0x80 {
		t.Errorf("ymm0 is %x, %v", y.Bytes, err)
	}
	if n := len(r.All()); n < 27+3+8+16 {
		t.Errorf("%d registers", n)
	}
}
