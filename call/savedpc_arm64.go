package call

import "github.com/heaptap/heaptap/mem"

// IsSavedPC is not known on this processor, on which nothing is injected yet.
func IsSavedPC(mem.Reader, mem.Addr) bool { return true }
