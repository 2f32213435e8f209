package dso

import (
	"bytes"
	"debug/elf"
	"encoding/binary"

	"github.com/heaptap/heaptap/mem"
)

// leadsToPLT reports whether a jump slot's value is the one that it has until its first call: it leads to where the
// module itself calls the loader's resolver.
func (m *Module) leadsToPLT(value mem.Addr, index int) bool {
	if !m.Executable(value) {
		return false
	}
	switch m.Machine {
	case elf.EM_X86_64:
		return m.pushesIndex(value, index)
	case elf.EM_AARCH64:
		return m.isFirstPLT(value)
	}
	return false
}

const pltEntry = 16 // bytes of an entry of an x86-64 PLT

// x86-64 instructions that PLT entries are made of (psABI, "Procedure Linkage Table", and CET).
var (
	endbr64 = []byte{0xf3, 0x0f, 0x1e, 0xfa}
	push32  = []byte{0x68}
	jmpSlot = []byte{0xff, 0x25}
	bnd     = []byte{0xf2}
)

// pushesIndex: an unbound entry of an x86-64 PLT pushes its index in DT_JMPREL and jumps to the first entry.
func (m *Module) pushesIndex(at mem.Addr, index int) bool {
	b, err := mem.Bytes(m.reader, at, 16)
	if err != nil {
		return false
	}
	b = bytes.TrimPrefix(b, endbr64)
	b, ok := bytes.CutPrefix(b, push32)
	return ok && binary.LittleEndian.Uint32(b) == uint32(index) &&
		(b[4] == 0xe9 || b[4] == 0xf2 && b[5] == 0xe9)
}

// isFirstPLT: all unbound slots of an AArch64 module hold the address of its first PLT entry, which begins by
// stp x16, x30, [sp, #-16]! (psABI for AArch64, "Procedure Linkage Table"), perhaps after bti c.
func (m *Module) isFirstPLT(at mem.Addr) bool {
	b, err := mem.Bytes(m.reader, at, 8)
	if err != nil {
		return false
	}
	const stp, btiC = 0xa9bf7bf0, 0xd503245f
	first := binary.LittleEndian.Uint32(b)
	return first == stp || first == btiC && binary.LittleEndian.Uint32(b[4:]) == stp
}

// pltSlot tells which slot the PLT entry that contains an address jumps through, 0 if that is none: an entry of
// 16 bytes with jmp *slot(%rip), after endbr64 or a bnd prefix.
func (m *Module) pltSlot(a mem.Addr) (entry, slot mem.Addr) {
	if m.Machine != elf.EM_X86_64 || !m.Executable(a) {
		return 0, 0
	}
	entry = a.AlignDown(pltEntry)
	b, err := mem.Bytes(m.reader, entry, pltEntry)
	if err != nil {
		return 0, 0
	}
	rest := bytes.TrimPrefix(bytes.TrimPrefix(b, endbr64), bnd)
	rest, ok := bytes.CutPrefix(rest, jmpSlot)
	if !ok {
		return 0, 0
	}
	next := entry + mem.Addr(len(b)-len(rest)+4)
	return entry, next + mem.Addr(int64(int32(binary.LittleEndian.Uint32(rest))))
}
