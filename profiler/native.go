package profiler

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/agent"
	"github.com/heaptap/heaptap/cpython"
	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/inject"
	"github.com/heaptap/heaptap/internal/fault"
	"github.com/heaptap/heaptap/mem"
)

// nativePlan is what is to be hooked beside CPython's allocators: the slots through which modules call malloc, mmap, the
// loader and their families.
type nativePlan struct {
	functions [agent.NativeFunctions]bool // that are wanted
	slots     []nativeSlot
	modules   []agent.Loaded // which the agent need not look at
	notes     []string
}

type nativeSlot struct {
	word     inject.Word // New is known when the agent's place is
	function int
	variant  int
}

// planNative finds the slots. It needs no stop: a slot that changes before it is written to is left alone.
func (pl *placing) planNative(modules []*dso.Module, domains []Domain) error {
	h, n := &pl.header, &pl.native
	malloc, mmap := slices.Contains(domains, Malloc), slices.Contains(domains, Mmap)
	for f := range n.functions {
		switch {
		case f <= agent.NFreeAlignedSized:
			n.functions[f] = malloc
		case f <= agent.NMremap:
			n.functions[f] = mmap
		default:
			n.functions[f] = malloc || mmap
		}
	}
	n.functions[agent.NSigaction] = h.EndingWord != 0
	if !malloc && !mmap {
		return nil
	}
	b := &binder{all: modules, startup: dso.Startup(modules)}
	names := pl.planNames(b)
	allowed := true
	for _, nr := range []uint64{unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_MPROTECT, unix.SYS_GETPID} {
		ok, known := pl.plan.Allowed(nr)
		allowed = allowed && ok && known
	}
	if ok, known := pl.plan.Allowed(unix.SYS_SCHED_YIELD); ok && known {
		h.MayYield = 1
	}
	h.Loader = uint64(dso.Loader(modules))
	switch {
	case h.Loader == 0:
		n.notes = append(n.notes, "malloc and mmap are not seen: the program is static, and calls them without a GOT")
		return nil
	case !allowed:
		n.notes = append(n.notes, "malloc and mmap of modules that will be loaded later are not seen: a seccomp filter forbids what it takes to hook them")
	default:
		h.Config.MayWrite = 1
	}
	if malloc {
		h.HasNative = 1
		state, err := pl.in.AllocatorState(pl.t.mem)
		if err != nil {
			return err
		}
		if state.Backend != cpython.Pymalloc || state.Debug {
			h.Config.NestedAbove = 0 // every object comes from malloc, or may
		}
	}
	if mmap {
		h.HasMapped = 1
	}
	h.LoaderIterate = uint64(iterateAt(modules))
	links := dso.Links(pl.t.mem, mem.Addr(h.Loader))
	bound := make(map[mem.Addr]bool) // by their dynamic sections: modules with all slots bound
	own := make(map[mem.Addr]bool)   // that were loaded later, perhaps with a scope of their own
	for _, m := range modules {
		all, err := pl.planModule(b, m, names)
		if err != nil {
			n.notes = append(n.notes, fmt.Sprintf("malloc and mmap of %s are not seen: %v", m.Path, err))
			continue
		}
		bound[m.DynamicSection()] = all
		own[m.DynamicSection()] = !slices.Contains(b.startup, m)
	}
	for _, l := range links {
		if all, known := bound[l.Dynamic]; known {
			e := agent.Loaded{Map: uint64(l.At), Dynamic: uint64(l.Dynamic)}
			if !all {
				e.Again = 2 // it is not new
			}
			if own[l.Dynamic] {
				e.Own = 1
			}
			n.modules = append(n.modules, e)
		}
	}
	return pl.planGranules(modules)
}

// planNames tells the agent, and us, the names of what is to be hooked, and what the process's own scope has of these names.
func (pl *placing) planNames(b *binder) map[string]int {
	h := &pl.header
	names := make(map[string]int)
	for f, fn := range agent.NativeNames {
		if !pl.native.functions[f] {
			continue
		}
		for _, name := range fn.Names {
			names[name] = f
			n := agent.Name{Hash: agent.NameHash(name), Function: uint32(f)}
			if original := b.usual(name); original != 0 {
				if v, ok := pl.variant(f, original); ok {
					n.Usual = uint32(v) + 1
				}
			}
			h.Names[h.NamesCount] = n
			h.NamesCount++
		}
	}
	return names
}

// planModule finds a module's slots. It reports whether all of them are bound, or known to what they will be.
func (pl *placing) planModule(b *binder, m *dso.Module, names map[string]int) (all bool, err error) {
	slots, err := m.Slots()
	if err != nil {
		return false, err
	}
	// What an allocator maps is its own affair: a container of blocks that are counted.
	allocator := false
	if _, err := m.Dynamic("malloc"); err == nil {
		allocator = true
	}
	all = true
	for i := range slots {
		s := &slots[i]
		f, ok := names[s.Symbol]
		if !ok || s.Addend != 0 || s.Addr%8 != 0 || s.Kind == dso.IRelative || s.Kind == dso.Relative ||
			allocator && f >= agent.NMmap && f <= agent.NMremap {
			continue
		}
		original := s.Value
		if s.Lazy {
			original = b.bind(m, s)
		}
		if original == 0 || b.module(original) == nil {
			all = all && s.Value == 0 && s.Weak
			continue
		}
		v, ok := pl.variant(f, original)
		if !ok {
			pl.header.SlotsMissed++
			continue
		}
		pl.native.slots = append(pl.native.slots, nativeSlot{
			word: inject.Word{Addr: s.Addr, Old: uint64(s.Value)}, function: f, variant: v,
		})
	}
	return all, nil
}

// variant is the number of the hook that stands before an original.
func (pl *placing) variant(function int, original mem.Addr) (int, bool) {
	known := &pl.header.Native[function]
	for v := range known {
		if known[v] == 0 {
			known[v] = uint64(original)
		}
		if known[v] == uint64(original) {
			return v, true
		}
	}
	return 0, false
}

// planGranules: glibc and musl align blocks to 16 bytes, other allocators align small ones to 8.
func (pl *placing) planGranules(modules []*dso.Module) error {
	b := binder{all: modules}
	for _, original := range pl.header.Native[agent.NMalloc] {
		if original == 0 {
			continue
		}
		m := b.module(mem.Addr(original))
		if m == nil {
			continue
		}
		if _, err := m.Dynamic("gnu_get_libc_version"); errors.Is(err, dso.ErrNoSymbol) {
			pl.header.Config.GranuleLog2 = 3
		} else if err != nil {
			return err
		}
	}
	return nil
}

// binder says to what the loader will bind.
type binder struct{ all, startup []*dso.Module }

// module is the one that holds an address of code, or nil.
func (b *binder) module(a mem.Addr) *dso.Module {
	for _, m := range b.all {
		if m.Contains(a) && m.Executable(a) {
			return m
		}
	}
	return nil
}

// usual is what the process's own scope has under a name, or 0.
func (b *binder) usual(name string) mem.Addr {
	for _, m := range b.startup {
		if sym, err := m.Dynamic(name); err == nil && sym.Kind() == dso.Func {
			return sym.Addr
		}
	}
	return 0
}

// bind is what a lazy slot of m will hold, or 0 where only the loader knows: a module that was loaded later may look first
// where others do not.
func (b *binder) bind(m *dso.Module, s *dso.Slot) mem.Addr {
	var found []mem.Addr
	later := false
	for i, definer := range b.all {
		sym, err := definer.DynamicVersion(s.Symbol, s.Version)
		if err != nil {
			if sym, err = definer.Dynamic(s.Symbol); err == nil && s.Version != "" && sym.Version != "" {
				continue // another version than is wanted
			}
		}
		if err != nil {
			continue
		}
		if sym.Kind() != dso.Func {
			return 0 // what an indirect function will be is not known
		}
		found = append(found, sym.Addr)
		later = later || i >= len(b.startup)
	}
	if len(found) == 0 || (later || len(found) > 1) && !slices.Contains(b.startup, m) {
		return 0
	}
	return found[0]
}

// iterateAt is libc's dl_iterate_phdr, within which the agent may look at the loader's list, or 0.
func iterateAt(modules []*dso.Module) mem.Addr {
	for _, m := range modules {
		_, glibc := m.Dynamic("gnu_get_libc_version")
		_, musl := m.Dynamic("__libc_start_main")
		if sym, err := m.Dynamic("dl_iterate_phdr"); err == nil && sym.Kind() == dso.Func && (glibc == nil || musl == nil) {
			return sym.Addr
		}
	}
	return 0
}

// writeNative writes what the agent must know of slots, their ledger before any of them is changed.
func (pl *placing) writeNative() error {
	h, n, tables := &pl.header, &pl.native, pl.base+agent.TablesOffset
	ledger := make([]agent.Ledger, 0, len(n.slots))
	for i := range n.slots {
		s := &n.slots[i]
		s.word.New = h.Stubs[s.function][s.variant]
		ledger = append(ledger, agent.Ledger{
			Address: uint64(s.word.Addr), Old: s.word.Old, New: s.word.New, Kind: agent.LedgerSlot, What: uint32(s.function),
		})
	}
	if err := agent.WriteSlots(pl.t.mem, tables, h, ledger); err != nil {
		return err
	}
	return agent.WriteModules(pl.t.mem, tables, h, n.modules)
}

// placeStubs tells the tables where the hooks of native functions stand.
func (pl *placing) placeStubs() error {
	for f := range agent.NativeNames {
		for v := range agent.NativeVariants {
			at, err := agent.NativeHook(pl.image, f, v)
			if err != nil {
				return err
			}
			pl.header.Stubs[f][v] = uint64(pl.base) + at
		}
	}
	return nil
}

// hookSlots swaps the slots. One that the loader has bound meanwhile stays as it is.
func (pl *placing) hookSlots() error {
	for _, s := range pl.native.slots {
		var changed *inject.ChangedError
		if err := s.word.Install(pl.t.mem); err != nil && !errors.As(err, &changed) {
			var gone *mem.Fault
			if errors.As(err, &gone) {
				continue // its module was unloaded
			}
			return fmt.Errorf("hook a slot of %s: %w", agent.NativeNames[s.function].Stub, err)
		}
		fault.Point("attach/slot")
	}
	return nil
}

// unhookSlots puts back what slots held. What does not hold our word any more was bound anew by the loader, or belonged
// to a module that is gone.
func (t *target) unhookSlots(a *placed, d *Detachment) error {
	slots, err := agent.ReadSlots(t.mem, a.tablesAt(), a.header)
	if err != nil {
		return err
	}
	for _, e := range slots {
		if e.Kind != agent.LedgerSlot {
			continue
		}
		w := inject.Word{Addr: mem.Addr(e.Address), Old: e.Old, New: e.New}
		var gone *mem.Fault
		have, err := mem.U64(t.mem, w.Addr)
		if errors.As(err, &gone) {
			continue
		}
		if err == nil && have == e.New {
			err = w.Restore(t.mem)
			d.Slots++
		}
		if err != nil && !errors.As(err, &gone) {
			return fmt.Errorf("unhook a slot: %w", err)
		}
		fault.Point("detach/unhooked")
	}
	return nil
}
