package profiler

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/call"
	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/dso"
)

// absent is how the agent's configuration says that a structure has no such field.
const absent = -1

// smallRequest is the largest request that pymalloc serves itself (SMALL_REQUEST_THRESHOLD, Objects/obmalloc.c, every
// version from 2.7 on).
const smallRequest = 512

func optional(o cpython.Offset) int32 {
	if !o.Known {
		return absent
	}
	return int32(o.Bytes)
}

// configure tells the agent about the interpreter.
func configure(t *target, in *cpython.Interpreter, modules []*dso.Module, plan *call.Plan, nsPid int, sample uint64) (agent.Config, error) {
	l := &in.Layout
	c := agent.Config{
		ThisTstate:  uint64(in.ThisThreadState),
		CodeType:    uint64(in.CodeType),
		SampleBytes: sample,
		CodeMask:    ^l.Frame.CodeMask,
		InstrMask:   ^uint64(0),

		TstateThreadId: l.Thread.ThreadID.Bytes,
		TstateId:       optional(l.Thread.ID),
		CframeFrame:    absent,

		FramePrevious:  l.Frame.Previous.Bytes,
		FrameCode:      l.Frame.Code.Bytes,
		FrameInstr:     l.Frame.Instr.Bytes,
		FrameOwner:     optional(l.Frame.Owner),
		OwnerGenerator: uint32(l.Frame.OwnerGen),
		OwnerSkip:      uint32(l.Frame.OwnerSkip),

		CodeFile:           l.Code.Filename.Bytes,
		CodeName:           l.Code.Name.Bytes,
		CodeQualname:       optional(l.Code.Qualname),
		CodeFirstTraceable: optional(l.Code.FirstTraceable),
		CodeFirstLine:      l.Code.FirstLine.Bytes,
		CodeLines:          l.Code.LineTable.Bytes,
		CodeBytes:          l.Code.Adaptive.Bytes,

		StrLength:      l.Unicode.Length.Bytes,
		StrState:       l.Unicode.State.Bytes,
		StrKindShift:   uint32(l.Unicode.KindShift),
		StrCompactBit:  uint32(l.Unicode.CompactBit),
		StrAsciiBit:    uint32(l.Unicode.ASCIIBit),
		StrAsciiData:   l.Unicode.ASCIIData.Bytes,
		StrCompactData: l.Unicode.CompactData.Bytes,
		StrPointerData: l.Unicode.PointerData.Bytes,
		BytesLength:    l.Bytes.Size.Bytes,
		BytesData:      l.Bytes.Data.Bytes,
		ObjectType:     l.Object.Type.Bytes,

		ClockWord:   uint64(coarseClockWord(t)),
		NestedAbove: smallRequest,
		Pid:         uint32(nsPid),
	}
	maps, err := t.proc.Maps()
	if err != nil {
		return c, err
	}
	place := in.CurrentThreadStateAt(t.mem, maps)
	c.CurrentTstate = place.Value
	c.TstateKind = map[cpython.Where]uint32{
		cpython.InFunction: agent.TstateFunction, cpython.InVariable: agent.TstateVariable, cpython.InThread: agent.TstateLocal,
	}[place.Where]
	switch l.BlockAlign {
	case 8:
		c.GranuleLog2 = 3
	case 16:
		c.GranuleLog2 = 4
	default:
		return c, fmt.Errorf("interpreter %v: blocks aligned to %d bytes", in.Version, l.BlockAlign)
	}
	if l.Thread.Frame.Known {
		c.TstateFrame = l.Thread.Frame.Bytes
	} else {
		c.TstateFrame = l.Thread.CFrame.Bytes
		c.CframeFrame = int32(l.Thread.CFrameCurrent.Bytes)
	}
	if l.Frame.InstrSize == 4 {
		c.InstrMask = 1<<32 - 1
	}
	if l.Frame.InstrKind == cpython.InstrPointer {
		c.InstrKind = agent.InstrPointer
	}
	for nr, to := range map[uint64]*uint32{
		unix.SYS_GETTID: &c.MayGettid, unix.SYS_TGKILL: &c.MayTgkill, unix.SYS_PRCTL: &c.MayPrctl,
	} {
		if ok, known := plan.Allowed(nr); ok && known {
			*to = 1
		}
	}
	c.MayLook = 1
	for _, nr := range []uint64{unix.SYS_GETPID, unix.SYS_PROCESS_VM_READV, unix.SYS_SIGALTSTACK} {
		if ok, known := plan.Allowed(nr); !ok || !known {
			c.MayLook = 0
		}
	}
	for _, m := range modules {
		if s, err := m.Dynamic("__vdso_clock_gettime"); m.Path == "[vdso]" && err == nil {
			c.Clock = uint64(s.Addr)
		}
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		return c, err
	}
	c.ClockBase = uint64(now.Sec)
	return c, nil
}

// instrUnit is how many bytes of code one step of a node's instruction is.
func instrUnit(k cpython.InstrKind) uint32 {
	if k == cpython.InstrUnitIndex {
		return 2
	}
	return 1
}
