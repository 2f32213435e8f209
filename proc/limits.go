package proc

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
)

// Unlimited is the value of a limit that is not set.
const Unlimited = math.MaxUint64

// Limits are the soft resource limits that heaptap minds, bytes (getrlimit(2)).
type Limits struct {
	AddressSpace uint64 // RLIMIT_AS
	FileSize     uint64 // RLIMIT_FSIZE
	Stack        uint64 // RLIMIT_STACK
}

// Limits reads /proc/PID/limits.
func (p *Process) Limits() (Limits, error) {
	b, err := os.ReadFile(p.Path("limits"))
	if err != nil {
		return Limits{}, p.wrap(err)
	}
	return parseLimits(string(b))
}

func parseLimits(text string) (Limits, error) {
	l := Limits{AddressSpace: Unlimited, FileSize: Unlimited, Stack: Unlimited}
	for line := range strings.Lines(text) {
		for name, to := range map[string]*uint64{
			"Max address space": &l.AddressSpace, "Max file size": &l.FileSize, "Max stack size": &l.Stack,
		} {
			rest, ok := strings.CutPrefix(line, name)
			if !ok {
				continue
			}
			f := strings.Fields(rest)
			if len(f) < 1 {
				return Limits{}, fmt.Errorf("limits line %.60q: no value", line)
			}
			if f[0] == "unlimited" {
				continue
			}
			v, err := strconv.ParseUint(f[0], 10, 64)
			if err != nil {
				return Limits{}, fmt.Errorf("limits line %.60q: %w", line, err)
			}
			*to = v
		}
	}
	return l, nil
}
