package call

import (
	"encoding/binary"
	"math/bits"
)

// cpuid is the CPUID instruction.
func cpuid(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)

// component is where a feature's state is in an XSAVE image of the standard format.
type component struct {
	offset, size uint32
	dynamic      bool // the kernel gives room for it only to those who ask (AMX tile data)
}

// cpuComponent asks the processor (Intel SDM volume 1, section 13.2).
func cpuComponent(feature int) component {
	const leafXsave, xfd = 0xd, 1 << 2
	size, offset, flags, _ := cpuid(leafXsave, uint32(feature))
	return component{offset, size, flags&xfd != 0}
}

// components are where all features of this processor have their state. Asking for one costs microseconds in a virtual
// machine, so it is done before a thread is stopped.
type components [64]component

func cpuComponents() (c components) {
	const known = 20 // features up to AMX and APX
	for feature := 2; feature < known; feature++ {
		c[feature] = cpuComponent(feature)
	}
	return c
}

// frameImage is the part of a thread's XSAVE image that goes into its signal frame, and the features in it. The
// kernel's register set always has room for the largest state; but at rt_sigreturn it looks for the second magic
// behind what this thread has room for, and ignores all above SSE where it does not find it.
func frameImage(image []byte, all *components) ([]byte, uint64) {
	le := binary.LittleEndian
	features := le.Uint64(image[xsaveSoftware:])
	inUse := le.Uint64(image[xsaveEnd:])
	size := uint32(xsaveEnd + 64)
	for rest := features &^ 3; rest != 0; rest &= rest - 1 {
		feature := bits.TrailingZeros64(rest)
		c := all[feature]
		if c.dynamic && inUse&(1<<feature) == 0 {
			features &^= 1 << feature
			continue
		}
		size = max(size, c.offset+c.size)
	}
	if int64(size) > int64(len(image)) {
		return image, features
	}
	return image[:size], features
}
