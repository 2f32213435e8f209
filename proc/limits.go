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
	l := Limits{AddressSpace: Unlimited, FileSize: Unlimited}
	for line := range strings.Lines(text) {
		for name, to := range map[string]*uint64{"Max address space": &l.AddressSpace, "Max file size": &l.FileSize} {
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

// Resident is how much of the mapping that begins at m.Start is in memory, bytes (smaps' Rss).
func (p *Process) Resident(m Mapping) (uint64, error) {
	b, err := os.ReadFile(p.Path("smaps"))
	if err != nil {
		return 0, p.wrap(err)
	}
	return parseResident(string(b), fmt.Sprintf("%x-%x ", uint64(m.Start), uint64(m.End)))
}

func parseResident(smaps, header string) (uint64, error) {
	_, rest, ok := strings.Cut("\n"+smaps, "\n"+header)
	if !ok {
		return 0, fmt.Errorf("smaps: no mapping %s", strings.TrimSpace(header))
	}
	for line := range strings.Lines(rest) {
		if v, ok := strings.CutPrefix(line, "Rss:"); ok {
			kb, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 54)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("smaps: mapping %s has no Rss", strings.TrimSpace(header))
}
