package profiler

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
	"github.com/heaptap/heaptap/unwind"
)

// planFrames prepares the walks of native frames: rows to unwind all modules by, where the interpreter evaluates, where
// the first thread's stack is. It needs no stop.
func (pl *placing) planFrames(modules []*dso.Module) error {
	h, s := &pl.header, &pl.header.Stacks
	h.NativeStacks = 1
	switch pl.in.Layout.Frame.Entry {
	case cpython.EntryEach:
		s.EntryKind = agent.EntryEach
	case cpython.EntryFlag:
		s.EntryKind, s.EntryFlag = agent.EntryFlag, uint32(pl.in.Layout.Frame.EntryFlag.Bytes)
	case cpython.EntryShim:
		s.EntryKind = agent.EntryShim
	}
	if s.EntryKind != agent.EntryShim {
		parts := unwind.New(modules, pl.t.mem, unwind.Options{}).Parts(pl.in.Evaluation)
		if len(parts) == 0 {
			pl.native.notes = append(pl.native.notes, "native stacks end at the interpreter: where it evaluates is not known, since "+
				"it has no symbol for its evaluation function or no information to unwind it by")
		}
		for i, p := range parts[:min(len(parts), agent.Evaluations)] {
			s.Evaluation[i] = [2]uint64{uint64(p[0]), uint64(p[1])}
		}
	}
	if ok, known := pl.plan.Allowed(unix.SYS_PROCESS_VM_READV); ok && known {
		s.MayRead = 1
	}
	maps, err := pl.t.proc.Maps()
	if err != nil {
		return err
	}
	limits, err := pl.t.proc.Limits()
	if err != nil {
		return err
	}
	s.MainLow, s.MainHigh = mainStack(maps, limits.Stack)
	var notes []string
	pl.code, notes = compileCode(modules, pl.t.mem)
	pl.native.notes = append(pl.native.notes, notes...)
	return nil
}

// mainStack is where the first thread's stack may be when it has grown as far as it can; (0, 0) where it is not known.
func mainStack(maps []proc.Mapping, limit uint64) (low, high uint64) {
	i := slices.IndexFunc(maps, func(m proc.Mapping) bool { return m.Path == "[stack]" })
	if i < 0 {
		return 0, 0
	}
	high = uint64(maps[i].End)
	low = high - min(limit, high)
	if i > 0 {
		low = max(low, uint64(maps[i-1].End))
	}
	return min(low, uint64(maps[i].Start)), high
}

// compileCode makes the rows of modules. What of them cannot be unwound is said.
func compileCode(modules []*dso.Module, m mem.Reader) ([]agent.CodeModule, []string) {
	compiled := make([]agent.CodeModule, len(modules))
	failed := make([]error, len(modules))
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for i, module := range modules {
		g.Go(func() error {
			var rows []unwind.Row
			rows, failed[i] = unwind.CompileModule(module, m, unwind.Options{})
			table := make([]agent.Row, len(rows))
			for j, r := range rows {
				table[j] = agent.Row{Start: r.Start, Rule: uint32(r.Rule)}
			}
			compiled[i] = agent.CodeModule{
				Module: agent.Module{
					Start: uint64(module.Start), End: uint64(module.End), Bias: uint64(module.Bias),
					Dynamic: uint64(module.DynamicSection()),
				},
				Path: module.Path, BuildID: module.BuildID, Table: table,
			}
			return nil
		})
	}
	g.Wait()
	var notes []string
	for i, err := range failed {
		if err != nil && len(compiled[i].Table) == 0 { // of others it is a function or two
			notes = append(notes, fmt.Sprintf("native stacks may end in %s: %v", modules[i].Path, err))
		}
	}
	return inOrder(compiled), notes
}

// inOrder sorts modules by address and leaves out those that overlap another.
func inOrder(list []agent.CodeModule) []agent.CodeModule {
	slices.SortStableFunc(list, func(a, b agent.CodeModule) int { return cmp.Compare(a.Start, b.Start) })
	end := uint64(0)
	return slices.DeleteFunc(list, func(c agent.CodeModule) bool {
		overlaps := c.Start < end
		if !overlaps {
			end = c.End
		}
		return overlaps
	})
}

// publishFrames writes what planFrames has made.
func (pl *placing) publishFrames() error {
	if pl.header.NativeStacks == 0 {
		return nil
	}
	err := agent.PublishCode(pl.t.mem, pl.base+agent.TablesOffset, &pl.header, pl.code)
	if errors.Is(err, agent.ErrCodeFull) {
		pl.native.notes = append(pl.native.notes, "native stacks may end early: "+err.Error())
		return nil
	}
	return err
}

// refreshFrames brings what the agent unwinds by up to the modules that are loaded now. The target runs, and the caller
// holds its lock. Modules that the agent knows keep their rows.
func (t *target) refreshFrames(a *placed) error {
	h := a.header
	if h.NativeStacks == 0 {
		return nil
	}
	known, err := agent.ReadCode(t.mem, a.tablesAt(), h)
	if err != nil {
		return err
	}
	modules, err := dso.Modules(t.proc, t.mem)
	if err != nil {
		return err
	}
	var kept []agent.CodeModule
	var fresh []*dso.Module
	for _, m := range modules {
		i := slices.IndexFunc(known, func(c agent.CodeModule) bool {
			return c.Start == uint64(m.Start) && c.End == uint64(m.End) && c.Dynamic == uint64(m.DynamicSection())
		})
		if i < 0 {
			fresh = append(fresh, m)
		} else {
			kept = append(kept, known[i])
		}
	}
	if len(fresh) == 0 && len(kept) == len(known) {
		return nil
	}
	compiled, _ := compileCode(fresh, t.mem)
	err = agent.PublishCode(t.mem, a.tablesAt(), h, inOrder(append(kept, compiled...)))
	if errors.Is(err, agent.ErrCodeFull) {
		return nil // as before, stacks end where there are no rows
	}
	return err
}

// refreshUnlocked does the same for who has no lock. Where another heaptap has it, that one does it.
func (t *target) refreshUnlocked(a *placed) error {
	if a.header.NativeStacks == 0 {
		return nil
	}
	unlock, err := t.lock()
	if errors.Is(err, ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	return t.refreshFrames(a)
}
