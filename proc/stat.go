package proc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Stat holds what heaptap uses of /proc/PID/task/TID/stat (proc_pid_stat(5)).
type Stat struct {
	Comm       string
	State      byte // R S D T t Z X I
	Ppid       int
	StartTicks uint64 // clock ticks since boot
	StackStart uint64 // where the program's first stack began, which exec chooses anew; 0 where we may not know
	CPU        int    // last run on
}

// ended reports whether the thread has ended and only its number is left.
func (s Stat) ended() bool { return s.State == 'Z' || s.State == 'X' }

// Stat reads the state of one thread; tid may be the pid.
func (p *Process) Stat(tid int) (Stat, error) {
	path := p.Path("task", strconv.Itoa(tid), "stat")
	if tid == p.Pid {
		path = p.Path("stat")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Stat{}, p.wrap(err)
	}
	return parseStat(string(b))
}

func parseStat(s string) (Stat, error) {
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 0 || end < open {
		return Stat{}, fmt.Errorf("stat %.40q: no command name", s)
	}
	f := strings.Fields(s[end+1:]) // f[0] is field 3
	if len(f) < 37 || len(f[0]) != 1 {
		return Stat{}, fmt.Errorf("stat %.40q: %d fields after the name", s, len(f))
	}
	st := Stat{Comm: s[open+1 : end], State: f[0][0]}
	var err error
	if st.Ppid, err = strconv.Atoi(f[1]); err != nil {
		return Stat{}, fmt.Errorf("stat: parent: %w", err)
	}
	if st.StartTicks, err = strconv.ParseUint(f[19], 10, 64); err != nil {
		return Stat{}, fmt.Errorf("stat: start time: %w", err)
	}
	if st.StackStart, err = strconv.ParseUint(f[25], 10, 64); err != nil {
		return Stat{}, fmt.Errorf("stat: start of the stack: %w", err)
	}
	if st.CPU, err = strconv.Atoi(f[36]); err != nil {
		return Stat{}, fmt.Errorf("stat: processor: %w", err)
	}
	return st, nil
}

// Status holds what heaptap uses of /proc/PID/task/TID/status (proc_pid_status(5)). Sizes are bytes; signal sets have
// bit N-1 for signal N.
type Status struct {
	Name       string
	State      byte
	Tgid       int
	TracerPid  int
	Uid, Gid   [4]int // real, effective, saved, file system
	NSpid      []int  // outermost namespace first
	VmSize     uint64
	VmRSS      uint64
	Threads    int
	SigPnd     uint64
	ShdPnd     uint64
	SigBlk     uint64
	SigIgn     uint64
	SigCgt     uint64
	CapEff     uint64
	NoNewPrivs bool
	Seccomp    int // 0 off, 1 strict, 2 filter
}

// Status reads the status of one thread; tid may be the pid.
func (p *Process) Status(tid int) (Status, error) {
	path := p.Path("task", strconv.Itoa(tid), "status")
	if tid == p.Pid {
		path = p.Path("status")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Status{}, p.wrap(err)
	}
	return parseStatus(string(b))
}

// unescapeName undoes what proc_task_name in Linux' fs/proc/array.c does to the name in a status.
var unescapeName = strings.NewReplacer(`\\`, `\`, `\n`, "\n")

func parseStatus(text string) (Status, error) {
	var st Status
	var bad error
	num := func(s string, base int) uint64 {
		v, err := strconv.ParseUint(s, base, 64)
		if err != nil && bad == nil {
			bad = err
		}
		return v
	}
	for line := range strings.Lines(text) {
		key, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if !ok || len(f) == 0 {
			continue
		}
		switch key {
		case "Name":
			st.Name = unescapeName.Replace(strings.TrimSpace(rest))
		case "State":
			st.State = f[0][0]
		case "Tgid":
			st.Tgid = int(num(f[0], 10))
		case "TracerPid":
			st.TracerPid = int(num(f[0], 10))
		case "Uid", "Gid":
			var ids [4]int
			for i := range min(4, len(f)) {
				ids[i] = int(num(f[i], 10))
			}
			if key == "Uid" {
				st.Uid = ids
			} else {
				st.Gid = ids
			}
		case "NSpid":
			for _, s := range f {
				st.NSpid = append(st.NSpid, int(num(s, 10)))
			}
		case "VmSize":
			st.VmSize = num(f[0], 10) << 10
		case "VmRSS":
			st.VmRSS = num(f[0], 10) << 10
		case "Threads":
			st.Threads = int(num(f[0], 10))
		case "SigPnd":
			st.SigPnd = num(f[0], 16)
		case "ShdPnd":
			st.ShdPnd = num(f[0], 16)
		case "SigBlk":
			st.SigBlk = num(f[0], 16)
		case "SigIgn":
			st.SigIgn = num(f[0], 16)
		case "SigCgt":
			st.SigCgt = num(f[0], 16)
		case "CapEff":
			st.CapEff = num(f[0], 16)
		case "NoNewPrivs":
			st.NoNewPrivs = f[0] == "1"
		case "Seccomp":
			st.Seccomp = int(num(f[0], 10))
		}
	}
	if bad != nil {
		return Status{}, fmt.Errorf("status: %w", bad)
	}
	return st, nil
}

func parseAuxv(b []byte) (map[uint64]uint64, error) {
	if len(b)%16 != 0 {
		return nil, fmt.Errorf("auxv: %d bytes is not a whole number of entries", len(b))
	}
	v := make(map[uint64]uint64)
	for r := bytes.NewReader(b); r.Len() > 0; {
		var e [2]uint64
		if err := binary.Read(r, binary.LittleEndian, &e); err != nil {
			return nil, err
		}
		if e[0] == 0 {
			break
		}
		v[e[0]] = e[1]
	}
	return v, nil
}
