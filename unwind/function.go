package unwind

import "github.com/heaptap/heaptap/mem"

// Function returns the code that one entry of the call frame information is about: a function, or the part of one that
// the compiler has put elsewhere. It is false where there is no information.
func (u *Unwinder) Function(pc mem.Addr) (start, end mem.Addr, ok bool) {
	p := u.part(pc)
	if p == nil {
		return 0, 0, false
	}
	f, err := p.module.find(u, pc)
	if err != nil || f == nil {
		return 0, 0, false
	}
	return f.start, f.end, pc >= f.start && pc < f.end
}
