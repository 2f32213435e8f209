package dso

import (
	"debug/elf"
	"encoding/binary"

	"github.com/heaptap/heaptap/mem"
)

const (
	maxNotes   = 1 << 16 // bytes of one PT_NOTE that are looked at
	maxBuildID = 64      // bytes; SHA-1 is 20
)

// buildID finds the build-id note in memory; nil if there is none that can be read.
func (m *Module) buildID() []byte {
	for _, p := range m.Programs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		b, err := mem.Bytes(m.reader, m.Bias+mem.Addr(p.Vaddr), int(min(p.Memsz, maxNotes)))
		if err != nil {
			continue
		}
		if id := noteBuildID(b, p.Align); id != nil {
			return id
		}
	}
	return nil
}

// noteBuildID finds NT_GNU_BUILD_ID among the notes b. Descriptors are padded to align, 4 or 8 (gABI, "Note Section").
func noteBuildID(b []byte, align uint64) []byte {
	if align != 8 {
		align = 4
	}
	pad := func(n uint64) uint64 { return (n + align - 1) &^ (align - 1) }
	const ntGNUBuildID = 3
	for len(b) >= 12 {
		nameLen, descLen := uint64(binary.LittleEndian.Uint32(b)), uint64(binary.LittleEndian.Uint32(b[4:]))
		kind := binary.LittleEndian.Uint32(b[8:])
		desc := pad(12 + nameLen)
		end := desc + descLen
		if end > uint64(len(b)) {
			return nil
		}
		if kind == ntGNUBuildID && string(b[12:12+nameLen]) == "GNU\x00" && descLen > 0 && descLen <= maxBuildID {
			return append([]byte(nil), b[desc:end]...)
		}
		b = b[min(pad(end), uint64(len(b))):]
	}
	return nil
}
