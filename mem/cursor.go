package mem

// Cursor reads consecutive values and keeps the first error, so that a decoder checks once at the end. After an
// error every value is zero and must not be used.
type Cursor struct {
	r   Reader
	at  Addr
	err error
}

// NewCursor returns a cursor that reads r from a on.
func NewCursor(r Reader, a Addr) *Cursor { return &Cursor{r: r, at: a} }

// Err is the first error met, or nil.
func (c *Cursor) Err() error { return c.err }

// Addr is where the next value will be read.
func (c *Cursor) Addr() Addr { return c.at }

// Seek moves the cursor to a.
func (c *Cursor) Seek(a Addr) { c.at = a }

// U8 reads one byte and steps over it.
func (c *Cursor) U8() uint8 { return next(c, 1, U8) }

// U16 reads two bytes and steps over it.
func (c *Cursor) U16() uint16 { return next(c, 2, U16) }

// U32 reads four bytes and steps over it.
func (c *Cursor) U32() uint32 { return next(c, 4, U32) }

// U64 reads eight bytes and steps over it.
func (c *Cursor) U64() uint64 { return next(c, 8, U64) }

// Pointer reads an address and steps over it.
func (c *Cursor) Pointer() Addr { return next(c, 8, Pointer) }

func next[T any](c *Cursor, size Addr, read func(Reader, Addr) (T, error)) T {
	var zero T
	if c.err != nil {
		return zero
	}
	v, err := read(c.r, c.at)
	if err != nil {
		c.err = err
		return zero
	}
	c.at += size
	return v
}
