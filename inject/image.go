// Package inject puts code and words into a live process: it is the linker. It reads the image to place, and swaps
// words of the target under a ledger so that each can be given back.
//
// It does not stop threads (package call does) and does not know what the code is for.
package inject

import (
	"bytes"
	"debug/elf"
	"fmt"
)

// Image is position-independent code without relocations: an ELF file with one segment, linked at 0.
type Image struct {
	Text    []byte            // the segment's bytes
	symbols map[string]uint64 // offsets from where the image is placed
}

// ParseImage reads an image from the bytes of an ELF file and checks that it needs no linking.
func ParseImage(file []byte) (*Image, error) {
	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	img := &Image{symbols: map[string]uint64{}}
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		if img.Text != nil || p.Vaddr != 0 || p.Flags != elf.PF_R|elf.PF_X || p.Filesz != p.Memsz {
			return nil, fmt.Errorf("image: segment at %#x: want one, at 0, read and execute, wholly in the file", p.Vaddr)
		}
		img.Text = make([]byte, p.Filesz)
		if _, err := p.ReadAt(img.Text, 0); err != nil {
			return nil, fmt.Errorf("image: read segment: %w", err)
		}
	}
	if img.Text == nil {
		return nil, fmt.Errorf("image: no segment to load")
	}
	syms, err := f.Symbols()
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	for _, s := range syms {
		if s.Section == elf.SHN_UNDEF {
			return nil, fmt.Errorf("image: symbol %q is undefined", s.Name)
		}
		img.symbols[s.Name] = s.Value
	}
	return img, nil
}

// Symbol returns the offset of a symbol from where the image is placed.
func (m *Image) Symbol(name string) (uint64, error) {
	v, ok := m.symbols[name]
	if !ok {
		return 0, fmt.Errorf("image: no symbol %q", name)
	}
	return v, nil
}
