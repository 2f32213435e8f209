package call

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/mem"
	"github.com/heaptap/heaptap/proc"
)

// A session that calls functions maps an arena for itself in the target:
//
//	guard    64 KiB that nobody may touch
//	stack    of the called functions, growing down
//	frame    the call's block and the signal frame
//	list     a page with what Map has mapped, all below: pairs of addresses, zeros where there is nothing
//
// All of it is given back at the end. The record knows the arena before it is mapped, and the list each mapping, so that
// when we are killed the next tracer gives it back. That would be dangerous with addresses that the kernel may meanwhile
// have given to the target. So they are ones that it does not give to anybody who has not asked for them: above the
// first thread's stack. (It also helps a program that compares its stack pointer with a limit, as CPython 3.14 does.)
// Where there is no room, the kernel chooses, and when we are killed the memory is lost to the target.
const (
	guardSize = 16 * pageSize
	listSize  = pageSize
	// addressEnd is where a process's addresses end, but for a page (TASK_SIZE_MAX with four levels of page tables).
	addressEnd = mem.Addr(1<<47 - 2*pageSize)

	mapNoReplace = 0x100000 // MAP_FIXED_NOREPLACE
)

// stackSizes are the sizes of the arena's stack, tried in this order: a thread's usual one, and less where the process
// has no room for it.
func stackSizes() []uint64 { return []uint64{8 << 20, 1 << 20, 256 << 10} }

// owned is a mapping that a session has made, and its place in the list; -1: none.
type owned struct {
	region
	slot int
}

// Map maps memory into the process, anonymous and private, with the protection given (PROT_READ and so on), and
// returns its address. It is taken back when the Session ends, unless Options.Keep.
func (s *Session) Map(size uint64, prot int) (mem.Addr, error) {
	at, err := s.mapScratch(size, prot)
	if err != nil {
		return 0, fmt.Errorf("map %d bytes: %w", size, err)
	}
	return at, nil
}

func (s *Session) mapScratch(size uint64, prot int) (mem.Addr, error) {
	if size == 0 || size > uint64(addressEnd) {
		return 0, unix.EINVAL
	}
	size = (size + pageSize - 1) &^ (pageSize - 1)
	if s.plan.opts.Keep {
		return s.mmap(0, size, prot, 0)
	}
	if err := s.needArena(); err != nil {
		return 0, err
	}
	o := owned{slot: s.freeSlot()}
	var err error
	o.region, err = s.mapOwn(size, prot, func(g region) error { return s.list(o.slot, g) })
	if err != nil {
		return 0, err
	}
	s.mapped = append(s.mapped, o)
	return o.Lo, nil
}

// freeSlot is a place in the list that is not taken, -1 if there is none or no list.
func (s *Session) freeSlot() int {
	if s.rec.Arena == (region{}) {
		return -1
	}
	for slot := range listSize / 16 {
		if !slices.ContainsFunc(s.mapped, func(o owned) bool { return o.slot == slot }) {
			return slot
		}
	}
	return -1
}

// list writes a place in the arena's list.
func (s *Session) list(slot int, g region) error {
	if slot < 0 {
		return nil
	}
	b := binary.LittleEndian.AppendUint64(nil, uint64(g.Lo))
	b = binary.LittleEndian.AppendUint64(b, uint64(g.Hi))
	return s.plan.memory.WriteAt(b, s.rec.Arena.Hi-listSize+mem.Addr(16*slot))
}

// needStack makes sure that functions can be called: on memory that was given, or on the arena.
func (s *Session) needStack() error {
	if s.given || s.lost != nil {
		return s.lost
	}
	if err := s.needArena(); err != nil {
		return err
	}
	a := s.arena
	if want := (region{a.Lo + guardSize, a.Hi - listSize}); s.memory != want {
		s.placing, s.framed = placing{memory: want, stack: true}, false
	}
	return nil
}

// needArena maps the arena, unless there is one.
func (s *Session) needArena() error {
	if s.arena != (region{}) {
		return s.openArena()
	}
	var err error
	for _, stack := range stackSizes() {
		var a region
		a, err = s.mapOwn(guardSize+stack+listSize, unix.PROT_NONE, s.recordArena)
		if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return err
		}
		s.arena = a
		s.point("call/arena-mapped", "memory for functions")
		return s.openArena()
	}
	return err
}

// openArena makes all of the arena but its guard usable, unless that has been done. It has not where the tracer that
// mapped it was killed before.
func (s *Session) openArena() error {
	if s.opened {
		return nil
	}
	lo := s.arena.Lo + guardSize
	_, err := s.Syscall(unix.SYS_MPROTECT, uint64(lo), uint64(s.arena.Hi-lo), unix.PROT_READ|unix.PROT_WRITE)
	s.opened = err == nil
	return err
}

func (s *Session) recordArena(g region) error {
	s.rec.Arena = g
	return s.writeRecord()
}

// mapOwn maps memory where the kernel puts nothing unasked, if there is room, and where it likes if not. remember is told
// before where that will be; a zero region takes it back.
func (s *Session) mapOwn(size uint64, prot int, remember func(region) error) (region, error) {
	const tries = 64
	for range tries {
		at, ok := s.nextPlace(mem.Addr(size))
		if !ok {
			break
		}
		if err := remember(region{at, at + mem.Addr(size)}); err != nil {
			return region{}, err
		}
		got, err := s.mmap(at, size, prot, mapNoReplace)
		switch {
		case err == nil && got == at:
			return region{at, at + mem.Addr(size)}, nil
		case err == nil: // a kernel before 4.17 takes the address for a hint
			return region{got, got + mem.Addr(size)}, remember(region{})
		case !errors.Is(err, unix.EEXIST):
			return region{}, errors.Join(err, remember(region{}))
		}
	}
	if err := remember(region{}); err != nil {
		return region{}, err
	}
	got, err := s.mmap(0, size, prot, 0)
	return region{got, got + mem.Addr(size)}, err
}

// nextPlace is the next address, from the top down, for so many bytes and a page that stays free.
func (s *Session) nextPlace(size mem.Addr) (mem.Addr, bool) {
	s.startPlaces()
	if s.low < s.floor+size+2*pageSize {
		return 0, false
	}
	s.low -= size + pageSize
	return s.low, true
}

// startPlaces finds the room for places: above the highest mapping that has a name.
func (s *Session) startPlaces() {
	if s.low != 0 {
		return
	}
	s.low = addressEnd
	for _, m := range s.plan.maps { // those without a name may be what another tracer left
		if m.Path != "" && m.End <= addressEnd {
			s.floor = max(s.floor, m.End)
		}
	}
}

func (s *Session) mmap(at mem.Addr, size uint64, prot, flags int) (mem.Addr, error) {
	flags |= unix.MAP_PRIVATE | unix.MAP_ANON | unix.MAP_NORESERVE
	got, err := s.Syscall(unix.SYS_MMAP, uint64(at), size, uint64(prot), uint64(flags), ^uint64(0), 0)
	return mem.Addr(got), err
}

// adopt makes what a killed tracer had mapped, as the record has it, this session's to give back. Where nothing of
// the kind is mapped, it was killed before it did or after it had given it back.
func (s *Session) adopt() error {
	if s.plan.left == (region{}) {
		return nil
	}
	maps, err := s.plan.process.Maps()
	if err != nil {
		return err
	}
	if !anonymous(maps, s.rec.Arena) {
		s.rec.Arena = region{}
		return nil
	}
	s.arena = s.rec.Arena
	s.startPlaces()
	s.low = min(s.low, s.arena.Lo)
	b, err := mem.Bytes(s.plan.memory, s.arena.Hi-listSize, listSize)
	if err != nil {
		return nil // it was killed before the list could be written
	}
	for slot := range listSize / 16 {
		g := region{mem.Addr(binary.LittleEndian.Uint64(b[16*slot:])), mem.Addr(binary.LittleEndian.Uint64(b[16*slot+8:]))}
		if g.Hi <= s.arena.Lo && anonymous(maps, g) {
			s.mapped = append(s.mapped, owned{g, slot})
			s.low = min(s.low, g.Lo)
		}
	}
	return nil
}

// anonymous reports whether all of g is mapped, and is nobody's file and no part of the program's own stack or heap.
func anonymous(maps []proc.Mapping, g region) bool {
	if g.Lo >= g.Hi || g.Lo%pageSize != 0 || g.Hi%pageSize != 0 {
		return false
	}
	for at := g.Lo; at < g.Hi; {
		m, ok := findMapping(maps, at)
		if !ok || m.Inode != 0 || m.Shared || m.Path != "" {
			return false
		}
		at = m.End
	}
	return true
}

// giveBack unmaps all that the session has mapped, and what it has adopted. The frame first leaves it, since a thread
// must be able to restore itself at each instant.
func (s *Session) giveBack() error {
	if s.arena == (region{}) && len(s.mapped) == 0 {
		return nil
	}
	if s.first.memory != (region{}) {
		s.placing, s.framed = s.first, false
	}
	for _, o := range s.mapped {
		if err := s.unmap(o.region); err != nil {
			return err
		}
		if err := s.list(o.slot, region{}); err != nil {
			return err
		}
	}
	s.mapped = nil
	if s.arena == (region{}) {
		return nil
	}
	if err := s.unmap(s.arena); err != nil {
		return err
	}
	s.point("call/arena-unmapped", "memory for functions given back")
	s.arena, s.opened = region{}, false
	return s.recordArena(region{})
}

func (s *Session) unmap(g region) error {
	_, err := s.Syscall(unix.SYS_MUNMAP, uint64(g.Lo), uint64(g.Hi-g.Lo))
	return err
}
