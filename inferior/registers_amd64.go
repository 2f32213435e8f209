package inferior

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/heaptap/heaptap/ptrace"
)

// general holds the registers of the kernel's struct user_regs_struct, in the order in which they are shown.
var general = []part{
	{"rax", General, func(r *ptrace.Regs) *uint64 { return &r.Rax }, 0, 64, false},
	{"rbx", General, func(r *ptrace.Regs) *uint64 { return &r.Rbx }, 0, 64, false},
	{"rcx", General, func(r *ptrace.Regs) *uint64 { return &r.Rcx }, 0, 64, false},
	{"rdx", General, func(r *ptrace.Regs) *uint64 { return &r.Rdx }, 0, 64, false},
	{"rsi", General, func(r *ptrace.Regs) *uint64 { return &r.Rsi }, 0, 64, false},
	{"rdi", General, func(r *ptrace.Regs) *uint64 { return &r.Rdi }, 0, 64, false},
	{"rbp", General, func(r *ptrace.Regs) *uint64 { return &r.Rbp }, 0, 64, false},
	{"rsp", General, func(r *ptrace.Regs) *uint64 { return &r.Rsp }, 0, 64, false},
	{"r8", General, func(r *ptrace.Regs) *uint64 { return &r.R8 }, 0, 64, false},
	{"r9", General, func(r *ptrace.Regs) *uint64 { return &r.R9 }, 0, 64, false},
	{"r10", General, func(r *ptrace.Regs) *uint64 { return &r.R10 }, 0, 64, false},
	{"r11", General, func(r *ptrace.Regs) *uint64 { return &r.R11 }, 0, 64, false},
	{"r12", General, func(r *ptrace.Regs) *uint64 { return &r.R12 }, 0, 64, false},
	{"r13", General, func(r *ptrace.Regs) *uint64 { return &r.R13 }, 0, 64, false},
	{"r14", General, func(r *ptrace.Regs) *uint64 { return &r.R14 }, 0, 64, false},
	{"r15", General, func(r *ptrace.Regs) *uint64 { return &r.R15 }, 0, 64, false},
	{"rip", General, func(r *ptrace.Regs) *uint64 { return &r.Rip }, 0, 64, false},
	{"eflags", General, func(r *ptrace.Regs) *uint64 { return &r.Eflags }, 0, 32, false},
	{"orig_rax", General, func(r *ptrace.Regs) *uint64 { return &r.OrigRax }, 0, 64, false},
	{"cs", Segment, func(r *ptrace.Regs) *uint64 { return &r.Cs }, 0, 16, false},
	{"ss", Segment, func(r *ptrace.Regs) *uint64 { return &r.Ss }, 0, 16, false},
	{"ds", Segment, func(r *ptrace.Regs) *uint64 { return &r.Ds }, 0, 16, false},
	{"es", Segment, func(r *ptrace.Regs) *uint64 { return &r.Es }, 0, 16, false},
	{"fs", Segment, func(r *ptrace.Regs) *uint64 { return &r.Fs }, 0, 16, false},
	{"gs", Segment, func(r *ptrace.Regs) *uint64 { return &r.Gs }, 0, 16, false},
	{"fs_base", Segment, func(r *ptrace.Regs) *uint64 { return &r.FsBase }, 0, 64, false},
	{"gs_base", Segment, func(r *ptrace.Regs) *uint64 { return &r.GsBase }, 0, 64, false},
}

// parts holds what else general registers are called, whole or in part.
var parts = makeParts()

func makeParts() []part {
	var out []part
	add := func(whole, name string, shift, bits uint8) {
		for _, g := range general {
			if g.name == whole {
				out = append(out, part{name, General, g.word, shift, bits, bits == 32})
			}
		}
	}
	for _, letter := range []string{"a", "b", "c", "d"} {
		whole := "r" + letter + "x"
		add(whole, "e"+letter+"x", 0, 32)
		add(whole, letter+"x", 0, 16)
		add(whole, letter+"l", 0, 8)
		add(whole, letter+"h", 8, 8)
	}
	for _, name := range []string{"si", "di", "bp", "sp"} {
		add("r"+name, "e"+name, 0, 32)
		add("r"+name, name, 0, 16)
		add("r"+name, name+"l", 0, 8)
	}
	for n := 8; n <= 15; n++ {
		name := "r" + strconv.Itoa(n)
		add(name, name+"d", 0, 32)
		add(name, name+"w", 0, 16)
		add(name, name+"b", 0, 8)
	}
	add("rip", "pc", 0, 64)
	add("rsp", "sp", 0, 64)
	add("rbp", "fp", 0, 64)
	return out
}

// leaveSyscall makes registers those of a thread that is in no system call, so that the kernel does not set the program
// counter back to make the call again.
func leaveSyscall(r *ptrace.Regs) { r.OrigRax = ^uint64(0) }

// Where an XSAVE image holds what (Intel SDM volume 1, sections 10.5.1 and 13.4).
const (
	xsaveControl = 0   // FCW, FSW, FTW, FOP: 16 bits each
	xsaveMXCSR   = 24  // 4 bytes
	xsaveX87     = 32  // ST0 to ST7, 10 bytes each in 16
	xsaveSSE     = 160 // XMM0 to XMM15
	xsaveInUse   = 512 // 8 bytes: which components are not in their initial state
	xsaveAVX     = 576 // the upper halves of YMM0 to YMM15
	featureX87   = 1 << 0
	featureSSE   = 1 << 1
	featureAVX   = 1 << 2
	vectors      = 16
	x87Stack     = 8
)

// extended finds a register in an XSAVE image. A component in its initial state is zero, whatever bytes stand there.
func extended(image []byte, name string) (Register, bool) {
	if len(image) < xsaveAVX {
		return Register{}, false
	}
	inUse := binary.LittleEndian.Uint64(image[xsaveInUse:])
	at := func(feature uint64, offset, size int) []byte {
		b := make([]byte, size)
		if inUse&feature != 0 && offset+size <= len(image) {
			copy(b, image[offset:])
		}
		return b
	}
	number := func(prefix string, most int) (int, bool) {
		digits, ok := strings.CutPrefix(name, prefix)
		n, err := strconv.Atoi(digits)
		return n, ok && err == nil && n >= 0 && n < most && strconv.Itoa(n) == digits
	}
	if n, ok := number("st", x87Stack); ok {
		return Register{name, Float, at(featureX87, xsaveX87+16*n, 10)}, true
	}
	if n, ok := number("xmm", vectors); ok {
		return Register{name, Vector, at(featureSSE, xsaveSSE+16*n, 16)}, true
	}
	if n, ok := number("ymm", vectors); ok && len(image) >= xsaveAVX+16*vectors {
		low, high := at(featureSSE, xsaveSSE+16*n, 16), at(featureAVX, xsaveAVX+16*n, 16)
		return Register{name, Vector, append(low, high...)}, true
	}
	switch name {
	case "fctrl":
		return Register{name, Float, append([]byte(nil), image[xsaveControl:xsaveControl+2]...)}, true
	case "fstat":
		return Register{name, Float, at(featureX87, xsaveControl+2, 2)}, true
	case "mxcsr":
		return Register{name, Vector, append([]byte(nil), image[xsaveMXCSR:xsaveMXCSR+4]...)}, true
	}
	return Register{}, false
}

func allExtended(image []byte) []Register {
	names := []string{"fctrl", "fstat", "mxcsr"}
	for n := range x87Stack {
		names = append(names, fmt.Sprintf("st%d", n))
	}
	wide := "ymm"
	if _, ok := extended(image, "ymm0"); !ok {
		wide = "xmm"
	}
	for n := range vectors {
		names = append(names, fmt.Sprintf("%s%d", wide, n))
	}
	var out []Register
	for _, name := range names {
		if r, ok := extended(image, name); ok {
			out = append(out, r)
		}
	}
	return out
}

// Flags names the bits that are set in eflags.
func Flags(eflags uint64) []string {
	var out []string
	for _, f := range []struct {
		bit  uint
		name string
	}{{0, "CF"}, {2, "PF"}, {4, "AF"}, {6, "ZF"}, {7, "SF"}, {8, "TF"}, {9, "IF"}, {10, "DF"}, {11, "OF"},
		{14, "NT"}, {16, "RF"}, {17, "VM"}, {18, "AC"}, {21, "ID"}} {
		if eflags>>f.bit&1 != 0 {
			out = append(out, f.name)
		}
	}
	return out
}
