package call

import (
	"errors"
	"fmt"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// Space finds room for size bytes of code in the unused tail of an executable page of a loaded ELF file, where no
// borrowing puts its own. Bytes there belong to nobody, and may be written at any time. Two calls give the same room.
func Space(p *proc.Process, size uint64) (mem.Addr, error) {
	pl := &Plan{process: p}
	tails, err := pl.look()
	if err != nil {
		return 0, fmt.Errorf("space in process %d: %w", p.Pid, err)
	}
	for _, t := range tails {
		cave, ok := t.caveAt()
		if at := (cave - mem.Addr(size)).AlignDown(16); ok && at >= t.Start {
			return at, nil
		}
	}
	return 0, fmt.Errorf("space in process %d: %w", p.Pid, errors.New("no executable page has an unused tail"))
}
