package call

import (
	"time"

	"github.com/heaptap/heaptap/mem"
)

// Step is one step of a borrowing, as it happens. The borrowed thread stands meanwhile.
type Step struct {
	Name   string        // the fault point's: "call/stopped", "call/armed", …
	Tid    int           // the borrowed thread
	Since  time.Duration // since the borrowing began
	PC, SP mem.Addr      // the registers last read or written, 0 before there are any
	Detail string        // what the step is about, for people
}
