package proc

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Identity tells one program that a process runs from another: two equal values mean that no exec happened between.
// The address of the kernel's random bytes differs between two runs even of the same file, unless address space
// randomisation is off.
type Identity struct {
	StartTicks       uint64
	ExeDev, ExeInode uint64
	Random, Headers  uint64 // AT_RANDOM, AT_PHDR
}

// Identity reads what the process runs now.
func (p *Process) Identity() (Identity, error) {
	path, err := p.livePath("exe")
	if err != nil {
		return Identity{}, err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Identity{}, p.wrap(fmt.Errorf("exe: %w", err))
	}
	auxv, err := p.Auxv()
	if err != nil {
		return Identity{}, err
	}
	const atPhdr, atRandom = 3, 25
	return Identity{
		StartTicks: p.start,
		ExeDev:     uint64(st.Dev),
		ExeInode:   st.Ino,
		Random:     auxv[atRandom],
		Headers:    auxv[atPhdr],
	}, p.Check()
}
