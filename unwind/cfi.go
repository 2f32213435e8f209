package unwind

import (
	"errors"
	"fmt"

	"github.com/heaptap/heaptap/mem"
)

const (
	maxEntry = 1 << 20 // bytes of one CIE or FDE; real ones have a few hundred, seldom some thousands
	maxCIEs  = 4096    // kept for one section; real ones have less than a hundred
)

// section is the bytes of one .eh_frame or .debug_frame, wherever they are.
type section struct {
	memory     mem.Reader // of the section's bytes, at [start, end)
	start, end mem.Addr
	target     mem.Reader // for indirect pointers
	debug      bool       // .debug_frame: other CIE pointers, no encodings
	relocate   mem.Addr   // what absolute pointers still lack
	cies       map[mem.Addr]*cie
}

// cie is what the FDEs of a compilation have in common. (DWARF 5, section 6.4.1; Linux Standard Base Core 5.0, section
// 10.6.1.)
type cie struct {
	codeAlign uint64
	dataAlign int64
	encoding  uint8 // of the addresses in FDEs
	augmented bool  // FDEs have a length of augmentation data
	signal    bool  // frames are those of signal handlers' returns
	program   decoder
}

// fde says how to unwind the code [start, end).
type fde struct {
	*cie
	at         uint64 // its offset in the section
	start, end mem.Addr
	program    decoder
	bases      bases
}

// entry is the frame of a CIE or FDE: what follows its length field.
type entry struct {
	decoder
	next mem.Addr // where the next one begins; the same place at the terminator
	id   uint64   // the CIE pointer or id
	idAt mem.Addr
	wide bool // 64-bit DWARF
}

var errTerminator = errors.New("terminator")

func (s *section) fail(a mem.Addr, format string, args ...any) error {
	return &CFIError{Offset: uint64(a - s.start), What: fmt.Sprintf(format, args...)}
}

// entry reads the entry at a. A length of zero is errTerminator.
func (s *section) entry(a mem.Addr) (entry, error) {
	if a < s.start || a >= s.end || s.end-a < 4 {
		return entry{}, s.fail(a, "outside of its section")
	}
	length32, err := mem.U32(s.memory, a)
	if err != nil {
		return entry{}, err
	}
	e := entry{wide: length32 == 1<<32-1}
	at, length := a+4, uint64(length32)
	if e.wide {
		if s.end-a < 12 {
			return entry{}, s.fail(a, "ends behind its section")
		}
		if length, err = mem.U64(s.memory, at); err != nil {
			return entry{}, err
		}
		at += 8
	}
	if length == 0 {
		return entry{next: at}, errTerminator
	}
	if length > maxEntry || length > uint64(s.end-at) {
		return entry{}, s.fail(a, "length %d is not possible", length)
	}
	b, err := mem.Bytes(s.memory, at, int(length))
	if err != nil {
		return entry{}, err
	}
	e.decoder, e.next, e.idAt = decoder{b: b, base: at}, at+mem.Addr(length), at
	if e.wide && s.debug {
		e.id = e.u64()
	} else {
		e.id = uint64(e.u32()) // .eh_frame: 4 bytes, also with a wide length
	}
	return e, nil
}

// isCIE reports whether the entry is a CIE.
func (s *section) isCIE(e *entry) bool {
	switch {
	case !s.debug:
		return e.id == 0
	case e.wide:
		return e.id == 1<<64-1
	}
	return e.id == 1<<32-1
}

// cieOf is the address of the CIE that an FDE refers to.
func (s *section) cieOf(e *entry) mem.Addr {
	if s.debug {
		return s.start + mem.Addr(e.id)
	}
	return e.idAt - mem.Addr(e.id)
}

func (s *section) cie(a mem.Addr) (*cie, error) {
	if c := s.cies[a]; c != nil {
		return c, nil
	}
	e, err := s.entry(a)
	if errors.Is(err, errTerminator) || err == nil && !s.isCIE(&e) {
		return nil, s.fail(a, "an FDE refers here, where no CIE is")
	}
	if err != nil {
		return nil, err
	}
	c, err := s.parseCIE(&e)
	if err == nil && e.bad != "" {
		err = errors.New(e.bad)
	}
	if err != nil {
		return nil, s.fail(a, "CIE: %v", err)
	}
	if s.cies == nil || len(s.cies) >= maxCIEs {
		s.cies = map[mem.Addr]*cie{}
	}
	s.cies[a] = c
	return c, nil
}

func (s *section) parseCIE(e *entry) (*cie, error) {
	c := &cie{}
	version := e.u8()
	if version != 1 && version != 3 && version != 4 {
		return nil, fmt.Errorf("version %d", version)
	}
	augmentation := e.text()
	if version == 4 {
		if size, selector := e.u8(), e.u8(); size != 8 || selector != 0 {
			return nil, fmt.Errorf("addresses of %d bytes, segment selectors of %d", size, selector)
		}
	}
	if augmentation == "eh" {
		e.u64() // gcc 2's exception table
		augmentation = ""
	}
	c.codeAlign, c.dataAlign = e.uleb(), e.sleb()
	column := uint64(0)
	if version == 1 {
		column = uint64(e.u8())
	} else {
		column = e.uleb()
	}
	if e.bad == "" && column != RIP {
		return nil, fmt.Errorf("return address in register %d", column)
	}
	if err := s.augment(e, c, augmentation); err != nil {
		return nil, err
	}
	c.program = decoder{b: e.b[e.pos:], base: e.address()}
	return c, nil
}

// augment reads the augmentation data. Of what a known "z" encloses, unknown letters can be stepped over, as long as
// nothing that matters comes behind them.
func (s *section) augment(e *entry, c *cie, letters string) error {
	if letters == "" {
		return nil
	}
	if letters[0] != 'z' {
		return fmt.Errorf("augmentation %q", letters)
	}
	c.augmented = true
	data := decoder{base: e.address()}
	n := e.uleb()
	data.base, data.b = e.address(), e.take(n)
	for _, letter := range letters[1:] {
		switch letter {
		case 'R':
			c.encoding = data.u8()
		case 'L':
			data.u8()
		case 'P':
			data.skip(data.u8()) // the personality routine
		case 'S':
			c.signal = true
		case 'B', 'G': // of other CPUs: signed return addresses, tagged stacks
		default:
			return fmt.Errorf("augmentation %q", letters)
		}
	}
	if data.bad != "" {
		return errors.New(data.bad)
	}
	if c.encoding == peOmit {
		return errors.New("addresses are left out")
	}
	return nil
}

// fde reads the FDE at a, without its program.
func (s *section) fde(a mem.Addr) (*fde, error) {
	e, err := s.entry(a)
	if err != nil {
		return nil, err
	}
	if s.isCIE(&e) {
		return nil, s.fail(a, "a CIE where an FDE should be")
	}
	return s.parseFDE(a, &e)
}

func (s *section) parseFDE(a mem.Addr, e *entry) (*fde, error) {
	c, err := s.cie(s.cieOf(e))
	if err != nil {
		return nil, err
	}
	f := &fde{cie: c, at: uint64(a - s.start), bases: bases{absolute: s.relocate, memory: s.target}}
	f.start = e.pointer(c.encoding, f.bases)
	length := e.encoded(c.encoding & peFormat)
	f.end = f.start + length
	f.bases.function = f.start
	if c.augmented {
		e.block() // the language-specific data's address
	}
	if e.bad != "" {
		return nil, s.fail(a, "%s", e.bad)
	}
	if f.end < f.start {
		return nil, s.fail(a, "code of %d bytes at %v", uint64(length), f.start)
	}
	f.program = decoder{b: e.b[e.pos:], base: e.address()}
	return f, nil
}

// each calls visit for every FDE of the section, as far as it can be read. An FDE that is damaged is left out; an entry
// whose length is ends the walk.
func (s *section) each(visit func(*fde) error) error {
	for a := s.start; s.end-a >= 4; {
		e, err := s.entry(a)
		if errors.Is(err, errTerminator) {
			if s.debug {
				a = e.next // padding
				continue
			}
			return nil
		}
		if err != nil {
			return err
		}
		if s.isCIE(&e) {
			a = e.next
			continue
		}
		f, err := s.parseFDE(a, &e)
		if err == nil {
			err = visit(f)
		}
		if err != nil && !damaged(err) {
			return err
		}
		a = e.next
	}
	return nil
}

func damaged(err error) bool {
	var bad *CFIError
	return errors.As(err, &bad)
}
