package unwind

import (
	"bytes"
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/heaptap/heaptap/dso"
	"github.com/heaptap/heaptap/mem"
)

// module is what is known of the CFI of one loaded object. It is read when it is asked for.
type module struct {
	*dso.Module
	sections []*source // in the order in which they are asked
	err      error     // why there are none, if that is an error
	loaded   bool
	// debugLoaded tells that .debug_frame was looked for, as is done for an address that the others don't know.
	debugLoaded bool
}

// source is one section and a way to find the FDE for an address in it.
type source struct {
	section
	table table // .eh_frame_hdr's, if it has one that can be used
	index []span
	ready bool  // the index is made
	err   error // why the index ends early
}

// span is code and where its FDE is.
type span struct{ start, end, fde mem.Addr }

// table is the binary search table of an .eh_frame_hdr: pairs of a function's start and its FDE's address, sorted.
type table struct {
	at       mem.Addr // 0: there is none
	count    uint64
	encoding uint8
	width    uint64 // bytes of one value
	base     mem.Addr
}

// load finds the module's CFI.
func (m *module) load(u *Unwinder) {
	if m.loaded {
		return
	}
	m.loaded = true
	if m.Machine != elf.EM_X86_64 && m.Machine != elf.EM_NONE {
		m.err = &MachineError{m.Machine}
		return
	}
	for _, p := range m.Programs {
		if p.Type == elf.PT_GNU_EH_FRAME {
			s, err := m.header(u, m.At(p.Vaddr), p.Memsz)
			if err != nil {
				m.err = fmt.Errorf("header of .eh_frame: %w", err)
			} else {
				m.sections = append(m.sections, s)
			}
		}
	}
	if len(m.sections) == 0 {
		m.fromFile(u, ".eh_frame", false)
	}
	if len(m.sections) > 0 {
		m.err = nil
	}
}

// loadDebug adds .debug_frame, which costs a look at files.
func (m *module) loadDebug(u *Unwinder) {
	if !m.debugLoaded && !isMachine(m.err) {
		m.fromFile(u, ".debug_frame", true)
	}
	m.debugLoaded = true
}

func isMachine(err error) bool {
	other := (*MachineError)(nil)
	return errors.As(err, &other)
}

// fromFile adds a section of the module's file, if there is one.
func (m *module) fromFile(u *Unwinder, name string, debug bool) {
	read := u.options.Section
	if read == nil {
		read = u.fromDSO
	}
	data, address, err := read(m.Module, name)
	if err != nil && m.err == nil {
		m.err = fmt.Errorf("%s of the file: %w", name, err)
	}
	if err != nil || len(data) == 0 {
		return
	}
	start := m.At(address)
	if debug {
		start = pageSize // it has no address: any will do but 0
	}
	end, ok := start.Add(uint64(len(data)))
	if !ok {
		return
	}
	m.sections = append(m.sections, &source{section: section{
		memory:   &mem.Fake{Segments: []mem.Segment{{Addr: start, Data: data}}},
		start:    start,
		end:      end,
		target:   u.cfi,
		debug:    debug,
		relocate: m.Bias,
	}})
}

// fromDSO is what Options.Section is by default: sections of the module's own file, or of its debug file.
func (u *Unwinder) fromDSO(m *dso.Module, name string) (data []byte, address uint64, err error) {
	data, err = m.DebugSection(name)
	if errors.Is(err, dso.ErrNoDebug) {
		return nil, 0, nil
	}
	if err != nil || name != ".eh_frame" {
		return data, 0, err
	}
	at, found := u.whereIs(m, data)
	if !found {
		return nil, 0, nil // not loaded, so that its relative pointers lead nowhere
	}
	return data, uint64(at - m.Bias), nil
}

// whereIs finds where a section of a file is loaded.
func (u *Unwinder) whereIs(m *dso.Module, data []byte) (mem.Addr, bool) {
	const most = 64 << 20
	for _, s := range m.Segments {
		if s.Flags&elf.PF_W != 0 || s.FileSize > most {
			continue
		}
		segment := make([]byte, s.FileSize)
		if u.reader.ReadAt(segment, s.Start) != nil {
			continue
		}
		if i := bytes.Index(segment, data); i >= 0 {
			return s.Start + mem.Addr(i), true
		}
	}
	return 0, false
}

// header reads the .eh_frame_hdr at a (Linux Standard Base Core 5.0, section 10.6.2).
func (m *module) header(u *Unwinder, a mem.Addr, size uint64) (*source, error) {
	const maxHead = 4 + 2*10
	d := decoder{b: make([]byte, min(size, maxHead)), base: a}
	if err := u.cfi.ReadAt(d.b, a); err != nil {
		return nil, err
	}
	version, frameEncoding, countEncoding, tableEncoding := d.u8(), d.u8(), d.u8(), d.u8()
	if version != 1 || frameEncoding == peOmit {
		return nil, fmt.Errorf("version %d, address encoded as %#x", version, frameEncoding)
	}
	relative := bases{data: a, memory: u.cfi}
	frame := d.pointer(frameEncoding, relative)
	if d.bad != "" {
		return nil, errors.New(d.bad)
	}
	segment, ok := m.Segment(frame)
	if !ok {
		return nil, fmt.Errorf(".eh_frame at %v is outside of the module", frame)
	}
	end := min(segment.End, segment.Start+mem.Addr(segment.FileSize))
	s := &source{section: section{memory: u.cfi, start: frame, end: max(end, frame), target: u.cfi}}
	if countEncoding != peOmit && tableEncoding != peOmit {
		count := d.pointer(countEncoding, relative)
		if d.bad == "" {
			s.table = makeTable(d.address(), uint64(count), tableEncoding, a, size)
		}
	}
	return s, nil
}

// makeTable describes the table at a, or the zero table where it cannot be searched.
func makeTable(a mem.Addr, count uint64, encoding uint8, header mem.Addr, size uint64) table {
	t := table{at: a, count: count, encoding: encoding, base: header}
	switch encoding & peFormat {
	case peUdata2, peSdata2:
		t.width = 2
	case peUdata4, peSdata4:
		t.width = 4
	case peAbsolute, peUdata8, peSdata8:
		t.width = 8
	default:
		return table{}
	}
	if relative := encoding &^ peFormat; relative != 0 && relative != peDataRel && relative != pePCRel {
		return table{}
	}
	room := (size - uint64(a-header)) / (2 * t.width)
	if uint64(a-header) > size || count == 0 || count > room {
		return table{}
	}
	return t
}

// pair reads the i-th entry.
func (t *table) pair(r mem.Reader, i uint64) (start, fde mem.Addr, err error) {
	var room [16]byte
	d := decoder{b: room[:2*t.width], base: t.at + mem.Addr(i*2*t.width)}
	if err := r.ReadAt(d.b, d.base); err != nil {
		return 0, 0, err
	}
	at := bases{data: t.base}
	start = d.pointer(t.encoding, at)
	return start, d.pointer(t.encoding, at), nil
}

// search finds the FDE of the last function that begins at or before pc; 0 where none does.
func (t *table) search(r mem.Reader, pc mem.Addr) (mem.Addr, error) {
	found := mem.Addr(0)
	for low, high := uint64(0), t.count; low < high; {
		middle := low + (high-low)/2
		start, fde, err := t.pair(r, middle)
		if err != nil {
			return 0, err
		}
		if start <= pc {
			found, low = fde, middle+1
		} else {
			high = middle
		}
	}
	return found, nil
}

// find returns the FDE that describes the code at pc, or nil.
func (s *source) find(pc mem.Addr) (*fde, error) {
	at := mem.Addr(0)
	if s.table.at != 0 {
		var err error
		if at, err = s.table.search(s.memory, pc); err != nil {
			return nil, err
		}
	} else {
		at = s.indexed(pc)
		if at == 0 && s.err != nil {
			return nil, s.err
		}
	}
	if at == 0 {
		return nil, nil
	}
	f, err := s.fde(at)
	if err != nil || pc < f.start || pc >= f.end {
		return nil, err
	}
	return f, nil
}

// indexed finds an FDE through an index of the whole section, which it makes first.
func (s *source) indexed(pc mem.Addr) mem.Addr {
	if !s.ready {
		s.ready = true
		s.err = s.each(func(f *fde) error {
			s.index = append(s.index, span{f.start, f.end, s.start + mem.Addr(f.at)})
			return nil
		})
		slices.SortStableFunc(s.index, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	}
	// Spans of functions that the linker left out begin at 0 or overlap others: look at a few.
	i := sort.Search(len(s.index), func(i int) bool { return s.index[i].start > pc })
	for n := 0; i > 0 && n < 8; n++ {
		i--
		if pc < s.index[i].end {
			return s.index[i].fde
		}
	}
	return 0
}

// find returns the FDE that describes the code at pc, or nil where the module has none.
func (m *module) find(u *Unwinder, pc mem.Addr) (*fde, error) {
	m.load(u)
	f, err := m.findIn(m.sections, pc)
	if f != nil || m.debugLoaded {
		return f, err
	}
	n := len(m.sections)
	m.loadDebug(u)
	f, failed := m.findIn(m.sections[n:], pc)
	if f == nil && err != nil {
		failed = err
	}
	return f, failed
}

func (m *module) findIn(sections []*source, pc mem.Addr) (*fde, error) {
	err := m.err
	for _, s := range sections {
		f, failed := s.find(pc)
		if f != nil {
			return f, nil
		}
		if err == nil {
			err = failed
		}
	}
	return nil, err
}
