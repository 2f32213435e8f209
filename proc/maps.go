package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
)

// Mapping is one line of /proc/PID/maps: the bytes [Start, End) of the address space.
type Mapping struct {
	Start, End mem.Addr
	Read       bool
	Write      bool
	Exec       bool
	Shared     bool
	Offset     uint64 // in the file, bytes
	Dev        uint64 // as stat(2)'s st_dev
	Inode      uint64 // 0 for anonymous memory
	Path       string // unescaped, without " (deleted)"; "[heap]" and the like as the kernel names them
	Deleted    bool
}

// deletedSuffix is what the kernel appends to the path of a file without a name. A file may also really be called so,
// which only its inode tells.
const deletedSuffix = " (deleted)"

// Size is the mapping's length in bytes.
func (m Mapping) Size() uint64 { return uint64(m.End - m.Start) }

// Contains reports whether a lies in the mapping.
func (m Mapping) Contains(a mem.Addr) bool { return m.Start <= a && a < m.End }

// Maps lists the mappings in address order.
func (p *Process) Maps() ([]Mapping, error) {
	b, err := p.readLive("maps")
	if err != nil {
		return nil, err
	}
	return parseMaps(string(b))
}

func parseMaps(text string) ([]Mapping, error) {
	var out []Mapping
	for line := range strings.Lines(text) {
		m, err := parseMapping(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func parseMapping(line string) (Mapping, error) {
	var m Mapping
	fail := func(what string) (Mapping, error) {
		return Mapping{}, fmt.Errorf("maps line %.80q: bad %s", line, what)
	}
	// start-end perms offset dev inode   path: five fields by single spaces, then padding.
	var f [5]string
	rest := line
	for i := range f {
		var ok bool
		if f[i], rest, ok = strings.Cut(rest, " "); !ok && i < 4 {
			return fail("field count")
		}
	}
	lo, hi, ok := strings.Cut(f[0], "-")
	start, err1 := strconv.ParseUint(lo, 16, 64)
	end, err2 := strconv.ParseUint(hi, 16, 64)
	if !ok || err1 != nil || err2 != nil || end < start {
		return fail("range")
	}
	m.Start, m.End = mem.Addr(start), mem.Addr(end)
	if len(f[1]) != 4 {
		return fail("permissions")
	}
	m.Read, m.Write, m.Exec, m.Shared = f[1][0] == 'r', f[1][1] == 'w', f[1][2] == 'x', f[1][3] == 's'
	var err error
	if m.Offset, err = strconv.ParseUint(f[2], 16, 64); err != nil {
		return fail("offset")
	}
	major, minor, ok := strings.Cut(f[3], ":")
	ma, err1 := strconv.ParseUint(major, 16, 32)
	mi, err2 := strconv.ParseUint(minor, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return fail("device")
	}
	m.Dev = unix.Mkdev(uint32(ma), uint32(mi))
	if m.Inode, err = strconv.ParseUint(f[4], 10, 64); err != nil {
		return fail("inode")
	}
	m.Path = strings.ReplaceAll(strings.TrimLeft(rest, " "), `\012`, "\n")
	if s, ok := strings.CutSuffix(m.Path, deletedSuffix); ok {
		m.Path, m.Deleted = s, true
	}
	return m, nil
}

// OpenMapped opens the very file that m maps, also when it was deleted or replaced since, or lies in another mount
// namespace: by /proc/PID/map_files where permitted, else by path with its device and inode checked.
func (p *Process) OpenMapped(m Mapping) (*os.File, error) {
	if m.Inode == 0 {
		return nil, fmt.Errorf("process %d: mapping %v is not of a file: %w", p.Pid, m.Start, fs.ErrNotExist)
	}
	f, err := os.Open(p.Path("map_files", fmt.Sprintf("%x-%x", uint64(m.Start), uint64(m.End))))
	if err == nil {
		return f, nil
	}
	for _, path := range []string{p.Root() + m.Path, p.Root() + m.Path + deletedSuffix, m.Path} {
		g, err2 := os.Open(path)
		if err2 != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(int(g.Fd()), &st) == nil && st.Ino == m.Inode && uint64(st.Dev) == m.Dev {
			return g, nil
		}
		g.Close()
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("file is no longer there: %w", err)
	}
	return nil, fmt.Errorf("process %d: open mapped %s: %w", p.Pid, m.Path, err)
}
