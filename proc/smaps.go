package proc

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"iter"
	"os"
	"strconv"
)

// Use is a mapping and what of it is in memory, bytes (proc_pid_smaps(5)). Rss is the sum of the four that follow it.
type Use struct {
	Mapping
	Rss                        uint64
	SharedClean, SharedDirty   uint64 // pages that other processes have mapped, too
	PrivateClean, PrivateDirty uint64
	Anonymous                  uint64 // of Rss: that is in no file, such as written pages of a private mapping of one
	Swap                       uint64
}

// Uses yields every mapping with its use, in address order, from one reading of smaps: the kernel walks the page tables
// of what is in memory, about 20 ms for each GiB in small pages. The mappings may change while they are read. It yields
// an error and stops where that cannot be read.
func (p *Process) Uses() iter.Seq2[Use, error] {
	return func(yield func(Use, error) bool) {
		path, err := p.livePath("smaps")
		if err != nil {
			yield(Use{}, err)
			return
		}
		f, err := os.Open(path)
		if err != nil {
			yield(Use{}, p.wrap(err))
			return
		}
		defer f.Close()
		for u, err := range parseUses(f) {
			if !yield(u, p.wrap(err)) {
				return
			}
		}
	}
}

// Resident is how much of the mapping that begins at m.Start and ends at m.End is in memory, bytes.
func (p *Process) Resident(m Mapping) (uint64, error) {
	for u, err := range p.Uses() {
		if err != nil {
			return 0, err
		}
		if u.Start == m.Start && u.End == m.End {
			return u.Rss, nil
		}
	}
	return 0, fmt.Errorf("process %d: no mapping %x-%x", p.Pid, uint64(m.Start), uint64(m.End))
}

// parseUses reads smaps: for each mapping its line of maps, and then lines "Name:   123 kB" and others with a colon.
func parseUses(smaps io.Reader) iter.Seq2[Use, error] {
	return func(yield func(Use, error) bool) {
		r := bufio.NewReaderSize(smaps, 64<<10)
		var u Use
		var name []byte // of a mapping whose path is longer than the buffer
		begun := false
		for {
			line, err := r.ReadSlice('\n')
			if err == bufio.ErrBufferFull {
				name = append(name, line...)
				continue
			}
			if err != nil && err != io.EOF {
				yield(Use{}, err)
				return
			}
			if name != nil {
				line, name = append(name, line...), nil
			}
			line = bytes.TrimSuffix(line, []byte("\n"))
			key, value, ok := bytes.Cut(line, []byte(":"))
			header := !ok || bytes.IndexByte(key, ' ') >= 0
			if begun && (header || err == io.EOF) {
				if !yield(u, nil) {
					return
				}
				begun = false
			}
			if err == io.EOF && len(line) == 0 {
				return
			}
			if header {
				m, bad := parseMapping(string(line))
				if bad != nil {
					yield(Use{}, bad)
					return
				}
				u, begun = Use{Mapping: m}, true
				continue
			}
			if to := u.field(string(key)); to != nil {
				kb, bad := strconv.ParseUint(string(bytes.TrimSpace(bytes.TrimSuffix(value, []byte("kB")))), 10, 54)
				if bad != nil {
					yield(Use{}, fmt.Errorf("smaps line %.60q: %w", line, bad))
					return
				}
				*to = kb << 10
			}
		}
	}
}

// field is where a line's number goes, nil for one that nobody wants.
func (u *Use) field(name string) *uint64 {
	switch name {
	case "Rss":
		return &u.Rss
	case "Shared_Clean":
		return &u.SharedClean
	case "Shared_Dirty":
		return &u.SharedDirty
	case "Private_Clean":
		return &u.PrivateClean
	case "Private_Dirty":
		return &u.PrivateDirty
	case "Anonymous":
		return &u.Anonymous
	case "Swap":
		return &u.Swap
	}
	return nil
}
