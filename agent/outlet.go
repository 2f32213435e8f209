package agent

import (
	"unsafe"

	"github.com/heaptap/heaptap/mem"
)

const outletSize = uint64(unsafe.Sizeof(Outlet{}))

// OutletAt is where, in the tables at a, stands what is to be done upon a signal, and where in it the disposition that was
// there before.
func OutletAt(a mem.Addr, h *Tables) (outlet, old mem.Addr, err error) {
	if h.Outlet.Entries != 1 || h.Outlet.Offset > h.Size || h.Size-h.Outlet.Offset < outletSize {
		return 0, 0, badTables("outlet at %#x does not fit", h.Outlet.Offset)
	}
	outlet = a + mem.Addr(h.Outlet.Offset)
	return outlet, outlet + mem.Addr(unsafe.Offsetof(Outlet{}.Old)), nil
}

// ReadOutlet reads what is to be done upon a signal, and what was.
func ReadOutlet(r mem.Reader, a mem.Addr, h *Tables) (*Outlet, error) {
	at, _, err := OutletAt(a, h)
	if err != nil {
		return nil, err
	}
	o := new(Outlet)
	return o, r.ReadAt(bytesOf(o), at)
}

// WriteOutlet writes it.
func WriteOutlet(w mem.Writer, a mem.Addr, h *Tables, o *Outlet) error {
	at, _, err := OutletAt(a, h)
	if err != nil {
		return err
	}
	return w.WriteAt(bytesOf(o), at)
}

// PutOutletState writes its state, one of the Outlet… constants.
func PutOutletState(w mem.Writer, a mem.Addr, h *Tables, state uint32) error {
	at, _, err := OutletAt(a, h)
	if err != nil {
		return err
	}
	return w.WriteAt(bytesOf(&state), at+mem.Addr(unsafe.Offsetof(Outlet{}.State)))
}

// ReadSigaction and WriteSigaction are for the scratch places in the flag page.
func ReadSigaction(r mem.Reader, a mem.Addr) (Sigaction, error) {
	var s Sigaction
	return s, r.ReadAt(bytesOf(&s), a)
}

// WriteSigaction writes a disposition where a system call will read it.
func WriteSigaction(w mem.Writer, a mem.Addr, s Sigaction) error { return w.WriteAt(bytesOf(&s), a) }

// SigactionSize is the bytes of one.
const SigactionSize = uint64(unsafe.Sizeof(Sigaction{}))
