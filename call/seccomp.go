package call

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/ptrace"
)

// seccompState is what stands between the target and the kernel.
type seccompState struct {
	mode    int // 0 off, 1 strict, 2 filter
	known   bool
	filters [][]unix.SockFilter
}

// readSeccomp reads the filters of the thread that would be borrowed. Not being allowed to read them is no error: they
// are then unknown.
func (pl *Plan) readSeccomp() error {
	tids, err := pl.candidates()
	if errors.Is(err, ErrNoThread) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, tid := range tids {
		err = pl.readSeccompOf(tid)
		if !errors.Is(err, proc.ErrGone) && !errors.Is(err, ptrace.ErrGone) {
			break // else the thread has ended since it was listed
		}
	}
	return err
}

func (pl *Plan) readSeccompOf(tid int) error {
	st, err := pl.process.Status(tid)
	if err != nil {
		return err
	}
	pl.seccomp = seccompState{mode: st.Seccomp, known: st.Seccomp < 2}
	if pl.seccomp.known {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), pl.opts.Timeout)
	defer cancel()
	tracer := ptrace.Start()
	defer tracer.Close()
	return tracer.Do(func() error { return pl.readFilters(ctx, tracer, tid) })
}

func (pl *Plan) readFilters(ctx context.Context, tracer *ptrace.Tracer, tid int) (err error) {
	th, err := tracer.Seize(pl.process.Pid, tid, 0)
	if err != nil {
		return err
	}
	if _, err := th.Stop(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, th.Detach(0)) }()
	for i := 0; ; i++ {
		f, err := th.SeccompFilter(i)
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
			return nil // no CAP_SYS_ADMIN, or a kernel without checkpoint support
		}
		if err != nil {
			return err
		}
		if f == nil {
			pl.seccomp.known = true
			return nil
		}
		pl.seccomp.filters = append(pl.seccomp.filters, f)
	}
}

// Allowed reports whether the target's seccomp filters let a system call through. known is false where they could not
// be read; then allowed is true.
func (pl *Plan) Allowed(nr uint64, args ...uint64) (allowed, known bool) {
	s := &pl.seccomp
	switch {
	case s.mode == 0 || !s.known:
		return true, s.known
	case s.mode == 1:
		return nr == unix.SYS_READ || nr == unix.SYS_WRITE || nr == unix.SYS_EXIT || nr == unix.SYS_RT_SIGRETURN, true
	}
	data := seccompData(nr, uint64(pl.cave.marker()), args)
	for _, f := range s.filters {
		action, err := runFilter(f, data)
		if err != nil {
			return false, true
		}
		if a := action & seccompActionFull; a != seccompAllow && a != seccompLog {
			return false, true
		}
	}
	return true, true
}

// Actions of a filter that let a system call through, those that harm the process, and the action's part of a filter's
// result (linux/seccomp.h).
const (
	seccompActionFull  = 0xffff0000
	seccompAllow       = 0x7fff0000
	seccompLog         = 0x7ffc0000
	seccompTrap        = 0x00030000
	seccompKillThread  = 0x00000000
	seccompKillProcess = 0x80000000
)

// seccompData is a struct seccomp_data.
func seccompData(nr, pc uint64, args []uint64) []byte {
	b := make([]byte, 64)
	le := binary.LittleEndian
	le.PutUint32(b, uint32(nr))
	le.PutUint32(b[4:], auditArch)
	le.PutUint64(b[8:], pc)
	for i, a := range args[:min(len(args), maxArgs)] {
		le.PutUint64(b[16+8*i:], a)
	}
	return b
}

var errBadFilter = errors.New("not a valid filter")

// runFilter interprets a classic BPF program over a struct seccomp_data: what seccomp admits of it (the kernel's
// seccomp_check_filter), which has no backward jumps and so ends.
func runFilter(prog []unix.SockFilter, data []byte) (uint32, error) {
	var a, x uint32
	var scratch [16]uint32
	for pc := 0; pc < len(prog); pc++ {
		in := prog[pc]
		switch in.Code & 0x07 {
		case unix.BPF_LD, unix.BPF_LDX:
			v, err := filterLoad(in, data, &scratch)
			if err != nil {
				return 0, err
			}
			if in.Code&0x07 == unix.BPF_LD {
				a = v
			} else {
				x = v
			}
		case unix.BPF_ST, unix.BPF_STX:
			if in.K >= uint32(len(scratch)) {
				return 0, errBadFilter
			}
			scratch[in.K] = a
			if in.Code&0x07 == unix.BPF_STX {
				scratch[in.K] = x
			}
		case unix.BPF_ALU:
			v, err := filterArithmetic(in, a, x)
			if err != nil {
				return 0, err
			}
			a = v
		case unix.BPF_JMP:
			pc += filterJump(in, a, x)
		case unix.BPF_RET:
			if in.Code&0x18 == unix.BPF_A {
				return a, nil
			}
			return in.K, nil
		case unix.BPF_MISC:
			if in.Code&0xf8 == unix.BPF_TXA {
				a = x
			} else {
				x = a
			}
		}
	}
	return 0, fmt.Errorf("%w: no result", errBadFilter)
}

func filterLoad(in unix.SockFilter, data []byte, scratch *[16]uint32) (uint32, error) {
	switch in.Code & 0xe0 {
	case unix.BPF_IMM:
		return in.K, nil
	case unix.BPF_MEM:
		if in.K < uint32(len(scratch)) {
			return scratch[in.K], nil
		}
	case unix.BPF_LEN:
		return uint32(len(data)), nil
	case unix.BPF_ABS:
		if in.K%4 == 0 && int64(in.K)+4 <= int64(len(data)) {
			return binary.LittleEndian.Uint32(data[in.K:]), nil
		}
	}
	return 0, errBadFilter
}

func filterArithmetic(in unix.SockFilter, a, x uint32) (uint32, error) {
	v := in.K
	if in.Code&unix.BPF_X != 0 {
		v = x
	}
	switch in.Code & 0xf0 {
	case unix.BPF_ADD:
		return a + v, nil
	case unix.BPF_SUB:
		return a - v, nil
	case unix.BPF_MUL:
		return a * v, nil
	case unix.BPF_DIV:
		if v == 0 {
			return 0, errBadFilter
		}
		return a / v, nil
	case unix.BPF_OR:
		return a | v, nil
	case unix.BPF_AND:
		return a & v, nil
	case unix.BPF_XOR:
		return a ^ v, nil
	case unix.BPF_LSH:
		return a << (v & 31), nil
	case unix.BPF_RSH:
		return a >> (v & 31), nil
	case unix.BPF_NEG:
		return -a, nil
	}
	return 0, errBadFilter
}

// filterJump is how many instructions a jump skips.
func filterJump(in unix.SockFilter, a, x uint32) int {
	v := in.K
	if in.Code&unix.BPF_X != 0 {
		v = x
	}
	var taken bool
	switch in.Code & 0xf0 {
	case unix.BPF_JA:
		return int(in.K)
	case unix.BPF_JEQ:
		taken = a == v
	case unix.BPF_JGT:
		taken = a > v
	case unix.BPF_JGE:
		taken = a >= v
	case unix.BPF_JSET:
		taken = a&v != 0
	}
	if taken {
		return int(in.Jt)
	}
	return int(in.Jf)
}
