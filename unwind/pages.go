package unwind

import "github.com/heaptap/heaptap/mem"

const (
	pageSize = 4096
	// maxPages bounds what pages keeps: 64 MiB. A large program's CFI has 20 MiB, of which a stack needs little.
	maxPages = 1 << 14
)

// pages reads memory by the page and keeps what it has read. It is for memory that doesn't change meanwhile.
type pages struct {
	reader mem.Reader
	kept   map[mem.Addr]*[pageSize]byte
	at     mem.Addr // the page last used, which page is
	page   *[pageSize]byte
}

func newPages(r mem.Reader) *pages { return &pages{reader: r, kept: map[mem.Addr]*[pageSize]byte{}} }

// forget makes it read everything anew, keeping its room.
func (p *pages) forget() {
	clear(p.kept)
	p.page = nil
}

// ReadAt implements [mem.Reader].
func (p *pages) ReadAt(b []byte, a mem.Addr) error {
	for len(b) > 0 {
		start := a.AlignDown(pageSize)
		page := p.load(start)
		if page == nil {
			return p.reader.ReadAt(b, a) // what cannot be read as whole pages
		}
		n := copy(b, page[a-start:])
		b, a = b[n:], a+mem.Addr(n)
	}
	return nil
}

func (p *pages) load(start mem.Addr) *[pageSize]byte {
	if p.page != nil && p.at == start {
		return p.page
	}
	page := p.kept[start]
	if page == nil {
		page = new([pageSize]byte)
		if p.reader.ReadAt(page[:], start) != nil {
			return nil
		}
		if len(p.kept) >= maxPages {
			clear(p.kept)
		}
		p.kept[start] = page
	}
	p.at, p.page = start, page
	return page
}
