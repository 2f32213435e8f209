package agent

import "unsafe"

const (
	pageSize = 4096
	leafSize = 8 << LeafWordsLog2
	midSize  = 4 << MidEntriesLog2

	nodeBatch = 64 // nodes that a thread takes at a time; also the first that are never used

	nodeSize  = uint64(unsafe.Sizeof(Node{}))
	statSize  = uint64(unsafe.Sizeof(Stat{}))
	pointSize = uint64(unsafe.Sizeof(Point{}))

	othersSize = uint64(unsafe.Sizeof(Others{}))

	timelinePoints = 1 << 10

	mostSlots    = 1 << 15 // GOT slots that are hooked
	mostMappings = 1 << 15
	mostModules  = 1 << 13
	mostBefore   = 1 << 15
)

// maxThreads is the most records of threads that any plan has.
const maxThreads = 1 << 13

// MinTables is the least that [Plan] can work with, bytes of address space.
const MinTables = 16 << 20

// Plan divides `size` bytes of address space, at least [MinTables], into the tables' windows. The memory is sparse:
// only what is used is there. `granuleLog2` is the allocators' alignment; ram, bytes, bounds what can ever be tracked.
// It returns the bytes used, a multiple of the page size and not above size.
func (h *Tables) Plan(size, ram uint64, granuleLog2 uint32) uint64 {
	at := (uint64(unsafe.Sizeof(*h)) + pageSize - 1) &^ (pageSize - 1)
	place := func(w *Window, entries, entrySize, first uint64) {
		*w = Window{Offset: at, Entries: entries, Next: first, First: uint32(first)}
		at += (entries*entrySize + pageSize - 1) &^ (pageSize - 1)
	}
	// A part of what is there, between bounds.
	share := func(part, lo, hi uint64) uint64 { return min(max(size/part, lo), hi) }

	threads := floorPow2(share(256<<10, 1<<8, maxThreads))
	h.FrameCapacity = share(8<<20, 1<<8, 1<<12)
	place(&h.Threads, threads, uint64(unsafe.Sizeof(Thread{})), 0)
	place(&h.Slots, threads, 4, 0)
	place(&h.Frames, threads, 2*h.FrameCapacity*uint64(unsafe.Sizeof(Frame{})), 0)
	nodes := share(512, 1<<15, 1<<StackBits)
	place(&h.Nodes, nodes, nodeSize, nodeBatch)
	place(&h.Stats, nodes, statSize, 1)
	place(&h.Others, nodes/2, othersSize, 1)
	place(&h.Timeline, timelinePoints, pointSize, 0)
	place(&h.Resident, timelinePoints, pointSize, 0)
	h.TimelineStep = 1
	place(&h.SlotsHooked, share(64<<10, 1<<10, mostSlots), uint64(unsafe.Sizeof(Ledger{})), 0)
	place(&h.Mappings, share(64<<10, 1<<10, mostMappings), uint64(unsafe.Sizeof(Mapping{})), 0)
	place(&h.Modules, share(256<<10, 1<<10, mostModules), uint64(unsafe.Sizeof(Loaded{})), 0)
	place(&h.Before, share(64<<10, 1<<10, mostBefore), uint64(unsafe.Sizeof(Range{})), 0)
	place(&h.Outlet, 1, outletSize, 1)
	h.Outlet.Kept = uint32(outletSize)
	h.SlotsHooked.Kept, h.Modules.Kept = uint32(unsafe.Sizeof(Ledger{})), uint32(unsafe.Sizeof(Loaded{}))
	h.Before.Kept = uint32(rangeSize)
	if h.NativeStacks != 0 {
		h.planNativeStacks(place, share, threads)
	}
	place(&h.Codes, share(64, 1<<20, 1<<27)/uint64(unsafe.Sizeof(Code{})), uint64(unsafe.Sizeof(Code{})), CodeFirst)
	place(&h.Arena, share(16, 2<<20, 4<<30), 1, 64)
	place(&h.Filter, 1<<FilterLog2, 1, 0)
	place(&h.Root, 1<<(AddressBits-LeafWordsLog2-MidEntriesLog2-granuleLog2), 4, 0)
	place(&h.Mids, share(64, 2<<20, 1<<30)/midSize, midSize, 1)
	// The rest is for leaves, as far as there can be memory to track: a leaf for each 512 granules.
	leaves := min((size-at-pageSize)/(leafSize+8), 2*ram>>(granuleLog2+LeafWordsLog2))
	place(&h.Bases, leaves, 8, 1)
	place(&h.Leaves, leaves, leafSize, 1)
	h.Size = at
	return at
}

// planNativeStacks makes room for walks of native frames.
func (h *Tables) planNativeStacks(place func(*Window, uint64, uint64, uint64), share func(part, lo, hi uint64) uint64, threads uint64) {
	h.Stacks.Capacity = uint32(share(8<<20, 1<<8, 1<<12))
	place(&h.Natives, threads, 2*uint64(h.Stacks.Capacity)*uint64(unsafe.Sizeof(NativeFrame{})), 0)
	place(&h.Places, 1<<PlacesLog2, uint64(unsafe.Sizeof(Place{})), 0)
	place(&h.Objects, share(256<<10, 1<<8, 1<<13), uint64(unsafe.Sizeof(Object{})), 0)
	place(&h.ObjectNames, share(1<<10, 1<<14, 1<<22), 1, 0)
	place(&h.Rows, share(32, 1<<20, 1<<29), 1, 8) // offset 0 of a list of modules would be none
	h.Objects.Kept, h.ObjectNames.Kept, h.Rows.Kept = uint32(unsafe.Sizeof(Object{})), 1, 1
}

func floorPow2(n uint64) uint64 {
	p := uint64(1)
	for p*2 <= n {
		p *= 2
	}
	return p
}
